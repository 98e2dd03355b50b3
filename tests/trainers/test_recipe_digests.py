"""A run folder belongs to one digest: those of earlier versions must stay as they are, and so must what they record."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from trainers.config.recipe import find_recipe, known_recipes, preference_recipe

TRAINING = {"learning_rate": 1e-3, "batch_size": 4}
LORA = {"r": 4, "alpha": 8, "targets": "x", "rslora": True, "init": "pissa"}
PAIRS = {
    "rule": "weighted",
    "aspects": ["Helpfulness", "Visual Faithfulness"],
    "weights": {"Helpfulness": 2, "Visual Faithfulness": 0.5},
    "min_margin": 0.5,
    "largest_gap": True,
    "max_length_ratio": 2,
    "min_chosen": 3,
    "per_instruction": 2,
    "balance_yes_no": True,
}
READ = {"read": "x.jsonl", "images": "pictures", "format": "trl", **PAIRS, "test_share": 0.1, "split_seed": 1}
BUILT = {
    "source": "scenes",
    "sources": [{"name": "scenes", "weight": 1}, {"name": "mine", "path": "x.csv", "count": 3}],
    "filters": {"min_words": 2, "near": False},
    "instructions": 9,
    "pool": [{"model": "a", "temperature": 0}, {"model": "b", "label": "c"}],
    "judge": "gpt",
    "mode": "per-aspect",
    "order": "authors",
    **PAIRS,
}
DIGESTS: list[tuple[str, Mapping[str, Any], str, str]] = [
    ("dpo-longest", {}, "1021ce7e9cccd6da", "1d5078ead61a2138"),
    ("dpo-strongest", {}, "af2991a760554627", "f655d4af70cc9361"),
    ("mdpo", {}, "d1b22d76a7256aa5", "820b21613ea47884"),
    ("povid-stage1", {}, "82c76beec1ce6d7d", "d7049a441fdee8c5"),
    ("povid-stage2", {}, "f36db88af0beb429", "1552ddc99e5b65ec"),
    ("scenes-base", {}, "ade230b7fa8033f5", "b47f5dff8726a1b9"),
    ("scenes-demo", {}, "cfda711064ca0750", "ac0b15007514d5c0"),
    ("sft-best", {}, "a94ee935f29ef4d9", "5ed62d329900226b"),
    ("silkie-llava", {}, "bdd51cda889aaf4d", "eec1f84611c4ed73"),
    ("silkie-qwen2.5-vl", {}, "dd62dbfa6fb83416", "8f0475114dd391bf"),
    ("silkie", {}, "2b475c711698da9c", "5528b963f019e1ae"),
    ("silkie", {"seed": 5}, "44618b0449223773", "b3e5f6240f0677cb"),
    (
        "silkie",
        {"tasks": ["mmhal"], "panel": ["amber.f1"], "curves": ["amber.f1"], "control": True},
        "e33450cf95c6e6ab",
        "c04cf1e62db4b5c8",
    ),
    ("silkie", {"dataset": READ}, "6d7d81fb92d512a1", "50779e1a3f69d4c1"),
    (
        "silkie",
        {"dataset": {"read": "x", "rule": "strongest", "strongest": "GPT-4V", "limit": 5, "image_tokens": "drop"}},
        "b7a69a49b37fff54",
        "5ecd765cda0a64e6",
    ),
    ("scenes-demo", {"data": BUILT}, "214c8671654a4b8f", "fc50f126ddfb6c1a"),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "cdpo", "smoothing": 0.1, "sft_weight": 1, "lora": LORA}},
        "8120747f100a38dc",
        "433b8cb8ebe80ee4",
    ),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "ddpo", "gamma": 2, "plain_trl": True, "report_to": ["wandb"]}},
        "20ed2d83594261fa",
        "a2a1158c5211aa47",
    ),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "mdpo", "anchor": 0.5, "crop_area": [0.1, 0.2], "train_vision": True}},
        "1d2ca01f7963a690",
        "709b180113043de4",
    ),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "povid-paper", "noise": {"step": 9, "alpha": 1, "place": "after"}}},
        "a8333f68bac00ff5",
        "0b19427f449018e7",
    ),
    ("scenes-base", {"seed": 3, "note": "a control"}, "92398c0547aa5c27", "1cdf585ad3156f25"),
]
"""Recipe, what is changed in it, its digest, and the start of SHA-256 of all that it holds as JSON."""


@pytest.mark.parametrize(("name", "changes", "digest", "held"), DIGESTS)
def test_digests_stay_as_they_were(name: str, changes: Mapping[str, Any], digest: str, held: str) -> None:
    recipe = find_recipe(name, **changes)
    assert recipe.digest == digest
    assert hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:16] == held


def test_every_recipe_of_the_package_is_among_them() -> None:
    assert {name for name, changes, _, _ in DIGESTS if not changes} == set(known_recipes())


EARLIER = {
    "dpo-longest": "59562e095bbd33f2",
    "dpo-strongest": "cf1c618cc4b0a709",
    "povid-stage1": "b2375207465e7495",
    "povid-stage2": "a8bbc7988f1d08c1",
    "sft-best": "642505b603c4d280",
    "silkie-llava": "6e7d6ad7b5da0a2b",
    "silkie-qwen2.5-vl": "04dd0cbcb908c332",
    "silkie": "f1249b3c8d7080ad",
}
"""Digests of recipes when they scored every checkpoint."""


@pytest.mark.parametrize("name", EARLIER)
def test_a_recipe_that_scores_every_checkpoint_is_the_earlier_one(name: str) -> None:
    recipe = preference_recipe(name)
    every = recipe.training.model_copy(update={"score_checkpoints": None})
    assert recipe.training.score_checkpoints == 5
    assert recipe.model_copy(update={"training": every}).digest == EARLIER[name]
