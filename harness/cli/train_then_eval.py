"""`harness train-then-eval`: base, data, training, checkpoints and verdict in one command."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.evaluate import SERVER, check_server
from harness.cli.judging import exit_code_of
from harness.cli.missing import collect, tell_forecast
from harness.cli.next_steps import after_run
from harness.cli.options import (
    ANY,
    JUDGE,
    DryRun,
    Json,
    JudgeOptions,
    Limit,
    MaxFailed,
    ReportTo,
    Seed,
    say,
    split_names,
    tell_trackers,
    trackers_of,
)
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import OptionGroup, refuse_given, with_settings
from harness.cli.shown import show
from harness.cli.train import describe_job, submit_command
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
from harness.serving.engine_host import check_alone, served_engine
from harness.serving.settings import ServerSettings
from support.errors import FAILED, LOSSY, OK, REGRESSED, InputError, Need, UsageError
from support.judge_names import SCENES
from support.processes import is_launched, world_size

if TYPE_CHECKING:
    from harness.engine.config import EngineConfig
    from harness.evaluation.preflight import Readiness
    from harness.runs.forecast import Forecast
    from harness.runs.outcome import Outcome
    from tasks.judges.protocol import Judge
    from trainers.cluster.launch import Layout
    from trainers.config.recipe import PreferenceRecipe

log = logging.getLogger(__name__)

_Ended = tuple["Sequence[Outcome]", Callable[[Sequence[str]], str]]
"""The runs that were asked for, and what tells why a required metric is not better."""


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


RunFolder = Annotated[
    Path | None,
    typer.Option(
        help="Run folder; default: runs/RECIPE (runs/RECIPE-seedN with --seed, runs/RECIPE-seeds with --seeds)."
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Train with N seeds (or a list: 0,1,2) on the same data, and compare their mean with the base.",
    ),
]
SERVED = replace(SERVER, without=frozenset({"lease", "rendered"}))
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
    out: RunFolder = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Tasks or suites instead of the recipe's, separated by commas; repeatable.")
    ] = None,
    limit: Limit = None,
    seed: Seed = None,
    seeds: Seeds = None,
    max_failed: MaxFailed = 0.05,
    report_to: ReportTo = None,
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

    Builds or reads preference data first. After an interruption the same command continues.
    """
    found = _find_recipe(recipe, tasks, seed, training, data, fetch=not dry_run)
    found, settings, engine = _find_scoring(found, asked, data, limit)
    numbers = _find_seeds(context, found, seeds)
    folder = run_folder_of(out, found.name, seed, several=bool(numbers))
    judge = replace(judge, name=judge.name or (found.data.judge if found.data else None) or SCENES)
    judge.check(context)
    check_server(context, server)
    check_alone(engine, server)
    needs, trackers = needs_of_output("--out", folder), trackers_of(report_to)
    rater = judge.make(asked=False, lacking=needs)
    layout = _find_layout(found, folder, training, dry_run, needs)
    from harness.runs.needs import look_at_recipe
    from harness.serving.server_host import ServerHost
    from support.stages import Stages

    settings = EvalSettings(data=data.of_tasks(_names_of_tasks(found)), partial_data=data.partial, limit=limit)
    with Stages():
        serving = server or served_engine(engine)
        ready = look_at_recipe(found, folder, rater, settings, server=serving, more=needs)
    if dry_run:
        forecast = _forecast(found, folder, (rater, settings), ready, numbers)
        return tell_forecast(forecast, as_json, _describe_launch(context, folder, training, layout, numbers))
    ready.require()
    if layout is not None and training.slurm is not None and not is_launched():
        return submit_command(context, folder, layout, training.slurm)
    rater = judge.ready(rater)
    host = None if server is None else ServerHost(settings=server, folder=folder / "servers", ledger=judge.ledger)
    given = _options_of_run(training, layout) | {"server": host, "settings": settings}
    asked_of = _Run(recipe=found, folder=folder, judge=rater, given=given, trackers=trackers, as_json=as_json)
    runs, unmet = _train_one(asked_of) if not numbers else _train_several(asked_of, numbers)
    return _exit_code_of(runs, unmet, training, max_failed)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is ready to start."""

    recipe: "PreferenceRecipe"
    folder: Path
    judge: "Judge"
    given: dict[str, Any]
    trackers: list[str]
    as_json: bool


def _train_one(run: _Run) -> _Ended:
    from harness.runs.outcome import unmet
    from harness.runs.report import to_json, write_report
    from harness.runs.train_then_eval import train_then_eval
    from support.stages import Stages

    with Stages():
        outcome = train_then_eval(run.recipe, run.folder, run.judge, **run.given)
        text = write_report(outcome)
    show(text, json=to_json(outcome) if run.as_json else None)
    _tell_end(run.trackers, run.folder, outcome)
    return [outcome], partial(unmet, outcome)


def _train_several(run: _Run, seeds: Sequence[int]) -> _Ended:
    """With each of the seeds, and what their mean says."""
    from harness.cli.next_steps import after_seeds
    from harness.runs.outcome import unmet_tests
    from harness.runs.seeds_report import runs_words, seeds_json, write_seeds_report
    from harness.runs.train_seeds import train_seeds
    from leaderboards.board.board import Board
    from support.stages import Stages

    with Stages():
        found = train_seeds(run.recipe, seeds, run.folder, run.judge, **run.given)
        blocks = write_seeds_report(found)
    show(blocks, json=seeds_json(found) if run.as_json else None)
    base, outcomes = found.first.base, list(found.runs.values())
    after_seeds(run.folder, base, runs_words(found), partial=found.partial)
    models = dict.fromkeys(entry.model for one in outcomes for entry in one.entries)
    tell_trackers(run.trackers, Board(found.first.board), list(dict.fromkeys([base, *models])), base)
    names = f"the mean of {len(seeds)} seeds", base
    return outcomes, partial(unmet_tests, found.panel, found.recipe, names)


def _tell_end(trackers: list[str], folder: Path, outcome: "Outcome") -> None:
    """Say what comes next, and tell the trackers of the base and of each checkpoint."""
    from leaderboards.board.board import Board

    partial = any(entry.partial for entry in outcome.entries)
    after_run(folder, outcome.base, outcome.selection.model, folder / "report.md", partial=partial)
    models = [outcome.base, *dict.fromkeys(entry.model for entry in outcome.entries)]
    tell_trackers(trackers, Board(folder / "board"), models, outcome.base)


def _options_of_run(training: TrainingOptions, layout: "Layout | None") -> dict[str, Any]:
    processes = layout if layout is not None and layout.needs_launch else None
    return {"early_stop": training.early_stop, "remote_code": training.trust_remote_code, "layout": processes}


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
    if given := data.to_train_on():
        changed = dataset_changes(found, given, fetch)
        found = change_recipe(found, changed, f"recipe {found.name!r}, with what the options change")
    if training.plain_trl:
        found = use_plain_trl(found)
    check_names(found, training.early_stop, training.named)
    return found


def _find_scoring(
    recipe: "PreferenceRecipe", asked: AskingOptions, data: RunDataOptions, limit: int | None
) -> "tuple[PreferenceRecipe, EvalSettings, EngineConfig]":
    """The recipe with what the options change in its [scoring], and how its models are scored; SettingError."""
    from harness.runs.recipe_scoring import scored_by

    if changed := asked.changes(recipe):
        recipe = change_recipe(recipe, changed, f"recipe {recipe.name!r}, with what the options change")
    settings = EvalSettings(data=data.of_tasks(_names_of_tasks(recipe)), partial_data=data.partial, limit=limit)
    return recipe, *scored_by(recipe, settings)


def _names_of_tasks(recipe: "PreferenceRecipe") -> list[str]:
    from harness.runs.checkpoint_selection import tasks_of

    return [task.name for task in tasks_of(recipe)]


def _find_seeds(context: typer.Context, recipe: "PreferenceRecipe", seeds: str | None) -> "tuple[int, ...]":
    """The seeds of --seeds; none without it. UsageError, also for a --seed that would have no effect."""
    from harness.runs.train_seeds import parse_seeds

    if seeds is None:
        return ()
    if "," in seeds and recipe.data is None:
        refuse_given(context, ["seed"], "--seeds names all seeds, and this recipe's data are not drawn by one")
    return parse_seeds(seeds, recipe.seed)


def _find_layout(
    recipe: "PreferenceRecipe", folder: Path, training: TrainingOptions, dry_run: bool, lacking: list[Need]
) -> "Layout | None":
    """The processes that train; None if a dry run does not ask for them, since counting GPUs takes seconds. `lacking`
    gets what they lack."""
    from trainers.cluster.launch import check_world, command_of

    if world_size() > 1:
        raise UsageError("train-then-eval starts the processes that train by itself: say how many by --gpus")
    if is_launched():
        check_world()
    collect(lacking, partial(check_packages, recipe, folder))
    if dry_run and training.gpus is None and training.slurm is None and training.mode == "ddp":
        return None
    as_job = training.slurm is not None and not is_launched()
    layout = find_layout(recipe, training.gpus, training.mode, as_job=as_job, lacking=lacking)
    collect(lacking, partial(command_of, [], layout))  # a mode may lack its library
    return layout


def _forecast(
    recipe: "PreferenceRecipe",
    folder: Path,
    scored_by: "tuple[Judge, EvalSettings]",
    ready: "Readiness",
    seeds: Sequence[int] = (),
) -> "Forecast":
    """What --dry-run says."""
    from harness.datasets.pool import plan_pool
    from harness.datasets.readiness import plan_ratings_of
    from harness.models.spec import find
    from harness.runs.checkpoint_selection import tasks_of
    from harness.runs.forecast import forecast_of_scoring, tasks_without_data, with_building
    from harness.runs.plan import steps_of
    from harness.runs.run_folder import keep_own_scoring
    from harness.runs.scoring_cost import cost_of_model, planned_scoring
    from tasks.judges.openai import OpenAIJudge

    judge, settings = scored_by
    recipe = keep_own_scoring(folder, recipe)
    tasks = tasks_of(recipe)
    missing = tasks_without_data(tasks, ready)
    planned = planned_scoring(recipe.training, None, control=recipe.control and recipe.trainer != "sft")
    planned = planned.of_seeds(len(seeds)) if seeds else planned
    costs = []
    with suppress(InputError):  # a base that is none is among what is missing
        cost = cost_of_model(find(recipe.base), tasks, judge, settings, folder, missing=missing)
        costs = [cost, cost]  # the base's, and a checkpoint's
    scoring = costs[-1].words(planned) if costs else planned.how
    title, steps = f"{recipe.name}: {recipe.trainer} on {recipe.base}", steps_of(recipe, settings.limit, scoring, seeds)
    found = forecast_of_scoring(title, steps, costs, ready, out=folder, planned=planned)
    if recipe.data is None:
        return found
    instructions = min(settings.limit or recipe.data.instructions, recipe.data.instructions)
    data = recipe.data.model_copy(update={"instructions": instructions})
    with suppress(InputError):  # so is a member of the pool
        built = folder / "data" if (folder / "data").is_dir() else None
        pool = plan_pool(data, recipe.seed_of_data, data.instructions, built)
        ratings = plan_ratings_of(judge, data, folder / "data") if isinstance(judge, OpenAIJudge) else None
        found = with_building(found, pool, ratings)
    return found


def _describe_launch(
    context: typer.Context,
    folder: Path,
    training: TrainingOptions,
    layout: "Layout | None",
    seeds: Sequence[int] = (),
) -> str:
    """The job, or the processes, that --dry-run shows; of several seeds, the first one's processes."""
    if layout is not None and training.slurm is not None:
        return describe_job(context, folder, layout, training.slurm)
    if layout is not None and layout.needs_launch:
        from harness.runs.train_seeds import folder_of
        from harness.runs.training_worker import plan

        return plan(folder_of(folder, seeds[0]) if seeds else folder, layout)
    return ""


def _exit_code_of(
    runs: "Sequence[Outcome]", unmet: Callable[[Sequence[str]], str], training: TrainingOptions, max_failed: float
) -> int:
    """Of one run, or of one for each seed; `unmet`: why a required metric is not better."""
    from harness.runs.training_alarms import IDLE
    from tasks.judges.reasons import reasons_in_words

    if failed := sum(len(one.failed) for one in runs):
        return say(f"{failed} checkpoints are not scored; the same command tries them again", FAILED)
    required = [*([()] if ANY in training.require_better else []), *([training.named] if training.named else [])]
    if why := "; ".join(filter(None, (unmet(names) for names in required))):
        return say(why, REGRESSED)
    alarms = (alarm for one in runs for alarm in one.alarms)
    if idle := "; ".join(alarm.words for alarm in alarms if alarm.name in IDLE):
        return say(idle, LOSSY)
    data = runs[0].data
    if data.failed > max_failed:
        why = reasons_in_words(data.reasons)
        say(f"{data.failed:.0%} of the training data's answers and ratings failed: {why}", LOSSY)
    entries = list({(entry.run, entry.key): entry for one in runs for entry in one.entries}.values())
    return max(exit_code_of(entries, max_failed), LOSSY if max(one.lost for one in runs) > max_failed else OK)
