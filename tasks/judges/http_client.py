"""The HTTP client under the official one: what an answer may take of time and memory, and where a call may be sent on.

    client = LimitedClient(timeout=120.0, largest=LARGEST_REPLY)

One limit of time holds for a whole call, redirects and the last byte included: else a server that sends a byte now and
then would never be given up. An answer is read up to a size, as it comes and unpacked. A redirect is followed to the
same server alone (or from http to https there), since a call carries a key and what is asked; to another only where
that was named, and then without the key.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import httpx2

LARGEST_REPLY: Final = 4 * 2**20
"""Bytes: no model writes a million tokens."""
LARGEST_REFUSAL: Final = 64 * 2**10
"""Bytes that are read of an answer without a reply, for its words; the rest is left."""
MOST_REDIRECTS: Final = 5
_CODINGS: Final = ("", "identity", "gzip", "deflate")
"""Of an answer, one at a time: a second one could unpack into no bytes at all, without end."""
_NOT_AS_SENT: Final = ("content-encoding", "content-length", "transfer-encoding", "content-type")
_SENT_ON: Final = ("accept", "content-type", "content-length", "transfer-encoding", "user-agent")
"""Headers that another server is sent, too: none that holds a key."""
_KEPT_METHOD: Final = (301, 302, 307, 308)
_PORTS: Final = {"http": 80, "https": 443}


class UnreadableAnswer(httpx2.RequestError):
    """The answer is too large, or packed in a way that was not asked for: the same call would bring the same."""


class RedirectRefused(httpx2.RequestError):
    """The server sends the call on to where it is not sent."""

    def __init__(self, message: str, *, request: httpx2.Request, status: int) -> None:
        super().__init__(message, request=request)
        self.status = status


class LimitedClient(httpx2.AsyncClient):
    """See the module's docstring. `timeout` in seconds (that of a single request, where it has one, holds for all of
    that request); `largest` in bytes; `redirects_to` names hosts, or HOST:PORT; `left_out` headers that are not sent.
    """

    def __init__(
        self,
        *,
        timeout: float,
        largest: int,
        redirects_to: Collection[str] = (),
        left_out: Collection[str] = (),
        **given: Any,
    ) -> None:
        super().__init__(timeout=timeout, limits=httpx2.Limits(max_connections=1000), **given)
        self.largest, self.redirects_to = largest, frozenset(host.lower() for host in redirects_to)
        self.left_out = tuple(left_out)
        self.headers["accept-encoding"] = "gzip"

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: Any = httpx2.USE_CLIENT_DEFAULT,
        follow_redirects: Any = httpx2.USE_CLIENT_DEFAULT,
    ) -> httpx2.Response:
        """The whole answer, whatever `stream` and `follow_redirects` say. RequestError."""
        for name in self.left_out:
            request.headers.pop(name, None)
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(seconds):
                return await self._send_whole(request, auth)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no whole answer in {seconds:g} s", request=request) from None

    async def _send_whole(self, request: httpx2.Request, auth: Any) -> httpx2.Response:
        asked = request
        for _ in range(MOST_REDIRECTS + 1):
            response = await super().send(request, stream=True, auth=auth, follow_redirects=False)
            try:
                if not response.has_redirect_location:
                    return await self._read(response, asked)
                request = self._send_on(request, response)
            finally:
                await response.aclose()
        words = f"redirects more than {MOST_REDIRECTS} times, at last to {shown(request.url)}"
        raise RedirectRefused(words, request=request, status=response.status_code)

    def _send_on(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Request:
        """The request at the place that a redirect names; RedirectRefused where it is not sent there."""

        def refuse(why: str) -> RedirectRefused:
            return RedirectRefused(why, request=request, status=response.status_code)

        try:
            target = request.url.join(response.headers["location"]).copy_with(userinfo=b"", fragment=None)
        except (httpx2.InvalidURL, ValueError, TypeError):
            raise refuse("redirects to an address that can't be read") from None
        if response.status_code not in _KEPT_METHOD and request.method != "GET":
            raise refuse(f"redirects to {shown(target)} without what was asked: not followed")
        headers = httpx2.Headers(request.headers)
        if not _is_same_server(request.url, target):
            if not {target.host, f"{target.host}:{_port_of(target)}"} & self.redirects_to:
                raise refuse(f"redirects to another server, {shown(target)}: not followed")
            headers = httpx2.Headers({name: headers[name] for name in _SENT_ON if name in headers})
        if request.url.scheme == "https" != target.scheme:
            raise refuse(f"redirects to {shown(target)}, which is not encrypted: not followed")
        headers["host"] = target.netloc.decode("ascii")
        return httpx2.Request(
            request.method, target, headers=headers, stream=request.stream, extensions=request.extensions
        )

    async def _read(self, response: httpx2.Response, asked: httpx2.Request) -> httpx2.Response:
        """The answer to a request, with all of its body unpacked; of one without success, as much as has its words."""
        coding = response.headers.get("content-encoding", "").strip().lower()
        if coding not in _CODINGS and response.is_success:
            words = f"a body packed as {coding[:40]!r}, which was not asked for"
            raise UnreadableAnswer(words, request=response.request)
        largest = self.largest if response.is_success else LARGEST_REFUSAL
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes() if coding in _CODINGS else response.aiter_raw():
            parts.append(part)
            size += len(part)
            if max(size, response.num_bytes_downloaded) > largest:
                if response.is_success:
                    words = f"a body of more than {largest / 2**20:g} MiB"
                    raise UnreadableAnswer(words, request=response.request)
                break
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _NOT_AS_SENT]
        # Without its charset, which may name any codec of Python's.
        kind = response.headers.get("content-type", "application/json").partition(";")[0]
        return httpx2.Response(
            response.status_code,
            headers=[*headers, ("content-type", kind)],
            content=b"".join(parts),
            request=asked,
        )


def shown(url: httpx2.URL) -> str:
    """An address without what may be a secret in it, not endless."""
    text = str(url.copy_with(userinfo=b"", query=None, fragment=None))
    return text if len(text) <= 200 else text[:196] + " ..."


def _port_of(url: httpx2.URL) -> int | None:
    return url.port or _PORTS.get(url.scheme)


def _is_same_server(url: httpx2.URL, target: httpx2.URL) -> bool:
    """The same host and port; or https there, in place of http."""
    if not target.host or target.host != url.host:
        return False
    if target.scheme == url.scheme:
        return _port_of(target) == _port_of(url)
    return (url.scheme, target.scheme) == ("http", "https") and _port_of(target) in (443, url.port)
