"""What the commands about boards share: options, and checks before any work."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from support.errors import UsageError

RUNS: Final = Path("runs")
"""Where boards are looked for if none is named."""

Folders = Annotated[list[Path] | None, typer.Argument(help="Boards, or folders with boards; default: runs.")]
Boards = Annotated[list[Path] | None, typer.Option("--board", help="Boards, or folders with boards; default: runs.")]


def refuse(*mistakes: tuple[bool, str]) -> None:
    """UsageError with the message of the first (made, message) that is true."""
    for made, message in mistakes:
        if made:
            raise UsageError(message)


def check_target(option: str, path: Path | None, *, folder: bool = False) -> None:
    """UsageError where nothing can be written at `path`, before anything is computed for it."""
    if path is None:
        return
    if not folder and path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a folder; give a file")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a file; give a folder")
    above = next(parent for parent in (*path.parents, Path()) if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{option} {str(path)!r}: {str(above)!r} is a file, not a folder")
    if not os.access(path if folder and path.exists() else above, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {str(path)!r}: nothing can be written in {str(above)!r}")
