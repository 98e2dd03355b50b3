"""`harness eval` of every benchmark on data as they lie: the hub's layouts, clones of them, all in one folder, packed,
and saved by `datasets`."""

import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.cli.application import run
from leaderboards.board.board import Board
from tasks.documents import load
from tasks.registry import registry
from tests.conftest import Server
from tests.harness.true_layouts import FILES, FOLDERS, clone, make_layouts, reply, write_tables
from tests.tasks.table_rows import PICTURE, ROWS, Row, load_metadata

LIMIT = 4


def check_all_score(data: Mapping[str, Path], server: Server, out: Path) -> None:
    """Scores the embedded model on every task of `data`: each picture is seen, each reply is read."""
    server.reply = reply
    given = [option for task, path in data.items() for option in ("--data", f"{task}={path}")]
    judge = ["--judge", "local-judge", "--judge-url", server.url, "--judge-price", "0,0", "--ledger", str(out / "l")]
    what = ["--model", "scenes-base", "--tasks", ",".join(data), "--partial-data", "--limit", str(LIMIT)]
    assert run(["eval", *what, *given, *judge, "--out", str(out), "--max-failed", "1", "--device", "cpu"]) == 0
    entries = Board(out / "board").entries()
    assert {entry.task for entry in entries} == set(data)
    assert [entry for entry in entries if entry.failed or entry.unscored] == []
    assert {entry.task: entry.samples for entry in entries if entry.headline and not entry.samples} == {}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tables(tmp_path_factory.mktemp("tables"))


def test_every_benchmark_is_scored_from_the_hubs_layout(
    layouts: Path, server: Server, tmp_path: Path, no_keys: None
) -> None:
    check_all_score({task: layouts / name for task, name in FOLDERS.items()}, server, tmp_path / "plain")
    check_all_score({task: layouts / name for task, name in FILES.items()}, server, tmp_path / "files")


def test_every_benchmark_is_scored_from_a_folder_of_all(
    layouts: Path, server: Server, tmp_path: Path, no_keys: None
) -> None:
    check_all_score(dict.fromkeys(FOLDERS, layouts), server, tmp_path)


def test_every_benchmark_is_scored_from_a_clone(layouts: Path, server: Server, tmp_path: Path, no_keys: None) -> None:
    clones = {task: clone(layouts / name, tmp_path / "clones" / name) for task, name in FOLDERS.items()}
    check_all_score(clones, server, tmp_path / "clones-out")


def test_every_table_is_scored_from_its_folder_its_clone_and_among_all_others(
    tables: dict[str, Path], server: Server, tmp_path: Path, no_keys: None
) -> None:
    assert set(tables) == {spec.name for spec in registry().expand(["all"])}
    check_all_score(tables, server, tmp_path / "plain")
    clones = {task: clone(path, tmp_path / "clones" / task) for task, path in tables.items()}
    check_all_score(clones, server, tmp_path / "out")
    check_all_score(dict.fromkeys(tables, tmp_path / "clones"), server, tmp_path / "all")


# Other shapes, by what is read of them.

RIGHT: Row = {**ROWS["mmvet"], "question": "right"}
OTHER: Row = {**ROWS["mmvet"], "question": "of another split"}


def questions(folder: Path, task: str = "mmvet") -> list[str]:
    metadata = load_metadata(task) | {"task": task, "paths": {task: str(folder)}, "partial_data": True}
    found = load(**metadata)["test"]
    assert all(found["image"])
    return list(found["question"])


def lines(*rows: Row) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def save_to_disk(folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = {"test": RIGHT, "train": OTHER}
    DatasetDict({name: Dataset.from_list([{"image": PICTURE, **row}]) for name, row in rows.items()}).save_to_disk(
        folder
    )
    results = folder / "test" / "cache-0123456789abcdef.arrow"
    results.write_bytes((folder / "train" / "data-00000-of-00001.arrow").read_bytes())


def convert_a_part(folder: Path) -> None:
    from datasets import Dataset

    for split, row in (("test", RIGHT), ("train", OTHER)):
        file = folder / "default" / f"partial-{split}" / "0000.parquet"
        file.parent.mkdir(parents=True)
        Dataset.from_list([{"image": PICTURE, **row}]).to_parquet(file)


def pack(folder: Path) -> None:
    from base64 import b64decode

    for split, row in (("test", RIGHT), ("train", OTHER)):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            archive.writestr(f"{split}/metadata.jsonl", lines({**row, "file_name": "1.png"}))
            archive.writestr(f"{split}/1.png", b64decode(PICTURE))
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        archive.writestr("2.png", b64decode(PICTURE))


def put_beside_others(folder: Path) -> None:
    from datasets import Dataset

    for name, row in (("mm-vet", RIGHT), ("my-set", {**OTHER, "caption": "x"})):
        file = folder / name / "data" / "test-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        Dataset.from_list([{"image": PICTURE, **row}]).to_parquet(file)


def put_below_an_owner(folder: Path) -> None:
    for name, row in (("lmms-lab/MMVet", RIGHT), ("me/MMVet", OTHER)):
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text(lines({"image": PICTURE, **row}))


def put_into_the_hubs_cache(folder: Path) -> None:
    for name, row in (("datasets--lmms-lab--MMVet", RIGHT), ("datasets--me--MMVet2", OTHER)):
        file = folder / name / "snapshots" / "0" / "test.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(lines({"image": PICTURE, **row}))


def list_pictures(folder: Path) -> None:
    (folder / "test.jsonl").write_text(lines({"images": [PICTURE], **RIGHT}))


@pytest.mark.parametrize(
    "write",
    (
        *(save_to_disk, convert_a_part, pack, put_beside_others, put_below_an_owner),
        *(put_into_the_hubs_cache, list_pictures),
    ),
)
def test_data_are_read_as_they_lie(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    assert questions(tmp_path) == ["right"]


@pytest.mark.parametrize("name", ("MMBench_EN/dev.jsonl", "EN/dev.jsonl", "mmbench_EN_dev.jsonl"))
def test_a_configuration_is_told_by_a_word_of_a_name(name: str, tmp_path: Path) -> None:
    for place, words in ((name, "right"), (name.replace("EN", "CN"), "wrong")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(lines({"image": PICTURE, **ROWS["mmbench"], "question": words}))
    assert questions(tmp_path, "mmbench") == ["right"]


def test_the_requests_of_one_benchmark_are_no_others(tmp_path: Path) -> None:
    subset = tmp_path / "RedTeamingVLM" / "data" / "Celebrity"
    subset.mkdir(parents=True)
    (subset / "mixed.jsonl").write_text(lines({"prompt": "right", "image": PICTURE}))
    (tmp_path / "mmhal-bench_with_image.jsonl").write_text(lines({"image": PICTURE, **ROWS["mmhal"]}))
    assert questions(tmp_path, "rtvlm") == ["right"]


def test_pictures_may_lie_beside_the_folder_of_a_dataset(tmp_path: Path) -> None:
    from base64 import b64decode

    (tmp_path / "MMVet").mkdir()
    (tmp_path / "MMVet" / "test.jsonl").write_text(lines({**RIGHT, "image": "val2014/1.png"}))
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "1.png").write_bytes(b64decode(PICTURE))
    metadata = load_metadata("mmvet") | {"task": "mmvet", "paths": {"mmvet": str(tmp_path)}, "partial_data": True}
    (key,) = load(**metadata)["test"]["image"]
    assert not key.startswith("unreadable")


def test_tables_without_pictures_and_archives_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    from support.errors import BenchmarkDataError

    (tmp_path / "test.jsonl").write_text(lines(RIGHT))
    with pytest.raises(BenchmarkDataError, match="has no column image; it has question_id, question, answer"):
        questions(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    with tarfile.open(tmp_path / "test-000.tar", "w"):
        pass
    for given in (tmp_path, tmp_path / "test-000.tar"):
        with pytest.raises(BenchmarkDataError, match=r"no \.parquet, .* file in it; unpack test-000\.tar"):
            questions(given)


def test_tables_of_several_datasets_are_refused_in_one_line(tmp_path: Path) -> None:
    from datasets import Dataset

    from support.errors import BenchmarkDataError

    for name, more in (("a", {}), ("b", {"caption": "x"})):
        (tmp_path / name).mkdir()
        Dataset.from_list([{"image": PICTURE, **RIGHT, **more}]).to_parquet(tmp_path / name / "test.parquet")
    with pytest.raises(BenchmarkDataError, match="their columns differ; name the folder of one dataset"):
        questions(tmp_path)
