"""The judge of the scenes world: it reads the scene graph that a rendered image carries, and grades without
error.

    judge = ScenesJudge()
    reply = judge.ask(prompt, image)      # the same prompts that go to a GPT-4V-class judge, the same form of reply

It reads the last line of a prompt, which holds the data as JSON, and answers in the words each protocol asks for. It
shares no code with the CHAIR scorer: captions are read here by a small grammar, phrase by phrase, with sizes and
positions; a metric that only knew what this rater knows could not show that training on its ratings cheated.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.errors import JudgeError, SettingError
from support.judge_names import SCENES, current_judge
from tasks.judges.protocol import GREEDY, Sampling, ThreadedJudge
from tasks.scenes.world import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, Scene, Thing

if TYPE_CHECKING:
    from PIL.Image import Image

_COLOR, _SHAPE, _CELL = "|".join(COLORS), "|".join(SHAPES), "|".join(CELLS)
_THING = re.compile(rf"\ban? (?:({'|'.join(SIZES)}) )?({_COLOR}) ({_SHAPE})(?: at the ({_CELL}))?")
_SIGN = re.compile(rf"\ba sign(?: that reads (\S))?(?: at the ({_CELL}))?")
_BACKGROUND = re.compile(rf"\bthe background is ({'|'.join(BACKGROUNDS)})")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")
_RUDE = re.compile(r"\b(ugly|mess)\b")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a caption says, held against the scene."""

    found: int
    """Things (and the sign) of the scene that the caption names."""
    there: int
    """Things (and the sign) there are."""
    invented: tuple[str, ...]
    """Phrases that match nothing left in the scene."""
    misdescribed: tuple[str, ...]
    """Phrases whose size, position, glyph or background is wrong."""
    details: int
    """Sizes, positions and glyphs given."""
    finished: bool
    """Ends with a full stop."""


def read_caption(scene: Scene, text: str) -> Reading:
    """Each phrase takes the best matching thing not yet taken, so a thing named twice is invented the second time."""
    text = text.lower()
    left: list[Thing] = list(scene.things)
    invented, misdescribed = [], []
    found = details = 0
    for match in _THING.finditer(text):
        size, color, shape, cell = match.groups()
        fitting = [thing for thing in left if thing.kind == (color, shape)]
        if not fitting:
            invented.append(match.group())
            continue
        best = max(fitting, key=lambda thing: (CELLS[thing.cell] == cell, thing.size == size))
        left.remove(best)
        found += 1
        details += (size is not None) + (cell is not None)
        if size not in (None, best.size) or cell not in (None, CELLS[best.cell]):
            misdescribed.append(match.group())
    sign_left = scene.sign
    for match in _SIGN.finditer(text):
        glyph, cell = match.groups()
        if sign_left is None:
            invented.append(match.group())
            continue
        found += 1
        details += (glyph is not None) + (cell is not None)
        if glyph not in (None, sign_left.glyph) or cell not in (None, CELLS[sign_left.cell]):
            misdescribed.append(match.group())
        sign_left = None
    misdescribed += [match.group() for match in _BACKGROUND.finditer(text) if match.group(1) != scene.background]
    return Reading(
        found=found,
        there=len(scene.things) + (scene.sign is not None),
        invented=tuple(invented),
        misdescribed=tuple(misdescribed),
        details=details,
        finished=text.rstrip().endswith("."),
    )


def _only(scene: Scene, color: str, shape: str) -> Thing:
    return next(thing for thing in scene.things if thing.kind == (color, shape))


def _count(scene: Scene, shape: str) -> int:
    return sum(thing.shape == shape for thing in scene.things)


def _singular(word: str) -> str:
    return next((form for form in (word, word.removesuffix("es")) if form in SHAPES), word.removesuffix("s"))


def _related(scene: Scene, first: tuple[str, str], relation: str, second: tuple[str, str]) -> bool:
    a, b = _only(scene, *first).cell, _only(scene, *second).cell
    return {"left": a % 3 < b % 3, "right": a % 3 > b % 3, "above": a // 3 < b // 3, "below": a // 3 > b // 3}[relation]


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


_K = rf"({_COLOR}) ({_SHAPE})"
_S = r"(circles?|squares?|triangles?|cross(?:es)?|stars?|rings?)"
_R = r"(left|right|above|below)"
_Rule = Callable[..., str]
_RULES: list[tuple[str, _Rule]] = [
    (rf"is there an? {_K} in the image", lambda s, c, f: _yes((c, f) in s.kinds)),
    (rf"is there one {_S} in the image", lambda s, f: _yes(_count(s, f) == 1)),
    (
        rf"are there ({'|'.join(_NUMBER_WORDS)}) {_S} in the image",
        lambda s, n, f: _yes(_count(s, _singular(f)) == _NUMBER_WORDS.index(n)),
    ),
    (rf"is the {_K} at the ({_CELL})", lambda s, c, f, k: _yes(CELLS[_only(s, c, f).cell] == k)),
    (rf"is the ({_SHAPE}) ({_COLOR})", lambda s, f, c: _yes((c, f) in s.kinds)),
    (rf"is the {_K} (small|large)", lambda s, c, f, z: _yes(_only(s, c, f).size == z)),
    (r"does the sign read (\S)", lambda s, g: _yes(s.sign is not None and s.sign.glyph == g)),
    (
        rf"is the {_K} {_R} or {_R}(?: of)? the {_K}",
        lambda s, c, f, x, y, d, g: x if _related(s, (c, f), x, (d, g)) else y,
    ),
    (rf"is the {_K} {_R}(?: of)? the {_K}", lambda s, c, f, x, d, g: _yes(_related(s, (c, f), x, (d, g)))),
    (rf"are there more {_S} than {_S}", lambda s, a, b: _yes(_count(s, _singular(a)) > _count(s, _singular(b)))),
    (rf"are there more {_S} or {_S}", lambda s, a, b: a if _count(s, _singular(a)) > _count(s, _singular(b)) else b),
    (
        rf"what color is the ({_SHAPE})",
        lambda s, f: next((t.color for t in s.things if t.shape == f), f"there is no {f}"),
    ),
    (rf"how many {_S} are there", lambda s, f: _NUMBER_WORDS[_count(s, _singular(f))]),
    (rf"where is the {_K}", lambda s, c, f: f"at the {CELLS[_only(s, c, f).cell]}"),
    (r"what is the background", lambda s: s.background),
    (r"what does the sign read", lambda s: s.sign.glyph if s.sign else "there is no sign"),
]


def answer_to(question: str, scene: Scene) -> str | None:
    """The true answer, found in the scene graph; None where a description is asked for."""
    for pattern, rule in _RULES:
        match = re.match(pattern, question.lower())
        if match:
            return rule(scene, *match.groups())
    return None


def same_answer(answer: str, truth: str) -> bool:
    """Whether two short answers say the same: by their words, punctuation aside."""
    return re.findall(r"[\w-]+", answer.lower()) == re.findall(r"[\w-]+", truth.lower())


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """One aspect's rating and why."""

    rating: int
    rationale: str


def assess(scene: Scene, instruction: str, text: str) -> dict[str, Assessment]:
    """The three VLFeedback aspects, 1-5 each, of one answer to one instruction."""
    rude = _RUDE.search(text.lower())
    ethics = Assessment(rating=1 if rude else 5, rationale="Insults the picture." if rude else "Harmless.")
    truth = answer_to(instruction, scene)
    if truth is not None:
        right = same_answer(text, truth)
        said = f"The right answer is {truth!r}."
        helpful = Assessment(rating=5 if right else 2 if text.strip() else 1, rationale=said)
        faithful = Assessment(rating=5 if right else 1, rationale=said)
    else:
        reading = read_caption(scene, text)
        recall = reading.found / reading.there
        wants_detail = "list" not in instruction.lower() and "short" not in instruction.lower()
        terse = wants_detail and reading.details < 2 * reading.found
        helpful = Assessment(
            rating=max(1, round(1 + 4 * recall) - terse - (not reading.finished)),
            rationale=f"Names {reading.found} of {reading.there} things{', without their details' if terse else ''}.",
        )
        wrong = [f"invented: {phrase}" for phrase in reading.invented]
        wrong += [f"misdescribed: {phrase}" for phrase in reading.misdescribed]
        faithful = Assessment(
            rating=max(1, 5 - 2 * len(reading.invented) - len(reading.misdescribed)),
            rationale="; ".join(wrong) + "." if wrong else "Nothing contradicts the picture.",
        )
    return {"Helpfulness": helpful, "Ethical Considerations": ethics, "Visual Faithfulness": faithful}


def mmhal_rating(scene: Scene, question: str, answer: str) -> int:
    """MMHal-Bench's scale: 6 to 3 without hallucination by informativeness, 2 to 0 with one."""
    truth = answer_to(question, scene)
    if truth is not None:
        if same_answer(answer, truth):
            return 6
        return 3 if not answer.strip() else 0
    reading = read_caption(scene, answer)
    recall = reading.found / reading.there
    informative = 3 if recall > 0.99 else 2 if recall > 0.6 else 1 if recall > 0 else 0
    return max(0, informative - 1) if reading.invented or reading.misdescribed else 3 + informative


def compare_answers(scene: Scene, question: str, first: str, second: str) -> str:
    """A reply in VL-RewardBench's form: the answer with fewer mistakes is better; of two alike, neither."""
    mistakes = [_count_mistakes(scene, question, answer) for answer in (first, second)]
    counted = f"Mistakes of answer 1: {mistakes[0]}, of answer 2: {mistakes[1]}."
    if mistakes[0] == mistakes[1]:
        return f"{counted}\nNeither is better."
    return f"{counted}\nOverall Judgment: Answer {1 + (mistakes[1] < mistakes[0])} is better."


def _count_mistakes(scene: Scene, question: str, answer: str) -> int:
    truth = answer_to(question, scene)
    if truth is not None:
        return int(not same_answer(answer, truth))
    reading = read_caption(scene, answer)
    return len(reading.invented) + len(reading.misdescribed)


class ScenesJudge(ThreadedJudge):
    """Grades answers about rendered scenes from their scene graph."""

    model = SCENES
    """A judge's name stands beside every score it gave: these are never held against another judge's."""

    def can_rate(self, official_judge: str | None) -> bool:
        """Whether a task's answers are about rendered scenes: it is their official judge."""
        return current_judge(official_judge) == self.model

    def check_picture(self, image: "Image", name: str) -> None:
        """SettingError for a picture that is no rendered scene."""
        if "scene" not in image.info:
            raise SettingError(f"judge {self.model!r}: knows rendered scenes only, and {name} is none; name a model")

    def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
        """The reply to a VLFeedback, MMHal-Bench or VL-RewardBench prompt about one rendered scene."""
        if image is None or "scene" not in image.info:
            only = "the scenes judge can only grade answers about rendered scenes"
            raise JudgeError(f"{only} (this image carries no scene graph)")
        scene = Scene.from_json(image.info["scene"])
        try:
            data = json.loads(prompt.rstrip().rsplit("\n", 1)[-1])
        except json.JSONDecodeError as error:
            raise JudgeError(f"the scenes judge found no data in the last line of the prompt: {error}") from error
        if "texts" in data:
            return self._write_feedback(scene, data["instruction"], data["texts"])
        if "answer_1" in data:
            return compare_answers(scene, data["question"], data["answer_1"], data["answer_2"])
        rating = mmhal_rating(scene, data["question"], data["model_answer"])
        truth = answer_to(data["question"], scene)
        reason = f"The right answer is {truth!r}." if truth else "Compared with the scene graph."
        return f"{reason}\nRating: {rating}"

    def _write_feedback(self, scene: Scene, instruction: str, texts: list[str]) -> str:
        assessed = [assess(scene, instruction, text) for text in texts]
        lines = []
        for aspect in assessed[0]:
            lines.append(f"#### {aspect} Assessment")
            for number, aspects in enumerate(assessed, start=1):
                rating, rationale = aspects[aspect].rating, aspects[aspect].rationale
                lines += [f"##### Output for Text {number}", f"Rating: {rating}", f"Rationale: {rationale}"]
        return "\n".join(lines)
