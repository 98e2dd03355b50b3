"""Whether models can be loaded from where they are said to be, and what getting them takes of the disks.

    found = look_at_models([find("silkie"), find("runs/x/checkpoint-40"), find("openai:gpt-4o")])
    found.needs                  # files, bases and keys that are missing, each with what brings it
    found.disk                   # what is to be downloaded and converted

No weights are read or downloaded: of a folder its files are looked at, of the hub only what it says of a repository.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from harness.models.base_names import ADAPTER_CONFIG
from harness.models.disk_use import DiskUse, needs_of_room, use_of, use_of_adapter
from harness.models.fetch import cached, check_base, in_cache
from harness.models.hub import SECONDS, ask_hub
from harness.models.spec import ModelSpec, copy_option, on_base
from harness.models.weight_files import read_header, read_json, weight_files
from support.errors import FAILED, HarnessError, InputError, ModelError, Need, NoKeyError, NotReady, one_line
from tasks.judges.addresses import server_of

NOTHING: Final = DiskUse(download=0, convert=0, kept=0)
TOKENIZERS: Final = (
    "*token*.json",
    "*token*.model",
    "vocab.*",
    "*.tiktoken",
    "tekken.json",
    "sp*.model",
    "sentencepiece*.model",
)
"""One of these is in every folder that text can be read with."""


@dataclass(frozen=True, kw_only=True)
class FoundModels:
    """What is missing of models, and what they take of the disks."""

    needs: tuple[Need, ...] = ()
    uses: Mapping[str, DiskUse] = field(default_factory=dict)
    """By what has the files; only of those whose sizes are known."""
    unsized: tuple[str, ...] = ()
    """What is to be downloaded, of a size that is not known."""

    @property
    def disk(self) -> DiskUse:
        """What all take."""
        return sum(self.uses.values(), NOTHING)

    def room(self) -> Iterator[Need]:
        """What is too much for the disks, of all together."""
        taking = [name for name, use in self.uses.items() if use.download or use.convert]
        yield from needs_of_room(" and ".join(taking), self.disk)


def look_at_models(models: Iterable[ModelSpec]) -> FoundModels:
    """What is missing of models, without room for them."""
    needs: list[Need] = []
    uses: dict[str, DiskUse] = {}
    unsized: list[str] = []
    for spec in {(spec.pretrained, spec.revision, spec.adapter): spec for spec in models}.values():
        if spec.backend == "openai":
            needs += _needs_of_key(spec)
            continue
        if spec.adapter is not None:
            needs += needs_of_files(spec.adapter, f"adapter {spec.name}", "name one that is whole")
        found, use = _look_at_weights(spec)
        needs += found
        if use is not None:
            uses[spec.pretrained] = use
        elif not found:
            unsized.append(spec.pretrained)
        if spec.adapter is not None:
            uses[str(spec.adapter)] = use_of_adapter(spec.adapter)
    return FoundModels(needs=tuple(needs), uses=uses, unsized=tuple(unsized))


def look_at_disk(spec: ModelSpec) -> DiskUse | None:
    """What getting a model will take of the disks; None where its files' sizes are not known. NotReady without room."""
    if spec.backend != "transformers":
        return None
    use = _look_at_weights(spec)[1]
    if use is not None and spec.adapter is not None:
        use += use_of_adapter(spec.adapter)
    if use is not None and (needs := list(needs_of_room(spec.pretrained, use))):
        raise NotReady(needs)
    return use


def needs_of_files(folder: Path, what: str, command: str, *, tokenizer: bool = False) -> list[Need]:
    """What is missing of a folder that a model or an adapter is to be loaded from; with `tokenizer`, of what reads text
    too."""
    config = ADAPTER_CONFIG if (folder / ADAPTER_CONFIG).is_file() else "config.json"
    problems = []
    try:
        read_json(folder / config)
    except ModelError as error:
        problems.append(one_line(error))
    try:
        files = weight_files(folder)
        if absent := [path.name for path in files if not path.is_file()]:
            problems.append(f"{len(absent)} of its {len(files)} files are not there, such as {absent[0]}")
        problems += [f"{path.name} is cut off: the rest of it is missing" for path in files if _is_cut_off(path)]
    except ModelError as error:
        problems.append(one_line(error))
    if tokenizer and not any(path for pattern in TOKENIZERS for path in folder.glob(pattern)):
        problems.append("there is no tokenizer (tokenizer.json or the like)")
    return [Need(what=what, why=why.removeprefix(f"{folder}: "), command=command, code=FAILED) for why in problems]


def _is_cut_off(path: Path) -> bool:
    """Whether a file of safetensors is shorter than it says."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        header, begin = read_header(path)
        ends = [int(value["data_offsets"][1]) for name, value in header.items() if name != "__metadata__"]
    except (ModelError, KeyError, TypeError, ValueError, IndexError):
        return False  # whoever reads it says what is wrong with it
    return path.stat().st_size < begin + max(ends, default=0)


def _needs_of_key(spec: ModelSpec) -> Iterator[Need]:
    try:
        server_of(spec.url, name=spec.name, variable=spec.key)
    except NoKeyError as error:
        why = str(error).removeprefix(f"model {spec.name!r}: ")
        yield Need(what=f"key of model {spec.name!r}", why="it is not set", command=why, is_key=True)


def _look_at_weights(spec: ModelSpec) -> tuple[Sequence[Need], DiskUse | None]:
    """What is missing of the weights, and what they take."""
    option = f"{copy_option(spec)} FOLDER"
    what = f"weights of {spec.name}"
    folder = Path(spec.pretrained)
    if folder.is_dir():
        where = "" if spec.name == folder.as_posix() else f" in {folder}"
        mend = f"mend it, or name another by {option}"
        return [*_needs_of_base(spec), *needs_of_files(folder, what + where, mend, tokenizer=True)], use_of(spec)
    if cached(spec):
        place = in_cache(spec)
        if place is not None and (place / ADAPTER_CONFIG).is_file() and not (place / "config.json").is_file():
            needs, use = _look_at_base(spec, place, use_of(spec))
            return [*needs_of_files(place, f"adapter {spec.name}", "name one that is whole"), *needs], use
        return _needs_of_base(spec), use_of(spec)
    if spec.needs:
        return [Need(what=what, why=f"it needs {spec.needs}", command=option)], None
    why, info = _ask_about(spec)
    if why:
        size = f" (about {spec.gigabytes:g} GB)" if spec.gigabytes else ""
        command = f"hf download {spec.pretrained} where there is a network, or {option}"
        return [Need(what=what, why=f"{spec.pretrained}{size}: {why}", command=command)], None
    names = {sibling.rfilename for sibling in info.siblings or []}
    if ADAPTER_CONFIG in names and "config.json" not in names:
        return _look_at_base(spec, _fetch_adapter_config(spec), use_of(spec, info))
    about = int((spec.gigabytes or 0) * 1e9)
    return [], use_of(spec, info) or (DiskUse(download=about, convert=0, kept=about) if about else None)


def _needs_of_base(spec: ModelSpec) -> list[Need]:
    """What is wrong with a base that is named for full weights."""
    try:
        check_base(spec)
    except InputError as error:
        return [Need.of(error)]
    return []


def _look_at_base(spec: ModelSpec, adapter: Path | None, use: DiskUse | None) -> tuple[Sequence[Need], DiskUse | None]:
    """The same of an adapter of the hub with its base, which the adapter's configuration names; `use`: the adapter's
    own."""
    if adapter is None:  # what it goes on can't be told yet
        return [], None
    try:
        below = replace(on_base(adapter, spec.name, spec.base), adapter=None, base=None)
    except HarnessError as error:
        return [Need.of(error)], None
    needs, more = _look_at_weights(below)
    return needs, None if use is None or more is None else use + more


def _fetch_adapter_config(spec: ModelSpec) -> Path | None:
    """The folder with the configuration of an adapter of the hub, which alone is downloaded; None where it can't be."""
    from huggingface_hub import snapshot_download

    ask = partial(snapshot_download, spec.pretrained, revision=spec.revision, allow_patterns=[ADAPTER_CONFIG])
    _, found = ask_hub(lambda hub: ask())
    return None if found is None else Path(found)


def _ask_about(spec: ModelSpec) -> tuple[str, Any]:
    return ask_hub(
        lambda hub: hub.model_info(spec.pretrained, revision=spec.revision, timeout=SECONDS, files_metadata=True)
    )
