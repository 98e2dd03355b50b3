"""The lines of a batch's files: those that are sent, and those that come back, of any form."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.judges.bodies import read_json


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a batch did with one question."""

    data: bytes | None = None
    """What came back, as JSON; empty: it was done, and what came of it can't be read. None: it was not done."""
    status: int = 0
    """Why not, as a status of HTTP, where one is given."""
    refusal: Any = None
    """The body that came with it."""


def write_line(key: str, body: Mapping[str, Any]) -> bytes:
    """One question as a line of a file."""
    row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(row).encode() + b"\n"


def read_lines(data: bytes, keys: Collection[str]) -> tuple[dict[str, Line], int]:
    """What a file says of these questions, and how many of its lines say nothing of any of them. Of several lines of
    one question, the first that has a body counts."""
    found: dict[str, Line] = {}
    damaged, known = 0, set(keys)
    for text in data.split(b"\n"):
        if not text.strip():
            continue
        try:
            row = read_json(text)
        except ValueError:
            row = None
        key = row.get("custom_id") if isinstance(row, Mapping) else None
        if not isinstance(row, Mapping) or not isinstance(key, str) or key not in known:
            damaged += 1
        elif key not in found or not found[key].data:
            found[key] = _read_row(row)
    return found, damaged


def _read_row(row: Mapping[str, Any]) -> Line:
    response = row.get("response")
    if not isinstance(response, Mapping):
        return Line() if row.get("error") else Line(data=b"")
    status = str(response.get("status_code"))
    if status == "200":
        return Line(data=json.dumps(response.get("body")).encode())
    return Line(status=int(status), refusal=response.get("body")) if status.isdecimal() else Line(data=b"")
