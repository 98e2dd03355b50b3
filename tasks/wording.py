"""Whose words the judge is asked in: ours (`tasks/prompts/`), or the benchmark authors' own, fetched when the user says so.

    with official_prompts():            # `harness eval --official-prompts`
        official("mmhal")               # the authors' template, from their repository at a pinned commit; None outside

The authors' texts are not part of this project. Each is fetched once, kept in the user's cache folder, and used only if its sha256 is the
one written here. Errors: `WordingError`, one line that names address and reason.
"""

import ast
import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final


class WordingError(RuntimeError):
    """An official prompt can't be had, or is not what it was."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an official prompt is."""

    url: str
    """At a pinned commit."""
    sha256: str
    """Of the template itself, UTF-8, as `template` takes it out of the file."""
    template: Callable[[str], str]
    """The file's text -> the template's."""


TIMEOUT: Final = 30
"""Seconds."""

_USE: ContextVar[bool] = ContextVar("official_prompts", default=False)


@contextmanager
def official_prompts() -> Iterator[None]:
    """Inside, judges are asked in the authors' own words wherever a benchmark has some."""
    token = _USE.set(True)
    try:
        yield
    finally:
        _USE.reset(token)


def in_use() -> str:
    """ "official" or "own": what a result says of its judge's prompts."""
    return "official" if _USE.get() else "own"


def official(name: str) -> str | None:
    """The authors' template of this name, or None where ours is to be used."""
    return fetch(SOURCES[name]) if _USE.get() else None


def fetch(source: Source) -> str:
    """The template of `source`, from the cache folder where it is there."""
    kept = cache_folder() / "prompts" / f"{source.sha256}.txt"
    if kept.is_file():
        text = kept.read_text(encoding="utf-8")
        if _digest(text) == source.sha256:
            return text
    text = source.template(_download(source.url))
    if _digest(text) != source.sha256:
        raise WordingError(f"{source.url}: the prompt in it has sha256 {_digest(text)}, not {source.sha256}: not used")
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Into place at once: another process may be reading.
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8", newline="") as part:
        part.write(text)
    os.replace(part.name, kept)
    return text


def _download(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            return str(reply.read().decode("utf-8"))
    except (urllib.error.URLError, OSError, UnicodeDecodeError) as error:
        raise WordingError(f"{url}: can't fetch the official prompt: {getattr(error, 'reason', error)}") from None


def cache_folder() -> Path:
    """Where this project keeps what it fetched or unpacked for the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-harness"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def string_of(variable: str) -> Callable[[str], str]:
    """Takes the text assigned to `variable` out of a Python file, wherever in it that stands, without running the file."""

    def template(code: str) -> str:
        for node in ast.walk(ast.parse(code)):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))) if name == variable:
                    return text
        raise WordingError(f"no text is assigned to {variable!r} in the file")

    return template


SOURCES: Final[Mapping[str, Source]] = {}
