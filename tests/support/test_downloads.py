"""Downloads go on where they were cut off, are checked, and are never whole before they are."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import downloads, full_disk
from support.downloads import Remote, download
from support.errors import DownloadError, RunError
from support.progress import show_on
from tests.support.file_server import Files, serving

DATA = os.urandom(3 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    with serving(Files(files={"/x.zip": DATA})) as files:
        yield files


def remote(server: Files, **more: object) -> Remote:
    return Remote(**{"url": f"{server.url}/x.zip", "size": len(DATA), "sha256": SHA256, **more})  # type: ignore[arg-type]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith((".part", ".json")))


def test_a_file_comes_whole_and_is_reported_in_bytes(server: Files, tmp_path: Path) -> None:
    told: list[tuple[object, ...]] = []
    with show_on(lambda *what: told.append(what)):
        assert download(remote(server), tmp_path / "x.zip") == SHA256
    assert (tmp_path / "x.zip").read_bytes() == DATA
    assert told[-1] == ("download x.zip", len(DATA), len(DATA), "B")
    assert hidden(tmp_path) == []


def test_a_cut_connection_is_gone_on_with_where_it_ended(server: Files, tmp_path: Path) -> None:
    server.cut_after = [1 << 20, 1 << 20]
    download(remote(server), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_without_ranges_it_begins_anew(server: Files, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [1 << 20], False
    download(remote(server), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == DATA


def test_what_came_before_a_failure_is_used_by_the_next_call(server: Files, tmp_path: Path) -> None:
    server.cut_after = [1 << 20, *[0] * downloads.TRIES]
    with pytest.raises(DownloadError, match="1,048,576 bytes are kept, and the same command goes on"):
        download(remote(server), tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()
    server.asked.clear()
    download(remote(server), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == DATA
    assert server.asked == [("/x.zip", f"bytes={1 << 20}-")]


@pytest.mark.parametrize("known", ({}, {"size": None}, {"size": None, "sha256": None}))
def test_another_file_at_the_address_is_never_joined_to_the_first(
    server: Files, tmp_path: Path, known: dict[str, None]
) -> None:
    other = os.urandom(len(DATA))
    server.files["/x.zip"] = other
    server.cut_after = [1 << 20, *[0] * downloads.TRIES]
    with pytest.raises(DownloadError):
        download(remote(server, **known), tmp_path / "x.zip")
    server.files["/x.zip"] = DATA
    download(remote(server, **known), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == DATA


def test_a_wrong_sha256_is_told_and_nothing_is_kept(server: Files, tmp_path: Path) -> None:
    server.files["/x.zip"] = bytes(len(DATA))
    with pytest.raises(DownloadError, match=f"must have {SHA256}; nothing of it is kept"):
        download(remote(server), tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("size", (len(DATA) - 1, len(DATA) + 1))
def test_another_size_is_told_before_a_byte_is_kept(server: Files, tmp_path: Path, size: int) -> None:
    with pytest.raises(DownloadError, match="it is another file now"):
        download(remote(server, size=size), tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_what_is_not_there_is_told_at_once_in_the_servers_words(server: Files, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/y\.zip: 404 Not Found"):
        download(Remote(url=f"{server.url}/y.zip?token=1"), tmp_path / "y.zip")
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Files, tmp_path: Path) -> None:
    server.codes = [503, 429]
    download(remote(server), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == DATA


def test_redirects_are_followed_not_without_end(server: Files, tmp_path: Path) -> None:
    server.redirects = {"/a": "/x.zip", "/loop": "/loop", "/file": "file:///etc/passwd"}
    download(remote(server, url=f"{server.url}/a"), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == DATA
    with pytest.raises(DownloadError, match="redirects more than 5 times"):
        download(remote(server, url=f"{server.url}/loop"), tmp_path / "y.zip")
    with pytest.raises(DownloadError, match="redirects to"):
        download(remote(server, url=f"{server.url}/file"), tmp_path / "z.zip")


def test_a_login_page_is_no_file(server: Files, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page came in place of the file"):
        download(remote(server, size=None, sha256=None), tmp_path / "x.zip")


def test_a_disk_without_room_is_told_before_anything_comes(
    server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_disk, "_measure_free", lambda place: 1e6)
    with pytest.raises(RunError, match=r"GB more, and 0\.00 GB are free"):
        download(remote(server), tmp_path / "x.zip")


def test_other_addresses_than_of_the_web_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no address of a file on http or https"):
        download(Remote(url="file:///etc/passwd"), tmp_path / "x")
