"""Image features, in memory and on disk: one .safetensors file an image, named by model and image."""

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from support.parsing import parse_json

MAX_DISK = 32 << 30
"""Bytes of features kept on disk."""

SWEEP = 64
"""Files written before that bound is looked at again."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image as the language model takes it."""

    features: list[Tensor]
    deep: list[Tensor]
    """Features for deeper layers [positions, width], a layer each, in families that have them."""
    extra: dict[str, Tensor]
    """What the forward pass wants beside features (grid sizes)."""
    replacements: list[str]
    """Text that its placeholder in the prompt becomes."""

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(part.nbytes for part in (*self.features, *self.deep, *self.extra.values()))


@dataclass(frozen=True)
class FeatureForm:
    """How a model's `get_image_features` gives features, and wants them back."""

    output: type
    stacked: bool
    """True if `pooler_output` is one tensor, not one an image."""


class FeatureFiles:
    """Features of one model in a folder."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self._written = 0

    def has(self, digest: str) -> bool:
        """True if this image's features are there."""
        return self._path(digest).is_file()

    def write(self, digest: str, encoded: Encoded, form: FeatureForm) -> None:
        """Keep an image's features."""
        from safetensors.torch import save_file

        named = {f"feature.{index}": part.cpu().contiguous() for index, part in enumerate(encoded.features)}
        named |= {f"deep.{index}": part.cpu().contiguous() for index, part in enumerate(encoded.deep)}
        named |= {f"extra.{name}": part.cpu().contiguous() for name, part in encoded.extra.items()}
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{torch.randint(1 << 40, ()).item()}.part")
        kind = {"output": [form.output.__module__, form.output.__qualname__], "stacked": form.stacked}
        save_file(named, partial, metadata={"replacements": json.dumps(encoded.replacements), "form": json.dumps(kind)})
        partial.rename(path)  # not flushed to disk before: features can be computed again
        self._written += 1
        if self._written % SWEEP == 0:
            self._delete_oldest()

    def read(self, digest: str, device: torch.device) -> tuple[Encoded, FeatureForm] | None:
        """An image's features and their form; None if they are not there, or are of a type that is not to be
        imported."""
        from safetensors import SafetensorError, safe_open

        if not self.has(digest):
            return None
        try:
            with safe_open(self._path(digest), "pt", device=str(device)) as file:
                named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                replacements, kind = (parse_json(file.metadata()[name]) for name in ("replacements", "form"))
            module, name = kind["output"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):  # damaged, it is computed again
            return None
        if module.split(".")[0] not in ("transformers", "harness"):
            return None
        form = FeatureForm(getattr(importlib.import_module(module), name), kind["stacked"])

        def numbered(prefix: str) -> list[Tensor]:
            count = sum(name.startswith(f"{prefix}.") for name in named)
            return [named[f"{prefix}.{index}"] for index in range(count)]

        extra = {name.removeprefix("extra."): part for name, part in named.items() if name.startswith("extra.")}
        encoded = Encoded(features=numbered("feature"), deep=numbered("deep"), extra=extra, replacements=replacements)
        return encoded, form

    def _path(self, digest: str) -> Path:
        name = hashlib.sha256(f"{self.model} {digest}".encode()).hexdigest()[:40]
        return self.folder / f"{name}.safetensors"

    def _delete_oldest(self) -> None:
        """Delete the oldest files until the folder is within its bound."""
        files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.glob("*.safetensors"))
        over = sum(size for _, size, _ in files) - MAX_DISK
        for _, size, file in files:
            if over <= 0:
                break
            file.unlink(missing_ok=True)  # another process may have been first
            over -= size
