"""One call to a server of chat completions: the body of its answer, and every failure sorted once."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.judges.failures import TransientError, failure_of, without_secrets

if TYPE_CHECKING:
    from openai import AsyncOpenAI


async def complete(connection: "AsyncOpenAI", body: Mapping[str, Any]) -> Any:
    """The JSON of the server's answer to one call; every failure is a TransientError, a PermanentError or JudgeDown."""
    import openai

    secrets = _secrets_of(connection)
    try:
        # As it came: the official client checks no field, and raises what it happens to meet.
        response = await connection.chat.completions.with_raw_response.create(**body)
    except openai.APIStatusError as error:
        refusal = error.response
        raise failure_of(body["model"], error.status_code, refusal.text, refusal.headers, secrets) from None
    except openai.APITimeoutError:
        raise TransientError(f"timeout: no reply in {connection.timeout:g} s") from None
    except openai.APIConnectionError as error:
        raise TransientError(f"no connection: {without_secrets(str(error.__cause__ or error), secrets)}") from None
    except openai.APIResponseValidationError:
        raise TransientError("a body that is no JSON") from None
    return parsed(response.content)


def parsed(data: bytes) -> Any:
    """The JSON of a body; TransientError where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        events = data.lstrip().startswith(b"data:")
        raise TransientError("a stream of events" if events else "a body that is no JSON") from None


def _secrets_of(connection: "AsyncOpenAI") -> tuple[str, ...]:
    """What a server may repeat and nobody may read: the key, and what stands for one in headers."""
    headers = {name.lower(): str(value) for name, value in connection.default_headers.items()}
    sent = [headers.get(name, "") for name in ("authorization", "api-key", "x-api-key")]
    return connection.api_key, *(word for text in sent for word in text.split())
