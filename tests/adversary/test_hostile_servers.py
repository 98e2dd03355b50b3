"""Where a call goes, what it may take, and how often it is made: redirects and keys, proxies, dead ends, waits that are
asked for, memory; and what the commands say of it."""

import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import harness.models.served_identity as served_identity
import harness.serving.model_server as model_server
from harness.cli.main import run
from harness.models.served_identity import identified
from harness.models.spec import ModelSpec
from support.errors import JudgeDown, ServerError, SettingError
from tasks.judges.addresses import server_of
from tasks.judges.bodies import read_json
from tasks.judges.replies import clean
from tests.adversary.fault_bodies import LISTS, RATING
from tests.adversary.fault_modes import MODES
from tests.adversary.fault_server import FaultServer
from tests.judge.reply_makers import judge_of

KEY: Final = "sk-secret-0123456789"
WHOLE: Final = f"Reasons.\n{RATING}"


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    running = FaultServer()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _no_keys(no_keys: None) -> None:
    """Nothing of the environment is sent."""


def ask(url: str, folder: Path, **settings: Any) -> Any:
    given = {"attempts": 1, "longest_wait": 0.05, "timeout": 2.0} | settings
    return judge_of(SimpleNamespace(url=url), folder, **given).ask_many([("Question 1", None)])


# Redirects and keys.
def test_the_key_goes_along_to_the_same_server_alone(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name, more in (("redirect_307", {}), ("redirect_307_host", {"redirects_to": "other.example, localhost"})):
        (tmp_path / name).mkdir()
        seen = len(faults.log)
        assert ask(faults.url(name), tmp_path / name, **more) == [WHOLE]
        first, second = faults.log[seen:]
        assert first.headers["authorization"] == f"Bearer {KEY}"
        assert second.path == "/ok/v1/chat/completions"
        assert second.question == "Question 1"
        assert second.headers["host"].startswith("localhost:" if more else "127.0.0.1:")
        assert (KEY in str(second.headers)) == (not more)


@pytest.mark.parametrize("hosts", (None, "other.example", "localhost:1", ""))
def test_another_server_gets_no_call_unless_it_is_named(
    hosts: str | None, faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen = len(faults.log)
    with pytest.raises(JudgeDown, match=r"redirects to another server, http://localhost:.*: not followed") as told:
        ask(faults.url("redirect_308_host"), tmp_path, redirects_to=hosts)
    assert len(faults.log) == seen + 1
    assert KEY not in str(told.value)


# Proxies, and servers that are not there.
PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_of_the_environment_is_used_and_named(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter2hunter2@127.0.0.1:{faults.port}")
    assert ask("http://judge.invalid/v1", tmp_path) == [WHOLE]
    assert faults.log[-1].headers["host"] == "judge.invalid"
    seen = len(faults.log)
    (tmp_path / "here").mkdir()
    assert ask(faults.url("ok"), tmp_path / "here") == [WHOLE]  # no proxy reaches this machine
    assert "proxy-authorization" not in faults.log[seen].headers
    monkeypatch.setenv("NO_PROXY", "judge.invalid")
    (tmp_path / "direct").mkdir()
    lost = ask("http://judge.invalid/v1", tmp_path / "direct").lost[0].error
    assert lost.startswith("no connection to http://judge.invalid/v1/: ")
    monkeypatch.delenv("NO_PROXY")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter2hunter2@127.0.0.1:{free.getsockname()[1]}")
        (tmp_path / "down").mkdir()
        lost = ask("http://judge.invalid/v1", tmp_path / "down").lost[0].error
    assert f"no connection to http://judge.invalid/v1/ (by the proxy 127.0.0.1:{free_port_of(lost)}): " in lost
    assert "hunter2" not in lost


def free_port_of(line: str) -> str:
    return line.partition("(by the proxy 127.0.0.1:")[2].partition(")")[0]


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    ("name", "value"),
    (
        ("HTTP_PROXY", "foo:bar"),
        ("HTTP_PROXY", "ftp://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://[::1"),
        ("ALL_PROXY", "gopher://127.0.0.1:1"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", os.devnull),
    ),
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=rf"^http://127.0.0.1:1/v1: .*{name}.*: .+") as told:
        server_of("http://127.0.0.1:1/v1", name="m").connect(1.0)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("url", ("http://127.0.0.1:9/v1", "http://[::1]:9/v1", "http://no-such-host.invalid/v1"))
def test_a_server_that_is_not_there_is_told_in_one_line(url: str, tmp_path: Path) -> None:
    lost = ask(url, tmp_path).lost[0].error
    assert lost.startswith(f"no connection to {url}/: ")
    assert "\n" not in lost
    with pytest.raises(ServerError, match="no connection: "):
        identified(ModelSpec(name="m", pretrained="m", backend="openai", url=url), tmp_path / "l.sqlite")


def test_an_ipv6_address_is_asked(tmp_path: Path) -> None:
    try:
        server = FaultServer("::1")
    except AssertionError:
        pytest.skip("no IPv6 here")
    try:
        assert ask(server.url("ok"), tmp_path) == [WHOLE]
    finally:
        server.stop()


def test_a_certificate_that_nobody_trusts_is_told(tmp_path: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    made += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = FaultServer(tls=context)
    try:
        url = server.url("ok")
        assert "certificate verify failed" in ask(url, tmp_path).lost[0].error.lower()
        plain = ask(url.replace("https:", "http:"), tmp_path).lost[0].error
        assert " broke: " in plain or "no connection" in plain
        assert server.log == []
    finally:
        server.stop()


PROBED: Final = {
    "ok": True,
    "redirect_302": True,
    **dict.fromkeys(("status_503", "not_http", "hang_up", "hang", "byte_by_byte", "slow_headers", "endless"), False),
    **dict.fromkeys(("redirect_302_host", "redirect_self", "gzip_bomb", "header_broken", "continue_for_ever"), False),
}


@pytest.mark.parametrize("name", PROBED)
def test_a_server_that_was_started_is_there_if_it_answers_in_time(
    name: str, faults: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_server, "PROBE", 0.3)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    started = time.monotonic()
    url = faults.url(name, at="models").removesuffix("/v1")
    monkeypatch.setattr(model_server, "PATHS", ("/v1/models",))
    assert model_server.is_up(url) == PROBED[name]
    assert time.monotonic() - started < 5


# How often, and when.
@pytest.mark.parametrize(
    ("name", "again", "calls"),
    (
        ("content_null", False, 1),
        ("content_null", True, 3),
        ("json_cut", False, 3),
        ("status_206", False, 3),
        ("status_500", True, 4),
    ),
)
def test_what_the_server_may_have_charged_for_is_tried_three_times_at_most(
    name: str, again: bool, calls: int, faults: FaultServer, tmp_path: Path
) -> None:
    url = faults.url(name)
    ask(url, tmp_path, attempts=4, retry_unread=again)
    assert len(faults.calls(url)) == calls


@pytest.mark.parametrize("name", ("after_day_429", "after_day_503", "after_far_503", "after_ms"))
def test_a_wait_above_the_limit_is_told_once_and_asked_again_after_the_limit(
    name: str, faults: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = faults.url(name, first=True)
    judge = judge_of(SimpleNamespace(url=url), tmp_path, attempts=3, longest_wait=0.2)
    started = time.monotonic()
    assert judge.ask_many([(f"Question {n}", None) for n in range(6)]) == [WHOLE] * 6
    assert 0.2 < time.monotonic() - started < 20
    asked = "86400 s" if "day" in name else "more than ten days"
    told = [line for line in caplog.messages if "waiting at most 0.2 s" in line]
    assert len(told) == 1
    assert f"m: the server asks to wait {asked}; waiting at most 0.2 s" in told[0]


# Lists of models.
@pytest.mark.parametrize("name", [f"list_{name}" for name in LISTS])
def test_a_hostile_list_of_models_names_none_or_a_clean_one(name: str, faults: FaultServer, tmp_path: Path) -> None:
    spec = ModelSpec(name="m", pretrained="m", backend="openai", url=faults.url(name, at="models"))
    found = identified(spec, tmp_path / "l.sqlite", run="r").digests
    for text in (*found, *found.values()):
        assert text == clean(text)
        assert len(text) < 5000
    assert ("answers of" in found) == (name not in ("list_twice", "list_parent_self", "list_digest_hostile"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODES if not name.startswith("list_")])
def test_any_fault_of_the_list_leaves_the_model_unnamed_or_is_one_line(
    name: str, faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_identity, "PATIENCE", 1.0)
    spec = ModelSpec(name="m", pretrained="m", backend="openai", url=faults.url(name, at="models"))
    started, told = time.monotonic(), ""
    try:
        named = identified(spec, tmp_path / "l.sqlite", run="r").digests["weights"]
    except ServerError as error:
        named, told = "", str(error)
    assert named.startswith("m@http://127.0.0.1:") or ": no connection: " in told
    assert told.isprintable()
    assert time.monotonic() - started < 10


# Bodies.
@pytest.mark.parametrize(
    ("data", "expected"),
    (
        (b'{"a": 123456789012345678}', {"a": 123456789012345678}),
        (b'{"a": 1234567890123456789}', {"a": 1234567890123456789.0}),
        (b"[" * 64 + b"]" * 64, None),
        ("\ufeff[1]", [1]),
        ("[1]".encode("utf-16"), [1]),
        ("[1]".encode("utf-32-be"), [1]),
        (b'["\xff"]', ["\ufffd"]),
    ),
)
def test_json_is_read_within_bounds(data: bytes | str, expected: Any) -> None:
    found = read_json(data)
    assert expected is None or (found == expected and type(found) is type(expected))


@pytest.mark.parametrize(
    "data", (b"", b"[" * 66 + b"]" * 66, b"[" * 10**6, b'{"a":' * 990 + b"1" + b"}" * 990, b"{", b"\x00")
)
def test_what_is_no_json_or_too_deep_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(data)


# Whole commands.
def command(whom: str, url: str, folder: Path) -> list[str]:
    given = ["timeout=2", "attempts=2", "longest_wait=0.1", "patience=0.2"]
    kept = ["--limit", "3", "--ledger", str(folder / "l.sqlite"), "--out", str(folder / "board")]
    if whom == "judge":
        asked = ["--model", "scenes-early", "--tasks", "scenes_mmhal", "--judge", "j", "--judge-url", url]
        kept += ["--answers", str(folder.parent / "answers.sqlite")]
    else:
        asked = ["--model", "openai:m", "--model-url", url, "--tasks", "scenes_pope"]
    return ["eval", *asked, *kept, *(word for one in given for word in (f"--{whom}-set", one))]


COMMANDS: Final = {
    "gzip_bomb": (4, "a body of more than 4 MiB (3, such as "),
    "redirect_307_host": (1, "redirects to another server, http://localhost:"),
    "after_day_503": (1, "3 questions in a row got no reply in 2 tries (status 503: busy; it asks to wait 86400 s)"),
    "finish_brand_new": (4, "finish_reason brand_new (3, such as "),
}


@pytest.mark.parametrize(("name", "whom"), [(name, whom) for name in COMMANDS for whom in ("judge", "model")])
def test_a_command_says_in_one_line_what_the_server_did(
    name: str, whom: str, faults: FaultServer, tmp_path_factory: pytest.TempPathFactory, capsys: Any
) -> None:
    code, words = COMMANDS[name]
    folder = tmp_path_factory.mktemp("commands")
    assert run(command(whom, faults.url(name), folder)) == code
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in out + err
    assert sum(line.startswith("harness: ") and words in line for line in err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("whom", ("judge", "model"))
@pytest.mark.parametrize("name", [name for name in MODES if not name.startswith(("list_", "redirect_"))])
def test_no_command_ends_with_a_traceback(
    name: str, whom: str, faults: FaultServer, tmp_path_factory: pytest.TempPathFactory, capsys: Any
) -> None:
    folder = tmp_path_factory.mktemp("commands")
    started = time.monotonic()
    code = run(command(whom, faults.url(name), folder))
    out, err = capsys.readouterr()
    assert code in (0, 1, 4)
    assert "Traceback" not in out + err
    assert code == 0 or any(line.startswith("harness: ") for line in err.splitlines())
    assert time.monotonic() - started < 40


MEASURED: Final = """
import resource, sys
from contextlib import suppress
from support.errors import JudgeError
from types import SimpleNamespace
from pathlib import Path
from tests.judge.reply_makers import judge_of
url, folder = sys.argv[1:]
def asked(url, name):
    (Path(folder) / name).mkdir()
    made = judge_of(SimpleNamespace(url=url), Path(folder) / name, timeout=20.0, concurrency=8)
    with suppress(JudgeError):
        made.ask_many([(f"Question {n}", None) for n in range(8)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = asked(url.replace("MODE", "ok"), "ok")
print(asked(url.replace("MODE", "faulty"), "faulty") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ("endless", "endless_chunks", "endless_400", "gzip_bomb", "gzip_bomb_400", "large", "large_400")
)
def test_memory_stays_bounded(name: str, faults: FaultServer, tmp_path: Path) -> None:
    for place in ("faulty", "ok"):
        faults.rename(faults.url(name if place == "faulty" else "ok"), place)
    url = f"http://127.0.0.1:{faults.port}/MODE/v1"
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", MEASURED, url, str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250
