"""The `harness` commands in README.md, CONTRIBUTING.md, ARCHITECTURE.md, docs/, under `--help` and printed by `make`,
as a reader would type them.

In a fenced block, a comment with "needs" says what a command needs that not everybody has: behind the command, or as a
line of its own for all that follows in the block, up to the next such line.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.cli.examples import EXAMPLES

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "ARCHITECTURE")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
_BLOCK: Final = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"[A-Z][A-Z_]*(\.\.\.)?")
HELP: Final = "--help"
"""The page of the examples under commands' help."""
MAKE: Final = "Makefile"
"""The page of what `make` prints."""
SHELL: Final = ("", "bash", "sh")


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A command on a page."""

    page: str
    text: str
    whole: bool
    """Whether it stands in a block, and not as words in a sentence that may name a part of it only."""
    needs: bool = False
    """Whether the page says that it needs something."""

    @property
    def words(self) -> list[str]:
        """Its words after `harness`; in a sentence, with 1 for words in capitals."""
        words = shlex.split(re.split(r"\s[>|]\s", self.text)[0], comments=True)
        words = [word for word in words[words.index("harness") + 1 :] if word != "..."]
        return words if self.whole else ["1" if _PLACEHOLDER.fullmatch(word) else word for word in words]


def documented() -> list[Documented]:
    """All of them, page by page."""
    printed = re.findall(r"'\s*(harness [^']+)'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    return [
        *(one for page in PAGES for one in _of_page(page)),
        *_of_block(HELP, EXAMPLES),
        *_of_block(MAKE, "\n".join(printed)),
    ]


def _of_page(page: Path) -> Iterator[Documented]:
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        if block["language"] in SHELL:
            yield from _of_block(page.name, block["text"])
    for found in re.findall(r"`(harness [^`]+)`", _BLOCK.sub("", text)):
        yield Documented(page=page.name, text=found, whole=False)


def _of_block(page: str, text: str) -> Iterator[Documented]:
    needs = False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.startswith("#"):
            needs = "needs" in line
        elif "harness" in line.split():
            yield Documented(page=page, text=line, whole=True, needs=needs or "needs" in line.partition("#")[2])
