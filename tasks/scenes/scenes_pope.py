"""POPE over rendered scenes. Absent objects are drawn at random, by frequency and by co-occurrence."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from tasks.benchmarks import pope, yes_no
from tasks.scenes.dataset import as_dataset
from tasks.scenes.language import exists
from tasks.scenes.world import COLORS, COMPANIONS, SHAPES, Kind, Scene, scenes

IMAGES = 60
PROBES = 2
"""Objects present, and as many absent, asked of each image in each split (fewer where a scene has only one object)."""

accuracy = pope.accuracy
precision = pope.precision
recall = pope.recall
f1 = pope.mean_f1
yes_rate = pope.yes_rate

KINDS: tuple[Kind, ...] = tuple((color, shape) for color in COLORS for shape in SHAPES)
POPULAR = tuple(kind for anchor, companion in COMPANIONS.items() for kind in (anchor, companion))
"""The most frequent objects of the world: every anchor and companion."""


def _random(scene: Scene, rng: random.Random) -> list[Kind]:
    return rng.sample(KINDS, len(KINDS))


def _popular(scene: Scene, rng: random.Random) -> list[Kind]:
    return rng.sample(POPULAR, len(POPULAR)) + _random(scene, rng)


def _adversarial(scene: Scene, rng: random.Random) -> list[Kind]:
    """What usually stands beside the things that are there: companions of anchors, anchors of companions."""
    beside = [COMPANIONS[kind] for kind in COMPANIONS if kind in scene.kinds]
    beside += [anchor for anchor, companion in COMPANIONS.items() if companion in scene.kinds]
    return beside + _popular(scene, rng)


ABSENT: dict[str, Callable[[Scene, random.Random], list[Kind]]] = {
    "random": _random,
    "popular": _popular,
    "adversarial": _adversarial,
}


def questions(split: str) -> list[dict[str, str]]:
    """As many objects present as absent for each image, in each of POPE's three splits."""
    rows = []
    for category, candidates in ABSENT.items():
        rng = random.Random(f"pope/{split}/{category}")
        for scene in islice(scenes(f"{split}/pope"), IMAGES):
            present = sorted(scene.kinds)
            present = rng.sample(present, min(PROBES, len(present)))
            absent = [kind for kind in dict.fromkeys(candidates(scene, rng)) if kind not in scene.kinds][: len(present)]
            for kind, answer in [(kind, "yes") for kind in present] + [(kind, "no") for kind in absent]:
                row = {"scene": scene.id, "category": category, "question": exists(kind), "answer": answer}
                rows.append({"id": f"{scene.id}/{category}/{' '.join(kind)}", **row})
    return rows


def load(split: str = "test", **_: Any) -> Mapping[str, Sequence[Any]]:
    """The dataset as lm-eval wants it."""
    return as_dataset(questions(split))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    record = yes_no.record(doc["scene"], doc["category"], pope.parse(results[0]), doc["answer"])
    return dict.fromkeys(("f1", "accuracy", "precision", "recall", "yes_rate"), record)
