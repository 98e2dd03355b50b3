"""One call to a server of chat completions: the body of its answer, and every failure sorted once."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from support.errors import JudgeDown
from tasks.judges.addresses import Server
from tasks.judges.failures import NoReply, TransientError, failure_of, is_of_account, sentence_of, without_secrets

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI


class Refused(NoReply):
    """The server takes no call as it is sent: the address (404), or the key; `why` is its own sentence."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


class Route:
    """The way to a server. Whether its address has /v1, where that was left open, the first call finds out."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tried: Server | None = None
        """The address that was not there."""

    async def complete(self, connection: "AsyncOpenAI", body: Mapping[str, Any]) -> Any:
        """The JSON of the server's answer to one call. TransientError, PermanentError, JudgeDown."""
        while True:
            server = self.server
            try:
                asked = connection if self.tried is None else connection.with_options(base_url=server.url)
                return await complete(asked, body)
            except Refused as error:
                not_there = error.status in (404, 405)
                if not_there and server.other is not None and "model" not in error.why.lower():
                    if self.server is server:  # of the calls on their way, one changes it
                        self.server, self.tried = replace(server, url=server.other, other=None), server
                    continue
                tried = f"{self.tried.refusal(404, 'not there')}; " if self.tried and not_there else ""
                raise JudgeDown(f"{body['model']}: {tried}{server.refusal(error.status, error.why)}") from None


async def complete(connection: "AsyncOpenAI", body: Mapping[str, Any]) -> Any:
    """The JSON of the server's answer to one call; every failure is a TransientError, a PermanentError, Refused or
    JudgeDown."""
    import openai

    secrets = _secrets_of(connection)
    try:
        # As it came: the official client checks no field, and raises what it happens to meet.
        response = await connection.chat.completions.with_raw_response.create(**body)
    except openai.APIStatusError as error:
        refusal, status = error.response, error.status_code
        failure = failure_of(body["model"], status, refusal.text, refusal.headers, secrets)
        if status == 405 or (
            isinstance(failure, JudgeDown) and status in (400, 401, 403, 404) and not is_of_account(failure)
        ):
            said = str(failure).removeprefix(f"{body['model']}: ").removeprefix(f"status {status}: ")
            raise Refused(said, status) from None
        raise failure from None
    except openai.APITimeoutError:
        raise TransientError(f"timeout: no reply in {connection.timeout:g} s") from None
    except openai.APIConnectionError as error:
        raise TransientError(f"no connection to {connection.base_url}: {words_of(error, connection)}") from None
    except openai.APIResponseValidationError:
        raise TransientError("a body that is no JSON") from None
    return parsed(response.content)


def parsed(data: bytes) -> Any:
    """The JSON of a body; TransientError where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        events = data.lstrip().startswith(b"data:")
        said = "" if events else without_secrets(sentence_of(data[:10_000].decode("utf-8", "replace")))
        what = "a stream of events" if events else "a body that is no JSON"
        raise TransientError(f"{what}{said and ': ' + said}") from None


def words_of(error: "APIError", connection: "AsyncOpenAI") -> str:
    """What an error of the server or of the network says, without keys."""
    response = getattr(error, "response", None)  # of the server's own errors alone
    said = sentence_of(response.text) if response is not None else str(error.__cause__ or error)
    return without_secrets(said, _secrets_of(connection)) or "no words of the server"


def _secrets_of(connection: "AsyncOpenAI") -> tuple[str, ...]:
    """What a server may repeat and nobody may read: the key, and what stands for one in headers."""
    headers = {name.lower(): str(value) for name, value in connection.default_headers.items()}
    sent = [headers.get(name, "") for name in ("authorization", "api-key", "x-api-key")]
    return connection.api_key, *(word for text in sent for word in text.split())
