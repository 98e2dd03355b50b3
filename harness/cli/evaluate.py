"""`harness eval`: models on tasks, onto a board."""

import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.cli.judging import exit_code_of
from harness.cli.missing import tell_forecast
from harness.cli.next_steps import after_eval
from harness.cli.options import (
    JUDGE,
    MODEL,
    DryRun,
    Json,
    JudgeOptions,
    ModelOptions,
    ReportTo,
    Tasks,
    check_data,
    check_row_names,
    expand,
    tell_trackers,
    trackers_of,
)
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import (
    OptionGroup,
    check_at_least,
    from_environment,
    is_given,
    refuse_given,
    with_settings,
)
from harness.cli.shown import show
from harness.engine.config import EngineConfig, config_from
from harness.evaluation.eval_settings import EvalSettings, check_asking
from harness.models.chat_settings import acts_on_served
from harness.models.light_imports import allow as allow_light_imports
from harness.serving.adapters import needs_of_usable
from harness.serving.engine_host import check_alone, served_engine
from harness.serving.settings import ServerSettings
from support.errors import Need, SettingError, UsageError
from support.parsing import parse_json
from support.processes import world_size
from support.secrets import redact
from support.settings import settings_of

if TYPE_CHECKING:
    from harness.evaluation.preflight import Readiness
    from harness.evaluation.score_models import ModelScorer
    from harness.models.spec import ModelSpec
    from leaderboards.board.board import Board
    from leaderboards.board.entry import Entry, Key
    from tasks.judges.protocol import Judge
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)


def _make_engine(given: Mapping[str, Any]) -> EngineConfig:
    """Engine settings from options and from `--model-set NAME=VALUE`, where true, 4 and 0.5 are not text."""
    values = {name: value for name, value in given.items() if name != "overrides" and value is not None}
    suffix, by_task = read_suffixes(values.pop("suffix", None) or ())
    values |= {} if suffix is None else {"suffix": suffix}
    known = {setting.name: setting.default for setting in settings_of(EngineConfig)}
    for name, text in given.get("overrides", {}).items():
        if not name.isidentifier():
            raise SettingError(f"--model-set '{name}={text}': must be NAME=VALUE")
        if name in values and name != "answers" and values[name] != known[name]:
            raise SettingError(f"--model-set {name}: is given twice, by an option too")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return replace(config_from(values, "--model-set"), suffixes=by_task)


def read_suffixes(given: Sequence[str] | str) -> tuple[str | None, dict[str, str]]:
    """The text of `--prompt-suffix` for all tasks, and those of single ones, by the tasks' names."""
    from tasks.registry import registry

    found: list[str] = []
    by_task: dict[str, str] = {}
    for text in [given] if isinstance(given, str) else given:
        task, equals, own = text.partition("=")
        if equals and task in registry().tasks:
            by_task[task] = own
        else:
            found.append(text)
    if "" in found:
        raise SettingError("--prompt-suffix '': would not act; TASK= has a task asked in its own words")
    if len(found) > 1:
        raise SettingError(f"--prompt-suffix {found[1]!r}: is the second one for all tasks; for one: TASK=TEXT")
    return (found[0] if found else None), by_task


ENGINE: Final = OptionGroup(
    kind=EngineConfig,
    make=_make_engine,
    panel="Engine",
    table="engine",
    names={"suffix": "prompt_suffix", "overrides": "model_set"},
    types={"suffix": tuple[str, ...]},
    defaults={"answers": Path("runs") / "answers.sqlite"},
    helps={
        "suffix": "TEXT or TASK=TEXT, put after every question of all tasks, or of one; recorded; repeatable.",
        "overrides": "NAME=VALUE: any engine setting, or a field of the checkpoint's config.json; repeatable.",
    },
    whole=frozenset({"suffix"}),
    without=frozenset({"suffixes"}),
)


def _of_engine(*names: str) -> OptionGroup:
    """These of the engine's settings."""
    others = (setting.name for setting in settings_of(EngineConfig) if setting.name not in names)
    return replace(ENGINE, panel="Evaluation", table="").but(*others, answers=None)


COMPUTED_BY: Final = ("engine", "engine_set", "engine_url", "dtype")
"""Settings that say what computes answers: a run's own are kept together."""
ASKING: Final = _of_engine("suffix", "thinking", "thinking_tokens", *COMPUTED_BY, "gpus")
"""Those that say how models are asked, and by what, for commands that score checkpoints."""
COMPUTING: Final = _of_engine(*COMPUTED_BY, "gpus")
"""Those that say what computes their answers."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is done with the scores, and with what is there already."""

    out: Path = Path("runs/eval")
    """Run folder; its board/ gets the result."""
    strict: bool = False
    """Digest every byte of the weights, not samples of each tensor."""
    fresh: bool = False
    """Ask the model again, and ignore answers and scores that are kept."""
    max_failed: float = 0.05
    """Exit 4 above this share of failed, unscored or unparsed samples."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed <= 1:
            raise SettingError(f"--max-failed {self.max_failed}: must be between 0 and 1")


def _make_settings(given: Mapping[str, Any]) -> EvalSettings:
    settings = EvalSettings(**{**given, "calibration": _read_calibration(given.get("calibration"))})
    check_at_least("--limit", settings.limit, 1)
    check_at_least("--judge-repeats", settings.judge_repeats, 1)
    return settings


def check_of_tasks(settings: EvalSettings, engine: EngineConfig, tasks: "list[TaskSpec]") -> None:
    """SettingError for data, or a suffix, of a task that was not chosen."""
    check_data(settings.data, tasks)
    check_asking(settings.protocol, engine, tasks)


def check_server(context: typer.Context, server: ServerSettings | None) -> None:
    """SettingError for an option of a server that was given, without one."""
    if server is None:
        options = [name for name, _ in SERVER.options() if name != "serve"]
        refuse_given(context, [*options, "serve_keep"], "--serve is not given")


def _make_server(given: Mapping[str, Any]) -> ServerSettings | None:
    return None if given["command"] is None else ServerSettings(**given)


SERVER: Final = OptionGroup(
    kind=ServerSettings,
    make=_make_server,
    panel="Model",
    table="server",
    prefix="serve",
    names={"command": "serve", "flags": "serve_set"},
    types={"command": str | None},
    defaults={"command": None},
    helps={"command": "vllm, sglang, or a command with {model} {host} {port} {name}: serve the weights for this run."},
    without=frozenset({"lease", "keep", "rendered"}),
)
RUN: Final = OptionGroup(kind=RunOptions, panel="Run")
EVALUATION: Final = OptionGroup(
    kind=EvalSettings,
    make=_make_settings,
    panel="Evaluation",
    names={"calibration": "judge_calibration"},
    types={"calibration": Path | None},
    defaults={"calibration": None},
    helps={"calibration": "Output of `harness judge calibrate --json` for this judge; entries record it."},
    forms={"data": "TASK=PATH"},
    without=frozenset({"split"}),
)


Models = Annotated[
    list[str],
    typer.Option(
        help="A name of `harness models`, a folder with weights or an adapter, a hub id, or openai:ID; repeatable."
    ),
]

Names = Annotated[
    list[str] | None,
    typer.Option(help="What boards call the model, in place of its name or folder; one for each --model, in order."),
]


@with_settings(
    config="eval", run=RUN, settings=EVALUATION, models=MODEL, server=SERVER, engine=ENGINE, judge=JUDGE.but("repeats")
)
def eval_command(
    context: typer.Context,
    model: Models,
    name: Names = None,
    tasks: Tasks = None,
    report_to: ReportTo = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    run: RunOptions,
    settings: EvalSettings,
    models: ModelOptions,
    server: ServerSettings | None,
    engine: EngineConfig,
    judge: JudgeOptions,
) -> int:
    """Score models or checkpoints on tasks.

    Adapters of one base model are scored one after the other, with the base loaded once.
    """
    needs: list[Need] = []
    specs = _find_models(context, model, models, name or [], needs)

    from harness.evaluation.preflight import look_at_run
    from harness.evaluation.score_models import ModelScorer
    from harness.serving.server_host import ServerHost
    from leaderboards.board.board import Board
    from support.stages import Stages

    _check_place(context, server, specs, engine)
    chosen, trackers = expand(tasks), trackers_of(report_to)
    judge.check(context, any(task.judged for task in chosen))
    check_of_tasks(settings, engine, chosen)
    needs += needs_of_output("--out", run.out)
    rater, serving = judge.make(asked=False, lacking=needs), server or served_engine(engine, specs)
    with Stages():
        ready = look_at_run(chosen, rater, settings, models=specs, more=needs, server=serving, most_lost=run.max_failed)
    if dry_run:
        return _tell_forecast(specs, chosen, rater, settings, ready, run.out, as_json)
    if len(specs) < len(model):  # one is no model
        ready.require()
    board = Board(run.out / "board")
    named_specs = _name_on_board(board, [replace(spec, strict=run.strict) for spec in specs], given=bool(name))
    scorer = ModelScorer(
        tasks=chosen,
        judge=rater,
        settings=settings,
        engine=engine,
        board=board,
        server=None if server is None else ServerHost(settings=server, folder=run.out / "servers"),
        adapters=needs_of_usable(spec.adapter for spec in specs if spec.adapter is not None),
        ledger=judge.ledger,
        fresh=run.fresh,
    )
    scorer.require(ready.needs, named_specs)
    scorer = replace(scorer, judge=judge.ready(rater))
    with scorer, scorer.server or nullcontext():
        entries = _score_each(context, scorer, named_specs)
    _end(board, entries, context.obj or [], as_json, trackers)
    return exit_code_of(entries, run.max_failed)


def _check_place(
    context: typer.Context, server: ServerSettings | None, models: "Sequence[ModelSpec]", engine: EngineConfig
) -> None:
    """SettingError for an option that was given and would not act on models behind servers, or can't here."""
    from harness.models.place import check_place

    check_server(context, server)
    if is_given(context, "engine"):
        check_alone(engine, server)
    if server is None and any(spec.backend == "transformers" for spec in models):
        check_place(engine)
    if server is None and models and all(spec.backend == "openai" for spec in models):
        refuse_given(context, ("strict",), "the weights of a served model are not read")
        refuse_given(context, ("answers",), "the answers of a served model are kept in --ledger")


def _tell_forecast(
    models: "Sequence[ModelSpec]",
    tasks: "list[TaskSpec]",
    judge: "Judge",
    settings: EvalSettings,
    ready: "Readiness",
    out: Path,
    as_json: bool,
) -> int:
    """Print what --dry-run says."""
    from harness.runs.forecast import forecast_of_scoring, tasks_without_data
    from harness.runs.scoring_cost import cost_of_model

    missing = tasks_without_data(tasks, ready)
    costs = [cost_of_model(spec, tasks, judge, settings, out, missing=missing) for spec in models]
    named = ", ".join(f"{spec.name} ({spec.pretrained})" for spec in models) or "no model: none of those named is found"
    steps = [f"{task.name}: {task.description}" for task in tasks]
    return tell_forecast(forecast_of_scoring(f"score {named}", steps, costs, ready, out=out), as_json)


def _end(
    board: "Board", entries: "Sequence[Entry]", given: Sequence[str], as_json: bool, trackers: Sequence[str]
) -> None:
    """Print the scores, tell the trackers of them, and say what comes next after the command of these words."""
    _print_entries(entries, board, as_json)
    tell_trackers(trackers, board, [entry.model for entry in entries], entries[0].model if entries else None)
    after_eval(board, entries, given)


def _print_entries(entries: "Sequence[Entry]", board: "Board | None", as_json: bool) -> None:
    from harness.evaluation.lost import list_lost
    from leaderboards.board.entry import to_json
    from leaderboards.views.glossary import INTERVAL
    from leaderboards.views.markdown_report import leaderboard_blocks

    if as_json:
        reasons = list_lost(board, entries) if board is not None else []
        told = {"low": INTERVAL, "high": INTERVAL}
        print(json.dumps({"entries": [to_json(entry) for entry in entries], "glossary": told, "reasons": reasons}))
    else:
        show(leaderboard_blocks(entries))


def _score_each(
    context: typer.Context, scorer: "ModelScorer", models: "Sequence[tuple[str, ModelSpec]]"
) -> "list[Entry]":
    """Score each model under its name; what was measured now is returned, whatever other runs the board has."""
    from harness.evaluation.find_boards import tell_reruns
    from support.stages import Stages

    if all(spec.adapter is None for _, spec in models):  # peft needs more
        allow_light_imports()
    tasks = {task.name for task in scorer.tasks}
    scored: dict[Key, Entry] = {}
    for name, spec in models:
        with Stages():
            is_served = scorer.server is not None or spec.backend == "openai"
            evaluation = scorer.score(spec, name, _engine_of_served(context, scorer.engine) if is_served else None)
        if evaluation is not None and evaluation.may_pass:
            log.info(f"what failed is asked again by: harness {shlex.join(map(redact, context.obj or []))}")
        every = scorer.board.entries() if scorer.board is not None else []
        board = scorer.board.measured(scorer.settings.limit, every=every) if scorer.board is not None else []
        found = board if evaluation is None else evaluation.entries
        own = {each.key: each for each in found if each.model == name and each.task in tasks}
        tell_reruns(list(own.values()), every)
        scored |= own
    return list(scored.values())


def _engine_of_served(context: typer.Context, engine: EngineConfig) -> EngineConfig:
    """The settings for a model behind a server: without those from the environment that would not act on it."""
    idle = {setting.name for option, setting in ENGINE.options() if from_environment(context, option)}
    if "overrides" in idle:
        idle |= {text.partition("=")[0] for text in context.params["model_set"]}
    idle = {name for name in idle if not acts_on_served(name)}
    usual = EngineConfig()
    defaults: dict[str, Any] = {name: getattr(usual, name) for name in idle if hasattr(usual, name)}
    overrides = {name: value for name, value in engine.overrides.items() if name not in idle}
    return replace(engine, **defaults | {"overrides": overrides})


def _find_models(
    context: typer.Context, names: list[str], models: ModelOptions, rows: list[str], lacking: list[Need]
) -> "list[ModelSpec]":
    """The models, with the names that their rows are given; `lacking` gets those that there are none of."""
    if len(names) > 1 and models.path is not None:
        raise UsageError("--model-path is for one model; name folders by --model")
    if len(names) > 1 and world_size() > 1:
        raise UsageError("several processes score one model a call: name one --model under torchrun")
    found = models.find_all(context, names, lacking)
    if len(found) < len(names):
        return found
    servers = {(spec.url, spec.key) for spec in found if spec.backend == "openai"}
    if models.key is not None and len({url for url, _ in servers}) > 1:
        raise UsageError("--model-key-env is for one server, and these models are on several: score them one by one")
    return name_rows(found, rows)


def _name_on_board(board: "Board", specs: "list[ModelSpec]", given: bool) -> "list[tuple[str, ModelSpec]]":
    """The models with their names: that which the board has for a folder, unless the names are `given`."""
    from harness.evaluation.find_boards import known_as

    there = set() if given else {entry.model for entry in board.entries()}
    return [(known_as(spec.name, there) or spec.name, spec) for spec in specs]


def name_rows(specs: "list[ModelSpec]", rows: list[str]) -> "list[ModelSpec]":
    """The models under the names of `--name`; UsageError where these are not one for each, or not distinct."""
    if rows and len(rows) != len(specs):
        raise UsageError(f"--name is given {len(rows)} times for {len(specs)} models: one for each --model, in order")
    check_row_names(rows)
    named = [replace(spec, name=row) for spec, row in zip(specs, rows, strict=True)] if rows else specs
    again = [name for name, times in Counter(spec.name for spec in named).items() if times > 1]
    if again:
        raise UsageError(f"{again[0]!r} is the name of several of these models; give each a name of its own by --name")
    return named


def _read_calibration(path: Path | None) -> dict[str, str]:
    """What a file of `harness judge calibrate --json` says, to be put on entries."""
    if path is None:
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"--judge-calibration {path}: {error}") from None
    key = "judge calibration"
    if isinstance(found, dict) and list(found) == [key] and isinstance(found[key], str):
        return found
    raise SettingError(f"--judge-calibration {path}: must be what `harness judge calibrate --json` prints")
