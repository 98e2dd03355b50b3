"""The settings that a score depends on, in the words the entry records, and whether the board has that score."""

from collections.abc import Mapping, Sequence

from harness.models.provenance import digest_of_files, digest_of_model
from harness.models.spec import ModelSpec
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec

REPEATS = "judge repeats"
"""In provenance: the score of each asking of the judge, with commas between."""


def judge_name(task: TaskSpec, judge: Judge | None, official_prompts: bool) -> str | None:
    """Whose numbers these are: a judge that is asked otherwise is another one, and never shares a column."""
    if not task.judged or judge is None:
        return None
    ways = (["official prompts"] if official_prompts else []) + (
        ["structured"] if isinstance(judge, OpenAIJudge) and judge.settings.structured else []
    )
    return f"{judge.model} ({', '.join(ways)})" if ways else judge.model


def judge_facts(task: TaskSpec, judge: Judge | None) -> dict[str, str]:
    """That a judge is not the one the published scores come from, and what the server called it."""
    if not task.judged or judge is None:
        return {}
    other = (
        {"official judge": task.official_judge} if task.official_judge and judge.model != task.official_judge else {}
    )
    served = sorted(judge.client.served) if isinstance(judge, OpenAIJudge) else []
    if isinstance(judge, OpenAIJudge) and (images := judge.settings.images_in_words()):
        other["judge image"] = images
    return other | ({"judge served": ", ".join(served)} if served and served != [judge.model] else {})


def task_facts(task: TaskSpec, data: Mapping[str, str] | None, official_prompts: bool) -> dict[str, str]:
    """What a task's scores depend on beside the model: its files, where its documents come from, whose words its judge
    was asked in."""
    facts = {"task": digest_of_files(task.sources), "data": (data or {}).get(task.name, f"{task.data}@{task.revision}")}
    return facts | ({"prompts": "official" if official_prompts else "own"} if task.judged else {})


def on_board(
    board: Board,
    spec: ModelSpec,
    name: str,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    limit: int | None,
    data: Mapping[str, str] | None = None,
    official_prompts: bool = False,
    asked_so: Mapping[str, str] | None = None,
    judge_repeats: int = 1,
) -> bool:
    """Whether every task stands there for these very weights, task versions, data and judge, asked in this way, and so
    often at least."""
    digests = digest_of_model(spec)
    wanted_askings = (
        judge_repeats if isinstance(judge, OpenAIJudge) else 1
    )  # another judge says the same whenever it is asked

    def key(task: str, version: str, judge: str | None, facts: Mapping[str, str]) -> tuple[str | None, ...]:
        return task, version, judge, *(facts.get(name) for name in ("task", "data", "prompts"))

    there = {
        key(entry.task, entry.version, entry.judge, entry.provenance)
        for entry in board.current(partial=True)
        if entry.model == name and entry.limit == limit and entry.failed + entry.unscored == 0
        if all(entry.provenance.get(key) == digest for key, digest in digests.items())
        if all(entry.provenance.get(key, "") == value for key, value in (asked_so or {}).items())
        if entry.judge is None or askings_of(entry) >= wanted_askings
    }
    wanted = {
        key(
            task.name, task.version, judge_name(task, judge, official_prompts), task_facts(task, data, official_prompts)
        )
        for task in tasks
    }
    return wanted <= there


def askings_of(entry: Entry) -> int:
    """How often the judge was asked about each answer."""
    return len(entry.provenance.get(REPEATS, "").split(", "))
