"""All the ways in which a server of chat completions may be broken or hostile, that were seen or thought of.

`MODES` has them by name: each answers one call, on the bare connection, so that it can break each rule of HTTP.
`RATING` is in each whole reply.
"""

import asyncio
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.adversary.fault_bodies import BODIES, LISTS, RATING

BOMB: Final[bytes] = gzip.compress(b'{"a":"' + b"0" * (1 << 28) + b'"}', 9)
"""A quarter of a gigabyte, packed."""
ENDLESS: Final = 600.0
"""Seconds for which a mode without an end goes on."""


@dataclass
class Call:
    """One request."""

    mode: str
    path: str
    method: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    port: int
    faulty: bool = False
    sent: int = field(default=0)
    """Bytes that were sent back."""

    @property
    def question(self) -> str:
        content = self.body["messages"][-1]["content"] if self.body.get("messages") else ""
        return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


class Wire:
    """What a mode writes to."""

    def __init__(self, call: Call, writer: asyncio.StreamWriter) -> None:
        self.call, self.writer = call, writer

    async def send(self, data: bytes) -> None:
        self.call.sent += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: Iterator[bytes], pause: float = 0.05) -> None:
        """Send piece by piece."""
        for piece in data:
            await self.send(piece)
            await asyncio.sleep(pause)

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Mode = Callable[[Call, Wire], Awaitable[None]]


def completion(call: Call, **over: Any) -> dict[str, Any]:
    """A whole reply; `over` replaces fields of its choice ("content", "finish_reason", ...) or of the body."""
    message: dict[str, Any] = {"role": "assistant", "content": f"Reasons.\n{RATING}"}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": call.body.get("model", "m")}
    body |= {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}}
    for name, value in over.items():
        place = message if name in ("content", "tool_calls", "function_call", "refusal") else body
        place = choice if name in ("finish_reason", "message", "index") else place
        place[name] = value
        if value is ...:
            del place[name]
    return body


def models(call: Call) -> dict[str, Any]:
    listed = {"id": "m", "object": "model", "created": 1_700_000_000, "root": "org/m", "owned_by": "x"}
    return {"object": "list", "data": [listed]}


def whole(call: Call, **over: Any) -> bytes:
    """The body of a right answer."""
    if call.path.endswith("/models"):
        return json.dumps(models(call) | {name: value for name, value in over.items() if value is not ...}).encode()
    return json.dumps(completion(call, **over)).encode()


def http(body: bytes | str, status: str = "200 OK", *headers: str, length: int | None = -1) -> bytes:
    """An answer; `length` -1 tells its length, None does not."""
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    told = [] if length is None else [f"Content-Length: {len(data) if length == -1 else length}"]
    kind = (
        [] if any(line.lower().startswith("content-type") for line in headers) else ["Content-Type: application/json"]
    )
    head = [f"HTTP/1.1 {status}", *kind, "Connection: close", *told, *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + data


def error(message: str = "something is wrong", **more: Any) -> str:
    return json.dumps({"error": {"message": message, **more}})


def tail(call: Call) -> str:
    return "/models" if call.path.endswith("/models") else "/chat/completions"


def redirect(call: Call, status: int, target: str) -> bytes:
    return http(b"", f"{status} R", f"Location: {target}")


def make_redirect(status: int, host: str) -> Callable[[Call], bytes]:
    """To the same path of the mode "ok"; at another `host`, if one is given."""
    return lambda call: redirect(call, status, f"{host}:{call.port}" * bool(host) + f"/ok/v1{tail(call)}")


def make_body(over: Mapping[str, Any]) -> Callable[[Call], bytes]:
    return lambda call: http(whole(call, **over))


def make_error(status: int, body: str, *headers: str) -> Callable[[Call], bytes]:
    return lambda call: http(body, f"{status} X", *headers)


MODES: Final[dict[str, Mode]] = {}


def raw(name: str, make: Callable[[Call], bytes]) -> None:
    """A mode that sends these bytes and hangs up."""

    async def answer(call: Call, wire: Wire) -> None:
        await wire.send(make(call))

    MODES[name] = answer


def mode(answer: Mode) -> Mode:
    MODES[answer.__name__] = answer
    return answer


# --- What a body may hold, and a list of models.
for _name, _over in BODIES.items():
    raw(_name, make_body(_over))
for _name, _data in LISTS.items():
    raw(f"list_{_name}", make_body({"data": _data}))

# --- What stands in place of JSON, or around it.
raw("bom", lambda call: http(b"\xef\xbb\xbf" + whole(call)))
raw("utf16", lambda call: http(whole(call).decode().encode("utf-16")))
raw("bad_utf8", lambda call: http(whole(call).replace(b"Reasons", b"Rea\xff\xfesons")))
raw("nul_bytes", lambda call: http(b"\x00" * 1000 + whole(call)))
raw("two_bodies", lambda call: http(whole(call) * 2))
raw("double_keys", lambda call: http(b'{"choices": [], ' + whole(call)[1:]))
raw("huge_integer", lambda call: http(b'{"x": ' + b"9" * 2_000_000 + b", " + whole(call)[1:]))
raw("huge_float", lambda call: http(b'{"x": 1e999999, "y": -1e999999, "z": NaN, ' + whole(call)[1:]))
raw("deep", lambda call: http(b'{"x": ' + b"[" * 500_000 + b"]" * 500_000 + b", " + whole(call)[1:]))
raw("deep_900", lambda call: http(b'{"x": ' + b"[" * 900 + b"]" * 900 + b", " + whole(call)[1:]))
raw("deep_objects", lambda call: http(b'{"a":' * 900 + b"1" + b"}" * 900))
raw("deep_text", lambda call: http(error('["' * 900), "500 X"))
raw("json_list", lambda call: http(b"[1, 2, 3]"))
raw("json_null", lambda call: http(b"null"))
raw("json_text", lambda call: http(b'"Rating: 4"'))
raw("json_number", lambda call: http(b"4"))
raw("json_cut", lambda call: http(whole(call)[:60]))
raw("many_values", lambda call: http(b"[" + b"[]," * 2_000_000 + b"0]"))
raw("empty", lambda call: http(b""))
raw(
    "html", lambda call: http("<html><body>Please log in. Rating: 6</body></html>", "200 OK", "Content-Type: text/html")
)
raw("html_as_json", lambda call: http("<html><body>Please log in. Rating: 6</body></html>"))
raw("text_kind", lambda call: http(whole(call), "200 OK", "Content-Type: text/plain; charset=zlib"))
raw("hex_kind", lambda call: http(error("hexed"), "500 X", "Content-Type: text/plain; charset=hex"))
raw(
    "events",
    lambda call: http(b"data: " + whole(call) + b"\n\ndata: [DONE]\n\n", "200 OK", "Content-Type: text/event-stream"),
)
raw("status_204", lambda call: http(b"", "204 No Content", length=None))
raw("status_206", lambda call: http(whole(call), "206 Partial", "Content-Range: bytes 0-9/99"))
raw("status_300", lambda call: http(b"", "300 Many"))
raw("status_304", lambda call: http(b"", "304 Same", length=None))
raw("status_307_nowhere", lambda call: http(b"", "307 R"))
for _status in (
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    413,
    418,
    422,
    425,
    429,
    451,
    500,
    501,
    502,
    503,
    504,
    529,
    999,
):
    raw(f"status_{_status}", make_error(_status, error()))
raw("key_echoed", lambda call: http(error(f"wrong: {call.headers.get('authorization')}"), "400 X"))
raw(
    "words_hostile",
    lambda call: http(error("bad \x1b[31mred\x1b]0;x\x07 \u202ertl\n::error::x " + "y" * 99_999), "400 X"),
)
raw("words_slow", lambda call: http("<script " * 100_000, "500 X", "Content-Type: text/html"))
raw("words_html", lambda call: http("<title>502</title>nginx", "502 X", "Content-Type: text/html"))

# --- When to come back.
for _name, _header in {
    "zero": "0", "negative": "-5", "nan": "nan", "inf": "inf", "garbage": "soon", "hour": "3600", "day": "86400",
    "huge": "1e300", "digits": "9" * 5000, "past": "Wed, 21 Oct 2015 07:28:00 GMT",
    "date": "Wed, 21 Oct 2099 07:28:00 GMT",
    "far": "Fri, 31 Dec 9999 23:59:59 GMT", "no_date": "Fri, 99 Foo 99999999999 07:28:00 GMT", "short": "0.05",
}.items():  # fmt: skip
    for _status in (429, 503):
        raw(f"after_{_name}_{_status}", make_error(_status, error("busy"), f"Retry-After: {_header}"))
raw("after_ms", lambda call: http(error("busy"), "503 X", "Retry-After-Ms: 99999999999"))
raw("after_many", lambda call: http(error("busy"), "503 X", "Retry-After: 1", "Retry-After: 7200", "Retry-After: 2"))
raw("after_in_words", lambda call: http(error("busy, try again in 9999h"), "503 X"))

# --- Where to go instead. The path of the target is a mode, too.
for _status in (301, 302, 303, 307, 308):
    raw(f"redirect_{_status}", make_redirect(_status, ""))
    raw(f"redirect_{_status}_host", make_redirect(_status, "http://localhost"))
raw("redirect_port", lambda call: redirect(call, 307, f"http://127.0.0.1:{call.port ^ 1}/ok/v1{tail(call)}"))
raw("redirect_self", lambda call: redirect(call, 307, call.path))
raw("redirect_file", lambda call: redirect(call, 307, "file:///etc/passwd"))
raw("redirect_ftp", lambda call: redirect(call, 307, f"ftp://127.0.0.1:{call.port}/x"))
raw("redirect_https", lambda call: redirect(call, 307, f"https://127.0.0.1:{call.port}{call.path}"))
raw(
    "redirect_userinfo",
    lambda call: redirect(call, 307, f"http://a:hunter2hunter2@127.0.0.1:{call.port}/ok/v1{tail(call)}"),
)
raw("redirect_broken", lambda call: redirect(call, 307, "http://[::1:99999/"))
raw("redirect_hostless", lambda call: redirect(call, 307, "http:///ok/v1"))
raw("redirect_schemeless", lambda call: redirect(call, 307, f"//localhost:{call.port}/ok/v1"))
raw("redirect_secret", lambda call: redirect(call, 307, "http://other.example/v1?key=hunter2hunter2"))
raw("redirect_long", lambda call: redirect(call, 307, "http://other.example/" + "x" * 50_000))


# --- How bytes come.
raw("gzip", lambda call: http(gzip.compress(whole(call)), "200 OK", "Content-Encoding: gzip"))
raw("deflate", lambda call: http(zlib.compress(whole(call)), "200 OK", "Content-Encoding: deflate"))
raw("gzip_bomb", lambda call: http(BOMB, "200 OK", "Content-Encoding: gzip"))
raw(
    "gzip_twice", lambda call: http(gzip.compress(gzip.compress(whole(call))), "200 OK", "Content-Encoding: gzip, gzip")
)
raw("gzip_not", lambda call: http(whole(call), "200 OK", "Content-Encoding: gzip"))
raw("gzip_cut", lambda call: http(gzip.compress(whole(call))[:-20], "200 OK", "Content-Encoding: gzip"))
raw("gzip_bomb_400", lambda call: http(BOMB, "400 X", "Content-Encoding: gzip"))
raw("brotli", lambda call: http(b"\x8b\x03\x80", "200 OK", "Content-Encoding: br"))
raw("no_length", lambda call: http(whole(call), length=None))
raw("length_more", lambda call: http(whole(call), length=10**6))
raw("length_less", lambda call: http(whole(call), length=60))
raw("length_negative", lambda call: http(whole(call), length=-7))
raw("length_huge", lambda call: http(whole(call), length=10**18))
raw("length_twice", lambda call: http(whole(call), "200 OK", "Content-Length: 5"))
raw("closes_unsaid", lambda call: http(whole(call)).replace(b"Connection: close\r\n", b""))
raw("http_10", lambda call: http(whole(call), length=None).replace(b"HTTP/1.1", b"HTTP/1.0"))
raw("http_9", lambda call: http(whole(call)).replace(b"HTTP/1.1", b"HTTP/9.9"))
raw("not_http", lambda call: b"\x00\x01SSH-2.0-x\r\n\r\n")
raw("header_long", lambda call: http(whole(call), "200 OK", "X-Long: " + "x" * 300_000))
raw("header_broken", lambda call: http(whole(call), "200 OK", "no colon here"))
raw("header_control", lambda call: http(whole(call), "200 OK", "X-Y: a\x00b"))
raw("chunk_broken", lambda call: http(b"zz\r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked", length=None))
raw("chunk_cut", lambda call: http(b"ff\r\n{", "200 OK", "Transfer-Encoding: chunked", length=None))
raw("large", lambda call: http(whole(call, content=f"{RATING} " + "x" * (6 << 20))))
raw("large_400", lambda call: http(error("no" * (1 << 20)), "400 X"))
raw("switching", lambda call: b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + b"x" * 99)
raw("hang_up", lambda call: b"")
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@mode
async def hang(call: Call, wire: Wire) -> None:
    await asyncio.sleep(ENDLESS)


@mode
async def byte_by_byte(call: Call, wire: Wire) -> None:
    body = whole(call)
    await wire.send(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode())
    await wire.drip(iter([bytes([one]) for one in body]))


@mode
async def spaces_in_chunks(call: Call, wire: Wire) -> None:
    await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await wire.drip(forever(b"1\r\n \r\n"))


@mode
async def slow_headers(call: Call, wire: Wire) -> None:
    await wire.send(HEAD)
    await wire.drip(forever(b"X-A: b\r\n"))


@mode
async def many_headers(call: Call, wire: Wire) -> None:
    await wire.send(HEAD)
    await wire.drip(forever(b"X-A: b\r\n" * 1000), 0)


@mode
async def slow_status(call: Call, wire: Wire) -> None:
    await wire.drip(forever(b"H"))


@mode
async def continue_slowly(call: Call, wire: Wire) -> None:
    await wire.drip(forever(b"HTTP/1.1 100 Continue\r\n\r\n"))


@mode
async def continue_for_ever(call: Call, wire: Wire) -> None:
    await wire.drip(forever(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000), 0)


@mode
async def endless(call: Call, wire: Wire) -> None:
    await wire.send(HEAD + b'\r\n{"a":"')
    await wire.drip(forever(b"x" * (1 << 20)), 0)


@mode
async def endless_chunks(call: Call, wire: Wire) -> None:
    await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await wire.drip(forever(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"), 0)


@mode
async def endless_400(call: Call, wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 400 X\r\n\r\nno more, ")
    await wire.drip(forever(b"x" * (1 << 20)), 0)


@mode
async def endless_events(call: Call, wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    await wire.drip(forever(b": ping\n\n"))


@mode
async def reset(call: Call, wire: Wire) -> None:
    wire.reset()


@mode
async def reset_in_body(call: Call, wire: Wire) -> None:
    await wire.send(http(whole(call))[:-20])
    await asyncio.sleep(0.05)
    wire.reset()
