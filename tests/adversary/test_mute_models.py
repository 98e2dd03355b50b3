"""A model that says nothing, or little, makes nothing up: it is not better for that, in no verdict and in no gate."""

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.cli import main as cli
from harness.evaluation.check_boards import check_boards
from harness.evaluation.guards import guards_of
from harness.runs import interim_scoring
from harness.runs.checkpoint_selection import Scores, select_checkpoint
from harness.runs.outcome import unmet, verdict_json
from harness.runs.report import describe_selection
from leaderboards.board.board import Board
from leaderboards.gate.ci_output import to_comment, to_junit
from leaderboards.gate.gate import GateSettings
from tasks.answer import FailedAnswer
from tasks.registry import registry
from tests.adversary.mute_answers import IMAGES, MUTE, LenientJudge, base, better, make_doc, put_answers, put_texts
from trainers.training.checkpoints import Checkpoint

METRICS = (
    ("chair", "chair_s"),
    ("chair", "chair_i_lemma"),
    ("amber", "amber_score"),
    ("amber", "hal"),
    ("amber", "cog"),
    ("object_halbench", "response_hallucination"),
    ("mmhal", "hallucination_rate"),
    ("mmhal", "score"),
)
TASKS = tuple(dict.fromkeys(task for task, _ in METRICS))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """All models on all tasks."""
    found = Board(tmp_path_factory.mktemp("mute") / "board")
    for name, answer in {"base": base, "tuned": better, **MUTE}.items():
        for task in TASKS:
            put_answers(found, name, task, answer, LenientJudge())
    return found


@pytest.fixture(scope="module")
def scores(board: Board) -> Scores:
    return Scores(board)


@pytest.mark.parametrize(("task", "metric"), METRICS)
@pytest.mark.parametrize("mute", MUTE)
def test_who_says_little_is_not_better(scores: Scores, mute: str, task: str, metric: str) -> None:
    verdict = scores.verdict("base", mute, (task, metric))
    assert verdict is not None
    assert verdict.outcome != "better"
    assert verdict.fallen  # and it is known why, whatever the metric itself says
    if verdict.outcome == "not better":
        assert re.fullmatch(r"not better: .*(fell|shorter|empty)", verdict.words)


@pytest.mark.parametrize(("task", "metric"), METRICS)
def test_who_makes_less_up_and_names_as_much_is_better(scores: Scores, task: str, metric: str) -> None:
    verdict = scores.verdict("base", "tuned", (task, metric))
    assert verdict is not None
    assert (verdict.outcome, verdict.words, verdict.fallen) == ("better", "better", [])
    words = next(guard for guard in verdict.guards if guard.name == "answer_words")
    assert words.base is not None
    assert words.other is not None
    assert words.other < 0.8 * words.base


@pytest.mark.parametrize("mute", MUTE)
def test_the_gate_fails_whoever_says_little(board: Board, mute: str) -> None:
    settings = GateSettings(models=("base", mute))
    result = check_boards(board.folder, settings=settings)
    assert not result.passed
    failed = {one.baseline.task: one.reason for one in result.regressions}
    assert failed.keys() >= {"chair", "amber", "mmhal"}
    assert all("(guard, p " in failed[task] for task in ("chair", "amber"))
    assert "(guard, p " in to_comment(result)
    assert "(guard, p " in to_junit(result)


def test_the_gate_passes_what_is_better_and_shows_the_claim(board: Board) -> None:
    settings = GateSettings(models=("base", "tuned"), require_better=("chair", "amber.hal", "mmhal.hallucination_rate"))
    result = check_boards(board.folder, settings=settings)
    assert result.passed, [str(one) for one in result.regressions] + result.errors
    assert [claim.met for claim in result.claims] == [True] * 3


@pytest.mark.parametrize("mute", ("empty", "word", "safest"))
def test_a_claim_is_unmet_where_a_guard_is_worse(board: Board, mute: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", "--baseline", str(board.folder), "--baseline-model", "base", "--model", mute]
    assert cli.run([*command, "--require-better", "chair", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    claim = next(one for one in found["claims"] if one["task"] == "chair")
    assert claim["met"] is False
    assert claim["verdict"]["outcome"].startswith("not better: recall fell")
    guard = next(guard for guard in claim["verdict"]["guards"] if guard["name"] == "recall")
    assert guard["worse"] is True
    assert guard["base"] == 100
    assert guard["other"] < 60


def test_a_mute_checkpoint_is_not_selected(scores: Scores) -> None:
    for models in (["empty", "tuned"], ["tuned", "empty"], ["safest", "cut", "tuned"]):
        for against in ("base", None):
            found = select_checkpoint(scores, models, [("chair", "chair_s"), ("mmhal", "score")], against)
            assert found.model == "tuned"
            assert set(found.fallen) == set(models) - {"tuned"}
            assert "recall fell from 100.0 to" in describe_selection(found, models)
    none = select_checkpoint(scores, ["empty", "word"], [("chair", "chair_s")], "base")
    assert none.model is None
    assert "None" in describe_selection(none, ["empty", "word"])


def test_no_checkpoint_is_taken_where_all_say_nothing(scores: Scores) -> None:
    for models in (["empty"], ["empty", "stop", "word"]):
        found = select_checkpoint(scores, models, [("chair", "chair_s")], None)
        assert found.model is None
        assert found.fallen["empty"][0] == "chair: most answers are empty"


def test_who_says_nothing_has_no_rank_and_who_says_little_leads_nobody(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No base is named: nothing but the models' own answers tells."""
    assert cli.run(["leaderboard", str(board.folder), "--ranks", "--headline", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    rank = {row["model"]: (row["rank_low"], row["rank_high"]) for row in table if row["task"] == "chair"}
    assert {name for name in rank if not rank[name][0]} == {"empty", "stop", "letter", "refuses", "word", "cut"}
    assert rank["tuned"][0] == "1"
    assert rank["base"][0] == "2"  # behind `tuned` alone: `safest` and `half` make nothing up, either
    assert cli.run(["leaderboard", str(board.folder), "--headline", "--html", str(tmp_path / "page.html")]) == 0
    capsys.readouterr()
    assert cli.run(["leaderboard", str(board.folder), "--headline"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in shown.splitlines() if line.startswith("|")}
    assert {name for name, line in rows.items() if "✗" in line} >= {"empty", "word", "refuses"}
    assert not {"base", "tuned"} & {name for name, line in rows.items() if "✗" in line}
    assert "✗: most of the answers are empty" in shown
    assert "✗ most answers are empty" in (tmp_path / "page.html").read_text()


def test_a_claim_on_a_model_that_gave_no_answers_fails_the_gate(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Board(tmp_path / "board")
    docs = [make_doc("chair", index) for index in range(IMAGES)]
    put_texts(broken, "broken", "chair", docs, [FailedAnswer("no finite numbers")] * IMAGES, None)
    command = ["check", "--baseline", str(board.folder / "base-chair.json"), "--board", str(broken.folder)]
    command += ["--baseline-model", "base", "--model", "broken"]
    assert cli.run(command) == 1  # nothing to compare
    capsys.readouterr()
    assert cli.run([*command, "--require-better", "chair"]) == 3
    assert "0 of 1 claims shown" in capsys.readouterr().out


def test_training_stops_early_where_a_guard_of_its_probe_is_worse(board: Board, tmp_path: Path) -> None:
    training = SimpleNamespace(save_steps=None, checkpoints=4, score_checkpoints=None)
    job: Any = SimpleNamespace(out=tmp_path, base_name="base", recipe=SimpleNamespace(training=training))
    looks = interim_scoring._ScoreBetweenSaves(job, cast("Any", SimpleNamespace(board=board)), [("chair", "chair_s")])
    stop = looks._find_stop(Checkpoint(path=Path("empty"), step=1, arm="dpo"), 4)
    assert stop is not None
    assert (stop.probe, stop.value, stop.looks) == ("chair.chair_s (recall)", 0.0, 4)
    assert looks._find_stop(Checkpoint(path=Path("tuned"), step=1, arm="dpo"), 4) is None


def test_a_run_whose_checkpoint_says_less_did_not_become_better(scores: Scores) -> None:
    for model, words in (
        ("tuned", ""),
        ("empty", "chair.chair_s is not better: recall fell"),
        ("safest", "recall fell"),
    ):
        panel = scores.panel("base", model, [("chair", "chair_s")])
        found: Any = SimpleNamespace(recipe=SimpleNamespace(trainer="dpo"), last=model, base="base")
        found.verdicts = {"dpo against base": panel}
        assert words in unmet(found)
        assert bool(unmet(found)) == (model != "tuned")
        assert verdict_json(panel["chair.chair_s"])["outcome"].startswith("not better" if words else "better")


def test_a_checkpoint_that_fails_at_each_image_somewhere_has_no_verdict(board: Board, tmp_path: Path) -> None:
    """Its descriptions all failed, its yes and no did not: so does a model that overflows in long answers."""
    docs = [make_doc("amber", index) for index in range(IMAGES)]
    question = {"type": "discriminative-hallucination", "truth": "no", "hallu": []}
    docs += [{**doc, **question, "id": f"q{doc['id']}"} for doc in docs]
    found = Board(tmp_path / "board")
    put_answers(found, "base", "amber", base)
    put_texts(found, "broken", "amber", docs, [FailedAnswer("no finite numbers")] * IMAGES + ["No"] * IMAGES, None)
    panel = Scores(found).panel("base", "broken", [("amber", "amber_score"), ("amber", "hal")])
    assert panel == {}
    outcome: Any = SimpleNamespace(recipe=SimpleNamespace(trainer="dpo"), last="broken", base="base")
    outcome.verdicts = {"dpo against base": panel}
    assert unmet(outcome) == "broken is better by none of the panel"


def test_everything_that_shows_a_verdict_says_why_it_is_not_better(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ["leaderboard", str(board.folder), "--base", "base", "--headline"]
    assert cli.run(shown) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    at = rows[0].index("chair chair_s % ↓")
    cells = {row[0].removesuffix(" (base)"): row[at] for row in rows[2:]}
    assert "▲" in cells["tuned"]
    assert "▲" not in "".join(cells[mute] for mute in MUTE)
    assert "△ not better: recall fell, answers became shorter, more answers are empty" in cells["empty"]
    assert "(recall 0.0, 0.0 words, 40 empty)" in cells["empty"]
    assert "recall 100.0," in cells["base"]
    assert "0 empty)" in cells["base"]
    assert cli.run([*shown, "--ranks", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    of_chair = {row["model"]: row for row in table if row["task"] == "chair"}
    assert of_chair["empty"]["outcome"].startswith("not better: recall fell")
    assert (of_chair["empty"]["rank_low"], of_chair["empty"]["empty"]) == ("", "40")
    assert of_chair["tuned"]["rank_low"]
    assert cli.run([*shown, "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "not better: recall fell" in page
    assert "recall 0.0, 0.0 words, 40 empty" in page
    capsys.readouterr()
    assert cli.run(["compare", "base", "word", "--board", str(board.folder), "--headline"]) == 0
    assert "△ not better: recall fell" in capsys.readouterr().out
    assert cli.run(["compare", "base", "word", "--board", str(board.folder), "--headline", "--json"]) == 0
    changes = {(one["task"], one["metric"]): one for one in json.loads(capsys.readouterr().out)["changes"]}
    assert changes["chair", "chair_s"]["verdict"]["outcome"].startswith("not better: recall fell")


def test_empty_answers_are_counted_for_every_task(tmp_path: Path) -> None:
    found, judge = Board(tmp_path / "board"), LenientJudge()
    for task, spec in registry().tasks.items():
        assert any(guard.name == "empty_answers" for guard in guards_of(task, spec.headline)), task
    docs: list[dict[str, Any]] = [
        {"id": str(i), "image": str(i), "question": "?", "answer": "yes", "category": "random"} for i in range(4)
    ]
    put_texts(found, "m", "pope", docs, ["yes", "", " . ", "No."], judge)
    assert {entry.empty for entry in found.entries()} == {2}


@pytest.mark.parametrize(("model", "empty"), (("base", 0), ("empty", IMAGES), ("word", IMAGES), ("half", IMAGES // 2)))
def test_scores_of_a_file_count_empty_answers(
    board: Board, model: str, empty: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(board.folder / f"{model}-chair.samples.parquet")
    assert cli.run(["score", "chair", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["empty"] == empty
    assert cli.run(["score", "chair", path]) == 0
    assert f"0 unparsed, {empty} empty" in capsys.readouterr().out


def test_ratings_without_answers_say_that_empty_ones_are_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "replies.json"
    path.write_text(json.dumps([{"reply": "Rating: 3"}] * 96))
    assert cli.run(["score", "mmhal", str(path)]) == 0
    assert "empty answers not counted" in capsys.readouterr().out


def test_a_board_of_before_is_counted_from_its_log(board: Board, tmp_path: Path) -> None:
    from harness.evaluation.guards import counted_from_logs

    old = Board(tmp_path / "board")
    old.folder.mkdir()
    for name in ("empty-chair", "tuned-chair"):
        content = json.loads((board.folder / f"{name}.json").read_text())
        for entry in content["entries"]:
            del entry["empty"], entry["guards"]
        (old.folder / f"{name}.json").write_text(json.dumps(content))
        log = board.folder / f"{name}.samples.parquet"
        (old.folder / log.name).write_bytes(log.read_bytes())
    assert {entry.empty for entry in old.entries()} == {None}
    counted = {entry.model: entry for entry in counted_from_logs(old, old.current()) if entry.metric == "chair_s"}
    assert counted["empty"].empty == IMAGES
    assert counted["tuned"].empty == 0
    assert counted["tuned"].guards["recall"] == 100
    (old.folder / "empty-chair.samples.parquet").unlink()
    left = {entry.model: entry.empty for entry in counted_from_logs(old, old.current())}
    assert left == {"empty": None, "tuned": 0}
