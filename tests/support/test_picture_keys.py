"""Keys of pictures are kept: a second start reads none of them, and a change is noticed."""

import io
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from support import images, picture_keys
from support.images import ImageRef, encoded, keep, picture
from support.picture_keys import FILE, keep_all, recall_table, remember_table


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and files that need no time to be trusted."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(picture_keys, "QUIET_TIME", -(10**12))
    return tmp_path / "home"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that are read."""
    names: list[str] = []
    before = ImageRef.read

    def counted(self: ImageRef) -> bytes:
        names.append(self.name)
        return before(self)

    monkeypatch.setattr(ImageRef, "read", counted)
    return names


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    for shade in (10, 20):
        (tmp_path / f"{shade}.png").write_bytes(png(shade))
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("a/30.png", png(30))
        archive.writestr("40.png", png(40))
    files = [ImageRef.at(tmp_path / f"{shade}.png") for shade in (10, 20)]
    return [*files, *(ImageRef(name, tmp_path / "more.zip", name) for name in ("a/30.png", "40.png"))]


def start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_REFS", {})
    monkeypatch.setattr(images, "_SHOWN_OTHERWISE", set())


def test_a_second_start_reads_no_picture(
    refs: list[ImageRef], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = [keep(ref) for ref in refs]
    start_anew(monkeypatch)
    assert keep_all(refs) == one_by_one
    start_anew(monkeypatch)
    read.clear()
    assert keep_all(refs) == one_by_one
    assert read == []
    assert [picture(key).convert("L").tobytes()[0] for key in one_by_one] == [10, 20, 30, 40]


def test_a_picture_that_has_changed_is_read_again(refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch) -> None:
    before = keep_all(refs)
    file = refs[0].file
    assert file is not None
    about = file.stat()
    file.write_bytes(png(11)[: about.st_size])
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # size and mtime as they were
    start_anew(monkeypatch)
    after = keep_all(refs)
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_bytes_that_are_not_those_of_the_key_are_never_shown(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_all(refs)
    monkeypatch.setattr(picture_keys, "_stamp", lambda files: "[[0]]")
    first = keep_all(refs)
    file = refs[0].file
    assert file is not None
    file.write_bytes(png(99))
    start_anew(monkeypatch)
    assert keep_all(refs) == first
    with pytest.raises(OSError, match="has changed since its table was read"):
        encoded(picture(first[0]))


def test_what_earlier_versions_showed_otherwise_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "turned.jpg", exif=exif)
    ref = ImageRef.at(tmp_path / "turned.jpg")
    (key,) = keep_all([ref])
    start_anew(monkeypatch)
    assert keep_all([ref]) == [key]
    assert picture(key).shown == f"{key}-upright"


def test_pictures_in_no_file_and_broken_ones_are_as_ever(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    refs = [ImageRef("x", data=png(5)), ImageRef.at(tmp_path / "broken.png"), ImageRef("gone", problem="missing")]
    assert keep_all(refs) == [keep(ref) for ref in refs]
    read.clear()
    keep_all(refs)
    assert str(tmp_path / "broken.png") in read  # it may have been put right


@pytest.mark.parametrize("damage", ("no database", "a folder", "another's"))
def test_a_store_that_cannot_be_used_costs_time_only(damage: str, home: Path, refs: list[ImageRef]) -> None:
    store = home / "vlm-harness" / FILE
    store.parent.mkdir(parents=True)
    if damage == "a folder":
        store.mkdir()
    else:
        store.write_bytes(b"no database" * 100 if damage == "no database" else b"SQLite format 3\0" + bytes(500))
    assert keep_all(refs) == [keep(ref) for ref in refs]
    assert recall_table([refs[0].file or Path()], "image", 1) is None
    remember_table([refs[0].file or Path()], "image", ["k"])


def test_a_table_is_known_by_its_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.arrow", tmp_path / "b.arrow"]
    for file in files:
        file.write_bytes(b"rows")
    remember_table(files, "image", ["key", ""])
    assert recall_table(files, "image", 2) == [("key", False), ("", False)]
    assert recall_table(files, "image", 3) is None
    assert recall_table(files, "other", 2) is None
    assert recall_table(files[:1], "image", 2) is None
    files[1].write_bytes(b"rows")
    assert recall_table(files, "image", 2) is None
    assert recall_table([], "image", 0) is None


def test_files_that_have_just_changed_are_not_kept(
    refs: list[ImageRef], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_keys, "QUIET_TIME", 10**12)
    keep_all(refs)
    read.clear()
    keep_all(refs)
    assert len(read) == len(refs)
