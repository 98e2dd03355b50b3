"""A picture of any kind, under any name, costs no more than its own sample: no program, no gigabytes, no hours."""

import ast
import base64
import io
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support import image_formats
from support.image_cells import picture_in_cell
from support.image_folders import ImageIndex, ImageTree
from support.images import ImageRef, decode, decode_reduced, image_bytes, keep, picture
from tests.adversary.hostile_pictures import BOMBS, SHOWN, gif, jpeg_of_scans, save
from tests.adversary.hostile_pictures import picture as photo
from trainers.data.image_hashes import HashCache

ROOT = Path(__file__).parents[2]
ROOMS = ("support", "tasks", "leaderboards", "trainers", "harness")
MEGABYTES, SECONDS = 700, 8


def spent(action: Callable[[], object]) -> tuple[int, float]:
    """Megabytes and seconds of an action in a process of its own, which may have 6 GB."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        said = "done"
        try:
            action()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        os.write(writing, f"{used} {time.process_time() - began} {said}".encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found = file.read().decode().split(" ", 2)
    os.waitpid(child, 0)
    assert found[2:] == ["done"], found
    return int(found[0]), float(found[1])


def why_refused(action: Callable[[], object]) -> str:
    """The reason; "" where nothing is refused."""
    try:
        action()
    except OSError as error:
        return str(error)
    return ""


def refused(data: bytes) -> None:
    for read in (decode, partial(decode_reduced, side=64)):
        with pytest.raises(OSError, match=r"^[^\n]{8,300}$"):
            read(data)
    facts = HashCache().facts_of(ImageRef("x.png", data=data))
    assert (facts.hashes, bool(facts.problem)) == (None, True)


@pytest.mark.parametrize("name", [name for name in BOMBS if name != "GIF of a comment"])
def test_a_bomb_is_refused_in_little_memory_and_time(name: str) -> None:
    data = BOMBS[name]()
    megabytes, seconds = spent(lambda: refused(data))
    assert (megabytes < MEGABYTES, seconds < SECONDS) == (True, True), (megabytes, seconds)


@pytest.mark.parametrize("data", (gif(8, 8, comment=800_000), gif(8, 8, comment_behind=800_000)), ids=("open", "next"))
def test_reading_ends_after_a_time(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_formats, "MAX_SECONDS", 0.5)
    began = time.process_time()
    assert why_refused(lambda: decode(data)) in ("", "image takes more than 0.5 seconds to read")
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("name", SHOWN)
def test_odd_files_are_shown(name: str) -> None:
    assert decode(SHOWN[name]()).convert("RGB").size[0] >= 4


def test_a_progressive_picture_of_usual_scans_is_shown() -> None:
    assert decode(jpeg_of_scans(20)).size == (7000, 7000)


FORMATS: Mapping[str, tuple[bytes, str]] = {
    "AVIF": (b"\0\0\0\x20ftypavif" + bytes(64), "AVIF"),
    "HEIC": (b"\0\0\0\x20ftypheic" + bytes(64), "HEIC"),
    "HEIF": (b"\0\0\0\x20ftypmif1" + bytes(64), "HEIC or AVIF"),
    "SVG of a drawing program": (b"<?xml?><!-- made by x -->\n<!DOCTYPE svg PUBLIC '-//W3C'><svg:svg>", "SVG"),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///x"/></svg>', "SVG"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "EPS of DOS": (b"\xc5\xd0\xd3\xc6" + bytes(64), "PostScript"),
    "PDF": (b"%PDF-1.7\n", "a PDF file"),
    "PSD": (b"8BPS\0\1" + bytes(64), "PSD"),
    "ICNS": (b"icns" + bytes(64), "ICNS"),
    "ICO": (save(Image.new("RGB", (16, 16)), "ICO"), "ICO"),
    "PPM": (save(Image.new("RGB", (16, 16)), "PPM"), "PPM"),
    "XBM": (save(Image.new("1", (16, 16)), "XBM"), "XBM"),
    "JPEG 2000": (save(Image.new("RGB", (16, 16)), "JPEG2000"), "JPEG 2000"),
    "DDS": (save(Image.new("RGB", (16, 16)), "DDS"), "DDS"),
    "QOI": (b"qoif" + bytes(64), "QOI"),
    "FITS": (b"SIMPLE  =                    T" + b" " * 64, "FITS"),
    "WMF": (b"\xd7\xcd\xc6\x9a" + bytes(64), "WMF"),
    "EMF": (b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(64), "EMF"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "PCX, which no first bytes name": (save(Image.new("L", (16, 16)), "PCX"), "not an image that is known"),
    "TGA": (save(Image.new("RGB", (16, 16)), "TGA"), "not an image that is known"),
    "a web page": (b"<!DOCTYPE html><html><svg></svg></html>", "a web page"),
    "a web page with a comment": (b"<!-- 404 -->\n<!--[if IE]>--><HTML lang=en><body><svg>", "a web page"),
    "a page in XML": (b'\xef\xbb\xbf<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C"><svg>', "a web page"),
    "a page without a head": (b"<script>location='/login'</script><svg>", "a web page"),
    "an answer of a store": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "text with tags"),
    "an answer of a server": (b'{"error": "no such file <svg>"}', "JSON, not an image"),
    "a page that says the file is gone": (b"\n<html><body>404", "a web page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "nothing": (b"", "an empty file"),
    "a zip": (b"PK\x03\x04" + bytes(64), "a zip"),
    "a film": (b"\0\0\0\x18ftypmp42" + bytes(64), "a video"),
    "text": (b"secret = 1\n", "not an image that is known"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_are_refused_by_their_name(name: str) -> None:
    data, said = FORMATS[name]
    with pytest.raises(OSError, match=r"^[^\n]{8,300}$") as told:
        decode(data)
    assert said in str(told.value)
    assert "JPEG, PNG, WebP, GIF, BMP and TIFF are read" in str(told.value) or not data
    assert image_bytes(ImageRef("x.png", data=data)) is None
    with pytest.raises(OSError, match=r"is not read|not an image"):
        picture(keep(ImageRef("x.png", data=data))).load()


def test_no_other_decoder_is_so_much_as_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    tried: list[str] = []

    def watch(name: str) -> Callable[..., Any]:
        def accept(head: bytes) -> bool:
            tried.append(name)
            return True

        return accept

    for name, (factory, _) in list(Image.OPEN.items()):
        if name not in image_formats.FORMATS:
            monkeypatch.setitem(Image.OPEN, name, (factory, watch(name)))
    for data, _ in FORMATS.values():
        with pytest.raises(OSError):  # noqa: PT011 (see above)
            decode(data)
    assert tried == []


@pytest.mark.parametrize("format", ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF"))
def test_every_cut_of_a_picture_is_refused_or_whole(format: str) -> None:
    data = photo(format)
    whole = decode(data).convert("RGB").tobytes()
    for end in range(0, len(data), max(1, len(data) // 60)):
        why = why_refused(partial(decode, data[:end]))
        assert why or decode(data[:end]).convert("RGB").tobytes() == whole
        assert "0x" not in why  # an address in memory


# Names.


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def make_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 300 << 20)


SPECIAL: Mapping[str, Callable[[Path], object]] = {
    "fifo": make_fifo,
    "socket": make_socket,
    "folder": Path.mkdir,
    "link to nothing": partial(os.symlink, "gone.png"),
    "link to itself": partial(os.symlink, "x.png"),
    "link to a device": partial(os.symlink, "/dev/zero"),
    "link to a fifo": partial(os.symlink, "pipe.png"),
    "link to the process": partial(os.symlink, "/proc/self/environ"),
    "link to a folder outside": partial(os.symlink, "/etc"),
    "sparse file": make_sparse,
}
NAMES = (
    *("/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "/etc/passwd", "//etc/passwd", "/"),
    *(
        "../secret.png",
        "a/../../secret.png",
        "..\\secret.png",
        "./../secret.png",
        "..",
        ".",
        "",
        " ",
        "a/..",
        "~",
        "~/x",
    ),
    *("C:\\secret.png", "c:/secret.png", "\\\\server\\share\\x.png", "//server/share/x.png", "\\secret.png"),
    *("http://127.0.0.1:9/x.png", "https://x/y.png", "HTTP://x/y.png", "ftp://x/y.png", "file:///etc/passwd"),
    *(
        "file://localhost/etc/passwd",
        "s3://b/k.png",
        "gs://b/k.png",
        "hf://datasets/a/b.png",
        "zip://x.png::/etc/x.zip",
    ),
    *(
        "data:,",
        "data:text/plain,hello",
        "data:image/svg+xml,<svg/>",
        "data:image/png;base64,",
        "data:image/png;base64,!!",
    ),
    *("a\0b.png", "a\nb.png", "\ud800.png", "\u202egnp.exe", "x" * 300 + ".png", "x" * 5000, "y/" * 3000 + "z.png"),
    *("|id", "$(id).png", "`id`", "%2e%2e/secret.png", "%00", "*", "?.png", "[a-z].png", "own.png/", "own.png/x"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(photo())
    data = tmp_path / "data"
    data.mkdir()
    (data / "own.png").write_bytes(photo(size=(9, 9)))
    return data


def finders(folder: Path) -> Iterator[Callable[[str], ImageRef]]:
    yield ImageTree(folder, beside=True).find
    yield ImageIndex.of(folder).find
    yield ImageIndex.inside(folder).find


@pytest.mark.parametrize("special", SPECIAL)
def test_what_is_no_file_of_the_data_is_refused_at_once(special: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    SPECIAL[special](folder / "x.png")
    for find in finders(folder):
        with pytest.raises(OSError, match=r"^[^\n]{8,300}$"):
            find("x.png").open()
    with pytest.raises(OSError):  # noqa: PT011 (the system's words)
        ImageRef.at(folder / "x.png").open()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_name_leads_to_nothing_but_a_picture_of_the_folder(name: str, folder: Path) -> None:
    for find in finders(folder):
        why = why_refused(lambda find=find: picture_in_cell(name, find).open())  # type: ignore[misc]
        assert why or "own.png" in name
        assert len(why) < 1000
        with pytest.raises(OSError):  # noqa: PT011 (any words)
            picture_in_cell({"bytes": None, "path": name if "own.png" not in name else "../secret.png"}, find).open()


def test_a_file_that_becomes_a_pipe_or_grows_is_refused(folder: Path) -> None:
    path = folder / "own.png"
    found = ImageTree(folder).find("own.png")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a file"):
        found.read()


def test_an_answer_is_kept_for_no_other_picture(folder: Path) -> None:
    shown = picture(keep(ImageTree(folder).find("own.png")))
    gone = picture(keep(ImageTree(folder).find("later.png")))
    assert gone.shown.startswith("unreadable-")
    (folder / "own.png").write_bytes(photo(size=(11, 11)))
    with pytest.raises(OSError, match=r"'own.png' has changed since its table was read"):
        shown.load()
    later = keep(ImageRef.at(folder / "later.png"))
    (folder / "later.png").write_bytes(photo(size=(12, 12)))
    with pytest.raises(OSError, match="has changed since its table was read"):
        picture(later).load()


@pytest.mark.parametrize("text", (base64.b64encode(bytes(80 << 20)).decode(), "A" * (100 << 20)), ids=("zeros", "text"))
def test_a_cell_of_much_base64_is_refused_in_bounded_memory(text: str) -> None:
    def read() -> None:
        with pytest.raises(OSError):  # noqa: PT011 (any words)
            picture_in_cell(text, ImageTree(None).find).open()

    megabytes, seconds = spent(read)
    assert (megabytes < 8 * len(text) >> 20, seconds < SECONDS) == (True, True), (megabytes, seconds)


# The code.

OPENERS = {"open": ("Image", "PIL.Image"), "load_image": None, "fetch_images": None, "read_image": None, "imread": None}
FETCHING = ("requests", "httpx", "aiohttp", "urllib.request", "urllib3", "wget", "cv2", "imageio", "torchvision.io")
MAY_FETCH = (
    *("tasks/judges/", "harness/models/early_stops.py", "harness/models/server_facts.py"),
    *("harness/serving/model_server.py", "harness/serving/engine_client.py", "harness/serving/elsewhere.py"),
    *("harness/models/fetch.py", "harness/models/hub.py", "support/downloads.py"),
)
"""The chat client, and what else a model's server is asked; the server that the harness started; models of the hub;
files of data from addresses of our own tables or given by the user, never from a row."""


def test_pictures_are_opened_in_one_place_and_fetched_nowhere() -> None:
    opened: list[str] = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                owner, _, name = called.rpartition(".")
                owners = OPENERS.get(name, ())
                if name in OPENERS and (owners is None or owner in owners):
                    opened.append(where)
                    assert "formats=" in ast.unparse(node), where
                if name == "Image" and any(one.arg == "decode" for one in node.keywords):
                    assert "decode=False" in ast.unparse(node), where
                assert name not in ("open_image_from_url", "decode_image"), where
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom):
                assert not (node.module == "PIL.Image" and "open" in names), where
                names = [node.module or ""]
            assert not {name for name in names if name.startswith(FETCHING)} or where.startswith(MAY_FETCH), where
    assert opened == ["support/image_formats.py"]


def test_pillow_fills_up_no_picture() -> None:
    from PIL import ImageFile

    import harness.evaluation.evaluate  # noqa: F401 (all that a run imports)

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(OSError, match="truncated"):
        decode(photo("JPEG", (300, 200))[:-2000])
    buffer = io.BytesIO(photo())
    assert Image.open(buffer).size == (64, 48)
