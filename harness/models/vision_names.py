"""Checkpoints whose vision encoder has the names of a model that transformers made itself, under those that servers
read.

    full_name("model.vision_tower.encoder.layers.0.mlp.fc1.weight")     # "model.vision_tower.vision_model.encoder...."
    readable = with_full_names(folder, run / "servers" / "weights")     # `folder` itself where nothing is to be renamed

transformers 5 writes a CLIP or SigLIP encoder that it did not load from elsewhere as `vision_tower.encoder...`; what
the hub has, and vLLM reads, is `vision_tower.vision_model.encoder...`. transformers reads both.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from harness.models.file_digests import digest_of_folder
from harness.models.weight_files import read_header, read_json, weight_files

ENCODERS: Final = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model")
_SHORT: Final = re.compile(r"((?:^|\.)vision_tower\.)(?!vision_model\.)")


def full_name(name: str) -> str:
    """A weight's name as the hub's checkpoints have it."""
    return _SHORT.sub(r"\1vision_model.", name, count=1)


def with_full_names(folder: Path, into: Path, *, base: Path | None = None) -> Path:
    """`folder` where its weights have the names that servers read, else a copy below `into` that has, made once.

    `base`: the checkpoint that the adapter in `folder` goes on. ModelError, OSError.
    """
    config = read_json((base or folder) / "config.json")
    encoder = config.get("vision_config")
    if not isinstance(encoder, dict) or encoder.get("model_type") not in ENCODERS:
        return folder
    files = [path for path in weight_files(folder) if path.suffix == ".safetensors"]
    if not any(full_name(name) != name for path in files for name in read_header(path)[0]):
        return folder
    out = into / f"{folder.resolve().name}-{digest_of_folder(folder, strict=True)}"
    if not out.is_dir():
        _write_copy(folder, out, files)
    return out


def _write_copy(folder: Path, out: Path, files: list[Path]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".renaming-") as scratch:
        part = Path(scratch) / "all"
        part.mkdir()
        for path in folder.iterdir():
            if path.is_file() and path not in files:
                shutil.copyfile(path, part / path.name)
        for path in files:
            _write_renamed(path, part / path.name)
        _rename_index(folder, part)
        try:
            part.rename(out)
        except OSError:  # another process was first
            if not out.is_dir():
                raise


def _rename_index(folder: Path, out: Path) -> None:
    for index in folder.glob("*.safetensors.index.json"):
        content = read_json(index)
        renamed = {full_name(name): file for name, file in content["weight_map"].items()}
        (out / index.name).write_text(json.dumps(content | {"weight_map": renamed}, indent=1), encoding="utf-8")


def _write_renamed(source: Path, target: Path) -> None:
    """The same tensors, at the same places, under full names."""
    header, start = read_header(source)
    named = {name if name == "__metadata__" else full_name(name): entry for name, entry in header.items()}
    text = json.dumps(named, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as old, target.open("wb") as new:
        new.write(len(text).to_bytes(8, "little") + text)
        old.seek(start)
        shutil.copyfileobj(old, new, 16 << 20)
        new.flush()
        os.fsync(new.fileno())
