"""Images of VLFeedback's rows: found where they may be, never outside the dataset, and checked."""

import os
import zipfile
from pathlib import Path

import pytest

from support.errors import DataError
from tests.trainers.image_makers import png
from tests.trainers.public_makers import IDS, PICTURES, RECORDS, put_images, put_lines, put_parquet, put_zip, record
from trainers.data.image_check import check_images
from trainers.data.vlfeedback_format import Seen, read_rows


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


HOSTILE = r"""../secret.png images/../../secret.png ..\secret.png {outside}/secret.png images/link.png link.png
images/loop.png images/pipe.png linked/secret.png merged_images/secret.png http://127.0.0.1:9/secret.png
file://{outside}/secret.png /etc/passwd ../../../../../../etc/passwd images"""


@pytest.mark.parametrize("name", (*HOSTILE.split(), "images/1.jpg\0.png", "." * 5000))
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
    hostile = [record(0) | {"img_path": "../secret.png"}, record(1) | {"img_path": "locked.png"}]
    put_lines(tmp_path / "a.jsonl", [*hostile, RECORDS[3]])
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
    rows = [*RECORDS, record(0) | {"id": "7"}, record(0) | {"id": "8"}]
    rows.append(record(0) | {"id": "9", "img_path": "merged_images/1.jpg"})
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
