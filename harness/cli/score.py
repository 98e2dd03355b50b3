"""`harness score`: the official scores of answers made elsewhere."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.judging import exit_code_of
from harness.cli.missing import tell_forecast
from harness.cli.next_steps import after_score
from harness.cli.options import (
    JUDGE,
    DryRun,
    Json,
    JudgeOptions,
    MaxFailed,
    ReportTo,
    check_row_names,
    tell_trackers,
    trackers_of,
)
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import Need, NotReady, UsageError

if TYPE_CHECKING:
    from harness.evaluation.score_files import Score, ScoredFiles
    from leaderboards.board.board import Board
    from tasks.judges.protocol import Judge
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)


@with_settings(judge=JUDGE.but(name=None))
def score_command(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="A task's name.")],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Answers in the benchmark's own format (files or a folder), or a sample log; each a result "
            "of its own, but for parts of one.",
        ),
    ],
    references: Annotated[
        Path | None, typer.Option(help="Folder with the published files that the score needs beside the answers.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder whose board gets the scores, marked as of answers from files.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="What tables and the board call a result, in place of its file's name; one for each."),
    ] = None,
    report_to: ReportTo = None,
    dry_run: DryRun = False,
    max_failed: MaxFailed = 0.05,
    as_json: Json = False,
    *,
    judge: JudgeOptions,
) -> int:
    """Print the official scores of answers made elsewhere.

    No model is asked; a judge only where --judge names one.
    """
    from harness.evaluation.score_files import results_in, score_paths

    spec = _find_task(task)
    judge.check(context, spec.judged)
    trackers = _check_report(report_to, out)
    results = results_in(spec, paths)
    names = _name_results(spec, results, name or [])
    needs: list[Need] = [] if out is None else needs_of_output("--out", out)
    rater = judge.make(asked=False, lacking=needs) if judge.name is not None else None
    if dry_run:
        asked = None if rater is None else (rater, judge.repeats)
        return _tell_forecast(spec, results, references, asked, needs, out, as_json)
    _require(rater, needs)
    board = _open_board(out, names)
    rater = None if rater is None else judge.ready(rater)
    found = {
        own: score_paths(spec, files, references, judge=rater, judge_repeats=judge.repeats)
        for own, files in zip(names, results, strict=True)
    }
    scores = {own: scored.score for own, scored in found.items()}
    _print_scores(spec, scores, named=bool(name) or len(scores) > 1, as_json=as_json)
    if board is not None:
        _keep(board, spec, found, trackers)
    return exit_code_of(list(scores.values()), max_failed)


def _require(rater: "Judge | None", needs: list[Need]) -> None:
    """NotReady where anything is missing. Without a judge that is `needs`, and nothing is imported."""
    if rater is not None:
        from harness.evaluation.eval_settings import EvalSettings
        from harness.evaluation.preflight import look_at_run

        look_at_run((), rater, EvalSettings(), more=needs).require()
    elif needs:
        raise NotReady(needs)


def _tell_forecast(
    task: "TaskSpec",
    results: Sequence[Sequence[Path]],
    references: Path | None,
    asked: "tuple[Judge, int] | None",
    needs: list[Need],
    out: Path | None,
    as_json: bool,
) -> int:
    """Print what --dry-run says; `asked`: the judge, and how often it rates each answer."""
    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run
    from harness.evaluation.score_files import plan_of
    from harness.runs.forecast import forecast_of_judging

    ready = look_at_run((), None if asked is None else asked[0], EvalSettings(), more=needs)
    plans = []
    if asked is not None and task.judged:
        plans = [plan_of(task, files, references, asked[0], asked[1]) for files in results]
    title = f"score {task.name}: {', '.join(str(file) for files in results for file in files)}"
    found = forecast_of_judging(title, (), [plan for plan in plans if plan is not None], ready, out=out)
    return tell_forecast(found, as_json)


def _check_report(given: list[str] | None, out: Path | None) -> list[str]:
    """The trackers; UsageError without a board, which is what is reported."""
    if given and out is None:
        raise UsageError("--report-to: needs --out, the run folder whose board is reported")
    return trackers_of(given)


def _open_board(out: Path | None, names: Sequence[str]) -> "Board | None":
    """The board of --out, if there is one; UsageError for a name that stands for a model on it."""
    if out is None:
        return None
    from harness.evaluation.given_answers import check_names
    from leaderboards.board.board import Board

    board = Board(out / "board")
    check_names(board, names)
    return board


def _keep(board: "Board", task: "TaskSpec", found: "dict[str, ScoredFiles]", trackers: list[str]) -> None:
    """Put the results on the board, and tell of them."""
    from harness.evaluation.given_answers import put_on_board

    entries = [entry for name, scored in found.items() for entry in put_on_board(board, name, task, scored)]
    after_score(board, entries)
    tell_trackers(trackers, board, found, next(iter(found)))


def _name_results(task: "TaskSpec", results: Sequence[Sequence[Path]], given: list[str]) -> list[str]:
    """What each result is called: by --name, or by its files; with their folder where that alone tells them apart."""
    from harness.evaluation.score_files import name_of

    names = [name_of(task, files) for files in results]
    names = [
        f"{files[0].parent}/{name}" if names.count(name) > 1 else name
        for files, name in zip(results, names, strict=True)
    ]
    if given and len(given) != len(names):
        what = f"{len(names)} results ({', '.join(names)})"
        raise UsageError(f"--name is given {len(given)} times for {what}: one for each, in order")
    check_row_names(given)
    if len(set(given)) < len(given):
        raise UsageError(f"--name {', '.join(given)}: give each result a name of its own")
    return given or names


def _find_task(name: str) -> "TaskSpec":
    """The task; of a suite of tasks that read the same answers (llava_bench) the first one."""
    from tasks.registry import registry

    chosen = registry().expand([name])
    if len({spec.answers for spec in chosen}) > 1:
        raise UsageError(f"{name!r} is a suite: name one of its tasks: {', '.join(spec.name for spec in chosen)}")
    return chosen[0]


def _print_scores(task: "TaskSpec", scores: "dict[str, Score]", *, named: bool, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        found = [{"name": name, **asdict(score)} for name, score in scores.items()]
        print(json.dumps(found[0] if len(found) == 1 else {"results": found}))
        return
    for name, score in scores.items():
        for warning in score.warnings:
            log.warning(f"{name}: {warning}" if len(scores) > 1 else warning)
    show(_score_table(task, scores, named))


def _score_table(spec: "TaskSpec", scores: "dict[str, Score]", named: bool) -> str:
    """The scores with their intervals, beside those that others reported."""
    from leaderboards.views.glossary import INTERVAL
    from support.markdown import MISSING, cell, number, table

    units = {name: metric.unit for name, metric in spec.metrics.items()}
    heads = list(scores) if named else ["score"]
    published = [f"{cell(row.model)} ({cell(row.source)})" for row in spec.published]
    metrics = dict.fromkeys(name for score in scores.values() for name in score.metrics)
    rows = [
        [
            cell(name),
            cell(units.get(name, "")),
            *(_show_value(score, name) for score in scores.values()),
            *(number(row.scores.get(name), units.get(name, "")) for row in spec.published),
        ]
        for name in metrics
        if any(score.metrics.get(name) is not None for score in scores.values())
    ]
    counts = [f"{f'{cell(name)}: ' if named else ''}{_count(score)}" for name, score in scores.items()]
    shown = table(["metric", "unit", *map(cell, heads), *published], rows) if rows else MISSING
    told = f"\n\n{INTERVAL}" if any(any(score.intervals.values()) for score in scores.values()) else ""
    return f"{spec.name} {spec.version}: {f'{chr(10)}{chr(10)}'.join(counts)}\n\n{shown}{told}"


def _show_value(score: "Score", metric: str) -> str:
    """To the last digit, by which official scores are compared; and the interval."""
    from support.markdown import MISSING

    value, interval = score.metrics.get(metric), score.intervals.get(metric)
    if value is None:
        return MISSING
    shown = f"{value:.4f}".rstrip("0").rstrip(".")
    return shown if interval is None else f"{shown} [{interval[0]:.4g}, {interval[1]:.4g}]"


def _count(score: "Score") -> str:
    counts = f"{score.samples} samples, {score.failed} failed, {score.unscored} unscored, {score.unparsed} unparsed"
    counts += ", empty answers not counted" if score.empty is None else f", {score.empty} empty"
    return counts + (" (partial: not all of the benchmark's questions)" if score.partial else "")
