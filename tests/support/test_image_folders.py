"""No row of any data file opens a picture outside the data's folder or archive, whichever reader reads it."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import BenchmarkDataError
from support.image_folders import AMBIGUOUS, MISSING, OUTSIDE, URL, ImageIndex, ImageTree
from support.images import ImageRef
from tasks import documents
from trainers.config.data import InstructionSource
from trainers.data.pair_formats import FORMS, read_pairs, write_pairs
from trainers.data.rows import Preference
from trainers.data.vlfeedback_format import read_rows
from trainers.povid.inject import read_llava
from trainers.vlfeedback.sources import Item, open_source

ATTACKS: Mapping[str, Callable[[Path], str]] = {
    "absolute": lambda secret: str(secret),
    "parent": lambda secret: f"../{secret.name}",
    "link": lambda secret: "link.png",
    "url": lambda secret: f"file://{secret}",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one picture of its own, and a link to a picture outside of it."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (8, 6), "green").save(folder / "own.png")
    Image.new("RGB", (8, 6), "red").save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return tmp_path / "secret.png"


def write_table(folder: Path, kind: str, row: Mapping[str, Any]) -> Path:
    """A table of one row; a zip has the folder's files in it, links as links."""
    path = folder / f"table.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([dict(row)]), path)
    elif kind in ("tsv", "csv"):
        separator = "\t" if kind == "tsv" else ","
        path.write_text(f"{separator.join(row)}\n{separator.join(map(str, row.values()))}\n")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("table.jsonl", json.dumps(row))
            archive.write(folder / "own.png", "own.png")
            link = zipfile.ZipInfo("link.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, str(folder.parent / "secret.png"))
        for name in ("own.png", "link.png"):
            (folder / name).unlink()
    else:
        path.write_text(json.dumps([row] if kind == "json" else row))
    return path


# Each reader takes the data's folder and what a row calls its picture, and yields the pictures that it gives.


def read_benchmark(kind: str) -> Callable[[Path, str], Iterator[Any]]:
    def read(folder: Path, name: str) -> Iterator[Any]:
        table = write_table(folder, kind, {"question": "What?", "image": name})
        found = documents.load(task="t", data="t", revision="", columns=["question"], rows=1, paths={"t": str(table)})
        yield from documents.images(found["test"][0])

    return read


def read_benchmark_folder(task: str) -> Callable[[Path, str], Iterator[Any]]:
    def read(folder: Path, name: str) -> Iterator[Any]:
        asked = {"question_id": 1, "id": 1, "image": name, "text": "Is it?", "label": "yes", "query": "Is it?"}
        if task == "pope":
            for split in ("random", "popular", "adversarial"):
                (folder / f"coco_pope_{split}.json").write_text(json.dumps(asked))
        else:
            (folder / "jailbreak.jsonl").write_text(json.dumps({**asked, "question": "Is it?"}))
        found = documents.load(
            task=task, data="t", revision="", columns=[], rows=None, paths={task: str(folder)},
            rows_from=f"tasks.benchmarks.{task}.rows",
        )  # fmt: skip
        yield from documents.images(found["test"][0])

    return read


def read_source(kind: str, with_images: bool = False) -> Callable[[Path, str], Iterator[ImageRef]]:
    def read(folder: Path, name: str) -> Iterator[ImageRef]:
        table = write_table(folder, kind, {"prompt": "What?", "image": name})
        images = str(table if kind == "zip" else folder) if with_images or kind == "zip" else None
        source = open_source(InstructionSource(name="mine", path=str(table), images=images))
        yield from (item.picture for item in source.items() if isinstance(item, Item))

    return read


def read_vlfeedback(kind: str, with_images: bool = False) -> Callable[[Path, str], Iterator[ImageRef]]:
    def read(folder: Path, name: str) -> Iterator[ImageRef]:
        row = {"id": "1", "prompt": "What?", "img_path": name, "completions": [{"model": "m", "response": "A dog."}]}
        elsewhere = folder.parent / "rows"
        elsewhere.mkdir()
        table = write_table(elsewhere if with_images else folder, kind, row)
        yield from next(read_rows(table, folder if with_images else None)).images

    return read


def read_pairs_as(form: str, with_images: bool = False) -> Callable[[Path, str], Iterator[ImageRef]]:
    def read(folder: Path, name: str) -> Iterator[ImageRef]:
        own = ImageRef("own.png", folder / "own.png")
        path = folder / "pairs.jsonl"
        write_pairs([Preference(id="0", prompt="p", images=(own,), chosen="c", rejected="r", row=0)], path, form)
        path.write_text(path.read_text().replace('"own.png"', json.dumps(name)))
        yield from next(read_pairs(path, folder if with_images else None, form)).images

    return read


def read_llava_rows(folder: Path, name: str) -> Iterator[ImageRef]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    (folder / "llava.json").write_text(json.dumps([{"id": "1", "image": name, "conversations": turns}]))
    yield from (item.image for item in read_llava(folder / "llava.json", folder, kind="caption"))


BENCHMARKS = {f"benchmark.{kind}": read_benchmark(kind) for kind in ("parquet", "jsonl", "json", "tsv", "csv", "zip")}
BENCHMARKS |= {f"folder of {task}": read_benchmark_folder(task) for task in ("pope", "rtvlm")}
OTHERS: dict[str, Callable[[Path, str], Iterator[Any]]] = {
    **{f"source.{kind}": read_source(kind) for kind in ("parquet", "jsonl", "json", "tsv", "csv", "zip")},
    "source with images": read_source("jsonl", with_images=True),
    **{f"vlfeedback.{kind}": read_vlfeedback(kind) for kind in ("parquet", "jsonl", "json")},
    "vlfeedback with images": read_vlfeedback("jsonl", with_images=True),
    **{f"pairs of {form}": read_pairs_as(form) for form in FORMS},
    "pairs with images": read_pairs_as("trl", with_images=True),
    "llava": read_llava_rows,
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", BENCHMARKS)
def test_a_benchmark_with_a_picture_outside_is_an_error_that_names_the_row(
    reader: str, attack: str, data: Path, secret: Path
) -> None:
    name = ATTACKS[attack](secret)
    with pytest.raises(
        BenchmarkDataError, match=r"row 1: image '.*': (path outside the folder|picture is a URL)"
    ) as told:
        list(BENCHMARKS[reader](data, name))
    assert repr(name) in str(told.value)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", OTHERS)
def test_a_row_with_a_picture_outside_has_no_picture(reader: str, attack: str, data: Path, secret: Path) -> None:
    for picture in OTHERS[reader](data, ATTACKS[attack](secret)):
        with pytest.raises(OSError, match=r"is not there: (path outside the folder|picture is a URL)"):
            picture.read()


@pytest.mark.parametrize("reader", (*BENCHMARKS, *OTHERS))
def test_a_picture_inside_is_read(reader: str, data: Path) -> None:
    (picture,) = {**BENCHMARKS, **OTHERS}[reader](data, "own.png")
    shown = picture.open() if isinstance(picture, ImageRef) else picture
    assert shown.convert("RGB").getpixel((0, 0)) == (0, 128, 0)


@pytest.mark.parametrize("make", (ImageTree, ImageIndex.of))
def test_only_links_into_the_blobs_of_the_same_hub_dataset_may_lead_out(
    make: Callable[[Path], ImageTree | ImageIndex], data: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "datasets--us--probes"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    (snapshot / "val").mkdir(parents=True)
    (data / "own.png").rename(data / "1f")
    data.rename(blobs)
    (snapshot / "val" / "a.png").symlink_to("../../../blobs/1f")
    (snapshot / "val" / "b.png").symlink_to(tmp_path / "secret.png")
    (snapshot / "val" / "c.png").symlink_to("../../../blobs/link.png")
    (snapshot / "blobs").symlink_to(blobs)
    pictures = make(snapshot)
    assert pictures.find("val/a.png").read() == (blobs / "1f").read_bytes()
    for name in ("val/b.png", "val/c.png", "blobs/1f", "../../blobs/1f"):
        assert pictures.find(name).problem == OUTSIDE, name


def test_a_name_is_looked_for_below_and_not_guessed(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "deep/COCO_val2014_000000000042.jpg", "b/only.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    tree = ImageTree(tmp_path)
    assert tree.find("42").problem == MISSING
    for name, content in {
        "a/x.png": "a/x.png",
        "else/b/x.png": "",
        "else/only.png": "b/only.png",
        "only": "b/only.png",
        "val\\000000000042.jpg": "deep/COCO_val2014_000000000042.jpg",
    }.items():
        found = tree.find(name)
        assert (found.problem, content) == (AMBIGUOUS, "") or found.read().decode() == content, name
    assert ImageTree(tmp_path, guess=True).find("else/x.png").read() == b"a/x.png"
    assert ImageTree(tmp_path, search=False).find("only.png").problem == MISSING
    assert [ImageTree(None).find(name).problem for name in ("x.png", "s3://x.png")] == [MISSING, URL]
