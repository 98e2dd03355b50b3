"""What a server's refusal means: a pause, a question without a reply, or the end of the run, in the server's words."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import JudgeDown
from support.secrets import remember
from tasks.judges.failures import (
    LONGEST_REASON,
    NoReply,
    PermanentError,
    TransientError,
    failure_of,
    is_of_account,
    sentence_of,
    wait_asked_for,
    without_secrets,
)
from tasks.judges.reasons import grouped, list_reasons


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def google(message: str, *details: Mapping[str, Any], code: int = 429, status: str = "RESOURCE_EXHAUSTED") -> list[Any]:
    return [error(message, code=code, status=status, details=list(details))]


def quota(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name}]}


PLAN = "You exceeded your current quota, please check your plan and billing details."
ENDS_THE_RUN: list[tuple[int, Any]] = [
    (429, error(PLAN, type="insufficient_quota", code="insufficient_quota")),
    (429, error("You exceeded your current quota, please check your plan", type="exceeded_current_quota_error")),
    (429, google("Quota exceeded for requests per day")),
    (429, google(PLAN, quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), {"retryDelay": "43s"})),
    (429, error("Rate limit reached for m on requests per day (RPD): Limit 200. Please try again in 7m12s.")),
    (429, error("Rate limit reached for m on tokens per day (TPD): Limit 100000", code="rate_limit_exceeded")),
    (429, error("Rate limit exceeded: free-models-per-day. Add 10 credits", code=429)),
    (429, error("Rate limit of 50 per 86400s exceeded for UserByModelByDay.")),
    (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}),
    (429, error("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    (429, error("\u4f59\u989d\u4e0d\u8db3\u6216\u65e0\u53ef\u7528\u8d44\u6e90\u5305", code="1113")),
    (402, error("Insufficient Balance", code="invalid_request_error")),
    (402, "Payment Required"),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}),
    (400, error("Budget has been exceeded! Current cost: 10, Max budget: 10", type="budget_exceeded")),
    (400, error("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    (
        400,
        google("API key not valid. Please pass a valid API key.", {"reason": "API_KEY_INVALID"}, code=400, status=""),
    ),
    (400, google("API key expired. Please renew the API key.", code=400, status="INVALID_ARGUMENT")),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xai-1***"}),
    (401, {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid, or has expired."}),
    (401, error("Access denied due to invalid subscription key or wrong API endpoint.", code="401")),
    (401, {"error": "Unauthorized"}),
    (403, error("Key limit exceeded (total limit)", code=403)),
    (403, "<html><style>p {}</style><p>blocked by cloudflare</p></html>"),
    (404, {"detail": "Not Found"}),
]


OF_THE_ACCOUNT = (
    (403, error("Key limit exceeded (daily limit).", code=403)),
    (403, error("The free tier of the model has been exhausted.", code="AllocationQuota.FreeTierOnly")),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    (403, error("You exceeded your current token quota", type="exceeded_current_quota_error")),
    (400, {"type": "error", "error": {"message": "Your credit balance is too low to access the Anthropic API."}}),
)


@pytest.mark.parametrize(("status", "body"), OF_THE_ACCOUNT)
def test_an_empty_account_is_not_taken_for_a_wrong_key(status: int, body: Any) -> None:
    found = failure_of("m", status, body, {})
    assert isinstance(found, JudgeDown)
    assert is_of_account(found)


@pytest.mark.parametrize(("status", "body"), ENDS_THE_RUN)
def test_a_key_an_account_or_a_quota_of_a_day_ends_the_run(status: int, body: Any) -> None:
    found = failure_of("m", status, body, {})
    assert isinstance(found, JudgeDown)
    assert sentence_of(body) in str(found)


LIMITED: list[tuple[Any, dict[str, str], float | None]] = [
    (error("Rate limit reached", type="requests", code="rate_limit_exceeded"), {}, None),
    (error("Slow down"), {"retry-after": "2"}, 2),
    (error("Slow down"), {"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    ("slow down", {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10),
    ("slow down", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ("slow down", {"retry-after": "-5"}, 0),
    ("slow down", {"retry-after": "nan"}, None),
    ("slow down", {"retry-after": "inf"}, None),
    ("slow down", {"retry-after": "soon"}, None),
    ("slow down", {"retry-after": "86400"}, 86400),
    ("slow down", {"retry-after": "1e300"}, 1e9),
    ("slow down", {"retry-after": "9" * 5000}, None),
    ("slow down", {"retry-after": "2, 30, 5"}, 30),  # a header that comes three times
    ("slow down", {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 1e9),
    ("slow down", {"retry-after": "Fri, 31 Dec 99999999999 23:59:59 GMT"}, None),
    (google(PLAN, quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), {"retryDelay": "34.07s"}), {}, 34.07),
    (google("Resource has been exhausted (e.g. check quota)."), {}, None),
    (error("Requests have exceeded token rate limit of your S0 tier. Please retry after 26 seconds."), {}, 26),
    (error("Rate limit reached on tokens per min (TPM): Limit 30000. Please try again in 1m7.5s. Visit x"), {}, 67.5),
    (error("Rate limit reached. Please try again in 350ms."), {}, 0.35),
    (error("Provider returned error", metadata={"raw": "temporarily rate-limited upstream"}), {}, None),
    ({"error": ["a"]}, {}, None),
    (None, {}, None),
    ("", {}, None),
]


@pytest.mark.parametrize(("body", "headers", "after"), LIMITED)
def test_too_many_requests_are_sent_later(body: Any, headers: dict[str, str], after: float | None) -> None:
    found = failure_of("m", 429, body, headers)
    assert isinstance(found, TransientError)
    assert found.limited
    assert found.after == (None if after is None else pytest.approx(after))
    assert found.why.startswith("too many requests")


def test_a_reset_is_a_time_since_1970_in_seconds_or_milliseconds() -> None:
    for stamp in (time.time() + 30, (time.time() + 30) * 1000):
        assert wait_asked_for({"x-ratelimit-reset": str(int(stamp))}) == pytest.approx(30, abs=2)
    assert wait_asked_for({"x-ratelimit-reset": "12"}) is None


@pytest.mark.parametrize(
    ("status", "body", "why", "refused"),
    (
        (400, error("m is not a multimodal model"), "refused request: m is not a multimodal model", True),
        (400, '"just a string"', "refused request: just a string", True),
        (400, {"error": ["a"]}, "refused request: a", True),
        (400, error('{"error": {"message": "inner"}}'), "refused request: inner", True),
        (400, None, "refused request: status 400", True),
        (400, error("The response was filtered", code="content_filter"), "content filter", False),
        (400, error("Input data may contain", code="data_inspection_failed"), "content filter", False),
        (403, error("Input was flagged", metadata={"reasons": ["x"]}), "content filter: Input was flagged", False),
        (400, error("Invalid prompt: it was flagged as violating our usage policy"), "content filter", False),
        (400, error("The response was filtered due to the prompt triggering our policy"), "content filter", False),
        (500, error("Unsupported param: seed"), "refused request: Unsupported param: seed", True),  # llama.cpp
        (500, error("image input is not supported"), "refused request: image input is not supported", True),
        (413, "too large", "status 413: too large", True),
        (429, error("Request too large for m: Limit 3"), "refused request: Request too large for m: Limit 3", True),
        (400, {"error": {"code": "DeploymentBusy"}}, "refused request: DeploymentBusy", True),
        (400, "only 2 < 3 are > 1", "refused request: only 2 < 3 are > 1", True),
        (418, {}, "status 418", True),
        (
            422,
            {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 0}]}},
            "refused request: body.seed: Extra inputs are not permitted",
            True,
        ),
    ),
)
def test_what_is_refused_is_told_in_the_servers_words(status: int, body: Any, why: str, refused: bool) -> None:
    found = failure_of("m", status, body, {})
    assert isinstance(found, PermanentError)
    assert (found.why, found.refused) == (why, refused)


@pytest.mark.parametrize("status", (408, 409, 500, 502, 503, 504, 524, 529, 999))
def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    found = failure_of("m", status, error("overloaded"), {"retry-after": "3"})
    assert isinstance(found, TransientError)
    assert (found.why, found.after, found.limited) == (f"status {status}: overloaded", 3, False)


@pytest.mark.parametrize(
    ("status", "after", "why"),
    (
        (503, "60", "status 503: full"),
        (503, "86400", "status 503: full; it asks to wait 86400 s"),
        (429, "1e12", "too many requests: full; it asks to wait more than ten days"),
    ),
)
def test_a_long_wait_that_is_asked_for_is_part_of_the_reason(status: int, after: str, why: str) -> None:
    found = failure_of("m", status, error("full"), {"retry-after": after})
    assert isinstance(found, TransientError)
    assert found.why == why


@pytest.mark.parametrize(
    "text",
    (
        "<script " * 500_000,
        "bearer " * 500_000,
        "sk-" * 1_000_000,
        "<a" * 2_000_000,
        "free tier " * 400_000,
        '["' * 900,
    ),
)
def test_words_without_end_are_read_in_a_moment(text: str) -> None:
    started = time.monotonic()
    for body in (text, {"error": {"message": text, "code": text}}, [{"detail": [text] * 3}]):
        assert len(str(failure_of("m", 500, body, {}))) < LONGEST_REASON + 80
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "shown"),
    (
        ("Incorrect API key provided: sk-abc***xyz1. See", "Incorrect API key provided: [secret]. See"),
        ("got Bearer abcdef123456", "got [secret]"),
        ("got hunter2hunter2", "got [secret]"),
        ("missing bearer authentication", "missing bearer authentication"),
        ("none of them", "none of them"),
        ("at /v1?api-key=QUERYKEY&x=1", "at /v1?api-key=[secret]&x=1"),
        ("AIzaSyA1234567890123 is no key", "[secret] is no key"),
        ("bad \x1b[31m red \u202e rtl\r\n\ttwo\x00", "bad red rtl two"),
        ("data:image/png;base64,iVBORw0KGgo= is broken", "... is broken"),
        ("A" * 5000, "..."),
        ("half \ud83d a pair", "half a pair"),
    ),
)
def test_keys_images_and_control_characters_are_not_told(text: str, shown: str) -> None:
    remember("none", "hunter2hunter2")
    assert without_secrets(text) == shown


def test_reasons_are_counted_and_such_that_differ_in_numbers_are_one() -> None:
    long = [f"you requested {n} tokens (request id: r{n}x)" for n in range(20)]
    assert grouped([*long, "content filter"]) == "you requested 0 tokens (request id: r0x) (20), content filter (1)"
    assert grouped("abcdef") == "a (1), b (1), c (1), d (1), other reasons (2)"
    assert grouped([]) == ""
    assert (
        grouped(["content filter", "busy", "busy"], ["3", "9", "4"])
        == "busy (2, such as 9), content filter (1, such as 3)"
    )
    assert [one.count for one in list_reasons([("1", "took 5 s"), ("2", "took 7 s"), ("3", "refusal")])] == [2, 1]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("error", "message", "code", "detail", "metadata", "raw", "loc", "quotaId", "retryDelay")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    status=st.integers(300, 999),
    body=values | st.text() | st.builds(json.dumps, values),
    header=st.text(max_size=12) | st.floats().map(str),
)
def test_any_body_is_one_line_that_can_be_printed(status: int, body: Any, header: str) -> None:
    found = failure_of("m", status, body, dict.fromkeys(("retry-after", "date", "x-ratelimit-reset"), header))
    text = str(found)
    assert text == " ".join(text.split())
    assert text.encode()
    assert len(text) < LONGEST_REASON + 80
    if isinstance(found, TransientError):
        assert found.after is None or 0 <= found.after <= 1e9
    else:
        assert isinstance(found, NoReply | JudgeDown)
