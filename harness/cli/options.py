"""Options that several commands share, and the settings that are declared as groups of options."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.cli.setting_options import OptionGroup, check_at_least, parse_pairs, refuse_given
from support.errors import InputError, Need, NoKeyError, SettingError, UsageError
from support.judge_names import SCENES, current_judge
from support.markdown import line
from support.settings import LARGEST_SEED, made, settings_of
from tasks.judges.addresses import OPENAI, server_of
from tasks.judges.prices import read_price
from tasks.judges.providers import has_prefix
from tasks.judges.settings import GivenSettings, JudgeSettings

if TYPE_CHECKING:
    from harness.models.spec import ModelSpec
    from leaderboards.board.board import Board
    from tasks.judges.protocol import Judge
    from tasks.pairs.protocol import PairBench
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

LEDGER: Final = Path("runs") / "ledger.sqlite"
"""Where judge replies are kept if nothing else is said."""

DRY_RUN: Final = "--dry-run"
REQUIRE_BETTER: Final = "--require-better"
ANY: Final = "any"
"""Stands for a `--require-better` without a name: better by one metric of the panel, worse by none."""

LedgerPath = Annotated[
    Path, typer.Option("--ledger", help="File that keeps every paid judge reply.", envvar="HARNESS_LEDGER")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Seed = Annotated[
    int | None, typer.Option(min=0, max=LARGEST_SEED, help="Random seed; recorded.", envvar="HARNESS_SEED")
]
DryRun = Annotated[
    bool,
    typer.Option(DRY_RUN, help="Print what would be done, what it takes and what is missing for it; do nothing."),
]
MaxFailed = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Exit 4 above this share of failed, unscored or unparsed samples.",
        envvar="HARNESS_MAX_FAILED",
    ),
]
Tasks = Annotated[list[str] | None, typer.Option(help="Tasks or suites, separated by commas; repeatable.")]


ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        "--report-to",
        help="Trackers that get each model's scores and some answers: wandb, trackio, mlflow, tensorboard; repeatable.",
    ),
]


def trackers_of(given: list[str] | None) -> list[str]:
    """The names of --report-to; SettingError for one that is not known or not installed."""
    names = list(dict.fromkeys(split_names(given or [])))
    if names:
        from harness.evaluation.trackers import check_trackers

        check_trackers(names)
    return names


def tell_trackers(trackers: Sequence[str], board: "Board", models: Iterable[str], base: str | None) -> None:
    """Tell the trackers of these models' scores on the board."""
    if trackers:
        from harness.evaluation.trackers import report_scores

        report_scores(board, models, trackers, base=base)


def _check_limit(value: int | None) -> int | None:
    check_at_least("--limit", value, 1)
    return value


Limit = Annotated[
    int | None,
    typer.Option(
        callback=_check_limit,
        help="Use at most N documents of each task, drawn evenly over its categories; results are marked as partial.",
        envvar="HARNESS_LIMIT",
    ),
]


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(JudgeSettings):
    """Which judge rates, and how it is asked."""

    name: str | None = SCENES
    """Judge of judged tasks: scenes (scene graphs), or a model of a server (NAME, azure:NAME, gemini:, anthropic:)."""
    url: str | None = None
    """URL of the judge's server; default: OPENAI_BASE_URL, else OpenAI."""
    key: str | None = None
    """Name of the environment variable with the key of the judge's server; default: OPENAI_API_KEY."""
    ledger: Path = LEDGER
    """File that keeps every paid judge reply."""
    budget: float | None = None
    """Limit in US dollars of a command and its repetitions until one ends well, for all processes of this ledger."""
    known_as: str | None = None
    """Name of the judge's server in the ledger in place of its address, or the address it had before."""
    batch: bool = False
    """Use OpenAI's Batch API: half the price, replies within a day."""
    serve: str | None = None
    """vllm, sglang, or a command with {model} {host} {port} {name}: serve the judge, a model of open weights, for this
    run."""
    serve_set: Mapping[str, str] = field(default_factory=dict)
    """NAME=VALUE: any flag of the judge's server; repeatable."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE of any of the judge's settings below; repeatable."""
    repeats: int = 1
    """How often the judge rates each answer; scores are the mean."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", current_judge(self.name))
        check_at_least("--judge-budget", self.budget, 0)
        check_at_least("--judge-repeats", self.repeats, 1)
        if self.price is not None:
            read_price(self.price, "--judge-price")
        self.judge_settings()

    def check(self, context: typer.Context, judged: bool = True) -> None:
        """SettingError for an option that was given and has no effect with this judge, or without judged tasks."""
        own = ("url", "key_env", "budget", "known_as", "batch", "serve", "serve_set", "set", "repeats")
        options = [f"judge_{name}" for name in (*own, *(setting.name for setting in settings_of(JudgeSettings)))]
        if not judged:
            refuse_given(context, ["judge", *options], "no chosen task needs a judge")
        if self.name == SCENES:
            refuse_given(context, options, "the judge 'scenes' compares with scene graphs on this machine")
        if self.name is None:
            refuse_given(context, options, "no --judge is named")
        if self.serve is None:
            refuse_given(context, ["judge_serve_set"], "--judge-serve is not given")
        else:
            served = [f"judge_{name}" for name in ("url", "key_env", "budget", "known_as", "batch")]
            refuse_given(context, served, "the judge's server is started for this run")

    def judge_settings(self) -> JudgeSettings:
        """How the judge is asked: by options, and by `--judge-set`, which wins."""
        given = {setting.name: getattr(self, setting.name) for setting in settings_of(JudgeSettings)}
        pairs = parse_pairs(self.settings, "--judge-set")
        found = made(JudgeSettings, given | pairs, "--judge-set")
        return GivenSettings(**vars(found), given=tuple(pairs)) if pairs else found

    def make(self, *, asked: bool = True, lacking: list[Need] | None = None) -> "Judge":
        """The judge; warns if its provider will shut it down. Weights to serve are fetched if it is to be `asked`.
        `lacking` gets the key that is not set, where that is no error."""
        from datetime import date

        from harness.evaluation.make_judge import judge_or_estimator, make_judge
        from tasks.judges.prices import retired

        name = self.name or SCENES
        if name == SCENES:
            return make_judge(name)
        if self.serve is not None:
            return self._make_served(name, self.serve, asked)
        if warning := retired(name, date.today()):
            log.warning(warning)
        more: dict[str, Any] = {"ledger": self.ledger, "budget": self.budget, "batch": self.batch}
        more |= {"known_as": self.known_as, "url": self.url, "key": self.key, "settings": self.judge_settings()}
        return make_judge(name, **more) if lacking is None else judge_or_estimator(name, lacking, **more)

    def ready(self, judge: "Judge") -> "Judge":
        """The same judge once nothing is missing: the weights of one that is to be served are fetched."""
        from tasks.judges.openai import OpenAIJudge

        if isinstance(judge, OpenAIJudge):
            judge.begin_run()
        return judge if self.serve is None else self.make()

    def _make_served(self, name: str, command: str, asked: bool) -> "Judge":
        """The judge of these weights, behind a server that is started when it is first asked."""
        from harness.models.fetch import fetch
        from harness.models.spec import find
        from harness.serving.served_judge import ServedJudge
        from harness.serving.server_host import ServerHost
        from harness.serving.settings import ServerSettings
        from tasks.judges.ledger import Ledger

        spec, server = find(name), ServerSettings(command=command, flags=self.serve_set)
        if spec.backend == "openai":
            raise SettingError(f"--judge-serve {command}: {name} has no weights to serve")
        host = ServerHost(settings=server, folder=self.ledger.parent / "servers")
        spec = fetch(spec) if asked else spec
        kept = Ledger(self.ledger, when_written=True)
        return ServedJudge(spec, host, ledger=kept, settings=self.judge_settings())


JUDGE: Final = OptionGroup(
    kind=JudgeOptions,
    panel="Judge",
    table="judge",
    prefix="judge",
    names={"name": "judge", "key": "judge_key_env", "ledger": "ledger", "settings": "judge_set"},
    earlier={"judge_key_env": "judge_key"},
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where a named model is."""

    path: Path | None = None
    """Folder with the model's weights, or an adapter, instead of the hub."""
    base: str | None = None
    """Model that an adapter goes on, in place of the one that its files name: a name, a folder or a hub id (--base)."""
    url: str | None = None
    """URL of the server of an openai: model; default: OPENAI_BASE_URL, else OpenAI."""
    key: str | None = None
    """Name of the environment variable with the key of that server; default: OPENAI_API_KEY."""
    version: str | None = None
    """What tells an openai: model from others under its name and URL, such as a training step; recorded."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint."""

    def find_all(self, context: typer.Context, names: Sequence[str], lacking: list[Need]) -> "list[ModelSpec]":
        """The models by these names; `lacking` gets those that there are none of, and keys that are not set."""
        found = []
        for name in names:
            try:
                found.append(self.find(context, name))
            except NoKeyError as error:
                lacking.append(Need.of(error, is_key=True))
            except InputError as error:
                if isinstance(error, (SettingError, UsageError)):
                    raise
                lacking.append(Need.of(error))
        return found

    def find(self, context: typer.Context, name: str) -> "ModelSpec":
        """The model of this name; SettingError for an option that was given and has no effect on it."""
        from harness.models.spec import at, find

        spec = find(name, base=self.base)
        if self.path is not None:
            spec = at(spec, self.path, self.base)
        if spec.backend == "openai":
            refuse_given(context, ("trust_remote_code", "model_base"), f"{name} is behind a server")
            if self.version is not None and not self.version.strip():
                raise SettingError(f"--model-version {self.version!r}: is empty")
            if has_prefix(name):
                refuse_given(context, ("model_url",), f"{name} names its server")
                return replace(spec, key=self.key or spec.key, version=self.version)
            url = spec.url if self.url is None else self.url
            if url is not None or self.key is not None:
                server_of(OPENAI if url is None else url, name=name, variable=self.key)  # a wrong one is told at once
            return replace(spec, url=url, key=self.key, version=self.version)
        served = ("model_url", "model_key_env", "model_version")
        refuse_given(context, served, f"{name} runs here, not behind a server; name a served one as openai:ID")
        return replace(spec, remote_code=self.trust_remote_code, base=self.base)


MODEL: Final = OptionGroup(
    kind=ModelOptions,
    panel="Model",
    table="engine",
    prefix="model",
    names={"key": "model_key_env", "trust_remote_code": "trust_remote_code"},
    earlier={"model_key_env": "model_key"},
)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the documents of benchmarks are."""

    paths: dict[str, str] = field(default_factory=dict)
    """TASK=PATH: read the task's data from a local table or folder, not from the hub; repeatable."""
    partial: bool = False
    """Accept local data with missing rows; results are marked."""

    def check(self, tasks: "list[TaskSpec]") -> None:
        """SettingError for data of a task that was not chosen."""
        check_data(self.paths, tasks)


def check_data(paths: Mapping[str, str], tasks: "Sequence[TaskSpec | PairBench]") -> None:
    """SettingError for data of a task that was not chosen."""
    names = [task.name for task in tasks]
    for task, path in paths.items():
        if task not in names:
            raise SettingError(f"--data '{task}={path}': {task!r} is not among the tasks asked for: {', '.join(names)}")


DATA: Final = OptionGroup(
    kind=DataOptions,
    panel="Data",
    table="data",
    names={"paths": "data", "partial": "partial_data"},
    forms={"paths": "TASK=PATH"},
)


def expand(tasks: list[str] | None) -> "list[TaskSpec]":
    """The tasks of names that may be suites and may be separated by commas; UsageError where there are none."""
    from tasks.registry import registry

    known, names = registry(), split_names(tasks or [])
    if names:
        return known.expand(names)
    first = [name for name in ("hallucination", "scenes") if name in known.groups]
    suites = ", ".join([*first, *(name for name in known.groups if name not in first)])
    raise UsageError(
        f"--tasks is not given: name suites ({suites}) or tasks (`harness tasks` lists them), such as "
        "--tasks hallucination, --tasks pope,mme, or --tasks scenes, which needs no data"
    )


def split_names(given: list[str]) -> list[str]:
    """Names that may be separated by commas."""
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def check_row_names(rows: Sequence[str]) -> None:
    """UsageError for a --name that is no line of text."""
    for row in rows:
        if not row.strip() or row != line(row) or row != row.strip():
            raise UsageError(f"--name {row!r}: must be one line of text, without spaces around it")


def say(what: object, code: int) -> int:
    """Print one line on stderr; returns the exit code `code`."""
    if str(what):
        with suppress(OSError):  # of a stderr that can't be written, the exit code still tells
            print(f"harness: {what}", file=sys.stderr)
    return code


def money(amount: float | None) -> str:
    """US dollars in print; "unknown" is never 0."""
    return "unknown" if amount is None else f"${amount:.4f}"
