"""POVID's data about rendered scenes, without a server: a judge that reads the scene graph stored in the picture.

    items = scenes_items(100, seed=0)                   # true captions and answers about rendered scenes
    inject(items, ScenesInjector(), rows, seed=0)

It reads the last line of the prompt and replies in the requested form. Its changes are false by the scene graph: an
absent thing (the missing companion of the planted bias, if there is one), a wrong colour, size, count or place.
"""

import io
import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from PIL.PngImagePlugin import PngInfo

from support.errors import JudgeError
from support.images import ImageRef
from support.judge_names import SCENES
from tasks.judges.protocol import GREEDY, Sampling, ThreadedJudge
from tasks.scenes.judge import answer_to
from tasks.scenes.language import DETAILED, NUMBERS, OPEN, SHORT, a_kind, absent_kind, caption, open_question
from tasks.scenes.world import BACKGROUNDS, CELLS, COLORS, GLYPHS, PLURALS, SHAPES, SIZES, Kind, Scene, image_of, scenes
from trainers.povid.inject import CHANGES, Change, Correct
from trainers.povid.inject import Kind as AnswerKind

if TYPE_CHECKING:
    from PIL.Image import Image

_COLOR, _SHAPE, _CELL = "|".join(COLORS), "|".join(SHAPES), "|".join(CELLS)
_THING = re.compile(
    rf"\ban? (?P<size>{'|'.join(SIZES)})? ?(?P<color>{_COLOR}) (?P<shape>{_SHAPE})(?: at the (?P<cell>{_CELL}))?"
)


class ScenesInjector(ThreadedJudge):
    """A judge that puts a mistake into a true answer about a rendered scene."""

    model = SCENES

    def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
        """The reply to one of POVID's prompts; JudgeError for pictures without a scene, or unsuitable answers."""
        if image is None or "scene" not in image.info:
            raise JudgeError(
                "the exact injector can only rewrite answers about rendered scenes (this image carries no scene graph)"
            )
        scene = Scene.from_json(image.info["scene"])
        try:
            data = json.loads(prompt.rstrip().rsplit("\n", 1)[-1])
            question, answer, wanted = data["question"], data["answer"], data["wanted"]
        except (ValueError, KeyError, TypeError) as error:
            raise JudgeError(
                f"the exact injector found no answer to rewrite in the last line of the prompt: {error}"
            ) from error
        rng = random.Random(f"inject/{scene.id}/{question}/{wanted}/{len(data.get('refused', []))}")
        if answer_to(question, scene) is not None:
            found = _wrong_answer(question, answer, rng)
        else:
            found = next(
                (made for change in (wanted, *CHANGES) if (made := _IN_CAPTION[change](scene, answer, rng))), None
            )
        if found is None:
            raise JudgeError(f"the exact injector can put no mistake into {answer!r}")
        kind, rewrite = found
        return json.dumps({"kind": kind, "answer": rewrite})


Made = tuple[Change, str]


def _with_absent(scene: Scene, text: str, rng: random.Random) -> Made | None:
    """Add an absent thing before the first one that the caption names."""
    first = _THING.search(text) or re.search(r"\ba sign", text)
    if first is None:
        return None
    name = a_kind(absent_kind(scene, rng))
    if first.group().rpartition(" at the ")[0]:  # a caption that gives sizes and places
        size = rng.choice(SIZES)
        taken = {thing.cell for thing in scene.things} | ({scene.sign.cell} if scene.sign else set())
        cell = rng.choice([place for number, place in enumerate(CELLS) if number not in taken])
        name = f"a {size} {name.split(' ', 1)[1]} at the {cell}"
    alone = " and " not in text
    return "object", f"{text[: first.start()]}{name}{' and ' if alone else ', '}{text[first.start() :]}"


def _with_wrong_attribute(scene: Scene, text: str, rng: random.Random) -> Made | None:
    """Change a thing's colour or size so that the scene has no such thing."""
    found = list(_THING.finditer(text))
    if not found:
        return None
    thing = rng.choice(found)
    if thing["size"] and rng.random() < 0.3:
        start, end = thing.span("size")
        other = SIZES[1 - SIZES.index(thing["size"])]
        if not any(one.kind == (thing["color"], thing["shape"]) and one.size == other for one in scene.things):
            return "attribute", text[:start] + other + text[end:]
    color = rng.choice([color for color in COLORS if (color, thing["shape"]) not in scene.kinds])
    words = " ".join(part for part in (thing["size"], color, thing["shape"]) if part)
    start, end = thing.start(), thing.end("shape")
    return "attribute", f"{text[:start]}{'an' if words[0] == 'o' else 'a'} {words}{text[end:]}"


def _with_wrong_place(scene: Scene, text: str, rng: random.Random) -> Made | None:
    """Move a thing to a cell that has no such thing."""
    found = [thing for thing in _THING.finditer(text) if thing["cell"]]
    if not found:
        return None
    thing = rng.choice(found)
    kind: Kind = (thing["color"], thing["shape"])
    there = {CELLS[one.cell] for one in scene.things if one.kind == kind}
    start, end = thing.span("cell")
    return "relation", text[:start] + rng.choice([cell for cell in CELLS if cell not in there]) + text[end:]


_IN_CAPTION: dict[str, Callable[[Scene, str, random.Random], Made | None]] = {
    "object": _with_absent,
    "attribute": _with_wrong_attribute,
    "relation": _with_wrong_place,
}

_WORDS: tuple[tuple[Change, tuple[str, ...]], ...] = (
    ("relation", CELLS),
    ("relation", ("left", "right")),
    ("relation", ("above", "below")),
    ("attribute", tuple(COLORS)),
    ("attribute", NUMBERS),
    ("attribute", BACKGROUNDS),
    ("attribute", tuple(PLURALS.values())),
    ("attribute", GLYPHS),
)
"""Words of short answers: one of a row is replaced by another."""


def _wrong_answer(question: str, answer: str, rng: random.Random) -> Made | None:
    """Turn a short answer into its opposite, or into another of its kind."""
    said = answer.strip(" .").lower()
    if said in ("yes", "no"):
        where = re.search(r"\b(left|right|above|below|at) ", question)
        about: Change = "object" if question.startswith("is there ") else "relation" if where else "attribute"
        return about, "no" if said == "yes" else "yes"
    if said.startswith("there is no "):
        return "object", rng.choice(tuple(COLORS))
    for kind, words in _WORDS:
        word = next((word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", said)), None)
        if word is not None:
            asked = [other for other in words if other != word and re.search(rf"\b{other}\b", question)]
            return kind, said.replace(word, rng.choice(asked or [other for other in words if other != word]))
    return None


def scenes_items(count: int, seed: int, split: str = "train") -> Iterator[Correct]:
    """True captions and short answers about `count` scenes of a split; PNGs have the scene graph in their text."""
    rng = random.Random(f"povid/scenes/{seed}")
    for row, scene in enumerate(islice(scenes(f"{split}/{seed}"), count)):
        question = None
        if rng.random() >= 0.6:
            question = open_question(scene, rng.choice([type for type in OPEN if type != "holistic"]), rng)
        if question is None:
            detailed = rng.random() < 0.8
            prompt, answer = rng.choice(DETAILED if detailed else SHORT), caption(scene, detailed)
        else:
            prompt, answer = question.text, question.answer
        kind: AnswerKind = "caption" if question is None else "question"
        yield Correct(row=row, id=scene.id, prompt=prompt, image=_picture(scene), answer=answer, kind=kind)


def _picture(scene: Scene) -> ImageRef:
    buffer, info = io.BytesIO(), PngInfo()
    info.add_text("scene", scene.to_json())
    image_of(scene.id).save(buffer, "PNG", pnginfo=info)
    return ImageRef(f"images/{scene.id.replace('/', '-')}.png", data=buffer.getvalue())
