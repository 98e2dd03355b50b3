"""One call to a server of chat completions: the body of its answer, and every failure sorted once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from support.errors import JudgeDown
from tasks.judges.addresses import Server, proxy_of
from tasks.judges.bodies import read_json
from tasks.judges.failures import (
    NoReply,
    PermanentError,
    TransientError,
    failure_of,
    is_of_account,
    sentence_of,
    without_secrets,
)

if TYPE_CHECKING:
    from openai import APIConnectionError, APIError, AsyncOpenAI


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

    async def complete(self, connection: "AsyncOpenAI", body: Mapping[str, Any]) -> bytes:
        """The body of the server's answer to one call. TransientError, PermanentError, JudgeDown."""
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


async def complete(connection: "AsyncOpenAI", body: Mapping[str, Any]) -> bytes:
    """The body of the server's answer to one call; every failure is a TransientError, a PermanentError, Refused or
    JudgeDown."""
    import openai

    try:
        # As it came: the official client checks no field, and raises what it happens to meet.
        named = {name: body[name] for name in ("model", "messages")}
        more = {name: value for name, value in body.items() if name not in named}  # also what it has no name for
        response = await connection.chat.completions.with_raw_response.create(**named, extra_body=more)
    except openai.APIStatusError as error:
        refusal, status = error.response, error.status_code
        failure = failure_of(body["model"], status, refusal.text, refusal.headers)
        if status == 405 or (
            isinstance(failure, JudgeDown) and status in (400, 401, 403, 404) and not is_of_account(failure)
        ):
            said = str(failure).removeprefix(f"{body['model']}: ").removeprefix(f"status {status}: ")
            raise Refused(said, status) from None
        raise failure from None
    except openai.APITimeoutError:
        raise TransientError(f"timeout: no reply in {connection.timeout:g} s") from None
    except openai.APIConnectionError as error:
        raise _failure_of_network(error, connection) from None
    except openai.APIResponseValidationError:
        raise TransientError("a body that is no JSON", answered=True) from None
    if response.status_code == 206:
        raise TransientError("status 206: a part of a reply", answered=True)
    return bytes(response.content)


def _failure_of_network(error: "APIConnectionError", connection: "AsyncOpenAI") -> NoReply:
    """What it means that no whole answer came."""
    import httpx2

    from tasks.judges.http_client import RedirectRefused, UnreadableAnswer

    cause, words = error.__cause__, words_of(error)
    if isinstance(cause, RedirectRefused):
        return Refused(words, cause.status)
    if isinstance(cause, UnreadableAnswer):
        failure = PermanentError(words, refused=True)
        failure.paid = True  # whatever it was, it came in full
        return failure
    if isinstance(cause, httpx2.DecodingError):
        return TransientError(f"a body that can't be unpacked: {words}", answered=True)
    if isinstance(cause, httpx2.ReadError | httpx2.RemoteProtocolError | httpx2.WriteError):
        return TransientError(f"the connection to {connection.base_url} broke: {words}")
    by = f" (by the proxy {found})" if (found := proxy_of(str(connection.base_url))) else ""
    return TransientError(f"no connection to {connection.base_url}{by}: {words}")


def parsed(data: bytes) -> Any:
    """The JSON of a body; TransientError where it is none, PermanentError where it will be none next time."""
    if not data.strip():
        raise TransientError("an empty body")
    try:
        return read_json(data)
    except ValueError:
        if data.lstrip().startswith((b"data:", b"event:", b": ")):
            raise PermanentError("a stream of events, which was not asked for", refused=True) from None
        said = without_secrets(sentence_of(data[:10_000].decode("utf-8", "replace")))
        begun = data.lstrip()[:1] in (b"{", b"[")  # cut, or too deep: it may be a reply that is paid for
        raise TransientError(f"a body that is no JSON{said and ': ' + said}", answered=begun) from None


def words_of(error: "APIError") -> str:
    """What an error of the server or of the network says, without keys."""
    response = getattr(error, "response", None)  # of the server's own errors alone
    said = sentence_of(response.text) if response is not None else str(error.__cause__ or error)
    return without_secrets(said) or "no words of the server"
