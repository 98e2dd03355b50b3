"""`harness compare`: two models, answer by answer."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.board_options import RUNS, Boards, HumanLabels, refuse
from harness.cli.options import Json
from harness.cli.shown import show
from support.errors import OK

if TYPE_CHECKING:
    from leaderboards.comparison.compare import Comparison
    from leaderboards.comparison.human_labels import Labels
    from leaderboards.comparison.paired_logs import Loader


def compare_command(
    before: Annotated[
        str | None, typer.Argument(help="A model on the boards, or a board or a run's JSON file with one model.")
    ] = None,
    after: Annotated[str | None, typer.Argument(help="The model to compare with it, given in the same way.")] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            help="In place of the two: trainings with different seeds, as run folders ('runs/x-seed*' in quotes) or "
            "models; repeatable.",
        ),
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(help="What --runs are compared with: a model, or seeds of its own, given as --runs; repeatable."),
    ] = None,
    board: Boards = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric that each task ranks by.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind of flip and task.")] = 3,
    human_labels: HumanLabels = None,
    partial: Annotated[bool, typer.Option("--partial", help="Include runs with --limit or on partial data.")] = False,
    as_json: Json = False,
) -> int:
    """Show what changed from one model to another.

    Scores, format or ability, and which answers were fixed or broken. With --runs, the mean of several training seeds
    against a base, over seeds and images.
    """
    from harness.evaluation.find_boards import boards_in, find_boards, find_models, metric_of
    from harness.evaluation.guards import guards_of
    from leaderboards.comparison.compare import compare_runs, to_blocks, to_json, with_corrections

    refuse(
        (bool(base) and not runs, "--base is for --runs; give two models in place of it"),
        (bool(runs) and not base, "--runs needs --base: a model, or seeds of its own"),
        (bool(runs) and before is not None, f"--runs stands in place of {before!r}: put its pattern in quotes"),
        (bool(runs) and human_labels is not None, "--human-labels is not for --runs"),
        (not runs and (before is None or after is None), "give two models, or --runs with --base"),
    )
    boards = find_boards(board) if board else boards_in(RUNS)
    if runs and base:
        from harness.evaluation.compare_seeds import compare_seeds

        found = compare_seeds(runs, base, boards, partial=partial, only_headline=headline)
        show(to_blocks(found), json=json.dumps(to_json(found), allow_nan=False) if as_json else None)
        return OK
    old, new = find_models((str(before), str(after)), boards, partial=partial)
    logs = (old.samples, new.samples)
    found = compare_runs(
        old.entries, new.entries, samples=logs, metrics=metric_of, guards=guards_of, only_headline=headline
    )
    if human_labels is not None:
        labels = _read_labels(human_labels, found, logs)
        found = with_corrections(found, labels, samples=logs, metrics=metric_of)
    show(to_blocks(found, shown=examples), json=json.dumps(to_json(found), allow_nan=False) if as_json else None)
    return OK


def _read_labels(path: Path, found: "Comparison", logs: "tuple[Loader, Loader]") -> "Labels":
    """The labels of both sides' answers."""
    from harness.evaluation.human_labels import judged_logs, match_labels, read_labels

    before = judged_logs((change.before for change in found.changes), logs[0])
    after = judged_logs((change.after for change in found.changes), logs[1])
    return match_labels(path, read_labels(path), before | after)
