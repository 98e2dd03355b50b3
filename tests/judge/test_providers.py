"""Azure, Gemini and Anthropic by their own variables: the right address, the right header, and no key elsewhere."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.evaluation.make_judge import make_judge
from harness.models.chat_model import OpenAIVisionLM
from harness.models.spec import find
from support.errors import SettingError
from tasks.judges.addresses import server_of
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Sampling
from tasks.judges.providers import find_place
from tests.harness.lm_requests import ask
from tests.profiles.apis import KEY
from tests.profiles.server import ProfileServer

pytestmark = pytest.mark.usefixtures("no_keys")


class Echo:
    """A server that refuses every call and repeats all that came with it, keys included."""

    def __init__(self, status: int) -> None:
        self.came: list[tuple[str, dict[str, str]]] = []
        echo = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                echo.came.append((self.path, headers))
                told = f"Not with {self.path}, {headers.get('authorization')}, {headers.get('api-key')}"
                data = json.dumps({"error": {"message": told, "code": headers.get("api-key")}}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.at = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(params=(400, 401))
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    made = Echo(request.param)
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.mark.parametrize(
    ("endpoint", "version", "url"),
    (
        (
            "https://x.openai.azure.com",
            "2024-10-21",
            "https://x.openai.azure.com/openai/deployments/D?api-version=2024-10-21",
        ),
        ("https://x.openai.azure.com/", None, "https://x.openai.azure.com/openai/v1"),
        ("https://x.openai.azure.com/", "preview", "https://x.openai.azure.com/openai/v1?api-version=preview"),
        ("https://x.openai.azure.com", "v1", "https://x.openai.azure.com/openai/v1"),
        ("'https://x.openai.azure.com/openai/v1/'", "2024-10-21", "https://x.openai.azure.com/openai/v1"),
        (
            "https://x.openai.azure.com/openai/deployments/other/chat/completions?api-version=2025-01-01-preview",
            None,
            "https://x.openai.azure.com/openai/deployments/D?api-version=2025-01-01-preview",
        ),
        ("https://x.services.ai.azure.com/models", None, "https://x.services.ai.azure.com/models"),
        ("http://gateway/azure", "2024-10-21", "http://gateway/azure/openai/deployments/D?api-version=2024-10-21"),
    ),
)
def test_an_azure_deployment_is_asked_by_the_route_of_its_version(
    endpoint: str, version: str | None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k1")
    if version is not None:
        monkeypatch.setenv("OPENAI_API_VERSION", version)
    place = find_place("azure:D")
    assert place is not None
    assert (place.model, place.url, place.variable) == ("D", url, "AZURE_OPENAI_API_KEY")


@pytest.mark.parametrize(
    ("variable", "address", "name", "url"),
    (
        ("GEMINI_API_KEY", None, "gemini:g", "https://generativelanguage.googleapis.com/v1beta/openai"),
        ("GOOGLE_API_KEY", "http://h/g/", "gemini:g", "http://h/g/v1beta/openai"),
        ("GOOGLE_API_KEY", "http://h/v1/openai?x=1", "gemini:g", "http://h/v1/openai?x=1"),
        ("ANTHROPIC_API_KEY", None, "anthropic:c", "https://api.anthropic.com/v1"),
        ("ANTHROPIC_API_KEY", "http://h", "anthropic:c", "http://h/v1"),
        ("ANTHROPIC_API_KEY", "http://h/v1", "anthropic:c", "http://h/v1"),
    ),
)
def test_gemini_and_anthropic_are_where_their_variables_say(
    variable: str, address: str | None, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "k1")
    if address is not None:
        named = "GOOGLE_GEMINI_BASE_URL" if name.startswith("gemini") else "ANTHROPIC_BASE_URL"
        monkeypatch.setenv(named, address)
    place = find_place(name)
    assert place is not None
    assert (place.url, place.variable) == (url, variable)
    spec = find(name)
    assert (spec.name, spec.pretrained, spec.url, spec.key, spec.backend) == (name, name[-1], url, variable, "openai")


def test_what_is_missing_or_would_not_act_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, said in (
        ("azure:D", "set AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY"),
        ("gemini:g", "set GEMINI_API_KEY, or name its server without 'gemini:'"),
        ("anthropic:c", "set ANTHROPIC_API_KEY"),
        ("azure:", "names no model: azure:DEPLOYMENT"),
    ):
        with pytest.raises(SettingError, match=said):
            make_judge(name, ledger=tmp_path / "l")
        with pytest.raises(SettingError, match=said):
            find(name)
    with pytest.raises(SettingError, match=r"gemini:gemini-3\.5-flash is Gemini's, by GEMINI_API_KEY"):
        make_judge("gemini-3.5-flash", ledger=tmp_path / "l")
    monkeypatch.setenv("GEMINI_API_KEY", "k1")
    with pytest.raises(SettingError, match="--judge-url: would not act: 'gemini:g' names its server"):
        make_judge("gemini:g", url="http://h/v1", ledger=tmp_path / "l")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "gateway/v1")
    with pytest.raises(SettingError, match="GOOGLE_GEMINI_BASE_URL 'gateway/v1': no http"):
        find("gemini:g")
    for name in ("gemini/gemini-3.5-flash", "anthropic/claude-opus-4.8", "qwen2.5vl:7b", "gpt-4o"):
        assert find_place(name) is None  # names of routers and of Ollama


def test_a_providers_host_gets_its_own_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"OPENAI_API_KEY": "k-o", "AZURE_OPENAI_API_KEY": "k-z", "GEMINI_API_KEY": "k-g", "ANTHROPIC_API_KEY": "k-a"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    hosts = {
        "https://x.openai.azure.com/openai/v1": "k-z",
        "https://generativelanguage.googleapis.com/v1beta/openai": "k-g",
        "https://api.anthropic.com/v1": "k-a",
        "https://api.openai.com/v1": "k-o",
        "http://localhost:8000/v1": "k-o",
        "https://vm.westeurope.cloudapp.azure.com/v1": "k-o",  # anybody's machine
        "https://generativelanguage.googleapis.com.evil.example/v1": "k-o",
        "https://api.anthropic.com@evil.example/v1": None,
    }
    for url, key in hosts.items():
        server = server_of(url, name="m")
        assert server.key == key, url
        if key not in ("k-o", None):
            assert server.told_of_key() == ""
    monkeypatch.delenv("GEMINI_API_KEY")
    gemini = server_of("https://generativelanguage.googleapis.com/v1beta/openai", name="m", role="judge")
    assert gemini.key is None
    assert "or set GEMINI_API_KEY)" in gemini.refusal(401, "no")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://generativelanguage.googleapis.com/v1beta/openai/")
    assert server_of(None, name="m").key == "k-o"  # which the user put beside it
    with pytest.raises(SettingError, match="no such environment variable"):
        server_of("https://api.anthropic.com/v1", name="m", variable="NOT_THERE")


def test_azures_keys_and_tokens_have_their_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://x.openai.azure.com")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "t1")
    place = find_place("azure:D")
    assert place is not None
    token = server_of(place.url, name="D", variable=place.variable)
    assert (token.key, token.headers) == ("t1", {})  # as a bearer token
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k1")
    place = find_place("azure:D")
    assert place is not None
    assert server_of(place.url, name="D", variable=place.variable).headers["api-key"] == "k1"
    vm = server_of("https://vm.westeurope.cloudapp.azure.com/v1", name="m", key="k2")
    assert vm.headers == {}  # a server of one's own on a rented machine takes bearer tokens


def test_what_a_provider_takes_holds_at_a_gateway_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    judge = make_judge("anthropic:claude-sonnet-4-5", ledger=tmp_path / "l")
    assert isinstance(judge, OpenAIJudge)
    assert judge.client.parameters.takes.family == "anthropic"
    sent = judge.client.parameters.fit(judge.request("Question?", None, Sampling(temperature=0.0, max_tokens=9)).body)
    assert "seed" not in sent  # read by nobody there
    assert server_of("http://127.0.0.1:1/v1", name="m", key="k2").known_host == "127.0.0.1:1"


PLACES = {
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "azure:judge-prod", "gpt-5.4-mini-2026-03-17"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "gemini:gemini-3.5-flash", "gemini-3.5-flash"),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "anthropic:claude-opus-4-8", "claude-opus-4-8"),
}


@pytest.mark.parametrize("version", (None, "2024-10-21"))
@pytest.mark.parametrize("name", sorted(PLACES))
def test_a_judge_and_a_model_of_each_provider_are_asked(
    name: str, version: str | None, profiles: ProfileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, address, model, served = PLACES[name]
    monkeypatch.setenv(variable, KEY)
    monkeypatch.setenv(address, f"http://127.0.0.1:{profiles.port}/{name}")
    if version is not None:
        monkeypatch.setenv("OPENAI_API_VERSION", version)
    judge = make_judge(model, ledger=tmp_path / "l.sqlite")
    assert isinstance(judge, OpenAIJudge)
    sampling = Sampling(temperature=0.0, max_tokens=600)
    assert None not in judge.ask_many([(f"Is picture {n} red?", None) for n in range(3)], sampling, label="mmhal")
    lm = OpenAIVisionLM.of(find(model), ledger=tmp_path / "m.sqlite")
    assert "Yes" in lm.generate_until(ask(lm, ([], "Is there a dog?"), max_gen_toks=600))[0]
    for calls in (judge.client.ledger, lm.client.ledger):
        for call in calls.calls():
            assert call.served == served
            assert call.price is not None
            assert call.price > 0
    for asked in profiles.calls(name):
        sent = {key.lower(): value for key, value in asked.headers.items()}
        assert sent.get("api-key" if name == "azure" else "authorization", "").removeprefix("Bearer ") == KEY
        assert ("authorization" in sent) == (name != "azure")
        assert ("deployments" in asked.path) == (name == "azure" and version is not None)


SECRET = "qZ7planted0Key9vL3xW"
"""Of no known form, so that only knowing it helps."""


@pytest.mark.parametrize("name", (*sorted(PLACES), "query", "azure query", "login"))
def test_no_key_is_told_by_anything(
    name: str, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(key, raising=False)
    urls = {
        "query": f"http://{echo.at}/v1?key={SECRET}",
        "azure query": f"http://{echo.at}/openai/deployments/d?api-version=1&api-key={SECRET}",
        "login": f"http://user:{SECRET}@{echo.at}/v1",
    }
    if name in PLACES:
        variable, address, model, _ = PLACES[name]
        monkeypatch.setenv(variable, SECRET)
        monkeypatch.setenv(address, f"http://{echo.at}")
        given = [model]
        served = ["--model", model]
    else:
        given = ["my-judge", "--judge-url", urls[name]]
        served = ["--model", "openai:my-model", "--model-url", urls[name]]
    fixed = {"question_topic": "x", "image_src": "", "image_content": ["Dog"], "question_type": "other"}
    rows = [
        {**fixed, "image_id": str(n), "question": "What?", "gt_answer": "A dog.", "model_answer": f"I see {n} dogs."}
        for n in range(96)
    ]
    (tmp_path / "answers.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run(["score", "mmhal", "answers.json", "--judge", *given, "-v"]) == 1
    run(["judge", "ledger", "--json"])
    run(["judge", "export", "replies.jsonl"])
    assert run(["eval", *served, "--tasks", "scenes_pope", "--limit", "2", "-v"]) != 0
    assert echo.came
    assert any(SECRET in path or SECRET in str(headers) or "authorization" in headers for path, headers in echo.came)
    printed = capsys.readouterr()
    hidden = (SECRET, SECRET[:9], "dXNlcjpxWjdwbGFudGVk")  # the login in base64, too
    kept = [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    assert len(kept) > 2
    for text in (printed.out, printed.err, *kept):
        assert not any(part in text for part in hidden)
    assert "Not with" in printed.err
