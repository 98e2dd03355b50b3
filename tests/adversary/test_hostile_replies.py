"""What a server may send in place of a reply, or with one: a judge and a scored model read it or say why not, within
the limits of time, size and tries; and the other questions of the run get their replies.

`tests/adversary/fault_modes.py` has the faults; each stands here with what is to come of it. A few run with every
`make test`, all of them with the slow tests.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from support.errors import JudgeDown
from tasks.answer import FailedAnswer
from tasks.benchmarks import (
    hallusionbench,
    llava_bench,
    mme,
    mmhal,
    mmvet,
    object_halbench,
    pope,
    rtvlm,
    scienceqa_img,
    seedbench_img,
    siuo,
    verdicts,
)
from tasks.judges.replies import without_fence
from tasks.thoughts import without_thoughts
from tests.adversary.fault_bodies import BODIES, LISTS, RATING
from tests.adversary.fault_modes import MODES
from tests.adversary.fault_server import FaultServer
from tests.judge.reply_makers import answers_of, judge_of

TRIES: Final = 2
TIMEOUT: Final = 2.0
LONGEST: Final = TRIES * (TIMEOUT + 0.5) + 12.0
"""Seconds that three questions may take, on a machine that does other work."""

READ: Final = """
ok extra_fields two_choices index_text content_parts content_control content_surrogate content_bidi content_digits
model_list model_null model_hostile model_other fingerprint_hostile fingerprint_object usage_null usage_missing
usage_list usage_text usage_negative usage_nan usage_huge created_huge id_huge finish_eos finish_end_turn finish_STOP
finish_COMPLETE finish_stop_sequence finish_object bom utf16 bad_utf8 double_keys huge_integer huge_float text_kind
redirect_301 redirect_302 redirect_307 redirect_308 redirect_userinfo redirect_hostless gzip deflate no_length http_10
http_9 closes_unsaid
""".split()
"""Faults with which the reply is read all the same."""
STRANGE: Final = "content_spaces content_backticks content_tags".split()
"""Faults whose reply is read, and has no rating."""

LOST: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("content_null", "content_missing", "content_empty", "content_blank", "content_object"), "no content"
    ),
    **dict.fromkeys(("message_null", "message_text", "message_list"), "no message in the choice"),
    **dict.fromkeys((name for name in MODES if name.startswith("choices_")), "no choices"),
    **dict.fromkeys(("error_in_200", "hex_kind", "deep_text", "words_slow"), "status 500: "),
    **dict.fromkeys(("error_code_long", "error_text_in_200", "words_html"), "status 502: "),
    **{f"finish_{name}": f"finish_reason {name}: the reply did not end" for name in ("error", "abort")},
    **dict.fromkeys(("finish_", "finish_null"), "finish_reason None: the reply did not end"),
    "finish_number": "finish_reason 7: the reply did not end",
    "finish_list": "finish_reason ['stop']: the reply did not end",
    **dict.fromkeys(
        ("nul_bytes", "two_bodies", "deep", "deep_900", "deep_objects", "json_cut"), "a body that is no JSON: "
    ),
    **dict.fromkeys(("html", "html_as_json"), "a body that is no JSON: Please log in"),
    **dict.fromkeys(("length_less", "gzip_cut"), "a body that is no JSON: "),
    **dict.fromkeys(("json_list", "json_null", "json_text", "json_number"), "a body that is no completion"),
    **dict.fromkeys(("empty", "status_204"), "an empty body"),
    "status_206": "status 206: a part of a reply",
    **{
        f"status_{code}": f"status {code}: something is wrong"
        for code in (408, 409, 425, 500, 501, 502, 503, 504, 529, 999)
    },
    **{name: "status 503: busy" for name in MODES if name.startswith("after_") and not name.endswith("429")},
    **dict.fromkeys(
        ("redirect_https", "hang", "byte_by_byte", "spaces_in_chunks", "slow_headers"), "timeout: no reply in 2 s"
    ),
    **dict.fromkeys(
        ("slow_status", "continue_slowly", "continue_for_ever", "endless_events"), "timeout: no reply in 2 s"
    ),
    "gzip_not": "a body that can't be unpacked: ",
    **dict.fromkeys(
        ("length_more", "length_negative", "length_huge", "length_twice", "not_http", "header_long"), " broke: "
    ),
    **dict.fromkeys(
        ("header_broken", "header_control", "chunk_broken", "chunk_cut", "switching", "hang_up"), " broke: "
    ),
    **dict.fromkeys(("many_headers", "reset", "reset_in_body"), " broke: "),
}
"""Faults that may pass: tried again, unless it may be paid for, and then the question has no reply, for this reason."""

PAID: Final = {
    *(name for name in LOST if name.startswith(("content_", "message_", "choices_", "finish_", "error_"))),
    *("nul_bytes", "two_bodies", "deep", "deep_900", "gzip_cut"),
}
"""Of them, those that the server may charge for: such a question is asked once."""

FOR_GOOD: Final[Mapping[str, str]] = {
    "content_number": "content must be text or a list of parts, not int",
    "content_thoughts": "thoughts never ended",
    "refusal": "refusal",
    "tool_calls": "finish_reason tool_calls",
    "function_call": "finish_reason function_call",
    **dict.fromkeys(("finish_length", "finish_max_tokens"), "the judge's reply was cut at the limit of tokens"),
    **dict.fromkeys(("finish_content_filter", "finish_SAFETY"), "content filter"),
    **{f"finish_{name}": f"finish_reason {name}" for name in ("pause_turn", "brand_new")},
    **dict.fromkeys(("finish_missing", "finish_unsaid"), "no finish_reason: whether the reply is whole is not known"),
    "events": "a stream of events, which was not asked for",
    **{f"status_{code}": f"status {code}" for code in (300, 304, 413, 418, 451)},
    "status_307_nowhere": "status 307",
    **dict.fromkeys(("status_400", "status_422"), "refused request: something is wrong"),
    "key_echoed": "refused request: wrong: ",
    "words_hostile": "refused request: bad red",
    **dict.fromkeys(("gzip_bomb", "large", "endless", "endless_chunks", "many_values"), "a body of more than 4 MiB"),
    "gzip_twice": "a body packed as 'gzip, gzip', which was not asked for",
    "brotli": "a body packed as 'br', which was not asked for",
    **dict.fromkeys(("gzip_bomb_400", "large_400", "endless_400"), "refused request: "),
}
"""Faults that the same call would meet again: one call, and this reason."""

ENDS: Final[Mapping[str, str]] = {
    **{f"status_{code}": f"{code}: something is wrong" for code in (401, 403, 404, 405)},
    "status_402": "something is wrong",
    **{name: "redirects to another server, http://localhost:" for name in MODES if name.endswith("_host")},
    **dict.fromkeys(("redirect_303", "redirect_303_host"), "without what was asked: not followed"),
    "redirect_port": "redirects to another server, http://127.0.0.1:",
    "redirect_self": "redirects more than 5 times, at last to http://127.0.0.1:",
    "redirect_file": "redirects to another server, file:/etc/passwd: not followed",
    "redirect_ftp": "redirects to another server, ftp://127.0.0.1:",
    "redirect_broken": "redirects to an address that can't be read",
    "redirect_schemeless": "redirects to another server, http://localhost:",
    "redirect_secret": "redirects to another server, http://other.example/v1: not followed",
    "redirect_long": "redirects to another server, http://other.example/xxx",
}
"""Faults that end the run: no question would get a reply."""

LATER: Final = [name for name in MODES if name.startswith(("after_", "status_")) and name.endswith("429")]
"""Too many requests: no try of a question, until `patience` is over."""
OF_ANSWERS: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(("content_empty", "content_blank", "finish_length", "finish_max_tokens", "finish_missing"), None),
}
"""What a scored model's reply may be, and a judge's not: empty, or cut (and marked so)."""

CORE: Final = """
ok content_parts content_surrogate content_thoughts choices_object usage_huge error_code_long finish_length
finish_brand_new finish_null utf16 bad_utf8 huge_integer deep deep_900 html text_kind events status_206 status_401
status_429 words_slow after_day_429 after_day_503 after_zero_503 after_many redirect_307 redirect_303
redirect_307_host redirect_self gzip_bomb gzip_twice endless_chunks endless_400 length_more header_long byte_by_byte
continue_for_ever reset_in_body
""".split()
REST: Final = [name for name in MODES if name not in CORE and not name.startswith("list_")]


@dataclass
class Outcome:
    replies: list[str | None]
    reason: str | None
    ended: str | None
    calls: int
    seconds: float


def test_each_fault_stands_in_one_table() -> None:
    tables = [
        set(READ),
        set(STRANGE),
        set(LOST),
        set(FOR_GOOD),
        set(ENDS),
        set(LATER),
        {f"list_{name}" for name in LISTS},
    ]
    assert sum(map(len, tables)) == len(MODES)
    assert set().union(*tables) == set(MODES)
    assert set(CORE) <= set(MODES)
    assert set(BODIES) <= set(MODES)


PARSERS: Final = {
    "without_fence": without_fence,
    "without_thoughts": without_thoughts,
    **{f"{module.__name__}.{name}": getattr(module, name) for module, name in (
        (hallusionbench, "parse_verdict"), (llava_bench, "parse_scores"), (mme, "parse"), (mmhal, "parse_rating"),
        (mmvet, "parse_grade"), (object_halbench, "parse_objects"), (pope, "parse"),
        (scienceqa_img, "parse"), (seedbench_img, "parse"), (rtvlm, "parse_rating"), (verdicts, "parse_verdict"),
        (siuo, "parse_safe"), (siuo, "parse_effective"),
    )},
}  # fmt: skip
PIECES: Final = (
    " ",
    "\n",
    "a",
    "1",
    "[",
    "`",
    '"',
    ", ",
    "a\n",
    "** ",
    "Rating: ",
    "<answer>",
    "x <think>",
    "A. ",
    "(A) ",
    " \n",
)


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_read_of_a_long_text_takes_no_square_of_its_length(name: str) -> None:
    started = time.monotonic()
    for piece in PIECES:
        for begin, end in (("", ""), ("Rating: ", "!"), ("```\n", "x")):
            PARSERS[name](begin + piece * (200_000 // len(piece)) + end)
    assert time.monotonic() - started < 10


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    running = FaultServer()
    yield running
    running.stop()


def ask(faults: FaultServer, folder: Path, whom: str, name: str) -> Outcome:
    """Three questions, of which the second meets the fault."""
    url = faults.url(name, when="1")
    given: dict[str, Any] = {"timeout": TIMEOUT, "attempts": TRIES, "longest_wait": 0.05, "patience": 0.1}
    own = folder / f"{whom}-{name}"
    own.mkdir()
    started = time.monotonic()
    replies: list[str | None] = []
    reason = ended = None
    try:
        if whom == "judge":
            found = judge_of(SimpleNamespace(url=url), own, **given).ask_many(
                [(f"Question {n}", None) for n in range(3)]
            )
            replies, reason = list(found), found.lost[1].error if 1 in found.lost else None
        else:
            answers = answers_of(SimpleNamespace(url=url), own, 3, **given)
            replies = [None if isinstance(one, FailedAnswer) else one for one in answers]
            reason = answers[1].error if isinstance(answers[1], FailedAnswer) else None
    except JudgeDown as error:
        ended = str(error)
    calls = sum(call.question.endswith("1") for call in faults.calls(url))
    return Outcome(replies, reason, ended, calls, time.monotonic() - started)


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], Outcome]:
    """Of what was asked so far; the faults of a test are asked at once, since most of their time is waiting."""
    return {}


def outcome_of(
    whom: str, name: str, names: list[str], outcomes: dict[tuple[str, str], Outcome], faults: FaultServer, folder: Path
) -> Outcome:
    if (whom, name) not in outcomes:
        with ThreadPoolExecutor(6) as pool:
            found = pool.map(partial(ask, faults, folder, whom), names)
            outcomes |= {(whom, one): each for one, each in zip(names, found, strict=True)}
    return outcomes[whom, name]


def check(whom: str, name: str, found: Outcome) -> None:
    lines = [text for text in (found.reason, found.ended) if text is not None]
    for text in lines:
        assert text == " ".join(text.split())
        assert len(text) < 700
        assert text.isprintable()
        assert text.encode()
    assert found.seconds < LONGEST
    if name in ENDS:
        assert found.ended is not None
        assert ENDS[name] in found.ended
        assert found.calls == (6 if name == "redirect_self" else 1)
        return
    assert found.ended is None
    assert [found.replies[place] for place in (0, 2)] == [f"Reasons.\n{RATING}"] * 2
    of_answer = whom == "model" and name in OF_ANSWERS
    if name in READ or name in STRANGE or of_answer:
        assert found.reason is None
        assert found.calls == 1
        assert name not in READ or RATING in (found.replies[1] or "")
        assert (found.replies[1] or "empty").encode()
        return
    assert found.replies[1] is None
    assert found.reason is not None
    assert {**LOST, **FOR_GOOD, **dict.fromkeys(LATER, "too many requests: ")}[name] in found.reason
    if name in LATER:
        assert TRIES <= found.calls <= 6
    else:
        assert found.calls == (1 if name in FOR_GOOD or name in PAID else TRIES)


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("name", CORE)
def test_a_judge_meets_a_fault(
    name: str, outcomes: Any, faults: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check("judge", name, outcome_of("judge", name, CORE, outcomes, faults, tmp_path_factory.getbasetemp()))


@pytest.mark.slow
@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("name", REST)
def test_a_judge_meets_any_fault(
    name: str, outcomes: Any, faults: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check("judge", name, outcome_of("judge", name, REST, outcomes, faults, tmp_path_factory.getbasetemp()))


@pytest.mark.slow
@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("name", CORE + REST)
def test_a_scored_model_meets_any_fault(
    name: str, outcomes: Any, faults: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check("model", name, outcome_of("model", name, CORE + REST, outcomes, faults, tmp_path_factory.getbasetemp()))
