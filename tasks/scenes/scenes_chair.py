"""CHAIR over rendered scenes: which objects does a detailed caption name that are not there?

An object is a colour and a shape ("red circle"), which CHAIR's double-word rule merges to one word, or a sign. CHAIR
reads words, not phrases: sizes and positions are not checked, and an object named twice is right twice.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from tasks.benchmarks import chair
from tasks.metric import mean_of
from tasks.scenes.dataset import as_dataset
from tasks.scenes.language import DETAILED
from tasks.scenes.world import COLORS, SHAPES, Scene, scenes

IMAGES = 400

_NAMES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
VOCABULARY = chair.Vocabulary(
    synonyms={name: name for name in (*_NAMES, "sign")},
    double_words={name: name for name in _NAMES},
    base_forms=list,  # scene captions name things one by one
)

chair_s = chair.chair_s
chair_i = chair.chair_i
coverage = chair.coverage
length = chair.length
planted = mean_of("claims_companion", scale=100, among=lambda record: record["claims_companion"] is not None)
"""% of scenes whose companion is missing in which the caption names it: the planted language bias."""


def objects(scene: Scene) -> list[str]:
    """What is there, by name."""
    return sorted({" ".join(thing.kind) for thing in scene.things} | ({"sign"} if scene.sign else set()))


def load(split: str = "test", **_: Any) -> Mapping[str, Sequence[Any]]:
    """One caption a scene; the instructions take turns."""
    rows = [
        {
            "id": scene.id,
            "scene": scene.id,
            "question": DETAILED[index % len(DETAILED)],
            "objects": objects(scene),
            "missing": " ".join(scene.missing_companion or ()),
        }
        for index, scene in enumerate(islice(scenes(f"{split}/chair"), IMAGES))
    ]
    return as_dataset(rows)


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """One record for every metric."""
    counts = chair.record(doc["scene"], results[0], doc["objects"], VOCABULARY)
    claims = doc["missing"] in chair.mentions(results[0], VOCABULARY) if doc["missing"] else None
    record = {**counts, "claims_companion": claims}
    return dict.fromkeys(("chair_s", "chair_i", "coverage", "length", "planted"), record)
