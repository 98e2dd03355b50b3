"""The settings that a score depends on, what an entry records of them, and whether the board has that score."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.engine.config import EngineConfig
from harness.evaluation.protocol import OFFICIAL, Asking, as_asked, asked_by, find_protocol
from harness.evaluation.scoring import times_asked
from harness.models.configuration import configuration_of, counts_for
from harness.models.load import for_model
from harness.models.provenance import digest_of_model
from harness.models.served_identity import FINGERPRINT
from harness.models.server_facts import SERVED_BY, VERSION
from harness.models.spec import ModelSpec
from harness.serving.engine_host import ENGINE, facts_of_engine
from harness.serving.installed import is_same
from harness.serving.settings import FLAGS
from leaderboards.board.board import Board
from leaderboards.board.earlier_digests import SCHEME, SCHEME_FACT
from leaderboards.board.entry import (
    BARE,
    COST_NOT_KNOWN,
    OFFICIAL_JUDGE,
    PROTOCOL,
    SHARES_NOTHING,
    Entry,
    digest_of_protocol,
    without_device,
)
from support.errors import SettingError
from support.judge_names import current_judge
from support.settings import LARGEST_SEED, check_integer
from tasks.data_folder import VARIABLE, describe_data, stored
from tasks.draw import DRAWN, describe_draw
from tasks.judges.parameters import NOT_SETTABLE, not_settable
from tasks.judges.protocol import Judge
from tasks.judges.served_kind import asks_server
from tasks.registry import TaskSpec
from tasks.score_digest import score_digest
from trainers.training.foreign_code import CODE

if TYPE_CHECKING:
    from tasks.judges.openai import OpenAIJudge

REPEAT_VALUES = "judge repeats"
"""In provenance: the score of each round of the judge, separated by commas."""
SUFFIX = "prompt suffix"
"""In provenance: the text that the user put after every question."""
NO_IMAGE = "none was shown"
"""In provenance, as "judge image": settings of images did not act."""
ANSWERS_FACT, STRIPPED = "answers", "stripped"
"""In provenance: how models' answers are read; entries of earlier versions lack it, and scored white space around them:
where a parser failed at that, they are scored anew."""
TIMES_ASKED = "judge asked"
"""In provenance: how often the judge rated each answer; entries of earlier versions lack it."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How models are scored on tasks."""

    limit: int | None = None
    """Score at most this many documents of each task, drawn evenly over its categories; results are
    marked as partial."""
    seed: int = 0
    """Random seed, which decides what a limit draws, too."""
    split: str | None = None
    """Split of generated test data, such as "tune"; default: the official one."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Task -> path of local data."""
    partial_data: bool = False
    """Accept local data with missing rows; results are marked."""
    official_prompts: bool = False
    """Ask the judge with the prompts of the benchmark's authors, fetched from their repository."""
    judge_repeats: int = 1
    """How often the judge rates each answer; scores are the mean."""
    calibration: Mapping[str, str] = field(default_factory=dict)
    """Output of `harness judge calibrate --json` for this judge; entries of judged tasks record it."""
    protocol: str = OFFICIAL
    """Whose wording questions have: official, bare, a protocol's name, a TOML file (docs/benchmarks.md), or
    system:TEXT."""
    full_answers: bool = False
    """Do not stop answers early, once the task's parser needs no further tokens."""

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0, LARGEST_SEED)
        if self.protocol not in (OFFICIAL, BARE):
            find_protocol(self.protocol)

    def facts(self) -> dict[str, str]:
        """The provenance of entries of all tasks."""
        found = {
            "split": self.split or "",
            "full answers": "yes" if self.full_answers else "",
            "rows": "partial" if self.partial_data else "",
        }
        always = {"seed": str(self.seed), ANSWERS_FACT: STRIPPED}
        return always | {name: value for name, value in found.items() if value}

    def facts_of_task(self, task: TaskSpec) -> dict[str, str]:
        """The provenance of one task: the digest of what decides its scores, its data, which of its documents a limit
        draws, and its judge's prompts."""
        own = f"{VARIABLE}/{task.name}" if stored(task.name) else f"{task.data}@{task.revision}"
        given = self.data.get(task.name)
        data = describe_data(task.name, given) or given or own
        facts = {"task": score_digest(task.path), SCHEME_FACT: SCHEME, "data": data}
        facts |= {DRAWN: describe_draw(task, self.seed)} if self.limit is not None else {}
        return facts | ({"prompts": "official" if self.official_prompts else "own"} if task.judged else {})


def asking_of(task: TaskSpec, spec: ModelSpec, settings: EvalSettings, engine: EngineConfig) -> Asking:
    """How a task is asked of a model: a suffix of the user's stands in place of a protocol's wording."""
    return asked_by(settings.protocol, task, spec, suffix_of(task, spec, engine))


def suffix_of(task: TaskSpec, spec: ModelSpec, engine: EngineConfig) -> str | None:
    """The user's own suffix of a task: that of the task before that of all; None without one."""
    return engine.suffixes.get(task.name, for_model(engine, spec).suffix or None)


def check_asking(choice: str, engine: EngineConfig, tasks: Sequence[TaskSpec]) -> None:
    """SettingError for a suffix of a task that is not scored, and for a protocol that says nothing of those that are:
    they would not act."""
    names = [task.name for task in tasks]
    for task in engine.suffixes:
        if task not in names:
            raise SettingError(
                f"--prompt-suffix for {task!r}: would not act: it is not among the tasks asked for: {', '.join(names)}"
            )
    if why := why_idle(choice, engine, tasks):
        raise SettingError(f"--protocol {choice!r}: would not act: {why}")


def why_idle(choice: str, engine: EngineConfig, tasks: Sequence[TaskSpec]) -> str:
    """Why a protocol changes neither the conversation nor a question of these tasks; empty where it does. A suffix of
    the user's stands in place of its wordings."""
    if choice in (OFFICIAL, BARE):
        return ""
    protocol = find_protocol(choice)
    if protocol.system or protocol.picture is not None:
        return ""
    said = [task.name for task in tasks if task.name in protocol.tasks and task.data != "embedded"]
    if not said:
        return f"it says nothing of {', '.join(task.name for task in tasks)}"
    own = engine.suffix is not None or set(said) <= engine.suffixes.keys()
    return "--prompt-suffix stands in place of its wordings" if own else ""


def facts_of_asking(task: TaskSpec, spec: ModelSpec, settings: EvalSettings, engine: EngineConfig) -> dict[str, str]:
    """The provenance of how a task was asked of a model."""
    asking = asking_of(task, spec, settings, engine)
    return {PROTOCOL: asking.fact} | ({SUFFIX: asking.suffix} if asking.suffix else {})


def judge_name(task: TaskSpec, judge: Judge | None, official_prompts: bool) -> str | None:
    """The judge's name in entries; it differs where the judge is asked differently, so that columns are not mixed."""
    if not task.judged or judge is None:
        return None
    protocol = ["official prompts"] * official_prompts
    missing: list[str] = []
    if asks_server(judge):
        effort = judge.settings.reasoning_effort
        protocol += ["structured"] * judge.settings.structured + ([f"reasoning effort {effort}"] if effort else [])
        missing = not_settable(judge.client.asked_by_task.get(task.name, ()))
    name = f"{judge.model} ({', '.join(protocol)})" if protocol else judge.model
    return ", ".join([name, *(f"{each} {NOT_SETTABLE}" for each in missing)])


def _without_missing(judge: str | None) -> str | None:
    """A judge's name as it is before its model has refused anything."""
    return None if judge is None else re.sub(rf"(, \w+ {NOT_SETTABLE})+$", "", judge)


def judge_facts(task: TaskSpec, judge: Judge | None) -> dict[str, str]:
    """The provenance of the judge: how it differs from the official judge, and the model name its server gave."""
    if not task.judged or judge is None:
        return {}
    facts = {}
    if task.official_judge and judge.model != current_judge(task.official_judge):
        facts[OFFICIAL_JUDGE] = task.official_judge
    if asks_server(judge) and (images := judge.settings.images_in_words()):
        facts["judge image"] = images if judge.shown.get(task.name) else NO_IMAGE
    if asks_server(judge):
        otherwise = judge.client.asked_by_task.get(task.name, set())
        facts |= {"judge parameters": "; ".join(sorted(otherwise))} if otherwise else {}
        facts |= {"judge settings": words} if (words := _settings_sent(judge, otherwise)) else {}
    if asks_server(judge) and judge.settings.price is not None:
        facts["judge price"] = judge.settings.price
    if asks_server(judge) and judge.client.unpriced:
        facts[COST_NOT_KNOWN] = f"not known of {judge.client.unpriced} calls"
    served = sorted(judge.client.served) if asks_server(judge) else []
    if served and served != [judge.model]:
        facts["judge served"] = ", ".join(served)
    if asks_server(judge) and judge.client.servers:
        facts["judge server"] = ", ".join(sorted(judge.client.servers))
    if asks_server(judge) and judge.identity != judge.client.server.identity:
        facts["judge known as"] = judge.identity
    return facts


def _settings_sent(judge: "OpenAIJudge", otherwise: Collection[str] = ()) -> str:
    """The parameters that the user set and that were sent (replies of earlier versions may lack them)."""
    missing = {each for words in otherwise for each in words.split(", ")}
    asked = {name: how for name, (_, how) in judge.settings.changed().items() if name in ("seed", "reasoning_effort")}
    return ", ".join(how for name, how in asked.items() if not missing & {f"{name}: {NOT_SETTABLE}", f"without {name}"})


def _is_asked_so(entry: Entry, fact: str, value: str) -> bool:
    found = entry.provenance.get(fact, "")
    return found == value or (fact == "judge image" and found == NO_IMAGE)


def with_seed(engine: EngineConfig, settings: EvalSettings, *, served: bool) -> EngineConfig:
    """How a model is asked: behind a server with the seed of the settings, too, which is sent with each question."""
    if not served or not settings.seed:
        return engine
    return replace(engine, overrides={"seed": settings.seed, **engine.overrides})


def on_board(
    board: Board,
    spec: ModelSpec,
    name: str,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings,
    engine: EngineConfig | None = None,
) -> bool:
    """True if the board has a complete score of every task for these weights, task versions, data, judge and settings,
    with at least as many judge repeats."""
    engine = engine or EngineConfig()
    facts = {
        "split": settings.split or "",
        "full answers": "yes" if settings.full_answers else "",
        "model settings": without_device(engine.recorded().get("model settings", "")),
    }
    usual = dict.fromkeys((FINGERPRINT, CODE, SERVED_BY, FLAGS, ENGINE), "")
    wanted = usual | digest_of_model(spec) | engine.recorded() | facts | facts_of_engine(spec, engine)
    version = wanted.pop(VERSION, "") if spec.backend == "transformers" else ""  # of the server to be started
    wanted.pop(SUFFIX, None)  # it is the tasks' own
    spec = as_asked(spec, settings.protocol)
    of_judge: dict[str, str] = {}
    if asks_server(judge):
        of_judge = {"judge settings": _settings_sent(judge), "judge image": judge.settings.images_in_words()}
    times, configuration = times_asked(judge, settings.judge_repeats), configuration_of(spec)

    def key(task: str, version: str, judge: str | None, facts: Mapping[str, str]) -> tuple[str | None, ...]:
        asked = digest_of_protocol(facts.get(PROTOCOL)), facts.get(SUFFIX, "")
        return task, version, judge, *(facts.get(name) for name in ("task", "data", "prompts", DRAWN)), *asked

    there = {
        key(entry.task, entry.version, _without_missing(entry.judge), {**entry.provenance, "data": data})
        for entry in board.measured(settings.limit)
        if entry.model == name and entry.failed + entry.unscored == 0
        if entry.provenance.get(ANSWERS_FACT) == STRIPPED or not entry.unparsed
        if all(without_device(entry.provenance.get(fact, "")) == value for fact, value in wanted.items())
        if not version or is_same(entry.provenance.get(VERSION, version), version)
        if (entry.provenance.get("shared") == SHARES_NOTHING) == engine.exact
        if entry.judge is None or times_asked_of(entry) >= times
        if is_of_judge(entry, judge)
        if entry.judge is None or all(_is_asked_so(entry, fact, value) for fact, value in of_judge.items())
        if counts_for(entry.provenance, entry.created, spec, engine, configuration)
        for data in names_of_data(entry.provenance)
    }
    asked = spec, settings, engine
    names = {task.name: _without_missing(judge_name(task, judge, settings.official_prompts)) for task in tasks}
    return all(
        key(task.name, task.version, names[task.name], settings.facts_of_task(task) | facts_of_asking(task, *asked))
        in there
        for task in tasks
    )


def names_of_data(provenance: Mapping[str, str]) -> list[str]:
    """What an entry's data may be called: those of a branch also by the commit that it was at."""
    data, revision = provenance.get("data", ""), provenance.get("revision")
    dataset, at, _ = data.rpartition("@")
    return [data, f"{dataset}@{revision}"] if at and revision else [data]


def is_of_judge(entry: Entry, judge: Judge | None) -> bool:
    """Whether an entry's replies are of this judge's server; of entries that don't say, it is supposed."""
    servers = entry.provenance.get("judge server")
    if servers is None or not asks_server(judge):
        return True
    known = entry.provenance.get("judge known as")
    return judge.identity in ([known] if known else [url.removesuffix("/v1") for url in servers.split(", ")])


def times_asked_of(entry: Entry) -> int:
    """How often the judge rated each answer."""
    found = entry.provenance.get(TIMES_ASKED)
    return int(found) if found else len(entry.provenance.get(REPEAT_VALUES, "").split(", "))
