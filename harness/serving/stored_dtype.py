"""What the weights of a checkpoint are stored in, as a server is told to compute in it."""

from pathlib import Path
from typing import Final

from harness.models.spec import ModelSpec
from harness.models.weight_files import read_header, read_json, weight_files
from support.errors import ModelError

KNOWN: Final = ("float32", "bfloat16", "float16")
_IN_HEADERS: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def stored_dtype(spec: ModelSpec) -> str | None:
    """The dtype that its configuration names, else that of its first weight; None where neither can be told."""
    folder = spec.folder or Path(spec.pretrained)
    if not folder.is_dir():
        return None
    try:
        said = read_json(folder / "config.json")
        named = said.get("dtype") or said.get("torch_dtype")
        if named in KNOWN:
            return str(named)
        return next((found for path in weight_files(folder) if (found := _dtype_in_header(path))), None)
    except ModelError:  # told when it is loaded
        return None


def _dtype_in_header(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    found = [entry.get("dtype") for entry in read_header(path)[0].values() if isinstance(entry, dict)]
    return next((_IN_HEADERS[dtype] for dtype in found if dtype in _IN_HEADERS), None)
