"""`harness score`: the official scores of answers made elsewhere."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.judging import exit_code_of
from harness.cli.missing import tell_forecast
from harness.cli.options import JUDGE, DryRun, Json, JudgeOptions, MaxFailed
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import Need, UsageError

if TYPE_CHECKING:
    from harness.evaluation.score_files import Score
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)


@with_settings(judge=JUDGE.but(name=None))
def score_command(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="A task's name.")],
    path: Annotated[
        Path, typer.Argument(help="Answers in the benchmark's own format (file or folder), or a sample log (.parquet).")
    ],
    references: Annotated[
        Path | None, typer.Option(help="Folder with the published files that the score needs beside the answers.")
    ] = None,
    dry_run: DryRun = False,
    max_failed: MaxFailed = 0.05,
    as_json: Json = False,
    *,
    judge: JudgeOptions,
) -> int:
    """Print the official scores of answers made elsewhere.

    No model is asked; a judge only where --judge names one.
    """
    from dataclasses import asdict

    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run
    from harness.evaluation.score_files import plan_of, score
    from harness.runs.forecast import forecast_of_judging

    spec = _find_task(task)
    judge.check(context, spec.judged)
    needs: list[Need] = []
    rater = judge.make(asked=False, lacking=needs) if judge.name is not None else None
    ready = look_at_run((), rater, EvalSettings(), more=needs)
    if dry_run:
        found = plan_of(spec, path, references, rater, judge.repeats) if rater is not None and spec.judged else None
        plans, title = [] if found is None else [found], f"score {spec.name}: {path}"
        return tell_forecast(forecast_of_judging(title, (), plans, ready), as_json)
    ready.require()
    rater = None if rater is None else judge.ready(rater)
    result = score(spec, path, references, judge=rater, judge_repeats=judge.repeats)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        for warning in result.warnings:
            log.warning(warning)
        show(_score_table(spec, result))
    return exit_code_of([result], max_failed)


def _find_task(name: str) -> "TaskSpec":
    """The task; of a suite of tasks that read the same answers (llava_bench) the first one."""
    from tasks.registry import registry

    chosen = registry().expand([name])
    if len({spec.answers for spec in chosen}) > 1:
        raise UsageError(f"{name!r} is a suite: name one of its tasks: {', '.join(spec.name for spec in chosen)}")
    return chosen[0]


def _score_table(spec: "TaskSpec", result: "Score") -> str:
    """The scores, beside those that others reported."""
    from support.markdown import MISSING, cell, number, table

    units = {name: metric.unit for name, metric in spec.metrics.items()}
    headers = ["metric", "unit", "score", *(f"{cell(row.model)} ({cell(row.source)})" for row in spec.published)]
    rows = [
        [
            cell(name),
            cell(units.get(name, "")),
            f"{value:.4f}".rstrip("0").rstrip("."),  # official scores are compared to the last digit
            *(number(row.scores.get(name), units.get(name, "")) for row in spec.published),
        ]
        for name, value in result.metrics.items()
        if value is not None
    ]
    counts = f"{result.samples} samples, {result.failed} failed, {result.unscored} unscored, {result.unparsed} unparsed"
    counts += ", empty answers not counted" if result.empty is None else f", {result.empty} empty"
    counts += " (partial: not all of the benchmark's questions)" if result.partial else ""
    return f"{spec.name} {spec.version}: {counts}\n\n{table(headers, rows) if rows else MISSING}"
