"""A board's page for a browser on this machine, made anew when the board's files change; read-only.

    with LivePage(lambda state: html, places=[Path("runs")]) as live:
        print(live.address)
        live.serve()                       # until it is interrupted

It listens on 127.0.0.1 alone and answers one path, which holds a token that nobody can guess: other users of the
machine and other pages in the browser learn nothing. A request for another host's name, as a page elsewhere would make
by rebinding a name to this address, is refused.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple, Self

from harness.evaluation.find_boards import boards_in
from support.errors import UsageError, first_line
from support.markdown import line

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_TIMEOUT: Final = 30  # seconds that a browser may take for its request
_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Made(NamedTuple):
    state: str
    body: bytes


class LivePage:
    """The server of one page."""

    def __init__(self, make: Callable[[str], str], *, places: Iterable[Path], port: int = 0) -> None:
        """`make` gives the page of the boards below `places` (of which some may be single files that it reads) as they
        are now; what is given to it names that state.
        Port 0 is any free one. UsageError for a port that can't be had; whatever `make` raises."""
        self._make, self._places = make, list(places)
        self._lock = Lock()
        self._token = secrets.token_urlsafe(24)
        self._seen = self.state()
        self._made = _Made(self._seen, make(self._seen).encode())
        try:
            self._server = ThreadingHTTPServer((HOST, port), self._handler())
        except OSError as error:
            raise UsageError(f"--port {port} of {HOST}: {error.strerror}; 0 takes any that is free") from None
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self._server.server_port}{self._path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def serve(self) -> None:
        """Answer until `stop`, or until this thread is interrupted."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `serve` in another thread."""
        self._server.shutdown()

    def state(self) -> str:
        """A digest of which files the boards have, their sizes and dates; and of files that are watched beside them."""
        found = []
        for path in self._find_files():
            with suppress(FileNotFoundError):
                about = path.stat()
                found.append((str(path), about.st_size, about.st_mtime_ns))
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]

    def _find_files(self) -> Iterator[Path]:
        for place in self._places:
            if place.is_file():
                yield place
            for board in boards_in(place):
                with suppress(FileNotFoundError):  # a folder that is taken away meanwhile
                    yield from sorted(board.folder.iterdir())

    def current(self) -> _Made:
        """The page of the boards as they are; the last one where they can't be read, which is told once."""
        with self._lock:
            state = self.state()
            if state != self._seen:
                self._seen = state
                try:
                    self._made = _Made(state, self._make(state).encode())
                except Exception as error:  # what a run writes must not end the server
                    log.warning(line(f"the page stays as it was: {first_line(error)}"))
            return self._made

    @property
    def _path(self) -> str:
        return f"/{self._token}/"

    def _answers_to(self, host: str) -> bool:
        port = self._server.server_port
        return host in (f"{HOST}:{port}", f"localhost:{port}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        live = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def _answer(self, *, with_body: bool) -> None:
                path = self.path.partition("?")[0]
                if not live._answers_to(self.headers.get("Host", "")):
                    self.send_error(HTTPStatus.FORBIDDEN)
                elif not secrets.compare_digest(path.encode(), live._path.encode()):
                    self.send_error(HTTPStatus.NOT_FOUND)
                else:
                    made = live.current()
                    self.send_response(HTTPStatus.OK)
                    for name, value in _HEADERS.items():
                        self.send_header(name, value)
                    self.send_header("ETag", f'"{made.state}"')
                    self.send_header("Content-Length", str(len(made.body)))
                    self.end_headers()
                    if with_body:
                        self.wfile.write(made.body)

            def version_string(self) -> str:
                return "harness"

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: a request's path holds the token."""

        return Handler
