"""Files of weights: which ones a folder has, and the tensors in them (.safetensors, or .bin read without running any
code)."""

import contextlib
import json
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import ModelError, first_line, one_line
from support.parsing import parse_object

if TYPE_CHECKING:
    from torch import Tensor

_OF_OTHER_ADAPTERS: Final = ("adapters", "prompt_tuning_init_state_dict_path")
"""Keys of X-LoRA and of multitask prompts."""
STEMS: Final = tuple(
    stem + end for stem in ("model", "adapter_model", "pytorch_model") for end in (".safetensors", ".bin")
)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights or adapter: of one file and shards those that are loaded, the one file.
    ModelError."""
    for stem in STEMS:
        if (folder / stem).is_file():
            return [folder / stem]
        if (index := folder / f"{stem}.index.json").is_file():
            named = read_json(index).get("weight_map")
            names = set(map(str, named.values())) if isinstance(named, dict) else {""}
            if any(Path(name).name != name for name in names):
                raise ModelError(f"{index}: no weight_map of file names")
            return [folder / name for name in sorted(names)]
    raise ModelError(f"{folder}: no weights; looked for {', '.join(STEMS)} and their .index.json")


def choose_weights(names: Iterable[str], stem: str, ending: str) -> list[str]:
    """Those of a folder's file names that hold the weights of a stem ("model") as its loaders choose them: the one
    file, else its shards, else all that begin so. Copies in another precision (model.fp16.safetensors) are none."""
    found = sorted(name for name in names if name.startswith(stem) and name.endswith(ending))
    if stem + ending in found:
        return [stem + ending]
    shards = [name for name in found if re.fullmatch(re.escape(stem) + r"-\d+-of-\d+" + re.escape(ending), name)]
    return shards or found


def check_named_weights(folder: Path) -> None:
    """ModelError for a folder whose files name weights elsewhere than in it, which no digest covers."""
    named: list[Any] = []
    elsewhere: list[str] = []
    for file, key in (("model.safetensors.index.json", "weight_map"), ("config.json", "transformers_weights")):
        with contextlib.suppress(ModelError):  # whoever reads it says what is wrong with it
            held = read_json(folder / file).get(key)
            named += held.values() if isinstance(held, dict) else [] if held is None else [held]
    for name in map(str, named):
        if Path(name).name != name or not name.endswith((".safetensors", ".safetensors.index.json")):
            raise ModelError(f"{folder}: names weights {name!r}, which are no safetensors in this folder")
    with contextlib.suppress(ModelError):
        adapter = read_json(folder / "adapter_config.json")
        elsewhere = [key for key in _OF_OTHER_ADAPTERS if adapter.get(key) is not None]
    if elsewhere:
        raise ModelError(
            f"{folder}: adapter_config.json names weights of other adapters ({elsewhere[0]}), which are not read"
        )


def read_tensors(path: Path) -> "Iterator[tuple[str, Tensor]]":
    """Names and weights of one file, read from disk when they are used; only tensors are unpickled. ModelError."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.offset_keys():
                    yield name, file.get_tensor(name)
            return
        loaded = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().split("\n")[0] or "damaged"
        raise ModelError(f"{path}: refused, it is no file of tensors only: {reason}") from None
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError) as error:
        raise ModelError(f"{path}: can't be read: {first_line(error)}") from None
    named: list[tuple[Any, Any]] = list(loaded.items()) if isinstance(loaded, dict) else [(None, loaded)]
    if not all(isinstance(name, str) and isinstance(part, torch.Tensor) for name, part in named):
        raise ModelError(f"{path}: no dict of tensors")
    yield from named


def read_header(path: Path) -> tuple[Mapping[str, Any], int]:
    """The header of a safetensors file, and where its tensors begin. ModelError."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read: {error}") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: no header of tensors")
    return header, 8 + size


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. ModelError."""
    try:
        return parse_object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {one_line(error)}") from None


def write_index(folder: Path, files: Mapping[str, str], total: int) -> None:
    """The index of a folder's .safetensors: which file holds which tensor, and the bytes of all."""
    index = {"metadata": {"total_size": total}, "weight_map": dict(files)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
