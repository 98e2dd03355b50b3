"""What other programs may rely on: the JSON Schemas of what a board keeps, and the facts that provenance holds.

schema("run")["properties"]
lacking(entry)      # the facts that it should hold and does not
"""

import json
from pathlib import Path
from typing import Any, Final

from leaderboards.board.entry import GIVEN, PROTOCOL, Entry
from support.errors import UnknownName

_FOLDER: Final = Path(__file__).with_name("schema")

NAMES: Final = ("run", "sample", "published")

MEASURED: Final = (
    "weights",
    "vlm-harness",
    "commit",
    "python",
    "torch",
    "transformers",
    "pillow",
    "device",
    "seed",
    "task",
    "data",
)
"""Facts in the provenance of every number that was measured here."""

IMPORTED: Final = ("imported", "source", "source digest")
"""Facts in the provenance of every number that was computed elsewhere."""

OF_GIVEN: Final = (GIVEN, "source digest", "vlm-harness", "task", PROTOCOL)
"""Facts in the provenance of every score of answers that were given in files."""


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of this name (draft 2020-12); BoardError."""
    if name not in NAMES:
        raise UnknownName("schema", name, NAMES)
    found: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def lacking(entry: Entry) -> list[str]:
    """Which facts the entry's provenance should hold and does not."""
    facts = IMPORTED if entry.imported is not None else MEASURED if entry.given is None else OF_GIVEN
    return [fact for fact in facts if fact not in entry.provenance]
