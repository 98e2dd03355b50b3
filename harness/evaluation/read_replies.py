"""Whether anything can be read in a judge's reply, by the rule of what it was asked for."""

from collections.abc import Callable
from functools import cache

from harness.judge_bench.benches import BENCHES
from tasks.registry import registry
from trainers.config.data import ASPECTS
from trainers.vlfeedback.annotation import TASK
from trainers.vlfeedback.rating_prompt import parse

Reader = Callable[[str], object]
"""A reply -> what it says; None: nothing that can be read."""


def is_unreadable(label: str, reply: str) -> bool:
    """Whether a reply that a ledger books under `label` holds no rating or verdict; False where nothing is known of
    how it is read."""
    reader = _find_reader(label)
    return reader is not None and reader(reply) is None


@cache
def _find_reader(label: str) -> Reader | None:
    if label == TASK:
        return _read_ratings
    if label in BENCHES:
        return BENCHES[label].official
    return registry().reads_reply(label) if label in registry().tasks else None


def _read_ratings(reply: str) -> object:
    """The ratings of up to ten texts, on all aspects or on a single one."""
    asked = [ASPECTS, *((aspect,) for aspect in ASPECTS)]
    found = [rating for aspects in asked for own in parse(reply, 10, aspects).values() for rating in own]
    return next((rating for rating in found if rating is not None), None)
