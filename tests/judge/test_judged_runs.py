"""Judging as a user runs it: answers made elsewhere, a model of ours, what it costs, a judge that goes down, and a
shared ledger."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.main import run

pytestmark = pytest.mark.usefixtures("no_keys")
JUDGE = "gpt-4o-2024-11-20"
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """The benchmark's answer file, not judged."""
    fixed = {"question_topic": "x", "image_src": "", "image_content": ["Dog"]}
    rows = [
        {**fixed, "question_type": TYPES[n % 8], "image_id": f"{n}"}
        | {"question": f"What is in picture {n}?", "gt_answer": "A dog.", "model_answer": f"I see a dog and {n} cats."}
        for n in range(96)
    ]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def judged(server: Any, answers: Path, *more: str) -> list[str]:
    return ["score", "mmhal", str(answers), *judge_options(server, answers.parent / "ledger.sqlite"), *more]


def judge_options(server: Any, ledger: Path) -> list[str]:
    return ["--judge", JUDGE, "--judge-url", server.url, "--ledger", str(ledger)]


def ledger_totals(ledger: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert run(["judge", "ledger", "--ledger", str(ledger), "--json"]) == 0
    totals: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["ledger"]
    return totals


def test_answers_made_elsewhere_are_judged_once(server: Any, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = lambda prompt: "Good.\nRating: 4"
    assert run(judged(server, answers, "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["metrics"]["score"], first["metrics"]["hallucination_rate"], first["samples"]) == (4.0, 0.0, 96)
    assert len(server.log) == 96
    assert run(judged(server, answers, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert len(server.log) == 96
    (total,) = ledger_totals(answers.parent / "ledger.sqlite", capsys)
    assert (total["task"], total["model"], total["calls"], total["losses"]) == ("mmhal", JUDGE, 96, 0)
    assert total["price"] > 0


def test_without_a_judge_bare_answers_are_an_error(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "mmhal", str(answers)]) == 2
    assert "96 answers to mmhal are not judged" in capsys.readouterr().err


def test_a_judge_needs_a_server(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "mmhal", str(answers), "--judge", JUDGE]) == 2
    assert "set OPENAI_API_KEY, or name its server with --judge-url" in capsys.readouterr().err


def test_the_price_is_shown_before_anything_is_asked(
    server: Any, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(judged(server, answers, "--dry-run", "--json")) == 0
    (plan,) = json.loads(capsys.readouterr().out)["judging"]
    assert (plan["calls"], plan["kept"], server.log) == (96, 0, [])
    server.reply = lambda prompt: "x" * 596 + "\nRating: 4"  # as long as a reply is supposed to be
    assert run(judged(server, answers, "--json")) == 0
    capsys.readouterr()
    (total,) = ledger_totals(answers.parent / "ledger.sqlite", capsys)
    assert total["price"] == pytest.approx(plan["price"], rel=0.02)
    assert run(judged(server, answers, "--dry-run", "--json")) == 0
    (again,) = json.loads(capsys.readouterr().out)["judging"]
    assert (again["calls"], again["kept"], again["price"]) == (0, 96, 0.0)


def test_an_unknown_price_is_told_as_such_and_can_be_given(
    server: Any, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = [*judged(server, answers, "--dry-run"), "--judge", "my-judge"]
    assert run(unknown) == 0
    out = capsys.readouterr().out
    assert "| unknown" in out
    assert "unknown price: --judge-price IN,OUT tells it" in out
    assert run([*unknown, "--judge-budget", "5"]) == 2
    assert "--judge-budget: no price of 'my-judge' is known; give it by --judge-price IN,OUT" in capsys.readouterr().err
    assert run([*unknown, "--judge-budget", "5", "--judge-price", "0,0"]) == 0
    assert "| $0.0000" in capsys.readouterr().out
    assert run([*unknown, "--judge-price", "5"]) == 2
    assert "--judge-price '5': must be IN,OUT" in capsys.readouterr().err
    assert run(["score", "mmhal", str(answers), "--judge", "scenes", "--judge-price", "1,1"]) == 2
    assert "--judge-price has no effect: the judge 'scenes'" in capsys.readouterr().err
    assert not server.log


def test_single_failures_leave_samples_unscored(server: Any, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = lambda prompt: "Rating: 2"
    server.faults = [None, "refusal", None, "filter"]
    assert run(judged(server, answers, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["unscored"], result["metrics"]["score"]) == (96, 2, 2.0)
    # The two were paid for: they are asked again where that is wanted, and get a reply now.
    assert run(judged(server, answers, "--json", "--max-failed", "0")) == 4
    assert "2 replies that were paid for can't be read (" in capsys.readouterr().err
    assert len(server.log) == 96
    assert run(judged(server, answers, "--json", "--max-failed", "0", "--judge-set", "retry_unread=true")) == 0
    assert json.loads(capsys.readouterr().out)["unscored"] == 0


def test_too_many_failures_are_exit_code_4(server: Any, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = ["refusal"] * 20
    assert run(judged(server, answers, "--json", "--max-failed", "0.1")) == 4
    assert "harness: mmhal: 20 of 96 unscored: refusal (20, such as " in capsys.readouterr().err


def test_a_judge_that_goes_down_ends_the_run_and_says_how_to_go_on(
    server: Any, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [None] * 30
    server.always = "quota"
    command = judged(server, answers, "--json")
    assert run(command) == 1
    err = capsys.readouterr().err
    assert "exceeded your current quota" in err
    assert f"go on with: harness {' '.join(command)}" in err
    paid = len(server.answered)
    assert paid >= 30
    server.always = None
    assert run(command) == 0
    assert len(server.answered) == 96


def test_a_budget_stops_before_it_is_passed(server: Any, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(judged(server, answers, "--judge-budget", "0.02")) == 1
    assert "of $0.0200 is spent" in capsys.readouterr().err
    assert 0 < len(server.answered) < 96


def test_replies_travel_between_ledgers(
    server: Any, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(judged(server, answers, "--json")) == 0
    mine, theirs, file = (str(tmp_path / name) for name in ("ledger.sqlite", "theirs.sqlite", "replies.jsonl"))
    assert run(["judge", "export", file, "--ledger", mine]) == 0
    assert run(["judge", "import", file, "--ledger", theirs]) == 0
    assert "96 new, 0 there already" in capsys.readouterr().err
    asked = len(server.log)
    assert run(["score", "mmhal", str(answers), *judge_options(server, Path(theirs)), "--json"]) == 0
    assert len(server.log) == asked
    assert run(["judge", "ledger", "--ledger", str(tmp_path / "none.sqlite")]) == 2
    assert "no ledger" in capsys.readouterr().err


def mmvet_command(server: Any, data: Path, folder: Path) -> list[str]:
    what = ["eval", "--model", "scenes-early", "--tasks", "mmvet", "--data", f"mmvet={data}", "--partial-data"]
    return [*what, *judge_options(server, folder / "l.sqlite"), "--out", str(folder / "run")]


def test_a_models_answers_are_judged_and_the_entry_says_by_whom(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (60, 60), (90, 10, 10)).save(tmp_path / "1.png")
    fixed = {"image": "1.png", "answer": "5", "capability": "ocr,math"}
    rows = [{"question_id": f"v{n}", "question": f"What is x ({n})?", **fixed} for n in range(4)]
    (tmp_path / "mmvet.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    server.reply = lambda prompt: "0.5"
    command = mmvet_command(server, tmp_path, tmp_path)
    assert run([*command, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert f"| mmvet  | {JUDGE} |       4 |" in plan
    assert not server.log
    assert run([*command, "--json"]) == 0
    entries = {entry["metric"]: entry for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert entries["total"]["value"] == 50.0
    assert entries["total"]["judge"] == JUDGE
    assert entries["total"]["provenance"]["official judge"] == "gpt-4-0613"
    assert entries["total"]["provenance"]["prompts"] == "own"
    assert {entry["max_tokens"] for entry in server.log} == {3}
    assert ledger_totals(tmp_path / "l.sqlite", capsys)[0]["task"] == "mmvet"


def test_a_judge_asked_again_gives_a_mean_and_all_values(
    server: Any, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = iter(["Rating: 4"] * 96 + ["Rating: 5"] * 96)
    server.reply = lambda prompt: next(replies)
    assert run(judged(server, answers, "--judge-repeats", "2", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["score"] == 4.5
    assert "score over 2 repeats of the judge: 4, 5" in result["warnings"]
    assert len(server.log) == 192
    assert run(judged(server, answers, "--judge-repeats", "2", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert len(server.log) == 192


@pytest.mark.parametrize(
    ("setting", "complaint"),
    (
        ("detial=low", "--judge-set: unknown setting 'detial' (did you mean 'detail'?)"),
        ("detail=tiny", "must be one of auto, low, high"),
        ("image_side=big", "image_side = 'big': must be a whole number"),
        ("attempts=0", "attempts = 0: must be more than 0"),
    ),
)
def test_a_setting_of_the_judge_that_is_none_is_one_line(
    setting: str, complaint: str, server: Any, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(judged(server, answers, "--judge-set", setting)) == 2
    assert complaint in capsys.readouterr().err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A run's data folder with two answers to each of six instructions."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    instructions, given = [], []
    for n in range(6):
        Image.new("RGB", (60, 60), (n, 0, 0)).save(folder / "images" / f"{n}.png")
        instructions.append({"id": f"i{n}", "prompt": f"What is there ({n})?", "image": f"{n}.png", "kind": "question"})
        given += [{"id": f"i{n}|{member}", "answer": f"{member} says a dog"} for member in ("a", "b")]
    for name, rows in (("instructions", instructions), ("answers", given)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def feedback(first: int, second: int) -> str:
    texts = "\n".join(f"##### Output for Text {n}\nRating: {r}\nRationale: so." for n, r in ((1, first), (2, second)))
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return "\n".join(f"### {aspect} Assessment\n{texts}" for aspect in aspects)


def test_answers_of_a_folder_are_rated_and_two_judges_compared(
    server: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def annotate(judge: str, *more: str) -> int:
        options = ["--judge", judge, "--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite"), *more]
        return run(["vlfeedback", "annotate", str(data), *options])

    assert annotate(JUDGE, "--dry-run", "--json") == 0
    (plan,) = json.loads(capsys.readouterr().out)["judging"]
    assert (plan["task"], plan["calls"], server.log) == ("vlfeedback", 6, [])
    assert plan["prompt_tokens"] > 6 * 255  # images are counted
    server.reply = lambda prompt: feedback(4, 2)
    server.faults = ["refusal"]
    assert annotate(JUDGE) == 4
    assert annotate(JUDGE) == 4
    assert len(server.log) == 6
    assert annotate(JUDGE, "--judge-retry-unread") == 0
    assert len(server.log) == 7
    server.reply = lambda prompt: feedback(5, 2)
    assert annotate("my judge/v1") == 0
    files = sorted(data.glob("ratings-*"))
    assert [path.name for path in files] == [f"ratings-{JUDGE}.jsonl", "ratings-my-judge-v1.jsonl"]
    capsys.readouterr()
    both = list(map(str, files))
    assert run(["judge", "agree", *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["exact"]["value"], found["bias"]["value"]) == (36, 50.0, 0.5)
    assert found["habits"][f"ratings-{JUDGE}"]["position"]["means"] == {"1": 4.0, "2": 2.0}


def test_a_folder_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vlfeedback", "annotate", str(tmp_path)]) == 2
    assert "has no instructions.jsonl; a run's data folder is wanted" in capsys.readouterr().err


def test_entries_carry_the_calibration_of_their_judge(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = BytesIO()
    Image.effect_noise((60, 60), 9).save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    row = {"question_id": "v", "image": image, "question": "x?", "answer": "5", "capability": "ocr"}
    (tmp_path / "mmvet.jsonl").write_text(json.dumps(row), encoding="utf-8")
    note = tmp_path / "calibration.json"
    note.write_text('{"judge calibration": "kappa 0.7"}', encoding="utf-8")
    server.reply = lambda prompt: "1.0"
    command = [*mmvet_command(server, tmp_path / "mmvet.jsonl", tmp_path), "--judge-calibration", str(note)]
    assert run([*command, "--judge-repeats", "2", "--json"]) == 0
    (entry, *_) = json.loads(capsys.readouterr().out)["entries"]
    assert entry["provenance"]["judge calibration"] == "kappa 0.7"
    assert entry["provenance"]["judge repeats"] == "100, 100"
    note.write_text("[]", encoding="utf-8")
    assert run(command) == 2
    assert "must be what `harness judge calibrate --json` prints" in capsys.readouterr().err


def test_a_budget_needs_a_price(server: Any, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", "mmhal", str(answers), "--judge", "my-judge", "--judge-url", server.url, "--judge-budget", "5"]
    assert run([*command, "--ledger", str(answers.parent / "l.sqlite")]) == 2
    assert "no price of 'my-judge' is known" in capsys.readouterr().err
    assert not server.log
