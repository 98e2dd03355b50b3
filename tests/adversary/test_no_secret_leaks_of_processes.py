"""The same for whole processes: their caches and temporary files, what other libraries print, servers and children that
they start, an interrupt, and a mistake in the code."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adversary.echo_server import echo_server
from tests.adversary.planted import BASE, ENVIRONMENT, KEY, leaks_in, leaks_of, url_of

HARNESS = [sys.executable, "-c", "from harness.cli.main import main; main()"]
ROOT = Path(__file__).parents[2]
EVAL = ("eval", "-v", "--tasks", "scenes_pope", "--limit", "2", "--ledger", "l.sqlite")


@pytest.fixture(scope="module")
def at() -> Iterator[str]:
    with echo_server() as found:
        yield found


def environment_of(home: Path, at: str) -> dict[str, str]:
    """All places of caches and temporary files are in the folder that is searched."""
    places = {"HOME": home, "HF_HOME": home / "hf", "XDG_CACHE_HOME": home / "cache", "TMPDIR": home}
    hub = f"http://hub:{BASE}@{at}/401"
    more = {"PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug", "HF_ENDPOINT": hub, "OMP_NUM_THREADS": "1"}
    return os.environ | ENVIRONMENT | {name: str(path) for name, path in places.items()} | more


def start(words: tuple[str, ...], home: Path, at: str, **more: Any) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*HARNESS, *words], cwd=home, env=environment_of(home, at) | more, **pipes)


def check(process: subprocess.Popen[str], home: Path) -> tuple[int, str]:
    """The exit code and what was printed, in which there is no secret, nor in any file."""
    out, err = process.communicate(timeout=600)
    assert leaks_in(out + err) == [], out + err
    assert leaks_of(home) == {}
    return process.returncode, out + err


@pytest.mark.slow
def test_libraries_that_tell_all_of_a_call(at: str, tmp_path: Path) -> None:
    code, said = check(start((*EVAL, "--model", "openai:cand", "--model-url", url_of(at)), tmp_path, at), tmp_path)
    assert code == 0
    assert "Sending HTTP Request" in said  # the official client's own lines


@pytest.mark.slow
def test_a_hub_that_refuses(at: str, tmp_path: Path) -> None:
    code, _ = check(start((*EVAL, "--model", "some/where"), tmp_path, at), tmp_path)
    assert code == 2
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "README.md").write_text("a card", encoding="utf-8")
    code, said = check(start(("vlfeedback", "push", "d", "some/where"), tmp_path, at), tmp_path)
    assert code == 1
    assert "not pushed" in said


@pytest.mark.slow
def test_a_server_that_is_started_prints_its_environment(at: str, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        textwrap.dedent("""
        import json, os, sys
        from http.server import BaseHTTPRequestHandler, HTTPServer
        print(dict(os.environ), sys.argv, flush=True)
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
            def do_POST(self):
                print(self.headers, flush=True)
                data = json.dumps({"error": {"message": str(dict(os.environ))}}).encode()
                self.send_response(400); self.send_header("content-length", str(len(data))); self.end_headers()
                self.wfile.write(data)
        HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
        """),
        encoding="utf-8",
    )
    serve = f"{sys.executable} {script} {{port}} {{model}}"
    words = (*EVAL, "--model", "scenes-base", "--serve", serve, "--serve-options", f"--api-key {KEY}")
    code, said = check(start(words, tmp_path, at), tmp_path)
    assert code == 4, said
    (log,) = tmp_path.glob("harness-server-*/*.log")
    assert "'HF_TOKEN': '[secret]'" in log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_interrupt(at: str, tmp_path: Path) -> None:
    words = (*EVAL[:-3], "40", *EVAL[-2:], "--model", "openai:cand", "--model-url", url_of(at, "slow"))
    process = start((*words, "--model-set", "concurrency=1"), tmp_path, at)
    ledger, until = tmp_path / "l.sqlite-wal", time.monotonic() + 120
    while not (ledger.is_file() and ledger.stat().st_size > 50_000) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, said = check(process, tmp_path)
    assert code == 130
    assert "go on with: harness eval" in said


@pytest.mark.slow
def test_a_run_that_trains_and_one_that_watches_it(at: str, tmp_path: Path) -> None:
    judge = ("--judge", "cand", "--judge-url", url_of(at, "list"), "--ledger", "l.sqlite")
    run = ("train-then-eval", "scenes-demo", "--tasks", "scenes_mmhal", "--limit", "96", "--out", "run", *judge)
    code, said = check(start((*run, "-v"), tmp_path, at), tmp_path)
    assert code in (0, 4), said
    watch = ("watch", "run", "--once", "--tasks", "scenes_mmhal", "--limit", "4", "--out", "w", *judge)
    code, said = check(start(watch, tmp_path, at), tmp_path)
    assert code in (0, 4), said


def test_a_mistake_in_the_code(at: str, tmp_path: Path) -> None:
    mistake = """
    import os
    from harness.cli import application, main
    def fail():
        raise KeyError(os.environ["OPENAI_BASE_URL"])
    application.end_budgets = fail
    main.main()
    """
    words = [sys.executable, "-c", textwrap.dedent(mistake), "tasks", "-v"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = environment_of(tmp_path, at) | {"OPENAI_BASE_URL": url_of(at)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, **pipes)
    code, said = check(process, tmp_path)
    assert code == 1
    assert "Traceback" in said
    assert said.count("'http://[secret]@") == 2
