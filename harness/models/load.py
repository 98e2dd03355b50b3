"""From a ModelSpec to an lm-eval LM."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.models.spec import ModelError, ModelSpec

if TYPE_CHECKING:
    from harness.models.vlm import SharedImageLM


def load(spec: ModelSpec, progress: Callable[[int, int], None] | None = None) -> "SharedImageLM":
    """The model of `spec`, ready to generate. Safetensors only; no code from the checkpoint is run. `progress` hears (answered, asked)."""
    import torch
    from safetensors import SafetensorError

    from harness.models.vlm import SharedImageLM

    try:
        return SharedImageLM(
            pretrained=spec.pretrained,
            revision=spec.revision or "main",
            peft=str(spec.adapter) if spec.adapter else None,
            dtype=spec.dtype,
            device="cuda" if torch.cuda.is_available() else "cpu",
            batch_size=spec.batch_size,
            use_safetensors=True,
            trust_remote_code=False,
            progress=progress,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{spec.name}: can't be loaded: {' '.join(str(error).split())}") from error
