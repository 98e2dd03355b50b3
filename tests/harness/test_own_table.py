"""Tasks of a user's own table, without any code: written by `harness tasks new`, then like any other."""

import base64
import csv
import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from harness.cli.application import run
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from tasks import outside
from tasks.benchmarks import own_table
from tasks.benchmarks.task_from_table import LETTERS_ONLY
from tasks.registry import registry
from tasks.scenes.scenes_pope import load
from tasks.scenes.world import images
from tests.conftest import Server

KINDS = {"yesno": "yes-no", "letters": "multiple-choice", "opened": "open", "captions": "caption"}
Rows = Sequence[Mapping[str, Any]]


def write(path: Path, rows: Rows, separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered scenes, and a table of each type about them."""
    root = tmp_path_factory.mktemp("own")
    docs = [dict(doc) for doc in islice(load()["test"], 8)]
    asked = []
    for number, doc in enumerate(docs):
        name = f"{doc['scene'].replace('/', '_')}.png"
        images(doc)[0].convert("RGB").save(root / name)
        is_there = doc["answer"] == "yes"
        kind = "there" if is_there else "not there"
        asked.append({"image": name, "question": doc["question"], "answer": doc["answer"], "category": kind})
        asked[-1] |= {"index": number}
    write(root / "yesno.csv", [{**row, "answer": row["answer"].upper()} for row in asked])
    options = [{"choices": json.dumps(["yes", "no", "maybe"]), **row} for row in asked]
    write(root / "letters.csv", options)
    write(
        root / "opened.csv", [{"img": row["image"], "query": row["question"], "label": row["answer"]} for row in asked]
    )
    write(root / "captions.csv", [{"image": asked[0]["image"], "answer": json.dumps(["image", "zebra"])}])
    return root


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def scored(folder: Path) -> Path:
    """A folder with four tasks, and the board of one run on all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(outside.VARIABLE, "")
        patch.setattr(outside, "_INCLUDED", {})
        patch.chdir(folder)
        for name, kind in KINDS.items():
            assert run(["tasks", "new", name, "--type", kind, "--data", f"{name}.csv", "--out", "mine"]) == 0
        words = ["eval", "--include-path", "mine", "--tasks", ",".join(KINDS), "--model", "scenes-base", "--out", "run"]
        assert run([*words, "--max-failed", "1"]) == 0
    return folder


def entries(scored: Path) -> dict[tuple[str, str], Entry]:
    return {(entry.task, entry.metric): entry for entry in Board(scored / "run" / "board").entries()}


def test_a_task_of_each_type_is_scored_with_an_interval(scored: Path) -> None:
    found = entries(scored)
    assert found["yesno", "accuracy"].value == found["opened", "accuracy"].value == 100.0
    assert {"f1", "precision", "recall", "yes_rate", "category_there", "category_not_there"} <= {
        metric for task, metric in found if task == "yesno"
    }
    assert found["yesno", "category_there"].value == found["yesno", "category_not_there"].value == 100.0
    assert found["letters", "accuracy"].samples == 8
    assert found["captions", "mentioned"].value in (0.0, 50.0)
    assert found["yesno", "accuracy"].low is not None


def test_entries_have_the_digests_of_the_table_and_of_what_scores(scored: Path) -> None:
    entry = entries(scored)["yesno", "accuracy"]
    assert re.fullmatch(r"yesno\.csv sha256 [0-9a-f]{16}", entry.provenance["data"])
    assert len(entry.provenance["task"]) == 16


def test_what_is_on_the_board_is_not_asked_again_until_the_table_changes(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(scored)
    words = ["eval", "--include-path", "mine", "--tasks", "captions", "--model", "scenes-base", "--out", "run"]
    assert run(words) == 0
    assert "1 answered by the model" not in capfd.readouterr().err
    before = (scored / "captions.csv").read_text()
    (scored / "captions.csv").write_text(before.replace("zebra", "a"))
    try:
        assert run(words) == 0
    finally:
        (scored / "captions.csv").write_text(before)
    assert (
        len({entry.provenance["data"] for entry in Board(scored / "run/board").entries() if entry.task == "captions"})
        == 2
    )


def test_the_page_the_gate_and_comparisons_take_it(
    scored: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(scored)
    include = ["--include-path", "mine"]
    assert run(["leaderboard", "run", "--html", "page.html", *include]) == 0
    assert "category_there" in Path("page.html").read_text()
    assert run(["check", "--baseline", "run", "--board", "run", *include]) == 0
    answers = [{"id": number, "answer": "no"} for number in range(8)]
    Path("always_no.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    score = ["score", "yesno", "always_no.jsonl", "--out", "given", "--name", "scenes-base", *include]
    assert run(score) == 0
    assert "next: harness leaderboard given --include-path mine" in caplog.text
    assert run(["check", "--baseline", "run", "--board", "given", *include]) in (1, 3)
    capsys.readouterr()
    assert run(["compare", "run/board", "given/board", *include]) == 0
    assert "yesno" in capsys.readouterr().out


def test_a_task_of_a_table_is_shown_and_listed_as_json(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    include = ["--include-path", str(scored / "mine"), "--json"]
    assert run(["tasks", *include]) == 0
    assert "yesno" in {task["name"] for task in json.loads(capsys.readouterr().out)["tasks"]}
    assert run(["tasks", "show", "letters", "--samples", "1", *include]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["table"] == str(scored / "mine" / scored / "letters.csv")
    assert shown["samples"][0]["prompt"].endswith("A. yes\nB. no\nC. maybe\n" + LETTERS_ONLY)


def test_a_board_with_tasks_that_are_not_included_says_so(
    scored: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(scored)
    for words in (["check", "--baseline", "run", "--board", "run"], ["compare", "run/board", "run/board"]):
        caplog.clear()
        run(words)
        assert "yesno, letters, opened, captions: not known here" in caplog.text
        assert "--include-path FOLDER" in caplog.text


def test_answers_made_elsewhere_are_scored_by_id(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    include = ["--include-path", str(scored / "mine"), "--json"]
    rows = [{"index": number, "answer": "the truth", "prediction": "A"} for number in range(7)]
    write(tmp_path / "kit.tsv", rows, "\t")
    assert run(["score", "letters", "kit.tsv", *include]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "1 of 8 questions are not in the file" in str(found)
    write(tmp_path / "none.csv", [{"image": "1.png", "answer": "A"}])
    assert run(["score", "letters", "none.csv", *include]) == 2
    assert "not every row has the id of its question" in capsys.readouterr().err
    write(tmp_path / "others.csv", [{"id": "x", "answer": "A"}])
    assert run(["score", "letters", "others.csv", *include]) == 2


def test_training_pairs_about_its_pictures_are_leaks(scored: Path, tmp_path: Path) -> None:
    picture = next(scored.glob("*.png"))
    pair = {"image": str(picture), "prompt": "What is it?", "chosen": "a dog", "rejected": "a cat"}
    (scored / "pairs.jsonl").write_text(json.dumps({**pair, "image": picture.name}) + "\n")
    words = ["vlfeedback", "leaks", str(scored / "pairs.jsonl"), "--tasks", "yesno", "--out", "leaks.json"]
    assert run([*words, "--include-path", str(scored / "mine")]) == 0
    assert "yesno" in (tmp_path / "leaks.json").read_text()


def test_a_judge_grades_by_the_rubric(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    graded = {"yes": "It is right.\nGrade: 8", "no": "Grade: 4", "maybe": "I can't tell."}
    server.reply = lambda prompt: next(
        reply for answer, reply in graded.items() if f'"answer": "{answer}"' in prompt and "Every colour" in prompt
    )
    new = ["tasks", "new", "graded", "--type", "open", "--rule", "judge", "--rubric", "Every colour counts."]
    assert run([*new, "--data", str(folder / "opened.csv"), "--out", "mine"]) == 0
    answers = ["yes", "no", "maybe", *["yes"] * 5]
    rows = [{"id": number, "answer": answer} for number, answer in enumerate(answers, start=1)]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    judge = ["--judge", "gpt-4o-2024-11-20", "--judge-url", server.url, "--ledger", "ledger.sqlite"]
    assert (
        run(["score", "graded", "answers.jsonl", *judge, "--include-path", "mine", "--json", "--max-failed", "1"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["grade"] == pytest.approx((6 * 8 + 4) / 7)
    assert found["unscored"] == 1


@pytest.mark.parametrize(
    ("reply", "grade"),
    (("**Grade:** 7.", 7.0), ("Grade: 3\nGrade: 10", 10.0), ("Grade: 11", None), ("Grade: 7.5", None)),
)
def test_a_grade_is_a_whole_number_up_to_ten(reply: str, grade: float | None) -> None:
    assert own_table.read_grade(reply) == grade


def test_vlmevalkits_tables_are_taken_as_they_are(folder: Path, tmp_path: Path) -> None:
    picture = base64.b64encode(next(folder.glob("*.png")).read_bytes()).decode()
    row = {"index": 0, "image": picture, "question": "Which?", "hint": "nan", "A": "a cat", "B": "a dog", "C": "nan"}
    rows = [{**row, "answer": "B", "category": "x"}, {**row, "index": 1, "image": "0", "answer": "A", "category": "y"}]
    write(tmp_path / "Kit.tsv", rows, "\t")
    assert run(["tasks", "new", "kit_one", "--type", "multiple-choice", "--data", "Kit.tsv", "--out", "mine"]) == 0
    assert {"category_x", "category_y"} <= registry().task("kit_one").metrics.keys()


TABLES: dict[str, Rows] = {
    "twice": [
        {"id": 1, "image": "P", "question": "q", "answer": "yes"},
        {"id": 1, "image": "P", "question": "r", "answer": "no"},
    ],
    "outside": [{"image": "../secret.png", "question": "q", "answer": "yes"}],
    "maybe": [{"image": "P", "question": "q", "answer": "maybe"}],
    "nameless": [{"picture": "P", "question": "q", "answer": "yes"}],
}


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (["--type", "yesno", "--data", "maybe.csv"], r"unknown type 'yesno' \(did you mean 'yes-no'\?\)"),
        (["--type", "open", "--rule", "exat", "--data", "maybe.csv"], "unknown rule of open 'exat'"),
        (["--type", "yes-no", "--rule", "exact", "--data", "maybe.csv"], "--rule exact: would not act"),
        (["--type", "open", "--rubric", "x", "--data", "maybe.csv"], "--rubric: would not act"),
        (["--type", "yes-no", "--data", "none.csv"], "none.csv: no such file"),
        (["--type", "yes-no", "--data", "empty.csv"], "empty.csv: has no rows"),
        (["--type", "yes-no", "--data", "nameless.csv"], "no column for image .*; it has picture, question, answer"),
        (["--type", "multiple-choice", "--data", "maybe.csv"], "no column for options"),
        (["--type", "yes-no", "--data", "maybe.csv"], "row 1: answer 'maybe': must be yes or no"),
        (["--type", "yes-no", "--data", "twice.csv"], "rows 1 and 2 differ, and both have id '1'"),
        (["--type", "yes-no", "--data", "outside.csv"], "1 of 1 rows have no picture .*: path outside the folder"),
        (["--type", "open", "--rule", "vqa-accuracy", "--data", "maybe.csv"], "must be a list of texts"),
        (["--type", "open", "--rule", "regex", "--data", "broken.csv"], "must be a regular expression"),
    ),
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    words: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tables").mkdir()
    picture = next(folder.glob("*.png"))
    (tmp_path / "tables" / "P").write_bytes(picture.read_bytes())
    (tmp_path / "secret.png").write_bytes(picture.read_bytes())
    tables = TABLES | {"broken": [{"image": "P", "question": "q", "answer": "(("}]}
    for name, rows in tables.items():
        write(tmp_path / "tables" / f"{name}.csv", rows)
    (tmp_path / "tables" / "empty.csv").write_text("image,question,answer\n")
    words = [f"tables/{word}" if word.endswith(".csv") else word for word in words]
    assert run(["tasks", "new", "bad", *words, "--out", "mine"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, told)
    assert not list(tmp_path.glob("mine/*"))


def test_names_that_are_taken_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["--type", "yes-no", "--data", str(folder / "yesno.csv"), "--out", "mine"]
    assert run(["tasks", "new", "pope", *new]) == 2
    assert run(["tasks", "new", "own_one", *new]) == 0
    assert run(["tasks", "new", "own_one", *new]) == 2
    assert run(["tasks", "new", "not a name", *new]) == 2
    assert "must be letters, digits and _" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "row", "letter"),
    (
        ("b", {"A": "x", "B": "y"}, "B"),
        ("(A)", {"A": "x", "B": "y"}, "A"),
        ("Y", {"A": "x", "B": "y"}, "B"),
        (1, {"choices": ["x", "y"]}, "B"),
        ("2", {"choices": ["2", "3"]}, "A"),
    ),
)
def test_the_right_option_is_told_by_letter_text_or_place(cell: Any, row: dict[str, Any], letter: str) -> None:
    assert own_table.read_letter(cell, row) == letter


@pytest.mark.parametrize(
    ("cell", "row"),
    (("C", {"A": "x", "B": "y"}), ("x", {"A": "x", "B": "x"}), ("A", {"A": "x", "C": "y"}), ("A", {"A": "x"})),
)
def test_what_is_no_option_is_refused(cell: Any, row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="option"):
        own_table.read_letter(cell, row)


def test_a_metric_that_no_table_has_is_an_error() -> None:
    with pytest.raises(AttributeError):
        own_table.nothing  # noqa: B018
