"""Records of the published VLFeedback for tests, and the files they stand in."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.trainers.image_makers import png
from trainers.config.data import ASPECTS

IDS = ["1", "2", "1", "4"]


PICTURES = {"1": png(1), "2": png(2), "4": png(4)}


def annotations(*ratings: str | None) -> dict[str, Any]:
    """Ratings of an answer, by aspect."""
    return {
        aspect: {"Rating": rating, "Rationale": f"as {rating}"} for aspect, rating in zip(ASPECTS, ratings, strict=True)
    }


def completions(index: int) -> list[dict[str, Any]]:
    """Two rated answers."""
    return [
        {"annotations": annotations("4", "5", "N/A"), "model": "gpt4v", "response": f"A cat {index} 【7†source】."},
        {"annotations": annotations("1", "2", "3"), "model": "llava", "response": "Ein Hund äöü 😀"},
    ]


def record(index: int) -> dict[str, Any]:
    """A record as VLFeedback has it."""
    return {
        "id": IDS[index],
        "prompt": f"What is it? {index}",
        "models": ["gpt4v", "llava"],
        "completions": completions(index),
    }


RECORDS = [record(index) for index in range(4)]


def put_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Write records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


def put_images(folder: Path) -> None:
    """Write the records' images."""
    folder.mkdir(parents=True, exist_ok=True)
    for id, data in PICTURES.items():
        (folder / f"{id}.jpg").write_bytes(data)


def put_zip(path: Path, prefix: str = "merged_images/") -> None:
    """Write the records' images into a zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for id, data in PICTURES.items():
            archive.writestr(f"{prefix}{id}.jpg", data)


def put_parquet(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write records as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)


def clone(folder: Path) -> Path:
    """The folder of a clone of the published dataset."""
    put_lines(folder / "vlfeedback_80k.jsonl", RECORDS)
    put_lines(folder / "instruction_source.jsonl", [{"id": "1", "source": "svit"}])
    put_zip(folder / "merged_images.zip")
    return folder
