"""`harness rescore`: answers on a board get the rows that a task's rule and labels of today give them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.evaluation.entries import Evaluation
from leaderboards.board.board import Board
from leaderboards.board.entry import RESCORED, Entry
from leaderboards.board.sample import Sample
from tasks.answer import Answer, FailedAnswer
from tasks.benchmarks.pope import SPLITS
from tasks.registry import registry
from tasks.score_digest import score_digest
from tests.harness.test_benchmarks import Praise, score_answers_of
from tests.tasks.test_repope import put, write_data

OLD = "0123456789abcdef"
ANSWERS = ("Yes", "No", "No", "Yes")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HARNESS_DATA with RePOPE's labels."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    return write_data(tmp_path / "data" / "repope")


def put_answers(folder: Path, data: Path, *names: str) -> Board:
    """A board with answers of these models to POPE, from files."""
    rows = [{"question_id": n, "text": text} for n, text in enumerate(ANSWERS, 1)]
    for name in names:
        files = [str(put(folder / f"{name}_{split}.jsonl", rows)) for split in SPLITS]
        assert run(["score", "pope", *files, "--references", str(data / "pope"), "--out", str(folder / "run")]) == 0
    return Board(folder / "run" / "board")


def rescored(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """What the command says of each run."""
    capsys.readouterr()
    assert run(["rescore", *words, "--json"]) == 0
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)["rescored"]
    return found


def headlines(board: Board, task: str) -> dict[str, Entry]:
    """Model -> its entry of the task's headline metric."""
    return {entry.model: entry for entry in board.current(partial=True) if entry.task == task and entry.headline}


def test_answers_to_pope_on_a_board_get_their_row_of_repope(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = put_answers(tmp_path, data, "a", "b")
    words = [str(tmp_path / "run"), "--task", "repope"]
    assert {row["outcome"] for row in rescored([*words, "--dry-run"], capsys)} == {"would be scored: 9 answers"}
    assert headlines(board, "repope") == {}
    assert {row["outcome"] for row in rescored([*words, "--model", "a"], capsys)} == {"scored"}
    first = headlines(board, "repope")
    assert set(first) == {"a"}
    assert {row["model"]: row["outcome"] for row in rescored(words, capsys)} == {"a": "on the board", "b": "scored"}
    found, asked = headlines(board, "repope"), headlines(board, "pope")
    assert found["a"] == first["a"]
    # Of yes, no, no RePOPE has yes, yes, no: precision 1, recall 1/2.
    assert found["a"].value == pytest.approx(200 / 3)
    assert asked["a"].value == pytest.approx(50)  # of yes, no, no, yes: yes, no, yes, no
    assert (found["a"].samples, found["a"].partial) == (9, False)
    assert found["a"].provenance[RESCORED] == f"{asked['a'].run} (pope)"
    assert found["a"].given == asked["a"].given
    log = {sample.id: sample for sample in board.samples(found["a"].run)}
    assert json.loads(log["random/2"].document or "")["answer"] == "yes"
    out = str(tmp_path / "run")
    assert run(["check", "--baseline", out, "--baseline-model", "a", "--board", out, "--model", "b"]) == 0
    assert run(["compare", "a", "b", "--board", out]) == 0
    assert "repope" in capsys.readouterr().out


def test_a_run_without_answers_and_one_to_other_questions_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = put_answers(tmp_path, data, "a")
    entries = [entry for entry in board.entries() if entry.model == "a"]
    samples = board.samples(entries[0].run)
    board.add([replace(entry, run="bare", model="bare") for entry in entries], [])
    others = [replace(one, run="other", document=json.dumps({"question": "Is there a tree?"})) for one in samples]
    board.add([replace(entry, run="other", model="other") for entry in entries], others)
    old = [replace(one, run="old", document=None) for one in samples]
    board.add([replace(entry, run="old", model="old") for entry in entries], old)
    rows = {row["model"]: row["outcome"] for row in rescored([str(board.folder), "--task", "repope"], capsys)}
    assert rows == {
        "a": "scored",
        "bare": "its run kept no answers",
        "other": "its question 'random/1' is none of pope's",
        "old": "scored",
    }
    assert headlines(board, "repope")["old"].value == headlines(board, "repope")["a"].value


def test_answers_to_a_part_of_repopes_questions_are_partial_and_the_command_is_told_where_labels_are_here(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question_id": n, "text": "Yes"} for n in range(1, 5)]
    file, out = put(tmp_path / "m_popular.jsonl", rows), tmp_path / "run"
    command = ["score", "pope", str(file), "--references", str(data / "pope"), "--out", str(out)]
    assert run(command) == 0
    assert f"next: harness rescore {out.as_posix()} --task repope" in capsys.readouterr().err
    rescored([str(out), "--task", "repope"], capsys)
    found = headlines(Board(out / "board"), "repope")
    assert {(entry.samples, entry.provenance["rows"]) for entry in found.values()} == {(3, "partial")}


def test_answers_to_repope_itself_are_not_replaced_but_by_more_of_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = put_answers(tmp_path, data, "a")
    words = [str(board.folder), "--task", "repope"]
    rescored(words, capsys)
    made = [entry for entry in board.entries() if entry.task == "repope"]

    def add(name: str, model: str, limit: int | None) -> None:
        facts = {key: text for key, text in made[0].provenance.items() if key != RESCORED}
        own = [replace(one, run=name, model=model, limit=limit, provenance=facts, value=1.0) for one in made]
        board.add(own, [replace(one, run=name) for one in board.samples(made[0].run)])

    asked = [entry for entry in board.entries() if entry.task == "pope"]
    for model, limit in (("part", 8), ("whole", None)):
        board.add(
            [replace(one, run=f"pope-{model}", model=model) for one in asked],
            [replace(one, run=f"pope-{model}") for one in board.samples(asked[0].run)],
        )
        add(f"own-{model}", model, limit)
    rows = rescored(words, capsys)
    assert {row["model"]: row["outcome"] for row in rows} == {"a": "on the board", "part": "scored"}
    assert headlines(board, "repope")["whole"].value == 1.0


def test_labels_that_are_not_here_are_asked_for_and_tasks_must_be_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = put_answers(tmp_path, data, "a")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "none"))
    words = ["rescore", str(board.folder)]
    for more, code, told in (
        (["--task", "repope"], 2, "run `harness data get repope`"),
        ([], 2, "--task is not given: name the task that scores answers again, such as repope"),
        (["--task", "repope", "--model", "b", "--references", str(data)], 2, "unknown model on these boards 'b'"),
        (["--task", "pope"], 0, "nothing to score again: pope takes its own answers where other code scored them"),
        (["--task", "repope", "--references", str(data)], 0, "results: "),
    ):
        assert run([*words, *more]) == code
        assert told in capsys.readouterr().err


def moved(evaluation: Evaluation) -> tuple[list[Entry], list[Sample]]:
    """A run that other code scored, whose records are of no use today."""
    entries = [replace(one, value=0.5, provenance={**one.provenance, "task": OLD}) for one in evaluation.entries]
    samples = [replace(one, records={name: {} for name in one.records}) for one in evaluation.samples]
    return entries, samples


@pytest.mark.parametrize("name", ("mme", "mmhal"))
def test_answers_that_other_code_scored_are_scored_by_that_of_today(
    name: str, tmp_path: Path, answering: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(prompt: str, pictures: list[Any]) -> str:
        asked.append(prompt)
        return FailedAnswer("out of memory") if len(asked) == 2 else Answer(ANSWERS[len(asked) % 4])

    evaluation = score_answers_of(answering(answer), name, Praise(), tmp_path)
    board = Board(tmp_path / "run" / "board")
    board.add(*moved(evaluation))
    words = [str(board.folder), "--task", name]
    assert [row["outcome"] for row in rescored(words, capsys)] == ["scored"]
    assert rescored(words, capsys) == [], "the row is of today's code now"
    found = {entry.metric: entry for entry in board.current(partial=True)}
    for one in evaluation.entries:
        own = found[one.metric]
        assert (own.value, own.low, own.high, own.failed, own.judge) == (
            one.value,
            one.low,
            one.high,
            one.failed,
            one.judge,
        )
        assert own.provenance["task"] == score_digest(registry().task(name).path)
        assert own.weights == one.weights
    log = board.samples(next(iter(found.values())).run)
    assert [(one.records, one.reply, one.reason) for one in log] == [
        (one.records, one.reply, one.reason) for one in evaluation.samples
    ]


def test_a_judge_that_was_asked_twice_about_an_answer_is_named(
    tmp_path: Path, answering: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = score_answers_of(answering(lambda *_: "Yes"), "hallusionbench", Praise(), tmp_path)
    board = Board(tmp_path / "run" / "board")
    board.add(*moved(evaluation))
    (row,) = rescored([str(board.folder), "--task", "hallusionbench"], capsys)
    assert row["outcome"] == "its judge was asked a second question about answers, and logs keep the reply to one"
