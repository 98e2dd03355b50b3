"""What the leaderboard page needs beside the board: small pictures of what was asked about, and learning curves.

html = board_page(boards, entries, title="Demo", base="scenes-base", comparison=found, ...)
"""

import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.comparison.paired_logs import Loader
from leaderboards.views.columns import NO_COMPARISON, BoardComparison
from leaderboards.views.learning_curves import Point
from leaderboards.views.published import Reference
from support.errors import first_line
from support.markdown import line

log = logging.getLogger(__name__)

SIDE = 128
"""Pixels of a thumbnail's longer side."""

Picture = Callable[[], Any]
"""Reads a PIL image; None = there is none."""

_CHECKPOINT = re.compile(r"(?P<run>.*?)/?checkpoint-(?P<step>\d+)")


def board_page(
    boards: Sequence[Board],
    entries: Sequence[Entry],
    *,
    title: str,
    base: str | None,
    samples: Loader,
    comparison: BoardComparison = NO_COMPARISON,
    pictures: bool,
    references: Sequence[Reference] = (),
) -> str:
    """The page's text; `references` are shown apart.

    `pictures`: with thumbnails of the tasks' images, if these are on this machine.
    """
    from leaderboards.views.html_page import PageExtras, page

    notes = [f"not read: {path.name}: {why}" for board in boards for path, why in board.skipped]
    # How protocols differ is shown beside the scores.
    beside = tuple(line(text) for texts in comparison.protocol_differences.values() for text in texts)
    notes += [note for note in comparison.notes if not (beside and note.endswith(beside))]
    extras = PageExtras(
        thumbnails=thumbnails_of(entries) if pictures else None,
        curves=curves_of(entries, base),
        references=references,
        notes=notes,
    )
    return page(entries, title=title, base=base, samples=samples, comparison=comparison, extras=extras)


def curves_of(entries: Sequence[Entry], base: str | None) -> dict[str, dict[str, list[Point]]]:
    """Metric label -> run -> its scored checkpoints, the base as step 0; headline metrics of runs with two checkpoints
    or more."""
    found: dict[str, dict[str, list[Point]]] = {}
    starts = {(entry.task, entry.metric): entry for entry in entries if entry.model == base}
    for entry in entries:
        match = _CHECKPOINT.fullmatch(entry.model)
        if match and entry.headline and entry.value is not None:
            label = " ".join(part for part in (entry.task, entry.metric, entry.unit) if part)
            arms = found.setdefault(label, {})
            arms.setdefault(match["run"] or ".", []).append(Point(step=int(match["step"]), entry=entry))
    for label, arms in list(found.items()):
        for arm, points in list(arms.items()):
            points.sort(key=lambda point: point.step)
            start = starts.get((points[0].entry.task, points[0].entry.metric))
            if start is not None:
                points.insert(0, Point(step=0, entry=start))
            if len(points) < 2:
                del arms[arm]
        if not arms:
            del found[label]
    return found


def thumbnails_of(entries: Iterable[Entry]) -> Callable[[str, str], bytes | None]:
    """Gives a small JPEG of a task's image by its id, from what is on this machine; None where there is none.

    Looked at are embedded tasks, the local data that the entries name, and the hub's cache; nobody is asked for what
    these lack. Why a task has no pictures is told once, when its first one is wanted.
    """
    asked: dict[str, dict[_Source, None]] = {}
    for entry in entries:
        if entry.imported is None:
            asked.setdefault(entry.task, {})[_Source(entry.provenance.get("data"), entry.provenance.get("split"))] = (
                None
            )

    @cache
    def pictures(task: str) -> dict[str, Picture]:
        found: dict[str, Picture] = {}
        for source in asked.get(task, ()):
            try:
                found = _pictures(task, source) | found
            except (
                Exception
            ) as error:  # somebody else's files can be wrong in any way, and the scores are to be seen nevertheless
                log.warning("%s: pictures are left out: %s", task, first_line(error))
        return found

    broken: set[str] = set()

    def thumbnail(task: str, image: str) -> bytes | None:
        make = pictures(task).get(image)
        try:
            return None if make is None else _small(make())
        except Exception as error:
            if task not in broken:
                broken.add(task)
                why = first_line(error)
                log.warning("%s: picture %s is left out, and any other that can't be read: %s", task, image, why)
            return None

    return thumbnail


class _Source(NamedTuple):
    """Where a run's documents came from, as its provenance says."""

    data: str | None
    split: str | None


def _pictures(name: str, source: _Source) -> "dict[str, Picture]":
    """A task's pictures by their ids, read when they are looked at; raises where its data are not on this machine."""
    from harness.evaluation.generate import load_tasks
    from tasks.registry import registry

    spec = registry().task(name)
    local = source.data if source.data not in (None, f"{spec.data}@{spec.revision}") else None
    # Data of another revision are no path; an older board's pictures are then looked for in the revision that the task
    # names.
    paths = {name: local} if local is not None and Path(local).expanduser().exists() else None
    with _offline():
        task = load_tasks([spec], split=source.split, data=paths, partial_data=True)[name]
        found: dict[str, Picture] = {}
        for doc in task.eval_docs:
            for key in ("image", "scene"):
                if doc.get(key):
                    found[str(doc[key])] = partial(_first_picture, task, doc)
    return found


@contextmanager
def _offline() -> Iterator[None]:
    """In here, the hub's libraries serve what they have cached and open no connection."""
    # Their switch is read from the environment when they are first imported, by whomever.
    import datasets.config
    import huggingface_hub.constants

    switches: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in switches]
    for module in switches:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _first_picture(task: Any, doc: Any) -> Any:
    return next(iter(task.doc_to_image(doc) or ()), None)


def _small(picture: Any) -> bytes | None:
    """A JPEG of at most SIDE pixels a side."""
    if picture is None:
        return None
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
