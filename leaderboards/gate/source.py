"""One side of the gate: the scores of a board's folder or of a single run's file, and their sample logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from leaderboards.board.board import Board, read_log, read_run
from leaderboards.board.entry import Entry, Key
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import Loader
from leaderboards.comparison.reruns import first_runs
from support.errors import BoardError


@dataclass(frozen=True, kw_only=True)
class GateSource:
    """Scores and where their logs are."""

    entries: Sequence[Entry]
    samples: Loader

    skipped: Sequence[tuple[Path, str]] = field(default=())
    """Files that could not be read, and why."""

    replaced: Sequence[Entry] = field(default=())
    """Scores of models that a newer run of the same name replaced, where the new one has no such score."""

    reruns: Mapping[Key, Sequence[Entry]] = field(default_factory=dict)
    """Scores of which the board has several runs with the same weights and settings; the first is in `entries`."""

    partial_runs: int = 0
    """How many runs with a limit or on partial data are left out."""


def source(path: Path, *, partial: bool = False) -> GateSource:
    """The scores of a board's folder, of the folder `board` in a run's folder, or of one run's JSON file of any name.

    A run's log is looked for beside its file, under the run's name or the file's. Runs with a limit count on a board
    only if `partial`, in a single file always. BoardError if the path is none of these.
    """
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise BoardError(f"{path}: no such file or folder; give a board's folder or a run's JSON file")
    board = Board(path / "board" if (path / "board").is_dir() else path)
    every = board.entries()
    entries, reruns = first_runs(board.current(partial=partial, every=every), every)
    if not entries and not board.skipped and not any(board.folder.glob("*.json")):
        raise BoardError(f"{path}: no board: there is no run's JSON file in it")
    scored = {metric_key(entry) for entry in entries}
    names = {entry.run: entry.model for entry in every}
    old = [replace(entry, model=names[entry.run]) for entry in board.replaced]
    return GateSource(
        entries=entries,
        samples=board.samples,
        skipped=board.skipped,
        replaced=[entry for entry in old if metric_key(entry) not in scored],
        reruns=reruns,
        partial_runs=0 if partial else len({entry.run for entry in every if entry.partial}),
    )


def metric_key(entry: Entry) -> tuple[str, str, str]:
    """Model, task and metric, whatever the version and the judge."""
    return entry.model, entry.task, entry.metric


def _read_file(path: Path) -> GateSource:
    """A single run, whose file need not have the run's name."""
    try:
        found = read_run(path)
    except (ValueError, OSError, RecursionError) as error:
        raise BoardError(f"{path}: no run of a board: {str(error).removeprefix(f'{path.name}: ')}") from None

    def samples(run: str) -> list[Sample]:
        if run != found.run or found.samples is None:
            return []
        names = [f"{stem}.samples.parquet" for stem in dict.fromkeys((path.stem, run))]
        there = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
        if there is None:
            raise BoardError(f"{path}: its sample log is missing beside it: no {' and no '.join(names)}")
        return read_log(there, found, path)

    return GateSource(entries=found.entries, samples=samples)
