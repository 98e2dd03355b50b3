"""Finds boards, models on them, and what comparisons need of tasks: metrics and published scores."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from leaderboards.board.board import Board, by_model, newest
from leaderboards.board.entry import TRAINING_SEED, Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import Loader
from leaderboards.comparison.reruns import describe_reruns, first_runs
from leaderboards.comparison.seed_rows import SeedGroup, group_of
from leaderboards.gate.source import GateSource, source
from leaderboards.statistics.resampling import CountsMetric
from leaderboards.views.published import Reference, published
from support.errors import UnknownName, UsageError, did_you_mean
from support.markdown import line
from tasks.outside import OPTION
from tasks.registry import registry

log = logging.getLogger(__name__)


def boards_in(folder: Path) -> list[Board]:
    """The boards below a folder, or the folder itself if it holds files of runs; empty if it does not exist."""
    has_runs = folder.is_dir() and any(folder.glob("*.json"))
    if folder.name == "board" and has_runs:
        return [Board(folder)]
    below = [path for path in sorted(folder.glob("**/board")) if path.is_dir()]  # an --out may be named board, too
    is_board = has_runs or (folder.name == "board" and folder.is_dir())
    return [Board(path) for path in below or ([folder] if is_board else [])]


def find_boards(folders: Iterable[Path]) -> list[Board]:
    """The boards in some folders, each one once; UsageError for a folder without a board."""
    found: dict[Path, Board] = {}
    for folder in folders:
        if not folder.is_dir():
            what = f"{str(folder)!r} is a file" if folder.is_file() else f"no folder {str(folder)!r}"
            raise UsageError(f"{what}; give a board (runs/NAME/board) or a folder that holds some")
        if not (boards := boards_in(folder)):
            raise UsageError(
                f"no board in {str(folder)!r}; give a folder with one, such as the --out of `harness eval`"
            )
        found |= {board.folder: board for board in boards}
    return list(found.values())


def current_entries(board: Board, partial: bool, replaced: bool = False) -> list[Entry]:
    """The board's entries; logs files that could not be read, and models whose weights were replaced."""
    every = board.entries()
    entries = board.current(partial=partial, replaced=replaced, every=every)
    if any(entry.empty is None and entry.imported is None for entry in entries):
        from harness.evaluation.guards import counted_from_logs  # imports all tasks

        entries = counted_from_logs(board, entries)
    log_skipped(board.skipped)
    if board.replaced and not replaced:
        models = ", ".join(dict.fromkeys(entry.model for entry in board.replaced))
        why = "since these names have other weights or settings by now"
        log.info(line(f"left out, {why}: {models} (--replaced shows them)"))
    for run, entry in {entry.run: entry for entry in every if entry.in_future}.items():
        log.warning(line(f"run {run} of {entry.model} is dated {entry.created}, in the future: no newer run is hidden"))
    tell_reruns(entries, every)
    return entries


def tell_reruns(entries: Sequence[Entry], every: Sequence[Entry]) -> None:
    """Logs headline scores of which there are several runs of the same model that differ."""
    for runs in first_runs(entries, every)[1].values():
        if runs[0].headline and len({entry.value for entry in runs}) > 1:
            log.info(f"{describe_reruns(runs)} (shown: the last; `harness check` compares the first)")


def entries_of_boards(boards: Sequence[Board], partial: bool, replaced: bool = False) -> list[Entry]:
    """The entries of several boards; of a name that stands on two of them for two models the one of the newest run, by
    date, since boards number their own runs alone. What that leaves out is told."""
    found = [entry for board in boards for entry in current_entries(board, partial, replaced)]
    for entry, now in {(old.model, old.weights): (old, now) for old, now in by_model(found)[1]}.values():
        why = f"of weights {entry.weights} is left out: on another board {now.created} is the date of run {now.run}"
        log.warning(line(f"{entry.model} {why}, which has others, or other settings"))
    tell_unknown_tasks(found)
    return newest(found)


def tell_unknown_tasks(entries: Iterable[Entry]) -> None:
    """Warns of tasks that scored entries here and are not known now: their answers can't be compared."""
    known = registry().tasks
    scored = dict.fromkeys(entry.task for entry in entries if "task" in entry.provenance)
    if unknown := [task for task in scored if task not in known]:
        what = "its YAML file" if len(unknown) == 1 else "their YAML files"
        names = ", ".join(unknown)
        log.warning(line(f"{names}: not known here, so that samples can't be compared: {OPTION} FOLDER with {what}"))


def log_skipped(skipped: Iterable[tuple[Path, str]]) -> None:
    """Log the files that could not be read."""
    for path, why in skipped:
        log.info(line(f"skipped {path}: {why}"))


def known_as(given: str, models: Iterable[str]) -> str | None:
    """The one of these models' names that was meant: itself, or the same folder, however it is spelled."""
    known = set(models)
    if given in known:
        return given
    try:
        here = Path(given).expanduser().resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # no path, or of nobody's home
        return None
    return next((name for name in sorted(known) if Path(name).name == here.name and Path(name).resolve() == here), None)


def find_models(names: Iterable[str], boards: Sequence[Board], *, partial: bool = False) -> list[GateSource]:
    """The scores of each name: a model on the boards, or a path of a board or of a run's JSON file."""
    entries, samples = [entry for board in boards for entry in current_entries(board, partial)], loader_of(boards)
    models = list(dict.fromkeys(entry.model for entry in entries))
    found = []
    for name in names:
        if (known := known_as(name, models)) is not None:
            own = [entry for entry in entries if entry.model == known]
            found.append(GateSource(entries=own, samples=samples))
        elif name and Path(name).exists():
            found.append(source(Path(name), partial=partial))
            log_skipped(found[-1].skipped)
        else:
            if not partial and any(entry.model == name for board in boards for entry in board.entries()):
                those = "--partial takes those with --limit or on partial data"
                raise UsageError(f"no complete run of model {name!r} on the boards: {those}")
            raise UsageError(f"no model {name!r} on the boards, and no such file{did_you_mean(name, models)}")
    tell_unknown_tasks(entry for side in found for entry in side.entries)
    return found


def find_seeds(patterns: Sequence[str], boards: Sequence[Board], *, partial: bool = False) -> SeedGroup:
    """The trainings that patterns such as runs/x-seed* name: models on the boards, or run folders, of which the last
    scored checkpoint counts. UsageError where that is no model, or a checkpoint of one step and seed comes twice."""
    entries = [entry for board in boards for entry in current_entries(board, partial)]
    seeds = {entry.model: entry.provenance.get(TRAINING_SEED) for entry in entries}
    found: dict[str, None] = {}
    for pattern in patterns:
        wanted = pattern.rstrip("/") or pattern
        own = [model for model in seeds if fnmatchcase(model, wanted)]
        last: dict[str, tuple[int, str]] = {}
        for model in seeds:
            folder, _, number = model.rpartition("/checkpoint-")
            if folder and number.isdecimal() and fnmatchcase(folder, wanted) and folder.count("/") == wanted.count("/"):
                last[folder] = max(last.get(folder, (-1, "")), (int(number), model))
        of_folders = [model for _, model in last.values()]
        chosen = of_folders or own  # a pattern that ends in * matches the checkpoints of its folders, too
        if not chosen:
            raise UsageError(f"no model and no run folder {pattern!r} on the boards{did_you_mean(wanted, seeds)}")
        found |= dict.fromkeys(chosen)
    twice = [seed for seed, count in Counter(seeds[model] for model in found if seeds[model]).items() if count > 1]
    if twice:
        names = ", ".join(model for model in found if seeds[model] == twice[0])
        raise UsageError(f"{names}: all are trained with seed {twice[0]}; name each seed's training once")
    return group_of(list(found))


def loader_of(boards: Sequence[Board]) -> Loader:
    """A function that reads the samples of a run from the board that has it."""

    def load(run: str) -> Sequence[Sample]:
        for board in boards:
            if (board.folder / f"{run}.json").is_file():
                return board.samples(run)
        raise FileNotFoundError(run)

    return load


def metric_of(task: str, name: str) -> CountsMetric | None:
    """The metric of a task; None if there is none of that name."""
    try:
        return registry().metric(task, name)
    except UnknownName:
        return None


def references() -> list[Reference]:
    """Scores reported by papers, from our list and from the tasks' YAML files."""
    of_tasks = [
        Reference(model=row.model, task=task.name, metric=metric, value=value, source=row.source, protocol=row.protocol)
        for task in registry().tasks.values()
        for row in task.published
        for metric, value in row.scores.items()
    ]
    return [*published(), *of_tasks]
