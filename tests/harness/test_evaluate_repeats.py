"""Judge repeats, from the command to the comparison: all ratings are in the log, and no call is paid twice."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.main import run
from harness.evaluation.entries import Evaluation
from harness.evaluation.eval_settings import EvalSettings, on_board, times_asked_of
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge_cost import plan
from harness.evaluation.make_judge import make_judge
from harness.models.spec import ModelSpec, find
from harness.runs.checkpoint_selection import Scores, select_checkpoint
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from tasks.judges.openai import OpenAIJudge
from tasks.registry import registry

pytestmark = pytest.mark.usefixtures("no_keys")

JUDGE = "gpt-4o-2024-11-20"
TASK = "scenes_mmhal"
SCORE = (TASK, "score")


def rising() -> Callable[[str], str]:
    """A judge whose rating of a prompt is one higher each time that it is asked again."""
    asked: Counter[str] = Counter()

    def reply(prompt: str) -> str:
        asked[prompt] += 1
        return f"Reasons.\nRating: {sum(map(ord, prompt)) % 3 + asked[prompt] - 1}"

    return reply


def headline(evaluation: Evaluation) -> Entry:
    return next(entry for entry in evaluation.entries if (entry.task, entry.metric) == SCORE)


@pytest.fixture
def judged(server: Any, answering: Any, tmp_path: Path) -> Callable[..., Evaluation]:
    """Evaluates a model that says the same to everything."""

    def judged(words: str, *, name: str = "m", count: int = 2, limit: int = 6) -> Evaluation:
        def answer(prompt: str, pictures: list[Image.Image]) -> str:
            return f"{words} {prompt}"

        judge = make_judge(JUDGE, url=server.url, ledger=tmp_path / "ledger.sqlite")
        spec = ModelSpec(name=name, pretrained="nowhere")
        settings = EvalSettings(limit=limit, judge_repeats=count)
        return evaluate(spec, [registry().task(TASK)], judge, settings, load=lambda *_, **__: answering(answer))

    return judged


def test_each_rating_is_in_the_log_and_the_score_is_their_mean(
    server: Any, judged: Callable[..., Evaluation], tmp_path: Path
) -> None:
    server.reply = rising()
    once = judged("A cat.", count=1)
    assert headline(once).provenance.get("judge repeats") is None
    assert times_asked_of(headline(once)) == 1
    evaluation = judged("A cat.", count=3)
    assert len(server.answered) == 18  # the first repeat was paid already
    found = headline(evaluation)
    board = Board(tmp_path / "board")
    board.add(evaluation.entries, evaluation.samples)
    logged = board.samples(found.run)
    assert logged == evaluation.samples
    for sample in logged:
        ratings = [records["score"]["rating"] for records in (sample.records, *(one.records for one in sample.repeats))]
        assert ratings == [ratings[0], ratings[0] + 1, ratings[0] + 2]
        assert [repeat.reply for repeat in sample.repeats] == [f"Reasons.\nRating: {rating}" for rating in ratings[1:]]
    first = headline(once).value
    assert first is not None
    assert found.value == pytest.approx(first + 1)
    assert times_asked_of(found) == 3
    assert found.cost == pytest.approx(2 * headline(once).cost, rel=0.01)
    assert found.cost > 0


def test_a_rating_that_failed_in_a_later_round_is_absent_there_and_its_sample_is_unscored(
    server: Any, judged: Callable[..., Evaluation]
) -> None:
    server.reply = lambda prompt: "Rating: 4"
    server.faults = [None] * 6 + [None, "refusal", None, "status:400"]
    evaluation = judged("A cat.")
    found = headline(evaluation)
    assert (found.samples, found.unscored, found.failed, found.value) == (6, 2, 0, 4.0)
    assert evaluation.lost == pytest.approx(2 / 6)
    lost = [sample.repeats[0] for sample in evaluation.samples if not sample.repeats[0].records]
    assert [repeat.reply for repeat in lost] == [None, None]
    assert all(sample.records for sample in evaluation.samples)
    asked = len(server.answered)
    again = judged("A cat.")
    assert headline(again).unscored == 1
    assert len(server.answered) == asked + 1  # what got no reply; the refusal was paid for


def test_a_round_that_got_no_rating_at_all_gives_no_interval_and_no_zero(
    server: Any, judged: Callable[..., Evaluation]
) -> None:
    server.reply = lambda prompt: "Rating: 4"
    server.faults = [None] * 6 + ["refusal"] * 6
    found = headline(judged("A cat."))
    assert (found.value, found.low, found.high, found.unscored) == (4.0, None, None, 6)
    assert found.provenance["judge repeats"] == "4, none"


def test_an_answer_that_the_model_failed_to_give_is_never_rated(server: Any, answering: Any, tmp_path: Path) -> None:
    from tasks.answer import FailedAnswer

    judge = make_judge(JUDGE, url=server.url, ledger=tmp_path / "ledger.sqlite")
    answers = iter([FailedAnswer("out of memory"), "A cat.", "A dog."])
    spec, task = ModelSpec(name="m", pretrained="nowhere"), registry().task(TASK)
    settings = EvalSettings(limit=3, judge_repeats=2)
    evaluation = evaluate(spec, [task], judge, settings, load=lambda *_, **__: answering(lambda *_: next(answers)))
    first, *others = evaluation.samples
    assert (first.answer, first.records, [repeat.records for repeat in first.repeats]) == (None, {}, [{}])
    assert all(sample.records and sample.repeats[0].records for sample in others)
    assert (headline(evaluation).failed, headline(evaluation).unscored) == (1, 0)
    assert len(server.answered) == 4


def test_checkpoints_are_told_apart_by_all_ratings(
    server: Any, judged: Callable[..., Evaluation], tmp_path: Path
) -> None:
    board = Board(tmp_path / "board")

    def reply(prompt: str) -> str:  # it rates dogs higher in the first round, and cats in the second
        asked[prompt] += 1
        return f"Rating: {5 if ('A dog.' in prompt) == (asked[prompt] == 1) else 1}"

    asked: Counter[str] = Counter()
    server.reply = reply
    for words in ("A cat.", "A dog."):
        evaluation = judged(words, name=words, limit=12)
        board.add(evaluation.entries, evaluation.samples)
    scores = Scores(board)
    verdict = scores.verdict("A cat.", "A dog.", SCORE)
    assert verdict is not None
    entries = [scores.entry(model, SCORE) for model in ("A cat.", "A dog.")]
    assert [verdict.base, verdict.other] == [entry.value for entry in entries if entry] == [3.0, 3.0]
    assert scores.panel("A cat.", "A dog.", [SCORE]) == {f"{TASK}.score": verdict}
    assert select_checkpoint(scores, ["A cat.", "A dog."], [SCORE]).worse == {"A cat.": (), "A dog.": ()}


def test_a_board_that_was_judged_less_often_is_not_done(
    server: Any, answering: Any, random_model: Path, tmp_path: Path, judged: Callable[..., Evaluation]
) -> None:
    server.reply = rising()
    spec, task = find(str(random_model)), registry().task(TASK)
    judge = make_judge(JUDGE, url=server.url, ledger=tmp_path / "ledger.sqlite")
    board = Board(tmp_path / "board")
    once, twice, thrice = (EvalSettings(limit=3, judge_repeats=count) for count in (1, 2, 3))
    evaluation = evaluate(spec, [task], judge, twice, name="m", load=lambda *_, **__: answering(lambda *_: "A cat."))
    board.add(evaluation.entries, evaluation.samples)
    done = [on_board(board, spec, "m", [task], judge, settings) for settings in (once, twice, thrice)]
    assert done == [True, True, False]


def test_a_plan_counts_every_call(server: Any, tmp_path: Path) -> None:
    judge = make_judge(JUDGE, url=server.url, ledger=tmp_path / "ledger.sqlite")
    assert isinstance(judge, OpenAIJudge)
    task = registry().task("mmhal")
    doc = {"image_content": ["dog"], "question": "What?", "gt_answer": "A dog.", "question_type": "other", "image": "1"}
    once, thrice = (plan(judge, task, [doc], ["A cat."], repeats=count) for count in (1, 3))
    assert (once.calls, thrice.calls, server.log) == (1, 3, [])
    assert thrice.prompt_tokens == 3 * once.prompt_tokens
    assert thrice.price == pytest.approx(3 * (once.price or 0))


def test_from_eval_to_compare_and_an_end_in_the_second_round_costs_nothing_twice(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--judge", JUDGE, "--judge-url", server.url, "--ledger", str(tmp_path / "l.sqlite")]
    options += ["--judge-repeats", "2", "--answers", str(tmp_path / "answers.sqlite"), "--out", str(out), "--json"]

    def command(model: str) -> list[str]:
        return ["eval", "--model", model, "--tasks", TASK, "--limit", "6", *options]

    server.reply = rising()
    server.faults, server.always = [None] * 8, "quota"  # the account is empty amid the second round
    assert run(command("scenes-early")) == 1
    assert "go on with: harness eval --model scenes-early" in capsys.readouterr().err
    assert len(server.answered) == 8
    server.always = None
    assert run(command("scenes-early")) == 0
    assert len(server.answered) == 12
    assert run(command("scenes-base")) == 0
    capsys.readouterr()
    assert run(["compare", "scenes-early", "scenes-base", "--board", str(out), "--partial", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    change = next(change for change in changes if change["metric"] == "score")
    assert change["verdict"]["images"] > 1
    assert (change["verdict"]["base"], change["verdict"]["other"]) == (change["before"], change["after"])
    for entry in (entry for entry in Board(out / "board").entries() if (entry.task, entry.metric) == SCORE):
        assert run(["score", TASK, str(out / "board" / f"{entry.run}.samples.parquet"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"]["score"] == pytest.approx(entry.value)
