"""`harness train-then-eval`: base, data, training, checkpoints and verdict in one command."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.evaluate import SERVER, check_server
from harness.cli.judging import exit_code_of
from harness.cli.options import (
    ANY,
    JUDGE,
    DryRun,
    Json,
    JudgeOptions,
    Limit,
    MaxFailed,
    Seed,
    print_plan,
    say,
    split_names,
)
from harness.cli.setting_options import OptionGroup, with_settings
from harness.cli.shown import show
from harness.cli.train import submit_command
from harness.cli.train_options import (
    ASKED,
    RUN_DATA,
    AskingOptions,
    LaunchOptions,
    RunDataOptions,
    change_recipe,
    dataset_changes,
    run_folder_of,
    use_plain_trl,
)
from harness.evaluation.eval_settings import EvalSettings
from harness.runs.recipe_training import check_packages, find_layout
from harness.serving.settings import ServerSettings
from support.errors import FAILED, LOSSY, OK, REGRESSED, UsageError
from support.judge_names import SCENES
from support.processes import is_launched, world_size

if TYPE_CHECKING:
    from harness.runs.outcome import Outcome
    from tasks.judges.protocol import Judge
    from trainers.cluster.launch import Layout
    from trainers.config.recipe import PreferenceRecipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(LaunchOptions):
    """How training is done, and what is asked of its result."""

    early_stop: tuple[str, ...] = ()
    """TASK or TASK.METRIC: end training once it is significantly worse than the base's; repeatable."""
    require_better: tuple[str, ...] = ()
    """TASK or TASK.METRIC (none: any of the panel): exit 3 unless the last checkpoint is better; repeatable."""

    @property
    def named(self) -> list[str]:
        """The metrics that must be better, by name."""
        return [name for name in self.require_better if name != ANY]


SERVED = replace(SERVER, without=frozenset({"lease"}))
TRAINING = OptionGroup(kind=TrainingOptions, panel="Training", environment=False)


@with_settings(
    config="train-then-eval",
    data=RUN_DATA,
    asked=ASKED,
    judge=JUDGE.but("batch", "repeats", name=None),
    training=TRAINING,
    server=SERVED,
)
def train_then_eval_command(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default: runs/RECIPE (runs/RECIPE-seedN with --seed).")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Tasks or suites instead of the recipe's, separated by commas; repeatable.")
    ] = None,
    limit: Limit = None,
    seed: Seed = None,
    max_failed: MaxFailed = 0.05,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    data: RunDataOptions,
    asked: AskingOptions,
    judge: JudgeOptions,
    training: TrainingOptions,
    server: ServerSettings | None,
) -> int:
    """Score the base, train, score every checkpoint, compare.

    Builds or reads preference data first, and gives the verdict at the end. After an interruption the same command
    continues.
    """
    found = _find_recipe(recipe, tasks, seed, training, data, fetch=not dry_run)
    found, settings = _find_scoring(found, asked, data, limit)
    folder = run_folder_of(out, found.name, seed)
    judge = replace(judge, name=judge.name or (found.data.judge if found.data else None) or SCENES)
    judge.check(context)
    check_server(context, server)
    rater = judge.make(asked=not dry_run)
    layout = _find_layout(found, folder, training, dry_run)
    if dry_run:
        _check_judge(rater, found)
        return _print_steps(context, found, folder, training, layout, (rater, settings))
    if layout is not None and training.slurm is not None and not is_launched():
        return submit_command(context, folder, layout, training.slurm, dry_run=False)
    from harness.runs.needs import require_run_ready
    from harness.runs.report import to_json, write_report
    from harness.runs.train_then_eval import train_then_eval
    from harness.serving.server_host import ServerHost
    from support.stages import Stages
    from trainers.cluster.launch import check_world

    if is_launched():
        check_world()
    with Stages():
        require_run_ready(found, folder, rater, settings, server)
        processes = layout if layout is not None and layout.needs_launch else None
        more: dict[str, Any] = {"early_stop": training.early_stop, "remote_code": training.trust_remote_code}
        if server is not None:
            more["server"] = ServerHost(settings=server, folder=folder / "servers", ledger=judge.ledger)
        outcome = train_then_eval(found, folder, rater, settings=settings, layout=processes, **more)
        text = write_report(outcome)
    show(text, json=to_json(outcome) if as_json else None)
    log.info(f"report: {folder / 'report.md'}")
    return _exit_code_of(outcome, training, max_failed)


def _check_judge(judge: "Judge", recipe: "PreferenceRecipe") -> None:
    """SettingError if the judge can't rate the recipe's tasks, before anything is planned or done."""
    from harness.evaluation.make_judge import check_judge
    from harness.runs.checkpoint_selection import tasks_of

    check_judge(judge, tasks_of(recipe))


def _find_recipe(
    name: str,
    tasks: list[str] | None,
    seed: int | None,
    training: TrainingOptions,
    data: RunDataOptions,
    *,
    fetch: bool,
) -> "PreferenceRecipe":
    """The recipe with what the options change; UsageError if it can't be evaluated so. `fetch`: data on the hub may be
    downloaded to find out what they are."""
    from harness.runs.checkpoint_selection import check_names
    from trainers.config.recipe import preference_recipe

    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    if tasks:
        changes["tasks"] = split_names(tasks)
    found = preference_recipe(name, **changes)
    given = data.to_train_on(_names_of_tasks(found)) | ({"images": data.images} if data.images is not None else {})
    if given:
        changed = dataset_changes(found, given, fetch)
        found = change_recipe(found, changed, f"recipe {found.name!r}, with what the options change")
    if training.plain_trl:
        found = use_plain_trl(found)
    check_names(found, training.early_stop, training.named)
    return found


def _find_scoring(
    recipe: "PreferenceRecipe", asked: AskingOptions, data: RunDataOptions, limit: int | None
) -> "tuple[PreferenceRecipe, EvalSettings]":
    """The recipe with what the options change in its [scoring], and how its models are scored; SettingError."""
    from harness.runs.recipe_scoring import scored_by

    if changed := asked.changes(recipe):
        recipe = change_recipe(recipe, changed, f"recipe {recipe.name!r}, with what the options change")
    settings = EvalSettings(data=data.of_tasks(_names_of_tasks(recipe)), partial_data=data.partial, limit=limit)
    return recipe, scored_by(recipe, settings)[0]


def _names_of_tasks(recipe: "PreferenceRecipe") -> list[str]:
    from harness.runs.checkpoint_selection import tasks_of

    return [task.name for task in tasks_of(recipe)]


def _find_layout(recipe: "PreferenceRecipe", folder: Path, training: TrainingOptions, dry_run: bool) -> "Layout | None":
    """The processes that train; None if a dry run does not ask for them, since counting GPUs takes seconds."""
    from trainers.cluster.launch import command_of

    if world_size() > 1:
        raise UsageError("train-then-eval starts the processes that train by itself: say how many by --gpus")
    check_packages(recipe, folder)
    if dry_run and training.gpus is None and training.slurm is None and training.mode == "ddp":
        return None
    layout = find_layout(recipe, training.gpus, training.mode, as_job=training.slurm is not None and not is_launched())
    command_of([], layout)  # an error if a mode lacks something, before anything is scored
    return layout


def _print_steps(
    context: typer.Context,
    recipe: "PreferenceRecipe",
    folder: Path,
    training: TrainingOptions,
    layout: "Layout | None",
    scored_by: "tuple[Judge, EvalSettings]",
) -> int:
    """Print what --dry-run says."""
    from harness.runs.checkpoint_selection import tasks_of
    from harness.runs.plan import steps_of
    from harness.runs.run_folder import keep_own_scoring
    from harness.runs.scoring_cost import cost_of_scoring, planned_scoring, rate_here

    judge, settings = scored_by
    recipe = keep_own_scoring(folder, recipe)
    tasks = tasks_of(recipe)
    cost = cost_of_scoring(tasks, judge, settings, rate_here(recipe.base, tasks, folder))
    planned = planned_scoring(recipe.training, None, control=recipe.control and recipe.trainer != "sft")
    steps = steps_of(recipe, settings.limit, cost.words(planned))
    print_plan(f"{recipe.name}: {recipe.trainer} on {recipe.base}", steps, folder)
    if layout is not None and training.slurm is not None:
        return submit_command(context, folder, layout, training.slurm, dry_run=True)
    if layout is not None and layout.needs_launch:
        from harness.runs.training_worker import plan

        print(plan(folder, layout))
    return OK


def _exit_code_of(outcome: "Outcome", training: TrainingOptions, max_failed: float) -> int:
    from harness.runs.outcome import unmet
    from harness.runs.training_alarms import IDLE
    from tasks.judges.reasons import reasons_in_words

    if outcome.failed:
        return say(f"{len(outcome.failed)} checkpoints are not scored; the same command tries them again", FAILED)
    required = [*([()] if ANY in training.require_better else []), *([training.named] if training.named else [])]
    if why := "; ".join(filter(None, (unmet(outcome, names) for names in required))):
        return say(why, REGRESSED)
    if idle := "; ".join(alarm.words for alarm in outcome.alarms if alarm.name in IDLE):
        return say(idle, LOSSY)
    if outcome.data.failed > max_failed:
        why = reasons_in_words(outcome.data.reasons)
        say(f"{outcome.data.failed:.0%} of the training data's answers and ratings failed: {why}", LOSSY)
    return max(exit_code_of(outcome.entries, max_failed), LOSSY if outcome.lost > max_failed else OK)
