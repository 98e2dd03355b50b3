"""A board's page over HTTP: who gets it, what it shows, and how it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from harness.cli import main as cli
from harness.evaluation import live_page
from harness.evaluation.live_page import LivePage
from leaderboards.board.board import Board

HARNESS = "import sys; from harness.cli.main import main; sys.argv[0] = 'harness'; sys.exit(main())"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "board"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def live(board: Path) -> Iterator[LivePage]:
    """A page that says which files are there; it can't be made while there is one that is called "broken"."""

    def make(state: str) -> str:
        names = [path.name for path in board.iterdir()]
        if "broken" in names:
            raise ValueError("broken <b>")
        return f"{state} {sorted(names)}"

    with LivePage(make, places=[board.parent]) as page:
        thread = Thread(target=page.serve)
        thread.start()
        yield page
        page.stop()
        thread.join()


def asked(live: LivePage, method: str = "GET", path: str | None = None, **headers: str) -> tuple[HTTPResponse, str]:
    address = urlsplit(live.address)
    connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=10)
    connection.request(method, address.path if path is None else path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_the_page_follows_the_files_of_the_board(live: LivePage, board: Path) -> None:
    first, body = asked(live)
    assert first.status == 200
    assert body.endswith(" []")
    assert first.headers["ETag"] == f'"{body.split()[0]}"'
    (board / "a.json").write_text("{}")
    head, nothing = asked(live, "HEAD")
    assert (head.status, nothing) == (200, "")
    assert head.headers["ETag"] != first.headers["ETag"]
    again, body = asked(live, path=f"{urlsplit(live.address).path}?models=x")
    assert body.endswith("['a.json']")
    assert again.headers["ETag"] == head.headers["ETag"] == f'"{body.split()[0]}"'


def test_boards_that_cannot_be_read_leave_the_page_as_it_was(
    live: LivePage, board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = asked(live)[1]
    (board / "broken").write_text("")
    assert [asked(live)[1] for _ in range(2)] == [before, before]
    assert caplog.messages == ["the page stays as it was: broken <b>"]
    (board / "broken").unlink()
    (board / "b.json").write_text("{}")
    assert asked(live)[1].endswith("['b.json']")


def test_only_who_has_the_token_and_asks_for_this_machine_gets_the_page(live: LivePage) -> None:
    address = urlsplit(live.address)
    assert address.hostname == "127.0.0.1"
    assert len(address.path) > 30
    for path in ("/", "/x/", "/favicon.ico", address.path.rstrip("/"), f"{address.path}runs", "/../etc/passwd", "//"):
        answer, body = asked(live, path=path)
        assert answer.status == 404, path
        assert address.path.strip("/") not in body
    for host in ("evil.example", f"evil.example:{address.port}", "127.0.0.1", ""):
        assert asked(live, Host=host)[0].status == 403, host
    assert asked(live, Host=f"localhost:{address.port}")[0].status == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asked(live, method)[0].status == 501
    headers = asked(live)[0].headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_what_cannot_be_served_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["view", str(tmp_path / "nothing")]) == 2
    assert "no folder" in capsys.readouterr().err
    with LivePage(lambda state: state, places=[tmp_path]) as other:
        taken = urlsplit(other.address).port
        assert cli.run(["view", str(tmp_path), "--port", str(taken)]) == 2
        assert f"--port {taken} of 127.0.0.1: Address already in use" in capsys.readouterr().err


def test_the_command_shows_a_folder_before_its_first_result_and_ends_in_order(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", HARNESS, "view", str(tmp_path), "--base", "scenes-base"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout is not None
    address = urlsplit(running.stdout.readline().strip())
    connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=20)
    connection.request("GET", address.path)
    text = connection.getresponse().read().decode()
    assert "No results." in text
    assert re.search(r'<html lang="en" data-live="[0-9a-f]{16}">', text)
    assert "connect-src &#39;self&#39;" in text
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=20)
    assert running.returncode == 0
    assert told.splitlines()[-1] == "ended"
    assert "Traceback" not in told


def test_a_board_that_is_taken_away_meanwhile_is_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(tmp_path / "gone" / "board")
    monkeypatch.setattr(live_page, "boards_in", lambda place: [board])
    live = LivePage(lambda state: "page", places=[tmp_path])
    with live:
        before = live.state()
        board.folder.mkdir(parents=True)
        (board.folder / "a.json").write_text("{}")
        assert live.state() != before
