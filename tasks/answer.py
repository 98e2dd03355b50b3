"""An answer that a model failed to give, kept apart from an empty one."""


class FailedAnswer(str):
    """Stands where lm-eval wants a string; it is never scored and never judged, and the next run tries again."""

    __slots__ = ("error",)
    error: str

    def __new__(cls, error: str) -> "FailedAnswer":
        """Empty text, with the reason beside it."""
        answer = super().__new__(cls, "")
        answer.error = error
        return answer
