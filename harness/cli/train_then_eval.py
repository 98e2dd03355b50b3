"""`harness train-then-eval`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import (
    ANY,
    LEDGER,
    REQUIRE_BETTER,
    DryRun,
    Gpus,
    Json,
    JudgeBudget,
    JudgeSet,
    JudgeUrl,
    LedgerPath,
    Limit,
    MaxFailed,
    Mode,
    PlainTrl,
    Seed,
    SlurmOptions,
    by_plain_trl,
    judge_of,
    print_plan,
    say,
    tell,
)
from harness.cli.train import check_packages, layout_of, needs_launch, send_whole
from support.errors import FAILED, LOSSY, OK, REGRESSED, UsageError
from support.processes import is_launched, world_size


def train_then_eval_command(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/RECIPE (runs/RECIPE-seedN with --seed).")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Tasks or suites in place of the recipe's; repeatable, or by commas.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Another judge than the recipe's.")] = None,
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_set: JudgeSet = None,
    early_stop: Annotated[
        list[str] | None,
        typer.Option(
            help="TASK or TASK.METRIC: end training once it is significantly worse than the base's; repeatable."
        ),
    ] = None,
    require_better: Annotated[
        list[str] | None,
        typer.Option(
            REQUIRE_BETTER,
            help="TASK or TASK.METRIC: exit 3 unless the last checkpoint is better than the base; repeatable. "
            f"Without a name (after RECIPE), or {ANY!r}: unless it is better by a metric of the panel, and worse by none.",
        ),
    ] = None,
    plain_trl: PlainTrl = False,
    gpus: Gpus = None,
    mode: Mode = "ddp",
    slurm: SlurmOptions = None,
    limit: Limit = None,
    seed: Seed = None,
    max_failed: MaxFailed = 0.05,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Score the base, build or read preference data, train, score every checkpoint, give the verdict. Finishes an
    interrupted run."""
    from harness.runs.checkpoint_selection import check_names
    from trainers.cluster.launch import check_world, command_of
    from trainers.config.recipe import preference_recipe

    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    if tasks:
        changes["tasks"] = [name for given in tasks for name in given.split(",") if name]
    found = preference_recipe(recipe, **changes)
    found = by_plain_trl(found) if plain_trl else found
    check_names(found, early_stop or [], [name for name in require_better or [] if name != ANY])
    folder = out or Path("runs") / (found.name if seed is None else f"{found.name}-seed{seed}")
    rater = judge_of(
        judge or (found.data.judge if found.data else "exact"), judge_url, ledger, judge_budget, given=judge_set
    )
    launched = is_launched()
    if world_size() > 1:
        raise UsageError("train-then-eval starts the processes that train by itself: say how many by --gpus")
    layout = None
    check_packages(found, folder)
    if not dry_run or gpus is not None or slurm is not None or mode != "ddp":  # to count GPUs takes seconds
        layout = layout_of(found, gpus, mode, as_job=slurm is not None and not launched)
        command_of([], layout)  # what a mode lacks is said before anything is scored
    if dry_run:
        from harness.runs.plan import steps_of

        print_plan(f"{found.name}: {found.trainer} on {found.base}", steps_of(found, limit), folder)
        if layout is not None and slurm is not None:
            return send_whole(context, folder, layout, slurm, dry_run=True)
        if layout is not None and needs_launch(layout):
            from harness.runs.training_worker import plan

            print(plan(folder, layout))
        return OK
    if layout is not None and slurm is not None and not launched:
        return send_whole(context, folder, layout, slurm, dry_run=False)
    if launched:
        check_world()
    from harness.runs.outcome import unmet
    from harness.runs.report import to_json, write_report
    from harness.runs.train_then_eval import train_then_eval
    from support.console import Stages

    with Stages() as stages:
        outcome = train_then_eval(
            found,
            folder,
            rater,
            limit=limit,
            early_stop=early_stop or [],
            layout=layout if layout is not None and needs_launch(layout) else None,
            tell=stages.tell,
            report=stages.report,
        )
        report = write_report(outcome)
    print(to_json(outcome) if as_json else report)
    tell(f"report: {folder / 'report.md'}")
    if outcome.failed:
        return say(f"{len(outcome.failed)} checkpoints are not scored; the same command tries them again", FAILED)
    named = [name for name in require_better or [] if name != ANY]
    required = [*([()] if ANY in (require_better or []) else []), *([named] if named else [])]
    if why := "; ".join(filter(None, (unmet(outcome, names) for names in required))):
        return say(why, REGRESSED)
    return (
        OK
        if outcome.lost <= max_failed
        else say(f"{outcome.lost:.0%} of a task's samples failed or stayed unscored", LOSSY)
    )
