"""What the columns of a benchmark's table hold, as the task's YAML declares it under `columns`.

    columns: {question: question, answer: yes_no, category: one of random popular, hint: text or nothing, image: any}

    read_columns({"answer": ["Yes ", True, 0]}, {"answer": "yes_no"})      # {"answer": ["yes", "yes", "no"]}

A cell is read in any spelling that means one thing; else the table is refused with its row and value, since a true
answer in a spelling that no rule knows would make every model wrong. Kinds:

    any                     not looked at
    id                      text or a whole number, which becomes text
    number                  a whole number, or its digits
    text, text or nothing   text; a number becomes its digits. Nothing is "", null, or "nan"
    question                text, without the mark of its picture; "question or nothing" for a hint
    texts, text or texts    a list of texts, or the text of one in JSON, Python or as numpy prints it
    texts or nothing        the same; nothing is the empty list
    yes_no, Yes_No, one_zero    yes or no, as "yes" and "no", "Yes" and "No", or "1" and "0"
    one of A B, several of A B      one of these names in any case; a list of them, or text with commas between
    option of A B C         the letter of an option; A B C are the columns with the options' texts
    place in choices        the number from 0, or the letter, of a text in the column `choices`
    tasks.x.y               a function of cell and row that gives what the cell means; ValueError says what it must be

A table may lack a column of a kind "or nothing", which then holds nothing, and one of a kind that ends with "if there".
"""

import importlib
import io
import json
import math
import tokenize
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from support.image_marks import take_mark

Row = Mapping[str, Any]
Reader = Callable[[Any, Row], Any]

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OR_NOTHING: Final = " or nothing"
IF_THERE: Final = " if there"
YES: Final = frozenset({"yes", "true", "1", "y", "t", "1.0"})
NO: Final = frozenset({"no", "false", "0", "n", "f", "0.0"})


def read_columns(columns: Mapping[str, Sequence[Any]], kinds: Mapping[str, str]) -> dict[str, list[Any]]:
    """The declared columns, each cell as what it means; ValueError names the first row that can't be read."""
    count = max(map(len, columns.values()), default=0)
    kinds = {name: kind.removesuffix(IF_THERE) for name, kind in kinds.items()}
    found: dict[str, list[Any]] = {
        name: list(columns[name]) if name in columns else [None] * count
        for name, kind in kinds.items()
        if name in columns or kind.endswith(OR_NOTHING)
    }
    for name in sorted(found, key=lambda name: _looks_at_others(kinds[name])):
        read, places = reader(kinds[name]), range(len(found[name]))
        others = [other for other in found if other != name] if _looks_at_others(kinds[name]) else []
        bad: list[str] = []
        for place in places:
            try:
                found[name][place] = read(found[name][place], {other: found[other][place] for other in others})
            except ValueError as error:
                bad.append(f"row {place + 1}: {name} {shown(found[name][place])}: {error}")
        if bad:
            raise ValueError(bad[0] + (f" (and {len(bad) - 1} more such rows)" if len(bad) > 1 else ""))
    return found


def needed_columns(columns: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    """The columns that a table must have."""
    kinds = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "any")
    return tuple(name for name, kind in kinds.items() if not kind.endswith((OR_NOTHING, IF_THERE)))


def check_kind(kind: str) -> None:
    """LookupError for a kind that nothing reads; a function is not looked for."""
    if " " in kind or "." not in kind:
        reader(kind.removesuffix(IF_THERE))


def shown(cell: Any) -> str:
    """A cell in an error, on one line and not too long."""
    text = " ".join(repr(cell).split())
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text)} characters)"


def is_nothing(cell: Any) -> bool:
    """Whether a cell is empty: null, not a number, blank, or the text that tables write for it."""
    if isinstance(cell, str):
        return cell.strip().lower() in {"", "nan", "none", "null"}
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def reader(kind: str) -> Reader:
    """How cells of a kind are read; LookupError for a kind that nothing reads."""
    if kind in _PLAIN:
        plain = _PLAIN[kind]
        return lambda cell, row: plain(cell)
    if kind in _ABOUT_PICTURES:
        return _ABOUT_PICTURES[kind]
    for beginning, make in _OF_NAMES.items():
        if kind.startswith(f"{beginning} ") and (names := kind.removeprefix(beginning).split()):
            return make(names)
    module, dot, name = kind.rpartition(".")
    if not dot or " " in kind:
        known = [*_PLAIN, *_ABOUT_PICTURES, *(f"{beginning} NAMES" for beginning in _OF_NAMES)]
        raise LookupError(f"no kind of column is called {kind!r}; known: {', '.join(known)}, or a function's name")
    own: Reader = getattr(importlib.import_module(module), name)
    return own


def _looks_at_others(kind: str) -> bool:
    return kind in _ABOUT_PICTURES or "." in kind or kind.startswith(("option of ", "place in "))


def _read_id(cell: Any) -> str:
    whole = int(cell) if isinstance(cell, float) and cell.is_integer() else cell
    if isinstance(whole, bool) or not isinstance(whole, str | int) or not str(whole).strip():
        raise ValueError("must be a name or a number")
    return str(whole)


def _read_number(cell: Any) -> int:
    if isinstance(cell, str):
        with suppress(ValueError):
            cell = float(cell)
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, bool) or not isinstance(cell, int) or abs(cell) >= 2**53:
        raise ValueError("must be a whole number")
    return cell


def _read_text(cell: Any) -> str:
    if isinstance(cell, str) and cell.strip():
        return cell
    if isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell):
        return str(cell)
    raise ValueError("must be text")


def _read_text_or_nothing(cell: Any) -> str:
    return "" if is_nothing(cell) else _read_text(cell)


def read_texts(cell: Any) -> list[str]:
    """A list of texts, or what the text of a list holds; ValueError."""
    found = list_in(cell) if isinstance(cell, str) else cell
    if not isinstance(found, list | tuple):
        raise ValueError('must be a list of texts, such as ["a", "b"]')
    try:
        return [_read_text(item) for item in found]
    except ValueError:
        raise ValueError("must be a list of texts only") from None


def _read_text_or_texts(cell: Any) -> list[str]:
    whole = isinstance(cell, str) and list_in(cell) is None
    return [_read_text(cell)] if whole else read_texts(cell)


def list_in(text: str) -> list[Any] | None:
    """The list that a text writes: in JSON, as Python's, or as numpy prints one; None for other text."""
    if not (text.strip().startswith(("[", "(")) and text.strip().endswith(("]", ")"))):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _read_tokens(text.strip())
    return found if isinstance(found, list) else None


def _read_tokens(text: str) -> list[Any] | None:
    """The texts and numbers between two brackets, with or without commas: Python would join two texts without one."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(f"{text[0]}{text[1:-1]}{text[-1]}").readline))
        kinds = {tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER}
        inner = [token for token in tokens if token.type not in kinds][1:-1]
        if any(token.type not in (tokenize.STRING, tokenize.NUMBER) and token.string != "," for token in inner):
            return None
        return [literal_eval(token.string) for token in inner if token.string != ","]
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def read_yes_no(cell: Any) -> str:
    """ "yes" or "no", from any spelling of either; ValueError."""
    word = str(cell).strip().strip(".").lower() if isinstance(cell, str | int | float) else ""
    if word in YES or word in NO:
        return "yes" if word in YES else "no"
    raise ValueError("must be yes or no")


def _make_one_of(names: Sequence[str]) -> Reader:
    by_lower = {name.lower(): name for name in names}

    def read(cell: Any, row: Row) -> str:
        try:
            return by_lower[_read_id(cell).strip().lower()]
        except (ValueError, KeyError):
            raise ValueError(f"must be one of {', '.join(names)}") from None

    return read


def _make_several_of(names: Sequence[str]) -> Reader:
    one = _make_one_of(names)

    def read(cell: Any, row: Row) -> list[str]:
        parts = cell
        if isinstance(cell, str):
            listed = list_in(cell)
            parts = cell.split(",") if listed is None else listed
        if not isinstance(parts, list | tuple) or not parts:
            raise ValueError(f"must be some of {', '.join(names)}")
        return [one(part, row) for part in parts]

    return read


def _make_option_of(names: Sequence[str]) -> Reader:
    def read(cell: Any, row: Row) -> str:
        there = [letter for letter, name in zip(LETTERS, names, strict=False) if not is_nothing(row.get(name))]
        letter = str(cell).strip().strip("().").upper() if isinstance(cell, str) else ""
        if letter not in there:
            raise ValueError(f"must be the letter of an option: {', '.join(there) or 'the row has none'}")
        return letter

    return read


def _make_place_in(names: Sequence[str]) -> Reader:
    def read(cell: Any, row: Row) -> int:
        count = len(row.get(names[0]) or ())
        letter = str(cell).strip().strip("().").upper()
        place = LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else _read_number(cell)
        if not 0 <= place < count:
            raise ValueError(f"must be the number from 0, or the letter, of one of {count} {names[0]}")
        return place

    return read


def _read_question(cell: Any, row: Row) -> str:
    """A question's words: the prompt has its picture first, so that a mark there is the same place once more."""
    text = _read_text(cell)
    words = take_mark(text)
    if words != text and not row.get("image", True):
        raise ValueError("has the place of a picture, and the row has no picture")
    return _read_text(words)


_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "any": lambda cell: cell,
    "id": _read_id,
    "number": _read_number,
    "text": _read_text,
    f"text{OR_NOTHING}": _read_text_or_nothing,
    "texts": read_texts,
    f"texts{OR_NOTHING}": lambda cell: [] if is_nothing(cell) else read_texts(cell),
    "text or texts": _read_text_or_texts,
    "yes_no": read_yes_no,
    "Yes_No": lambda cell: read_yes_no(cell).capitalize(),
    "one_zero": lambda cell: "1" if read_yes_no(cell) == "yes" else "0",
}
_ABOUT_PICTURES: Final[Mapping[str, Reader]] = {
    "question": _read_question,
    f"question{OR_NOTHING}": lambda cell, row: "" if is_nothing(cell) else _read_question(cell, row),
}
_OF_NAMES: Final[Mapping[str, Callable[[Sequence[str]], Reader]]] = {
    "one of": _make_one_of,
    "several of": _make_several_of,
    "option of": _make_option_of,
    "place in": _make_place_in,
}
