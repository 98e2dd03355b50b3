"""Strange replies in the middle of a run: one question's reason, nothing lost, nothing paid for twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import JudgeError, SettingError, StoreError
from tasks.answer import Answer, FailedAnswer
from tasks.judges.parameters import ROOM
from tasks.judges.protocol import Sampling
from tests.judge.reply_makers import THINKING, answers_of, body, judge_of, number_in, prompts, unsaid

pytestmark = pytest.mark.usefixtures("no_keys")


def test_a_server_that_never_says_how_replies_ended_is_told_once(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.answer = lambda request: (200, unsaid("No", 2))
    assert answers_of(server, tmp_path, 3) == ["No"] * 3
    assert caplog.text.count("no finish_reason: replies with fewer tokens than the limit count as whole") == 1
    server.answer = lambda request: (200, unsaid("No", None))
    with pytest.raises(JudgeError, match="the first 8 requests were all refused: no finish_reason"):
        judge_of(server, tmp_path).ask_many(prompts(20))
    assert len(server.log) == 3 + 8


def test_one_strange_reply_costs_one_question_and_nothing_that_is_on_its_way(server: Any, tmp_path: Path) -> None:
    strange = {1: body(5), 3: body("x", "tool_calls"), 4: body("<think>4"), 6: body(None, reasoning="hm")}
    server.answer = lambda request: (200, strange.get(number_in(request), body("<think>1?</think>Rating: 4")))
    judge = judge_of(server, tmp_path)
    replies = judge.ask_many(prompts(8), label="mmhal")
    assert [reply is None for reply in replies] == [number in strange for number in range(8)]
    assert {reply for reply in replies if reply is not None} == {"Rating: 4"}
    assert {place: bool(why.error) for place, why in replies.lost.items()} == dict.fromkeys(strange, True)
    assert [call.reply for call in judge.client.ledger.calls()] == ["<think>1?</think>Rating: 4"] * 4
    server.answer = lambda request: (200, body("Rating: 5"))
    assert judge_of(server, tmp_path, retry_unread=True).ask_many(prompts(8)) == [
        "Rating: 5" if number in strange else "Rating: 4" for number in range(8)
    ]


def test_any_exception_of_one_question_is_its_reason(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(server, tmp_path)
    read = judge.read

    def fail_once(given_body: Any, request: Any) -> Any:
        if number_in(dict(request.body)) == 2:
            raise ZeroDivisionError("a mistake")
        return read(given_body, request)

    monkeypatch.setattr(judge, "read", fail_once)
    replies = judge.ask_many(prompts(6))
    assert [place for place, reply in enumerate(replies) if reply is None] == [2]
    assert replies.lost[2].error == "ZeroDivisionError: a mistake"
    assert len(list(judge.client.ledger.calls())) == 5


def test_a_question_that_cannot_be_made_ends_no_other(server: Any, tmp_path: Path) -> None:
    class Broken(Image.Image):
        size, mode = (8, 8), "RGB"

        def tobytes(self, *_: Any, **__: Any) -> bytes:
            raise OSError("broken data stream")

    judge = judge_of(server, tmp_path)
    questions: list[Any] = [*prompts(2), ("Question 2", Broken()), *prompts(4)[3:]]
    replies = judge.ask_many(questions)
    assert [reply is None for reply in replies] == [False, False, True, False]
    assert replies.lost[2].error == "image can't be shown: broken data stream"


def test_a_setting_that_cannot_be_used_is_no_question_s_reason(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prices.toml").write_text("models = 7")
    monkeypatch.setenv("HARNESS_PRICES", str(tmp_path / "prices.toml"))
    with pytest.raises(SettingError, match="no price table"):
        judge_of(server, tmp_path).ask_many([("Question 1", Image.new("RGB", (8, 8)))])


def test_requests_that_cannot_be_made_lose_nothing_on_its_way(server: Any, tmp_path: Path) -> None:
    server.delay = 0.2
    judge = judge_of(server, tmp_path)

    def questions() -> Any:
        yield from prompts(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        judge.ask_many(questions())
    assert len(list(judge.client.ledger.calls())) == 3


def test_a_ledger_that_cannot_be_written_ends_the_run(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(server, tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(judge.client.ledger, "put", full)
    with pytest.raises(StoreError, match="disk full"):
        judge.ask_many(prompts(6))


@pytest.mark.parametrize(
    "raw",
    (
        b"",
        b"[1,2",
        b"<html>",
        b"[" * 100_000,
        b"[" * 100 + b"]" * 100,
        b"\xff\xfe{",
    ),
)
def test_bodies_that_are_no_json_are_told_in_one_line(raw: bytes, server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, raw)
    with pytest.raises(JudgeError, match=r"a body that is no JSON|an empty body"):
        judge_of(server, tmp_path).ask_many(prompts(4))


@pytest.mark.parametrize("lost", (body(""), body("", reasoning="Rating: 1?"), (400, {"error": "it is too long"})))
def test_a_run_in_which_some_got_no_reply_can_be_repeated(lost: Any, server: Any, tmp_path: Path) -> None:
    """What was replied in the earlier run counts: the server does not refuse all."""
    refusal = lost if isinstance(lost, tuple) else (200, lost)
    server.answer = lambda request: (200, body()) if number_in(request) % 4 == 0 else refusal
    replies = [judge_of(server, tmp_path, concurrency=1).ask_many(prompts(40)) for _ in range(2)]
    assert replies[0] == replies[1] == (["Rating: 4"] + [None] * 3) * 10


@pytest.mark.parametrize(
    "error",
    (
        'json: unknown field "seed"',
        {"message": "seed is not allowed", "type": "invalid_request_error"},
        {"code": 2013, "msg": "invalid params, seed must be above 0"},
    ),
)
def test_a_parameter_refused_in_a_body_of_status_200_is_learnt(error: Any, server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, {"error": error} if "seed" in request else body())
    assert judge_of(server, tmp_path).ask_many(prompts(3)) == ["Rating: 4"] * 3
    assert "seed" not in server.log[-1]


def test_a_structured_reply_may_stand_in_a_fence_and_behind_thoughts(server: Any, tmp_path: Path) -> None:
    fenced = '<think>{"verdict": "1"}</think>\n```json\n{"explanation": "e", "verdict": "Rating: 4"}\n```'
    server.answer = lambda request: (200, body(fenced))
    assert judge_of(server, tmp_path, structured=True).ask("Question 1") == "Rating: 4"


@pytest.mark.parametrize("verdict", (None, [], {}, True))
def test_a_structured_reply_without_a_verdict_is_none(verdict: Any, server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body(json.dumps({"verdict": verdict})))
    judge = judge_of(server, tmp_path, structured=True)
    assert judge.ask_many(prompts(1)) == [None]
    assert not list(judge.client.ledger.calls())


def test_thoughts_that_earlier_versions_kept_are_no_verdict_either(server: Any, tmp_path: Path) -> None:
    judge = judge_of(server, tmp_path)
    server.answer = lambda request: (200, body("Rating: 1"))
    judge.ask_many(prompts(2))
    for number, text in enumerate(("<think>Rating: 1</think>Rating: 6", "<think>Rating: 1")):
        judge.client.ledger._run("UPDATE calls SET reply = ? WHERE rowid = ?", text, number + 1)
    replies = judge.ask_many(prompts(2))
    assert sorted(map(str, replies)) == ["None", "Rating: 6"]
    assert len(replies.lost) == 1


def test_half_a_surrogate_pair_is_paid_for_once(server: Any, tmp_path: Path) -> None:
    raw = json.dumps(body("bad \ud83d half \ud800 Rating: 4")).encode()
    server.answer = lambda request: (200, raw)
    first = judge_of(server, tmp_path).ask_many(prompts(1))
    assert judge_of(server, tmp_path).ask_many(prompts(1)) == first == ["bad \\ud83d half \\ud800 Rating: 4"]
    assert len(server.log) == 1


def test_a_candidate_s_thoughts_stay_beside_its_answer_also_out_of_the_ledger(server: Any, tmp_path: Path) -> None:
    raw = "<think>Yes.\nOr not?</think>\nNo.\nBecause"
    server.answer = lambda request: (200, body(raw, "length"))
    for _ in range(2):
        (answer,) = answers_of(server, tmp_path, until=["\n"])
        assert isinstance(answer, Answer)
        assert (answer, answer.raw, answer.limited) == ("No.", raw, False)  # ended by the stop sequence
    assert [entry["max_tokens"] for entry in server.log] == [9, 9 + ROOM]  # asked once more, with room for thoughts


@pytest.mark.parametrize(
    ("given", "why", "calls"),
    (
        (body("<think>Yes", "length"), "thoughts never ended", 2),
        (body("", "length", reasoning_content="No"), "no answer within the limit of tokens", 2),
        (body("", reasoning_content="No"), "no answer beside its thoughts", 1),
        (body("", "length"), "no answer within the limit of tokens", 1),
        (body([THINKING]), "no answer beside its thoughts", 1),
    ),
)
def test_thoughts_without_an_answer_are_a_failed_answer(
    given: Any, why: str, calls: int, server: Any, tmp_path: Path
) -> None:
    server.answer = lambda request: (200, given)
    (answer,) = answers_of(server, tmp_path)
    assert isinstance(answer, FailedAnswer)
    assert why in answer.error
    assert len(server.log) == calls  # with room for thoughts once more, where a limit ended them


def test_a_protocol_s_short_limit_may_end_a_verdict(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body("0.5", "length"))
    judge = judge_of(server, tmp_path)
    assert judge.ask_many(prompts(1), Sampling(max_tokens=3, cut_is_whole=True)) == ["0.5"]
    replies = judge.ask_many(prompts(1), Sampling(max_tokens=3))
    assert replies == ["0.5"]  # it is in the ledger: the request is the same
    assert judge.ask_many(prompts(3), Sampling(max_tokens=4)) == [None] * 3
