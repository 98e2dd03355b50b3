"""`harness watch`: every checkpoint of a training run onto a board as it is written, from another process or GPU."""

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.evaluate import ASKING, COMPUTED_BY, EVALUATION, SERVER, check_of_tasks, check_server
from harness.cli.missing import collect, tell_forecast
from harness.cli.next_steps import after_run
from harness.cli.options import (
    JUDGE,
    DryRun,
    Json,
    JudgeOptions,
    ReportTo,
    Tasks,
    expand,
    say,
    tell_trackers,
    trackers_of,
)
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import OptionGroup, from_environment, is_given, with_settings
from harness.cli.shown import show
from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings
from harness.runs.watch import WatchSettings
from harness.serving.engine_host import EngineHost, check_alone, served_engine
from harness.serving.settings import ServerSettings
from support.errors import FAILED, OK, Need, one_line
from support.stages import Stages

if TYPE_CHECKING:
    from harness.evaluation.preflight import Readiness
    from harness.models.spec import ModelSpec
    from harness.runs.scoring_queue import Scoring
    from harness.runs.watch import Watched
    from harness.runs.watch_report import WatchReport
    from harness.serving.adapters import Adapters
    from harness.serving.server_host import ServerHost
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)


WATCH = OptionGroup(kind=WatchSettings, panel="Watching", without=frozenset({"backoff"}), environment=False)
WITHOUT_OPTION = ("official_prompts", "judge_repeats", "calibration", "full_answers")


@with_settings(
    settings=WATCH,
    evaluation=EVALUATION.but(*WITHOUT_OPTION),
    asking=ASKING,
    server=SERVER,
    judge=JUDGE.but("batch", "repeats"),
)
def watch_command(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="Output folder of the training: a run of ours, of transformers' Trainer, or of TRL.")
    ],
    tasks: Tasks = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for board/, watch.md and watch.png; default: the training's folder.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Model to compare with; default: the base model of the adapters.")
    ] = None,
    report_to: ReportTo = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    settings: WatchSettings,
    evaluation: EvalSettings,
    asking: EngineConfig,
    server: ServerSettings | None,
    judge: JudgeOptions,
) -> int:
    """Score each checkpoint of a training run as it is written.

    After an interruption the same command continues.
    """
    from harness.evaluation.preflight import look_at_run
    from harness.models.load import register
    from harness.runs.run_folder import tasks_of_run
    from harness.runs.scoring_cost import scoring_words
    from harness.runs.watch import watch

    chosen = expand(tasks or tasks_of_run(folder))
    trackers = trackers_of(report_to)
    judge.check(context, any(task.judged for task in chosen))
    check_server(context, server)
    check_alone(asking, server)
    evaluation, asking = _settle_asking(context, folder, evaluation, asking, chosen, served=server is not None)
    out = out or folder
    needs = needs_of_output("--out", out)
    rater = judge.make(asked=False, lacking=needs)
    register()
    models = _find_models(folder, {"--base": base, "--model-base": settings.model_base}, needs)
    with Stages(), _make_host(server, out, judge) or nullcontext() as host:
        serving = server or served_engine(asking, models)
        ready = look_at_run(chosen, rater, evaluation, models=models, more=needs, server=serving)
        if not dry_run:
            ready.require()
            rater = judge.ready(rater)
        asked: dict[str, Any] = {"tasks": chosen, "judge": rater, "settings": evaluation, "server": host}
        scoring = _make_scoring(folder, out, settings, **asked, engine=asking)
        if dry_run:
            return _tell_forecast(scoring, folder, ready, (out, settings.score_checkpoints), as_json)
        log.info(scoring_words(scoring, folder, settings.score_checkpoints))
        reporter = _Reporter(folder, out, scoring, base, trackers)
        with scoring.host:
            report = reporter.show(watched := watch(folder, scoring, settings, shown=reporter.show))
    show(report.text, json=json.dumps(watched.to_json() | report.to_json()) if as_json else None)
    return _end(watched, reporter)


def _settle_asking(
    context: typer.Context,
    folder: Path,
    evaluation: EvalSettings,
    asking: EngineConfig,
    tasks: "list[TaskSpec]",
    *,
    served: bool,
) -> tuple[EvalSettings, EngineConfig]:
    """How models are asked: as the recipe of a run of ours says, where options don't. SettingError for what would not
    act."""
    from harness.runs.recipe_scoring import asked_in_run

    by_option = any(is_given(context, name) or from_environment(context, name) for name in COMPUTED_BY)
    names = [task.name for task in tasks]
    protocol, engine = asked_in_run(folder, asking, names, own_engine=not (served or by_option))
    if not (is_given(context, "protocol") or from_environment(context, "protocol")):
        evaluation = replace(evaluation, protocol=protocol)
    check_of_tasks(evaluation, engine, tasks)
    return evaluation, engine


def _find_models(folder: Path, named: Mapping[str, str | None], lacking: list[Need]) -> "list[ModelSpec]":
    """The bases that are `named`, and the first checkpoint that is there; `lacking` gets those that are none."""
    from harness.datasets.readiness import find_models
    from trainers.training.checkpoints import QuietPeriod, find_complete_checkpoints

    there = collect(lacking, lambda: find_complete_checkpoints(folder, QuietPeriod(0))[0])
    given = {what: name for what, name in named.items() if name is not None}
    checkpoint = {"checkpoint": str(there[0].path)} if there else {}
    models: list[ModelSpec] = []
    for names, base in ((given, None), (checkpoint, named["--model-base"])):  # of the two, adapters alone have a base
        found, unknown = find_models(names, correct="name another", base=base)
        models += found
        lacking += unknown
    return models


def _make_scoring(folder: Path, out: Path, how: WatchSettings, **asked: Any) -> "Scoring":
    """How the checkpoints are scored."""
    from harness.runs.scoring_queue import Scoring
    from leaderboards.board.board import Board

    return Scoring(
        board=Board(out / "board"),
        state=out / "watch",
        adapters=lambda: _find_adapters(folder),
        host=EngineHost(out / "servers", lambda: _find_adapters(folder)),
        remote_code=how.trust_remote_code,
        adapters_base=how.model_base,
        **asked,
    )


def _tell_forecast(
    scoring: "Scoring", folder: Path, ready: "Readiness", what: tuple[Path, int | None], as_json: bool
) -> int:
    """Print what --dry-run says; `what`: the folder of the results, and how many checkpoints are scored."""
    from harness.runs.forecast import forecast_of_scoring, tasks_without_data
    from harness.runs.scoring_cost import cost_of_waiting

    out, count = what
    cost, planned = cost_of_waiting(scoring, folder, count, missing=tasks_without_data(scoring.tasks, ready))
    title, steps = f"score the checkpoints of {folder}", [cost.words(planned)]
    return tell_forecast(forecast_of_scoring(title, steps, [cost], ready, out=out, planned=planned), as_json)


def _make_host(server: ServerSettings | None, out: Path, judge: JudgeOptions) -> "ServerHost | None":
    """What serves the checkpoints, if they are served."""
    from harness.serving.server_host import ServerHost

    return None if server is None else ServerHost(settings=server, folder=out / "servers", ledger=judge.ledger)


def _find_adapters(folder: Path) -> "Adapters":
    """What a server must be ready for to have the adapters that are there."""
    from harness.serving.adapters import needs_of_usable

    return needs_of_usable(folder.glob("**/checkpoint-*"))


def _end(watched: "Watched", reporter: "_Reporter") -> int:
    """Tell where the scores are, and what comes next; the exit code."""
    reporter.tell_next(watched)
    if watched.failed:
        return say(f"{len(watched.failed)} checkpoints are not scored", FAILED)
    if reporter.unscored:
        return say(f"the base is not scored: {', '.join(reporter.unscored)}", FAILED)
    return OK


@dataclass
class _Reporter:
    """Writes the report; scores the base with the first checkpoint."""

    folder: Path
    out: Path
    scoring: "Scoring"
    base: str | None
    trackers: list[str] = field(default_factory=list)
    """What gets the scores as they come."""
    unscored: dict[str, str] = field(default_factory=dict)
    """The base that could not be scored, and why."""

    def show(self, watched: "Watched") -> "WatchReport":
        """Bring the report up to date. A base that cannot be scored delays no checkpoint."""
        from harness.models.spec import base_of
        from harness.runs.watch_report import write_watch_report

        if self.base is None and watched.found:
            self.base = base_of(watched.found[0].path, self.scoring.adapters_base)
        if self.base is not None and watched.found:
            self._score_base(self.base)
        names = [watched.names[one.path] for one in watched.found if one.path in watched.names]
        models = [*([self.base] if self.base is not None else []), *names]
        tell_trackers(self.trackers, self.scoring.board, models, self.base)
        return write_watch_report(self.folder, self.out, watched, self.base, self.scoring.tasks, self.unscored)

    def tell_next(self, watched: "Watched") -> None:
        """Where the scores are, and what comes next."""
        latest = watched.names[watched.found[-1].path] if watched.scored else None
        partial = any(entry.partial for entry in self.scoring.board.entries())
        after_run(self.out, self.base, latest, self.out / "board", partial=partial)

    def _score_base(self, name: str) -> None:
        try:
            self.scoring.score(self.scoring.fetch(name), name)
            self.unscored.pop(name, None)
        except Exception as error:  # it is scored again with the next checkpoint
            self.scoring.host.drop()
            self.unscored[name] = f"{type(error).__name__}: {one_line(error)[:300]}"
            log.info(f"{name}: the base is not scored ({self.unscored[name]})")
