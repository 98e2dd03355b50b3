"""Model names, and what they stand for.

find("scenes-base")                      # a name `harness models` lists
find("runs/scenes-demo/dpo/checkpoint-40")   # a folder: full weights, or an adapter beside the name of its base
find("llava-hf/llava-1.5-7b-hf")         # a hub id, downloaded when it is loaded
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"
"""Weights that come with the package."""


class UnknownModel(LookupError):
    """No model has this name; the message names the known ones."""


class ModelError(RuntimeError):
    """A model that is there and can't be loaded; one line."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to load one model or checkpoint."""

    name: str
    """What the board shows."""
    pretrained: str
    """Folder or hub id of the (base) weights."""
    revision: str | None = None
    adapter: Path | None = None
    """LoRA weights on top of `pretrained`."""
    dtype: str = "auto"
    """What it computes in; "auto": what the weights are stored in."""
    batch_size: int = 8
    """Questions decoded at once."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Generation settings that the model needs whatever the task says."""
    description: str = ""


def _embedded(name: str, description: str) -> ModelSpec:
    # Stored in half precision, computed in single: a CPU has no fast half.
    return ModelSpec(name=name, pretrained=str(WEIGHTS / name), dtype="float32", batch_size=64, description=description)


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _embedded("scenes-base", "1.3 M-parameter LLaVA for the scenes world; hallucinates from the prior planted in its corpus"),
        _embedded("scenes-careful", "the same before it read the planted corpus"),
        _embedded("scenes-early", "the same early in training: says much that is wrong"),
    )
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find(name: str) -> ModelSpec:
    """The spec of a known name, a folder or a hub id; UnknownModel otherwise."""
    if name in MODELS:
        return MODELS[name]
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(folder)
    if _HUB_ID.fullmatch(name) and not folder.parent.is_dir():
        return ModelSpec(name=name, pretrained=name)
    near = difflib.get_close_matches(name, MODELS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UnknownModel(f"no model {name!r}{hint}; known: {', '.join(MODELS)}, a folder with weights or an adapter, or a hub id")


def _of_folder(folder: Path) -> ModelSpec:
    name = folder.as_posix().rstrip("/")
    if (folder / "adapter_config.json").is_file():
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        note = folder / "checkpoint.json"
        base = json.loads(note.read_text(encoding="utf-8"))["base"] if note.is_file() else config["base_model_name_or_path"]
        below = find(str(base))
        if below.adapter is not None:
            raise UnknownModel(f"{name}: its base {base!r} is an adapter itself; merge that one first")
        return ModelSpec(
            name=name,
            pretrained=below.pretrained,
            revision=config.get("revision") or below.revision,
            adapter=folder,
            dtype=below.dtype,
            batch_size=below.batch_size,
            generation=below.generation,
        )
    if (folder / "config.json").is_file():
        return ModelSpec(name=name, pretrained=str(folder), dtype="float32" if folder.parent == WEIGHTS else "auto")
    raise UnknownModel(f"{name}: neither config.json (weights) nor adapter_config.json (LoRA) in this folder")
