"""`harness vlfeedback annotate`: a judge rates answers."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from harness.cli.missing import tell_forecast
from harness.cli.options import JUDGE, DryRun, Json, JudgeOptions, Seed, say
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from harness.cli.vlfeedback.options import Images, read_data
from support.errors import LOSSY, OK, UsageError

MOST_UNREAD: Final = 0.05
"""Share of the instructions whose replies may be unreadable."""
Mode = Annotated[str, typer.Option(help="joint: all aspects in one call; per-aspect: one call each.")]
Order = Annotated[str, typer.Option(help="Order of the texts: shuffled by the seed; authors: as they were drawn.")]


@with_settings(judge=JUDGE.but("repeats"))
def annotate_command(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="A run's data folder (instructions.jsonl, answers/, images/), or rated answers in VLFeedback's schema."
        ),
    ],
    part: Annotated[
        str | None, typer.Option(help="Rate only a part: a number of instructions, or a share such as 0.1.")
    ] = None,
    mode: Mode = "joint",
    order: Order = "shuffled",
    images: Images = None,
    out: Annotated[Path | None, typer.Option(help="For rated answers: folder of the new ratings.")] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    judge: JudgeOptions,
) -> int:
    """Have a judge rate answers on helpfulness, visual faithfulness and ethics.

    All answers, or a part of them once more; continues where it stopped.
    """
    from harness.datasets.rate import plan_ratings, protocol_of, rate_folder, rate_rows
    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run
    from harness.runs.forecast import forecast_of_judging
    from support.stages import Stages
    from tasks.judges.openai import OpenAIJudge
    from tasks.judges.reasons import reasons_in_words
    from trainers.data.vlfeedback_format import holds_rows

    judge.check(context)
    protocol = protocol_of(part, mode, order, seed or 0)
    is_run = (data / "instructions.jsonl").exists() or (data.is_dir() and not holds_rows(data))
    if not is_run and out is None:
        raise UsageError(f"{data} holds rated answers: name the folder of the new ratings by --out")
    needs = [] if out is None else needs_of_output("--out", out)
    rater, rows = judge.make(asked=False, lacking=needs), partial(read_data, data, images)
    ready = look_at_run((), rater, EvalSettings(), more=needs)
    if dry_run:
        plans = [plan_ratings(rater, protocol, data if is_run else rows)] if isinstance(rater, OpenAIJudge) else []
        title = f"rate the answers in {data} by {rater.model}"
        return tell_forecast(forecast_of_judging(title, (), plans, ready, out=out), as_json)
    ready.require()
    rater = judge.ready(rater)
    with Stages():
        rated = rate_folder(data, rater, protocol) if is_run else rate_rows(rows, rater, protocol, out or data)
    show(rated.to_markdown(), json=json.dumps(rated.to_json()) if as_json else None)
    if rated.failed:
        again = "; the same command asks again" if rated.counts.may_pass else ""
        return say(f"{rated.failed} ratings failed: {reasons_in_words(rated.counts.reasons)}{again}", LOSSY)
    unread = rated.counts.unread_beyond(MOST_UNREAD)
    return say(unread, LOSSY) if unread else OK
