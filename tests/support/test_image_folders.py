"""No row of any data file opens a picture outside the data's folder or archive, whichever reader reads it."""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from support.image_folders import OUTSIDE, URL, ImageIndex, ImageTree, within
from support.image_names import AMBIGUOUS, MISSING
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
def test_a_benchmark_with_a_picture_outside_loses_that_row_and_names_it(
    reader: str, attack: str, data: Path, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = ATTACKS[attack](secret)
    (shown,) = BENCHMARKS[reader](data, name)
    with pytest.raises(OSError, match=r"is not there: (path outside the folder|picture is a URL)"):
        shown.load()
    assert f"row 1, {name!r}: " in caplog.text
    assert "pictures can't be had: " in caplog.text


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that hold their own paths."""
    for name in (
        *("a/x.png", "b/x.png", "b/only.png", "deep/a/y.png", "deep/b/y.png", "flat.png", "pics/vg/1.png"),
        *("deep/COCO_val2014_000000000042.jpg", "COCO/train2017/000000000043.jpg"),
        *("old/COCO_train2014_000000000044.jpg", "z/same.png", "w/same.png"),
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"the same" if "same" in name else name.encode())
    return tmp_path / "data"


FOUND_BELOW: Mapping[str, str] = {
    "a/x.png": "a/x.png",
    "a\\x.png": "a/x.png",
    "./a//x.png": "a/x.png",
    " a/x.png\n": "a/x.png",
    "other/a/x.png": "a/x.png",
    "data/a/x.png": "a/x.png",
    "a/y.png": "deep/a/y.png",
    "images/b/y.png": "deep/b/y.png",
    "vg/1.png": "pics/vg/1.png",
    "only.png": "b/only.png",
    "only": "b/only.png",
    "only.jpg": "b/only.png",
    "val\\000000000042.jpg": "deep/COCO_val2014_000000000042.jpg",
    "000000000042": "deep/COCO_val2014_000000000042.jpg",
    "coco/COCO_train2014_000000000043.jpg": "COCO/train2017/000000000043.jpg",
    "coco/train2017/000000000044.jpg": "old/COCO_train2014_000000000044.jpg",
    "same.png": "the same",
    "/home/me/bench/a/x.png": "a/x.png",
    "file:///home/me/b/x.png": "b/x.png",
    "D:\\bench\\deep\\b\\y.png": "deep/b/y.png",
    "/data/coco/val2014/COCO_val2014_000000000042.jpg": "deep/COCO_val2014_000000000042.jpg",
    "/pics/vg/1": "pics/vg/1.png",
}
"""A name -> what the picture holds."""
NOT_FOUND_BELOW: Mapping[str, str] = {
    "x.png": "ambiguous picture: it may be .*a/x.png, .*b/x.png",
    "y.png": "ambiguous picture: it may be .*deep/a/y.png, .*deep/b/y.png",
    "else/x.png": "missing picture: of this name there is .*a/x.png, .*b/x.png, in another folder",
    "else/only.png": "missing picture: of this name there is .*b/only.png, in another folder",
    "coco/1.png": "missing picture: of this name there is .*pics/vg/1.png, in another folder",
    "images/flat.png": "missing picture: of this name there is .*flat.png, in another folder",
    "/home/me/x.png": "missing picture: of this name there is .*a/x.png, .*b/x.png, in another folder",
    "/home/me/gone.png": "path outside the folder",
    "/home/me/a/../a/x.png": "path outside the folder",
    "42": "missing picture",
    "a": "missing picture",
    "": "missing picture",
    "z" * 5000: "missing picture",
}


@pytest.mark.parametrize("name", FOUND_BELOW)
def test_a_name_means_the_picture_whose_path_ends_most_like_it(name: str, tree: Path) -> None:
    assert ImageTree(tree).find(name).read().decode() == FOUND_BELOW[name]


@pytest.mark.parametrize("name", NOT_FOUND_BELOW)
def test_a_name_never_means_the_picture_of_another_folder(name: str, tree: Path) -> None:
    assert re.fullmatch(NOT_FOUND_BELOW[name], ImageTree(tree).find(name).why)


def test_a_tree_can_be_asked_for_paths_alone_and_rows_beside_it_mean_its_own_pictures(tree: Path) -> None:
    assert ImageTree(tree, search=False).find("only.png").problem == MISSING
    assert ImageTree(tree, beside=True).find("images/flat.png").read() == b"flat.png"
    assert ImageTree(tree, beside=True).find("images/only.png").problem == MISSING
    assert [ImageTree(None).find(name).problem for name in ("x.png", "s3://x.png")] == [MISSING, URL]


def test_a_picture_outside_that_a_name_leads_to_is_not_the_one_inside(tree: Path) -> None:
    outside = tree.parent / "else" / "a" / "x.png"
    outside.parent.mkdir(parents=True)
    outside.write_bytes(b"stolen")
    pictures = ImageTree(tree)
    assert pictures.find(str(outside)).read() == b"a/x.png"
    assert pictures.find(str(tree / "b" / "x.png")).read() == b"b/x.png"
    assert pictures.find(str(outside.rename(outside.with_name("stolen.png")))).problem == OUTSIDE


@pytest.mark.parametrize("packed", (False, True))
@pytest.mark.parametrize(
    ("name", "found"),
    {
        "/home/me/data/coco/1.png": "coco/1.png",
        "coco/1.png": "coco/1.png",
        "1.png": "coco/1.png",
        "C:\\data\\coco\\1.png": "coco/1.png",
        "/home/me/data/vg/1.png": "",
        "vg/1.png": "",
        "data/vg/1.png": "",
        "/elsewhere/1.png": "",
        "/x/coco/000000000007.jpg": "coco/COCO_train2014_000000000007.jpg",
        "train2017/000000000007.jpg": "coco/COCO_train2014_000000000007.jpg",
        "/x/000000000007.jpg": "coco/COCO_train2014_000000000007.jpg",
        "COCO_val2017_000000000007.jpg": "coco/COCO_train2014_000000000007.jpg",
        "/x/y/coco/deep/2.png": "coco/deep/2.png",
        "/x/y/deep/2.png": "coco/deep/2.png",
        "/x/y/z/2.png": "",
    }.items(),
)
def test_an_end_of_a_name_says_more_than_the_name_of_its_file(
    name: str, found: str, packed: bool, tmp_path: Path
) -> None:
    for path in ("coco/1.png", "coco/COCO_train2014_000000000007.jpg", "coco/deep/2.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    if packed:
        with zipfile.ZipFile(tmp_path / "coco.zip", "w") as archive:
            for file in sorted((tmp_path / "coco").rglob("*.*g")):
                archive.write(file, file.relative_to(tmp_path / "coco"))
    picture = ImageIndex.of(tmp_path / ("coco.zip" if packed else "coco")).find(name)
    assert (picture.read().decode() if not picture.problem else "") == found
    assert not found or picture.name == name


def test_a_link_of_the_right_name_says_which_folder_is_meant(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(b"1")
    (tmp_path / "vg").symlink_to("mine")
    assert ImageIndex.of(tmp_path / "mine").find("/home/me/vg/1.png").problem == MISSING
    assert ImageIndex.of(tmp_path / "vg").find("/home/me/vg/1.png").read() == b"1"


def test_a_bare_name_that_two_folders_of_the_data_have_is_ambiguous(tmp_path: Path) -> None:
    for folder in ("images", "merged_images"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(folder.encode())
        (tmp_path / folder / "2.png").write_bytes(b"alike")
    index = within(tmp_path, [], None)
    assert index.find("1.png").problem == AMBIGUOUS
    assert index.find("2.png").read() == b"alike"
    assert index.find("images/1.png").read() == b"images"
    (tmp_path / "1.png").write_bytes(b"its very path")
    assert within(tmp_path, [], None).find("1.png").read() == b"its very path"


def test_a_row_means_the_pictures_beside_its_own_file(tmp_path: Path) -> None:
    for shard in ("a", "b", "c"):
        (tmp_path / shard).mkdir()
        (tmp_path / shard / "pairs.jsonl").touch()
    for shard in ("a", "b"):
        (tmp_path / shard / "1.png").write_bytes(shard.encode())
    (tmp_path / "2.png").write_bytes(b"shared")
    files = [tmp_path / shard / "pairs.jsonl" for shard in "abc"]
    index = within(tmp_path, files, None)
    found = [index.of_file(file).find("1.png") for file in files]
    assert [one.problem for one in found] == ["", "", MISSING]
    assert [one.read() for one in found[:2]] == [b"a", b"b"]
    assert all(index.of_file(file).find("2.png").read() == b"shared" for file in files)


@pytest.mark.parametrize("name", ("x/images/1.png", "/x/y/images/1.png", "images/1.png"))
def test_the_folder_of_the_very_name_is_meant(name: str, tmp_path: Path) -> None:
    for folder in ("images", "merged_images"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(folder.encode())
    assert within(tmp_path, [], None).find(name).read() == b"images"


def test_a_mask_of_a_coco_picture_is_not_the_picture(tmp_path: Path) -> None:
    for path in ("flat/COCO_val2014_000000000042.jpg", "masks/val2014/COCO_val2014_000000000042.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(path.encode())
    for name in ("val2014/COCO_val2014_000000000042.jpg", "coco/val2014/000000000042.jpg", "000000000042.jpg"):
        assert ImageTree(tmp_path).find(name).read().startswith(b"flat")


@pytest.mark.parametrize("root", ("", "images/"))
def test_a_zip_unpacked_beside_itself_is_told_without_reading_it(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"one")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(f"{root}1.png", b"one")
    with monkeypatch.context() as patched:
        patched.setattr(ImageRef, "read", lambda self: pytest.fail("was read"))
        found = within(tmp_path, [], None).find("x/images/1.png")
    assert found.file == tmp_path / "images" / "1.png"


@pytest.mark.parametrize(
    ("name", "most"), {"{}.jpg": 1, "a/{}.jpg": 1, "/x/y/a/{}.jpg": 2, "COCO_val2014_{}.jpg": 4}.items()
)
def test_a_name_costs_few_looks_at_the_disk(
    name: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    for number in range(20):
        for folder in ("", "a/"):
            (tmp_path / f"{folder}{number:012d}.jpg").write_bytes(b"1")
    index = ImageIndex.of(tmp_path)
    index.find(name.format(f"{0:012d}"))
    looks, lstat = 0, Path.lstat

    def counted(path: Path) -> os.stat_result:
        nonlocal looks
        looks += 1
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", counted)
    assert not any(index.find(name.format(f"{number:012d}")).problem for number in range(1, 20))
    assert looks <= 19 * most


@pytest.mark.parametrize("name", ("caf\u00e9/1.png", "cafe\u0301/1.png", "photos/caf\u00e9/1.png", "caf\u00e9\\1.png"))
@pytest.mark.parametrize("written", ("caf\u00e9/1.png", "cafe\u0301/1.png", "cafe\u0301\\1.png"))
def test_a_zip_made_on_another_system_has_the_same_names(name: str, written: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(written), b"1")
        archive.writestr(zipfile.ZipInfo("other/1.png"), b"2")
    for places in (ImageIndex.of(tmp_path / "photos.zip"), ImageTree(tmp_path / "photos.zip"), ImageTree(tmp_path)):
        assert places.find(name).read() == b"1"


@pytest.mark.parametrize("kind", ("fifo", "folder", "device"))
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(OSError, match="not a file"):
        ImageRef.at(path).read()
    for places in (ImageTree(path.parent), ImageIndex.inside(path.parent)):
        with pytest.raises(OSError, match="is not there: missing picture"):
            places.find(path.name).read()


NAMES = st.text(max_size=30) | st.lists(st.sampled_from([*"ab.\\/ ", "..", "a", "x.png"]), max_size=8).map("/".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
def test_any_name_gives_a_picture_of_that_file_name_or_a_problem(tree: Path, name: str) -> None:
    for places in (ImageTree(tree), ImageTree(tree, beside=True), within(tree, [], None), ImageIndex.of(tree)):
        found = places.find(name)
        assert found.problem or found.file is not None
        if found.file is not None:
            assert found.file.is_relative_to(tree)
            assert found.file.stem == Path(name.strip().replace("\\", "/")).stem


def test_a_link_between_the_folders_of_the_data_is_followed(tmp_path: Path) -> None:
    for folder in ("data/images", "data/pool", "away"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{Path(folder).name}.png")
    (tmp_path / "data/images/x.png").symlink_to("../pool/pool.png")
    (tmp_path / "data/images/y.png").symlink_to("../../away/away.png")
    index = ImageIndex.of(tmp_path / "data")
    assert index.find("x.png").open().size == (4, 4)
    assert index.find("y.png").problem == OUTSIDE
