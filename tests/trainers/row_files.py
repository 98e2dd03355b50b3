"""Files of pairs beside their pictures, and what is read of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.trainers.image_makers import png
from trainers.config.data import PreferenceFile
from trainers.data.read_preferences import FoundPairs, read_preferences

ANSWERS = {"chosen": "a cat", "rejected": "a dog"}


def put(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def put_pictures(folder: Path, count: int = 6) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number))


def read(path: Path | str, **changes: Any) -> FoundPairs:
    return read_preferences(PreferenceFile.model_validate({"read": str(path), "test_share": 0, **changes}))


def shown(found: FoundPairs) -> list[list[bytes]]:
    return [[picture.read() for picture in pair.images] for pair in found.train]
