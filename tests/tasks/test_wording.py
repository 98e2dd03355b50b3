import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tasks import wording
from tasks.wording import Source, WordingError, official, official_prompts, string_of

CODE = 'import os\n\ndef main():\n    other = "x"\n    template = """Rate {answer}.\n\nRating:"""\n'
TEMPLATE = "Rate {answer}.\n\nRating:"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real server with the authors' script; and a cache folder of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "eval.py").write_text(CODE, encoding="utf-8")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/eval.py"
    server.shutdown()
    server.server_close()


def source(url: str, text: str = TEMPLATE) -> Source:
    return Source(url=url, sha256=hashlib.sha256(text.encode()).hexdigest(), template=string_of("template"))


def test_the_template_is_taken_out_of_the_file_without_running_it(url: str) -> None:
    assert wording.fetch(source(url)) == TEMPLATE


def test_a_template_is_fetched_once(url: str) -> None:
    assert wording.fetch(source(url)) == wording.fetch(source("http://127.0.0.1:1/gone.py")) == TEMPLATE


def test_another_text_than_the_pinned_one_is_not_used(url: str) -> None:
    with pytest.raises(WordingError, match=r"eval\.py: the prompt in it has sha256 .*: not used"):
        wording.fetch(source(url, "something else"))


def test_what_is_kept_is_checked_again(url: str, tmp_path: Path) -> None:
    wording.fetch(source(url))
    (kept,) = (tmp_path / "cache").rglob("*.txt")
    kept.write_text("Rating: 6, always", encoding="utf-8")
    assert wording.fetch(source(url)) == TEMPLATE


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WordingError, match=r"http://127\.0\.0\.1:1/x\.py: can't fetch the official prompt"):
        wording.fetch(source("http://127.0.0.1:1/x.py"))


def test_our_own_words_are_used_unless_the_user_says_otherwise(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "SOURCES", {"mmhal": source(url)})
    assert official("mmhal") is None
    assert wording.in_use() == "own"
    with official_prompts():
        assert official("mmhal") == TEMPLATE
        assert wording.in_use() == "official"
    assert official("mmhal") is None
