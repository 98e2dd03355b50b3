"""The one type of tables that commands print, and the forms that need no library: markdown, CSV, LaTeX.

    found = Table(["model", "f1 %"], [["llava-7b", Cell("61.2", low="58.0", high="64.3", best=True)]])
    print(to_markdown([found, "In % of the questions."]))
    print(to_latex(blocks_of(report)))                 # the tables in a text in markdown

What is printed is a list of blocks: tables, whose texts are plain, and texts in markdown. Whoever prints a table
escapes its texts for the form; `support.terminal` draws it on a terminal.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from support.latex import escape_latex
from support.markdown import MISSING, cell, line, table

_INTERVAL: Final = re.compile(r"([+-]?[\d.,]+) \[([^\s,\]]+), ([^\s,\]]+)\](?: (.*))?", re.DOTALL)
"""How `support.markdown.span` writes an interval behind its number."""
_ESCAPED_INTERVAL: Final = re.compile(r"\\\[([-+.,<\d]+, [-+.,<\d]+)\\\]")
_NUMBER: Final = re.compile(r"[<~+-]?\$?\d[\d.,]*(e[+-]?\d+)?( ?%)?( [▲▼△≈])?")
_FORMULA: Final = "=+-@＝＋－＠"
"""A spreadsheet computes a cell that begins so; it takes the full-width ones for the same."""
_ORDERS: Final = ("::", "##[")
"""What CI systems obey."""

Tested = Literal["", "better", "worse"]


@dataclass(frozen=True)
class Cell:
    """One cell; all its texts are plain."""

    text: str
    low: str = ""
    """The lower end of its interval."""
    high: str = ""
    more: str = ""
    """What stands behind it: rank, difference, verdict."""
    remarks: str = ""
    """What to know before believing it."""
    best: bool = False
    """Whether nothing in its column is better."""
    tested: Tested = ""
    """What a test found of it, where it is significant."""

    @staticmethod
    def of(content: "Cell | str") -> "Cell":
        """A text as a cell, its interval found."""
        if isinstance(content, Cell):
            return content
        if (found := _INTERVAL.fullmatch(content)) is None:
            return Cell(content)
        text, low, high, more = (part or "" for part in found.groups())
        return Cell(text, low, high, more)

    @property
    def interval(self) -> str:
        """As [low, high]; empty without one."""
        return f"[{self.low}, {self.high}]" if self.low or self.high else ""

    @property
    def parts(self) -> list[str]:
        """Its texts, in order, without empty ones."""
        return [part for part in (self.text, self.interval, self.more, self.remarks) if part]

    def __str__(self) -> str:
        return " ".join(self.parts)


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    """How its numbers were made and tested, for a form that stands alone; plain."""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, as cells."""
        return [[Cell.of(content) for content in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds numbers, which are read from the right."""
        found, cells = [], self.cells
        for place in range(len(self.headers)):
            texts = [row[place].text for row in cells if row[place].text not in ("", MISSING)]
            found.append(bool(texts) and all(_NUMBER.fullmatch(text) for text in texts))
        return found


Block = Table | str
"""A table, or a text in markdown."""


def blocks_of(text: str) -> list[Block]:
    """The tables in a text in markdown, and what stands around them."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    lines, done, found = text.splitlines(), 0, list[Block]()
    for place, token in enumerate(tokens):
        if token.type == "table_open" and token.level == 0 and token.map:
            begin, end = token.map
            found += filter(None, ["\n".join(lines[done:begin]).strip("\n")])
            close = next(i for i in range(place, len(tokens)) if tokens[i].type == "table_close")
            rows = _rows_of(tokens[place:close])
            found.append(Table(rows[0], rows[1:]))
            done = end
    return [*found, *filter(None, ["\n".join(lines[done:]).strip("\n")])]


def _rows_of(tokens: Sequence[object]) -> list[list[str]]:
    rows: list[list[str]] = []
    for token in tokens:
        if getattr(token, "type", "") == "tr_open":
            rows.append([])
        elif getattr(token, "type", "") == "inline":
            rows[-1].append("".join(part.content for part in getattr(token, "children", None) or ()))
    return rows


def tables_of(blocks: Iterable[Block]) -> Iterator[Table]:
    """All tables, those in texts too."""
    for block in blocks:
        if isinstance(block, Table):
            yield block
        else:
            yield from (inner for inner in blocks_of(block) if isinstance(inner, Table))


def to_markdown(blocks: Iterable[Block]) -> str:
    """All of it."""
    return "\n\n".join(_markdown_of(block) if isinstance(block, Table) else block.strip("\n") for block in blocks)


def _markdown_of(found: Table) -> str:
    rows = [[_markdown_cell(one) for one in row] for row in found.cells]
    return table(list(map(cell, found.headers)), rows, numeric=found.numeric)


def _markdown_cell(one: Cell) -> str:
    """Intervals as `span` writes them: between numbers brackets are no link."""
    return _ESCAPED_INTERVAL.sub(r"[\1]", cell(str(one)))


def to_csv(blocks: Iterable[Block]) -> str:
    """The tables, an empty line between two; the ends of intervals have columns of their own."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    for number, found in enumerate(tables_of(blocks)):
        if number:
            sink.write("\n")
        columns = [_csv_columns(name, column) for name, column in zip(found.headers, _turned(found), strict=True)]
        writer.writerows(zip(*(texts for column in columns for texts in column), strict=True))
    return sink.getvalue()


def _turned(found: Table) -> list[list[Cell]]:
    """The columns."""
    cells = found.cells
    return [[row[place] for row in cells] for place in range(len(found.headers))]


def _csv_columns(name: str, cells: Sequence[Cell]) -> list[list[object]]:
    """The columns of a file for one of a table: its texts, the ends of its intervals, what stands behind."""
    columns = {name: [one.text for one in cells]}
    if any(one.interval for one in cells):
        columns |= {f"{name} low": [one.low for one in cells], f"{name} high": [one.high for one in cells]}
    if any(one.more or one.remarks for one in cells):
        columns[f"{name} note"] = [" ".join(filter(None, (one.more, one.remarks))) for one in cells]
    return [[csv_cell(head), *map(_csv_value, texts)] for head, texts in columns.items()]


def _csv_value(text: str) -> object:
    try:
        float(text)
    except ValueError:
        return csv_cell(text)
    return text


def csv_cell(value: object) -> object:
    """A number as it is; text on one line, quoted with an apostrophe if a spreadsheet would compute it or a CI system
    obey it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = "; ".join(value)
    if not isinstance(value, str):
        return value
    text = line(value)
    return f"'{text}" if text.startswith((*_FORMULA, *_ORDERS)) else text


def to_latex(blocks: Iterable[Block]) -> str:
    """The tables, each in a `table` of booktabs."""
    return "\n\n".join(("% needs \\usepackage{booktabs,amssymb}", *map(_latex_of, tables_of(blocks))))


def _latex_of(found: Table) -> str:
    sides = "".join("r" if own else "l" for own in found.numeric)
    rows = [" & ".join(map(_latex_cell, row)) + r" \\" for row in found.cells]
    return "\n".join(
        (
            r"\begin{table}",
            r"\centering",
            *([rf"\caption{{{escape_latex(found.caption)}}}"] if found.caption else []),
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            " & ".join(map(escape_latex, found.headers)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        )
    )


def _latex_cell(one: Cell) -> str:
    """Value, interval as a subscript, dagger; remarks small behind it. What is tested says the dagger, not words."""
    text = escape_latex(one.text)
    text = rf"\textbf{{{text}}}" if one.best else text
    beside = rf"_{{[{escape_latex(one.low)},\,{escape_latex(one.high)}]}}" if one.interval else ""
    beside += {"": "", "better": r"^{\dagger}", "worse": r"^{\ddagger}"}[one.tested]
    text += f"${beside}$" if beside else ""
    small = [one.more, one.remarks] if not one.tested else [one.remarks]
    small = [escape_latex(part) for part in small if part]
    return text + (rf" {{\scriptsize {' '.join(small)}}}" if small else "")
