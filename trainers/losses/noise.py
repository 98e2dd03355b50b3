"""Noise put on images as POVID does it."""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from support.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import torch


STEPS = 1000
"""Steps of the diffusion schedule."""
STEP = 500
"""POVID's choice: the picture can no longer be recognised, so the model says what it expects."""

Overflow = Literal["clamp", "wrap"]
"""Values outside a byte's range are cut off, or taken modulo 256 as in POVID's release."""
Place = Literal["before", "after"]
"""Noise before the picture is resized (POVID's release; resizing removes much of it), or after."""


@cache
def abar(steps: int = STEPS) -> "np.typing.NDArray[np.float64]":
    """Share of the picture's variance left after each step k, from 0: x_k = sqrt(abar_k) x + sqrt(1 - abar_k) noise."""
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, steps))) * (0.005 - 1e-5) + 1e-5
    found = np.cumprod(1 - betas, dtype=np.float64)
    found.setflags(write=False)
    return found


def noise_seed(seed: int, row: int, epoch: int = 0) -> int:
    """The seed of one picture's noise: new in each epoch, the same when a run is repeated or resumed."""
    return int.from_bytes(hashlib.sha256(f"noise/{seed}/{row}/{epoch}".encode()).digest()[:8], "big") >> 1


def noised(image: Image.Image, *, seed: int, step: int = STEP, overflow: Overflow = "clamp") -> Image.Image:
    """The picture as RGB with the noise of one step, at its own size; fractions are cut off, as in the release."""
    _check_settings(step, overflow)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    left = abar()[step]
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
    found = (np.float32(left**0.5) * pixels + np.float32((1 - left) ** 0.5) * noise) * 255
    # Through int64: the result of casting a float out of range to a byte differs between machines.
    whole = np.clip(found, 0, 255).astype(np.int64) if overflow == "clamp" else found.astype(np.int64) & 255
    return Image.fromarray(whole.astype(np.uint8))


def noised_pixels(
    pixels: "torch.Tensor",
    *,
    generator: "torch.Generator",
    mean: Sequence[float],
    std: Sequence[float],
    step: int = STEP,
    overflow: Overflow = "clamp",
) -> "torch.Tensor":
    """Normalised pixels (..., channels, height, width) with the noise of one step; same shape, type and device.

    Noise is drawn on the generator's device. `mean` and `std`: the processor's, of values in 0..1. DataError for rows
    of patches (Qwen2-VL), which have no such axes: put noise on these pictures before the resize.
    """
    import torch

    _check_settings(step, overflow)
    if pixels.dim() < 3 or pixels.shape[-3] != len(mean) or len(mean) != len(std):
        needed = f"{len(mean)} channels before height and width are needed; noise such pictures before the resize"
        raise DataError(f"pixels of shape {tuple(pixels.shape)}: {needed}")
    at: dict[str, Any] = {"dtype": torch.float32, "device": pixels.device}
    middle, spread = (torch.tensor(values, **at).view(-1, 1, 1) for values in (mean, std))
    left = float(abar()[step])
    noise = torch.randn(pixels.shape, generator=generator, device=generator.device, dtype=torch.float32)
    noise = noise.to(pixels.device)
    found = left**0.5 * (pixels.float() * spread + middle) + (1 - left) ** 0.5 * noise
    found = found.clamp(0, 1) if overflow == "clamp" else ((found * 255).long() & 255).float() / 255
    again: torch.Tensor = (found - middle) / spread
    return again.to(pixels.dtype)


def _check_settings(step: int, overflow: str) -> None:
    if not 0 <= step < STEPS:
        raise DataError(f"noise step {step}: must be 0 to {STEPS - 1}")
    if overflow not in get_args(Overflow):
        raise DataError(f"no noise overflow {overflow!r}{did_you_mean(overflow, get_args(Overflow))}")
