"""Tables and texts on a terminal: coloured, folded to its width.

    if is_terminal(sys.stdout):                         # of support.console
        draw(blocks, screen_of(sys.stdout))

A table that is too wide has its cells on several lines; one that is too wide even so is drawn in parts, each with the
first column.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, TextIO

from rich import box
from rich.console import Console
from rich.markdown import Heading, Markdown
from rich.table import Table as Drawn
from rich.text import Text

from support.console import with_codes, write_out
from support.markdown import line
from support.tables import Block, Cell, Table, blocks_of

_BETTER: Final = r"▲( [^,()]*)?|(?<!not )\bbetter\b|\bpassed\b"
_WORSE: Final = r"▼( [^,()]*)?|\bworse\b|\bfailed: \S+|✗"
_UNSURE: Final = r"△[^()]*|≠"
_LONGEST_WORD: Final = 24
"""A longer one is broken, where there is no other way."""
_BETWEEN: Final = 3
"""Signs between two columns."""


def screen_of(stream: TextIO) -> Console:
    """The terminal that a stream is, with colours unless NO_COLOR is set."""
    return Console(file=with_codes(stream), highlight=False, markup=False, emoji=False)


def draw(blocks: Iterable[Block], screen: Console) -> None:
    """Print tables, and texts in markdown, tables in them too."""
    parts = [inner for block in blocks for inner in ([block] if isinstance(block, Table) else blocks_of(block))]
    for number, part in enumerate(parts):
        if number:
            screen.print()
        if isinstance(part, Table):
            for drawn in _draw_table(part, screen.width):
                screen.print(drawn)
        else:
            screen.print(_Text(write_out(part), hyperlinks=False))


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar = {f"h{level}": "left" for level in range(1, 7)}


class _Text(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading}


def _draw_table(found: Table, width: int) -> list[Drawn]:
    """The table, in as many parts as its columns need."""
    cells = found.cells
    columns = [[row[place] for row in cells] for place in range(len(found.headers))]
    heads = list(map(line, found.headers))
    natural = [_longest([head, *map(str, column)]) for head, column in zip(heads, columns, strict=True)]
    if sum(natural) + _BETWEEN * (len(heads) - 1) <= width:
        return [_part(found, dict(enumerate(natural)), columns, folded=False)]
    least = [
        min(width, max(_longest_word([head]), *map(_least, column), 1))
        for head, column in zip(heads, columns, strict=True)
    ]
    return [
        _part(found, _widen({place: least[place] for place in places}, natural, width), columns, folded=True)
        for places in _divide(least, width)
    ]


def _divide(least: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each part: the first one in all of them, each other one in one."""
    parts = [[0]]
    for place in range(1, len(least)):
        room = width - sum(least[each] + _BETWEEN for each in parts[-1])
        if len(parts[-1]) > 1 and least[place] > room:
            parts.append([0])
        parts[-1].append(place)
    return parts


def _widen(widths: dict[int, int], natural: Sequence[int], width: int) -> dict[int, int]:
    """The widths of the columns of a part, with what is left of the screen given to those that need more, the least
    needy first."""
    left = width - sum(widths.values()) - _BETWEEN * (len(widths) - 1)
    if left < 0:  # the first column and one more are too wide: the screen is shared
        return dict.fromkeys(widths, max(1, (width - _BETWEEN * (len(widths) - 1)) // len(widths)))
    needy = sorted(widths, key=lambda place: natural[place] - widths[place])
    for number, place in enumerate(needy):
        more = max(0, min(natural[place] - widths[place], left // (len(needy) - number)))
        widths[place] += more
        left -= more
    return widths


def _part(found: Table, widths: dict[int, int], columns: Sequence[Sequence[Cell]], *, folded: bool) -> Drawn:
    tall = folded and any(_longest([str(one)]) > widths[place] for place in widths for one in columns[place])
    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, leading=int(tall))
    numeric = found.numeric
    for place, width in widths.items():
        head = Text(line(found.headers[place]), style="bold")
        drawn.add_column(head, justify="right" if numeric[place] else "left", overflow="fold", width=width)
    for number in range(len(found.rows)):
        drawn.add_row(*(_text_of(columns[place][number], width) for place, width in widths.items()))
    return drawn


def _text_of(one: Cell, width: int) -> Text:
    """A cell; where it is a number with its interval, lines are broken between its parts alone."""
    lines: list[str] = []
    for part in map(line, one.parts):
        if lines and (not one.interval or _longest([f"{lines[-1]} {part}"]) <= width):
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    shown = Text("\n".join(lines))
    if one.interval:
        begin = len(line(one.text)) + 1
        shown.stylize("dim", begin, begin + len(one.interval))
    if one.best:
        shown.stylize("bold", 0, len(line(one.text)))
    for pattern, style in ((_BETTER, "green"), (_WORSE, "red"), (_UNSURE, "yellow")):
        shown.highlight_regex(pattern, style)
    return shown


def _least(one: Cell) -> int:
    """The width below which a cell can't be read."""
    whole = [one.text, one.interval] if one.interval else []
    return max(_longest(whole), _longest_word(one.parts))


def _longest(texts: Iterable[str]) -> int:
    return max((Text(line(text)).cell_len for text in texts), default=0)


def _longest_word(texts: Iterable[str]) -> int:
    return min(_LONGEST_WORD, _longest(word for text in texts for word in text.split()))
