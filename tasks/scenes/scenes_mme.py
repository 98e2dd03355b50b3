"""MME over rendered scenes: yes/no questions in pairs, read and scored by MME's own rules."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.benchmarks import mme, yes_no
from tasks.scenes.dataset import as_dataset
from tasks.scenes.language import COGNITION, PERCEPTION, YES_NO, YES_NO_SUFFIX, yes_no_pair
from tasks.scenes.world import scenes

IMAGES = 25
"""Images per category, two questions each."""

perception = mme.total(PERCEPTION)
cognition = mme.total(COGNITION)
accuracy = yes_no.accuracy
accuracy_plus = mme.accuracy_plus()
yes_rate = yes_no.yes_rate


def questions(split: str) -> list[dict[str, str]]:
    """Rows of one split: `IMAGES` pairs a category, drawn from the endless scenes of that split and category."""
    rows = []
    for category in YES_NO:
        rng = random.Random(f"mme/{split}/{category}")
        found = 0
        for scene in scenes(f"{split}/mme/{category}"):
            pair = yes_no_pair(scene, category, rng)
            if pair is None:
                continue
            for question in pair:
                row = {"category": category, "question": question.text + YES_NO_SUFFIX, "answer": question.answer}
                rows.append({"id": f"{scene.id}/{question.answer}", "scene": scene.id, **row})
            found += 1
            if found == IMAGES:
                break
    return rows


def load(split: str = "test", **_: Any) -> Mapping[str, Sequence[Any]]:
    """The dataset as lm-eval wants it; other splits ("tune") are for choosing settings."""
    return as_dataset(questions(split))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    record = yes_no.record(doc["scene"], doc["category"], mme.parse(results[0]), doc["answer"])
    return dict.fromkeys(("perception", "cognition", "accuracy", "accuracy_plus", "yes_rate"), record)
