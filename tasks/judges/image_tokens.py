"""How many tokens an image is, by the rule that a model's maker publishes.

    rule = ImageRule(patch=32, most=1536, times=1.62)
    rule.tokens(1024, 1024)                             # 1659
    read_rule({"base": 85, "tile": 170}, "where")       # an ImageRule; SettingError

The rules of known families are in `tasks/judges/judges.toml`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from support.errors import SettingError, did_you_mean

TILE: Final = 512
SMALL: Final = 384
"""Pixels of both sides up to which Gemini 2 takes an image for one tile."""


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """One way to count, by the numbers that are not 0: `tile`, `patch`, `crop` or `flat`."""

    base: int = 0
    """Tokens of an image beside its tiles."""
    tile: int = 0
    """Tokens of a tile of 512 pixels, after the image is fitted into 2048 x 2048 and its short side brought to 768."""
    patch: int = 0
    """Side in pixels of the squares that are counted."""
    most: int = 0
    """Squares at most; a larger image is scaled down. 0: no limit."""
    edge: int = 0
    """Longest side in pixels; a larger image is scaled down. 0: no limit."""
    times: float = 1.0
    """Tokens of a square."""
    nearest: bool = False
    """Whether sides are rounded to whole squares, in place of up."""
    crop: int = 0
    """Tokens of a tile as Gemini 2 cuts them."""
    flat: int = 0
    """Tokens of any image."""

    def tokens(self, width: int, height: int, detail: str = "auto") -> int:
        """Tokens of an image of this size in pixels."""
        if self.flat:
            return self.flat
        if self.tile:
            return self.base if detail == "low" else self.base + self.tile * _count_tiles(width, height)
        if self.crop:
            return self.crop * _count_crops(width, height)
        return math.ceil(self.times * self._count_patches(width, height) - 1e-6)

    def _count_patches(self, width: float, height: float) -> int:
        fit = min(1.0, self.edge / max(width, height)) if self.edge else 1.0
        across, down = width * fit / self.patch, height * fit / self.patch
        if self.nearest:
            whole = max(1, round(across)) * max(1, round(down))
            return min(whole, self.most) if self.most else whole
        if self.most and math.ceil(across) * math.ceil(down) > self.most:
            shrink = math.sqrt(self.most / (across * down))
            # Then a little more, so that one side is whole squares.
            shrink *= min(max(1, math.floor(side * shrink)) / (side * shrink) for side in (across, down))
            across, down = across * shrink, down * shrink
        count = max(1, math.ceil(across - 1e-9)) * max(1, math.ceil(down - 1e-9))
        return min(count, self.most) if self.most else count


def read_rule(given: Any, where: str) -> ImageRule:
    """A rule as a table has it; SettingError names `where`."""
    known = {field.name: field.default for field in fields(ImageRule)}
    if not isinstance(given, Mapping):
        raise SettingError(f"{where}: must be a table of numbers, is {given!r}")
    for name, value in given.items():
        if name not in known:
            raise SettingError(f"{where}: unknown {name!r}{did_you_mean(name, known)}")
        if isinstance(value, bool) != (name == "nearest") or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise SettingError(f"{where}.{name}: must be a number of 0 or more, is {value!r}")
    if sum(bool(given.get(name)) for name in ("tile", "patch", "crop", "flat")) != 1:
        raise SettingError(f"{where}: must have one of tile, patch, crop and flat")
    return ImageRule(**given)


def _count_tiles(width: int, height: int) -> int:
    fit = min(1.0, 2048 / max(width, height))
    width, height = int(width * fit), int(height * fit)
    fit = min(1.0, 768 / max(1, min(width, height)))
    return max(1, math.ceil(width * fit / TILE)) * max(1, math.ceil(height * fit / TILE))


def _count_crops(width: int, height: int) -> int:
    if max(width, height) <= SMALL:
        return 1
    side = min(768, max(256, math.floor(min(width, height) / 1.5)))
    return math.ceil(width / side) * math.ceil(height / side)
