"""vLLM under our plan: the questions, prompts and answers of our own engine, computed by a server. The server here is a
small one, which answers by the same model; tests/vllm has the real one."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.engine.config import EngineConfig
from harness.engine.jobs import Hints
from harness.evaluation.generate import early_exit_hints, load_tasks, requests_of
from harness.evaluation.parity import parity, render
from harness.models.load import load
from harness.models.served_sampling import Decoding
from harness.models.spec import find
from harness.serving import engine_client
from harness.serving.adapters import Adapters
from harness.serving.engine_client import EngineClient
from harness.serving.engine_host import EngineHost, architectures_of, facts_of_engine, settings_of_engine
from harness.serving.engine_lm import EngineLM
from harness.serving.engine_requests import RENDERED, Question, protocol_of
from leaderboards.board.board import Board
from support.errors import ModelError, ServerError, SettingError
from tasks.answer import FailedAnswer
from tasks.early_exit import Reads
from tasks.registry import registry
from tasks.scenes.world import image_of
from tests.harness.fake_vllm import answering_no, program, starts
from tests.harness.lm_requests import ask, instance
from tests.harness.token_server import TokenServer, serving

FACTS = {"engine": "vllm", "dtype": "float32"}


@pytest.fixture(scope="module")
def own(one_thread: None) -> Any:
    """Our own engine."""
    return load(find("scenes-base"), EngineConfig(device="cpu"))


@pytest.fixture
def server(own: Any) -> Iterator[TokenServer]:
    with serving(own) as found:
        yield found


def engine_lm(server: TokenServer, at_once: int = 8, *, others: tuple[str, ...] = (), **given: Any) -> EngineLM:
    spec, engine = find("scenes-base"), EngineConfig(engine="vllm", **given.pop("settings", {}))
    client = EngineClient("vllm", [server.url, *others], "m", at_once=at_once)
    return EngineLM(str(spec.pretrained), engine, client=client, facts=FACTS, **given)


def texts(server: TokenServer) -> list[str]:
    return [asked["messages"][0]["content"][0]["text"] for asked in server.asked]


def test_answers_are_those_of_our_own_engine_whatever_the_task(own: Any, server: TokenServer) -> None:
    loaded = load_tasks(registry().expand(["scenes_chair", "scenes_pope", "scenes_mme"]))
    own.hints = partial(early_exit_hints, names=set(loaded), full_answers=False)
    lm = engine_lm(server, hints=own.hints)
    asked = [request for task in loaded.values() for request in requests_of(task, own, 3, "")]
    again = [request for task in loaded.values() for request in requests_of(task, lm, 3, "")]
    assert [one.args[0] for one in again] == [one.args[0] for one in asked]
    expected: Any = own.generate_until(asked, disable_tqdm=True)
    found: Any = lm.generate_until(again, disable_tqdm=True)
    assert found == expected
    assert len(set(found)) > 4
    assert [each.cut for each in found] == [each.cut for each in expected]
    weighed = [(one.choices, other.choices) for one, other in zip(found, expected, strict=True)]
    assert all(one == pytest.approx(other, abs=1e-4) for one, other in weighed)
    assert any(one for one, _ in weighed)
    assert lm.provenance() | FACTS == lm.provenance()
    assert len(server.asked) <= len(asked)


def test_each_question_is_asked_once_and_each_picture_is_sent_once(own: Any, server: TokenServer) -> None:
    lm, one, other = engine_lm(server), image_of("test/pope/0"), image_of("test/pope/9")
    requests = ask(lm, ([one], "is there a cat?"), ([other], "is there a cat?"), ([one], "is there a red square?"))
    answers = lm.generate_until([*requests, *requests], disable_tqdm=True)
    assert answers[:3] == answers[3:] == own.generate_until(requests, disable_tqdm=True)
    shown = [asked["messages"][0]["content"][1] for asked in server.asked]
    assert len(shown) == 3
    assert len({each["uuid"] for each in shown if each["image_url"] is not None}) == 2
    assert [each["image_url"] is None for each in shown].count(True) == 1  # the server has it
    server.pictures.clear()
    assert lm.generate_until(requests[:1], disable_tqdm=True) == answers[:1]
    assert [asked["messages"][0]["content"][1]["image_url"] is None for asked in server.asked[3:]] == [True, False]


def is_long(enough: int, text: str) -> bool:
    return len(text) >= enough


def test_an_answer_that_is_not_decided_by_what_came_is_asked_for_in_full(own: Any, server: TokenServer) -> None:
    question, picture = "describe the image.", image_of("test/pope/3")
    full = engine_lm(server).generate_until(ask(own, ([picture], question), max_gen_toks=40), disable_tqdm=True)
    del server.asked[:]
    for enough, limits in ((3, [5]), (30, [5, 40])):
        hints = {"t": Hints(decided=partial(is_long, enough), reads=Reads(characters=4), rule="r")}
        lm = engine_lm(server, hints=hints)
        own.hints, asked = hints, ask(lm, ([picture], question), max_gen_toks=40)
        answers: Any = lm.generate_until(asked, disable_tqdm=True)
        assert answers == own.generate_until(asked, disable_tqdm=True) != full
        assert answers[0].cut
        assert [asked["max_tokens"] for asked in server.asked] == limits
        del server.asked[:]
    hints = {"t": Hints(decided=lambda text: "," in text, reads=Reads(before=","), rule="r")}
    lm = engine_lm(server, hints=hints)
    (answer,) = lm.generate_until(ask(lm, ([picture], question), max_gen_toks=40), disable_tqdm=True)
    assert full[0].partition(",")[0] == answer.partition(",")[0]
    assert [asked["stop"][-1] for asked in server.asked] == [","]


def test_all_settings_of_sampling_are_sent_and_each_sample_has_a_seed_of_its_own(own: Any, server: TokenServer) -> None:
    lm = engine_lm(server, 1)
    (request,) = ask(lm, ([image_of("test/pope/3")], "is there a cat?"))
    lm.generate_until([request], disable_tqdm=True)
    sampled = [
        instance(request.args[0], request.args[2]["visual"], settings, number)
        for number in range(2)
        for settings in [{"do_sample": True, "temperature": 0.7, "max_gen_toks": 4, "until": []}]
    ]
    lm.generate_until(sampled, disable_tqdm=True)
    greedy, *drawn = server.asked
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "n": 1}
    assert greedy.items() >= (neutral | {"temperature": 0.0}).items()
    assert "seed" not in greedy
    assert [each["temperature"] for each in drawn] == [0.7, 0.7]
    assert len({each["seed"] for each in drawn}) == 2
    beams = instance(request.args[0], request.args[2]["visual"], {"num_beams": 3, "max_gen_toks": 4})
    with pytest.raises(SettingError, match="num_beams = 3"):
        lm.generate_until([beams], disable_tqdm=True)


def test_a_prompt_that_the_server_reads_otherwise_ends_the_run(own: Any, server: TokenServer) -> None:
    server.prefix = [1]
    lm = engine_lm(server)
    with pytest.raises(ModelError, match=r"reads another prompt: \d+ tokens where this model's processor makes \d+"):
        lm.generate_until(ask(lm, ([image_of("test/pope/3")], "is there a cat?")), disable_tqdm=True)


def test_a_refused_question_fails_alone_and_a_server_that_is_gone_ends_the_run(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "PAUSE", 0.0)
    with serving(own) as server:
        lm, server.refuses = engine_lm(server), "square"
        picture = image_of("test/pope/3")
        asked = ask(lm, ([picture], "is there a red square?"), ([picture], "is there a cat?"))
        refused, answered = lm.generate_until(asked, disable_tqdm=True)
        assert isinstance(refused, FailedAnswer)
        assert "maximum context length is 8 tokens" in refused.error
        assert answered == own.generate_until(asked[1:], disable_tqdm=True)[0]
        torn = image_of("test/pope/7").copy()
        monkeypatch.setattr(torn, "convert", lambda mode: Path("/no/such/picture").read_bytes())
        (failed,) = lm.generate_until([instance(asked[1].args[0], [torn], task="torn")], disable_tqdm=True)
        assert isinstance(failed, FailedAnswer)
        assert "image can't be read" in failed.error
        server.refuses = "is there"
        with pytest.raises(ServerError, match="refuses every question: 400: This model's maximum"):
            lm.generate_until(ask(lm, *[([picture], f"is there {n}?") for n in range(5)]), disable_tqdm=True)
    with pytest.raises(ServerError, match="does not answer"):
        lm.generate_until(ask(lm, ([picture], "is there a dog?")), disable_tqdm=True)


def test_several_servers_share_the_images(own: Any, server: TokenServer) -> None:
    with serving(own) as second:
        lm = engine_lm(server, others=(second.url,))
        pictures = [image_of(f"test/pope/{number}") for number in range(6)]
        asked = ask(lm, *[([one], f"is there a {what}?") for what in ("cat", "red square") for one in pictures])
        assert lm.generate_until(asked, disable_tqdm=True) == own.generate_until(asked, disable_tqdm=True)
        shares = [{each["messages"][0]["content"][1]["uuid"] for each in one.asked} for one in (server, second)]
        assert all(shares)
        assert not shares[0] & shares[1]
        assert len(server.asked) + len(second.asked) == 12


def test_parity_compares_the_engine_with_exact_decoding(own: Any, server: TokenServer) -> None:
    def load_engine(spec: Any, engine: EngineConfig, *, hints: Any) -> EngineLM:
        return engine_lm(server, hints=hints)

    task, engine = registry().task("scenes_pope"), EngineConfig(engine="vllm")
    server.refuses = "red"
    both = parity(find("scenes-base"), task, 6, engine=engine, load=load_engine)
    refused = sum("red" in asked["messages"][0]["content"][0]["text"] for asked in server.asked)
    assert 0 < refused < 6
    assert (both.samples, both.differ, both.failed, both.engine, both.logits) == (
        6,
        refused,
        (refused, 0),
        "vllm",
        None,
    )
    assert "float32 on cpu; engine: vllm; shared: answers" in render(both)


def test_servers_elsewhere_are_asked_which_model_they_have(own: Any, server: TokenServer, tmp_path: Path) -> None:
    with serving(own) as second, EngineHost(tmp_path) as host:
        engine = EngineConfig(engine="vllm", dtype="float32", engine_url=(f"{server.url}/v1", second.url))
        lm = host.load(find("scenes-base"), engine)
        pictures = [image_of(f"test/pope/{number}") for number in range(6)]
        asked = ask(lm, *[([one], "is there a cat?") for one in pictures])
        assert lm.generate_until(asked, disable_tqdm=True) == own.generate_until(asked, disable_tqdm=True)
        assert len(server.asked) + len(second.asked) == 6
        assert {each["chat_template"] for each in [*server.asked, *second.asked]} == {RENDERED}
        assert {each["model"] for each in [*server.asked, *second.asked]} == {"scenes-base"}
        known = {"engine": "vllm", "server version": "vllm 9.9", "dtype": "float32"}
        assert lm.provenance().items() >= known.items()
        second.model = "another"
        with pytest.raises(ModelError, match=r"has another model: .*another"):
            host.load(find("scenes-base"), engine)
    with pytest.raises(ServerError, match="does not answer"):
        host.load(find("scenes-base"), engine)


@pytest.mark.parametrize(
    ("given", "said"),
    (
        ({"engine": "vllm", "exact": True}, "exact = True: would not act with engine = vllm"),
        ({"engine": "sglang", "load_in_4bit": True}, "load_in_4bit = True: would not act with engine = sglang"),
        ({"engine": "vllm", "overrides": {"x": 1}}, "x = 1: would not act with engine = vllm"),
        ({"gpus": 2}, "gpus = 2: would not act without engine = vllm or sglang"),
        ({"engine": "vllm", "gpus": 0}, "gpus = 0: must be at least 1"),
        ({"engine": "vllm", "engine_url": ("http://a",)}, "engine_url: needs dtype"),
        ({"engine": "vllm", "engine_url": ("x",), "gpus": 2}, "gpus = 2: would not act beside engine_url"),
        ({"engine": "sglang", "engine_url": ("x",)}, "engine_url = x: would not act without engine = vllm"),
        ({"engine": "llama"}, "engine = 'llama': must be one of own, vllm, sglang, auto"),
    ),
    ids=str,
)
def test_a_setting_that_would_not_act_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as error:
        EngineConfig(**given)
    assert said in str(error.value)


def test_the_command_has_the_models_needs_and_the_users_flags(tmp_path: Path) -> None:
    spec = find("scenes-base")
    given: dict[str, Any] = {"gpus": 4, "engine_set": {"max_model_len": "512"}}
    command = settings_of_engine(EngineConfig(engine="vllm", min_pixels=64, **given)).command_of(
        spec, name="m", adapters=Adapters(rank=20)
    )
    words = " ".join(command)
    for part in ("serve", "--max-lora-rank=32", "--dtype float32", "--data-parallel-size 4", "--max-model-len 512"):
        assert part in words
    assert '--mm-processor-kwargs {"min_pixels": 64}' in words
    sglang = settings_of_engine(EngineConfig(engine="sglang", **given)).command_of(spec, name="m")
    assert "-m sglang.launch_server" in " ".join(sglang)
    assert "--dp-size 4" in " ".join(sglang)
    with pytest.raises(SettingError, match="--engine-set dtype=float16: is given twice"):
        settings_of_engine(EngineConfig(engine="vllm", dtype="float32", engine_set={"dtype": "float16"}))
    with pytest.raises(SettingError, match="--engine-set chat-template=x: the harness sets this flag itself"):
        settings_of_engine(EngineConfig(engine="vllm", engine_set={"chat-template": "x"}))


def test_sglang_is_asked_by_its_own_generate() -> None:
    protocol, decoding = protocol_of("sglang"), Decoding(temperature=0.5, max_tokens=7, seed=3)
    question = Question(
        prompt="<image>so?", digests=("d",), pictures=[image_of("test/pope/3")], pads=False, adds_tokens=False,
        decoding=decoding, stops=("\n",), ends=(2,), choices=(5, 9),
    )  # fmt: skip
    body = json.loads(protocol.body(question, "m", [protocol.part("d", question.pictures[0], "")]))
    assert body["text"] == "<image>so?"
    assert len(body["image_data"]) == 1
    assert body["sampling_params"].items() >= {
        "max_new_tokens": 7, "stop_token_ids": [2], "temperature": 0.5, "sampling_seed": 3
    }.items()  # fmt: skip
    told = {"finish_reason": {"type": "length"}, "output_token_ids_logprobs": [[[-0.5, 5, None], [-1.5, 9, None]]]}
    reply = protocol.read({"output_ids": [5, 6], "meta_info": told})
    assert (reply.tokens, reply.limited, dict(reply.likely)) == ([5, 6], True, {5: -0.5, 9: -1.5})


def test_auto_takes_vllm_on_a_gpu_where_it_is_installed_and_has_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, spec, engine = EngineHost(tmp_path), find("scenes-base"), EngineConfig(engine="auto")
    python = program(tmp_path / "python", f'#!/bin/sh\nPYTHONPATH={tmp_path}/there exec {sys.executable} "$@"\n')
    monkeypatch.setenv("VLLM_BIN", str(program(tmp_path / "vllm", f"#!{python}\n")))
    package = tmp_path / "there" / "vllm" / "model_executor" / "models"
    package.mkdir(parents=True)
    (tmp_path / "there" / "vllm" / "__init__.py").touch()

    def chosen(has_gpu: bool, *known: str, **more: Any) -> tuple[str, str]:
        architectures_of.cache_clear()
        monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
        rows = "\n".join(f'    "{name}": ("x", "{name}"),' for name in known)
        (package / "registry.py").write_text(f"_MODELS = {{\n{rows}\n}}\n")
        with caplog.at_level("INFO"):
            found = host.choose(EngineConfig(engine="auto", **more), spec).engine
        return found, caplog.messages[-1]

    family = "LlavaForConditionalGeneration"
    assert chosen(False, family) == ("own", "scenes-base: engine auto: own, for there is no GPU")
    assert chosen(True, family) == ("vllm", "scenes-base: engine auto: vllm")
    assert chosen(True, "Other")[1].endswith("own, for this vLLM has no " + family)
    assert chosen(True, family, exact=True)[1].endswith("own, for exact is a setting of it")
    monkeypatch.setenv("VLLM_BIN", "no-such-program")
    assert chosen(True)[1].endswith("VLLM_BIN")
    assert engine.engine == "auto"


def test_a_run_starts_one_server_and_records_the_engine(
    vllm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering_no(tmp_path)
    command = ["eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--limit", "4", "--engine", "vllm"]
    command += ["--engine-set", "max-model-len=512", "--out", str(tmp_path / "run"), "--json"]
    assert cli.run(command) == 0
    entry = json.loads(capsys.readouterr().out)["entries"][0]["provenance"]
    assert (entry["engine"], entry["dtype"], entry["server flags"]) == ("vllm", "float32", "max-model-len=512")
    board = Board(tmp_path / "run" / "board")
    (run,) = {each.run for each in board.entries()}
    assert {each.answer for each in board.samples(run)} == {"no"}
    (words,) = starts(vllm)
    assert words[words.index("--chat-template-content-format") + 1] == "string"
    assert cli.run(command) == 0  # on the board
    assert len(starts(vllm)) == 1


def test_what_computed_an_answer_is_part_of_its_identity() -> None:
    spec = find("scenes-base")
    assert facts_of_engine(spec, EngineConfig()) == {}
    found = [
        facts_of_engine(spec, EngineConfig(engine="vllm", **more))
        for more in ({}, {"dtype": "bfloat16"}, {"engine_set": {"quantization": "fp8"}}, {"engine_set": {"tp": "2"}})
    ]
    kept = [{name: value for name, value in each.items() if name != "server version"} for each in found]
    assert kept[0] == {"engine": "vllm", "dtype": "float32"}
    assert kept[1] == {"engine": "vllm", "dtype": "bfloat16"}
    assert kept[2] == kept[0] | {"server flags": "quantization=fp8"}
    assert kept[3] == kept[0]  # it is as fast, and answers alike
