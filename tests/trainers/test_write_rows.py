"""Rows written in VLFeedback's schema come back as they were and load elsewhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import records
from support.errors import DataError
from support.images import ImageRef
from tests.trainers.image_makers import png
from tests.trainers.public_makers import RECORDS, clone, completions, put_images, put_lines, record
from trainers.config.data import ASPECTS
from trainers.data.rows import Completion, Row
from trainers.data.vlfeedback_format import Seen, read_rows, write_rows


def told(row: Row) -> tuple[Any, ...]:
    return row.index, row.id, row.prompt, row.completions, tuple(picture.read() for picture in row.images)


TEXT = st.text(max_size=12)
RESPONSE = TEXT.filter(lambda text: "†" not in text)
JUDGED = st.dictionaries(st.sampled_from(ASPECTS), st.sampled_from(["1", "2", "3", "4", "5", "N/A", ""]))
COMPLETION = st.builds(Completion, model=TEXT, response=RESPONSE, ratings=JUDGED, rationales=JUDGED)
PICTURE = st.integers(0, 255).map(lambda colour: ImageRef(f"images/{colour}.png", data=png(colour)))


def rows_of(pictures: int) -> st.SearchStrategy[list[Row]]:
    images, answers = st.lists(PICTURE, max_size=pictures).map(tuple), st.lists(COMPLETION, max_size=5).map(tuple)
    source = st.sampled_from(["", "svit"])
    made = st.builds(Row, index=st.just(0), id=TEXT, prompt=TEXT, images=images, completions=answers, source=source)
    return st.lists(made, max_size=6).map(lambda rows: [replace(row, index=index) for index, row in enumerate(rows)])


@settings(max_examples=40, deadline=None)
@given(rows=rows_of(3))
def test_rows_with_embedded_pictures_come_back_as_they_were(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    assert write_rows(rows, path, embed_images=True) == len(rows)
    back = list(read_rows(path))
    assert [told(row) for row in back] == [told(row) for row in rows]
    assert [row.source for row in back] == [row.source for row in rows]
    assert [path.name for path in path.parent.iterdir()] == ["rows.parquet"]


@settings(max_examples=40, deadline=None)
@given(rows=rows_of(3), ending=st.sampled_from(["jsonl", "parquet"]))
def test_rows_without_pictures_in_them_keep_their_names(
    rows: list[Row], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "images").mkdir()
    for picture in {picture for row in rows for picture in row.images}:
        (folder / picture.name).write_bytes(picture.read())
    path = folder / f"rows.{ending}"
    write_rows(rows, path)
    assert [told(row) for row in read_rows(path)] == [told(row) for row in rows]


def test_written_lines_have_exactly_the_public_columns(tmp_path: Path) -> None:
    write_rows(read_rows(clone(tmp_path / "clone")), tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["id", "prompt", "models", "completions", "img_path"]
    clean = [one | {"response": one["response"].replace(" 【7†source】", "")} for one in completions(0)]
    assert lines[0] == RECORDS[0] | {"completions": clean, "img_path": "merged_images/1.jpg"}


def test_a_picture_beside_the_new_file_is_named_relative_to_it(tmp_path: Path) -> None:
    put_images(tmp_path / "out" / "pictures")
    path = put_lines(tmp_path / "a.jsonl", [record(0) | {"img_path": str(tmp_path / "out" / "pictures" / "1.jpg")}])
    write_rows(read_rows(path, tmp_path), tmp_path / "out" / "rows.jsonl")
    assert json.loads((tmp_path / "out" / "rows.jsonl").read_text())["img_path"] == "pictures/1.jpg"


def test_datasets_loads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = list(read_rows(clone(tmp_path / "clone")))
    write_rows(rows, tmp_path / "plain.parquet")
    write_rows(rows, tmp_path / "rows.parquet", embed_images=True)
    write_rows(rows, tmp_path / "rows.jsonl")
    load = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    embedded = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), **load)
    assert embedded.column_names == ["id", "prompt", "models", "completions", "img_path", "image"]
    assert [row["image"].getpixel((0, 0))[0] for row in embedded] == [1, 2, 1, 4]
    # A dict of lists, as the published loader's Sequence gives it.
    assert embedded[0]["completions"]["response"] == ["A cat 0.", "Ein Hund äöü 😀"]
    assert embedded[0]["completions"]["annotations"][0]["Helpfulness"] == {"Rating": "4", "Rationale": "as 4"}
    plain = datasets.load_dataset("parquet", data_files=str(tmp_path / "plain.parquet"), **load)
    assert plain.column_names == ["id", "prompt", "models", "completions", "img_path"]
    lines = datasets.load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), **load)
    assert lines[1]["completions"][1]["annotations"]["Visual Faithfulness"]["Rating"] == "3"


def test_a_row_of_several_pictures_after_many_of_one_widens_the_table(tmp_path: Path) -> None:
    one, two = ImageRef("1.png", data=png(1)), ImageRef("2.png", data=png(2))
    many = [Row(index=index, id=str(index), prompt="p", images=(one,)) for index in range(250)]
    several = Row(index=250, id="250", prompt="p", images=(one, two))
    sourced = Row(index=251, id="251", prompt="p", source="svit")
    assert write_rows([*many, several, sourced], tmp_path / "rows.parquet", embed_images=True) == 252
    back = list(read_rows(tmp_path / "rows.parquet"))
    assert [len(row.images) for row in back] == [1] * 250 + [2, 0]
    assert back[250].images[1].read() == png(2)
    assert back[251].source == "svit"


def test_what_is_no_image_is_not_embedded(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("-----BEGIN PRIVATE KEY-----")
    rows = [Row(index=0, id="0", prompt="p", images=(ImageRef("key.txt", tmp_path / "key.txt"),))]
    write_rows(rows, tmp_path / "rows.parquet", embed_images=True)
    assert b"PRIVATE" not in (tmp_path / "rows.parquet").read_bytes()


def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    def dies() -> Any:
        yield Row(index=0, id="0", prompt="p")
        raise KeyboardInterrupt

    for ending in ("jsonl", "parquet"):
        path = tmp_path / f"rows.{ending}"
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt):
            write_rows(dies(), path)
        assert path.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.parquet"]


def test_what_a_file_cannot_hold_is_said(tmp_path: Path) -> None:
    odd = Row(index=3, id="0", prompt="p", completions=(Completion(model="m", response="r", ratings={"Wit": "1"}),))
    with pytest.raises(DataError, match="row 3 is rated on 'Wit'"):
        write_rows([odd], tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.csv"):
        write_rows([odd], tmp_path / "rows.csv")
    with pytest.raises(DataError, match="embed_images"):
        write_rows([odd], tmp_path / "rows.jsonl", embed_images=True)


@pytest.mark.parametrize(
    ("name", "told"),
    (
        ("../secret.png", "secret.png"),
        ("/tmp/secret/private.png", "secret/private.png"),
        ("http://127.0.0.1:8917/x/y.png", "x/y.png"),
        ("http://127.0.0.1:8917/y.png", "y.png"),
        ("zip://x.png::http://h/y.zip", "h/y.zip"),
        ("a/../../b.png", "b.png"),
        ("..", None),
        ("merged_images/a..b.png", "merged_images/a..b.png"),
    ),
)
def test_a_row_names_no_picture_in_a_way_that_leads_elsewhere(name: str, told: str | None, tmp_path: Path) -> None:
    rows = [
        Row(index=0, id="0", prompt="p", images=(ImageRef(name),)),
        Row(index=1, id="1", prompt="p", images=(ImageRef(name, data=png(1)),)),
    ]
    for ending, embed in (("jsonl", False), ("parquet", False), ("parquet", True)):
        write_rows(rows, tmp_path / f"rows.{ending}", embed_images=embed)
        back = list(records.read(tmp_path / f"rows.{ending}"))
        assert [record["img_path"] or None for record in back] == [told] * 2
        if embed:
            assert [record["image"] and record["image"]["path"] for record in back] == [None, told or ""]


def test_pictures_that_are_not_there_or_no_images_keep_their_place_among_several(tmp_path: Path) -> None:
    import datasets

    several = (ImageRef("gone.png"), ImageRef("2.png", data=png(2)), ImageRef("bad.png", data=b"no image"))
    rows = [Row(index=0, id="0", prompt="p", images=several[1:2]), Row(index=1, id="1", prompt="p", images=several)]
    rows.append(Row(index=2, id="2", prompt="p", images=several[:1]))
    seen = Seen()
    write_rows(rows, tmp_path / "rows.parquet", embed_images=True, seen=seen)
    assert seen.unreadable_images == 1
    back = list(read_rows(tmp_path / "rows.parquet"))
    names = [" ".join(picture.name for picture in row.images) for row in back]
    assert names == ["2.png", "gone.png 2.png bad.png", "gone.png"]
    assert back[1].images[1].read() == png(2)
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [len(row["images"]) for row in table] == [1, 1, 0]
