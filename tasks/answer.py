"""What a model gave for an answer: words, with what is known of them; or nothing, kept apart from an empty answer."""

from collections.abc import Mapping


class FailedAnswer(str):
    """Stands where lm-eval wants a string; it is never scored and never judged, and the next run tries again."""

    __slots__ = ("error", "may_pass")
    error: str
    may_pass: bool
    """Whether asking again can help."""

    def __new__(cls, error: str, *, may_pass: bool = False) -> "FailedAnswer":
        """Empty text, with the reason beside it."""
        answer = super().__new__(cls, "")
        answer.error, answer.may_pass = error, may_pass
        return answer


class Answer(str):
    """An answer's words, and beside them how they came about."""

    __slots__ = ("choices", "cut", "limited", "no_choices", "raw")
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
    """All that the model wrote, where that is more than its answer: with its thoughts."""

    def __new__(
        cls,
        text: str,
        *,
        cut: bool = False,
        choices: Mapping[str, float] | None = None,
        no_choices: str = "",
        limited: bool = False,
        raw: str | None = None,
    ) -> "Answer":
        """The text, with the rest beside it."""
        answer = super().__new__(cls, text)
        answer.cut, answer.limited, answer.raw = cut, limited, raw
        answer.choices, answer.no_choices = choices or {}, no_choices
        return answer


def without_leading_space(text: str) -> str:
    """An answer of a server, whose detokenizer goes on with the prompt, so that the first word of a SentencePiece model
    has its space before it; with what is known of it."""
    if isinstance(text, FailedAnswer) or not text.startswith(" "):
        return text
    known = {name: getattr(text, name, None) for name in Answer.__slots__}
    return Answer(text[1:], **{name: value for name, value in known.items() if value is not None})
