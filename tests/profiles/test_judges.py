"""A judge of every profile rates the answers to every judged task: all are rated, and what could not be had is said."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from harness.evaluation.scoring import Scored, score_answers, session_of
from support.errors import JudgeError
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.parameters import LEAST_ROOM, ROOM
from tasks.judges.settings import JudgeSettings
from tasks.registry import registry
from tasks.scenes.scenes_mmhal import questions
from tests.profiles.apis import KEY
from tests.profiles.server import PROFILES, ProfileServer
from tests.tasks.table_rows import ROWS, load_table

pytestmark = pytest.mark.usefixtures("no_keys")
Docs = Mapping[str, Sequence[Mapping[str, Any]]]
EXPECTED: Final = {
    "hallusionbench": 100.0,
    "hallusionbench_image": 100.0,
    "llava_bench_coco": 75.0,
    "llava_bench_wild": 75.0,
    "mmhal": 4.0,
    "mmvet": 50.0,
    "object_halbench": 100.0,
    "rtvlm": 8.0,
    "scenes_mmhal": 4.0,
    "mm_safetybench": 100.0,
    "figstep": 100.0,
    "siuo": 100.0,
    "figstep_tiny": 100.0,
}
"""The headline metric of each judged task, for what the model behind the profiles says."""
NOT_HAD: Final[Mapping[str, set[str]]] = {
    "openai-reasoning": {"temperature"},
    "azure": {"temperature"},
    "gemini": {"seed"},
    "anthropic": {"temperature"},
}
"""Parameters that a profile refuses of what judged tasks ask for."""


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Docs:
    """A few documents of each judged task."""
    found: dict[str, Any] = {}
    for name in (name for name, task in registry().tasks.items() if task.judged):
        row = [ROWS[name]] if name in ROWS else []
        found[name] = list(load_table(name, row, tmp_path_factory.mktemp(name))) if row else questions("test")[:3]
    return found


def judge_of(profiles: ProfileServer, name: str, folder: Path, **settings: Any) -> OpenAIJudge:
    """A judge at a profile, as a user has it: nothing is said of its server but the address."""
    more = JudgeSettings(**{"attempts": 2, "timeout": 10.0, "concurrency": 1} | settings)
    ledger = Ledger(folder / "ledger.sqlite")
    return OpenAIJudge(profiles.model(name), url=profiles.url(name), key=KEY, ledger=ledger, settings=more)


def rate(judge: OpenAIJudge, task: str, docs: Docs, answer: str = "A dog beside a cat.") -> Scored:
    """What `harness score` and `eval` do with answers."""
    spec = registry().task(task)
    return score_answers(spec, docs[task], [answer] * len(docs[task]), session_of(judge, spec))


def check_rated(judge: OpenAIJudge, docs: Docs) -> None:
    for task, value in EXPECTED.items():
        scored = rate(judge, task, docs)
        assert (task, scored.counts.unscored, scored.failures) == (task, 0, "")
        assert (task, scored.value(registry().task(task).headline)) == (task, value)


def test_every_judged_task_is_here(docs: Docs) -> None:
    assert set(docs) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_judged_task_is_rated(profiles: ProfileServer, name: str, docs: Docs, tmp_path: Path) -> None:
    judge = judge_of(profiles, name, tmp_path)
    check_rated(judge, docs)
    calls = profiles.calls(name)
    # Each thing that is refused is refused once, then not sent any more.
    refused = [call for call in calls if call.status != 200]
    assert len(refused) <= len(NOT_HAD.get(name, ())) + 2
    assert all(call.status == 200 for call in calls[-len(calls) // 2 :])
    told = ", ".join(judge.client.asked_otherwise)
    for parameter in NOT_HAD.get(name, ()):
        assert f"{parameter}: not settable" in told
    assert (f"+ {ROOM}" in told) == (profiles.profiles[name].thoughts > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_judged_task_is_rated_by_structured_replies(
    profiles: ProfileServer, name: str, docs: Docs, tmp_path: Path
) -> None:
    check_rated(judge_of(profiles, name, tmp_path, structured=True), docs)


@pytest.mark.parametrize("name", sorted(name for name, kind in PROFILES.items() if kind().thoughts))
def test_three_tokens_of_mm_vet_are_three_of_the_verdict(
    profiles: ProfileServer, name: str, docs: Docs, tmp_path: Path
) -> None:
    profiles.profiles[name].thoughts = 2  # so few that the first digit of the grade still fits
    judge = judge_of(profiles, name, tmp_path)
    scored = rate(judge, "mmvet", docs)
    assert (scored.failures, scored.value("total")) == ("", 50.0)
    answered = [call for call in profiles.calls(name) if call.status == 200]
    assert answered[-1].body.get("max_completion_tokens", answered[-1].body.get("max_tokens")) == 3 + ROOM


def test_a_limit_is_sent_where_the_server_wants_one(profiles: ProfileServer, docs: Docs, tmp_path: Path) -> None:
    judge = judge_of(profiles, "anthropic", tmp_path)
    assert rate(judge, "mmhal", docs).failures == ""
    (call,) = [call for call in profiles.calls("anthropic") if call.status == 200]
    assert call.asked["max_tokens"] == ROOM
    assert f"max_tokens {ROOM}" in ", ".join(judge.client.asked_otherwise)


@pytest.mark.parametrize("context", (900, 1500, 5000))
def test_room_for_thoughts_fits_into_the_context(
    profiles: ProfileServer, context: int, docs: Docs, tmp_path: Path
) -> None:
    profiles.profiles["vllm-thinking"].context = context  # type: ignore[attr-defined]
    profiles.profiles["vllm-thinking"].thoughts = 100
    judge = judge_of(profiles, "vllm-thinking", tmp_path)
    scored = rate(judge, "mmvet", docs)
    assert (scored.failures, scored.value("total")) == ("", 50.0)
    assert LEAST_ROOM <= judge.client.parameters.room <= context


@pytest.mark.parametrize("context", (700, 4096))
def test_the_limit_of_structured_replies_fits_into_the_context(
    profiles: ProfileServer, context: int, docs: Docs, tmp_path: Path
) -> None:
    profiles.profiles["vllm"].context = context  # type: ignore[attr-defined]
    judge = judge_of(profiles, "vllm", tmp_path, structured=True)
    scored = rate(judge, "mmvet", docs)
    assert (scored.failures, scored.value("total")) == ("", 50.0)
    assert LEAST_ROOM <= profiles.calls("vllm")[-1].body["max_tokens"] < context


@pytest.mark.parametrize("concurrency", (1, 16))
@pytest.mark.parametrize("name", ("vllm-thinking", "sglang", "openai-reasoning", "gemini"))
def test_a_judge_that_only_thinks_ends_the_run_after_eight_replies(
    profiles: ProfileServer, name: str, concurrency: int, docs: Docs, tmp_path: Path
) -> None:
    profiles.befall[""] = "thoughts only"
    many = {"scenes_mmhal": questions("test")[:40]}
    judge = judge_of(profiles, name, tmp_path, concurrency=concurrency, attempts=1)
    with pytest.raises(JudgeError, match=r"the first 8 requests were all refused: no (verdict|content)"):
        rate(judge, "scenes_mmhal", many)
    assert sum(call.status == 200 for call in profiles.calls(name)) <= 8
