"""`harness view`: a board's page in the browser while runs go on."""

import logging
from typing import Annotated

import typer

from harness.cli.board_options import RUNS, Folders
from harness.cli.leaderboard import LeaderboardOptions, live_page_of
from support.errors import OK, UsageError

log = logging.getLogger(__name__)


def view_command(
    folders: Folders = None,
    base: Annotated[
        str | None, typer.Option(help="Compare the other models with this one, on the same questions.")
    ] = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric that each task ranks by.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Include runs with --limit or on partial data.")] = False,
    pictures: Annotated[bool, typer.Option(help="Put small copies of the images into the page.")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; default: one that is free.")] = 0,
) -> int:
    """Show the page in the browser, live.

    On this machine alone (127.0.0.1), under an address that nobody can guess. The page is made anew when results come,
    and the browser shows them by itself. Nothing can be changed from there. Ctrl-C ends it.
    """
    from harness.evaluation.live_page import LivePage

    places = folders or [RUNS]
    for place in places:
        if not place.is_dir():
            raise UsageError(f"no folder {str(place)!r}; give a board (runs/NAME/board) or a folder that holds some")
    shown = LeaderboardOptions(base=base, headline=headline, partial=partial, pictures=pictures)
    with LivePage(lambda state: live_page_of(places, shown, state), places=places, port=port) as live:
        print(live.address, flush=True)
        log.info("open this address in a browser on this machine; Ctrl-C ends it")
        try:
            live.serve()
        except KeyboardInterrupt:
            log.info("ended")
    return OK
