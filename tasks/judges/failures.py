"""Why a server gave no reply: refusals of every form, sorted once, and told in the server's own words.

    failure_of("gpt-4o", 429, body, headers)    # TransientError: try again; PermanentError: this question has no reply
                                                # JudgeDown: no question will get one (key, account, quota, address)

Servers agree on the status and on little else: `sentence_of` finds the words in OpenAI's, Azure's, Google's, FastAPI's
and OpenRouter's bodies, in lists, in plain text and in pages of HTML. Keys and images are taken out of them.
"""

import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from itertools import islice
from math import isfinite
from typing import Any, Final

from support.errors import JudgeDown, one_line
from support.secrets import HIDDEN, redact
from tasks.judges.bodies import read_json

Usage = tuple[int, int]
"""Tokens of a prompt and of its reply, as the server counts them."""
LONGEST_REASON: Final = 300
"""Characters."""
LONGEST_TEXT: Final = 10_000
"""Characters that are read of a server's words."""
LONGEST_WAIT_TOLD: Final = 1e9
"""Seconds; a wait of more is that long."""
LONG_PAUSE: Final = 60.0
"""Seconds; a server that asks to wait longer is quoted with it."""


class NoReply(Exception):
    """A call gave no reply; `usage` is what it cost all the same."""

    may_pass = False
    """Whether asking again later can help."""
    paid = False
    """Whether it was paid for, so that asking again would cost again."""

    def __init__(self, why: str, usage: Usage | None = None) -> None:
        super().__init__(why)
        self.why, self.usage = why, usage


class PermanentError(NoReply):
    """This question will never get a reply; `refused`: the server did not take the form of the request, and answered
    `body` (JSON or text); `hopeless`: what is asked in the same way fares no better, mostly."""

    def __init__(
        self,
        why: str,
        usage: Usage | None = None,
        *,
        refused: bool = False,
        hopeless: bool = False,
        body: Any = None,
    ) -> None:
        super().__init__(why, usage)
        self.refused, self.hopeless, self.body = refused, refused or hopeless, body


class TransientError(NoReply):
    """Worth another try, after so many seconds if the server said; `limited`: it was asked too often; `answered`: it
    did its work, which may be paid for at each try."""

    may_pass = True

    def __init__(
        self,
        why: str,
        after: float | None = None,
        *,
        limited: bool = False,
        answered: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(why, usage)
        self.after, self.limited, self.answered = after, limited, answered or usage is not None


FILTERED: Final = re.compile(
    "content_?filter|content_policy_violation|responsibleaipolicyviolation|data_?inspection_?failed|moderation|flagged",
    re.IGNORECASE,
)
_FILTERED_IN_WORDS: Final = re.compile(
    r"(blocked|stopped|refused|filtered) by (a |the |our )?content[ _]filter"
    r"|(was|were|been) (flagged|filtered|blocked|rejected)\b[^.]{0,60}"
    r" (polic(y|ies)|safety|violat\w*|prompt triggering)",
    re.IGNORECASE,
)
"""The same where there is no code; a server may quote what it was asked, so that single words tell nothing."""
SPENT: Final = re.compile(
    r"insufficient[_ ](quota|balance|credit|fund)|exceeded_current_quota"
    r"|exceeded your (current|monthly|daily) (\w+ )?quota|billing_(hard_limit|not_active)|billing hard limit"
    r"|credit_limit|credit balance is too low|(out of|no) credits"
    r"|budget_exceeded|budget has been exceeded|arrearage|overdue.payment|account_deactivated|access_terminated"
    r"|(balance|credit|fund)s? (is|are) (insufficient|exhausted|too low)|free tier [\w ]*exhausted|key limit exceeded"
    r"|account (is|has been|was) \w*(suspended|deactivated|disabled)|quota_?exhausted|payment required"
    r"|\u4f59\u989d\u4e0d\u8db3|\u6b20\u8d39",  # "balance is not enough", "in arrears", as Zhipu and others say
    re.IGNORECASE,
)
"""The account has no money or no quota left."""
A_DAY: Final = re.compile(
    r"(per|by|/|a|each)[ _-]?(day|week|month)(?![a-z])|\b(daily|weekly|monthly)\b|per 86400|\b[rt]pd\b|PerDay|ByDay",
    re.IGNORECASE,
)
"""A quota that no wait of minutes brings back."""
TOO_LARGE: Final = re.compile("request too large|reduce the length|larger than the limit", re.IGNORECASE)
"""More tokens than the server takes in a minute: no wait helps."""
BAD_KEY: Final = re.compile(
    r"\b(invalid|incorrect|wrong|missing|expired|unknown|no) (api|subscription|access|auth\w*)[ _-]?(key|token)"
    r"|api[ _-]?key[ _](is )?(not valid|invalid|expired|missing|required|not found|service_blocked)|invalid_api_key"
    r"|API_KEY_INVALID|invalid x-api-key",
    re.IGNORECASE,
)


def is_of_account(error: JudgeDown) -> bool:
    """Whether a server refused for want of money or quota, whatever its status is: the key is right."""
    return SPENT.search(str(error)) is not None


_NOT_TAKEN: Final = re.compile(
    r"(unsupported|unknown|unrecogni[sz]ed|unexpected|extra) (request )?(param|argument|field|name|input|keyword|value)"
    r"|(does not|doesn't|do not|don't|not) support|invalid (params?|request|argument)\b"
    r"|invalid_request_error|BadRequestError",
    re.IGNORECASE,
)
"""What a server that says 500, or 200, says of a request that it will never take: gateways and llama.cpp do so."""


def is_of_request(said: str) -> bool:
    """Whether words that came without a status of their own are of the request, and would be the same next time."""
    return _NOT_TAKEN.search(said) is not None


def failure_of(model: str, status: int, body: Any, headers: Mapping[str, str]) -> NoReply | JudgeDown:
    """What a response without a reply means; `body` is its JSON or its text."""
    if isinstance(body, str) and (found := _parse_json(body)) is not None:
        body = found
    said = without_secrets(sentence_of(body))
    words = " ".join((said, *_find_codes(body)))
    why, down = f"status {status}{said and ': ' + said}", JudgeDown(f"{model}: {said or f'status {status}'}")
    if status == 403 and FILTERED.search(words):
        return PermanentError(f"content filter: {said}")
    if status in (401, 402, 403, 404, 410) or (
        status in (400, 429) and SPENT.search(words) and not _passes_in_minutes(body)
    ):
        return down
    if status == 400 and BAD_KEY.search(words):
        return down
    if status == 429 and A_DAY.search(" ".join(_find_quotas(body)) or words):
        return down
    if status == 429 and TOO_LARGE.search(said):
        return PermanentError(f"refused request: {said}", refused=True)
    if status in (400, 422) or (status == 500 and is_of_request(said)):
        if FILTERED.search(" ".join(_find_codes(body))) or _FILTERED_IN_WORDS.search(said):
            return PermanentError("content filter")
        return PermanentError(f"refused request: {said or f'status {status}'}", refused=True, body=body)
    if status in (408, 409, 425, 429, 498) or status >= 500:
        after = wait_asked_for(headers, body, said)
        asks = f"; it asks to wait {wait_in_words(after)}" if after is not None and after > LONG_PAUSE else ""
        if status in (429, 498):
            return TransientError(f"too many requests{said and ': ' + said}{asks}", after, limited=True)
        return TransientError(why + asks, after)
    return PermanentError(why, refused=True)


_NAMES: Final = (
    *(
        "message",
        "detail",
        "msg",
        "error_message",
        "error_msg",
        "status_msg",
        "description",
        "error",
        "errors",
        "reason",
    ),
    *("title", "code", "type"),  # where there are no words
)


def sentence_of(body: Any, depth: int = 6) -> str:
    """The server's own words in a body of any form, on one line; empty where there are none."""
    return one_line(_find_sentence(body, depth)[:LONGEST_TEXT])


def _find_sentence(body: Any, depth: int) -> str:
    if isinstance(body, str):
        inner = _parse_json(body)
        if inner is not None and (found := _find_sentence(inner, depth - 1) if depth else ""):
            return found
        body = body[:LONGEST_TEXT]  # patterns may take the square of a text's length
        return one_line(_TAGS.sub(" ", body) if "<" in body else body)
    if isinstance(body, list) and depth:
        return "; ".join(dict.fromkeys(filter(None, (_find_sentence(one, depth - 1) for one in body[:3]))))
    if not isinstance(body, Mapping) or not depth:
        return ""
    nested = [name for name in ("error", "base_resp") if isinstance(body.get(name), Mapping | list)]
    found = next(filter(None, (_find_sentence(body.get(name), depth - 1) for name in (*nested, *_NAMES))), "")
    if isinstance(place := body.get("loc"), list):  # FastAPI: which field is meant
        found = f"{'.'.join(map(str, place))}: {found}"
    more = body.get("metadata")  # OpenRouter: what the provider behind it said
    raw = _find_sentence(more.get("raw"), depth - 1) if isinstance(more, Mapping) else ""
    return f"{found}: {raw}" if raw and raw not in found else found


_TAGS: Final = re.compile(r"<(script|style)\b.*?</\1>|</?[a-z!][^>]*>", re.IGNORECASE | re.DOTALL)


def _parse_json(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return read_json(text)
    except ValueError:
        return None


_UNPRINTABLE: Final = re.compile(
    "\x1b\\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_DATA: Final = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*|[A-Za-z0-9+/=]{200,}")
_MASKED: Final = re.compile(r"(?<=key=)[^&\s]+|(?<=token=)[^&\s]+", re.IGNORECASE)
"""What a server's words alone have for keys."""


def without_secrets(text: str) -> str:
    """A server's words as they may be shown and kept: without keys, images and control characters, not endless."""
    text = redact(text[:LONGEST_TEXT])
    text = one_line(_UNPRINTABLE.sub(" ", _DATA.sub("...", _MASKED.sub(HIDDEN, text))))
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 4].rstrip() + " ..."


def _find_values(body: Any, names: tuple[str, ...], depth: int = 12) -> Iterator[Any]:
    """What stands under these names, anywhere in a body."""
    if not depth:
        return
    if isinstance(body, list):
        for one in body[:20]:
            yield from _find_values(one, names, depth - 1)
    elif isinstance(body, Mapping):
        for name, value in body.items():
            if name in names and isinstance(value, str | int):
                yield value
            yield from _find_values(value, names, depth - 1)


def _find_codes(body: Any) -> list[str]:
    found = _find_values(body, ("code", "type", "status", "reason"))
    return [str(value)[:100] for value in islice(found, 20)]


def _find_quotas(body: Any) -> list[str]:
    """Google's names of the quotas that are used up, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier."""
    return [str(value)[:100] for value in islice(_find_values(body, ("quotaId",)), 20)]


def _passes_in_minutes(body: Any) -> bool:
    """True where Google names a quota that is back in minutes: its sentence is the same as for a day's."""
    quotas = " ".join(_find_quotas(body))
    return bool(quotas) and not A_DAY.search(quotas)


_IN_WORDS: Final = re.compile(
    r"(?:try again|retry)\s+(?:in|after)\s+((?:\d+(?:\.\d+)?\s*(?:ms|[hms]|sec\w*|min\w*|hour\w*)\s*)+)",
    re.IGNORECASE,
)
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|h|m(?!s)|s)", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def wait_asked_for(headers: Mapping[str, str], body: Any = None, said: str = "") -> float | None:
    """Seconds the server asks to wait: from a header, as number or date, or from its body; None if it does not say."""
    delay = next(_find_values(body, ("retryDelay",)), "")  # Google: "34.07s"
    in_words = _IN_WORDS.search(said)
    found = (
        _read_number(headers.get("retry-after-ms"), 0.001),
        _read_number(headers.get("retry-after")),
        _measure_until(headers.get("retry-after"), headers.get("date")),
        _read_length(str(delay)[:100]),
        _read_length(in_words[1]) if in_words else None,
        _measure_until_stamp(_read_number(headers.get("x-ratelimit-reset"))),
    )
    return next((min(max(0.0, wait), LONGEST_WAIT_TOLD) for wait in found if wait is not None), None)


def wait_in_words(seconds: float) -> str:
    """A wait that a server asks for."""
    return f"{seconds:.0f} s" if seconds < 1e6 else "more than ten days"


def _read_number(text: str | None, unit: float = 1.0) -> float | None:
    """A header's number; the largest, where the header comes several times."""
    try:
        value = max(float(one) for one in (text or "").split(",")) * unit
    except ValueError:
        return None
    return value if isfinite(value) else None


def _measure_until(date: str | None, now: str | None) -> float | None:
    """Until an HTTP date, by the server's own clock where it says the time."""
    try:
        moment = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError, OSError, TypeError):
        return None
    try:
        return moment - parsedate_to_datetime(now or "").timestamp()
    except (ValueError, OverflowError, OSError, TypeError):
        return moment - time.time()


def _measure_until_stamp(value: float | None) -> float | None:
    """Until a time in seconds or milliseconds since 1970; other numbers mean other things."""
    if value is None or value < 1e9:
        return None
    return (value / 1000 if value > 1e11 else value) - time.time()


def _read_length(text: str) -> float | None:
    parts = _LENGTH.findall(text)
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts) if parts else None
