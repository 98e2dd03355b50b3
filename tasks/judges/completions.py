"""What a server of chat completions answers: the reply in it, and every failure sorted once."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tasks.judges.failures import PermanentError, TransientError, Usage, failure_of, without_secrets

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

Reader = Callable[["ChatCompletion", Usage | None], str]
"""Gives the reply in a completion; raises TransientError or PermanentError where it is none."""


async def complete(connection: "AsyncOpenAI", body: Mapping[str, Any]) -> "ChatCompletion":
    """The server's answer to one call; every failure is a TransientError, a PermanentError or JudgeDown."""
    import openai
    from openai.types.chat import ChatCompletion

    secrets = _secrets_of(connection)
    try:
        completion = await connection.chat.completions.create(**body)
    except openai.APIStatusError as error:
        response = error.response
        raise failure_of(body["model"], error.status_code, response.text, response.headers, secrets) from None
    except openai.APITimeoutError:
        raise TransientError(f"timeout: no reply in {connection.timeout:g} s") from None
    except openai.APIConnectionError as error:
        raise TransientError(f"no connection: {without_secrets(str(error.__cause__ or error), secrets)}") from None
    except (openai.APIResponseValidationError, json.JSONDecodeError):  # the latter the official client lets through
        raise TransientError("a body that is no JSON") from None
    if not isinstance(completion, ChatCompletion):  # it gives a text where a page of HTML came with status 200
        raise TransientError("a body that is no completion")
    return completion


def _secrets_of(connection: "AsyncOpenAI") -> tuple[str, ...]:
    """What a server may repeat and nobody may read: the key, and what stands for one in headers."""
    headers = {name.lower(): str(value) for name, value in connection.default_headers.items()}
    sent = [headers.get(name, "") for name in ("authorization", "api-key", "x-api-key")]
    return connection.api_key, *(word for text in sent for word in text.split())


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
