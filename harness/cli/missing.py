"""What a command prints before it does anything: all that is missing, in one table, and what --dry-run says."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypeVar

from harness.cli.judging import print_judge_plans
from harness.cli.options import say
from support.errors import OK, USAGE, BenchmarkDataError, InputError, Need, ServerError, exit_code_of, one_line
from support.markdown import line

if TYPE_CHECKING:
    from harness.runs.forecast import Forecast

T = TypeVar("T")


def tell_missing(needs: Sequence[Need], code: int, as_json: bool = False) -> int:
    """Print what is missing on stderr: one thing as a line, several as a table; returns the exit code `code`. As JSON,
    on stdout too."""
    if as_json:
        print(json.dumps({"missing": [asdict(need) for need in needs]}))
    if len(needs) == 1:
        return say(one_line(needs[0]), code)
    say(f"{len(needs)} things are missing, and nothing was started:", code)
    rows = [[line(text) for text in (need.what, need.why, need.command)] for need in needs]
    header = ["missing", "why", "what brings it"]
    with suppress(OSError):  # of a stderr that can't be written, the exit code still tells
        if sys.stderr.isatty():
            _print_folded(header, rows)
        else:
            # Markdown, whose cells are not padded: a reason may be long.
            for row in (header, ["---"] * len(header), *rows):
                cells = [text.replace("|", r"\|") for text in row]
                print(f"| {' | '.join(cells)} |", file=sys.stderr)
    return code


def collect(needs: list[Need], make: Callable[[], T]) -> T | None:
    """What `make` gives; where it raises an error of the user's, of data or of a server, `needs` gets that."""
    try:
        return make()
    except (InputError, ServerError) as error:
        needs.append(Need.of(error))
    except BenchmarkDataError as error:  # as of a task whose data are missing
        needs.append(replace(Need.of(error), code=USAGE))
    return None


def _print_folded(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that is folded to the terminal's width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*header, show_lines=True)
    for row in rows:
        shown.add_row(*(Text(text, overflow="fold") for text in row))
    Console(stderr=True).print(shown)


def tell_forecast(forecast: "Forecast", as_json: bool, more: str = "") -> int:
    """Print what --dry-run says, with `more` after it for people; the exit code is the run's, if it lacks more than a
    key."""
    needs = forecast.ready.needs
    if as_json:
        print(json.dumps(forecast.to_json()))
    else:
        print(forecast.to_text())
        if more:
            print(more)
        if forecast.judging:
            print_judge_plans(forecast.judging)
        print(f"into {forecast.out}; nothing was done (--dry-run)" if forecast.out else "nothing was done (--dry-run)")
    return tell_missing(needs, exit_code_of(forecast.blocking)) if needs else OK
