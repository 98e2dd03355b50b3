"""`harness rescore`: answers on boards, scored again without asking anybody."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.board_options import RUNS, Folders
from harness.cli.next_steps import after_score
from harness.cli.options import DryRun, Json
from harness.cli.shown import show
from support.errors import OK, UnknownName, UsageError

if TYPE_CHECKING:
    from harness.evaluation.rescored_runs import Rescoring
    from leaderboards.board.board import Board
    from leaderboards.board.entry import Entry
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

THERE, WOULD, NEW = "on the board", "would be scored", "scored"


def rescore_command(
    folders: Folders = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Task whose rule and labels of today score; repeatable.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only answers of this model; repeatable.")] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder with the labels, in place of those in HARNESS_DATA/TASK.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Score answers on boards again, by a task's rule and labels of today; no model and no judge is asked.

    Answers to POPE get their row of RePOPE (--task repope); those to a task whose code has changed since get a row by
    its code of today. Rows stand on the same board; the same command again changes nothing.
    """
    from harness.evaluation.find_boards import find_boards, log_skipped
    from harness.evaluation.rescored_runs import find_rescorings

    specs = _find_tasks(task or [])
    rows: list[dict[str, str]] = []
    models: set[str] = set()
    for board in find_boards(folders or [RUNS]):
        models |= {entry.model for entry in board.entries()}
        log_skipped(board.skipped)
        made: list[Entry] = []
        for spec in specs:
            found = [one for one in find_rescorings(board, spec) if not model or one.source.model in model]
            rows += [_rescore(board, one, references, dry_run, made) for one in found]
        if made:
            after_score(board, made)
    for name in model or ():
        if name not in models:
            raise UnknownName("model on these boards", name, dict.fromkeys(sorted(models)))
    if not rows:
        log.info(f"nothing to score again: {_tell_needed(specs)}")
    _print(rows, as_json)
    return OK


def _find_tasks(names: Sequence[str]) -> "list[TaskSpec]":
    from harness.evaluation.rescored_runs import tasks_rescored_by
    from tasks.registry import registry

    if not names:
        known = [spec.name for spec in registry().tasks.values() if tasks_rescored_by(spec)]
        raise UsageError(
            "--task is not given: name the task that scores answers again, such as "
            f"{', '.join(known)}, or a task whose code has changed since its answers were scored"
        )
    return registry().expand(names)


def _tell_needed(specs: "Sequence[TaskSpec]") -> str:
    """Which entries would be scored again by these tasks."""
    from harness.evaluation.rescored_runs import tasks_rescored_by

    parts = []
    for spec in specs:
        others = tasks_rescored_by(spec)
        to = f", or answers to {' or '.join(others)}" if others else ""
        parts.append(f"{spec.name} takes its own answers where other code scored them{to}")
    return "; ".join(parts)


def _rescore(
    board: "Board", one: "Rescoring", references: Path | None, dry_run: bool, made: "list[Entry]"
) -> dict[str, str]:
    """What became of one run's answers; entries that are new are added to `made`."""
    from harness.evaluation.rescored_runs import keep, prepare
    from support.markdown import line

    source = one.source
    row = {"model": source.model, "task": one.task.name, "from": f"{source.run} ({source.task})", "score": ""}
    prepared = prepare(board, one, references)
    if isinstance(prepared, str):
        found: list[Entry] | str = prepared
    elif there := [entry for entry in board.entries() if entry.run == prepared.run]:
        return row | _show_headline(there) | {"outcome": THERE}
    elif dry_run:
        return row | {"outcome": f"{WOULD}: {len(prepared.log)} answers"}
    else:
        found = keep(board, prepared, references)
    if isinstance(found, str):
        log.warning(line(f"{source.model}: {source.task} in run {source.run} can't be scored again: {found}"))
        return row | {"outcome": found}
    made += found
    return row | _show_headline(found) | {"outcome": NEW}


def _show_headline(entries: "Sequence[Entry]") -> dict[str, str]:
    from support.markdown import number

    shown = [f"{entry.metric} {number(entry.value, entry.unit)}" for entry in entries if entry.headline]
    return {"score": ", ".join(shown)}


def _print(rows: Sequence[dict[str, str]], as_json: bool) -> None:
    from support.tables import Table

    if as_json:
        print(json.dumps({"rescored": rows}))
    elif rows:
        names = ["model", "task", "from", "score", "outcome"]
        show([Table(names, [[row[name] for name in names] for row in rows])])
