"""Where a model is computed and in what: looked at before anything is loaded."""

from harness.engine.config import EngineConfig
from support.errors import SettingError


def check_place(engine: EngineConfig) -> None:
    """SettingError for a device or a type that torch has not: lm-eval would take the CPU without a word."""
    if engine.device is None and engine.dtype in (None, "auto"):
        return  # torch takes a second to import
    import torch

    if engine.device is not None:
        try:
            place = torch.device(engine.device)
        except RuntimeError:
            raise SettingError(
                f"device = {engine.device!r}: is no device of torch's; give cuda, cuda:N or cpu"
            ) from None
        if place.type == "cuda" and torch.cuda.device_count() <= (place.index or 0):
            found = torch.cuda.device_count()
            raise SettingError(f"device = {engine.device!r}: is not here: torch finds {found} GPUs; leave it out")
    if engine.dtype not in (None, "auto") and not isinstance(getattr(torch, str(engine.dtype), None), torch.dtype):
        raise SettingError(f"dtype = {engine.dtype!r}: is no type of torch's; give float32, bfloat16 or float16")
