"""The settings that a score depends on, what an entry records of them, and whether the board has that score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.engine.config import EngineConfig
from harness.evaluation.scoring import times_asked
from harness.models.load import for_model
from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec
from leaderboards.board.board import Board
from leaderboards.board.earlier_digests import SCHEME, SCHEME_FACT
from leaderboards.board.entry import Entry
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec
from tasks.score_digest import score_digest

REPEAT_VALUES = "judge repeats"
"""In provenance: the score of each repeat of the judge, with commas between."""
TIMES_ASKED = "judge asked"
"""In provenance: how often the judge was asked about each answer; entries of earlier versions lack it."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How models are scored on tasks."""

    limit: int | None = None
    """Score the first documents of each task only, so many; such scores are marked as partial."""
    seed: int = 0
    """Seed of everything drawn by chance."""
    split: str | None = None
    """Another draw of generated test data than the official one."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Path of local data by task."""
    partial_data: bool = False
    """Score the documents there are where local data lacks some."""
    official_prompts: bool = False
    """Ask the judge in the benchmark authors' own words, fetched from their repository."""
    judge_repeats: int = 1
    """Ask the judge so often about each answer; the score is the mean."""
    calibration: Mapping[str, str] = field(default_factory=dict)
    """What `harness judge calibrate --json` said of the judge; entries of judged tasks carry it."""
    full_answers: bool = False
    """Let answers go on after nothing more can change what is read from them."""

    def facts(self) -> dict[str, str]:
        """What an entry records of any task."""
        found = {
            "split": self.split or "",
            "full answers": "yes" if self.full_answers else "",
            "rows": "partial" if self.partial_data else "",
        }
        return {"seed": str(self.seed)} | {name: value for name, value in found.items() if value}

    def facts_of_task(self, task: TaskSpec) -> dict[str, str]:
        """What an entry records of one task: what decides its scores, where its documents come from, whose prompts its
        judge is asked with."""
        data = self.data.get(task.name, f"{task.data}@{task.revision}")
        facts = {"task": score_digest(task.path), SCHEME_FACT: SCHEME, "data": data}
        return facts | ({"prompts": "official" if self.official_prompts else "own"} if task.judged else {})


def judge_name(task: TaskSpec, judge: Judge | None, official_prompts: bool) -> str | None:
    """Whose numbers these are: a judge that is asked otherwise is another one, and never shares a column."""
    if not task.judged or judge is None:
        return None
    structured = isinstance(judge, OpenAIJudge) and judge.settings.structured
    ways = ["official prompts"] * official_prompts + ["structured"] * structured
    return f"{judge.model} ({', '.join(ways)})" if ways else judge.model


def judge_facts(task: TaskSpec, judge: Judge | None) -> dict[str, str]:
    """That a judge is not the one the published scores come from, and what the server called it."""
    if not task.judged or judge is None:
        return {}
    facts = {}
    if task.official_judge and judge.model != task.official_judge:
        facts["official judge"] = task.official_judge
    if isinstance(judge, OpenAIJudge) and (images := judge.settings.images_in_words()):
        facts["judge image"] = images
    served = sorted(judge.client.served) if isinstance(judge, OpenAIJudge) else []
    if served and served != [judge.model]:
        facts["judge served"] = ", ".join(served)
    return facts


def on_board(
    board: Board,
    spec: ModelSpec,
    name: str,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings,
    engine: EngineConfig | None = None,
) -> bool:
    """Whether every task has a complete score there for these very weights, task versions, data, judge and settings,
    the judge asked as often at least."""
    engine = engine or EngineConfig()
    asked = {
        "split": settings.split or "",
        "full answers": "yes" if settings.full_answers else "",
        "prompt suffix": for_model(engine, spec).suffix or "",
        "model settings": engine.recorded().get("model settings", ""),
    }
    wanted_facts = digest_of_model(spec) | engine.recorded() | asked
    times = times_asked(judge, settings.judge_repeats)

    def key(task: str, version: str, judge: str | None, facts: Mapping[str, str]) -> tuple[str | None, ...]:
        return task, version, judge, *(facts.get(name) for name in ("task", "data", "prompts"))

    there = {
        key(entry.task, entry.version, entry.judge, entry.provenance)
        for entry in board.current(partial=True)
        if entry.model == name and entry.limit == settings.limit and entry.failed + entry.unscored == 0
        if all(entry.provenance.get(fact, "") == value for fact, value in wanted_facts.items())
        if entry.judge is None or times_asked_of(entry) >= times
    }
    return all(
        key(
            task.name,
            task.version,
            judge_name(task, judge, settings.official_prompts),
            settings.facts_of_task(task),
        )
        in there
        for task in tasks
    )


def times_asked_of(entry: Entry) -> int:
    """How often the judge was asked about each answer."""
    found = entry.provenance.get(TIMES_ASKED)
    return int(found) if found else len(entry.provenance.get(REPEAT_VALUES, "").split(", "))
