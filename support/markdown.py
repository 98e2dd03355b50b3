"""Markdown tables, and texts that come from models, data or files made safe to print in them."""

import re
from collections.abc import Sequence

from support.console import write_out

MISSING = "—"

_DECIMALS = {"%": 1, "points": 1, "words": 1, "0-6": 2}
_OTHER_DECIMALS = 3

_MARKUP = re.compile(r"([\\`|<>\[\]*~&]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore within a word is none


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool] | None = None) -> str:
    """A markdown table of cells that are escaped already; columns of numbers (None: all but the first) are
    right-aligned."""
    from tabulate import tabulate  # by which many commands print nothing

    numbers = [False, *[True] * (len(headers) - 1)] if numeric is None else numeric
    align = ["right" if own else "left" for own in numbers]
    return tabulate([headers, *rows], headers="firstrow", tablefmt="pipe", disable_numparse=True, colalign=align)


def line(text: str) -> str:
    """`text` on one line, with what is invisible or changes the direction of reading written out."""
    return write_out(" ".join(text.split()))


def cell(text: str) -> str:
    """`line(text)` for markdown: shown as it is, in a table too, never as markup."""
    return _MARKUP.sub(r"\\\1", line(text))


def number(value: float | None, unit: str, *, signed: bool = False) -> str:
    """With as many decimals as its unit is worth."""
    if value is None:
        return MISSING
    decimals = _DECIMALS.get(unit, _OTHER_DECIMALS)
    rounded = round(value, decimals) + 0.0  # no -0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"


def span(low: float | None, high: float | None, unit: str) -> str:
    """An interval, as it follows its number; empty if there is none."""
    return "" if low is None or high is None else f" [{number(low, unit)}, {number(high, unit)}]"


def p_value(p: float) -> str:
    """With the digits that ten thousand resamples can tell; what is extrapolated beyond is "<0.0001"."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"
