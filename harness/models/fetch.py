"""Where a model's weights are: in a folder, in the hub's cache, or to be fetched; and always as safetensors.

spec = fetch(find("silkie"))     # spec.folder: all files are there; MissingWeights where they can't be had
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, Final

from harness.models.base_names import ADAPTER_CONFIG
from harness.models.file_digests import WEIGHTS
from harness.models.spec import BASE_OPTION, ModelSpec, copy_option, on_base
from harness.models.weight_files import (
    check_named_weights,
    choose_weights,
    read_json,
    read_tensors,
    weight_files,
    write_index,
)
from support.errors import InputError, MissingWeights, ModelError
from support.extras import is_installed
from support.files import cache_folder
from support.hub_progress import shown_as
from support.progress import doing

log = logging.getLogger(__name__)

SMALL = (".json", ".txt", ".model", ".tiktoken", ".jinja")
"""Files beside the weights that a model is loaded with; code joins them only where the user allows it to run."""


WEIGHT_STEMS: Final = ("pytorch_model", "model")
"""How names of files of weights begin."""
ADAPTER_STEMS: Final = ("adapter_model",)
"""The same of an adapter's."""


def fetch(spec: ModelSpec) -> ModelSpec:
    """`spec` with all its files on this machine, as safetensors.

    A hub id is downloaded, or taken from the hub's cache where there is no network; its `revision` becomes the commit.
    A repository that holds an adapter brings its base. Weights that are there only as .bin are converted into a cache
    of ours, without running what a pickle may hold. MissingWeights where files can't be had; ModelError where they are
    no good.
    """
    if spec.backend != "transformers":
        return spec
    if spec.needs and spec.pretrained and not Path(spec.pretrained).is_dir():
        raise MissingWeights(f"{spec.name}: needs {spec.needs}; then name the folder by --model-path")
    if spec.folder is None and not Path(spec.pretrained).is_dir():
        folder = _download(spec)
        spec = replace(spec, folder=folder, revision=folder.name)
        if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
            if spec.adapter is not None:
                raise InputError(
                    f"{spec.name}: its base {spec.pretrained!r} is an adapter itself; merge that one first"
                )
            below = fetch(replace(on_base(folder, spec.name, spec.base), remote_code=spec.remote_code))
            spec = replace(below, name=spec.name, description=spec.description)
    check_base(spec)
    if spec.adapter is not None:
        check_named_weights(spec.adapter)
        spec = replace(spec, adapter=_as_safetensors(spec.adapter, ADAPTER_STEMS, SMALL))
    where = spec.folder or Path(spec.pretrained)
    small = (*SMALL, ".py") if spec.remote_code else SMALL
    folder = _as_safetensors(where, WEIGHT_STEMS, small)
    check_named_weights(folder)
    return replace(spec, folder=folder)


def check_base(spec: ModelSpec) -> None:
    """InputError for a base of a model that is no adapter."""
    if spec.base is not None and spec.adapter is None:
        raise InputError(f"{BASE_OPTION} {spec.base}: {spec.name} is no adapter, which goes on a base")


def cached(spec: ModelSpec) -> bool:
    """Whether the weights are on this machine; nothing is asked of the network."""
    if spec.backend != "transformers":
        return False
    where = in_cache(spec)
    return where is not None and _is_complete(where)


def in_cache(spec: ModelSpec) -> Path | None:
    """The folder of a local model's files as far as they are on this machine; nothing is asked of the network."""
    if Path(spec.pretrained).is_dir():
        return Path(spec.pretrained)
    if not is_installed("huggingface_hub"):  # a light install, which keeps none
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.pretrained, revision=spec.revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # of the whole repository, of which we take a part
        return Path(error.snapshot_path)
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None


def _is_complete(folder: Path) -> bool:
    """True if a folder has a config and every file its weights consist of: a download may have been cut off."""
    config = "adapter_config.json" if (folder / "adapter_config.json").is_file() else "config.json"
    try:
        return (folder / config).is_file() and all(path.is_file() for path in weight_files(folder))
    except ModelError:
        return False


_NO_DESCRIPTION: Final = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)
"""What the hub's client raises where something else answers, such as the page of a web proxy."""


def _download(spec: ModelSpec) -> Path:
    """The snapshot of a repository; what is missing of it is downloaded."""
    import httpx2  # the hub client's, whose errors it lets through
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    size = f" (about {spec.gigabytes:g} GB)" if spec.gigabytes else ""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    option = copy_option(spec)
    try:
        with doing(f"asking the Hugging Face hub for {spec.pretrained}"):
            info = HfApi().model_info(spec.pretrained, revision=spec.revision, timeout=10)
        wanted = _wanted([sibling.rfilename for sibling in info.siblings or []], code=spec.remote_code)
        there = in_cache(replace(spec, revision=info.sha))
        if there is None or not _is_complete(there):
            log.info("%s: downloading %s%s into %s", spec.name, spec.pretrained, size, home)
        with shown_as(f"download {spec.pretrained}"), doing(f"downloading {spec.pretrained}{size}"):
            return Path(snapshot_download(spec.pretrained, revision=spec.revision, allow_patterns=wanted))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        gated = "is gated for you: accept its licence on its page and set HF_TOKEN"
        why = gated if isinstance(error, GatedRepoError) else "is not there"
        raise MissingWeights(
            f"{spec.name}: {spec.pretrained} on the Hugging Face hub {why}; or name a copy by {option}"
        ) from None
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx2.HTTPError, OSError, *_NO_DESCRIPTION) as error:
        there = in_cache(spec)
        if there is not None and _is_complete(there):
            return there
        why = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else "the hub can't be reached"
        if isinstance(error, _NO_DESCRIPTION):
            why = f"what answers at {os.environ.get('HF_ENDPOINT', 'huggingface.co')} is no hub"
        raise MissingWeights(
            f"{spec.name}: needs {spec.pretrained}{size} from the Hugging Face hub, which is not in HF_HOME ({home}), "
            f"and {why}; get it where there is a network (hf download {spec.pretrained}), or name a copy by "
            f"{option} FOLDER"
        ) from None


def files_to_download(spec: ModelSpec, info: Any) -> dict[str, int] | None:
    """Bytes of each file that `fetch` would take of a repository, as the hub describes it; None without their sizes."""
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    found = {name: sizes[name] for name in _wanted(sizes, code=spec.remote_code)}
    return found if found and None not in found.values() else None


def converted_copy(folder: Path, stems: tuple[str, ...] = WEIGHT_STEMS) -> tuple[Path, int] | None:
    """Where the copy as safetensors is, or will be, of weights that are there only as .bin, and their bytes; None for
    others."""
    bins, _, out = _find_files_of_copy(folder, stems, SMALL)
    return None if out is None else (out, sum(path.stat().st_size for path in bins))


def _wanted(names: Iterable[str], *, code: bool = False) -> list[str]:
    """The files to download: safetensors where there are any, else .bin; small files beside them, and in sub-folders
    that are parts of the model; `code`: Python files, too."""
    names = list(names)
    parts = _find_parts(names)
    top = [name for name in names if "/" not in name]
    known = [choose_weights(top, stem, ".safetensors") for stem in ("model", "adapter_model")]
    others = [name for name in top if name.endswith(".safetensors") and not name.startswith("consolidated")]
    bins = [choose_weights(top, stem, ".bin") for stem in ("pytorch_model", "adapter_model")]
    weights = ([*chain(*known)] if known[0] else others) or [*chain(*bins)]
    return (
        weights
        + [name for name in top if name.endswith(SMALL)]
        + [name for name in names if name.rpartition("/")[0] in parts and name.endswith(SMALL)]
        + [name for name in names if code and name.endswith(".py")]
    )


OF_A_PART: Final = ("*token*.json", "*processor*.json")
"""A sub-folder with such a file and no weights is a part of the model, such as InstructBLIP's second tokenizer."""


def _find_parts(names: Iterable[str]) -> set[str]:
    """The sub-folders among the files of a repository that are parts of its model, and not checkpoints."""
    beside: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, _, own = name.rpartition("/")
        beside[folder].append(own)
    return {
        folder
        for folder, found in beside.items()
        if folder and "/" not in folder and _has_any(found, OF_A_PART) and not _has_any(found, WEIGHTS)
    }


def _has_any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _find_files_of_parts(folder: Path) -> list[Path]:
    """The small files in sub-folders that are parts of the model."""
    files = [path for path in folder.glob("*/*") if path.is_file()]
    parts = _find_parts(path.relative_to(folder).as_posix() for path in files)
    return sorted(path for path in files if path.parent.name in parts and path.name.endswith(SMALL))


def _as_safetensors(folder: Path, stems: tuple[str, ...], beside: tuple[str, ...]) -> Path:
    """The folder itself where its weights are safetensors, else a converted copy, made once, with the files that end as
    `beside` says. ModelError."""
    bins, small, out = _find_files_of_copy(folder, stems, beside)
    if out is None:
        return folder
    if out.is_dir():
        return out
    indices = [path for path in small if path.name.endswith(".bin.index.json")]
    for index in indices:
        wanted = set(read_json(index)["weight_map"].values())
        if missing := sorted(wanted - {path.name for path in bins}):
            more = f", and {len(missing) - 1} more" * (len(missing) > 1)
            raise ModelError(f"{folder}: {index.name} names {missing[0]}, which is not there{more}")
    log.info("%s: converting %d .bin files to safetensors, into %s", folder, len(bins), out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".converting-") as scratch:
        part = Path(scratch) / "out"
        part.mkdir()
        _convert(bins, part)
        for path in small:
            if path not in indices:
                copy = part / path.relative_to(folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
        try:
            part.rename(out)
        except OSError:  # another process was first
            if not out.is_dir():
                raise
    return out


def _find_files_of_copy(
    folder: Path, stems: tuple[str, ...], beside: tuple[str, ...]
) -> tuple[list[Path], list[Path], Path | None]:
    """The .bin files to convert, the files to copy, and where to; no place if there are safetensors, or no .bin."""
    there = [path.name for path in folder.glob("*.bin")]
    bins = sorted(folder / name for stem in stems for name in choose_weights(there, stem, ".bin"))
    if any(folder.glob("*.safetensors")) or not bins:
        return [], [], None
    small = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(beside))
    small += _find_files_of_parts(folder)
    return bins, small, _folder_of_copy(folder, [*bins, *small])


def _folder_of_copy(folder: Path, files: list[Path]) -> Path:
    """Where the converted copy of these files goes; another place once one of them changes."""
    stamps = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(f"{stamps}{folder.resolve()}".encode()).hexdigest()[:16]
    return cache_folder() / "safetensors" / f"{folder.resolve().parent.parent.name}-{digest}"


def _convert(bins: list[Path], out: Path) -> None:
    """Each .bin as one safetensors file, and an index; never more than one in memory."""
    from safetensors.torch import save_file

    files: dict[str, str] = {}
    total = 0
    for number, path in enumerate(bins, 1):
        adapter = path.name.startswith("adapter")
        name = "adapter_model.safetensors" if adapter else f"model-{number:05}-of-{len(bins):05}.safetensors"
        if not adapter and len(bins) == 1:
            name = "model.safetensors"
        tensors = {key: value.clone().contiguous() for key, value in read_tensors(path)}
        save_file(tensors, out / name, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, name)
        total += sum(value.nbytes for value in tensors.values())
    if len(bins) > 1:
        write_index(out, files, total)
