"""Pairs in the formats of others: nothing is lost between them, and what is written is what their own tools take."""

import io
import json
import math
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.errors import DataError, RunError
from support.image_folders import there
from support.images import ImageRef
from trainers.config.data import ASPECTS
from trainers.data.dataset_card import dataset_card, push
from trainers.data.pair_formats import FORMS, SeenPairs, read_pairs, write_best, write_pairs
from trainers.data.pair_rules import BestAnswer
from trainers.data.rows import Preference


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


WAYS = [(form, ending, embed) for form in FORMS for ending in ("jsonl", "json", "parquet") for embed in (False, True)]
WAYS = [way for way in WAYS if FORMS[way[0]].parquet or way[1] != "parquet"]

TEXT = st.text(max_size=12) | st.sampled_from(["<image>", "<image>\nWhat?", "\nWhat?\n", "What?\n<image>", " a"])
RATINGS = st.dictionaries(st.sampled_from([*ASPECTS, "Wit"]), st.sampled_from(["1", "5", "N/A"]), max_size=3)
PICTURE = st.integers(0, 255).map(lambda colour: ImageRef(f"images/{colour}.png", data=png(colour)))


def pairs_of(pictures: int) -> st.SearchStrategy[list[Preference]]:
    pair = st.builds(
        Preference,
        id=TEXT,
        prompt=TEXT,
        images=st.lists(PICTURE, max_size=pictures).map(tuple),
        chosen=TEXT,
        rejected=TEXT,
        margin=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        row=st.integers(0, 2**40),
        row_id=TEXT,
        chosen_model=TEXT,
        rejected_model=TEXT,
        chosen_ratings=RATINGS,
        rejected_ratings=RATINGS,
    )
    return st.lists(pair, max_size=5)


def told(pair: Preference) -> tuple[Any, ...]:
    values = {name: getattr(pair, name) for name in Preference.__slots__ if name != "images"}
    return values, [picture.read() for picture in pair.images]


def pair(image: ImageRef, **changes: Any) -> Preference:
    values: dict[str, Any] = {
        "id": "a",
        "prompt": "What?",
        "images": (image,),
        "chosen": "cat",
        "rejected": "dog",
        "margin": 4 / 3,
        "row": 3,
        "row_id": "r",
        "chosen_model": "A",
        "rejected_model": "B",
        "chosen_ratings": {"Helpfulness": "4"},
        "rejected_ratings": {"Helpfulness": "N/A"},
    }
    return Preference(**values | changes)


@pytest.fixture
def shown(tmp_path: Path) -> ImageRef:
    path = tmp_path / "pictures" / "7.png"
    path.parent.mkdir()
    path.write_bytes(png(7))
    return ImageRef("7.png", path)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), first=st.sampled_from(WAYS), second=st.sampled_from(WAYS))
def test_pairs_go_through_any_two_formats_unchanged(
    data: st.DataObject,
    first: tuple[str, str, bool],
    second: tuple[str, str, bool],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    one_picture = {first[0], second[0]} & {"rlhf-v", "rlaif-v"}
    pairs = data.draw(pairs_of(1 if one_picture else 3))
    folder = tmp_path_factory.mktemp("pairs")
    made: Iterator[Preference] = iter(pairs)
    for number, (form, ending, embed) in enumerate((first, second)):
        path = folder / str(number) / f"pairs.{ending}"
        assert write_pairs(made, path, form, embed_images=embed) == len(pairs)
        made = read_pairs(path, folder) if pairs else iter([])
    assert [told(pair) for pair in made] == [told(pair) for pair in pairs]


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


FOREIGN: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "povid": (
        "povid.json",
        [
            {
                "id": "000000033471",
                "image": "coco/7.png",
                "conversations": [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "cat"}],
                "rejected_conversations": [
                    {"from": "human", "value": "What?\n<image>"},
                    {"from": "gpt", "value": "dog"},
                ],
            }
        ],
    ),
    "sharegpt": (
        "ranking.json",
        [
            {
                "conversations": [{"from": "human", "value": "<image>What?"}],
                "chosen": {"from": "gpt", "value": "cat"},
                "rejected": {"from": "gpt", "value": "dog"},
                "images": ["coco/7.png"],
            }
        ],
    ),
    "rlhf-v": (
        "rlhf.parquet",
        [
            {
                "ds_name": "RLHF-V",
                "image": {"bytes": png(7), "path": None},
                "text": json.dumps({"question": "What?", "chosen": "cat", "rejected": "dog"}),
                "origin_dataset": "LCS-558K",
                "origin_split": json.dumps({"model": "Muffin-13B", "type": "detailed_description"}),
                "idx": 5,
                "image_path": "coco/7.png",
            }
        ],
    ),
    "rlaif-v": (
        "rlaif.parquet",
        [
            {
                "ds_name": "RLAIF-V",
                "image": {"bytes": png(7), "path": "7.png"},
                "question": "What?",
                "chosen": "cat",
                "rejected": "dog",
                "origin_dataset": "COCO",
                "origin_split": "plain text",
                "idx": "5",
                "image_path": "coco/7.png",
            }
        ],
    ),
    "trl": (
        "trl.parquet",
        [
            {
                "images": [{"bytes": png(7), "path": "7.png"}],
                "prompt": [
                    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
                ],
                "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "cat"}]}],
                "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "dog"}]}],
            }
        ],
    ),
    "trl without roles": (
        "plain.jsonl",
        [{"prompt": "What?", "chosen": "cat", "rejected": "dog", "images": ["coco/7.png"]}],
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_files_of_others_are_told_by_their_columns(name: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, records = FOREIGN[name]
    records = [*records, *records]
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "7.png").write_bytes(png(7))
    if file.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / file)
    else:
        (tmp_path / file).write_text(
            "".join(json.dumps(one) + "\n" for one in records) if "jsonl" in file else json.dumps(records)
        )
    first, second = read_pairs(tmp_path / file)
    assert (first.prompt, first.chosen, first.rejected) == ("What?", "cat", "dog")
    assert [picture.read() for picture in first.images] == [png(7)]
    assert (first.row, second.row, first.margin) == (0, 0, None)
    assert first.id != second.id
    assert first.chosen_model == ("Muffin-13B" if name == "rlhf-v" else "")


def test_neighbours_of_another_prompt_or_picture_are_another_row(tmp_path: Path) -> None:
    asked = [("a", ["1.png"]), ("a", ["1.png"]), ("b", ["1.png"]), ("b", ["2.png"])]
    lines = [{"prompt": prompt, "chosen": "x", "rejected": "y", "images": images} for prompt, images in asked]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [pair.row for pair in read_pairs(tmp_path / "a.jsonl")] == [0, 0, 1, 2]


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in zip(("human", "gpt") * 4, values, strict=False)]


UNFIT: list[dict[str, Any]] = [
    {"conversations": turns("a", "b", "c", "d"), "rejected_conversations": turns("a", "b", "c", "e")},
    {"conversations": turns("a", "b"), "rejected_conversations": turns("c", "d")},
    {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "system", "content": "s"}], "chosen": "a", "rejected": "b"},
    {"prompt": "p", "chosen": None, "rejected": "b"},
]


@pytest.mark.parametrize("record", UNFIT)
def test_what_is_no_pair_is_counted_or_refused_but_never_bent(record: dict[str, Any], tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"record 2: .*one prompt and two answers"):
        list(read_pairs(tmp_path / "a.jsonl"))
    seen = SeenPairs()
    assert len(list(read_pairs(tmp_path / "a.jsonl", seen=seen))) == 1
    assert (seen.pairs, seen.skipped.total()) == (1, 1)
    assert "1 skipped" in seen.summary()


def test_a_form_that_does_not_fit_is_said_with_the_columns_and_the_known_forms(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    with pytest.raises(DataError, match=r"columns question, answer; known: povid, sharegpt, rlaif-v, rlhf-v, trl"):
        list(read_pairs(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="not povid"):
        list(read_pairs(tmp_path / "a.jsonl", form="povid"))
    with pytest.raises(DataError, match="did you mean 'povid'"):
        list(read_pairs(tmp_path / "a.jsonl", form="povdi"))
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "q", "completions": []}) + "\n")
    with pytest.raises(DataError, match="make pairs of them first"):
        list(read_pairs(tmp_path / "b.jsonl"))


def test_what_a_form_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, shown: ImageRef) -> None:
    two = pair(shown, images=(shown, shown))
    path = tmp_path / "pairs.parquet"
    path.write_text("old")
    with pytest.raises(DataError, match=r"'a' has 2 images.*trl, povid or sharegpt"):
        write_pairs([pair(shown), two], path, "rlaif-v")
    assert path.read_text() == "old"
    with pytest.raises(DataError, match=r"povid is written as \.jsonl or \.json"):
        write_pairs([two], tmp_path / "pairs.parquet", "povid")
    with pytest.raises(DataError, match=r"pairs\.csv"):
        write_pairs([two], tmp_path / "pairs.csv")


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


HOSTILE = (
    "{outside}/secret.png",
    "../secret.png",
    "http://127.0.0.1:{port}/x.png",
    "zip://x.png::http://127.0.0.1:{port}/x.zip",
    "gone.png",
)


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
    names = [name.format(outside=tmp_path, port=port) for name in HOSTILE]
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
    two = pair(shown, images=(ImageRef("a.png"), shown, ImageRef("b.png")), prompt="<image>\nWhich?")
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
    pictures = (
        ImageRef("in/7 é.png", archive, "in/7 é.png"),
        ImageRef("o", archive, odd),
        ImageRef("d.png", data=png(9)),
    )
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
    bad = (
        ImageRef("bad.jpg", tmp_path / "a.zip", "bad.jpg"),
        ImageRef("bad.png", tmp_path / "bad.png"),
        ImageRef("d", data=b"no image"),
    )
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


@pytest.mark.parametrize("ending", ("parquet", "jsonl"))
def test_a_margin_without_end_is_none_and_the_lines_are_json(ending: str, tmp_path: Path, shown: ImageRef) -> None:
    path = tmp_path / f"pairs.{ending}"
    write_pairs(
        [pair(shown, margin=margin, chosen_ratings={"Wit": "inf"}) for margin in (math.inf, math.nan, 2.0)], path
    )
    if ending == "jsonl":
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=lambda name: pytest.fail(name))
    back = list(read_pairs(path))
    assert [one.margin for one in back] == [None, None, 2.0]
    assert back[0].chosen_ratings == {"Wit": "inf"}


def test_numbers_too_large_for_a_table_are_not_taken_for_ours(tmp_path: Path) -> None:
    line = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 10**400, "row": 3}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"row": 2**70, "prompt": "q"}) + "\n")
    assert [(one.row, one.margin) for one in read_pairs(tmp_path / "a.jsonl")] == [(3, None), (4, None)]


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
        assert datasets.load_dataset("parquet", data_files=str(tmp_path / f"{form}.parquet"), **load)[0][
            "image"
        ].size == (4, 4)


def test_best_answers_are_prompt_and_completion(
    tmp_path: Path, shown: ImageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    best = BestAnswer(
        prompt="What?", images=(shown,), completion="cat", model="A", ratings={"Wit": "5"}, row=3, row_id="r"
    )
    for ending, kind in (("parquet", "parquet"), ("jsonl", "json")):
        assert write_best([best], tmp_path / f"best.{ending}") == 1
        made = datasets.load_dataset(
            kind, data_files=str(tmp_path / f"best.{ending}"), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert made[0]["prompt"] == [{"role": "user", "content": "What?"}]
        assert made[0]["completion"] == [{"role": "assistant", "content": "cat"}]
        assert (made[0]["row"], made[0]["model"]) == (3, "A")
        opened = made.cast_column("images", datasets.List(datasets.Image()))
        assert opened[0]["images"][0].size == (4, 4)
    with pytest.raises(DataError, match=r"best\.csv"):
        write_best([best], tmp_path / "best.csv")


def test_trl_trains_on_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer, is_conversational

    from harness.models.spec import find
    from tasks.scenes.language import caption
    from tasks.scenes.world import make_scene
    from trainers.vlfeedback.instructions import write_image

    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    made = []
    for index in range(4):
        scene = make_scene(f"test-formats/{index}")
        picture = ImageRef("", tmp_path / "images" / write_image(scene, tmp_path / "images"))
        made.append(
            pair(
                picture,
                id=str(index),
                row=index,
                prompt="describe the image.",
                chosen=caption(scene),
                rejected="a red ring.",
            )
        )
    write_pairs(made, tmp_path / "pairs.parquet")
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "pairs.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert is_conversational(table[0])
    base = find("scenes-base").pretrained
    arguments = DPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(base),
        args=arguments,
        train_dataset=table,
        processing_class=AutoProcessor.from_pretrained(base),
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=0.01)


def test_the_card_is_read_by_the_hub_and_cells_cannot_break_it() -> None:
    from huggingface_hub import DatasetCard

    text = dataset_card(
        "| a |\n|---|\n| 1 |",
        name="Ours: a\ntest",
        rows=82_400,
        pairs=399_400,
        files={"rows": "rows.parquet", "pairs": "pairs-*.parquet"},
        judge="gpt-4o",
        sources={"SVIT | x\n# y": "CC BY 4.0"},
    )
    card = DatasetCard(text)
    assert card.data.to_dict()["license"] == "cc-by-nc-4.0"
    assert card.data.to_dict()["size_categories"] == ["100K<n<1M"]
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["configs"][1] == {"config_name": "pairs", "data_files": "pairs-*.parquet"}
    assert head["pretty_name"] == "Ours: a test"
    assert "| SVIT \\| x # y | CC BY 4.0 |" in text
    assert "399,400 preference pairs" in text
    assert text.rstrip().endswith("| 1 |")


@pytest.mark.parametrize(
    ("rows", "size"), ((0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (80_258, "10K<n<100K"), (10**8, "10M<n<100M"))
)
def test_the_size_is_one_the_hub_knows(rows: int, size: str) -> None:
    assert f"- {size}\n" in dataset_card("", name="n", rows=rows, files={"rows": "r"})


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs."""

    private = True
    seen: list[tuple[str, str, str]]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def record(self) -> str:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.seen.append((f"{self.command} {self.path}", self.headers.get("Authorization") or "", body))
        return body

    def do_GET(self) -> None:
        self.record()
        self.answer({"id": "me/set", "private": self.private, "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.record()
        if self.path == "/api/repos/create":
            self.answer({"url": f"{os.environ['HF_ENDPOINT']}/datasets/me/set", "name": "me/set"})
        elif "/preupload/" in self.path:
            self.answer(
                {
                    "files": [
                        {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for one in json.loads(body)["files"]
                    ]
                }
            )
        elif "/commit/" in self.path:
            address = f"{os.environ['HF_ENDPOINT']}/datasets/me/set/commit/{'1' * 40}"
            self.answer({"commitOid": "1" * 40, "commitUrl": address, "success": True})
        else:
            self.answer({})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Fresh(Hub):
        seen: list[tuple[str, str, str]] = []  # noqa: RUF012

    server = HTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_fromenvironment")
    yield Fresh
    server.shutdown()
    server.server_close()


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    folder = tmp_path / "ready"
    folder.mkdir()
    (folder / "README.md").write_text(dataset_card("", name="n", rows=1, files={"rows": "rows.jsonl"}))
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / ".rows.jsonl.5.tmp").write_text("half")
    return folder


def test_a_folder_is_pushed_with_its_card_and_without_what_is_unfinished(hub: type[Hub], ready: Path) -> None:
    assert push(ready, "me/set", private=True).endswith("/datasets/me/set")
    created = next(body for call, _, body in hub.seen if call == "POST /api/repos/create")
    assert json.loads(created)["visibility"] == "private"
    commit = next(body for call, _, body in hub.seen if "/commit/" in call)
    files = [json.loads(line)["value"]["path"] for line in commit.splitlines() if json.loads(line)["key"] == "file"]
    assert sorted(files) == ["README.md", "rows.jsonl"]
    assert {token for _, token, _ in hub.seen} == {"Bearer hf_fromenvironment"}


def test_what_is_private_does_not_go_into_a_public_repository(hub: type[Hub], ready: Path) -> None:
    hub.private = False
    with pytest.raises(RunError, match="me/set is public"):
        push(ready, "me/set", private=True)
    assert not any("/commit/" in call for call, _, _ in hub.seen)


def test_a_push_that_fails_is_one_line_without_the_token(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"^me/set: not pushed to http://127\.0\.0\.1:9: ") as caught:
        push(ready, "me/set", private=True, token="hf_secret")
    assert "\n" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    with pytest.raises(RunError, match="a//b"):
        push(ready, "a//b", private=True)
    os.remove(ready / "README.md")
    with pytest.raises(RunError, match="without its card"):
        push(ready, "me/set", private=True)


def test_no_data_is_an_error_not_an_empty_set_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing-here"):
        list(read_pairs(tmp_path / "nothing-here.parquet"))
