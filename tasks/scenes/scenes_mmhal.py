"""MMHal-Bench over rendered scenes: open questions of its eight types, each answer rated 0-6 by the judge in use."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.benchmarks import mmhal
from tasks.judges.protocol import Doc, JudgeReply, JudgeSession, scores_replies
from tasks.scenes.dataset import as_dataset
from tasks.scenes.language import OPEN, mentions, open_question
from tasks.scenes.world import Scene, image_of, make_scene, scenes

QUESTIONS = 12
"""Questions of each type, as in MMHal-Bench."""

score = mmhal.score
hallucination_rate = mmhal.hallucination_rate


def contents(scene: Scene) -> list[str]:
    """What MMHal-Bench gives a text judge to know the image by."""
    return [mention.phrase(detailed=True) for mention in mentions(scene)] + [f"a {scene.background} background"]


def questions(split: str) -> list[dict[str, str]]:
    """Eight types, interleaved as in MMHal-Bench."""
    found: dict[str, list[dict[str, str]]] = {}
    for type in OPEN:
        rng = random.Random(f"mmhal/{split}/{type}")
        found[type] = []
        for scene in scenes(f"{split}/mmhal/{type}"):
            question = open_question(scene, type, rng)
            if question:
                row = {"type": type, "question": question.text, "answer": question.answer}
                found[type].append({"id": scene.id, "scene": scene.id, **row})
            if len(found[type]) == QUESTIONS:
                break
    return [found[type][index] for index in range(QUESTIONS) for type in OPEN]


def load(split: str = "test", **_: Any) -> Mapping[str, Sequence[Any]]:
    """The dataset as lm-eval wants it."""
    return as_dataset(questions(split))


def judge(answers: Sequence[str], docs: Sequence[Doc], session: JudgeSession) -> list[JudgeReply]:
    """The judge's rating of every answer; it sees the image, too."""
    asked = [{"gt_answer": doc["answer"], "image_content": contents(make_scene(doc["scene"])), **doc} for doc in docs]
    replies = mmhal.judge(answers, asked, session, lambda doc: image_of(doc["scene"]))
    for row, doc in zip(asked, docs, strict=True):
        if (why := session.lost.pop(id(row), None)) is not None:
            session.lost[id(doc)] = why
    return replies


@scores_replies
def process_results(doc: Doc, results: list[JudgeReply]) -> dict[str, dict[str, Any]]:
    """One record for every metric; nothing where the judge gave no rating, so that the answer stays unscored."""
    rating = results[0]["rating"]
    if rating is None:
        return {}
    record = {"image": doc["scene"], "type": doc["type"], "rating": rating}
    return dict.fromkeys(("score", "hallucination_rate"), record)
