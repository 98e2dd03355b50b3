"""Images of pairs as they are written: they open elsewhere, and nothing outside the data's places is opened."""

import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.image_folders import there
from support.images import ImageRef
from tests.trainers.image_makers import png
from tests.trainers.pair_makers import WAYS, pair
from trainers.data.pair_formats import SeenPairs, read_pairs, write_best, write_pairs
from trainers.data.pair_rules import BestAnswer


@pytest.mark.parametrize(("form", "ending", "embed"), [way for way in WAYS if way[1] != "json"])
def test_pictures_of_a_zip_open_in_what_is_written(form: str, ending: str, embed: bool, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "merged_images.zip", "w") as archive:
        archive.writestr("merged_images/7.jpg", png(7))
    zipped = ImageRef("merged_images/7.jpg", tmp_path / "merged_images.zip", "merged_images/7.jpg")
    path = tmp_path / "out" / f"pairs.{ending}"
    write_pairs([pair(zipped), pair(zipped, id="b", rejected="cow")], path, form, embed_images=embed)
    (tmp_path / "merged_images.zip").unlink()
    assert [one.images[0].read() for one in read_pairs(path)] == [png(7)] * 2
    copies = list((tmp_path / "out").glob("pairs_images/*"))
    assert len(copies) == (0 if embed and ending == "parquet" else 1)


def test_a_folder_of_lines_with_its_pictures_can_be_moved(tmp_path: Path, shown: ImageRef) -> None:
    write_pairs([pair(shown)], tmp_path / "out" / "pairs.jsonl", "sharegpt", embed_images=True)
    shown.file.unlink()  # type: ignore[union-attr]
    (tmp_path / "out").rename(tmp_path / "moved")
    (record,) = [json.loads(line) for line in (tmp_path / "moved" / "pairs.jsonl").read_text().splitlines()]
    assert not record["images"][0].startswith("/")
    (back,) = read_pairs(tmp_path / "moved" / "pairs.jsonl")
    assert back.images[0].read() == png(7)


def test_pictures_on_disk_are_not_put_into_the_table(tmp_path: Path, shown: ImageRef) -> None:
    import pyarrow.parquet as pq

    write_pairs([pair(shown)], tmp_path / "pairs.parquet")
    (record,) = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert record["images"] == [{"bytes": None, "path": str(shown.file)}]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["pictures"]


@pytest.mark.parametrize(
    "name", ("../secret.png", "/etc/passwd", "{outside}/secret.png", "link.png", "http://127.0.0.1:9/x.png")
)
@pytest.mark.parametrize("form", ("trl", "povid"))
def test_a_hostile_name_reads_nothing_outside(form: str, name: str, tmp_path: Path, shown: ImageRef) -> None:
    (tmp_path / "secret.png").write_bytes(png(200))
    path = tmp_path / "set" / "pairs.json"
    write_pairs([pair(shown)], path, form)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    path.write_text(path.read_text().replace(str(shown.file), name.replace("{outside}", str(tmp_path))))
    seen = SeenPairs()
    (back,) = read_pairs(path, seen=seen)
    assert seen.missing_images == 1
    with pytest.raises(OSError, match="is not there"):
        back.images[0].read()


HOSTILE = """{outside}/secret.png ../secret.png http://127.0.0.1:{port}/x.png
zip://x.png::http://127.0.0.1:{port}/x.zip gone.png"""


@pytest.fixture
def listener() -> Iterator[tuple[int, list[str]]]:
    """A server's port, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("embed", (False, True))
@pytest.mark.parametrize(
    ("form", "ending"),
    (("trl", "parquet"), ("rlaif-v", "parquet"), ("trl", "jsonl"), ("povid", "json"), ("sharegpt", "jsonl")),
)
def test_what_is_written_of_hostile_names_loads_and_opens_nothing(
    form: str, ending: str, embed: bool, tmp_path: Path, shown: ImageRef, listener: tuple[int, list[str]]
) -> None:
    import datasets

    port, asked = listener
    (tmp_path / "secret.png").write_bytes(png(200))
    names = [name.format(outside=tmp_path, port=port) for name in HOSTILE.split()]
    path = tmp_path / "out" / f"pairs.{ending}"
    write_pairs([pair(ImageRef(name), id=name) for name in names] + [pair(shown)], path, form, embed_images=embed)
    kind = "parquet" if ending == "parquet" else "json"
    table = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for record, name in zip(table, names, strict=False):
        assert not record.get("images")
        assert not record.get("image")
        if "image_names" in record:
            assert (len(record["image_names"]), record["image_there"]) == (1, [False])
            assert record["image_names"][0] == name or name.startswith("/")
        else:
            assert not {"", "..", ":"} & {*record["image_path"], *record["image_path"].split("/")}
    assert table[len(names)].get("images") or table[len(names)]["image"]
    assert asked == []
    back = list(read_pairs(path, tmp_path / "pictures"))
    assert [len(one.images) for one in back] == [1] * (len(names) + 1)
    assert back[-2].images[0].name == "gone.png"
    assert back[-1].images[0].read() == png(7)
    for one in back[:-1]:
        with pytest.raises(OSError, match="is not there"):
            one.images[0].read()
    assert back[0].prompt == back[-1].prompt == "What?"


@pytest.mark.parametrize(("form", "ending", "embed"), [way for way in WAYS if not way[0].startswith("rl")])
def test_of_several_pictures_those_that_are_there_keep_their_places(
    form: str, ending: str, embed: bool, tmp_path: Path, shown: ImageRef
) -> None:
    two = pair(shown, images=(ImageRef("a.png"), shown, ImageRef("b.png")), prompt="Which?")
    path = tmp_path / "out" / f"pairs.{ending}"
    write_pairs([two], path, form, embed_images=embed)
    (back,) = read_pairs(path, tmp_path / "pictures")
    assert [picture.name for picture in back.images] == ["a.png", "7.png", "b.png"]
    assert [there(picture) for picture in back.images] == [False, True, False]
    assert back.images[1].read() == png(7)
    assert back.prompt == two.prompt
    (tmp_path / "pictures" / "b.png").write_bytes(png(9))
    (later,) = read_pairs(path, tmp_path / "pictures")
    assert later.images[2].read() == png(9)


@pytest.mark.parametrize("ending", ("jsonl", "json"))
def test_a_folder_moves_with_its_lines_and_the_pictures_below_it(ending: str, tmp_path: Path, shown: ImageRef) -> None:
    write_pairs([pair(shown)], tmp_path / f"pairs.{ending}", "sharegpt")
    write_pairs([pair(ImageRef("t", data=png(8)))], tmp_path / f"copied.{ending}", "sharegpt")
    assert str(tmp_path) not in (tmp_path / f"pairs.{ending}").read_text() + (tmp_path / f"copied.{ending}").read_text()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    for name, colour in (("pairs", 7), ("copied", 8)):
        (back,) = read_pairs(moved / f"{name}.{ending}")
        assert back.images[0].read() == png(colour)
    moved.rename(tmp_path)


@pytest.mark.parametrize("ending", ("parquet", "jsonl"))
def test_without_copies_a_zip_stays_a_zip_that_datasets_and_we_read(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "there" / "pictures.zip"
    archive.parent.mkdir()
    odd = "x.png::http://127.0.0.1:9/y.png"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("in/7 é.png", png(7))
        opened.writestr(odd, png(8))
    name = "in/7 é.png"
    pictures = (ImageRef(name, archive, name), ImageRef("o", archive, odd), ImageRef("d.png", data=png(9)))
    path = tmp_path / "out" / f"pairs.{ending}"
    write_pairs([pair(pictures[0], images=pictures)], path, copy_images=False)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    kind = "parquet" if ending == "parquet" else "json"
    table = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    (opened_one,) = table.cast_column("images", datasets.List(datasets.Image()))[0]["images"]
    assert opened_one.getpixel((0, 0)) == (7, 10, 10)
    (back,) = read_pairs(path, archive)
    assert [there(picture) for picture in back.images] == [True, False, False]
    assert back.images[0].read() == png(7)
    (unnamed,) = read_pairs(path)  # a row's word for where a zip is opens none
    assert not any(there(picture) for picture in unnamed.images)


@pytest.mark.parametrize("ending", ("parquet", "jsonl"))
@pytest.mark.parametrize("embed", (False, True))
def test_what_is_no_image_is_counted_once_and_left_out(
    embed: bool, ending: str, tmp_path: Path, shown: ImageRef
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("bad.jpg", b"no image")
    (tmp_path / "bad.png").write_bytes(b"no image")
    on_disk = (ImageRef("bad.jpg", tmp_path / "a.zip", "bad.jpg"), ImageRef("bad.png", tmp_path / "bad.png"))
    bad = (*on_disk, ImageRef("d", data=b"no image"))
    seen = SeenPairs()
    path = tmp_path / "out" / f"pairs.{ending}"
    write_pairs([pair(shown, images=(*bad, shown)), pair(shown, images=bad)] * 70, path, embed_images=embed, seen=seen)
    assert seen.unreadable_images == 3
    assert "3 unreadable images" in seen.summary()
    back = list(read_pairs(path, tmp_path / "pictures"))
    assert [there(picture) for picture in back[0].images] == [False, False, False, True]
    best = BestAnswer(prompt="What?", images=bad, completion="cat", model="A", ratings={}, row=3)
    seen = SeenPairs()
    write_best([best], path, embed_images=embed, seen=seen)
    assert seen.unreadable_images == 3


def test_absolute_paths_are_followed_into_folders_the_user_names(tmp_path: Path, shown: ImageRef) -> None:
    path = tmp_path / "out" / "pairs.parquet"
    write_pairs([pair(shown)], path)
    seen = SeenPairs()
    list(read_pairs(path, seen=seen))
    assert seen.missing_images == 1
    (back,) = read_pairs(path, tmp_path / "pictures")
    assert back.images[0].read() == png(7)


def test_datasets_opens_the_pictures(tmp_path: Path, shown: ImageRef, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)  # paths in JSON are relative
    load = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    for name, embed in (("paths.parquet", False), ("bytes.parquet", True)):
        write_pairs([pair(shown), pair(shown, images=())], tmp_path / name, embed_images=embed)
        table = datasets.load_dataset("parquet", data_files=str(tmp_path / name), **load)
        assert table[0]["images"][0].getpixel((0, 0)) == (7, 10, 10)
        assert table[1]["images"] == []
        assert table[0]["chosen_ratings"] == [{"aspect": "Helpfulness", "rating": "4"}]
        assert {"row", "row_id", "chosen_model", "rejected_model", "margin", "id"} <= set(table.column_names)
    write_pairs([pair(shown)], tmp_path / "pairs.jsonl")
    lines = datasets.load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), **load)
    opened = lines.cast_column("images", datasets.List(datasets.Image()))
    assert opened[0]["images"][0].getpixel((0, 0)) == (7, 10, 10)
    for form in ("rlaif-v", "rlhf-v"):
        write_pairs([pair(shown)], tmp_path / f"{form}.parquet", form)
        table = datasets.load_dataset("parquet", data_files=str(tmp_path / f"{form}.parquet"), **load)
        assert table[0]["image"].size == (4, 4)
