"""Addresses and keys as people have them: they work, or one line says what was asked and what came back."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import JudgeDown, SettingError
from tasks.judges.addresses import Server, server_of
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge

pytestmark = pytest.mark.usefixtures("no_keys")

OK = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
OK |= {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"}]}


class Asked:
    """A server that has chat completions at one path, and asks for a key where it is told so."""

    def __init__(self, path: str = "/v1/chat/completions", needs: str | None = None, missing: Any = None) -> None:
        self.log: list[tuple[str, dict[str, str]]] = []
        self.not_there = 404
        asked = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                asked.log.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, body = 200, OK
                if self.path.split("?")[0] != path:
                    status, body = asked.not_there, missing or {"detail": "Not Found"}
                elif needs is not None and self.headers.get("authorization") != needs:
                    status, body = 401, {"error": {"message": f"no entry with {self.headers.get('authorization')}"}}
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.at = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Any]:
    made: list[Asked] = []

    def start(*args: Any, **more: Any) -> Asked:
        made.append(Asked(*args, **more))
        return made[-1]

    yield start
    for each in made:
        each.http.shutdown()
        each.http.server_close()


def ask(server: Server | str, tmp_path: Path, times: int = 1) -> list[str | None]:
    judge = OpenAIJudge("m", url=server, ledger=Ledger(tmp_path / "ledger.sqlite"))
    return judge.ask_many([(f"Question {number}?", None) for number in range(times)])


@pytest.mark.parametrize(
    ("address", "path"),
    (
        ("http://AT/v1", "/v1/chat/completions"),
        ("http://AT/v1/", "/v1/chat/completions"),
        ("http://AT//v1//", "/v1/chat/completions"),
        ("  http://AT/v1\n", "/v1/chat/completions"),
        ("HTTP://AT/v1", "/v1/chat/completions"),
        ("http://AT/v1/chat/completions", "/v1/chat/completions"),
        ("http://AT/v1/chat/completions/", "/v1/chat/completions"),
        ("http://AT/v1/completions", "/v1/chat/completions"),
        ("http://AT/v1/models", "/v1/chat/completions"),
        ("http://AT/v1/models/mm", "/v1/chat/completions"),
        ("http://AT/v1/chat", "/v1/chat/completions"),
        ("http://AT/v1/responses", "/v1/chat/completions"),
        ("http://AT/v1/embeddings", "/v1/chat/completions"),
        ("'http://AT/v1'", "/v1/chat/completions"),
        ("http://AT", "/v1/chat/completions"),
        ("http://AT/", "/v1/chat/completions"),
        ("http://AT/v1#top", "/v1/chat/completions"),
        ("http://AT", "/chat/completions"),  # a server without /v1
        ("http://AT/chat/completions", "/chat/completions"),
        ("http://AT/proxy", "/proxy/v1/chat/completions"),
        ("http://AT/proxy", "/proxy/chat/completions"),
        ("http://AT/api/v3", "/api/v3/chat/completions"),
        ("http://AT/v1beta/openai", "/v1beta/openai/chat/completions"),
        ("http://AT/openai/deployments/mm", "/openai/deployments/mm/chat/completions"),
        ("http://me:p%40ss@AT", "/v1/chat/completions"),
    ),
)
def test_an_address_works_as_people_have_it(address: str, path: str, serve: Any, tmp_path: Path) -> None:
    server = serve(path)
    assert ask(address.replace("AT", server.at), tmp_path, 3) == ["Yes"] * 3
    assert server.log[-1][0] == path


@pytest.mark.parametrize(
    ("address", "said"),
    (
        ("127.0.0.1:8000/v1", "no http:// or https:// in front (did you mean http://127.0.0.1:8000/v1?)"),
        ("localhost:8000", "did you mean http://localhost:8000?"),
        ("[::1]:8000/v1", "did you mean http://[::1]:8000/v1?"),
        ("http:127.0.0.1:8000/v1", "did you mean http://127.0.0.1:8000/v1?"),
        ("http:/gpu7:8000/v1", "did you mean http://gpu7:8000/v1?"),
        ("https//api.example.com/v1", "did you mean https://api.example.com/v1?"),
        ("//api.example.com/v1", "did you mean https://api.example.com/v1?"),
        ("https.example.com/v1", "did you mean https://https.example.com/v1?"),
        (":8000", "did you mean http://localhost:8000?"),
        ("8000/v1", "did you mean http://localhost:8000/v1?"),
        ("http://me:pa@hunter22/x@host/v1", "has an '@' behind the host"),
        ("http://me:12/hunter22@host/v1", "has an '@' behind the host"),
        ("http://me:1#hunter22@host/v1", "has an '@' behind the host"),
        ("http://me:1?hunter22@host/v1", "has an '@' behind the host"),
        ("gpu7:8000", "did you mean http://gpu7:8000?"),
        ("api.example.com/v1", "did you mean https://api.example.com/v1?"),
        ("user:hunter22@api.example.com/v1?key=hunter22", "did you mean https://api.example.com/v1?"),
        ("", "is empty"),
        (" ", "is empty"),
        ("ftp://host/v1", "must begin with http:// or https://"),
        ("http://", "names no host"),
        ("http:///v1", "names no host"),
        ("http://host:80000/v1", "the port is no number up to 65535"),
        ("http://me:hunter22/x@host/v1", "the port is no number"),
        ("http://::1:8000/v1", "an IPv6 address stands in brackets"),
        ("http://[::1/v1", "can't be read as an address"),
        ("http://a host/v1", "has a space or a control character in it"),
        ("http://h\x7f/v1", "has a space or a control"),
        ("http://höst/v1", "the host has other signs than letters"),
    ),
)
def test_an_address_that_is_none_is_refused_before_anything_is_asked(address: str, said: str) -> None:
    with pytest.raises(SettingError) as error:
        server_of(address, name="m")
    assert str(error.value).startswith("--model-url '")
    assert said in str(error.value)
    assert "hunter22" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "url", "other"),
    (
        ("https://api.openai.com", "https://api.openai.com/v1", "https://api.openai.com"),
        ("https://x.openai.azure.com", "https://x.openai.azure.com/openai/v1", "https://x.openai.azure.com"),
        ("https://x.openai.azure.com/openai/v1/", "https://x.openai.azure.com/openai/v1", None),
        ("https://x.services.ai.azure.com/models", "https://x.services.ai.azure.com/models", "+/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1", "http://[::1]:8000"),
        ("https://Host.Example/V1x", "https://host.example/V1x", "+/v1"),
        ("https://openrouter.ai/api/v1/chat/completions", "https://openrouter.ai/api/v1", None),
    ),
)
def test_what_stands_before_chat_completions(address: str, url: str, other: str | None) -> None:
    found = server_of(address, name="m")
    assert (found.url, found.other) == (url, url + other[1:] if other and other[0] == "+" else other)


def test_a_page_that_takes_no_post_is_not_there(serve: Any, tmp_path: Path) -> None:
    server = serve("/chat/completions")
    server.not_there = 405
    assert ask(f"http://{server.at}", tmp_path, 5) == ["Yes"] * 5
    with pytest.raises(JudgeDown, match=r"^m: http://.+/v1/chat/completions: 405: Not Found$"):
        ask(f"http://{server.at}/v1", tmp_path / "other")


def test_a_query_goes_behind_the_path_and_only_its_version_is_shown(serve: Any, tmp_path: Path) -> None:
    server = serve("/openai/deployments/mm/chat/completions")
    at = server_of(f"http://{server.at}/openai/deployments/mm?api-version=2024-10-21&sig=QUERYKEY", name="m", key="k1")
    assert ask(at, tmp_path) == ["Yes"]
    ((path, headers),) = server.log
    assert path == "/openai/deployments/mm/chat/completions?api-version=2024-10-21&sig=QUERYKEY"
    assert (headers["api-key"], headers["authorization"]) == ("k1", "Bearer k1")
    assert at.shown.endswith("/openai/deployments/mm?api-version=2024-10-21")
    assert "QUERYKEY" not in repr(at) + at.refusal(500, "no QUERYKEY here")
    azure = server_of("https://x.openai.azure.com/openai/deployments/mm?api-version=1", name="m", key="k1")
    assert azure.headers["api-key"] == "k1"
    assert not isinstance(azure.headers["Authorization"], str)  # left out: Azure takes it for another kind of key


@pytest.mark.parametrize(
    ("address", "missing", "said"),
    (
        ("http://AT/v1", None, "m: http://AT/v1/chat/completions: 404: "),
        ("http://AT/v2/chat/completions", None, "m: http://AT/v2/chat/completions: 404: "),
        (
            "http://AT",
            None,
            "m: http://AT/v1/chat/completions: 404: not there; http://AT/chat/completions: 404: ",
        ),
        (
            "http://AT",
            {"error": {"message": "The model `m` does not exist."}},
            "m: http://AT/v1/chat/completions: 404: The model `m` does not exist.",
        ),
    ),
)
def test_a_wrong_address_is_told_with_what_was_asked(
    address: str, missing: Any, said: str, serve: Any, tmp_path: Path
) -> None:
    server = serve("/elsewhere", missing=missing)
    with pytest.raises(JudgeDown, match="^" + re.escape(said.replace("AT", server.at))):
        ask(address.replace("AT", server.at), tmp_path, 20)


@pytest.mark.parametrize(
    ("variables", "variable", "told"),
    (
        ({}, None, "(no key was sent: put it into a variable and name that by --judge-key-env, or set OPENAI_API_KEY)"),
        ({"OPENAI_API_KEY": "sk-wrong"}, None, "(the key in OPENAI_API_KEY was sent; name the variable of another by"),
        (
            {"OTHER": "sk-wrong"},
            "OTHER",
            "(the key in OTHER was sent; name the variable of another by --judge-key-env)",
        ),
    ),
)
def test_a_refused_key_is_told_with_its_variable_and_never_shown(
    variables: dict[str, str], variable: str | None, told: str, serve: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server = serve(needs="Bearer secret")
    with pytest.raises(JudgeDown) as error:
        ask(server_of(f"http://{server.at}/v1", name="m", role="judge", variable=variable), tmp_path)
    assert f"m: http://{server.at}/v1/chat/completions: 401: no entry with Bearer " in str(error.value)
    assert told in str(error.value)
    assert "sk-wrong" not in str(error.value)
    monkeypatch.setenv("MINE", "secret")
    assert ask(server_of(f"http://{server.at}", name="m", role="judge", variable="MINE"), tmp_path) == ["Yes"]


@pytest.mark.parametrize(
    ("variable", "said"),
    (
        ("NOT_SET", "--model-key-env NOT_SET: no such environment variable, or it is empty"),
        ("EMPTY", "--model-key-env EMPTY: no such environment variable, or it is empty"),
        ("sk-1234567890abcdef", "takes the name of an environment variable that holds the key, not the key"),
        ("abcdef1234", "takes the name of an environment variable"),
        ("", "takes the name of an environment variable"),
        ("A B", "takes the name of an environment variable"),
        ("NON_ASCII", "the key in NON_ASCII: has a space or a sign beyond ASCII in it"),
        ("TWO_WORDS", "the key in TWO_WORDS: has a space"),
        ("QUOTED", "the key in QUOTED: has quotes around it"),
        ("HALF_QUOTED", "the key in HALF_QUOTED: has quotes around it"),
    ),
)
def test_a_variable_that_holds_no_key_is_refused_and_a_key_is_not_shown(
    variable: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "EMPTY": " ",
        "NON_ASCII": "schlüssel",
        "TWO_WORDS": "a key",
        "QUOTED": "'k1'",
        "HALF_QUOTED": 'k1"',
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError) as error:
        server_of("http://host/v1", name="m", variable=variable)
    assert said in str(error.value)
    assert not variable.islower() or variable == "" or variable not in str(error.value)


def test_each_server_has_its_own_key_and_a_login_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-usual")
    monkeypatch.setenv("OTHER", " sk-other\n")
    usual, other = server_of("http://a/v1", name="m"), server_of("http://b/v1", name="m", variable="OTHER")
    assert (usual.key, other.key) == ("sk-usual", "sk-other")
    assert usual.told_of_key() == "the key in OPENAI_API_KEY is sent to http://a/v1"
    assert other.told_of_key() == "the key in OTHER is sent to http://b/v1"
    assert server_of(None, name="m").told_of_key() == ""
    login = server_of("http://me:pw@a/v1", name="m")
    assert (login.key, login.told_of_key(), login.headers) == (None, "", {"Authorization": "Basic bWU6cHc="})
    with pytest.raises(SettingError, match="--model-key-env OTHER: would not act: --model-url has a user"):
        server_of("http://me:pw@a/v1", name="m", variable="OTHER")
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    with pytest.raises(SettingError, match="OPENAI_BASE_URL 'nowhere': no http"):
        server_of(None, name="m")


def test_a_key_in_the_address_is_not_said_to_be_missing() -> None:
    told = server_of("http://h/v1?key=QUERYKEY", name="m").refusal(401, "no entry for QUERYKEY")
    assert (
        told
        == "http://h/v1/chat/completions: 401: no entry for [secret] (what stands behind '?' in the address was sent)"
    )


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.text().map("http://{}".format), st.from_regex(r"https?://[^/]*/.*", fullmatch=True)))
def test_any_text_is_an_address_or_one_line(text: str) -> None:
    try:
        server = server_of(text, name="m", key="k")
    except SettingError as error:
        told = str(error)
    else:
        told = server.shown
        asyncio.run(server.connect(1.0).close())
        assert server_of(server.url, name="m", key="k").url == server.url
    assert len(told.splitlines()) == 1
