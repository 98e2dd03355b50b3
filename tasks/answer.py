"""What a model gave for an answer: words, with what is known of them; or nothing, kept apart from an empty answer.

stripped(" A\n")                       # Answer("A", raw=" A\n"): how a model's answer is read, local or served
with_words(answer, "A")                # other words; what is known beside them stays
"""

from collections.abc import Mapping
from typing import Any


class FailedAnswer(str):
    """Stands where lm-eval wants a string; it is never scored and never judged, and the next run tries again."""

    __slots__ = ("error", "may_pass", "raw", "reasoning")
    error: str
    may_pass: bool
    """Whether asking again can help."""
    raw: str | None
    """All that the model wrote, where it wrote something."""
    reasoning: str | None
    """Its thoughts, where it gave these alone."""

    def __new__(
        cls, error: str, *, may_pass: bool = False, raw: str | None = None, reasoning: str | None = None
    ) -> "FailedAnswer":
        """Empty text, with the reason beside it."""
        answer = super().__new__(cls, "")
        answer.error, answer.may_pass, answer.raw, answer.reasoning = error, may_pass, raw, reasoning
        return answer


class Answer(str):
    """An answer's words, and beside them how they came about."""

    __slots__ = ("choices", "cut", "limited", "no_choices", "raw", "reasoning")
    cut: bool
    """Whether the model was stopped because nothing more it could say would change what is read from its answer."""
    choices: Mapping[str, float]
    """Log-probability that the answer begins with each of a task's choices ("yes", "no"); empty where that was not
    asked for."""
    no_choices: str
    """Why there are none, where they were asked for."""
    limited: bool
    """Whether the limit of tokens ended it."""
    raw: str | None
    """All that the model wrote, where that is more than its answer: with its thoughts, and white space around it."""
    reasoning: str | None
    """Its thoughts, where it gave any: among what it wrote, or beside it."""

    def __new__(
        cls,
        text: str,
        *,
        cut: bool = False,
        choices: Mapping[str, float] | None = None,
        no_choices: str = "",
        limited: bool = False,
        raw: str | None = None,
        reasoning: str | None = None,
    ) -> "Answer":
        """The text, with the rest beside it."""
        answer = super().__new__(cls, text)
        answer.cut, answer.limited, answer.raw = cut, limited, raw
        answer.choices, answer.no_choices, answer.reasoning = choices or {}, no_choices, reasoning
        return answer


def with_words(answer: str, words: str, **known: Any) -> Answer:
    """An answer of other words, with what is known of the first one, and with `known`."""
    before = {name: getattr(answer, name) for name in Answer.__slots__ if hasattr(answer, name)}
    return Answer(words, **before | known)


def stripped(answer: str) -> str:
    """A model's answer as official pipelines score it: without white space around it (LLaVA's model_vqa_loader.py and
    model_vqa_science.py strip what they decode). The text as it was stays as `raw`.

    For answers that a model has just given; files of answers are scored as they are.
    """
    words = str(answer).strip()
    if isinstance(answer, FailedAnswer) or words == answer:
        return answer
    raw = getattr(answer, "raw", None)
    return with_words(answer, words, raw=str(answer) if raw is None else raw)
