"""The authors' own files of POPE and MM-Vet: the same documents, and so the same scores, as from the hub's table."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.errors import BenchmarkDataError
from tasks.benchmarks.pope import SPLITS
from tests.tasks.table_rows import ROWS, Row
from tests.tasks.test_vlmevalkit import documents, picture, scores

PICTURES = [base64.b64decode(picture(number)) for number in range(4)]


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_pope(folder: Path, count: int = 6) -> list[Row]:
    """The authors' three files and COCO's pictures; the same rows in the hub's columns."""
    hub: list[Row] = []
    for number, data in enumerate(PICTURES):
        put(folder / "val2014" / f"COCO_val2014_{number:012}.jpg", data)
    for split in SPLITS:
        asked = [
            {"question_id": n + 1, "image": f"COCO_val2014_{n % 4:012}.jpg", "text": f"Is there a {split} {n}?"}
            | {"label": "yes" if n % 2 else "no"}
            for n in range(count)
        ]
        put(folder / "output" / "coco" / f"coco_pope_{split}.json", lines(asked))
        hub += [
            {"question_id": str(row["question_id"]), "question": row["text"], "answer": row["label"]}
            | {"category": split, "image": picture(n % 4), "id": str(n)}
            for n, row in enumerate(asked)
        ]
    return hub


def write_mmvet(folder: Path) -> list[Row]:
    asked = {
        f"v1_{n}": {"imagename": f"v1_{n}.png", "question": f"What is {n}?", "answer": "a<AND>b", "capability": ["ocr"]}
        for n in range(4)
    }
    put(folder / "v1" / "mm-vet.json", json.dumps(asked, indent=4))
    put(folder / "v1" / "bard_set.json", json.dumps(["v1_0"]))
    for number, data in enumerate(PICTURES):
        put(folder / "v1" / "images" / f"v1_{number}.png", data)
    return [
        {"question_id": id, "question": row["question"], "answer": row["answer"], "capability": "ocr"}
        | {"image": picture(number)}
        for number, (id, row) in enumerate(asked.items())
    ]


WRITE: Mapping[str, Callable[[Path], list[Row]]] = {"pope": write_pope, "mmvet": write_mmvet}


@pytest.mark.parametrize("task", WRITE)
def test_the_authors_files_are_the_hubs_table(task: str, tmp_path: Path) -> None:
    table = put(tmp_path / "hub.jsonl", lines(WRITE[task](tmp_path / "own")))
    own = documents(task, tmp_path / "own")
    assert own == documents(task, table)
    assert all(len(doc["image"]) == 32 for doc in own)
    if task == "pope":
        assert scores(task, own) == scores(task, documents(task, table)) != {}


@pytest.mark.parametrize("task", WRITE)
@pytest.mark.parametrize(
    "name", ("test-00000-of-00001.jsonl", "data/test.tsv", "answers.jsonl", "captions_val2014.json")
)
def test_the_hubs_table_beside_the_authors_files_comes_first(task: str, name: str, tmp_path: Path) -> None:
    WRITE[task](tmp_path)
    row = {**ROWS[task], "question": "of the hub", "image": picture(3)}
    if "test" not in name:
        put(tmp_path / name, lines([{"who": "me"}]))
    elif name.endswith("tsv"):
        row |= {"capability": "ocr"} if task == "mmvet" else {}
        put(tmp_path / name, "\t".join(row) + "\n" + "\t".join(map(str, row.values())))
    else:
        put(tmp_path / name, lines([row]))
    assert ([doc["question"] for doc in documents(task, tmp_path)] == ["of the hub"]) is ("test" in name)


@pytest.mark.parametrize("task", WRITE)
def test_a_json_table_in_the_hubs_columns_is_still_one(task: str, tmp_path: Path) -> None:
    put(tmp_path / "test.json", json.dumps([{**ROWS[task], "image": picture(0)}]))
    assert len(documents(task, tmp_path)) == 1


def test_mmvets_file_may_be_named_itself(tmp_path: Path) -> None:
    write_mmvet(tmp_path)
    assert documents("mmvet", tmp_path / "v1" / "mm-vet.json") == documents("mmvet", tmp_path)


def test_one_sample_of_pope_and_another_version_are_refused(tmp_path: Path) -> None:
    write_pope(tmp_path)
    one = tmp_path / "output" / "coco" / "coco_pope_random.json"
    for task in ("pope", "pope_llava"):
        with pytest.raises(
            BenchmarkDataError, match="has the questions of one sample; name the folder with coco_pope_"
        ):
            documents(task, one)
    for count, task, other in ((2910, "pope", "pope_llava"), (3000, "pope_llava", "pope")):
        put(one, lines([{"question_id": n, "image": "1.jpg", "text": "Is it?", "label": "no"} for n in range(count)]))
        with pytest.raises(BenchmarkDataError, match=f"its {count} questions are those of task {other}, not of {task}"):
            documents(task, tmp_path)
    one.unlink()
    with pytest.raises(BenchmarkDataError, match=r"has 0 files coco_pope_random\.json, must be one"):
        documents("pope", tmp_path)
