"""What the leaderboard page needs beside the board: small pictures of what was asked about, and learning curves.

html = board_page(boards, entries, base="scenes-base", standing=found, tell=print)
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from leaderboards.board import Board
from leaderboards.compare import Loader, Standing
from leaderboards.entry import Entry
from leaderboards.plot import Point

SIDE = 128
"""Pixels of a thumbnail's longer side."""

_CHECKPOINT = re.compile(r"(?P<run>.*?)/?checkpoint-(?P<step>\d+)")


def board_page(
    boards: Sequence[Board],
    entries: Sequence[Entry],
    *,
    title: str,
    base: str | None,
    samples: Loader,
    standing: Standing | None,
    pictures: bool,
    tell: Callable[[str], None],
) -> str:
    """The page's text. `pictures`: with thumbnails of the tasks' images, where these can be had without a download."""
    from leaderboards.page import page

    notes = [f"not read: {path.name}: {why}" for board in boards for path, why in board.skipped]
    return page(
        entries,
        title=title,
        base=base,
        samples=samples,
        thumbnails=thumbnails_of(dict.fromkeys(entry.task for entry in entries), tell) if pictures else None,
        verdicts=None if standing is None else standing.verdicts,
        ranks=None if standing is None else standing.ranks,
        curves=curves_of(entries, base),
        notes=notes,
    )


def curves_of(entries: Sequence[Entry], base: str | None) -> dict[str, dict[str, list[Point]]]:
    """Metric label -> run -> its scored checkpoints, the base as step 0; headline metrics of runs with two checkpoints or more."""
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


def _first_picture(task: Any, doc: Any) -> Any:
    return next(iter(task.doc_to_image(doc) or ()), None)


def thumbnails_of(tasks: Iterable[str], tell: Callable[[str], None]) -> Callable[[str, str], bytes | None]:
    """Gives a small JPEG of a task's image by its id; tasks whose data are not here have none, and that is told."""
    from harness.evaluate import load_tasks
    from tasks.hub import DataError
    from tasks.registry import UnknownName, registry

    shown: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in tasks:
        try:
            task = load_tasks([registry().task(name)], partial_data=True)[0][name]
            for doc in task.eval_docs:
                for key in ("image", "scene"):
                    if doc.get(key) is not None:
                        shown[name, str(doc[key])] = partial(_first_picture, task, doc)
        except (UnknownName, DataError, OSError) as error:
            tell(f"{name}: its pictures are left out ({str(error).splitlines()[0]})")

    def thumbnail(task: str, image: str) -> bytes | None:
        make = shown.get((task, image))
        try:
            picture = make() if make is not None else None
            if picture is None:
                return None
            small = picture.convert("RGB")
            small.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=80)
            return buffer.getvalue()
        except OSError:
            return None

    return thumbnail
