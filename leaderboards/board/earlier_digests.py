"""Digests of tasks that stand for the same prompts and rules.

Digests of scheme 1 were taken of whole files, those of scheme 2 of what decides a score. `earlier_digests.json` holds,
for each task, digests that mean the same, the oldest first and today's last, so that boards and response caches of
earlier versions stay valid. Whoever changes the code of a task without changing a score appends its new digest.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

SCHEME_FACT: Final = "task digest scheme"
"""In provenance: which kind of digest the fact "task" is; entries of scheme 1 lack it."""

SCHEME: Final = "2"

_TABLE: Final = Path(__file__).with_suffix(".json")


@cache
def _read_table() -> Mapping[str, Sequence[str]]:
    table: dict[str, list[str]] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table


def with_current_digest(task: str, provenance: Mapping[str, str]) -> Mapping[str, str]:
    """An entry's provenance, with today's digest of its task if the digest in it means the same."""
    same = _read_table().get(task, ())
    if provenance.get("task") not in same[:-1]:
        return provenance
    return {**provenance, "task": same[-1], SCHEME_FACT: SCHEME}


def earliest_digest(task: str, digest: str) -> str:
    """The oldest digest that means the same as this one; itself if none is known."""
    same = _read_table().get(task, ())
    return same[0] if digest in same else digest
