"""`harness eval`: models on tasks, onto a board."""

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.cli.judging import exit_code_of, print_judge_plans
from harness.cli.options import (
    DATA,
    JUDGE,
    MODEL,
    DataOptions,
    DryRun,
    Json,
    JudgeOptions,
    ModelOptions,
    Tasks,
    expand,
    print_plan,
)
from harness.cli.setting_options import OptionGroup, with_settings
from harness.engine.config import EngineConfig, config_from
from support.errors import OK, SettingError, UsageError
from support.processes import world_size
from support.settings import settings_of

if TYPE_CHECKING:
    from harness.evaluation.entries import Evaluation
    from harness.models.spec import ModelSpec
    from leaderboards.board.board import Board
    from tasks.judges.protocol import Judge
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

COUNTED: Final = {
    "from the store": "from earlier runs",
    "cut": "cut once decided",
    "out of memory": "times out of memory",
}


def _make_engine(given: Mapping[str, Any]) -> EngineConfig:
    """Engine settings from options and from `--model-set NAME=VALUE`, whose true, 4 and 0.5 are no text."""
    values = {name: value for name, value in given.items() if name != "overrides" and value is not None}
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
    return config_from(values, "--model-set")


ENGINE: Final = OptionGroup(
    kind=EngineConfig,
    make=_make_engine,
    panel="Engine",
    table="engine",
    names={"suffix": "prompt_suffix", "overrides": "model_set"},
    defaults={"answers": Path("runs") / "answers.sqlite"},
    helps={"overrides": "NAME=VALUE: any engine setting, or a field of the checkpoint's config.json; repeatable."},
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is scored, and how."""

    limit: int | None = None
    """Use at most this many documents of each task; results are marked as partial."""
    seed: int = 0
    """Random seed; recorded."""
    out: Path = Path("runs/eval")
    """Run folder; its board/ gets the result."""
    judge_calibration: Path | None = None
    """Output of `harness judge calibrate --json` for this judge; entries record it."""
    official_prompts: bool = False
    """Ask the judge with the benchmark authors' prompts, fetched from their repository."""
    full_answers: bool = False
    """Let the model finish answers whose score is already decided."""
    strict: bool = False
    """Digest every byte of the weights, not samples of each tensor."""
    fresh: bool = False
    """Ask the model again, and ignore answers that are kept."""
    serve: str | None = None
    """vllm, sglang, or a command with {model} {host} {port} {name}: serve the weights for this run."""
    max_failed: float = 0.05
    """Exit 4 above this share of failed or unscored samples."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"--limit {self.limit}: must be at least 1")
        if not 0 <= self.max_failed <= 1:
            raise SettingError(f"--max-failed {self.max_failed}: must be between 0 and 1")


RUN: Final = OptionGroup(kind=RunOptions, panel="Evaluation")


@with_settings(config="eval", run=RUN, models=MODEL, engine=ENGINE, judge=JUDGE, data=DATA)
def eval_command(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(
            help="A name of `harness models`, a folder with weights or an adapter, a hub id, or openai:ID; repeatable."
        ),
    ],
    tasks: Tasks = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    run: RunOptions,
    models: ModelOptions,
    engine: EngineConfig,
    judge: JudgeOptions,
    data: DataOptions,
) -> int:
    """Score models or checkpoints on tasks.

    Adapters of one base model are scored one after the other, with the base loaded once.
    """
    from leaderboards.board.board import Board
    from leaderboards.board.entry import to_json
    from leaderboards.views.markdown_report import leaderboard

    if len(model) > 1 and models.path is not None:
        raise UsageError("--model-path is for one model; name folders by --model")
    if len(model) > 1 and world_size() > 1:
        raise UsageError("several processes score one model a call: name one --model under torchrun")
    specs = [models.find(context, name) for name in model]
    chosen = expand(tasks)
    judge.check(context, any(task.judged for task in chosen))
    data.check(chosen)
    rater = judge.make()
    if dry_run:
        named = ", ".join(f"{spec.name} ({spec.pretrained})" for spec in specs)
        print_plan(f"score {named}", [f"{task.name}: {task.description}" for task in chosen], run.out)
        return _print_price(rater, chosen, data.paths, run.limit, judge.repeats)
    names = [
        Path(name).as_posix() if Path(name).is_dir() else spec.name for name, spec in zip(model, specs, strict=True)
    ]
    board = Board(run.out / "board")
    scorer = _Scorer(board, chosen, rater, run, engine, judge, data)
    for name, spec in zip(names, specs, strict=True):
        if (evaluation := scorer.score(name, spec)) is not None and evaluation.lost:
            log.info(f"what failed is asked again by: harness {shlex.join(context.obj or [])}")
    entries = [
        entry
        for entry in board.current(partial=True)
        if entry.model in names and entry.task in {task.name for task in chosen}
    ]
    print(json.dumps({"entries": [to_json(entry) for entry in entries]}) if as_json else leaderboard(entries))
    return exit_code_of(entries, run.max_failed)


@dataclass
class _Scorer:
    """Scores one model after the other; keeps the base of adapters in memory."""

    board: "Board"
    tasks: "list[TaskSpec]"
    rater: "Judge"
    run: RunOptions
    engine: EngineConfig
    judge: JudgeOptions
    data: DataOptions

    def __post_init__(self) -> None:
        from harness.evaluation.eval_settings import EvalSettings
        from harness.models.adapter_host import AdapterHost
        from harness.serving.settings import ServerSettings

        engine, run = self.engine, self.run
        self.engine = replace(engine, answers=None) if run.fresh else engine
        self.settings = EvalSettings(
            limit=run.limit,
            seed=run.seed,
            data=self.data.paths,
            partial_data=self.data.partial,
            official_prompts=run.official_prompts,
            judge_repeats=self.judge.repeats,
            calibration=_read_calibration(run.judge_calibration),
            full_answers=run.full_answers,
        )
        self.server = ServerSettings(command=run.serve) if run.serve else None
        self.host = AdapterHost()

    def score(self, name: str, found: "ModelSpec") -> "Evaluation | None":
        """Score one model and put it on the board; None if the board has it already."""
        from contextlib import nullcontext

        from harness.evaluation.eval_settings import on_board
        from harness.evaluation.evaluate import evaluate
        from harness.models.fetch import fetch
        from harness.serving.model_server import served
        from support.stages import Stages

        run, settings, engine = self.run, self.settings, self.engine
        spec = replace(fetch(found), strict=run.strict)
        if not run.fresh and on_board(self.board, spec, name, self.tasks, self.rater, settings, engine):
            log.info(f"{name}: already on the board in {self.board.folder}, nothing to do")
            return None
        log.info(f"{name}: scoring on {', '.join(task.name for task in self.tasks)}")
        with Stages(), served(spec, self.server) if self.server else nullcontext(spec) as reached:
            evaluation = evaluate(
                reached,
                self.tasks,
                self.rater,
                settings,
                engine=engine,
                name=name,
                ledger=self.judge.ledger,
                load=self.host.load,
            )
        self.board.add(evaluation.entries, evaluation.samples)
        _log_time(evaluation)
        return evaluation


def _log_time(evaluation: "Evaluation") -> None:
    """Log what questions shared, and where the time went."""
    counts, seconds = evaluation.counts, sum(evaluation.seconds.values())
    if evaluation.shared:
        log.info(f"shared: {evaluation.shared}")
    if counts.get("asked"):
        parts = [f"{counts['asked']} questions", f"{counts.get('answered', 0)} answered by the model"]
        parts += [f"{counts[name]} {what}" for name, what in COUNTED.items() if counts.get(name)]
        log.info(f"{', '.join(parts)}; {counts['asked'] / seconds:.1f} a second")
    spent = sorted(evaluation.seconds.items(), key=lambda item: -item[1])
    log.info("time: " + ", ".join(f"{stage} {took:.1f} s" for stage, took in spent if took >= 0.05))


def _read_calibration(path: Path | None) -> dict[str, str]:
    """What a file of `harness judge calibrate --json` says, to be put on entries."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"--judge-calibration {path}: {error}") from None
    if not isinstance(found, dict) or [(key, type(text)) for key, text in found.items()] != [
        ("judge calibration", str)
    ]:
        raise SettingError(f"--judge-calibration {path}: must be what `harness judge calibrate --json` prints")
    return found


def _print_price(
    judge: "Judge", tasks: "list[TaskSpec]", paths: dict[str, str], limit: int | None, repeats: int
) -> int:
    """Print what the judge will cost, for answers of a usual length: those of the model are not there yet."""
    from harness.evaluation.judge_cost import plan, supposed_answers
    from tasks.judges.openai import OpenAIJudge

    if not isinstance(judge, OpenAIJudge):
        return OK
    from harness.evaluation.generate import load_tasks

    plans = []
    for task in tasks:
        if task.judged:
            docs = list(load_tasks([task], data=paths, partial_data=True)[task.name].eval_docs)[:limit]
            plans.append(plan(judge, task, docs, supposed_answers(len(docs)), repeats))
    return print_judge_plans(plans)
