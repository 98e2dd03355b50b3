"""`harness import`: results of lm-eval and lmms-eval on a board."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.outputs import check_target
from support.errors import OK

log = logging.getLogger(__name__)


def import_command(
    files: Annotated[list[Path], typer.Argument(help="results_*.json files of lm-eval or lmms-eval.")],
    out: Annotated[Path, typer.Option(help="Run folder whose board gets the results.")] = Path("runs/imported"),
    model: Annotated[str | None, typer.Option(help="The model's name on the board; default: the file's.")] = None,
    created: Annotated[str | None, typer.Option(help="Time of the run (ISO 8601, UTC); default: the file's.")] = None,
) -> int:
    """Put results of lm-eval or lmms-eval on a board.

    They are marked as imported, and share no column with scores that were measured here.
    """
    from leaderboards.board.board import Board
    from leaderboards.board.import_results import read_results
    from support.markdown import line

    check_target("--out", out / "board", folder=True)
    board = Board(out / "board")
    # All files are read before the first is put on the board.
    read = [(file, read_results(file, model=model, created=created)) for file in files]
    for file, found in read:
        board.add(found.entries, [])
        log.info(line(f"{file}: {len(found.entries)} numbers of {found.entries[0].model}, into {board.folder}"))
        for what in found.left_out:
            log.info(line(f"{file}: left out: {what}"))
    return OK
