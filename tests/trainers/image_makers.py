"""Small images for tests: plain ones of a colour, and noise that hashes take for photographs."""

import io

import numpy as np
from PIL import Image


def png(colour: int) -> bytes:
    """A PNG of 4 x 4 pixels; colours below 256 differ in red, others in green too."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour % 256, 10 + colour // 256, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def photo(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Noise with the spectrum of photographs: large soft shapes, and detail in them."""
    rng = np.random.default_rng(seed)
    waves = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    waves[0, 0] = 1
    planes = [np.fft.ifft2(np.fft.fft2(rng.normal(size=waves.shape)) / waves**1.3).real for _ in range(3)]
    pixels = np.stack([0.7 * planes[0] + 0.3 * plane for plane in planes], axis=-1)
    return Image.fromarray(((pixels - pixels.min()) / np.ptp(pixels) * 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of the image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
