"""VLFeedback as it is published: every shape gives the same rows, nothing outside the dataset is read, what is written
loads elsewhere."""

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support import records
from support.errors import DataError
from support.images import ImageRef
from trainers.config.data import ASPECTS
from trainers.data import vlfeedback_format
from trainers.data.image_check import check_images
from trainers.data.rows import Completion, Row
from trainers.data.vlfeedback_format import Seen, holds_rows, read_rows, write_rows


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


IDS = ["1", "2", "1", "4"]
PICTURES = {"1": png(1), "2": png(2), "4": png(4)}


def annotations(*ratings: str | None) -> dict[str, Any]:
    return {
        aspect: {"Rating": rating, "Rationale": f"as {rating}"} for aspect, rating in zip(ASPECTS, ratings, strict=True)
    }


def completions(index: int) -> list[dict[str, Any]]:
    return [
        {"annotations": annotations("4", "5", "N/A"), "model": "gpt4v", "response": f"A cat {index} 【7†source】."},
        {"annotations": annotations("1", "2", "3"), "model": "llava", "response": "Ein Hund äöü 😀"},
    ]


def record(index: int) -> dict[str, Any]:
    return {
        "id": IDS[index],
        "prompt": f"What is it? {index}",
        "models": ["gpt4v", "llava"],
        "completions": completions(index),
    }


RECORDS = [record(index) for index in range(4)]


def as_lists(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        row | {"completions": {key: [one[key] for one in row["completions"]] for key in row["completions"][0]}}
        for row in records
    ]


def put_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


def put_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for id, data in PICTURES.items():
        (folder / f"{id}.jpg").write_bytes(data)


def put_zip(path: Path, prefix: str = "merged_images/") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for id, data in PICTURES.items():
            archive.writestr(f"{prefix}{id}.jpg", data)


def put_parquet(path: Path, records: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)


def clone(folder: Path) -> Path:
    put_lines(folder / "vlfeedback_80k.jsonl", RECORDS)
    put_lines(folder / "instruction_source.jsonl", [{"id": "1", "source": "svit"}])
    put_zip(folder / "merged_images.zip")
    return folder


def dict_of_lists(folder: Path) -> Path:
    put_images(folder / "images")
    return put_lines(
        folder / "rows.jsonl", [row | {"img_path": f"images/{row['id']}.jpg"} for row in as_lists(RECORDS)]
    )


def loader_paths(folder: Path) -> Path:
    put_images(folder / "merged_images")
    there = "/home/somebody/.cache/huggingface/downloads/extracted/0f/merged_images"
    return put_lines(folder / "rows.jsonl", [row | {"img_path": f"{there}/{row['id']}.jpg"} for row in RECORDS])


def windows_paths(folder: Path) -> Path:
    put_zip(folder / "images.zip", prefix="")
    return put_lines(
        folder / "rows.jsonl", [row | {"img_path": f"C:\\data\\merged_images\\{row['id']}.jpg"} for row in RECORDS]
    )


def one_list(folder: Path) -> Path:
    put_images(folder)
    path = folder / "rows.json"
    path.write_text(json.dumps([row | {"image": f"{row['id']}.jpg"} for row in RECORDS], indent=1))
    return path


def gzipped(folder: Path) -> Path:
    put_images(folder / "merged_images")
    lines = put_lines(folder / "rows.jsonl", RECORDS)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    lines.unlink()
    return folder / "rows.jsonl.gz"


def parquet_of_lists(folder: Path) -> Path:
    put_images(folder / "merged_images")
    put_parquet(folder / "rows.parquet", RECORDS)
    return folder / "rows.parquet"


def shards_with_images(folder: Path) -> Path:
    rows = [row | {"image": {"bytes": PICTURES[row["id"]], "path": f"{row['id']}.jpg"}} for row in as_lists(RECORDS)]
    put_parquet(folder / "data" / "train-00000-of-00002.parquet", rows[:3])
    put_parquet(folder / "data" / "train-00001-of-00002.parquet", rows[3:])
    return folder


def image_lists(folder: Path) -> Path:
    rows = [row | {"images": [{"bytes": PICTURES[row["id"]], "path": None}]} for row in RECORDS]
    put_parquet(folder / "rows.parquet", rows)
    return folder


def shards_of_lines(folder: Path) -> Path:
    put_images(folder / "merged_images")
    put_lines(folder / "part-01.jsonl", RECORDS[:2])
    put_lines(folder / "part-02.jsonl", RECORDS[2:])
    return folder


SHAPES: list[Callable[[Path], Path]] = [
    clone,
    dict_of_lists,
    loader_paths,
    windows_paths,
    one_list,
    gzipped,
    parquet_of_lists,
    shards_with_images,
    image_lists,
    shards_of_lines,
]


def told(row: Row) -> tuple[Any, ...]:
    return row.index, row.id, row.prompt, row.completions, tuple(picture.read() for picture in row.images)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_gives_the_same_rows(shape: Callable[[Path], Path], tmp_path: Path) -> None:
    seen = Seen()
    rows = list(read_rows(shape(tmp_path / "data"), seen=seen))
    assert [told(row) for row in rows] == [
        (
            index,
            IDS[index],
            f"What is it? {index}",
            (
                Completion(
                    model="gpt4v",
                    response=f"A cat {index}.",
                    ratings=dict(zip(ASPECTS, ("4", "5", "N/A"), strict=True)),
                    rationales=dict(zip(ASPECTS, ("as 4", "as 5", "as N/A"), strict=True)),
                ),
                Completion(
                    model="llava",
                    response="Ein Hund äöü 😀",
                    ratings=dict(zip(ASPECTS, "123", strict=True)),
                    rationales=dict(zip(ASPECTS, ("as 1", "as 2", "as 3"), strict=True)),
                ),
            ),
            (PICTURES[IDS[index]],),
        )
        for index in range(4)
    ]
    assert (seen.rows, seen.repeated_ids, seen.shared_images, seen.citations, seen.non_numeric) == (4, 1, 1, 4, 4)
    assert (seen.missing_images, seen.torn_lines, seen.missing_ratings) == (0, 0, 0)


def test_ratings_are_kept_as_text_and_aspects_are_known_in_any_spelling(tmp_path: Path) -> None:
    judged = {
        "helpfulness": {"Rating": 4, "Rationale": "x"},
        "ethical_considerations": {"Rating": None, "Rationale": "unsure"},
        "VISUAL-FAITHFULNESS": {"Rating": 3.5},
        "Wit": {"Rating": "2"},
    }
    path = put_lines(
        tmp_path / "a.jsonl", [record(0) | {"completions": [{"annotations": judged, "model": "m", "response": "r"}]}]
    )
    seen = Seen()
    (row,) = read_rows(path, seen=seen)
    assert row.completions[0].ratings == {"Helpfulness": "4", "Visual Faithfulness": "3.5", "Wit": "2"}
    assert row.completions[0].rationales == {"Helpfulness": "x", "Ethical Considerations": "unsure"}
    assert (seen.missing_ratings, seen.non_numeric) == (1, 0)


def test_no_digit_of_a_rating_is_lost(tmp_path: Path) -> None:
    judged = {aspect: {"Rating": rating} for aspect, rating in zip(ASPECTS, (4.3333334, 4.0, 4.3333333), strict=True)}
    path = put_lines(
        tmp_path / "a.jsonl", [record(0) | {"completions": [{"annotations": judged, "model": "m", "response": "r"}]}]
    )
    (row,) = read_rows(path)
    assert list(row.completions[0].ratings.values()) == ["4.3333334", "4", "4.3333333"]


@pytest.mark.parametrize("annotations", ("N/A", ["Helpfulness: 4"], 4))
def test_annotations_that_are_no_aspects_are_counted_and_the_answer_stays(annotations: Any, tmp_path: Path) -> None:
    made = [{"annotations": annotations, "model": "m", "response": "r"}, *completions(0)]
    seen = Seen()
    (row,) = read_rows(put_lines(tmp_path / "a.jsonl", [record(0) | {"completions": made}]), seen=seen)
    assert [len(completion.ratings) for completion in row.completions] == [0, 3, 3]
    assert (seen.unreadable_annotations, seen.missing_ratings) == (1, 3)
    assert "1 unreadable annotations" in seen.summary()


def test_a_failed_answer_is_not_an_empty_one(tmp_path: Path) -> None:
    made = [{"annotations": {}, "model": "m", "response": None}, {"annotations": None, "model": "n", "response": ""}]
    path = put_lines(tmp_path / "a.jsonl", [record(0) | {"completions": made}, record(1) | {"completions": None}])
    seen = Seen()
    rows = list(read_rows(path, seen=seen))
    assert [completion.model for completion in rows[0].completions] == ["n"]
    assert (seen.failed_answers, seen.without_completions) == (1, 1)


@pytest.mark.parametrize(
    ("given", "wanted"),
    (
        ("It is red 【1†source】.", "It is red."),
        ("A【12†source】 b 【3:0†map.jpg】c", "A bc"),
        ("【1†source】Start", "Start"),
        ("keep 【this】 and † that", "keep 【this】 and † that"),
    ),
)
def test_citation_marks_are_cut_out_and_other_brackets_stay(given: str, wanted: str, tmp_path: Path) -> None:
    path = put_lines(
        tmp_path / "a.jsonl", [record(0) | {"completions": [{"model": "m", "response": given, "annotations": {}}]}]
    )
    seen = Seen()
    (row,) = read_rows(path, seen=seen)
    assert row.completions[0].response == wanted
    assert seen.citations == (given != wanted)


def test_a_torn_last_line_is_counted_and_a_whole_one_without_newline_is_a_row(tmp_path: Path) -> None:
    path = put_lines(tmp_path / "a.jsonl", RECORDS[:2])
    path.write_bytes(path.read_bytes()[:-9])
    seen = Seen()
    assert [row.index for row in read_rows(path, seen=seen)] == [0]
    assert seen.torn_lines == 1
    path.write_text(json.dumps(RECORDS[0]))
    assert len(list(read_rows(path))) == 1


def test_a_malformed_line_elsewhere_is_an_error_that_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n{broken\n" + json.dumps(RECORDS[1]) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not JSON"):
        list(read_rows(path))


@pytest.mark.parametrize("text", ('[{"id": "1"', '[{"id": "1"},\n', "[1]", '[{"a": }]'))
def test_a_list_that_is_cut_off_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("wrong", "said"),
    (
        ({"prompt": None}, "no prompt"),
        ({"completions": "x"}, "list of dicts"),
        ({"completions": {"model": ["a"], "response": []}}, "one length"),
    ),
)
def test_a_record_that_is_no_row_is_named(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        list(read_rows(put_lines(tmp_path / "a.jsonl", [record(0) | wrong])))


def test_files_of_a_folder_that_are_no_shards_of_one_another_are_ambiguous(tmp_path: Path) -> None:
    put_lines(tmp_path / "a.jsonl", RECORDS)
    put_lines(tmp_path / "b.jsonl", RECORDS)
    with pytest.raises(DataError, match=r"a\.jsonl, b\.jsonl"):
        list(read_rows(tmp_path))


def test_a_broken_shard_is_not_passed_over(tmp_path: Path) -> None:
    shards_with_images(tmp_path)
    (tmp_path / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match="train-00001"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_rated_answers_are_told_from_other_data(shape: Callable[[Path], Path], tmp_path: Path) -> None:
    assert holds_rows(shape(tmp_path / "data"))
    pairs = put_lines(tmp_path / "other" / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert not holds_rows(pairs)
    assert not holds_rows(pairs.parent)
    assert not holds_rows(tmp_path / "nowhere")


def test_lines_win_over_parquet_of_the_same_clone(tmp_path: Path) -> None:
    clone(tmp_path)
    put_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [record(0) | {"id": "other"}])
    assert [row.id for row in read_rows(tmp_path)] == IDS


@pytest.mark.parametrize("name", ("missing", "file.txt"))
def test_data_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=name):
        list(read_rows(tmp_path / name))


def secret_dataset(folder: Path) -> Path:
    (folder / "secret.png").parent.mkdir(parents=True, exist_ok=True)
    (folder / "secret.png").write_bytes(png(200))
    data = folder / "data"
    put_images(data / "images")
    (data / "images" / "link.png").symlink_to(folder / "secret.png")
    (data / "images" / "loop.png").symlink_to("loop.png")
    os.mkfifo(data / "images" / "pipe.png")
    (data / "linked").symlink_to(folder)
    (data / "merged_images").symlink_to(folder)
    return data


@pytest.mark.parametrize(
    "name",
    (
        "../secret.png",
        "images/../../secret.png",
        "..\\secret.png",
        "{outside}/secret.png",
        "images/link.png",
        "link.png",
        "images/loop.png",
        "images/pipe.png",
        "linked/secret.png",
        "merged_images/secret.png",
        "http://127.0.0.1:9/secret.png",
        "file://{outside}/secret.png",
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "images",
        "images/1.jpg\0.png",
        "." * 5000,
    ),
)
def test_a_hostile_name_reads_nothing_outside_the_dataset(name: str, tmp_path: Path) -> None:
    data = secret_dataset(tmp_path)
    path = put_lines(data / "a.jsonl", [record(0) | {"img_path": name.replace("{outside}", str(tmp_path))}])
    seen = Seen()
    (row,) = read_rows(path, seen=seen)
    assert seen.missing_images == 1
    with pytest.raises(OSError, match="is not there"):
        row.images[0].read()


def test_a_hostile_id_reads_nothing_outside_the_dataset(tmp_path: Path) -> None:
    data = secret_dataset(tmp_path)
    (row,) = read_rows(put_lines(data / "a.jsonl", [record(0) | {"id": "../../secret"}]))
    with pytest.raises(OSError, match="is not there"):
        row.images[0].read()


def test_zip_members_are_read_in_place_and_hostile_or_encrypted_ones_lead_nowhere(tmp_path: Path) -> None:
    put_lines(
        tmp_path / "a.jsonl",
        [record(0) | {"img_path": "../secret.png"}, record(1) | {"img_path": "locked.png"}, RECORDS[3]],
    )
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("../secret.png", png(1))
        archive.writestr("locked.png", png(1))
        archive.writestr("merged_images/4.jpg", PICTURES["4"])
    raw = bytearray((tmp_path / "images.zip").read_bytes())
    entry = raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"locked.png"))
    raw[entry + 8] |= 1
    (tmp_path / "images.zip").write_bytes(raw)
    rows = list(read_rows(tmp_path / "a.jsonl"))
    for row in rows[:2]:
        with pytest.raises(OSError, match="is not there"):
            row.images[0].read()
    assert rows[2].images[0].read() == PICTURES["4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "images.zip"]


def test_images_may_stand_elsewhere_in_a_folder_or_zip(tmp_path: Path) -> None:
    path = put_lines(tmp_path / "data" / "a.jsonl", RECORDS)
    put_images(tmp_path / "there" / "merged_images")
    put_zip(tmp_path / "there.zip")
    for images in (tmp_path / "there", tmp_path / "there" / "merged_images", tmp_path / "there.zip"):
        assert [row.images[0].read() for row in read_rows(path, images)] == [PICTURES[id] for id in IDS]
    with pytest.raises(DataError, match="nowhere"):
        list(read_rows(path, tmp_path / "nowhere"))


def test_a_name_without_folder_is_not_mistaken_for_one_in_another_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png(1))
    path = put_lines(tmp_path / "rows.jsonl", [record(0) | {"img_path": "b/1.png"}])
    (row,) = read_rows(path, tmp_path / "a")
    with pytest.raises(OSError, match="is not there"):
        row.images[0].read()


def test_the_image_check_names_rows_that_share_a_picture_and_pictures_that_fail(tmp_path: Path) -> None:
    put_images(tmp_path / "merged_images")
    (tmp_path / "merged_images" / "7.jpg").write_bytes(png(7)[:40])
    rows = [
        *RECORDS,
        record(0) | {"id": "7"},
        record(0) | {"id": "8"},
        record(0) | {"id": "9", "img_path": "merged_images/1.jpg"},
    ]
    report = check_images(read_rows(put_lines(tmp_path / "a.jsonl", rows)))
    assert (report.rows, report.pictures, report.missing) == (7, 4, (5,))
    assert [(shared.id, shared.rows, shared.prompts) for shared in report.shared] == [("1", (0, 2), 2)]
    assert [index for index, _ in report.broken] == [4]
    text = " ".join(report.to_markdown().split())
    assert "| 1 | 0, 2 | 2 |" in text
    assert "| 5 | is not there |" in text


def test_embedded_pictures_of_a_repeated_id_are_told_apart_by_content(tmp_path: Path) -> None:
    shown = [{"bytes": png(colour), "path": "same.png"} for colour in (1, 2, 1)]
    put_parquet(tmp_path / "a.parquet", [record(0) | {"image": image} for image in shown])
    seen = Seen()
    rows = list(read_rows(tmp_path / "a.parquet", seen=seen))
    assert (seen.repeated_ids, seen.shared_images) == (2, 1)
    assert [shared.rows for shared in check_images(rows).shared] == [(0, 2)]


TEXT = st.text(max_size=12)
RATING = st.sampled_from(["1", "2", "3", "4", "5", "N/A", ""])
JUDGED = st.dictionaries(st.sampled_from(ASPECTS), RATING)
COMPLETION = st.builds(
    Completion, model=TEXT, response=TEXT.filter(lambda text: "†" not in text), ratings=JUDGED, rationales=JUDGED
)
PICTURE = st.integers(0, 255).map(lambda colour: ImageRef(f"images/{colour}.png", data=png(colour)))


def rows_of(pictures: int) -> st.SearchStrategy[list[Row]]:
    made = st.builds(
        Row,
        index=st.just(0),
        id=TEXT,
        prompt=TEXT,
        images=st.lists(PICTURE, max_size=pictures).map(tuple),
        completions=st.lists(COMPLETION, max_size=5).map(tuple),
        source=st.sampled_from(["", "svit"]),
    )
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
    last = [
        Row(index=250, id="250", prompt="p", images=(one, two)),
        Row(index=251, id="251", prompt="p", source="svit"),
    ]
    assert write_rows([*many, *last], tmp_path / "rows.parquet", embed_images=True) == 252
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
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

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


def test_half_a_character_does_not_stop_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record(0) | {"prompt": "x \ud83d y"}) + "\n")
    (row,) = read_rows(path)
    assert row.prompt == "x \ufffd y"
    assert write_rows([row], tmp_path / "b.jsonl") == 1


@pytest.mark.parametrize("ending", ("jsonl", "json"))
def test_half_a_character_in_bytes_does_not_stop_a_file_either(ending: str, tmp_path: Path) -> None:
    line = (
        json.dumps(record(0) | {"prompt": "x HALF 한 ퟿ y"}, ensure_ascii=False)
        .encode()
        .replace(b"HALF", b"\xed\xb3\xa9")
    )
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"[" + line + b"]" if ending == "json" else line + b"\n")
    (row,) = read_rows(path)
    assert row.prompt == "x \ufffd 한 ퟿ y"
    assert write_rows([row], tmp_path / "b.parquet") == 1


def test_what_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "\\ud83d", "deep": ' + "[" * 900 + "]" * 900 + "}\n")
    with pytest.raises(DataError, match="line 1: nested too deeply"):
        list(read_rows(path))


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
    assert [[picture.name for picture in row.images] for row in back] == [
        ["2.png"],
        ["gone.png", "2.png", "bad.png"],
        ["gone.png"],
    ]
    assert back[1].images[1].read() == png(2)
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [len(row["images"]) for row in table] == [1, 1, 0]


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\nbroken\n")
    assert next(read_rows(path)).id == "1"


def test_only_data_is_fetched_at_a_pinned_revision_and_a_hub_that_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def refuses(repository: str, **settings: Any) -> str:
        asked.update(settings, repository=repository)
        raise ConnectionError("hub is down\nlong trace")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuses)
    with pytest.raises(DataError, match=r"can't be fetched: hub is down$"):
        vlfeedback_format.fetch_public()
    assert asked["revision"] == vlfeedback_format.REVISION
    assert not any("py" in pattern for pattern in asked["allow_patterns"])
