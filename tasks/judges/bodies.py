"""The JSON that a server sends, read within bounds: any program may be behind an address."""

import json
from typing import Any, Final

from support.parsing import parse_json
from support.secrets import redact_known

DEEPEST: Final = 64
"""Lists and objects in one another: a reply has about eight."""
LONGEST_INTEGER: Final = 18
"""Digits that are read exactly; a larger number is rounded, as other programs do."""


def read_json(data: bytes | str) -> Any:
    """What a body says, in any encoding of JSON, without secrets of ours that it repeats; bytes that are no text become
    U+FFFD. ValueError."""
    text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "replace")
    found = parse_json(text.removeprefix("\ufeff"), parse_int=_read_integer)
    level = [found]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        if not level:
            return redact_known(found)
    raise ValueError("nested too deep")


def _read_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)
