"""A clone of a hub dataset as --data: the task's configuration and split are chosen among its files."""

import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.errors import BenchmarkDataError
from tasks.data_files import choose_tables
from tasks.documents import load
from tasks.registry import registry
from tests.harness.true_layouts import make_layouts
from tests.tasks.table_rows import PICTURE, ROWS, Row, load_metadata

DEFAULT_AND_FULL = """---
configs:
- config_name: Full
  data_files:
  - {split: adversarial, path: Full/adversarial-*}
  - {split: test, path: Full/test-*}
- config_name: default
  data_files:
  - split: test
    path: questions/part-*
---
A card.
"""


def write(folder: Path, files: Mapping[str, list[Row]]) -> Path:
    """Parquet files in a clone, with what else a clone has."""
    from datasets import Dataset

    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list([{"image": PICTURE, **row} for row in rows]).to_parquet(str(path))
    (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    (folder / ".git").mkdir(exist_ok=True)
    (folder / ".git" / "old.jsonl").write_text("{}")
    (folder / "dataset_infos.json").write_text('{"default": {"splits": {}}}')
    return folder


def questions(task: str, folder: Path, **given: Any) -> list[str]:
    metadata = load_metadata(task) | {"task": task, "paths": {task: str(folder)}, "partial_data": True}
    return list(load(**metadata | given)["test"]["question"])


def row(task: str, words: str, **other: Any) -> Row:
    return {**ROWS[task], "question": words, **other}


def shards(names: Mapping[str, str], task: str) -> dict[str, list[Row]]:
    """File (without its number) -> a row whose question is these words."""
    return {f"{name}-00000-of-00001.parquet": [row(task, words)] for name, words in names.items()}


CLONES: dict[str, tuple[dict[str, str], list[str]]] = {
    "pope": ({"data/test": "right", "Full/popular": "copy", "Full/random": "copy"}, ["right"]),
    "mmbench": (
        {"cc/test": "cc", "cn/dev": "cn", "cn/test": "cn test", "en/dev": "right", "en/test": "no"},
        ["right"],
    ),
    "scienceqa_img": (
        {"ScienceQA-IMG/test": "right", "ScienceQA-IMG/train": "no", "ScienceQA-FULL/test": "no"},
        ["right"],
    ),
    "hallusionbench": ({"data/image": "right", "data/non_image": "right, too"}, ["right", "right, too"]),
    "hallusionbench_image": ({"data/image": "right", "data/non_image": "no"}, ["right"]),
    "llava_bench_wild": ({"data/train": "right", "data/validation": "no"}, ["right"]),
    "mmvet": ({"data/test": "right"}, ["right"]),
}


@pytest.mark.parametrize("task", CLONES)
def test_configuration_and_split_are_chosen_by_the_names_of_files(task: str, tmp_path: Path) -> None:
    files, right = CLONES[task]
    write(tmp_path, shards(files, task))
    if task == "hallusionbench":  # two rows differ in their keys, and splits may in their columns
        write(tmp_path, {"data/non_image-00000-of-00001.parquet": [row(task, "right, too", set_id="9", note="x")]})
    assert questions(task, tmp_path) == right


def test_the_cards_header_says_which_files_are_the_tables(tmp_path: Path) -> None:
    files = {"questions/part-1": "right", "data/test": "older", "Full/adversarial": "no", "Full/test": "no"}
    write(tmp_path, shards(files, "mmvet"))
    (tmp_path / "README.md").write_text(DEFAULT_AND_FULL)
    assert questions("mmvet", tmp_path) == ["right"]
    assert questions("mmvet", tmp_path, config="Full") == ["no"]


@pytest.mark.parametrize(
    "entry",
    (
        {"data_files": "questions/*"},
        {"data_files": ["questions/*"]},
        {"data_dir": "questions"},
        {"data_dir": "questions", "data_files": [{"split": "test", "path": ["test-*"]}]},
    ),
)
def test_a_card_may_name_a_configurations_files_without_their_splits(entry: Row, tmp_path: Path) -> None:
    write(tmp_path, shards({"questions/test": "right", "questions/train": "no", "data/test": "no"}, "mmvet"))
    config = {"config_name": "default", **entry}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': [config]})}\n---\n")
    assert questions("mmvet", tmp_path) == ["right"]


@pytest.mark.parametrize("path", ("questions/{train,test}-*", ["questions/{a,test}{-0*,}", "x/*"], "{questions,a}/*"))
@pytest.mark.parametrize("in_list", (False, True))
def test_a_cards_patterns_may_have_braces(path: Any, in_list: bool, tmp_path: Path) -> None:
    write(tmp_path, shards({"questions/test": "right", "data/test": "no"}, "mmvet"))
    files = [{"split": "test", "path": path}] if in_list else {"test": path}
    config = {"config_name": "default", "data_files": files}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': [config]})}\n---\n")
    assert questions("mmvet", tmp_path) == ["right"]


@pytest.mark.parametrize(
    "path",
    (
        "{../outside,x}/test-*",
        "{a,b}" * 40,
        "{a,{b,c}",
        "../outside/test-*",
        "/etc/*",
        "https://example.org/test-*",
        "[",
        "**/../../*",
        None,
        7,
        "nothing-*",
    ),
)
def test_a_card_leads_nowhere_else(path: object, tmp_path: Path) -> None:
    write(tmp_path / "outside", shards({"test": "stolen"}, "mmvet"))
    clone = write(tmp_path / "clone", shards({"data/test": "right"}, "mmvet"))
    config = {"config_name": "default", "data_files": [{"split": "test", "path": path}]}
    (clone / "README.md").write_text(f"---\n{json.dumps({'configs': [config]})}\n---\n")
    assert questions("mmvet", clone) == ["right"]


@pytest.mark.parametrize("header", ("configs: 3", "configs: [1, {}]", ": :", "configs:\n- config_name: [", "x" * 9))
def test_a_card_that_says_nothing_leaves_it_to_the_names(header: str, tmp_path: Path) -> None:
    clone = write(tmp_path, shards({"data/test": "right", "Full/test": "no"}, "mmvet"))
    (clone / "README.md").write_text(f"---\n{header}\n---\n")
    assert questions("mmvet", clone) == ["right"]


def test_a_split_may_be_called_by_its_other_name(tmp_path: Path) -> None:
    write(tmp_path, shards({"en/validation": "right", "en/train": "no"}, "mmbench"))
    assert questions("mmbench", tmp_path) == ["right"]


def test_a_dataset_among_others_is_told_by_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "MMVet", shards({"data/test": "right"}, "mmvet"))
    write(tmp_path / "other", shards({"data/test": "no"}, "mmvet"))
    assert questions("mmvet", tmp_path) == ["right"]


def test_files_of_the_hubs_conversion_are_told_by_their_folders(tmp_path: Path) -> None:
    files = {f"{place}/0000.parquet": [row("mmbench", place)] for place in ("en/dev", "en/test", "cn/dev")}
    assert questions("mmbench", write(tmp_path, files)) == ["en/dev"]


def test_other_splits_only_are_no_table_of_the_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, shards({"data/train": "a", "data/validation": "b"}, "mmvet"))
    with pytest.raises(BenchmarkDataError, match="has the split train, validation, the benchmark is test; name the"):
        questions("mmvet", tmp_path)
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    assert questions("mmvet", tmp_path) == ["a"]
    assert "has the split train, the benchmark is test by the names of its files; it is read" in caplog.text


@pytest.mark.parametrize(("name", "told"), (("cn/dev", True), ("dev_cn", True), ("en/dev", False), ("dev", False)))
def test_a_table_of_another_language_is_told(
    name: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, shards({name: "a"}, "mmbench"))
    (file,) = tmp_path.rglob("*.parquet")
    for given in (tmp_path, file) if file.parent == tmp_path else (tmp_path,):
        caplog.clear()
        assert questions("mmbench", given) == ["a"]
        assert ("is cn by its name, the benchmark is en; it is read" in caplog.text) is told


def test_a_card_may_give_files_by_split(tmp_path: Path) -> None:
    write(tmp_path, {"x/1.parquet": [row("mmbench", "right")], "x/2.parquet": [row("mmbench", "no")]})
    entry = {"config_name": "en", "data_files": {"test": "x/2.parquet", "dev": ["x/1.parquet"]}}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [entry]})}---\nA card.\n")
    assert questions("mmbench", tmp_path) == ["right"]


def test_what_is_left_alone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, shards({"data/test": "right", "Full/test": "no"}, "mmvet"))
    with caplog.at_level(logging.INFO):
        questions("mmvet", tmp_path)
    assert "read: data/test-00000-of-00001.parquet; left alone: Full/test-00000-of-00001.parquet, data" in caplog.text


def test_a_table_beside_other_tables_is_told_by_its_columns(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"who": "me"}\n')
    (tmp_path / "mine.jsonl").write_text(json.dumps({"image": PICTURE, **row("mmvet", "right")}))
    (tmp_path / "scores.csv").write_text("model,score\nx,1\n")
    assert questions("mmvet", tmp_path) == ["right"]


@pytest.mark.parametrize("name", ("mmhal-bench_with_image.jsonl", "x/response_template.json"))
def test_an_official_file_is_found_wherever_its_folder_is(name: str, tmp_path: Path) -> None:
    write(tmp_path, shards({"POPE/data/test": "no"}, "pope"))
    (tmp_path / "answers.json").write_text('[{"model_answer": "a cat"}]')
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps([{"image": PICTURE, **row("mmhal", "right")}]))
    assert questions("mmhal", tmp_path) == questions("mmhal", file) == ["right"]


@pytest.mark.parametrize("task", ("scienceqa_img", "mmhal"))
def test_a_table_that_is_there_twice_does_not_count_twice(task: str, tmp_path: Path) -> None:
    rows = [row(task, "one"), row(task, "two")]
    write(tmp_path, {"first/a.parquet": rows, "second/a.parquet": rows})
    with pytest.raises(BenchmarkDataError, match="all 4 rows come several times; name one of the copies"):
        questions(task, tmp_path)


def test_a_copy_of_a_part_of_the_rows_does_not_count_twice(tmp_path: Path) -> None:
    rows = [row("scienceqa_img", f"{number}") for number in range(4)]
    write(tmp_path, {"test-00000-of-00001.parquet": rows, "test-00000-of-00001 (1).parquet": rows[:3]})
    with pytest.raises(BenchmarkDataError, match="6 of 7 rows come several times; name one of the copies"):
        questions("scienceqa_img", tmp_path)


def test_shards_that_are_missing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"data/test-00001-of-00002.parquet": [row("mmvet", "right")]})
    assert questions("mmvet", tmp_path) == ["right"]
    assert "data: 1 of 2 shards of test are there" in caplog.text


def test_a_zip_without_a_table_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mm-vet.zip", "w") as archive:
        archive.writestr("mm-vet/mm-vet.json", json.dumps({"v1_0": {"question": "What?"}}))
    with pytest.raises(BenchmarkDataError, match=r"file in it; unpack mm-vet\.zip"):
        questions("mmvet", tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ("data/test-00000-of-00001.parquet", "table.jsonl", "table.tsv", "table.json"))
def test_a_clone_without_lfs_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(POINTER)
    with pytest.raises(BenchmarkDataError, match=f"{path.name} is a Git LFS pointer, not the file: run `git lfs pull`"):
        questions("mmvet", tmp_path)


def test_a_zip_without_lfs_says_so(tmp_path: Path) -> None:
    (tmp_path / "test_data.zip").write_text(POINTER)
    (tmp_path / "response_template.json").write_text(json.dumps([row("mmhal", "right")]))
    with pytest.raises(BenchmarkDataError, match=r"test_data\.zip is a Git LFS pointer"):
        questions("mmhal", tmp_path)


def test_large_json_beside_a_tasks_own_layout_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import data_files

    looked_at: list[Path] = []

    def counted(path: Path) -> list[str]:
        looked_at.append(path)
        return []

    monkeypatch.setattr(data_files, "columns", counted)
    (tmp_path / "instances_val2014.json").write_text("{}")
    with pytest.raises(BenchmarkDataError):
        questions("chair", tmp_path)
    assert looked_at == []


def test_pictures_without_lfs_are_told_before_any_question(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text(POINTER)
    (tmp_path / "table.jsonl").write_text(json.dumps({**row("mmvet", "right"), "image": "1.png"}))
    with pytest.raises(BenchmarkDataError, match=r"1\.png is a Git LFS pointer"):
        questions("mmvet", tmp_path)


def test_links_of_the_hubs_cache_are_tables(tmp_path: Path) -> None:
    write(tmp_path / "blobs", {"1.parquet": [row("mmvet", "right")]})
    (tmp_path / "snapshot" / "data").mkdir(parents=True)
    os.symlink(tmp_path / "blobs" / "1.parquet", tmp_path / "snapshot" / "data" / "test-00000-of-00001.parquet")
    assert questions("mmvet", tmp_path / "snapshot") == ["right"]


def test_an_empty_folder_has_no_table(tmp_path: Path) -> None:
    assert choose_tables(tmp_path, config=None, splits=["test"], wanted=lambda names: True) == []
    with pytest.raises(BenchmarkDataError, match=r"no \.parquet, \.arrow, \.jsonl"):
        questions("mmvet", tmp_path)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layouts(tmp_path_factory.mktemp("layouts"))


TRUE_LAYOUTS = {
    **{"mme": ("MME", 24), "pope": ("POPE", 36), "mmbench": ("MMBench", 6), "seedbench_img": ("SEED-Bench", 6)},
    **{"mmvet": ("MMVet", 4), "llava_bench_wild": ("llava-wild", 6), "llava_bench_coco": ("llava-coco", 6)},
    **{
        "chair": ("mscoco_chair", 4),
        "mmhal": ("MMHal-Bench", 8),
        "rtvlm": ("RedTeamingVLM", 14),
        "amber": ("AMBER", 7),
    },
}


@pytest.mark.parametrize("task", TRUE_LAYOUTS)
def test_the_hubs_true_layouts_are_read_with_their_pictures(task: str, layouts: Path) -> None:
    name, count = TRUE_LAYOUTS[task]
    metadata = load_metadata(task) | {"task": task, "paths": {task: str(layouts / name)}, "partial_data": True}
    found = load(**metadata)["test"]
    assert len(found) == count
    pictures = [one["image"] for one in found if one.get("data_type") != "video"]
    assert all(pictures)
    assert not any(picture.startswith("unreadable") for picture in pictures)
    assert registry().task(task).name == task
