"""What is read of a server's reply: forms that servers send, and any JSON at all."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import JudgeDown
from tasks.judges.failures import NoReply, PermanentError, TransientError
from tasks.judges.replies import NOT_SAID, LimitSpent, read_answer, read_verdict, without_fence
from tests.judge.reply_makers import TEXT_PART, THINKING, body, unsaid

pytestmark = pytest.mark.usefixtures("no_keys")


READ = (
    ("Rating: 4", "Rating: 4"),
    ([TEXT_PART], "Rating: 4"),
    ([THINKING, TEXT_PART], "Rating: 4"),
    ([{"type": "reasoning", "text": "Rating: 1?"}, {"type": "output_text", "text": "Rating: 4"}], "Rating: 4"),
    ([{"type": "text", "text": "Rating: 1?", "thought": True}, TEXT_PART], "Rating: 4"),
    ([{"type": "text", "text": "Rating:"}, {"type": "text", "text": " 4"}], "Rating: 4"),
    ([{"text": "Rating: 4"}], "Rating: 4"),
    (["Rating: ", "4"], "Rating: 4"),
    (TEXT_PART, "Rating: 4"),
    ([{"type": "text", "text": {"value": "Rating: 4"}}], "Rating: 4"),
    ([{"type": "image_url", "image_url": {"url": "x"}}, TEXT_PART, None, 7], "Rating: 4"),
    ("Rating: 4\x00\x1b[31m", "Rating: 4"),
    ("bad \ud83d Rating: 4", "bad \\ud83d Rating: 4"),
    ("\ud83d\ude00 4".encode("utf-16", "surrogatepass").decode("utf-16"), "\U0001f600 4"),
    ("tab\tand\nline\r\n4", "tab\tand\nline\r\n4"),
)


@pytest.mark.parametrize(("content", "text"), READ)
def test_contents_that_are_replies(content: Any, text: str) -> None:
    for reply in (read_answer(body(content)), read_verdict(body(content))):
        assert (reply.text, reply.limited, reply.usage, reply.served) == (text, False, (10, 5), "m")
        reply.text.encode("utf-8")


@pytest.mark.parametrize(
    "finish",
    (
        *("stop", "STOP", "eos_token", "end_turn", "stop_sequence", "eos", "COMPLETE", "FINISHED", "end", "normal"),
        *("FINISH_REASON_STOP", "end-turn", " Stop ", {"type": "stop", "matched": 2}),
    ),
)
def test_replies_that_ended_by_themselves(finish: Any) -> None:
    assert not read_answer(body("No", finish)).limited
    assert read_verdict(body("4", finish)).text == "4"


@pytest.mark.parametrize(
    "finish",
    (
        *("length", "max_tokens", "MAX_TOKENS", "model_length", "FINISH_REASON_MAX_TOKENS", "max_new_tokens"),
        *({"type": "length", "length": 9}, "ERROR_LIMIT", "model_context_window_exceeded"),
    ),
)
def test_a_limit_ends_an_answer_and_makes_a_verdict_none(finish: Any) -> None:
    assert read_answer(body("It is a", finish)).limited
    with pytest.raises(PermanentError, match="cut at the limit of tokens"):
        read_verdict(body("Rating: 6 would be", finish))
    assert read_verdict(body("0.5", finish), cut_is_whole=True).text == "0.5"


DETAILS = {"completion_tokens_details": {"reasoning_tokens": 4}}
TOTAL = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}


@pytest.mark.parametrize(
    "given",
    (
        body("<think>Is it?</think>A do", "length"),
        body("A do", "length", reasoning="Is it?"),
        body("A do", "length", over={"usage": {"prompt_tokens": 10, "completion_tokens": 5, **DETAILS}}),
        body("A do", "length", over={"usage": {"prompt_tokens": 10, "completion_tokens": 5, "reasoning_tokens": 4}}),
        body("A do", "length", over={"usage": TOTAL}),
    ),
)
def test_thoughts_that_cut_an_answer_leave_none_until_they_have_room(given: Any) -> None:
    for read in (read_answer, read_verdict):
        with pytest.raises(LimitSpent, match="took tokens of its"):
            read(given, limit=9)
    assert read_answer(given, limit=9 + 4096, room=4096).limited
    with pytest.raises(LimitSpent, match="took tokens of its verdict"):  # a digit of MM-Vet's grade
        read_verdict(given, limit=3, cut_is_whole=True)
    assert read_verdict(given, limit=4099, room=4096, cut_is_whole=True).limited


@pytest.mark.parametrize("text", ("A dog on", "<answer>A dog on", "A dog <b>on"))
def test_an_answer_without_thoughts_may_be_cut(text: str) -> None:
    assert read_answer(body(text, "length"), limit=9).limited


@pytest.mark.parametrize(
    ("given", "why", "may_pass"),
    (
        (body("x", "content_filter"), "content filter", False),
        (body("x", "SAFETY"), "content filter", False),
        (body("x", "tool_calls"), "finish_reason tool_calls", False),
        (body("x", "function_call"), "finish_reason function_call", False),
        (body("x", "new_reason"), "finish_reason new_reason", False),
        (body("x", None), "did not end", True),
        (body("x", 7), "did not end", True),
        (body("x", "error"), "did not end", True),
        (body("x", ""), "finish_reason None: the reply did not end", True),
        (body("x", {}), "did not end", True),
        (body("x", "network_error"), "did not end", True),
        (body("x", "insufficient_system_resource"), "did not end", True),
        (body("x", "sensitive"), "content filter", False),
        (body("x", "guardrail_intervened"), "content filter", False),
        (body("x", "OTHER"), "finish_reason other", False),
        (unsaid("x", stop_reason="tool_use"), "no finish_reason: whether the reply is whole is not known", False),
        (unsaid("x"), "no finish_reason: whether the reply is whole is not known", False),
        (body("x", "abort"), "did not end", True),
        (body(None, refusal="I can't."), "refusal", False),
        (body("Rating: 3", refusal=7), "refusal", False),
        (body([{"type": "refusal", "refusal": "no"}]), "refusal", False),
        (body("x", tool_calls=[{"id": "1"}]), "a call of tools", False),
        (body(None, function_call={"name": "f"}), "a call of tools", False),
        (body(None), "no content", True),
        (body([]), "no content", True),
        (body(None, reasoning_content="Yes"), "beside its thoughts|beside the judge's thoughts", False),
        (body("", reasoning="Yes"), "beside its thoughts|beside the judge's thoughts", False),
        (body("\n", reasoning_details=[{"text": "Yes"}]), "beside its thoughts|beside the judge's thoughts", False),
        (body([THINKING]), "beside its thoughts|beside the judge's thoughts", False),
        (body("<think>Yes</think>"), "beside its thoughts|beside the judge's thoughts", False),
        (body("<think>Yes"), "thoughts never ended", False),
        (body(5), "not int", False),
        (body(True), "not bool", False),
        (body(over={"choices": []}), "no choices", True),
        (body(over={"choices": None}), "no choices", True),
        (body(over={"choices": {"a": 1}}), "no choices", True),
        (body(over={"choices": "abc"}), "no choices", True),
        (body(over={"choices": [None]}), "no choices", True),
        (body(over={"choices": [{"index": 0, "finish_reason": "stop"}]}), "no message", True),
        (body(over={"choices": [{"message": "Rating: 3"}]}), "no message", True),
        (body(over={"error": {"message": "upstream overloaded", "code": 502}}), "upstream overloaded", True),
        (body(over={"error": {"message": "slow down", "code": 429}}), "slow down", True),
        (body(over={"error": "overloaded"}), "overloaded", True),
        ({"object": "error", "message": "CUDA out of memory", "code": 50002}, "CUDA out of memory", True),
        ({"detail": "model is not loaded"}, "model is not loaded", True),
        ({"code": 1301, "msg": "unsafe content", "choices": None}, "unsafe content", True),
        ({"errors": [{"message": "worker died"}]}, "worker died", True),
        ({"error_code": 336000, "error_msg": "internal error"}, "internal error", True),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": []}, "rate limit", True),
        ({"status": "error", "detail": [{"loc": ["body"], "msg": "bad"}]}, "body: bad", True),
        (body(over={"error": {"message": "bad image", "code": 400}}), "bad image", False),
        (body(over={"choices": [{"error": {"message": "provider"}, "message": {"content": "4"}}]}), "provider", True),
        ([1, 2], "no completion", True),
        (None, "no completion", True),
        ("hello", "no completion", True),
        (7, "no completion", True),
    ),
)
def test_what_is_no_reply_says_why(given: Any, why: str, may_pass: bool) -> None:
    for read in (read_answer, read_verdict):
        with pytest.raises(TransientError if may_pass else PermanentError, match=why) as error:
            read(given)
        assert error.value.usage in (None, (10, 5))


@pytest.mark.parametrize(
    ("choice", "limited"),
    (
        ({"finish_reason": None, "native_finish_reason": "stop"}, False),
        ({"finish_reason": "", "native_finish_reason": "MAX_TOKENS"}, True),
        ({"finishReason": "STOP"}, False),
        ({"stop_reason": "end_turn"}, False),
        ({"stop_reason": "max_tokens"}, True),
        ({"done_reason": "stop"}, False),
        ({"finish_reason": "stop", "stop_reason": "length"}, False),
        ({"finish_reason": "length", "stop_reason": "\n"}, True),
        ({"finish_reason": "stop", "stop_reason": 151643}, False),
    ),
)
def test_how_a_reply_ended_may_stand_under_another_name(choice: dict[str, Any], limited: bool) -> None:
    reply = read_answer(unsaid("No", **choice))
    assert (reply.text, reply.limited, reply.end_told) == ("No", limited, True)


def test_where_a_server_does_not_say_how_a_reply_ended_its_tokens_tell() -> None:
    for read in (read_answer, read_verdict):
        reply = read(unsaid("4", 5), limit=9)
        assert (reply.text, reply.limited, reply.end_told) == ("4", False, False)
    assert read_answer(unsaid("It is a", 9), limit=9).limited
    with pytest.raises(PermanentError, match="cut at the limit of tokens"):
        read_verdict(unsaid("It is a", 9), limit=9)
    for tokens in (None, 0, -1, "5"):
        with pytest.raises(PermanentError, match="whether the reply is whole is not known"):
            read_answer(unsaid("No", tokens), limit=9)
    with pytest.raises(TransientError, match="did not end"):  # it says that it did not
        read_answer(body("No", None), limit=9)


@pytest.mark.parametrize(
    "given",
    (
        {"error": {"message": "You have no credits", "code": "insufficient_quota"}},
        {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}},
        {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        {"code": 1113, "msg": "Insufficient balance", "choices": []},
        {"object": "error", "message": "Your credit balance is too low"},
    ),
)
def test_an_empty_account_in_a_body_of_status_200_ends_the_run(given: Any) -> None:
    with pytest.raises(JudgeDown, match=r"credits|API key|balance"):
        read_answer(given)


def test_an_empty_answer_is_one_but_not_a_verdict() -> None:
    assert read_answer(body("")).text == ""
    with pytest.raises(TransientError, match="no content"):
        read_verdict(body(""))


@pytest.mark.parametrize("content", ("", None, [], "<think>Let me"))
def test_a_limit_spent_on_thoughts_is_said(content: Any) -> None:
    with pytest.raises(LimitSpent, match="the judge spent all 3 tokens before its verdict"):
        read_verdict(body(content, "length"), limit=3)
    with pytest.raises(PermanentError, match="no answer"):
        read_answer(body(content, "length"))


@pytest.mark.parametrize(
    "usage",
    (
        *(None, {}, [], "free", 7, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": 1}),
        *({"prompt_tokens": "many", "completion_tokens": 1}, {"prompt_tokens": -1, "completion_tokens": -1}),
        *({"prompt_tokens": 10**30, "completion_tokens": 1}, {"prompt_tokens": float("nan"), "completion_tokens": 1}),
        *({"prompt_tokens": True, "completion_tokens": 1}, {"prompt_tokens": 1.5, "completion_tokens": 1}),
    ),
)
def test_a_usage_without_counts_is_none(usage: Any) -> None:
    assert read_answer(body(over={"usage": usage})).usage is None


@pytest.mark.parametrize("model", (None, ["a"], 7, "", "\x00"))
def test_a_model_s_name_that_is_none_is_not_said(model: Any) -> None:
    assert read_answer(body(over={"model": model})).served == NOT_SAID


def test_the_choice_of_index_0_counts() -> None:
    choices = [{**body("other")["choices"][0], "index": 1}, body("first")["choices"][0]]
    assert read_answer(body(over={"choices": choices})).text == "first"
    assert read_answer(body(over={"choices": choices[:1]})).text == "other"


@pytest.mark.parametrize(
    ("text", "inside"),
    (
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('\n```\n{"a": 1}\n```\n', '{"a": 1}'),
        ('~~~JSON\n{"a": 1}~~~', '{"a": 1}'),
        ('````json \n{"a": 1}\n````', '{"a": 1}'),
        ('{"a": 1}', '{"a": 1}'),
        ('See ```json\n{"a": 1}\n```', 'See ```json\n{"a": 1}\n```'),
    ),
)
def test_a_fence_around_all_of_a_text_is_left_out(text: str, inside: str) -> None:
    assert without_fence(text) == inside


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from(("content", "finish_reason", "refusal", "tool_calls", "message", "choices", "usage")))
def test_any_json_in_any_field_is_a_reply_or_a_reason(value: Any, field: str) -> None:
    made = body()
    choice = made["choices"][0]
    place = made if field in made else choice if field in choice else choice["message"]
    place[field] = value
    for given_body in (made, value):
        for read in (read_answer, read_verdict):
            try:
                reply = read(given_body)
            except (NoReply, JudgeDown):
                continue
            assert reply.text in ("Rating: 4", "") or field == "content"
            reply.text.encode("utf-8")
            json.dumps([reply.usage, reply.served])


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(), max_size=30))
def test_any_text_is_kept_as_text_that_any_file_takes(text: str) -> None:
    try:
        kept = read_answer(body(text)).text
    except PermanentError:  # nothing but thoughts
        return
    assert kept.encode("utf-8").decode() == kept
    assert read_answer(body(kept)).text == kept
