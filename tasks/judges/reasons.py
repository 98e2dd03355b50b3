"""Why samples and questions got nothing: reasons of one kind together, with their count and one example.

list_reasons([("17", "status 500: overloaded"), ("3", "content filter"), ("9", "content filter")])
grouped(["content filter"] * 2, ["3", "9"])     # "content filter (2, such as 3)"
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from support.errors import one_line

_NUMBERED: Final = re.compile(r"(?<!\S)(?<!status )\S*\d\S*")
MOST_REASONS: Final = 4
"""Kinds of reasons in one line."""
LONGEST_QUOTE: Final = 160
"""Characters of a reply in a message."""
LONGEST_NAME: Final = 60
"""Characters of an example's name."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Samples or questions that got nothing for one kind of reason."""

    reason: str
    """In the words of the first of them."""
    count: int
    example: str = ""
    """What the first one is known by: a sample's id, a question's key; empty: not known."""


def quote_reply(text: str) -> str:
    """The beginning of a reply in quotes, on one line, for a message."""
    shown = " ".join(text.split())
    return json.dumps(shown if len(shown) <= LONGEST_QUOTE else f"{shown[: LONGEST_QUOTE - 4]} ...", ensure_ascii=False)


def kind_of(reason: str) -> str:
    """Reasons that differ in numbers alone (tokens asked for, ids of requests; not the status) are one kind."""
    return _NUMBERED.sub("#", reason)


def list_reasons(lost: Iterable[tuple[str, str]]) -> list[Reason]:
    """The kinds of reasons, the most frequent first, of names and reasons of what got nothing."""
    found: dict[str, Reason] = {}
    for name, reason in lost:
        kind = kind_of(reason)
        before = found.get(kind, Reason(reason=reason, count=0, example=one_line(name)[:LONGEST_NAME]))
        found[kind] = replace(before, count=before.count + 1)
    return sorted(found.values(), key=lambda one: -one.count)


def grouped(reasons: Iterable[str], names: Sequence[str] = ()) -> str:
    """Such as "content filter (12, such as v1_3), status 500: overloaded (2, such as v1_9)"; `names`: what each reason
    is of, if that is known."""
    reasons = list(reasons)
    return reasons_in_words(list_reasons(zip(names or [""] * len(reasons), reasons, strict=True)))


def reasons_in_words(reasons: Sequence[Reason]) -> str:
    """The reasons in one line, see `grouped`."""
    shown = [
        f"{one.reason} ({one.count}{one.example and f', such as {one.example}'})" for one in reasons[:MOST_REASONS]
    ]
    rest = sum(one.count for one in reasons[MOST_REASONS:])
    return ", ".join([*shown, *([f"other reasons ({rest})"] if rest else [])])
