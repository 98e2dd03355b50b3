"""The leaderboard page, with thumbnails of the tasks' images and learning curves.

html = board_page(boards, entries, title="Demo", base="scenes-base", comparison=found, ...)
"""

import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.evaluation.find_boards import metric_of
from leaderboards.board.board import Board
from leaderboards.board.entry import SEEDS, Entry
from leaderboards.comparison.paired_logs import Loader, Logs, same_questions
from leaderboards.statistics.looks import best_of
from leaderboards.statistics.resampling import Counted, common
from leaderboards.views.columns import NO_COMPARISON, BoardComparison
from leaderboards.views.learning_curves import Point
from support.errors import first_line
from support.extras import describe_missing
from support.markdown import line, number

if TYPE_CHECKING:
    from leaderboards.views.html_page import PageExtras

log = logging.getLogger(__name__)

SIDE = 256
"""Pixels of a thumbnail's longer side."""

Picture = Callable[[], Any]
"""Reads a PIL image; None if the document has none."""

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
    extras: "PageExtras | None" = None,
) -> str:
    """The page's HTML. `pictures`: with thumbnails of the images that are on this machine. `extras`: what the board
    does not know, as published scores."""
    from leaderboards.views.categories import category_tables
    from leaderboards.views.html_page import PageExtras, page

    notes = [f"not read: {path.name}: {why}" for board in boards for path, why in board.skipped]
    # Differences of protocols are shown next to the scores, and not again as notes.
    beside = tuple(line(text) for texts in comparison.protocol_differences.values() for text in texts)
    notes += [note for note in comparison.notes if not (beside and note.endswith(beside))]
    extras = replace(
        extras or PageExtras(),
        thumbnails=thumbnails_of(entries) if pictures else None,
        curves=(curves := curves_of(entries, base)),
        best=best_of_curves(curves, samples),
        categories=category_tables(entries, samples, metric_of),
        notes=notes,
    )
    return page(entries, title=title, base=base, samples=samples, comparison=comparison, extras=extras)


def curves_of(entries: Sequence[Entry], base: str | None) -> dict[str, dict[str, list[Point]]]:
    """Metric label -> run -> its scored checkpoints, with the base as step 0; headline metrics only, and curves of two
    points or more."""
    found: dict[str, dict[str, list[Point]]] = {}
    starts = {(entry.task, entry.metric): entry for entry in entries if entry.model == base}
    for entry in entries:
        match = _CHECKPOINT.fullmatch(entry.model)
        if match and entry.headline and entry.value is not None:
            label = " ".join(part for part in (entry.task, entry.metric, entry.unit) if part)
            points = found.setdefault(label, {}).setdefault(match["run"] or ".", [])
            points.append(Point(step=int(match["step"]), entry=entry))
    for points in (points for runs in found.values() for points in runs.values()):
        points.sort(key=lambda point: point.step)
        if start := starts.get((points[0].entry.task, points[0].entry.metric)):
            points.insert(0, Point(step=0, entry=start))
    curves = {label: {run: points for run, points in runs.items() if len(points) > 1} for label, runs in found.items()}
    return {label: runs for label, runs in curves.items() if runs}


def best_of_curves(curves: Mapping[str, Mapping[str, Sequence[Point]]], samples: Loader) -> dict[str, list[str]]:
    """Metric label -> of each run with several checkpoints the best, and what its score is worth on images that did not
    choose it; nothing where their logs can't tell."""
    logs = Logs(samples)
    found: dict[str, list[str]] = {}
    for label, runs in curves.items():
        for run, points in runs.items():
            own = [point for point in points if point.step > 0]
            metric = metric_of(own[0].entry.task, own[0].entry.metric) if len(own) > 1 else None
            if metric is None or any(SEEDS in point.entry.provenance for point in own):
                continue
            try:
                records = same_questions([logs.of(point.entry) for point in own], own[0].entry.metric)
                sides = [Counted(each, metric) for each in records]
                images = common(sides)
                counts = [side.counts(images) for side in sides]
            except (ValueError, OSError):  # the page's notes say what can't be read
                continue
            higher = own[0].entry.higher_is_better
            if (best := best_of(metric, counts, sides[0].strata(images), higher_is_better=higher)) is not None:
                unit = own[0].entry.unit
                values = f"{number(best.raw, unit)}, on held-out images {number(best.value, unit)}"
                found.setdefault(label, []).append(line(f"{run}: best at step {own[best.index].step}: {values}"))
    return found


def thumbnails_of(entries: Iterable[Entry]) -> Callable[[str, str], bytes | None]:
    """A function from a task and an image's id to a small JPEG; None if the image is not on this machine.

    Images come from embedded tasks, the local data that the entries name, and the hub's cache, without network access.
    A task whose images can't be read is logged once, when the first one is needed.
    """
    sources: dict[str, dict[_Source, None]] = {}
    for entry in entries:
        if entry.imported is None:
            source = _Source(entry.provenance.get("data"), entry.provenance.get("split"))
            sources.setdefault(entry.task, {})[source] = None

    @cache
    def pictures(task: str) -> dict[str, Picture]:
        found: dict[str, Picture] = {}
        for source in sources.get(task, ()):
            try:
                found = _find_pictures(task, source) | found
            except Exception as error:  # wrong files of any kind must not hide the scores
                lacking = describe_missing(error) if isinstance(error, ModuleNotFoundError) else None
                log.warning("%s: pictures are left out: %s", task, lacking or first_line(error))
        return found

    logged: set[str] = set()

    def thumbnail(task: str, image: str) -> bytes | None:
        read = pictures(task).get(image)
        try:
            return None if read is None else _make_thumbnail(read())
        except Exception as error:
            if task not in logged:
                logged.add(task)
                why = first_line(error)
                log.warning("%s: picture %s is left out, and any other that can't be read: %s", task, image, why)
            return None

    return thumbnail


class _Source(NamedTuple):
    """Where a run's documents came from, by its provenance."""

    data: str | None
    split: str | None


def _find_pictures(name: str, source: _Source) -> "dict[str, Picture]":
    """A task's pictures by their ids, not read yet; raises if the task's data are not on this machine."""
    from harness.evaluation.generate import load_tasks
    from tasks.data_folder import DIGEST
    from tasks.registry import registry

    spec = registry().task(name)
    local = source.data if source.data not in (None, f"{spec.data}@{spec.revision}") else None
    # For data of another revision, `local` is no path: pictures then come from the task's own revision.
    local = None if local is None else local.partition(DIGEST)[0]
    paths = {name: local} if local is not None and Path(local).expanduser().exists() else None
    with _offline():
        task = load_tasks([spec], split=source.split, data=paths, partial_data=True)[name]
        found: dict[str, Picture] = {}
        for doc in task.eval_docs:
            for key in ("image", "scene"):
                if doc.get(key):
                    found[str(doc[key])] = partial(_read_first_picture, task, doc)
    return found


@contextmanager
def _offline() -> Iterator[None]:
    """Inside, the hub's libraries read their cache and open no connection."""
    # They read HF_HUB_OFFLINE from the environment once, when they are first imported.
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


def _read_first_picture(task: Any, doc: Any) -> Any:
    return next(iter(task.doc_to_image(doc) or ()), None)


def _make_thumbnail(picture: Any) -> bytes | None:
    """A JPEG of at most SIDE pixels a side."""
    if picture is None:
        return None
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
