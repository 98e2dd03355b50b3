"""What a server of chat completions answers: the reply in it, and every failure sorted once."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from support.errors import JudgeDown, one_line

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

Usage = tuple[int, int]
"""Tokens of a prompt and of its reply, as the server counts them."""
Reader = Callable[["ChatCompletion", Usage | None], str]
"""Gives the reply in a completion; raises TransientError or PermanentError where it is none."""


class NoReply(Exception):
    """A call gave no reply; `usage` is what it cost all the same."""

    def __init__(self, why: str, usage: Usage | None = None) -> None:
        super().__init__(why)
        self.why, self.usage = why, usage


class PermanentError(NoReply):
    """This question will never get a reply."""


class TransientError(NoReply):
    """Worth another try, after so many seconds if the server said; `limited`: it was asked too often."""

    def __init__(
        self, why: str, after: float | None = None, *, limited: bool = False, usage: Usage | None = None
    ) -> None:
        super().__init__(why, usage)
        self.after, self.limited = after, limited


async def complete(connection: "AsyncOpenAI", body: Mapping[str, Any]) -> "ChatCompletion":
    """The server's answer to one call; every failure is a TransientError, a PermanentError or JudgeDown."""
    import openai
    from openai.types.chat import ChatCompletion

    try:
        completion = await connection.chat.completions.create(**body)
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise JudgeDown(f"{body['model']}: {_server_message(error)}") from None
    except openai.RateLimitError as error:
        if error.code == "insufficient_quota":
            raise JudgeDown(f"{body['model']}: {_server_message(error)}") from None
        raise TransientError("too many requests", _retry_after(error.response.headers), limited=True) from None
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        why = "content filter" if error.code == "content_filter" else f"refused request: {_server_message(error)}"
        raise PermanentError(why) from None
    except openai.APIStatusError as error:
        if error.status_code in (408, 409) or error.status_code >= 500:
            raise TransientError(f"status {error.status_code}", _retry_after(error.response.headers)) from None
        raise PermanentError(f"status {error.status_code}") from None
    except openai.APITimeoutError:
        raise TransientError("timeout") from None
    except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
        raise TransientError(type(error).__name__) from None
    except json.JSONDecodeError:  # which the official client lets through
        raise TransientError("a body that is no JSON") from None
    if not isinstance(completion, ChatCompletion):  # it gives a text where a page of HTML came with status 200
        raise TransientError("a body that is no completion")
    return completion


def usage_of(completion: "ChatCompletion") -> Usage | None:
    """The tokens a call cost; None if the server did not say."""
    usage = completion.usage
    return None if usage is None else (usage.prompt_tokens, usage.completion_tokens)


def text_of(completion: "ChatCompletion", usage: Usage | None) -> str:
    """The reply in a completion. TransientError, PermanentError."""
    if not completion.choices or completion.choices[0].message is None:
        raise TransientError("no choices", usage=usage)
    choice = completion.choices[0]
    if choice.message.refusal:
        raise PermanentError("refusal", usage)
    if choice.finish_reason == "content_filter":
        raise PermanentError("content filter", usage)
    text = choice.message.content or ""
    if not text.strip():
        raise TransientError("no content", usage=usage)
    return text


def _server_message(error: Any) -> str:
    """The server's own sentence, on one line and not endless."""
    body = error.body if isinstance(error.body, Mapping) else {}
    return one_line(body.get("message") or type(error).__name__)[:300]


def _retry_after(headers: Any) -> float | None:
    """Seconds the server asks to wait, from either header it may say so in."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
    return None
