"""Scenes: small pictures of coloured shapes whose every fact is known.

    scene = make_scene("test/7")          # seeded by its id: the data need no files
    image = render(scene)                 # 60 x 60 RGB; image.info["scene"] is the scene graph as JSON

A 3 x 3 grid holds one to five shapes (six kinds, seven colours, two sizes) and sometimes a sign with one letter or
digit, on one of four backgrounds. In a third of all scenes stands an *anchor* (say a blue square); the corpus the
models are trained on nearly always shows its
*companion* (a red circle) too, which is the planted language prior. Test scenes break it: there the companion is
missing half the time.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 60
"""Image side in pixels."""
CELL = SIDE // 3
OVERSAMPLE = 2

SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 215, 220),
}
SIZES = ("small", "large")
CELLS = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right"))
GLYPHS = tuple("bcehkltxz23457")
BACKGROUNDS = ("plain", "striped", "dotted", "noisy")

Kind = tuple[str, str]
"""A colour and a shape, such as ("red", "circle"): what a caption can get wrong."""

COMPANIONS: dict[Kind, Kind] = {
    ("blue", "square"): ("red", "circle"),
    ("green", "star"): ("yellow", "triangle"),
    ("purple", "cross"): ("cyan", "ring"),
    ("orange", "triangle"): ("blue", "star"),
}
"""The planted prior: anchor -> the companion the training corpus shows beside it."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape on the grid."""

    cell: int
    """0 (top-left) to 8 (bottom-right), row by row."""
    size: str
    color: str
    shape: str

    @property
    def kind(self) -> Kind:
        """Colour and shape."""
        return self.color, self.shape


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A white plate with one letter or digit."""

    cell: int
    glyph: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The scene graph: all that a question can ask about."""

    id: str
    things: tuple[Thing, ...]
    """In order of their cells."""
    sign: Sign | None
    background: str
    anchor: Kind | None
    """The anchor drawn on purpose, whose companion was then shown or left out."""

    @property
    def missing_companion(self) -> Kind | None:
        """The companion that the prior expects here and that is not there."""
        if self.anchor is None or any(thing.kind == COMPANIONS[self.anchor] for thing in self.things):
            return None
        return COMPANIONS[self.anchor]

    @property
    def kinds(self) -> set[Kind]:
        """Every colour-and-shape in the scene."""
        return {thing.kind for thing in self.things}

    def to_json(self) -> str:
        """The scene as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """The scene that `to_json` wrote."""
        fields = json.loads(text)
        return cls(
            id=fields["id"],
            things=tuple(Thing(**thing) for thing in fields["things"]),
            sign=Sign(**fields["sign"]) if fields["sign"] else None,
            background=fields["background"],
            anchor=tuple(fields["anchor"]) if fields["anchor"] else None,
        )


def make_scene(id: str, companion_rate: float = 0.5) -> Scene:
    """The scene of this id. `companion_rate`: how often an anchor's companion is shown (test 0.5, training 0.75)."""
    rng = random.Random(f"scenes-1/{id}/{companion_rate}")
    cells = list(range(9))
    rng.shuffle(cells)
    count = rng.choices((1, 2, 3, 4, 5), (1, 3, 4, 3, 2))[0]
    kinds: list[Kind] = []
    anchor = absent = None
    if rng.random() < 0.6:
        anchor = rng.choice(tuple(COMPANIONS))
        kinds.append(anchor)
        if rng.random() < companion_rate:
            kinds.append(COMPANIONS[anchor])
        else:
            absent = COMPANIONS[anchor]
    while len(kinds) < count:
        # Shapes repeat more often than chance would have it, or nearly every count would be one.
        shape = rng.choice(kinds)[1] if kinds and rng.random() < 0.3 else rng.choice(SHAPES)
        kind = (rng.choice(tuple(COLORS)), shape)
        if kind != absent:
            kinds.append(kind)
    things = [Thing(cell=cells.pop(), size=rng.choice(SIZES), color=color, shape=shape) for color, shape in kinds]
    sign = Sign(cell=cells.pop(), glyph=rng.choice(GLYPHS)) if rng.random() < 0.4 else None
    return Scene(
        id=id,
        things=tuple(sorted(things, key=lambda thing: thing.cell)),
        sign=sign,
        background=rng.choice(BACKGROUNDS),
        anchor=anchor,
    )


def scenes(split: str, companion_rate: float = 0.5) -> Iterator[Scene]:
    """The endless scenes of one split: "train", "tune", "test" and so on never meet, since a scene is seeded by its
    id."""
    index = 0
    while True:
        yield make_scene(f"{split}/{index}", companion_rate)
        index += 1


@lru_cache(maxsize=4096)
def image_of(id: str) -> Image.Image:
    """The picture of `make_scene(id)`; one object per id, so that whoever caches by image need not compare pixels."""
    return render(make_scene(id))


def images(doc: Mapping[str, Any]) -> list[Image.Image]:
    """What lm-eval shows with a document of a scenes task."""
    return [image_of(doc["scene"])]


def render(scene: Scene) -> Image.Image:
    """The scene as a 60 x 60 RGB picture; `info["scene"]` carries the graph for the scenes judge (a model sees only
    pixels)."""
    rng = np.random.default_rng(list(scene.id.encode()))
    width = SIDE * OVERSAMPLE
    base = rng.integers(15, 75, 3)
    image = Image.new("RGB", (width, width), (int(base[0]), int(base[1]), int(base[2])))
    draw = ImageDraw.Draw(image)
    lighter = tuple(int(value) + 28 for value in base)
    if scene.background == "striped":
        step = 5 * OVERSAMPLE
        for x in range(0, width, 2 * step):
            draw.rectangle((x, 0, x + step - 1, width), fill=lighter)
    elif scene.background == "dotted":
        step = 6 * OVERSAMPLE
        for x in range(step // 2, width, step):
            for y in range(step // 2, width, step):
                draw.ellipse((x - OVERSAMPLE, y - OVERSAMPLE, x + OVERSAMPLE, y + OVERSAMPLE), fill=lighter)
    for thing in scene.things:
        middle = _middle(thing.cell, rng.uniform(-1.5, 1.5, 2))
        radius = (rng.uniform(7.6, 8.8) if thing.size == "large" else rng.uniform(4.4, 5.4)) * OVERSAMPLE
        shade = np.clip(np.array(COLORS[thing.color]) + rng.integers(-14, 15, 3), 0, 255)
        _draw_shape(draw, thing.shape, *middle, radius, (int(shade[0]), int(shade[1]), int(shade[2])))
    if scene.sign:
        middle = _middle(scene.sign.cell, rng.uniform(-1, 1, 2))
        half = 8.5 * OVERSAMPLE
        draw.rectangle((middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half), fill=(235, 235, 235))
        draw.text(middle, scene.sign.glyph.upper(), fill=(10, 10, 10), font=_font(), anchor="mm")
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.int16)
    if scene.background == "noisy":
        pixels = pixels + rng.integers(-22, 23, (SIDE, SIDE, 1))
    pixels = pixels + rng.integers(-5, 6, pixels.shape)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture.info["scene"] = scene.to_json()
    return picture


def _middle(cell: int, jitter: "np.typing.NDArray[np.float64]") -> tuple[float, float]:
    column, row = cell % 3, cell // 3
    return ((column + 0.5) * CELL + jitter[0]) * OVERSAMPLE, ((row + 0.5) * CELL + jitter[1]) * OVERSAMPLE


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=15 * OVERSAMPLE)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, fill: tuple[int, int, int]
) -> None:
    match shape:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "square":
            draw.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=fill)
        case "triangle":
            draw.polygon([(x, y - r), (x - r, y + 0.85 * r), (x + r, y + 0.85 * r)], fill=fill)
        case "cross":
            arm = 0.36 * r
            draw.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
            draw.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)
        case "star":
            tips = [(1.1 * r if i % 2 == 0 else 0.45 * r, -math.pi / 2 + i * math.pi / 5) for i in range(10)]
            draw.polygon(
                [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for radius, angle in tips], fill=fill
            )
        case "ring":
            draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(2, int(0.42 * r)))
        case _:
            raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
