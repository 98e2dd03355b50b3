"""A file from an address: gone on with where it was cut off, checked, and never whole before it is.

    download(Remote(url="http://host/val2014.zip", size=6645013297, sha256="fe9b..."), Path("val2014.zip"))

What has come lies beside the target, hidden, until it has its size and its sha256; the same call goes on with it, also
in another process. It goes on only where the server says that it has the same file still. A redirect is followed to
http and https, never from https to http; an answer is read up to the size that the file has.

Errors: `DownloadError`, one line with the address, the server's own words, and what to do.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import DownloadError, one_line
from support.files import atomic_write_text, file_lock, finish
from support.full_disk import naming_full_disk, room_at
from support.parsing import parse_object
from support.progress import report
from support.secrets import redact

if TYPE_CHECKING:
    import httpx2

TIMEOUT: Final = 60.0
"""Seconds in which a server must send something."""
TRIES: Final = 5
"""How often a file is asked for again without another byte of it."""
PAUSE: Final = 1.0
"""Seconds before the second try; each further pause is twice as long."""
MOST_REDIRECTS: Final = 5
LARGEST: Final = 200 << 30
"""Bytes of a file whose size nobody has said."""
SPARE: Final = 64 << 20
"""Bytes that are left free on a disk."""
PIECE: Final = 1 << 20
_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)
_NOT_SATISFIABLE: Final = 416


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file at an address, as far as it is known."""

    url: str
    size: int | None = None
    """Bytes."""
    sha256: str | None = None


class _CutOffError(Exception):
    """The connection ended, or the server was busy: the same may be asked again."""


def download(remote: Remote, target: Path, *, stage: str = "") -> str:
    """Bring a file to `target`, whatever was there; its sha256. `stage` names it in reports of progress.

    DownloadError; RunError where the disk is full.
    """
    import httpx2

    if not remote.url.startswith(("http://", "https://")):
        raise DownloadError(f"{_shown(remote.url)}: is no address of a file on http or https")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        file_lock(target, wait=True),
        naming_full_disk(target.parent),
        httpx2.Client(timeout=TIMEOUT, follow_redirects=False, headers={"accept-encoding": "identity"}) as client,
    ):
        part = _Part(remote, target, stage or f"download {target.name}")
        try:
            part.fetch(client)
            found = part.check()
        finally:
            part.close()
        finish(part.path, target)
        part.note.unlink(missing_ok=True)
        return found


class _Part:
    """What has come of a file, and what is known of the file that it is of."""

    def __init__(self, remote: Remote, target: Path, stage: str) -> None:
        self.remote, self.stage = remote, stage
        self.path, self.note = (target.with_name(f".{target.name}.{end}") for end in ("part", "part.json"))
        self.validator = self._read_note()
        self.file = self.path.open("r+b" if self.path.exists() else "w+b")
        self.total = remote.size
        if self.validator is None and remote.sha256 is None:
            self.file.truncate(0)  # nothing would tell that the rest is of another file
        self.have = self.file.seek(0, 2)
        if self.total is not None and self.have > self.total:
            self.restart()
        self.is_whole = self.have == self.total

    def close(self) -> None:
        self.file.close()

    def restart(self) -> None:
        """Forget what has come."""
        self.file.truncate(0)
        self.have = self.file.seek(0)

    def fetch(self, client: "httpx2.Client") -> None:
        """Ask for what is missing until all is there. DownloadError."""
        tries = 0
        while not self.is_whole:
            before = self.have
            try:
                self._ask(client)
            except _CutOffError as error:
                tries = 0 if self.have > before else tries + 1
                if tries >= TRIES:
                    kept = f"; {self.have:,} bytes are kept, and the same command goes on" if self.have else ""
                    raise DownloadError(f"{_shown(self.remote.url)}: {error}{kept}") from None
                time.sleep(PAUSE * 2 ** max(0, tries - 1))

    def _ask(self, client: "httpx2.Client") -> None:
        """One answer to a request for the rest; _CutOffError where another may bring more."""
        import httpx2

        headers = {"range": f"bytes={self.have}-"} if self.have else {}
        if self.have and self.validator:
            headers["if-range"] = self.validator
        try:
            with _sent(client, self.remote.url, headers) as response:
                self._read_answer(response)
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise _CutOffError(one_line(error) or type(error).__name__) from None

    def _read_answer(self, response: "httpx2.Response") -> None:
        code = response.status_code
        if code in _AGAIN:
            raise _CutOffError(f"{code} {response.reason_phrase}")
        if code == _NOT_SATISFIABLE and self.have:  # of a file that has become shorter
            self.restart()
            raise _CutOffError(f"{code} {response.reason_phrase}")
        if code not in (200, 206):
            raise DownloadError(f"{_shown(self.remote.url)}: {code} {response.reason_phrase}")
        if response.headers.get("content-encoding", "identity") not in ("", "identity"):
            raise DownloadError(f"{_shown(self.remote.url)}: sent packed, which was not asked for")
        if code == 206 and _first_byte(response) != self.have:
            self.restart()
            raise _CutOffError("sends another part of the file than was asked for")
        if code == 200:
            self.restart()
        self._learn(response)
        for piece in response.iter_raw(PIECE):
            if self.have + len(piece) > (self.total if self.total is not None else LARGEST):
                self.restart()
                raise DownloadError(f"{_shown(self.remote.url)}: sends more than {self.total or LARGEST:,} bytes")
            self.file.write(piece)
            self.have += len(piece)
            report(self.stage, self.have, self.total or 0, "B")
        self.file.flush()
        if self.total is not None and self.have < self.total:
            raise _CutOffError(f"the connection ended after {self.have:,} of {self.total:,} bytes")
        self.is_whole = True

    def _learn(self, response: "httpx2.Response") -> None:
        """What the answer says of the file; DownloadError where it is not the one that is meant, or has no room."""
        length = response.headers.get("content-length", "")
        told = self.have + int(length) if length.isdecimal() else None
        if told is not None and self.remote.size is not None and told != self.remote.size:
            raise DownloadError(
                f"{_shown(self.remote.url)}: has {told:,} bytes there, must have {self.remote.size:,}: it is another "
                "file now, or what answers is no such server"
            )
        unknown = self.remote.size is None and self.remote.sha256 is None
        if unknown and response.headers.get("content-type", "").lower().startswith("text/html"):
            raise DownloadError(f"{_shown(self.remote.url)}: a web page came in place of the file")
        self.total = self.remote.size if self.remote.size is not None else told
        if self.total is not None and (free := room_at(self.path)) < self.total - self.have + SPARE:
            needs = f"needs {(self.total - self.have) / 1e9:.2f} GB more"
            raise DownloadError(f"{self.path.parent}: {self.path.name} {needs}, and {free / 1e9:.2f} GB are free")
        tag = response.headers.get("etag", "")
        self.validator = (tag if tag and not tag.startswith("W/") else "") or response.headers.get("last-modified")
        atomic_write_text(self.note, json.dumps({"url": self.remote.url, "validator": self.validator}))

    def _read_note(self) -> str | None:
        """What tells that the server has the same file still; None where nothing does, or the part is of another."""
        with suppress(OSError, ValueError):
            held = parse_object(self.note.read_bytes())
            if held.get("url") == self.remote.url and isinstance(held.get("validator"), str):
                return str(held["validator"])
        return None

    def check(self) -> str:
        """The sha256 of what came; DownloadError, with nothing kept, where it is not the file's."""
        self.file.flush()
        self.file.seek(0)
        found = hashlib.file_digest(self.file, "sha256").hexdigest()
        if self.remote.sha256 is not None and found != self.remote.sha256:
            self.path.unlink()
            self.note.unlink(missing_ok=True)
            raise DownloadError(
                f"{_shown(self.remote.url)}: what came has sha256 {found}, must have {self.remote.sha256}; nothing of "
                "it is kept"
            )
        return found


def _first_byte(response: "httpx2.Response") -> int | None:
    """Where in the file an answer begins; None where it does not say so."""
    told = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(told) if told.isdecimal() else None


@contextmanager
def _sent(client: "httpx2.Client", url: str, headers: dict[str, str]) -> "Iterator[httpx2.Response]":
    """The answer to a request, or to the one that it is sent on to. DownloadError."""
    import httpx2

    address: Any = httpx2.URL(url)
    for _ in range(MOST_REDIRECTS + 1):
        with client.stream("GET", address, headers=headers) as response:
            if not response.has_redirect_location:
                yield response
                return
            try:
                target = address.join(response.headers["location"])
            except (httpx2.InvalidURL, ValueError):
                raise DownloadError(f"{_shown(url)}: redirects to an address that can't be read") from None
        if target.scheme not in ("http", "https") or address.scheme == "https" != target.scheme:
            raise DownloadError(f"{_shown(url)}: redirects to {_shown(str(target))}, which is not encrypted")
        address = target
    raise DownloadError(f"{_shown(url)}: redirects more than {MOST_REDIRECTS} times")


def _shown(url: str) -> str:
    """An address without what may be a secret in it, not endless."""
    return redact(url.partition("?")[0])[:200]
