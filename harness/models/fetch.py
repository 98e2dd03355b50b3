"""Where a model's weights are: in a folder, in the hub's cache, or to be fetched; and always as safetensors.

spec = fetch(find("silkie"), tell=print)     # spec.folder: all files are there; MissingWeights (one line) where they can't be had
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.models.spec import ModelSpec, on_base
from support.errors import MissingWeights, ModelError

SMALL = (".json", ".txt", ".model", ".tiktoken", ".jinja")
"""Files beside the weights that a model is loaded with. Never code."""


def fetch(spec: ModelSpec, tell: Callable[[str], None] = lambda line: None) -> ModelSpec:
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
        folder = _of_hub(spec, tell)
        spec = replace(spec, folder=folder, revision=folder.name)
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            below = fetch(on_base(folder, spec.name), tell)
            spec = replace(below, name=spec.name, description=spec.description)
    if spec.adapter is not None:
        spec = replace(spec, adapter=_as_safetensors(spec.adapter, ("adapter_model",), tell))
    where = spec.folder or Path(spec.pretrained)
    return replace(spec, folder=_as_safetensors(where, ("pytorch_model", "model"), tell))


def cached(spec: ModelSpec) -> bool:
    """Whether the weights are on this machine; nothing is asked of the network."""
    if spec.backend != "transformers":
        return False
    where = Path(spec.pretrained) if Path(spec.pretrained).is_dir() else _in_cache(spec)
    return where is not None and _whole(where)


def _in_cache(spec: ModelSpec) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.pretrained, revision=spec.revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # of the whole repository, of which we take a part
        return Path(error.snapshot_path)
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None


def _whole(folder: Path) -> bool:
    """Whether a folder has a config and every file its weights consist of: a download may have been cut off."""
    for kind in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin"):
        index = folder / f"{kind}.index.json"
        config = folder / ("adapter_config.json" if kind.startswith("adapter") else "config.json")
        if config.is_file() and index.is_file():
            return all(
                (folder / name).is_file()
                for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        if config.is_file() and (folder / kind).is_file():
            return True
    return False


def _of_hub(spec: ModelSpec, tell: Callable[[str], None]) -> Path:
    """The snapshot of a repository; what is missing of it is downloaded."""
    import httpx2  # the hub client's, whose errors it lets through
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    size = f" (about {spec.gigabytes:g} GB)" if spec.gigabytes else ""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    try:
        info = HfApi().model_info(spec.pretrained, revision=spec.revision, timeout=10)
        wanted = _wanted([sibling.rfilename for sibling in info.siblings or []])
        there = _in_cache(replace(spec, revision=info.sha))
        if there is None or not _whole(there):
            tell(f"{spec.name}: downloading {spec.pretrained}{size} into {home}")
        return Path(snapshot_download(spec.pretrained, revision=spec.revision, allow_patterns=wanted))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        why = (
            "is gated for you: accept its licence on its page and set HF_TOKEN"
            if isinstance(error, GatedRepoError)
            else "is not there"
        )
        raise MissingWeights(
            f"{spec.name}: {spec.pretrained} on the Hugging Face hub {why}; or name a copy by --model-path"
        ) from None
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        there = _in_cache(spec)
        if there is not None and _whole(there):
            return there
        why = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else "the hub can't be reached"
        raise MissingWeights(
            f"{spec.name}: needs {spec.pretrained}{size} from the Hugging Face hub, which is not in HF_HOME ({home}), and {why}; "
            f"get it where there is a network (hf download {spec.pretrained}), or name a copy by --model-path FOLDER"
        ) from None


def _wanted(names: Iterable[str]) -> list[str]:
    """The files to download: safetensors where there are any, else .bin; small files beside them."""
    top = [name for name in names if "/" not in name]
    safetensors = [name for name in top if name.endswith(".safetensors") and not name.startswith("consolidated")]
    weights = safetensors or [
        name for name in top if name.endswith(".bin") and name.startswith(("pytorch_model", "adapter_model"))
    ]
    return weights + [name for name in top if name.endswith(SMALL)]


def _as_safetensors(folder: Path, stems: tuple[str, ...], tell: Callable[[str], None]) -> Path:
    """The folder itself where its weights are safetensors, else a converted copy, made once."""
    if any(folder.glob("*.safetensors")) or not (
        bins := sorted(path for stem in stems for path in folder.glob(f"{stem}*.bin"))
    ):
        return folder
    small = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(SMALL))
    total = hashlib.sha256(
        str([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (*bins, *small)]).encode()
    )
    total.update(str(folder.resolve()).encode())
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    out = home / "vlm-harness" / "safetensors" / f"{folder.resolve().parent.parent.name}-{total.hexdigest()[:16]}"
    if out.is_dir():
        return out
    for index in (path for path in small if path.name.endswith(".bin.index.json")):
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(wanted - {path.name for path in bins}):
            raise ModelError(
                f"{folder}: {index.name} names {missing[0]}, which is not there"
                + (f", and {len(missing) - 1} more" * (len(missing) > 1))
            )
    tell(f"{folder}: converting {len(bins)} .bin files to safetensors, into {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".converting-") as scratch:
        part = Path(scratch) / "out"
        part.mkdir()
        _convert(bins, part)
        for path in small:
            if not path.name.endswith(".bin.index.json"):
                shutil.copyfile(path, part / path.name)
        try:
            part.rename(out)
        except OSError:  # another process was first
            if not out.is_dir():
                raise
    return out


def _convert(bins: list[Path], out: Path) -> None:
    """Each .bin as one safetensors file, and an index; never more than one in memory."""
    import torch
    from safetensors.torch import save_file

    where: dict[str, str] = {}
    total = 0
    for number, path in enumerate(bins, 1):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # what a broken or hostile pickle raises is not a closed set
            raise ModelError(
                f"{path}: no plain weights, and nothing else is unpickled: {' '.join(str(error).split())[:200]}"
            ) from None
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ModelError(f"{path}: must hold tensors by name")
        adapter = path.name.startswith("adapter")
        name = "adapter_model.safetensors" if adapter else f"model-{number:05}-of-{len(bins):05}.safetensors"
        if not adapter and len(bins) == 1:
            name = "model.safetensors"
        tensors: dict[str, Any] = {key: value.clone().contiguous() for key, value in state.items()}
        save_file(tensors, out / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
        total += sum(value.nbytes for value in tensors.values())
    if len(bins) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
