import base64
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import images
from support.image_folders import decode_base64
from support.images import ImageRef, keep, picture


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
    return path


def test_a_picture_is_what_its_file_holds(photo: Path) -> None:
    shown, opened = picture(keep(ImageRef.at(photo))), Image.open(photo)
    assert isinstance(shown, Image.Image)
    assert (shown.size, shown.width, shown.mode) == ((40, 30), 40, "RGB")
    assert np.array_equal(np.asarray(shown), np.asarray(opened))
    for change in (
        lambda image: image.convert("L"),
        lambda image: image.resize((7, 5)),
        lambda image: image.crop((1, 1, 9, 9)),
    ):
        assert change(shown).tobytes() == change(opened).tobytes()


def test_the_key_is_the_content_whatever_the_name(photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(photo.read_bytes())
    text = base64.b64encode(photo.read_bytes()).decode()
    assert keep(ImageRef.at(photo)) == keep(ImageRef.at(other)) == keep(ImageRef("x", data=decode_base64(text)))
    Image.new("RGB", (3, 3)).save(other)
    assert keep(ImageRef.at(photo)) != keep(ImageRef.at(other))


def test_a_copy_is_the_same_picture_and_another_process_gets_its_pixels(photo: Path) -> None:
    shown = picture(keep(ImageRef.at(photo)))
    assert copy.deepcopy(shown) is shown
    assert pickle.loads(pickle.dumps(shown)).tobytes() == shown.tobytes()  # noqa: S301 (our own)


@pytest.mark.parametrize("content", (None, b"", b"no image at all", b"\x89PNG\r\n\x1a\nbroken"))
def test_what_is_no_picture_fails_when_it_is_looked_at(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    shown = picture(keep(ImageRef.at(path)))
    with pytest.raises(OSError):  # noqa: PT011 (the message is Pillow's or the system's)
        shown.load()


def test_a_picture_over_the_limit_is_refused_before_it_is_decoded(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1199)
    images._decoded.cache_clear()
    with pytest.raises(OSError, match="image of 40 x 30 pixels is over the limit of 1199"):
        picture(keep(ImageRef.at(photo))).load()


def test_few_pictures_are_held_decoded(tmp_path: Path) -> None:
    for index in range(images.DECODED + 5):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
        picture(keep(ImageRef.at(path))).load()
    assert images._decoded.cache_info().currsize == images.DECODED


def test_text_that_is_no_base64_fails_when_it_is_looked_at() -> None:
    with pytest.raises(OSError, match="not base64"):
        decode_base64("!!!")
