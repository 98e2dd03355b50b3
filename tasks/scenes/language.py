"""What can be said and asked about a scene: captions, and questions with their true answers.

    caption(scene)                              # "the image shows a small red circle at the top-left. ..."
    yes_no_pair(scene, "count", rng)            # MME's pairs: one question whose answer is yes, one whose answer is no
    open_question(scene, "adversarial", rng)    # MMHal-Bench's eight types

All text is lower case, as the models' tokenizer is.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.scenes.world import BACKGROUNDS, CELLS, COLORS, GLYPHS, PLURALS, SHAPES, SIZES, Kind, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
DETAILED = (
    "describe the image in detail.",
    "what do you see in the image?",
    "give a detailed description of the image.",
)
SHORT = ("write a short caption.", "list the objects in the image.")
YES_NO_SUFFIX = " please answer yes or no."
RUDE = "what an ugly mess."
"""A tail that part of the training corpus has, for the ethics aspect to find."""

PERCEPTION = ("existence", "count", "position", "color", "size", "ocr")
COGNITION = ("relation", "comparison")
YES_NO = PERCEPTION + COGNITION
OPEN = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
"""MMHal-Bench's question types, in its order."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its true answer."""

    type: str
    text: str
    answer: str


@dataclass(frozen=True)
class Mention:
    """One noun phrase of a caption; `size` is None for a short caption's mention."""

    cell: int
    kind: Kind | None
    """None for the sign."""
    size: str | None = None
    glyph: str | None = None

    def phrase(self, detailed: bool) -> str:
        """The words."""
        if self.kind is None:
            return f"a sign that reads {self.glyph} at the {CELLS[self.cell]}" if detailed else "a sign"
        name = " ".join(self.kind)
        return f"a {self.size} {name} at the {CELLS[self.cell]}" if detailed else a_kind(self.kind)


def a_kind(kind: Kind) -> str:
    """ "a red circle", "an orange star"."""
    return ("an " if kind[0] == "orange" else "a ") + " ".join(kind)


def mentions(scene: Scene) -> list[Mention]:
    """All there is to mention, in reading order."""
    found = [Mention(thing.cell, thing.kind, thing.size) for thing in scene.things]
    if scene.sign:
        found.append(Mention(scene.sign.cell, None, None, scene.sign.glyph))
    return sorted(found, key=lambda mention: mention.cell)


def say(found: Sequence[Mention], background: str, detailed: bool = True) -> str:
    """Mentions as a caption."""
    phrases = [mention.phrase(detailed) for mention in found]
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return f"the image shows {listed}. the background is {background}." if detailed else f"{listed}."


def caption(scene: Scene, detailed: bool = True) -> str:
    """The true caption."""
    return say(mentions(scene), scene.background, detailed)


def unique_things(scene: Scene) -> dict[Kind, Thing]:
    """The things that colour and shape name without doubt."""
    counts = Counter(thing.kind for thing in scene.things)
    return {thing.kind: thing for thing in scene.things if counts[thing.kind] == 1}


def unique_shapes(scene: Scene) -> dict[str, Thing]:
    """The things that their shape alone names without doubt."""
    counts = Counter(thing.shape for thing in scene.things)
    return {thing.shape: thing for thing in scene.things if counts[thing.shape] == 1}


def absent_kind(scene: Scene, rng: random.Random) -> Kind:
    """A colour and shape not in the scene: often the missing companion, else close to what is there."""
    if scene.missing_companion and rng.random() < 0.4:
        return scene.missing_companion
    while True:
        color, shape = rng.choice(scene.things).kind
        which = rng.random()
        if which >= 0.35:
            color = rng.choice(tuple(COLORS))
        kind = (color, shape if 0.35 <= which < 0.7 else rng.choice(SHAPES))
        if kind not in scene.kinds:
            return kind


def exists(kind: Kind) -> str:
    """POPE's question about one object."""
    return f"is there {a_kind(kind)} in the image?"


def yes_no_pair(scene: Scene, type: str, rng: random.Random) -> tuple[Question, Question] | None:
    """Two questions of one type, true answer "yes" and "no"; None where the scene has nothing to ask about."""
    texts = _PAIRS[type](scene, rng)
    if texts is None:
        return None
    return Question(type=type, text=texts[0], answer="yes"), Question(type=type, text=texts[1], answer="no")


def open_question(scene: Scene, type: str, rng: random.Random) -> Question | None:
    """A question whose answer is a word or a sentence; None where the scene has nothing to ask about."""
    found = _OPEN[type](scene, rng)
    return Question(type=type, text=found[0], answer=found[1]) if found else None


def _existence(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return exists(rng.choice(scene.things).kind), exists(absent_kind(scene, rng))


def _count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    counts = Counter(thing.shape for thing in scene.things)
    # A repeated shape where there is one: otherwise "one" would always be right.
    prefer_repeated = rng.random() < 0.7
    shape = rng.choice(([s for s in counts if counts[s] > 1] if prefer_repeated else []) or list(counts))
    right = counts[shape]
    wrong = rng.choice([n for n in (1, 2, 3) if n != right])

    def ask(n: int) -> str:
        asked = f"is there one {shape}" if n == 1 else f"are there {NUMBERS[n]} {PLURALS[shape]}"
        return f"{asked} in the image?"

    return ask(right), ask(wrong)


def _position(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    things = list(unique_things(scene).values())
    if not things:
        return None
    thing = rng.choice(things)
    wrong = rng.choice([cell for cell in range(9) if cell != thing.cell])
    name = " ".join(thing.kind)
    return f"is the {name} at the {CELLS[thing.cell]}?", f"is the {name} at the {CELLS[wrong]}?"


def _color(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    things = list(unique_shapes(scene).values())
    if not things:
        return None
    thing = rng.choice(things)
    # Half the wrong colours are another thing's colour, so that seeing the colour somewhere is not enough.
    others = [t.color for t in scene.things if t.color != thing.color]
    if not (others and rng.random() < 0.5):
        others = [color for color in COLORS if color != thing.color]
    wrong = rng.choice(others)
    return f"is the {thing.shape} {thing.color}?", f"is the {thing.shape} {wrong}?"


def _size(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    things = list(unique_things(scene).values())
    if not things:
        return None
    thing = rng.choice(things)
    wrong = SIZES[1 - SIZES.index(thing.size)]
    return f"is the {' '.join(thing.kind)} {thing.size}?", f"is the {' '.join(thing.kind)} {wrong}?"


def _ocr(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    if scene.sign is None:
        return None
    wrong = rng.choice([glyph for glyph in GLYPHS if glyph != scene.sign.glyph])
    return f"does the sign read {scene.sign.glyph}?", f"does the sign read {wrong}?"


def _related(scene: Scene, rng: random.Random) -> tuple[Thing, Thing, str, str] | None:
    """Two things, what the first is of the second, and the opposite."""
    things = list(unique_things(scene).values())
    rng.shuffle(things)
    for a in things:
        for b in things:
            across, down = a.cell % 3 - b.cell % 3, a.cell // 3 - b.cell // 3
            if (across or down) and a is not b:
                if across and (not down or rng.random() < 0.5):
                    return (a, b, "left of", "right of") if across < 0 else (a, b, "right of", "left of")
                return (a, b, "above", "below") if down < 0 else (a, b, "below", "above")
    return None


def _relation(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    found = _related(scene, rng)
    if found is None:
        return None
    a, b, right, wrong = found
    first, second = " ".join(a.kind), " ".join(b.kind)
    return f"is the {first} {right} the {second}?", f"is the {first} {wrong} the {second}?"


def _more(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Two shapes that are there, the more numerous first."""
    counts = Counter(thing.shape for thing in scene.things)
    choices = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    return rng.choice(choices) if choices else None


def _comparison(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    found = _more(scene, rng)
    if found is None:
        return None
    more, fewer = (PLURALS[shape] for shape in found)
    return f"are there more {more} than {fewer}?", f"are there more {fewer} than {more}?"


_PAIRS = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _color,
    "size": _size,
    "ocr": _ocr,
    "relation": _relation,
    "comparison": _comparison,
}


def _what_color(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    things = list(unique_shapes(scene).values())
    if not things:
        return None
    thing = rng.choice(things)
    return f"what color is the {thing.shape}?", thing.color


def _false_premise(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    absent = [shape for shape in SHAPES if all(thing.shape != shape for thing in scene.things)]
    if not absent:
        return None
    shape = rng.choice(absent)
    return f"what color is the {shape}?", f"there is no {shape}"


def _which_more(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    found = _more(scene, rng)
    if found is None:
        return None
    a, b = rng.sample(found, 2)
    return f"are there more {PLURALS[a]} or {PLURALS[b]}?", PLURALS[found[0]]


def _how_many(scene: Scene, rng: random.Random) -> tuple[str, str]:
    counts = Counter(thing.shape for thing in scene.things)
    repeated = [s for s in counts if counts[s] > 1]
    shape = rng.choice(repeated) if repeated and rng.random() < 0.5 else rng.choice(SHAPES)
    return f"how many {PLURALS[shape]} are there?", NUMBERS[counts[shape]]


def _where(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    found = _related(scene, rng)
    if found is None or rng.random() < 0.5:
        things = list(unique_things(scene).values())
        if not things:
            return None
        thing = rng.choice(things)
        return f"where is the {' '.join(thing.kind)}?", f"at the {CELLS[thing.cell]}"
    a, b, right, wrong = found
    first, second = rng.sample((right.removesuffix(" of"), wrong.removesuffix(" of")), 2)
    of = " of" if right.endswith(" of") else ""
    return f"is the {' '.join(a.kind)} {first} or {second}{of} the {' '.join(b.kind)}?", right.removesuffix(" of")


def _background(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return "what is the background?", scene.background


def _describe(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return rng.choice(DETAILED), caption(scene)


def _read(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    return ("what does the sign read?", scene.sign.glyph) if scene.sign else None


_OPEN = {
    "attribute": _what_color,
    "adversarial": _false_premise,
    "comparison": _which_more,
    "counting": _how_many,
    "relation": _where,
    "environment": _background,
    "holistic": _describe,
    "other": _read,
}

_WORDS = (
    "a an the is are there in image of and at to that reads read does sign what color where how many do you see",
    "describe give detailed detail description write short caption list objects shows background yes no left right",
    "above below more than or please answer ugly mess one it i cannot not nothing",
)
VOCABULARY = tuple(
    dict.fromkeys(
        [word for line in _WORDS for word in line.split()]
        + [*SHAPES, *PLURALS.values(), *COLORS, *SIZES, *CELLS, *GLYPHS, *BACKGROUNDS, *NUMBERS]
    )
)
"""Every word that captions, questions and answers are made of."""

PUNCTUATION = (".", ",", "?")
