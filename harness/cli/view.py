"""`harness view`: a board's page in the browser while runs go on."""

import logging
from pathlib import Path
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
    group_seeds: Annotated[
        bool,
        typer.Option(
            "--group-seeds",
            help="Show trainings that differ by their seed alone as one row: the mean, over seeds and images.",
        ),
    ] = False,
    published: Annotated[
        bool,
        typer.Option("--published", help="Also show what others reported for these tasks, in a table of its own."),
    ] = False,
    human_labels: Annotated[
        Path | None,
        typer.Option(
            help="Correct judged scores for the judge's errors by people's ratings: CSV or JSON lines, id and rating."
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Include runs with --limit or on partial data.")] = False,
    pictures: Annotated[bool, typer.Option(help="Put small copies of the images into the page.")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; default: one that is free.")] = 0,
) -> int:
    """Show the page in the browser, live.

    On this machine alone (127.0.0.1), under an address that nobody can guess. The page is made anew when results come,
    and the browser shows them by itself. Nothing can be changed from there. Ctrl-C ends it.
    """
    from harness.evaluation.human_labels import read_labels
    from harness.evaluation.live_page import LivePage

    places = folders or [RUNS]
    for place in places:
        if not place.is_dir():
            raise UsageError(f"no folder {str(place)!r}; give a board (runs/NAME/board) or a folder that holds some")
    shown = LeaderboardOptions(
        base=base,
        headline=headline,
        group_seeds=group_seeds,
        published=published,
        human_labels=human_labels,
        partial=partial,
        pictures=pictures,
    )
    shown.check_content()
    if human_labels is not None:
        read_labels(human_labels)  # which may be wrong before there is a result, too
    watched = places if human_labels is None else [*places, human_labels]
    with LivePage(lambda state: live_page_of(places, shown, state), places=watched, port=port) as live:
        print(live.address, flush=True)
        log.info("open this address in a browser on this machine; Ctrl-C ends it")
        try:
            live.serve()
        except KeyboardInterrupt:
            log.info("ended")
    return OK
