"""Which model is behind a server: answers of another are never taken for its own, its own are not asked for twice."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli.main import run
from harness.models import served_identity
from harness.models.served_identity import SNAPSHOT, _find_facts, identified
from harness.models.spec import ModelSpec
from support.errors import ServerError
from support.reuse import Reuse
from tasks.judges.ledger import Ledger

pytestmark = pytest.mark.usefixtures("no_keys")


class Served:
    """A server of one model, which can be replaced by another."""

    def __init__(self) -> None:
        self.says, self.stops_after = "Yes", 10**9
        self.fingerprint: Any = None
        self.refuses_short = False
        self.fails_at: tuple[int, ...] = ()
        self.models: list[Any] | Callable[[], list[Any]] | None = []
        self.calls: list[dict[str, Any]] = []
        self.listed = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def send(self, status: int, body: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                served.listed += 1
                models = served.models() if callable(served.models) else served.models
                self.send(200 if models is not None else 404, {"object": "list", "data": models})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if not self.path.endswith("/chat/completions"):
                    return self.send(404, {"error": {"message": "Not Found"}})
                if len(served.calls) >= served.stops_after:
                    return self.send(401, {"error": {"message": "Unauthorized"}})
                served.calls.append(body)
                if len(served.calls) in served.fails_at:
                    return self.send(500, {"error": "out of memory"})
                if served.refuses_short and body.get("max_tokens") == 1:
                    return self.send(400, {"error": "no picture"})
                message = {"role": "assistant", "content": served.says}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                done = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]}
                fingerprint = served.fingerprint
                done["system_fingerprint"] = fingerprint(len(served.calls)) if callable(fingerprint) else fingerprint
                self.send(200, done | {"choices": [choice], "usage": None})

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def score(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, float, str]]:
    """Score it; how many calls that took, its share of yes, and what was said."""

    def do(*more: str, out: str = "run", code: int = 0, tasks: str = "scenes_pope") -> tuple[int, float, str]:
        before = len(served.calls)
        command = ["eval", "--model", "openai:mm", "--model-url", served.url, "--tasks", tasks, "--limit", "6"]
        command += ["--ledger", str(tmp_path / "l.sqlite"), "--out", str(tmp_path / out), "--json", *more]
        assert run(command) == code
        told = capsys.readouterr()
        entries = json.loads(told.out)["entries"] if code == 0 else []
        rate = next((entry["value"] for entry in entries if entry["metric"] == "yes_rate"), -1.0)
        return len(served.calls) - before, rate, told.err

    return do


def card(**facts: Any) -> list[dict[str, Any]]:
    """vLLM's card of a model."""
    return [{"id": "mm", "object": "model", "owned_by": "vllm", "max_model_len": 4096} | facts]


NOTHING_TOLD: tuple[Any, ...] = (
    None,
    [],
    [{"id": "mm", "object": "model"}],
    [{"id": "another", "object": "model"}],
    [{"id": "a"}, {"id": "b"}],
    card(root="mm"),
    card(created=1677610602, owned_by="openai"),  # LiteLLM: every model's
    card(created=0),
    card(created=True, root=None, parent=None),
    card(created="yesterday", root=" ", digest=[], version=None),
    card(created=10**400, root=False),
    ["mm"],
    {"id": "mm"},
    card(root="/ckpt/latest"),  # folders that are not here: the next training writes to the same one
    card(root="./out/"),
    card(root="~/nowhere/out"),
    card(root="../out"),
    card(root="C:\\models\\mm"),
    card(root="s3://bucket/latest"),
    card(root="latest"),
    card(root="saves/qwen2_vl-7b"),
    card(root="checkpoints/llava-lora"),
    card(root="runs/a/b/checkpoint-40"),
    card(version="1.0"),
    [*card(root="/lora", parent="base"), {"id": "base", "root": "org/base"}],
    [*card(root="org/lora", parent="base"), {"id": "base", "root": "/base"}],
    [*card(root="mm", parent="base"), {"id": "base", "root": "org/base"}],
)


@pytest.mark.parametrize("models", NOTHING_TOLD)
def test_where_nothing_tells_models_apart_each_run_asks(models: Any, served: Served, score: Any) -> None:
    served.models = models
    assert score()[:2] == (6, 100.0)
    served.says = "No"
    calls, rate, told = score()
    assert (calls, rate) == (6, 0.0)
    assert "openai:mm: its server does not say which model it has: these answers are not used again" in told
    assert "already on the board" not in told


def now_at_each_request() -> list[dict[str, Any]]:
    return card(created=int(time.time()))


def test_a_time_that_is_always_now_tells_nothing(served: Served, score: Any) -> None:
    served.models = now_at_each_request
    score()
    served.says = "No"
    assert score()[:2] == (6, 0.0)


SNAPSHOTS = "/root/.cache/huggingface/hub/models--org--m/snapshots/"
TOLD = (
    (card(root="org/model-40"), card(root="org/model-80")),
    (card(root=SNAPSHOTS + "a" * 40), card(root=SNAPSHOTS + "b" * 40)),
    (card(created=1764000000), card(created=1764000500)),
    (card(created=1764000000000), card(created=1764000500000)),
    (card(root="org/m", max_model_len=4096), card(root="org/m", max_model_len=8192)),
    (card(root="/not/here", digest="a"), card(root="/nor/here", digest="a")),
    (card(version="1.0", digest="a"), card(version="1.1", digest="a")),
    (card(root="org/model", revision="a" * 40), card(root="org/model", revision="b" * 40)),
    (card(weight_version="step-1"), card(weight_version="step-2")),
    (card(digest="sha256:1"), card(digest="sha256:2")),
    (card(modified_at="2026-11-29"), card(modified_at="2026-11-30")),
    (
        [*card(root="org/lora", parent="base"), {"id": "base", "root": "org/base-1"}],
        [*card(root="org/lora", parent="base"), {"id": "base", "root": "org/base-2"}],
    ),
    ([{"id": "/models/a.gguf", "created": 1764000000}], [{"id": "/models/a.gguf", "created": 1764000009}]),
)


@pytest.mark.parametrize(("first", "second"), TOLD)
def test_what_the_server_says_of_its_model_decides(first: Any, second: Any, served: Served, score: Any) -> None:
    served.models = first
    assert score()[:2] == (6, 100.0)
    assert score()[0] == 0
    calls, rate, told = score(out="elsewhere")
    assert (calls, rate) == (0, 100.0)
    assert "answers of openai:mm: 6 answers from the store, asked 20" in told
    served.models, served.says = second, "No"
    assert score()[:2] == (6, 0.0)
    assert score(out="elsewhere")[:2] == (0, 0.0)


def test_a_server_that_started_just_now_and_says_so_each_time_is_known(served: Served, score: Any) -> None:
    started = int(time.time())
    served.models = lambda: card(created=started)
    assert score()[0] == 6
    assert score(out="elsewhere")[0] == 0


def test_another_fingerprint_is_another_model(served: Served, score: Any) -> None:
    served.models, served.fingerprint = card(root="org/latest"), "fp_1"
    assert score()[:2] == (6, 100.0)
    assert score()[0] == 1  # one short question, which its fingerprint comes with
    served.says, served.fingerprint = "No", "fp_2"
    assert score()[:2] == (7, 0.0)
    assert score(out="elsewhere")[:2] == (1, 0.0)
    served.fingerprint = "fp_1"
    assert score(out="elsewhere")[:2] == (1, 100.0)
    served.says, served.fingerprint = "No", None  # none is another one, too
    assert score()[:2] == (7, 0.0)
    odd_ones: tuple[Any, ...] = (None, "", 3, ["fp"], {})
    for odd in odd_ones:
        served.fingerprint = odd
        assert score(out=f"odd {odd}")[:2] == (1, 0.0)


def test_the_question_for_a_fingerprint_is_booked_and_its_failure_is_no_proof(
    served: Served, score: Any, tmp_path: Path
) -> None:
    served.models, served.fingerprint = card(root="org/latest"), "fp_1"
    score()
    score(out="b")
    with closing(Ledger(tmp_path / "l.sqlite")) as ledger:
        assert [(total.task, total.calls) for total in ledger.summary()] == [
            ("fingerprint", 1),
            ("scenes_pope (answers)", 6),
        ]
    served.says, served.refuses_short = "No", True
    assert score(out="c")[1] == 0.0


def test_another_fingerprint_in_the_middle_of_a_run_is_told(served: Served, score: Any) -> None:
    served.models, served.fingerprint = card(root="org/latest"), lambda calls: f"fp_{calls // 4}"
    told = score("--model-set", "concurrency=1")[2]
    assert "replies of 2 versions of the server (fp_0, fp_1): the model may have changed meanwhile" in told


def test_weights_that_are_here_are_told_by_what_is_in_them(served: Served, score: Any, tmp_path: Path) -> None:
    folder, file = tmp_path / "ckpt", tmp_path / "m.gguf"
    folder.mkdir()
    weights = folder / "model.safetensors"
    for path, root, out in ((weights, folder, "a"), (file, file, "b")):
        served.models, served.says = card(root=str(root)), "Yes"
        path.write_bytes(b"1" * 100)
        assert score(out=out)[:2] == (6, 100.0)
        assert score(out=f"{out} again")[0] == 0
        path.write_bytes(b"2" * 100)
        served.says = "No"
        assert score(out=out)[:2] == (6, 0.0)


def test_a_run_with_failures_is_gone_on_with_by_the_same_command(served: Served, score: Any) -> None:
    served.models, served.fails_at = None, (2, 4)
    once = ("--model-set", "concurrency=1", "--model-set", "attempts=1")
    calls, _, told = score(*once, code=4)
    assert calls == 6
    assert "what failed is asked again by" in told
    assert "are not used again" not in told
    assert score(*once)[0] == 2  # and the others are those of before
    assert score(*once)[0] == 6  # that run had ended


def test_the_command_that_goes_on_is_shown_without_the_password(served: Served, score: Any) -> None:
    served.stops_after = 2
    told = score("--model-url", served.url.replace("//", "//me:hunter22@") + "?sig=QUERYKEY", code=1)[2]
    assert "all replies so far are kept; go on with: harness eval --model openai:mm" in told
    assert "hunter22" not in told
    assert "QUERYKEY" not in told


@pytest.mark.parametrize(
    "setting", (("--strict",), ("--answers", "a.sqlite")), ids=lambda setting: str(setting[0]).strip("-")
)
def test_settings_that_would_not_act_on_a_served_model_are_refused(
    setting: tuple[str, ...], served: Served, score: Any
) -> None:
    assert f"{setting[0]} has no effect" in score(*setting, code=2)[2]
    assert not served.calls


def test_the_seed_of_the_run_is_sent(served: Served, score: Any) -> None:
    score("--seed", "7")
    assert {call["seed"] for call in served.calls} == {7}
    score("--seed", "7", "--model-set", "seed=8")
    score()
    assert [call["seed"] for call in served.calls[6::6]] == [8, 0]


def test_the_users_word_stands_for_the_servers(served: Served, score: Any) -> None:
    served.models = None
    assert score("--model-version", "step-40")[:2] == (6, 100.0)
    served.says = "No"
    calls, _, told = score("--model-version", "step-40")
    assert calls == 0
    assert "already on the board" in told
    assert score("--model-version", "step-80")[:2] == (6, 0.0)
    assert score("--model-version", "step-40", out="elsewhere")[:2] == (0, 100.0)


def test_fresh_asks_again_and_its_answers_are_those_that_are_kept(served: Served, score: Any) -> None:
    served.models = card(root="org/latest")
    score()
    served.says = "No"
    assert score(out="b")[:2] == (0, 100.0)
    assert score("--fresh")[:2] == (6, 0.0)
    assert score(out="c")[:2] == (0, 0.0)
    served.models = None
    score()
    assert score("--fresh")[0] == 6


def test_the_same_command_finishes_a_run_and_pays_for_nothing_twice(served: Served, score: Any) -> None:
    served.models, served.stops_after = None, 4
    assert score("--model-set", "concurrency=1", code=1)[0] == 4
    served.stops_after = 100
    calls, _, told = score("--model-set", "concurrency=1")
    assert calls == 2
    assert "4 answers from the store, asked 20" in told
    assert score("--model-set", "concurrency=1")[0] == 6
    served.stops_after = len(served.calls) + 4
    score("--model-set", "concurrency=1", code=1)
    served.stops_after = 10**9
    assert score(out="another")[0] == 6  # another run, another model for all that is known
    assert score("--fresh")[0] == 6


def test_the_entry_says_what_the_server_said(served: Served, tmp_path: Path) -> None:
    served.models = card(root="/ckpt/40", created=1764000000)
    spec = ModelSpec(name="m", pretrained="mm", backend="openai", url=served.url.replace("//", "//me:pw@"))
    assert identified(spec).digests == {
        "weights": f"mm@{served.url} (created 2025-11-24T16:00:00+00:00)",
        "server says": '{"max_model_len": "4096", "root": "/ckpt/40"}',
    }
    assert identified(identified(spec)) == identified(spec)


@pytest.mark.parametrize(
    ("name", "dated"),
    (
        ("gpt-4o-2024-11-20", True),
        ("openai/gpt-4o-mini-2024-07-18", True),
        ("gpt-5-mini-2025-08-07", True),
        ("o3-2025-04-16", True),
        ("gpt-4-0613", True),
        ("gpt-4-1106-vision-preview", True),
        ("ft:gpt-4o-2024-08-06:org::abc", True),
        ("gpt-4o", False),
        ("gpt-4o-latest", False),
        ("chatgpt-4o-latest", False),
        ("my-model-2024-11-20", False),
        ("llava", False),
        ("gpt-4o-2024-11-20-copy", False),
    ),
)
def test_names_of_dated_snapshots_are_models_by_themselves(name: str, dated: bool) -> None:
    spec = ModelSpec(name="m", pretrained=name, backend="openai", url="http://127.0.0.1:1/v1")
    assert bool(SNAPSHOT.fullmatch(name)) is dated
    if dated:
        assert identified(spec) == spec  # nothing is asked, and what was paid for stays
        assert identified(ModelSpec(**vars(spec) | {"version": "x"})).digests["weights"].endswith("(version x)")


def test_a_server_that_is_not_there_is_told_in_one_line_at_once() -> None:
    spec = ModelSpec(name="openai:mm", pretrained="mm", backend="openai", url="http://127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"^openai:mm: http://127\.0\.0\.1:1/v1: no connection: .+$"):
        identified(spec)
    assert time.monotonic() - started < 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(("id", "root", "created", "parent", "max_model_len", "meta", "digest", "version"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(FIELDS, JSON), max_size=3))
def test_any_json_in_any_field_is_read_or_passed_over(listed: list[dict[str, Any]]) -> None:
    told, more = _find_facts(listed, "mm")
    for text in (*told.values(), *more.values()):
        assert isinstance(text, str)
        assert len(text.splitlines()) <= 1
    for model in listed:
        served_identity._is_recent(model.get("created"), time.time())


def test_reuse_is_told_with_its_times() -> None:
    reuse = Reuse()
    assert reuse.take("answer", "answers") == ""
    reuse.add("2026-11-30T10:12:59.5+00:00", 411)
    reuse.add("2026-11-30T10:12:01+00:00")
    assert reuse.take("answer", "answers") == "412 answers from the store, asked 2026-11-30 10:12 UTC"
    reuse.add("2026-11-30T10:12:01+00:00")
    assert reuse.take("reply", "replies") == "1 reply from the store, asked 2026-11-30 10:12 UTC"
    for hour in ("11", "09", "10"):
        reuse.add(f"2026-11-30T{hour}:00:00+00:00")
    assert reuse.take("reply", "replies") == "3 replies from the store, asked 2026-11-30 09:00 to 2026-11-30 11:00 UTC"
