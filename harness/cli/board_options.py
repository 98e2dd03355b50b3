"""What the commands about boards share: options, and checks before any work."""

from pathlib import Path
from typing import Annotated, Final

import typer

from support.errors import UsageError

RUNS: Final = Path("runs")
"""Where boards are looked for if none is named."""

Folders = Annotated[list[Path] | None, typer.Argument(help="Boards, or folders with boards; default: runs.")]
Boards = Annotated[list[Path] | None, typer.Option("--board", help="Boards, or folders with boards; default: runs.")]

HumanLabels = Annotated[
    Path | None,
    typer.Option(
        "--human-labels",
        help="Correct judged scores for the judge's errors by people's ratings: CSV or JSON lines with id, rating.",
    ),
]


def refuse(*mistakes: tuple[bool, str]) -> None:
    """UsageError with the message of the first (made, message) that is true."""
    for made, message in mistakes:
        if made:
            raise UsageError(message)
