"""From a ModelSpec to an lm-eval LM."""

from typing import TYPE_CHECKING

from harness.models.spec import ModelSpec

if TYPE_CHECKING:
    from harness.models.vlm import SharedImageLM


def load(spec: ModelSpec) -> "SharedImageLM":
    """The model of `spec`, ready to generate. Safetensors only; no code from the checkpoint is run."""
    import torch

    from harness.models.vlm import SharedImageLM

    return SharedImageLM(
        pretrained=spec.pretrained,
        revision=spec.revision or "main",
        peft=str(spec.adapter) if spec.adapter else None,
        dtype=spec.dtype,
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=spec.batch_size,
        use_safetensors=True,
        trust_remote_code=False,
    )
