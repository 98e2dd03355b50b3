"""The lines of docs/statistics.csv: all simulated cells, of scores and of pairs of models.

PYTHONPATH=. python -m tests.leaderboards.simulate_cells scores|pairs [RUNS] > cells.csv      # half an hour each
"""

import sys
from collections.abc import Iterator

from tests.leaderboards.edge_cells import Cell, covered, grid
from tests.leaderboards.pair_cells import TESTS, Found, PairCell, pair_grid, simulate

MORE = 1000
"""Runs of a cell whose coverage is in doubt."""

HEADER: tuple[str, ...] = (
    "kind",
    "images",
    "questions",
    "rho",
    "rate",
    "gain",
    "loss",
    "anew",
    "runs",
    "coverage",
    "width",
)
HEADER += (
    "false alarms",
    "power",
    "attainable false alarms",
    *(f"{of} of {name}" for name in TESTS for of in ("false alarms", "power")),
)


def line_of_score(cell: Cell, runs: int) -> tuple[object, ...]:
    share, width = covered(cell, runs)
    if share < 0.925 and runs < MORE:
        return line_of_score(cell, MORE)
    flips = ("", "") if cell.gain is None else (cell.gain, cell.loss)
    return (*_where(cell), *flips, "", runs, f"{share:.4f}", f"{width:.4g}", *[""] * (3 + 2 * len(TESTS)))


def line_of_pair(cell: PairCell, runs: int) -> tuple[object, ...]:
    found = simulate(cell, runs)
    if runs < MORE and _is_in_doubt(found):
        return line_of_pair(cell, MORE)
    others = [f"{share:.4f}" if share == share else "" for name in TESTS for share in found.published[name]]
    shares = [f"{share:.4f}" for share in (found.false_alarms, found.power, found.attainable)]
    return (*_where(cell), "", "", cell.anew, runs, f"{found.coverage:.4f}", f"{found.width:.4g}", *shares, *others)


def _is_in_doubt(found: Found) -> bool:
    """More than one and a half standard errors of 300 runs beyond what is asked for."""
    best = max((power for alarms, power in found.published.values() if alarms <= 0.055), default=0.0)
    return found.coverage < 0.91 or found.false_alarms > 0.075 or found.power < best - 0.035


def _where(cell: Cell | PairCell) -> tuple[object, ...]:
    return (f'"{cell.kind}"', cell.images, cell.questions, cell.rho, cell.rate)


def lines(what: str, runs: int) -> Iterator[tuple[object, ...]]:
    yield HEADER
    if what == "scores":
        yield from (line_of_score(cell, runs) for cell in grid())
    else:
        yield from (line_of_pair(cell, runs) for cell in pair_grid())


if __name__ == "__main__":
    for line in lines(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 400):
        print(*line, sep=",", flush=True)
