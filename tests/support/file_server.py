"""A local web server of files with the moods of real ones: ranges, cut connections, redirects, a file that changes."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What the server has, and how it answers."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path -> content."""
    redirects: dict[str, str] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which one answer each is cut off."""
    codes: list[int] = field(default_factory=list)
    """Status of the next answers, in place of the file."""
    ranges: bool = True
    content_type: str = "application/octet-stream"
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, range) of each request."""
    url: str = ""


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Inside, the files are at `files.url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, files)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, files: Files) -> None:
    path, asked = handler.path, handler.headers.get("range")
    files.asked.append((path, asked))
    if path in files.redirects:
        handler.send_response(302)
        handler.send_header("location", files.redirects[path])
        handler.send_header("content-length", "0")
        handler.end_headers()
        return
    code = files.codes.pop(0) if files.codes else 200 if path in files.files else 404
    if code != 200:
        handler.send_response(code)
        handler.send_header("content-length", "0")
        handler.end_headers()
        return
    data = files.files[path]
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and files.ranges else 0
    if start and handler.headers.get("if-range", tag) != tag:
        start = 0
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("content-range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("etag", tag)
    handler.send_header("content-type", files.content_type)
    handler.send_header("content-length", str(len(data) - start))
    handler.end_headers()
    most = files.cut_after.pop(0) if files.cut_after else len(data)
    handler.wfile.write(data[start : start + most])
    handler.close_connection = True
