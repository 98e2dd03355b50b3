"""Which picture a row means by a name, a key or a column; what is not read is refused or told."""

from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError
from tests.trainers.image_makers import png
from tests.trainers.row_files import ANSWERS, put, put_pictures, read, shown
from trainers.data.pair_formats import read_pairs, write_pairs

KEYS = ("image_id", "img_id", "imageId", "image-id", "picture_id", "photo_id", "image_hash", "image_key", "img_ids")


@pytest.mark.parametrize("column", KEYS)
def test_a_key_of_pictures_without_a_picture_is_refused(column: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    with pytest.raises(DataError, match=rf"record 1: column '{column}' names a picture \(3\).*call it 'images'"):
        read(put(tmp_path / "a.jsonl", [{column: 3, "prompt": "What?", **ANSWERS}]))
    found = read(put(tmp_path / "b.jsonl", [{column: 5, "image": "3", "prompt": "What?", **ANSWERS}]))
    assert shown(found) == [[png(3)]]
    assert "not read" not in found.summary()
    assert shown(read(put(tmp_path / "c.jsonl", [{column: None, "prompt": "What?", **ANSWERS}]))) == [[]]


@pytest.mark.parametrize("column", ("rejected_image", "image_2", "image1", "screenshot", "thumbnail", "meta"))
def test_a_second_picture_that_is_not_read_is_told(column: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    value: Any = {"from": "images/4.png"} if column == "meta" else "images/4.png"
    found = read(put(tmp_path / "a.jsonl", [{"image": "images/3.png", column: value, "prompt": "What?", **ANSWERS}]))
    assert shown(found) == [[png(3)]]
    assert f"1 with a picture in column '{column}' that is not read" in found.summary()


NAMES = (
    *("images/3.png", "file:///home/me/images/3.png", "file://images/3.png", "file:///C:/me/images/3%2Epng", "3"),
    *(
        '["images/3.png"]',
        '[{"path": "images/3.png"}]',
        '{"path": "images/3.png", "bytes": null}',
        "images/3",
        "./3.png",
    ),
    *("C:\\me\\images\\3.png", "/data/merged_images/3.png", " images/3.png "),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_however_it_is_written(name: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    assert shown(read(put(tmp_path / "a.jsonl", [{"image": name, "prompt": "What?", **ANSWERS}]))) == [[png(3)]]


def test_the_folder_that_is_named_is_the_images_of_the_rows(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train_pictures", 3)
    rows = [{"image": f"images/{number}.png", "prompt": "What?", **ANSWERS} for number in range(3)]
    path = put(tmp_path / "data" / "a.jsonl", rows)
    assert shown(read(path, images=str(tmp_path / "train_pictures"))) == [[png(number)] for number in range(3)]
    for name in ("ocr/images/1.png", "/x/images/1.png", "coco/1.png"):
        with pytest.raises(DataError, match=r"1 of 1 pairs lack their picture.* in another folder"):
            read(put(path, [rows[0] | {"image": name}]), images=str(tmp_path / "train_pictures"))


def test_a_link_that_leads_out_is_refused_with_where_it_leads(tmp_path: Path) -> None:
    put_pictures(tmp_path / "far" / "images")
    path = put(tmp_path / "data" / "a.jsonl", [{"image": "images/3.png", "prompt": "What?", **ANSWERS}])
    (path.parent / "images").symlink_to(tmp_path / "far" / "images")
    where = r"path outside the folder: \S+/data/images/3\.png is \S+/far/images/3\.png\); name their folder"
    with pytest.raises(DataError, match=where):
        read(path)
    assert shown(read(path, images=str(path.parent / "images"))) == [[png(3)]]


@pytest.mark.parametrize("form", ("trl", "povid", "sharegpt"))
def test_pairs_of_our_own_say_where_their_pictures_were(form: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "pictures" / "vg")
    source = put(tmp_path / "pictures" / "a.jsonl", [{"image": "vg/3.png", "prompt": "What?", **ANSWERS}])
    (tmp_path / "made").mkdir()
    write_pairs(read_pairs(source), tmp_path / "made" / "pairs.jsonl", form)
    was = r"missing picture: it was \S+/pictures/vg/3\.png\); name their folder or zip as images"
    with pytest.raises(DataError, match=was):
        read(tmp_path / "made" / "pairs.jsonl")
    assert shown(read(tmp_path / "made" / "pairs.jsonl", images=str(tmp_path / "pictures"))) == [[png(3)]]
