import base64
import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from support import images
from support.image_cells import decode_base64
from support.images import ImageRef, decode, keep, picture, problem_of
from tasks.judges.requests import image_part


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


CORNERS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [255, 0, 255], [0, 255, 255]]], np.uint8)


def save(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned(orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    big = Image.fromarray(CORNERS.repeat(16, axis=0).repeat(16, axis=1))
    more: dict[str, dict[str, object]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    return save(big, format, exif=exif, **more.get(format, {}))


def seen_by_a_server(key: str) -> Image.Image:
    """What a server sees, which knows of no EXIF, no alpha and no 16 bits."""
    url = image_part("m", picture(key), "auto", None).part["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize("format", ("JPEG", "PNG", "WEBP", "TIFF"))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_for_model_server_and_judge(orientation: int, format: str) -> None:
    data = turned(orientation, format)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    key = keep(ImageRef("x", data=data))
    assert np.array_equal(np.asarray(picture(key).convert("RGB")), wanted)
    assert picture(key).size == wanted.shape[1::-1]
    assert np.array_equal(np.asarray(seen_by_a_server(key).convert("RGB")), wanted)
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(picture(key))).convert("RGB")), wanted)  # noqa: S301
    assert np.array_equal(np.asarray(ImageRef("x", data=data).open().convert("RGB")), wanted)


def test_only_what_is_shown_otherwise_than_before_is_named_otherwise() -> None:
    upright, lying = (keep(ImageRef("x", data=turned(orientation, "JPEG"))) for orientation in (1, 6))
    assert picture(upright).shown == upright
    assert picture(lying).shown == f"{lying}-upright"
    assert seen_by_a_server(upright).format == "JPEG"


GREY = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
RAMP = (GREY / 257).round().astype(np.uint8)
CLEAR = np.dstack([CORNERS, np.array([[0, 128, 255]] * 2, np.uint8)])
KINDS: dict[str, tuple[bytes, np.ndarray]] = {
    "16-bit PNG": (save(Image.fromarray(GREY)), RAMP),
    "16-bit TIFF": (save(Image.fromarray(GREY), "TIFF"), RAMP),
    "32-bit TIFF": (save(Image.fromarray(GREY.astype(np.int32)), "TIFF"), RAMP),
    "TIFF of shares": (save(Image.fromarray((GREY / 65535).astype(np.float32)), "TIFF"), RAMP),
    "TIFF of bytes as numbers": (save(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), RAMP),
    "TIFF with values that are none": (
        save(Image.fromarray(np.array([[0.0, np.nan], [np.inf, 1.0]], np.float32)), "TIFF"),
        np.array([[0, 0], [0, 255]], np.uint8),
    ),
    "grey": (save(Image.fromarray(RAMP)), RAMP),
    "one bit": (save(Image.fromarray(RAMP > 100)), (RAMP > 100).astype(np.uint8) * 255),
    "alpha": (save(Image.fromarray(CLEAR)), CORNERS),
    "alpha of WebP": (save(Image.fromarray(CLEAR), "WEBP", lossless=True, exact=True), CORNERS),
    "grey with alpha": (save(Image.fromarray(np.dstack([RAMP, RAMP]))), RAMP),
    "opaque alpha": (save(Image.fromarray(np.dstack([CORNERS, np.full((2, 3), 255, np.uint8)]))), CORNERS),
    "palette": (save(Image.fromarray(CORNERS).quantize(8)), CORNERS),
    "palette with transparency": (save(Image.fromarray(CORNERS).quantize(8), transparency=0), CORNERS),
    "palette with alphas": (save(Image.fromarray(CORNERS).quantize(8), transparency=bytes([0, 9, 99])), CORNERS),
    "animation": (
        save(Image.fromarray(CORNERS), "GIF", save_all=True, append_images=[Image.new("RGB", (3, 2))]),
        CORNERS,
    ),
    "animated PNG": (save(Image.fromarray(CORNERS), save_all=True, append_images=[Image.new("RGB", (3, 2))]), CORNERS),
    "CMYK": (save(Image.fromarray(CORNERS).convert("CMYK"), "TIFF"), CORNERS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pixels_is_shown_by_one_rule(kind: str) -> None:
    data, wanted = KINDS[kind]
    wanted = wanted if wanted.ndim == 3 else np.stack([wanted] * 3, axis=-1)
    key = keep(ImageRef("x", data=data))
    assert np.array_equal(np.asarray(picture(key).convert("RGB")), wanted)
    sent = seen_by_a_server(key)
    assert not getattr(sent, "is_animated", False)
    assert np.array_equal(np.asarray(sent.convert("RGB")), wanted)


WHOLE = [data for data, _ in KINDS.values()] + [turned(6, format) for format in ("JPEG", "WEBP", "TIFF")]
BROKEN: list[Callable[[bytes, int, int], bytes]] = [
    lambda data, at, byte: data[:at],
    lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
    lambda data, at, byte: data[:at] + bytes([byte]) * 40 + data[at:],
]


@settings(max_examples=250, deadline=None)
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda data, broken, at, byte: broken(data, at % len(data), byte),
        st.sampled_from(WHOLE), st.sampled_from(BROKEN), st.integers(0, 10**6), st.integers(0, 255),
    )
)  # fmt: skip
def test_any_bytes_are_a_picture_or_an_os_error(data: bytes) -> None:
    keep(ImageRef("x", data=data))
    try:
        shown = decode(data)
    except OSError:
        return
    assert np.asarray(shown.convert("RGB")).shape == (shown.height, shown.width, 3)


def test_two_cells_without_a_name_are_told_apart_by_what_is_wrong_with_them() -> None:
    keys = [keep(ImageRef("", problem="unreadable picture", detail=detail)) for detail in ("a number", "a list")]
    assert [problem_of(key) for key in keys] == ["unreadable picture: a number", "unreadable picture: a list"]
