"""What experiment trackers are told of a model: all its scores on a board, and some of its answers.

for report in reports_of(board, ["runs/x/checkpoint-40"], base="llava-7b"): ...
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from harness.evaluation.board_page import thumbnails_of
from harness.evaluation.find_boards import loader_of, metric_of
from harness.evaluation.guards import guards_of
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.comparison.compare_board import compare_board
from leaderboards.views.columns import BoardComparison, outcome, remarks
from support.markdown import number, span
from support.secrets import redact

SAMPLES: Final = 24
"""Most answers of each task in a report."""
MOST_SAMPLES: Final = 240
"""Most answers of all tasks."""
MOST_TEXT: Final = 2000
"""Most characters of a cell."""
COLUMNS: Final = ("task", "id", "image", "prompt", "answer", "judge", "counted")


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """One answer as a row of the table."""

    cells: Mapping[str, str]
    """COLUMNS but for the picture; "image" is its id."""
    picture: bytes | None = None
    """A small JPEG; None where the picture is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """One model's scores."""

    model: str
    id: str
    """The same for a model of a board whenever it is reported, so that its run is gone on with."""
    metrics: Mapping[str, float]
    """TASK/METRIC -> value; and its interval's ends, as TASK/METRIC_low and _high: of stores of files no name
    may be the folder of another."""
    facts: Mapping[str, str]
    """The board, versions, judges, what was scored and against what."""
    verdict: str
    """Against the base, metric by metric, in words; "" without one."""
    samples: Sequence[ShownSample] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """Of all that is told: the same report is sent once."""
        told: list[Any] = [self.model, sorted(self.metrics.items()), sorted(self.facts.items()), self.verdict]
        told.append([dict(sample.cells) for sample in self.samples])
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def reports_of(board: Board, models: Iterable[str], base: str | None) -> Iterator[ScoreReport]:
    """A report of each model that has scores on the board."""
    entries = board.current(partial=True)
    thumbnail = thumbnails_of(entries)
    known = {entry.model for entry in entries}
    tested = base if base in known else None
    tools: Any = {"samples": board.samples, "metrics": metric_of, "guards": guards_of}
    comparison = compare_board(entries, **tools, base=tested, only_headline=False)
    for model in dict.fromkeys(models):
        if own := [entry for entry in entries if entry.model == model]:
            samples = list(_choose_samples(board, own, thumbnail))
            yield _make_report(board, model, own, comparison, tested, samples)


def _make_report(
    board: Board,
    model: str,
    entries: Sequence[Entry],
    comparison: BoardComparison,
    base: str | None,
    samples: Sequence[ShownSample],
) -> ScoreReport:
    place = board.folder.resolve()
    metrics: dict[str, float] = {}
    facts = {"board": place.as_uri(), "model": model}
    words = []
    for entry in entries:
        name = f"{entry.task}/{entry.metric}"
        found = {name: entry.value, f"{name}_low": entry.low, f"{name}_high": entry.high}
        metrics |= {key: value for key, value in found.items() if value is not None}
        if (verdict := comparison.verdicts.get(entry.key)) is not None:
            change = number(verdict.difference, entry.unit, signed=True) + span(verdict.low, verdict.high, entry.unit)
            facts[f"verdict/{name}"] = outcome(entry.metric, verdict)
            if entry.headline:
                words.append(f"{entry.task} {entry.metric}: {outcome(entry.metric, verdict)} ({change})")
        if entry.headline:
            facts[f"version/{entry.task}"] = entry.version
            facts |= {} if entry.judge is None else {f"judge/{entry.task}": entry.judge}
            facts |= {f"remarks/{entry.task}": ", ".join(told)} if (told := remarks(entry)) else {}
            facts[f"run/{entry.task}"] = entry.run
    return ScoreReport(
        model=redact(model),
        id=hashlib.sha256(f"{place}\0{model}".encode()).hexdigest()[:20],
        metrics=metrics,
        facts={name: redact(text) for name, text in facts.items()},
        verdict=redact(f"against {base}: {'; '.join(words)}") if words else "",
        samples=samples,
    )


def _choose_samples(board: Board, entries: Sequence[Entry], thumbnail: Any) -> Iterator[ShownSample]:
    """Of each task some answers, evenly from the first to the last."""
    load = loader_of([board])
    tasks = {entry.task: entry.run for entry in entries}
    most = max(1, min(SAMPLES, MOST_SAMPLES // len(tasks)))
    for task, run in tasks.items():
        try:
            log = [sample for sample in load(run) if sample.task == task]
        except (ValueError, OSError):
            continue  # without a log that can be read there is no table
        for sample in log[:: -(-len(log) // most)] if log else ():
            cells = {
                "task": task,
                "id": sample.id,
                "image": sample.image,
                "prompt": sample.prompt,
                "answer": sample.answer if sample.answer is not None else f"({sample.reason or 'no answer'})",
                "judge": sample.reply or "",
                "counted": json.dumps(next(iter(sample.records.values()), {}), ensure_ascii=False),
            }
            shown = {name: redact(text)[:MOST_TEXT] for name, text in cells.items()}
            yield ShownSample(cells=shown, picture=thumbnail(task, sample.image))
