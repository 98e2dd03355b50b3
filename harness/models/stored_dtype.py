"""What the weights of a checkpoint are stored in, and what they are computed in here unless a setting says otherwise.

stored_dtype(spec)                   # "float32"
default_dtype(spec, "cuda:0")        # "bfloat16": a GPU computes in half precision, a CPU in what is stored
"""

from pathlib import Path
from typing import Final

from harness.models.spec import ModelSpec
from harness.models.weight_files import read_header, read_json, weight_files
from support.errors import ModelError

KNOWN: Final = ("float32", "bfloat16", "float16")
AS_STORED: Final = "auto"
_IN_HEADERS: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_HAS_BFLOAT16: Final = (8, 0)
"""The least compute capability of a GPU that computes in bfloat16 (Ampere)."""


def default_dtype(spec: ModelSpec, device: str | None = None) -> str:
    """What a local model computes in on a device (None: a GPU if there is one) where nothing is set; "auto": what its
    weights are stored in."""
    if spec.dtype != AS_STORED or stored_dtype(spec) != "float32":
        return spec.dtype
    return choose_half(_find_capability(device)) or AS_STORED


def choose_half(capability: tuple[int, int] | None) -> str | None:
    """The half precision of a GPU of this compute capability; None without a GPU, where single precision is faster."""
    if capability is None:
        return None
    return "bfloat16" if capability >= _HAS_BFLOAT16 else "float16"


def _find_capability(device: str | None) -> tuple[int, int] | None:
    """The compute capability of the GPU that a model is to run on, if it is one; ROCm's count as new ones."""
    import torch

    if not torch.cuda.is_available() or not str(device or "cuda").startswith("cuda"):
        return None
    return (9, 0) if torch.version.hip else torch.cuda.get_device_capability(device)


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
