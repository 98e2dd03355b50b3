"""A model behind every profile answers tasks of every kind: all is answered and read, or the right reason is told."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from harness.cli.main import run
from leaderboards.board.board import Board
from support.errors import OK
from tasks.judges.parameters import ROOM
from tasks.registry import registry
from tests.harness.test_benchmarks import BENCHMARKS, OWN_LAYOUTS, TABLES, write_parquet
from tests.profiles.apis import KEY
from tests.profiles.server import PROFILES, ProfileServer

NAMES: Final = sorted(PROFILES)
THINKING: Final = sorted(name for name, kind in PROFILES.items() if kind().thoughts)
SAYS: Final = {"Yes", "No", "A", "A dog.", "A dog beside a cat on the grass."}
"""What the model behind the profiles says to questions that are no judge's."""


@pytest.fixture(autouse=True)
def _key(no_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def evaluate(profiles: ProfileServer, name: str, tasks: str, folder: Path, *more: str) -> int:
    """`harness eval` as a user calls it."""
    command = ["eval", "--model", f"openai:{profiles.model(name)}", "--model-url", profiles.url(name), "--tasks", tasks]
    command += ["--out", str(folder / "run"), "--ledger", str(folder / "l"), "--max-failed", "0", "--json"]
    return run([*command, "--model-set", "attempts=2", "--model-set", "concurrency=4", *more])


def entries_in(text: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(text)["entries"]
    return entries


def words_of(answer: str | None) -> str:
    """An answer of a log without thoughts in tags, and the space that some servers put before it."""
    return re.sub(r"<think>.*</think>", "", str(answer), flags=re.DOTALL).strip()


@pytest.mark.parametrize("name", NAMES)
def test_all_scenes_are_answered(
    profiles: ProfileServer, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(profiles, name, "scenes", tmp_path, "--judge", "scenes", "--limit", "4") == OK
    entries = entries_in(capsys.readouterr().out)
    assert {entry["task"] for entry in entries} == {"scenes_chair", "scenes_pope", "scenes_mme", "scenes_mmhal"}
    assert all((one["failed"], one["unscored"], one["unparsed"]) == (0, 0, 0) for one in entries)
    board = Board(tmp_path / "run" / "board")
    assert {words_of(sample.answer) for sample in board.samples(entries[0]["run"])} <= SAYS
    told = entries[0]["provenance"].get("parameters", "")
    assert (f"+ {ROOM}" in told) == (name in THINKING)


@pytest.mark.slow
@pytest.mark.parametrize("task", BENCHMARKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_answered_and_judged(
    profiles: ProfileServer, name: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = OWN_LAYOUTS[task](tmp_path) if task in OWN_LAYOUTS else write_parquet(tmp_path, TABLES[task])
    judge = ["--judge", profiles.model(name), "--judge-url", profiles.url(name)]
    judged = registry().task(task).judged
    more = [*(judge if judged else ()), "--data", f"{task}={data}", "--partial-data"]
    assert evaluate(profiles, name, task, tmp_path, *more) == OK
    entries = entries_in(capsys.readouterr().out)
    assert entries
    assert all((one["failed"], one["unscored"]) == (0, 0) for one in entries)


@pytest.mark.parametrize("name", THINKING)
def test_the_tokens_of_a_task_are_those_of_the_answer(
    profiles: ProfileServer, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where thoughts leave a part of the limit: an answer that they cut is no answer."""
    profiles.profiles[name].thoughts = 6
    command = ["--limit", "2", "--model-set", "max_new_tokens=9"]
    assert evaluate(profiles, name, "scenes_chair", tmp_path, *command) == OK
    run_name = entries_in(capsys.readouterr().out)[0]["run"]
    for sample in Board(tmp_path / "run" / "board").samples(run_name):
        assert words_of(sample.answer) in SAYS


@pytest.mark.parametrize("name", ("vllm-thinking", "ollama"))
def test_tokens_that_the_user_gives_for_thoughts_are_those_that_are_sent(
    profiles: ProfileServer, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--limit", "2", "--model-set", "max_new_tokens=9", "--model-set", "thinking_tokens=500"]
    assert evaluate(profiles, name, "scenes_chair", tmp_path, *command) == OK
    capsys.readouterr()
    assert {call.asked["max_tokens"] for call in profiles.calls(name)} == {509}


@pytest.mark.parametrize("name", ("vllm-thinking", "vllm-in-tags", "gemini", "openai-reasoning", "ollama"))
def test_a_model_that_never_answers_ends_the_run_after_eight_replies(
    profiles: ProfileServer, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles.profiles[name].thoughts = 1 << 30
    assert evaluate(profiles, name, "scenes_pope", tmp_path, "--limit", "40") == 1
    said = capsys.readouterr().err
    assert re.search("the first 8 requests were all refused: (no answer within|its thoughts never ended)", said)
    # Those on their way when the first was read are asked once more, with room.
    assert sum(call.status == 200 for call in profiles.calls(name)) <= 8 + 4
