"""Pairs for the tests of formats."""

from typing import Any

from support.images import ImageRef
from trainers.data.pair_formats import FORMS
from trainers.data.pair_rules import NamedRule, PairCounts, pair_up
from trainers.data.rows import Preference, Row

WAYS = [(form, ending, embed) for form in FORMS for ending in ("jsonl", "json", "parquet") for embed in (False, True)]
WAYS = [way for way in WAYS if FORMS[way[0]].parquet or way[1] != "parquet"]
"""(format, ending, whether images are embedded) in which pairs can be written."""


def pair(image: ImageRef, **changes: Any) -> Preference:
    """A pair about one image."""
    values: dict[str, Any] = {"id": "a", "prompt": "What?", "images": (image,), "chosen": "cat", "rejected": "dog"}
    values |= {"margin": 4 / 3, "row": 3, "row_id": "r", "chosen_model": "A", "rejected_model": "B"}
    values |= {"chosen_ratings": {"Helpfulness": "4"}, "rejected_ratings": {"Helpfulness": "N/A"}}
    return Preference(**values | changes)


def pairs_of(row: Row, rule: NamedRule) -> tuple[list[Preference], PairCounts]:
    """The pairs of one row, and their counts."""
    counts = PairCounts()
    return list(pair_up([row], rule, counts)), counts
