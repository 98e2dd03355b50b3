"""The formats of the board, as JSON Schema, for whoever reads or writes its files by other means.

    schema("run")                 # a run's JSON file; "sample": a row of its log; "published": scores that others reported
    lacking(entry)                # facts without which a measured number can't be traced

The files are in `schema/`. What a schema cannot say (an interval's ends are in order, a run is of one model) `board` and `entry` check.
"""

import difflib
import json
from pathlib import Path
from typing import Any, Final

from leaderboards.entry import Entry

_FOLDER: Final = Path(__file__).with_name("schema")

NAMES: Final = ("run", "sample", "published")

MEASURED: Final = ("weights", "vlm-harness", "commit", "python", "torch", "transformers", "pillow", "device", "seed", "task", "data")
"""Facts in the provenance of every number that was measured here."""

IMPORTED: Final = ("imported", "source", "source digest")
"""Facts in the provenance of every number that was computed elsewhere."""


class SchemaError(ValueError):
    """There is no schema of this name."""


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of this name (draft 2020-12); SchemaError."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SchemaError(f"unknown schema {name!r}{hint}; known: {', '.join(NAMES)}")
    found: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def lacking(entry: Entry) -> list[str]:
    """Which facts the entry's provenance should hold and does not."""
    return [fact for fact in (MEASURED if entry.imported is None else IMPORTED) if fact not in entry.provenance]
