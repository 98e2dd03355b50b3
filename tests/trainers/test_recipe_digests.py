"""A run folder belongs to one digest: those of earlier versions must stay as they are, and so must what they record."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from trainers.config.recipe import find_recipe, known_recipes

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
    ("dpo-longest", {}, "59562e095bbd33f2", "8a38b040ef5c84ac"),
    ("dpo-strongest", {}, "cf1c618cc4b0a709", "efdc769114a0625c"),
    ("mdpo", {}, "d1b22d76a7256aa5", "5f2fbbf2d4734fd8"),
    ("povid-stage1", {}, "b2375207465e7495", "3854b01096adc5fa"),
    ("povid-stage2", {}, "a8bbc7988f1d08c1", "8b9097295198204d"),
    ("scenes-base", {}, "ade230b7fa8033f5", "b47f5dff8726a1b9"),
    ("scenes-demo", {}, "cfda711064ca0750", "71a34b2a79aac031"),
    ("sft-best", {}, "642505b603c4d280", "e06eb907aec1d849"),
    ("silkie-llava", {}, "6e7d6ad7b5da0a2b", "344cbfd2a68299da"),
    ("silkie-qwen2.5-vl", {}, "04dd0cbcb908c332", "ec4888d74b0f7345"),
    ("silkie", {}, "f1249b3c8d7080ad", "d769f513f6d05d8a"),
    ("silkie", {"seed": 5}, "7ca51c95e8d83c97", "b38a4bafe1d0308a"),
    (
        "silkie",
        {"tasks": ["mmhal"], "panel": ["amber.f1"], "curves": ["amber.f1"], "control": True},
        "ea8d124975247492",
        "a4b3486c3b3d3a64",
    ),
    ("silkie", {"dataset": READ}, "a46e97e4f3ec6a28", "f57f6e12dc5488b0"),
    (
        "silkie",
        {"dataset": {"read": "x", "rule": "strongest", "strongest": "GPT-4V", "limit": 5, "image_tokens": "drop"}},
        "2b3b6361a802e0f4",
        "78d37c5acb6d9960",
    ),
    ("scenes-demo", {"data": BUILT}, "214c8671654a4b8f", "8ca5cad0062780a4"),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "cdpo", "smoothing": 0.1, "sft_weight": 1, "lora": LORA}},
        "8120747f100a38dc",
        "2fff476fe9aa9962",
    ),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "ddpo", "gamma": 2, "plain_trl": True, "report_to": ["wandb"]}},
        "20ed2d83594261fa",
        "4fc55c3605e6d125",
    ),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "mdpo", "anchor": 0.5, "crop_area": [0.1, 0.2], "train_vision": True}},
        "1d2ca01f7963a690",
        "a76a1e256da0f6eb",
    ),
    (
        "silkie",
        {"training": {**TRAINING, "loss": "povid-paper", "noise": {"step": 9, "alpha": 1, "place": "after"}}},
        "a8333f68bac00ff5",
        "bf1e000681d0d8a3",
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
