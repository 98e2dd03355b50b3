import json
from pathlib import Path

import pytest

from harness import judge_reports
from harness.cli import run
from harness.judge_reports import RatingsError, read_ratings


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def human(tmp_path: Path) -> Path:
    return write(tmp_path / "human.csv", "id,rating,text\n" + "".join(f"{n},{n % 5 + 1},{'word ' * n}\n" for n in range(40)))


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    rows = [{"id": str(n), "rating": min(5, n % 5 + 1 + (n % 4 == 0)), "item": str(n // 4), "position": n % 4 + 1} for n in range(40)]
    return write(tmp_path / "judge.jsonl", "\n".join(map(json.dumps, rows)))


def test_two_raters_are_held_against_each_other(human: Path, judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["judge", "agree", str(human), str(judge)]) == 0
    out = capsys.readouterr().out
    assert "40 items rated by both, 0 without a rating" in out
    assert "| quadratic kappa" in out
    assert "| largest disagreements" in out
    assert "mean rating by position" in out
    assert "Spearman of rating with length" in out
    assert run(["judge", "agree", str(human), str(judge), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bias"]["value"] == pytest.approx(8 / 40)
    assert found["kappa"]["low"] < found["kappa"]["value"] <= 1


def test_a_new_judge_is_calibrated_in_a_sentence(human: Path, judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["judge", "calibrate", str(human), str(judge), "--json"]) == 0
    sentence = json.loads(capsys.readouterr().out)["judge calibration"]
    assert sentence.startswith("judge against human on 40 ratings: quadratic kappa 0.")


@pytest.mark.parametrize("as_list", (True, False))
def test_vlfeedbacks_public_rows_are_ratings(as_list: bool, tmp_path: Path) -> None:
    notes = [{"Helpfulness": {"Rating": "4"}, "Visual Faithfulness": {"Rating": "N/A"}}, {"Helpfulness": {"Rating": "2"}}]
    rows = [{"model": f"m{n}", "response": "a dog " * (n + 1), "annotations": note} for n, note in enumerate(notes)]
    completions = rows if as_list else {name: [row[name] for row in rows] for name in rows[0]}
    found = read_ratings(write(tmp_path / "v.jsonl", json.dumps({"id": "svit-1", "completions": completions})))
    assert [(rated.id, rated.rating) for rated in found] == [
        ("svit-1/m0/Helpfulness", 4.0),
        ("svit-1/m0/Visual Faithfulness", None),
        ("svit-1/m1/Helpfulness", 2.0),
    ]
    assert [rated.length for rated in found] == [2, 2, 4]


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        ("id,rating\n1,2\n1,3\n", "'1' is rated twice; repeats need a column `repeat`"),
        ("name,rating\nx,1\n", "a row lacks id or rating; it has name, rating"),
        ("id,rating\n", "holds no ratings"),
    ),
)
def test_what_is_wrong_with_a_file_is_one_line(
    text: str, complaint: str, tmp_path: Path, human: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.csv", text)
    with pytest.raises(RatingsError, match=complaint):
        read_ratings(path)
    assert run(["judge", "agree", str(path), str(human)]) == 2
    assert complaint in capsys.readouterr().err


def test_files_with_nothing_in_common_are_an_error(tmp_path: Path, human: Path) -> None:
    other = read_ratings(write(tmp_path / "o.csv", "id,rating\nx,1\n"))
    with pytest.raises(RatingsError, match="no id in common"):
        judge_reports.report(read_ratings(human), other, ("a", "b"))


def test_repeats_say_how_a_judge_agrees_with_itself(tmp_path: Path, human: Path) -> None:
    rows = "id,rating,repeat\n" + "".join(f"{n},{n % 5 + 1 - (n == 3) * r},{r}\n" for n in range(40) for r in range(2))
    repeated = read_ratings(write(tmp_path / "r.csv", rows))
    found = json.loads(judge_reports.report(read_ratings(human), repeated, ("human", "judge"), as_json=True))
    assert found["habits"]["judge"]["repeats"]["same"] == pytest.approx(97.5)
