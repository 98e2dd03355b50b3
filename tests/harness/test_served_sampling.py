"""How a model behind a server is asked to choose tokens: all of it is said, acts or is an error, and is recorded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from PIL import Image

from harness.cli.main import run
from harness.datasets.pool import PoolModels, load_spec
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.evaluate import evaluate
from harness.evaluation.rescore import rescore
from harness.models.chat_model import OpenAIVisionLM
from harness.models.chat_settings import ServedModelSettings, served_settings
from harness.models.served_identity import identified
from harness.models.spec import ModelSpec
from support.errors import SettingError
from support.settings import settings_of
from tasks.answer import FailedAnswer
from tasks.judges.settings import ClientSettings
from tasks.registry import registry
from tests.harness.open_server import OpenServer
from trainers.config.data import PoolModel

pytestmark = pytest.mark.usefixtures("no_keys")
Make = Callable[..., OpenServer]
OWNERS = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp", "ollama": "library", "unknown": "me"}
PATHS = {
    "vllm": {"/version": {"version": "0.32.0"}},
    "sglang": {"/get_server_info": {"version": "0.5.6", "dtype": "bfloat16"}},
    "llama.cpp": {"/props": {"build_info": "b7300-1a2b3c4"}},
    "ollama": {"/api/version": {"version": "0.13.0"}},
}
NEUTRAL = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
ALL = {**NEUTRAL, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "n": 1}
SENT = {
    "vllm": ALL,
    "sglang": ALL,
    "llama.cpp": {**NEUTRAL, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    "ollama": NEUTRAL,
    "unknown": {},
}


@pytest.fixture
def make() -> Iterator[Make]:
    running: list[OpenServer] = []

    def start(kind: str, **listed: Any) -> OpenServer:
        running.append(OpenServer(OWNERS[kind], PATHS.get(kind), **listed))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def spec_of(server: OpenServer, **more: Any) -> ModelSpec:
    return ModelSpec(name="openai:m", pretrained="m", backend="openai", url=server.url, **more)


def lm_of(server: OpenServer, folder: Path, model: str = "m", **settings: Any) -> OpenAIVisionLM:
    spec = ModelSpec(name=model, pretrained=model, backend="openai", url=server.url)
    made = served_settings("m", settings)
    return OpenAIVisionLM.of(spec, ledger=folder / "l.sqlite", settings=made, given=list(settings))


def asking(text: str = "Is it red?", image: bool = False, **settings: Any) -> Instance:
    given = {"do_sample": False, "max_gen_toks": 16, "until": []} | settings
    visual = ({"visual": [Image.new("RGB", (60, 40), "red")]},) if image else ()
    arguments = (f"<image>{text}" if image else text, given, *visual)
    return Instance(request_type="generate_until", doc={}, arguments=arguments, idx=0, metadata=("pope", 0, 1))


def body_of(server: OpenServer) -> dict[str, Any]:
    return {name: value for name, value in server.asked[-1].items() if name not in ("model", "messages")}


@pytest.mark.parametrize("kind", OWNERS)
def test_a_checkpoints_own_sampling_settings_never_decide(make: Make, tmp_path: Path, kind: str) -> None:
    server = make(kind)
    lm = lm_of(server, tmp_path)
    lm.generate_until([asking()])
    greedy = {"temperature": 0.0, "seed": 0, "max_tokens": 16}
    assert body_of(server) == greedy | SENT[kind]
    lm.generate_until([asking(do_sample=True, temperature=0.7, top_k=0, seed=5)])
    sampled = greedy | {"temperature": 0.7, "seed": 5} | SENT[kind]
    assert body_of(server) == sampled | ({"top_p": 1.0} if kind == "unknown" else {})
    lm.generate_until([asking(do_sample=True)])
    assert body_of(server)["temperature"] == 1


@pytest.mark.parametrize(
    ("kind", "own"),
    (
        ("vllm", None),
        ("ollama", "repetition_penalty"),
        ("unknown", "frequency_penalty, presence_penalty, repetition_penalty"),
    ),
)
def test_what_is_left_to_the_server_is_recorded(make: Make, tmp_path: Path, kind: str, own: str | None) -> None:
    lm = lm_of(make(kind), tmp_path)
    lm.generate_until([asking()])
    told = lm.provenance()
    assert told.get("sampling of the server's own") == own
    sent = {"temperature": 0, **SENT[kind], "seed": 0}
    assert dict(part.split(" ") for part in told["sampling"].split(", ")) == {
        name: f"{value:g}" for name, value in sent.items()
    }


VALUES: dict[str, Any] = {
    "prompt_suffix": " Be brief.",
    "max_new_tokens": 7,
    "thinking_tokens": 100,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.4,
    "enable_thinking": False,
    "reasoning_effort": "low",
    "detail": "low",
    "image_side": 20,
    "seed": 3,
}
ALONE = {"top_p", "top_k", "min_p"}
REFUSED = {
    "vllm": {"detail", "reasoning_effort"},
    "sglang": {"detail", "reasoning_effort"},
    "llama.cpp": {"detail", "reasoning_effort"},
    "ollama": {"detail", "top_k", "min_p", "repetition_penalty", "enable_thinking"},
    "unknown": {"top_k", "min_p", "repetition_penalty", "enable_thinking"},
}


def test_every_setting_is_in_the_audit() -> None:
    of_client = {setting.name for setting in settings_of(ClientSettings)}
    assert VALUES.keys() == {setting.name for setting in settings_of(ServedModelSettings)} - of_client


@pytest.mark.parametrize("kind", OWNERS)
@pytest.mark.parametrize("name", VALUES)
def test_every_setting_reaches_the_request_and_the_entry_or_is_an_error(
    make: Make, tmp_path: Path, kind: str, name: str
) -> None:
    server, needed = make(kind), {"temperature": 0.5} if name in ALONE else {}

    def ask(**settings: Any) -> tuple[dict[str, Any], dict[str, str]]:
        lm = lm_of(server, tmp_path, **settings)
        context = lm.apply_chat_template([{"role": "user", "content": "Is it red?"}])
        lm.generate_until([asking(context, image=True)])
        return server.asked[-1], lm.provenance()

    if name in REFUSED[kind]:
        with pytest.raises(SettingError, match=rf"{name} = .*: (would|may) not act"):
            ask(**needed, **{name: VALUES[name]})
        return
    before, after = ask(**needed), ask(**needed, **{name: VALUES[name]})
    assert before[0] != after[0]
    # Limits are recorded as "model settings", of all models alike.
    assert before[1] != after[1] or name in ("max_new_tokens", "thinking_tokens")


def test_an_entry_says_what_was_set(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = make("vllm")
    command = ["eval", "--model", "openai:m", "--model-url", server.url, "--ledger", str(tmp_path / "l.sqlite")]
    command += ["--tasks", "scenes_pope", "--limit", "2", "--out", str(tmp_path / "run"), "--json"]
    for name in ("max_new_tokens=7", "temperature=0.5", "top_k=5", "enable_thinking=false"):
        command += ["--model-set", name]
    assert run(command) == 0
    told = capsys.readouterr().out
    assert "enable_thinking=False, max_new_tokens=7, temperature=0.5, top_k=5" in told
    assert "temperature 0.5, top_p 1, top_k 5, min_p 0, repetition_penalty 1," in told
    assert '"server version": "vllm 0.32.0"' in told
    assert server.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("name", ("temperature", "seed", "presence_penalty", "reasoning_effort"))
def test_a_setting_that_the_server_refuses_ends_the_run(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    server = make("unknown")
    server.refuses = name
    command = ["eval", "--model", "openai:m", "--model-url", server.url, "--ledger", str(tmp_path / "l.sqlite")]
    command += ["--tasks", "scenes_pope", "--limit", "2", "--out", str(tmp_path / "run")]
    assert run([*command, "--model-set", f"{name}={VALUES[name]}"]) == 2
    assert f"{name} = {VALUES[name]}" in capsys.readouterr().err
    assert server.asked == []
    assert run(command) == 0  # what nobody asked for is left out, and said
    asked = {call.asked for call in lm_of(server, tmp_path).client.ledger.calls()}
    assert asked == ({f"{name}: not settable"} if name in ("temperature", "seed") else {""})


def test_a_template_without_a_switch_for_thoughts_is_an_error(make: Make, tmp_path: Path) -> None:
    server = make("vllm", root=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    with pytest.raises(SettingError, match="enable_thinking = False: would not act: its chat template"):
        lm_of(server, tmp_path, enable_thinking=False)


def test_a_member_of_a_pool_is_told_to_think_or_not(make: Make, tmp_path: Path) -> None:
    server, pool = make("vllm"), PoolModels(ledger=tmp_path / "l.sqlite")
    pool(PoolModel(model="m", url=server.url, thinking="off")).generate_until([asking()])
    assert server.asked[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    pool(PoolModel(model="m", url=server.url, thinking_tokens=50)).generate_until([asking()])
    assert server.asked[-1]["max_tokens"] == 66
    assert "chat_template_kwargs" not in server.asked[-1]


@pytest.mark.parametrize(
    "given", ({"num_beams": 4}, {"no_repeat_ngram_size": 3}, {"bad_words_ids": [[1]]}, {"nonsense": 2})
)
def test_what_no_server_can_do_is_refused_before_anything_is_asked(
    make: Make, tmp_path: Path, given: dict[str, Any]
) -> None:
    server = make("vllm")
    lm = lm_of(server, tmp_path)
    for sampled in (False, True):
        with pytest.raises(SettingError, match=f"{next(iter(given))} = .* in the task's generation_kwargs"):
            lm.generate_until([asking(do_sample=sampled, **given)])
    idle: dict[str, Any] = {
        "num_beams": 1,
        "length_penalty": 2.0,
        "bad_words_ids": None,
        "use_cache": True,
        "max_new_tokens": 5,
    }
    request = asking(**idle)
    del request.arguments[1]["max_gen_toks"]
    lm.generate_until([request])
    assert body_of(server)["max_tokens"] == 5
    lm.generate_until([asking(repetition_penalty=1.1)])
    assert body_of(server)["repetition_penalty"] == 1.1


def test_white_space_around_a_reply_is_no_part_of_an_answer(make: Make, tmp_path: Path) -> None:
    server = make("vllm")
    lm = lm_of(server, tmp_path)
    answers = lm.generate_until([asking()])
    assert answers == ["no"]
    assert [call.reply for call in lm.client.ledger.calls()] == [" no"]  # as it came
    server.says = lambda body: "  two\n"
    assert lm.generate_until([asking("How many?")]) == ["two"]
    server.says = lambda body: " "
    assert lm.generate_until([asking("Nothing?")]) == [""]
    assert not isinstance(lm.generate_until([asking("Nothing?")])[0], FailedAnswer)


def test_an_answer_with_a_leading_space_is_scored_without_it(make: Make, tmp_path: Path) -> None:
    server, tasks = make("vllm"), registry().expand(["scenes_pope"])
    found = evaluate(spec_of(server), tasks, None, EvalSettings(limit=4), ledger=tmp_path / "l.sqlite")
    assert {sample.answer for sample in found.samples} == {"no"}
    assert found.entries[0].unparsed == 0
    again = rescore(found.entries[0], {sample.id: sample for sample in found.samples})
    assert not isinstance(again, str)
    assert again.rounds == [{sample.id: sample.records for sample in found.samples}]


@pytest.mark.parametrize(
    ("kind", "told"),
    (
        ("vllm", {"server version": "vllm 0.32.0"}),
        ("sglang", {"server version": "sglang 0.5.6", "dtype": "bfloat16"}),
        ("llama.cpp", {"server version": "llama.cpp b7300-1a2b3c4"}),
        ("ollama", {"server version": "ollama 0.13.0"}),
        ("unknown", {}),
    ),
)
def test_what_a_server_says_of_itself_is_part_of_who_answers(
    make: Make, tmp_path: Path, kind: str, told: dict[str, str]
) -> None:
    found = identified(spec_of(make(kind)), tmp_path / "l.sqlite").digests
    assert {name: value for name, value in found.items() if name in ("server version", "dtype")} == told


def test_answers_of_two_dtypes_or_versions_are_those_of_two_models(make: Make, tmp_path: Path) -> None:
    server = make("vllm")

    def ask(**digests: str) -> int:
        spec = spec_of(server, digests={"weights": "abc", "served by": "vllm", **digests})
        OpenAIVisionLM.of(spec, ledger=tmp_path / "l.sqlite").generate_until([asking()])
        return len(server.asked)

    assert [ask(dtype="float32"), ask(dtype="float32"), ask(dtype="bfloat16"), ask()] == [1, 1, 2, 3]
    server.paths["/version"] = {"version": "0.33.0"}
    assert ask(dtype="float32") == 4
    server.paths["/server_info"] = {"vllm_config": "model='m', dtype=torch.float16, max_seq_len=9"}
    assert identified(spec_of(server), tmp_path / "l.sqlite").digests["dtype"] == "float16"


def test_a_pool_member_has_a_seed_of_its_own_for_every_question(make: Make, tmp_path: Path) -> None:
    server = make("vllm")
    server.says = lambda body: f" {body['seed']} {body['top_k']}"
    lm = load_spec(spec_of(server), ledger=tmp_path / "l.sqlite")
    asked = [asking(f"Question {n}?", do_sample=True, temperature=1.0, top_p=1.0, top_k=0, seed=1) for n in range(8)]
    answers = lm.generate_until(asked)
    assert len(set(answers)) == 8
    assert all(answer.endswith(" -1") and not answer.startswith(" ") for answer in answers)
    assert "seed by question" in lm.provenance()["sampling"]  # type: ignore[attr-defined]
