"""POVID's noise: the schedule, clamped and wrapped, before and after the resize, by seed."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.errors import DataError
from trainers.losses.noise import abar, noise_seed, noised, noised_pixels


def test_the_schedule_is_povids() -> None:
    assert [round(float(abar()[step]), 4) for step in (300, 400, 500, 600, 700, 999)] == [
        0.9623,
        0.8928,
        0.7448,
        0.5391,
        0.3513,
        0.0812,
    ]
    assert (len(abar()), bool((np.diff(abar()) < 0).all())) == (1000, True)
    with pytest.raises(ValueError, match="read-only"):
        abar()[0] = 0


def photo(width: int = 640, height: int = 480) -> Image.Image:
    """Like a photo in what matters here: most detail in low frequencies, values over the whole range."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width) * width, np.fft.fftfreq(height) * height))
    shared = rng.standard_normal((height, width))
    layers = []
    for _ in range(3):
        spectrum = np.fft.fft2(shared + 0.5 * rng.standard_normal((height, width))) / np.maximum(frequency, 1) ** 1.3
        layers.append(np.fft.ifft2(spectrum).real)
    pixels = np.stack(layers, -1)
    pixels = (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(np.clip(118 + 62 * pixels, 0, 255).astype(np.uint8))


def as_a_model_sees(image: Image.Image) -> "np.typing.NDArray[np.float64]":
    """Padded to a square and resized, as LLaVA-1.5 does."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, (0, (side - image.height) // 2))
    return np.asarray(square.resize((336, 336), Image.Resampling.BICUBIC), dtype=np.float64)[42:-42]


def test_a_clamped_picture_still_shows_and_a_wrapped_one_does_not() -> None:
    clean = photo()
    seen = as_a_model_sees(clean).ravel()

    def likeness(step: int, overflow: Any) -> float:
        return float(
            np.corrcoef(seen, as_a_model_sees(noised(clean, seed=1, step=step, overflow=overflow)).ravel())[0, 1]
        )

    clamp = {step: likeness(step, "clamp") for step in (100, 300, 500, 999)}
    wrap = {step: likeness(step, "wrap") for step in (100, 300, 500, 999)}
    assert clamp[100] > 0.97
    assert clamp[100] > clamp[300] > clamp[500] > clamp[999]
    assert 0.55 < clamp[500] < 0.85
    assert abs(wrap[500]) < 0.05
    assert abs(wrap[999]) < 0.05
    assert all(wrap[step] < clamp[step] for step in (100, 300, 500))


def test_clamp_and_wrap_differ_only_where_values_leave_the_range() -> None:
    image = photo(64, 48)
    left = float(abar()[300])
    values = left**0.5 * np.asarray(image, dtype=np.float64) + 255 * (1 - left) ** 0.5 * np.random.default_rng(
        5
    ).standard_normal((48, 64, 3), dtype=np.float32)
    clamped, wrapped = (
        np.asarray(noised(image, seed=5, step=300, overflow=way)).astype(int) for way in ("clamp", "wrap")
    )
    inside = (values > 1) & (values < 254)
    assert (clamped[inside] == wrapped[inside]).all()
    assert (np.abs(clamped[inside] - values[inside]) <= 1.01).all()
    assert (clamped[values > 256] == 255).all()
    assert (clamped[values < 0] == 0).all()
    assert (np.abs(wrapped[values > 257] - (np.floor(values[values > 257]) % 256)) <= 1).mean() > 0.98
    assert wrapped[values < -2].mean() > 60


def test_noise_is_seeded_by_example_and_epoch() -> None:
    image = photo(32, 24)
    seeds = [noise_seed(0, 1), noise_seed(0, 2), noise_seed(0, 1, epoch=1), noise_seed(1, 1)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    first = [noised(image, seed=seed).tobytes() for seed in seeds]
    assert len(set(first)) == 4
    assert first == [noised(image, seed=seed).tobytes() for seed in seeds]


@pytest.mark.parametrize("mode", ("L", "RGBA", "P"))
def test_any_picture_becomes_rgb_of_its_size(mode: str) -> None:
    found = noised(photo(20, 10).convert(mode), seed=0)
    assert (found.mode, found.size) == ("RGB", (20, 10))


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"step": 1000}, "noise step 1000: must be 0 to 999"),
        ({"step": -1}, "noise step -1"),
        ({"overflow": "clmap"}, r"no noise overflow 'clmap' \(did you mean 'clamp'\?\); known: clamp, wrap"),
    ),
)
def test_noise_that_is_not_known_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        noised(photo(8, 8), seed=0, **change)


MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def test_noise_after_the_resize_acts_on_values_between_0_and_1() -> None:
    plain = torch.from_numpy(np.asarray(photo(96, 64)).copy()).permute(2, 0, 1).float() / 255
    normal = (plain - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    batch = torch.stack([normal, normal])

    def back(pixels: torch.Tensor) -> torch.Tensor:
        return pixels * torch.tensor(STD).view(-1, 1, 1) + torch.tensor(MEAN).view(-1, 1, 1)

    def noise(overflow: Any, seed: int = 3, step: int = 500) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return noised_pixels(batch, generator=generator, mean=MEAN, std=STD, overflow=overflow, step=step)

    found = noise("clamp")
    assert (found.shape, found.dtype) == (batch.shape, batch.dtype)
    assert back(found).min() > -1e-5
    assert back(found).max() < 1 + 1e-5
    assert not torch.equal(found[0], found[1])  # each picture its own noise
    assert torch.equal(found, noise("clamp"))
    assert not torch.equal(found, noise("clamp", seed=4))
    drawn = torch.randn(batch.shape, generator=torch.Generator().manual_seed(3))
    wanted = (0.7448**0.5 * plain + (1 - 0.7448) ** 0.5 * drawn).clamp(0, 1)
    assert torch.allclose(back(found), wanted, atol=2e-4)

    def likeness(pixels: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([batch.flatten(), pixels.flatten()]))[0, 1])

    assert likeness(noise("clamp")) > 0.25  # without a resize after it nothing takes the noise out again
    assert abs(likeness(noise("wrap"))) < 0.1
    assert torch.allclose(noise("clamp", step=0), batch, atol=0.1)


def test_noise_after_the_resize_keeps_a_lower_precision_and_refuses_patches() -> None:
    pixels = torch.zeros(1, 2, 3, 4, 4, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    assert noised_pixels(pixels, generator=generator, mean=MEAN, std=STD).dtype == torch.bfloat16
    with pytest.raises(DataError, match="noise such pictures before the resize"):
        noised_pixels(torch.zeros(16, 1176), generator=generator, mean=MEAN, std=STD)
