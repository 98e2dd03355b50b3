"""Which documents stand for a benchmark where only some are asked.

    draw(registry().task("mme"), docs, limit=100, seed=0)      # places of 100 documents, in their order

Documents come evenly from the task's categories, and those that are scored together (MME's two questions about an
image, HallusionBench's questions about a figure) come together. What is drawn depends on the seed and on documents'
ids alone, not on their order, and a smaller limit draws of what a greater one does, as far as groups fit.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tasks.registry import TaskSpec

DRAWN: Final = "drawn"
"""In an entry's provenance: how the documents of a limit were chosen. Entries of earlier versions lack it: they have
the first documents."""

Key = tuple[str, ...]


def draw(task: TaskSpec, docs: Any, limit: int | None, seed: int) -> list[int]:
    """The places, from 0 up, of at most `limit` of a task's documents (dicts, or a `datasets.Dataset` of them)."""
    if limit is None or limit >= len(docs):
        return list(range(len(docs)))
    ids = _cells(docs, ["id"])
    groups = _cells(docs, task.together) if task.together else [(*own, str(at)) for at, own in enumerate(ids)]
    return draw_evenly(_cells(docs, task.categories), groups, ids, limit, f"{task.name}/{seed}")


def describe_draw(task: TaskSpec, seed: int) -> str:
    """How documents are drawn, as an entry records it."""
    evenly = f"evenly by {', '.join(task.categories)}" if task.categories else "at random"
    return f"{evenly}, seed {seed}"


def draw_evenly(
    categories: Sequence[Key], groups: Sequence[Key], ids: Sequence[Key], limit: int, seed: str
) -> list[int]:
    """Places of at most `limit` items, each with its category, its group and its id.

    The category with the fewest items so far gives the next whole group that fits. Where no group fits at all, the
    first one is cut.
    """
    members: dict[Key, list[int]] = {}
    ranks = [(_hash(seed, own), place) for place, own in enumerate(ids)]
    for _, place in sorted(ranks):
        members.setdefault(groups[place], []).append(place)
    waiting: dict[Key, list[list[int]]] = {}
    for places in members.values():
        waiting.setdefault(categories[places[0]], []).append(places)
    for own in waiting.values():
        own.reverse()  # the last one is next
    order = sorted(waiting, key=lambda category: _hash(seed, ("", *category)))
    first = waiting[order[0]][-1]
    counts = dict.fromkeys(order, 0)
    chosen: list[int] = []
    while counts and len(chosen) < limit:
        category = min(counts, key=counts.__getitem__)
        fitting = None
        while waiting[category] and fitting is None:
            places = waiting[category].pop()
            fitting = places if len(places) <= limit - len(chosen) else None
        if fitting is None:
            del counts[category]
            continue
        counts[category] += len(fitting)
        chosen += fitting
    return sorted(chosen or first[:limit])


def _cells(docs: Any, names: Sequence[str]) -> list[Key]:
    """The values of some fields of each document, as text; those that it lacks are empty."""
    if not names:
        return [()] * len(docs)
    there = getattr(docs, "column_names", None)
    rows: Iterable[Mapping[str, Any]] = docs
    if there is not None:  # pictures and all else stay where they are
        known = [name for name in names if name in there]
        rows = docs.select_columns(known) if known else [{}] * len(docs)
    return [tuple(str(row.get(name, "")) for name in names) for row in rows]


def _hash(seed: str, key: Key) -> str:
    return hashlib.sha256("\x1f".join((seed, *key)).encode("utf-8", "surrogatepass")).hexdigest()
