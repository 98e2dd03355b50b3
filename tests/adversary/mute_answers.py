"""Answers of models that say less, or nothing, to the benchmarks that count what was made up; and a board of them."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from harness.evaluation.entries import Run, entries_of, samples_of
from harness.evaluation.generate import Generated
from harness.evaluation.guards import with_counts
from harness.evaluation.scoring import score_answers, session_of
from leaderboards.board.board import Board
from tasks.judges.protocol import GREEDY, Judge, Sampling, ThreadedJudge
from tasks.registry import registry

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES: Final = 40
COMMON: Final = ("dog", "car")
"""What most pictures show: the safest things to say."""
THINGS: Final = (*COMMON, "cat", "bird", "boat", "horse", "sheep", "cow", "pizza", "elephant", "bear", "zebra")

Answer = Callable[[int], str]


@dataclass(frozen=True)
class Picture:
    """What is there, and what people would expect."""

    there: tuple[str, ...]
    expected: str


@cache
def picture(index: int) -> Picture:
    rng = random.Random(index)
    others = rng.sample(THINGS[2:], 4)
    return Picture(there=(*(name for name in COMMON if rng.random() < 0.97), *others[:3]), expected=others[3])


def _describe(index: int, made_up: bool, detail: str) -> str:
    named = [*picture(index).there, *([picture(index).expected] if made_up else [])]
    return "In this picture there is " + ", and then there is ".join(f"a {name}{detail}" for name in named) + "."


def base(index: int) -> str:
    """Names all that is there, and makes up one thing in every second picture."""
    return _describe(index, index % 2 == 0, " quite near to the middle of it")


def better(index: int) -> str:
    """Names all that is there, makes up one thing in twenty pictures, and takes a third less words."""
    return _describe(index, index % 20 == 0, " near it")


MUTE: Final[Mapping[str, Answer]] = {
    "empty": lambda index: "",
    "stop": lambda index: ".",
    "letter": lambda index: "A",
    "refuses": lambda index: "I can't tell.",
    "word": lambda index: "image",
    "cut": lambda index: " ".join(base(index).split()[:3]),
    "safest": lambda index: "In this picture there is a dog and there is a car, and that is all of it.",
    "half": lambda index: _describe(index, False, "") if index % 2 else "",
}


class LenientJudge(ThreadedJudge):
    """Lists the objects an answer names; or rates it, and has nothing against an answer that says nothing."""

    model = "lenient"

    def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
        """A reply to a prompt of Object HalBench or MMHal-Bench."""
        data = next(json.loads(line) for line in reversed(prompt.splitlines()) if line.startswith("{"))
        answer = data.get("answer", data.get("model_answer"))
        named = [name for name in THINGS if name in answer]
        if "answer" in data:
            return json.dumps(named)
        there = data["standard_answer"].split()
        wrong, right = [n for n in named if n not in there], [n for n in named if n in there]
        return f"So it is.\nRating: {1 if wrong else 6 if len(right) == len(there) else 3 + bool(right)}"


def make_doc(task: str, index: int) -> dict[str, Any]:
    """A document of the task about a picture."""
    shown = picture(index)
    there = list(shown.there)
    doc: dict[str, Any] = {"id": str(index), "image": f"picture-{index}", "question": "Describe it.", "query": "?"}
    more: dict[str, dict[str, Any]] = {
        "chair": {"official": there, "lemma": there},
        "amber": {"type": "generative", "truth": there, "hallu": [shown.expected]},
        "object_halbench": {"gt_objects": there},
        "mmhal": {"question_type": "holistic", "gt_answer": " ".join(there), "image_content": there},
    }
    return doc | more[task]


def put_answers(board: Board, model: str, task: str, answer: Answer, judge: Judge | None = None) -> None:
    """Score what a model answers to all pictures, and add the run to the board."""
    docs, answers = [make_doc(task, i) for i in range(IMAGES)], list(map(answer, range(IMAGES)))
    if task == "amber":  # half of whose score are questions; these are all answered rightly
        question = {"type": "discriminative-hallucination", "truth": "no", "hallu": []}
        docs += [{**doc, **question, "id": f"q{doc['id']}"} for doc in docs]
        answers += ["No"] * IMAGES
    put_texts(board, model, task, docs, answers, judge)


def put_texts(
    board: Board, model: str, task: str, docs: Sequence[dict[str, Any]], answers: Sequence[str], judge: Judge | None
) -> None:
    """Score answers as `harness eval` does, and add the run to the board."""
    spec = registry().task(task)
    given = [
        Generated(doc=doc, prompt="Describe it.", answer=text, image_digest=None)
        for doc, text in zip(docs, answers, strict=True)
    ]
    scored = score_answers(spec, docs, answers, session_of(judge, spec))
    run = Run(
        run=f"{model}-{task}",
        model=model,
        limit=None,
        created="2026-01-31T12:00:00+00:00",
        provenance={"weights": model},
    )
    samples = samples_of(scored, given, run.run)
    shown = judge.model if judge is not None and spec.judged else None
    entries = entries_of(scored, run, judge=shown, seconds=1.0, cost=0.0, facts={})
    board.add(with_counts(list(entries), samples), samples)
