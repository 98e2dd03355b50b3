"""What a model takes of a request: known from its name, learnt from refusals, and room for thoughts."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from harness.models.chat_model import OpenAIVisionLM
from support.errors import JudgeError, SettingError
from tasks.judges.batch import BatchJudge
from tasks.judges.capabilities import capabilities_of
from tasks.judges.failures import PermanentError
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.parameters import ROOM, Parameters, in_words
from tasks.judges.protocol import Sampling
from tasks.judges.refused_parameters import refused_parameter
from tasks.judges.replies import LimitSpent
from tasks.judges.settings import JudgeSettings
from tests.judge.reply_makers import answers_of, body, prompts

pytestmark = pytest.mark.usefixtures("no_keys")
ASKED = {"model": "m", "messages": [], "temperature": 0.0, "max_tokens": 9, "seed": 0, "top_p": 1.0, "stop": ["\n"]}


def openai_error(message: str, param: str | None, code: str = "unsupported_value") -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


NO_TEMPERATURE = openai_error("Unsupported value: 'temperature' does not support 0 with this model.", "temperature")
NO_LIMIT = openai_error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens")
EXTRA_SEED = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}


@pytest.mark.parametrize(
    ("answer", "name"),
    (
        (NO_TEMPERATURE, "temperature"),
        (NO_LIMIT, "max_tokens"),
        (EXTRA_SEED, "seed"),
        ({"object": "error", "message": EXTRA_SEED, "param": None}, "seed"),
        (openai_error("`temperature` must be strictly positive", None), "temperature"),
        (openai_error("temperature and top_p can't both be given", "top_p"), "top_p"),
        (openai_error("Unknown field: seed", None), "seed"),
        (openai_error("stop is not supported", "stop"), "stop"),
        ([{"error": {"code": 400, "message": 'Invalid JSON payload: unknown name "seed"', "status": "X"}}], "seed"),
        ("temperature is deprecated for this model", "temperature"),
        ({"message": "max_tokens is not supported, use max_completion_tokens"}, "max_tokens"),
        (openai_error("max_tokens is too large: 9. This model supports at most 5", "max_tokens"), None),
        (openai_error("This model's maximum context length is 2048 tokens; reduce max_tokens", None), None),
        (openai_error("m is not a multimodal model", None), None),
        ("can't read the picture of: What is the temperature?", None),
        (openai_error("Invalid value for 'content'", "messages[0].content"), None),
        ({"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": {"temperature": 0}}]}, None),
        (openai_error("Unrecognized request argument supplied: seed", None), "seed"),  # Azure
        ({"error": {"message": "bedrock does not support parameters: ['seed']", "param": "None"}}, "seed"),  # LiteLLM
        (openai_error("seed: property is not supported", "validation_error"), "seed"),  # Cerebras
        ({"error": {"code": "1210", "message": "temperature\u53c2\u6570\u975e\u6cd5"}}, "temperature"),  # Zhipu
        ({"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}, "top_p"),
        ({"error": {"message": "temperature: Extra inputs are not permitted", "param": None}}, "temperature"),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'input': {'temperature': 0.0}}]", "seed"),  # vLLM
        ("[{'type': 'missing', 'loc': ('body', 'messages'), 'input': {'temperature': 0.0}}]", None),
        ({"error": {"message": "1 validation error: {'loc': 'body.seed'}", "param": "body.seed"}}, "seed"),
        (openai_error("json: cannot unmarshal string into Go struct field X.seed of type int", None), "seed"),  # Ollama
        ("", None),
        (None, None),
    ),
)
def test_the_parameter_that_a_refusal_names(answer: Any, name: str | None) -> None:
    refused = PermanentError("refused request", refused=True, body=answer)
    assert refused_parameter(refused, ASKED) == name
    assert refused_parameter(PermanentError("content filter", body=answer), ASKED) is None
    assert name is None or refused_parameter(refused, {"model": "m"}) is None


MORE = {"reasoning_effort": "low", "response_format": {}, "top_k": 5, "chat_template_kwargs": {}, "top_logprobs": 2}
SYSTEM = [{"role": "system", "content": "x"}, {"role": "user", "content": [{"image_url": {"detail": "low"}}]}]


@pytest.mark.parametrize(
    ("sentence", "name"),
    (
        ('"gemma3" does not support thinking', "reasoning_effort"),
        ("Thinking level is not supported for this model.", "reasoning_effort"),
        ("JSON mode is not enabled for models/gemma-3-27b-it", "response_format"),
        ("response_format value as json_schema is enabled only for later api versions", "response_format"),
        ("Logprobs is not enabled for models/gemini-3.5-flash", None),  # which was not sent
        ("top_logprobs must be between 0 and 0", "top_logprobs"),
        ("top_k: Extra inputs are not permitted", "top_k"),
        ("Unknown parameter: 'chat_template_kwargs'.", "chat_template_kwargs"),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", "system"),
        ("System role not supported", "system"),
        ("Conversation roles must alternate user/assistant/user/...", "system"),
        ("image_url.detail: Extra inputs are not permitted", "detail"),
        ("The picture has too much detail", None),
    ),
)
def test_what_else_a_refusal_may_be_of(sentence: str, name: str | None) -> None:
    refused = PermanentError(f"refused request: {sentence}", refused=True, body={"error": {"message": sentence}})
    assert refused_parameter(refused, {"model": "m", "messages": SYSTEM, **MORE}) == name
    assert name is None or refused_parameter(refused, {"model": "m", "messages": []}) is None


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.one_of(st.none(), st.text()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_refusal_can_be_read(answer: Any) -> None:
    assert refused_parameter(PermanentError("x", refused=True, body=answer), {"model": "m"}) is None


@pytest.mark.parametrize("name", ("o3", "gpt-5-mini", "openai/gpt-5-mini", "openrouter/openai/o4-mini", "azure/o1"))
def test_models_known_by_their_names(name: str) -> None:
    assert capabilities_of(name).thinks
    parameters = Parameters(name)
    assert parameters.fit(ASKED).keys() == {"model", "messages", "max_completion_tokens", "seed"}
    assert in_words(ASKED, parameters.fit(ASKED)) == (
        "temperature: not settable, top_p: not settable, stop: not settable, max_completion_tokens"
    )


@pytest.mark.parametrize("name", ("gpt-4o", "vendor/gpt-4o", "my-o3", "qwen3-vl", "o3/llava"))
def test_other_models_are_asked_as_the_protocol_says(name: str) -> None:
    parameters = Parameters(name, room=True)
    assert (parameters.fit(ASKED), in_words(ASKED, parameters.fit(ASKED))) == (ASKED, "")


def test_what_is_learnt_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parameters = Parameters("m", room=True)
    for answer in (NO_TEMPERATURE, NO_LIMIT, NO_TEMPERATURE, NO_LIMIT):
        parameters.learn(PermanentError("refused request", refused=True, body=answer), ASKED)
    spent = LimitSpent("the judge spent all 9 tokens before its verdict")
    for _ in range(2):
        parameters.learn(spent, parameters.fit(ASKED))
    assert parameters.fit(ASKED)["max_completion_tokens"] == 9 + ROOM
    assert in_words(ASKED, parameters.fit(ASKED)) == f"temperature: not settable, max_completion_tokens + {ROOM}"
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    neither = PermanentError(
        "max_completion_tokens is unsupported", refused=True, body={"param": "max_completion_tokens"}
    )
    parameters.learn(neither, parameters.fit(ASKED))
    assert not parameters.fit(ASKED).keys() & {"max_tokens", "max_completion_tokens"}
    assert in_words(ASKED, parameters.fit(ASKED)) == "temperature: not settable, limit of 9 tokens: not settable"


def only_taking(*names: str) -> Any:
    """A server that refuses every other parameter."""

    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        for name in request.keys() - {"model", "messages", *names}:
            return 400, openai_error(f"Unsupported parameter: '{name}' is not supported with this model.", name)
        return 200, body("Rating: 4")

    return answer


def judge_of(server: Any, tmp_path: Path, model: str = "m") -> OpenAIJudge:
    made = JudgeSettings(timeout=5.0, attempts=2, concurrency=2)
    return OpenAIJudge(model, url=server.url, ledger=Ledger(tmp_path / "l.sqlite"), settings=made)


@pytest.mark.parametrize("model", ("m", "openai/o3", "gpt-5-mini"))
def test_a_judge_is_asked_as_it_takes_it_and_its_replies_are_found_again(
    model: str, server: Any, tmp_path: Path
) -> None:
    server.answer = only_taking("max_completion_tokens")
    sampling = Sampling(temperature=0.0, max_tokens=9)
    judge = judge_of(server, tmp_path, model)
    assert judge.ask_many(prompts(6), sampling) == ["Rating: 4"] * 6
    asked = len(server.log)
    assert asked <= 6 + 3 * 2  # the first two questions learn
    again = judge_of(server, tmp_path, model)
    assert again.ask_many(prompts(6), sampling) == ["Rating: 4"] * 6
    assert len(server.log) == asked
    for client in (judge.client, again.client):
        assert any("temperature: not settable" in words for words in client.asked_otherwise)


def test_one_value_that_is_refused_leaves_the_others(server: Any, tmp_path: Path) -> None:
    def up_to_one(request: dict[str, Any]) -> tuple[int, Any]:
        if request.get("temperature", 0) > 1:
            return 400, openai_error("temperature: must be between 0 and 1", None, "invalid_value")
        return 200, body("Rating: 4")

    server.answer = up_to_one
    judge = judge_of(server, tmp_path)
    for temperature in (1.5, 0.0, 1.5, 0.5):
        assert judge.ask_many(prompts(2), Sampling(temperature=temperature)) == ["Rating: 4"] * 2
    assert [entry.get("temperature") for entry in server.log if entry.get("temperature") != 1.5] == [
        *(None, None),
        *(0.0, 0.0),
        *(0.5, 0.5),
    ]


def test_a_model_that_takes_nothing_is_not_asked_without_end(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (400, openai_error("'max_tokens' and 'max_completion_tokens' are unknown", None))
    replies = judge_of(server, tmp_path).ask_many(prompts(3), Sampling(max_tokens=9))
    assert replies == [None] * 3
    assert len(server.log) <= 3 * 3


def test_a_server_that_takes_no_limit_by_either_name_is_asked_without(server: Any, tmp_path: Path) -> None:
    server.answer = only_taking("temperature", "seed", "stop")
    judge = judge_of(server, tmp_path)
    assert judge.ask_many(prompts(4), Sampling(max_tokens=9)) == ["Rating: 4"] * 4
    assert {call.asked for call in judge.client.ledger.calls()} == {"limit of 9 tokens: not settable"}
    assert answers_of(server, tmp_path) == ["Rating: 4"]
    with pytest.raises(SettingError, match="max_new_tokens = 9: not settable, the server says"):
        answers_of(server, tmp_path, count=3, max_new_tokens=9, concurrency=1)


@pytest.mark.parametrize(
    ("least", "most"),
    ((16, 10_000), (1, 4096), (1, 3000)),
)
def test_a_limit_that_the_server_finds_too_low_or_too_high_is_one_that_it_takes(
    least: int, most: int, server: Any, tmp_path: Path
) -> None:
    def within(request: dict[str, Any]) -> tuple[int, Any]:
        if (limit := request["max_tokens"]) < least:
            below = f"Invalid 'max_output_tokens': integer below minimum value. Expected >= {least}, but got {limit}."
            return 400, openai_error(below, "max_output_tokens", "integer_below_min_value")
        if limit > most:
            above = f"max_tokens is too large: {limit}. This model supports at most {most} completion tokens"
            return 400, openai_error(above, "max_tokens", "invalid_value")
        return spends(request)

    server.answer = within
    judge = judge_of(server, tmp_path)
    assert judge.ask_many(prompts(4), Sampling(max_tokens=3, cut_is_whole=True)) == ["1.0"] * 4


def spends(request: dict[str, Any]) -> tuple[int, Any]:
    """A judge that thinks for 64 tokens."""
    limit = request.get("max_tokens") or request.get("max_completion_tokens") or 10_000
    return (200, body("", "length", reasoning_content="Let me")) if limit < 64 else (200, body("1.0", reasoning="hm"))


def test_a_judge_that_spends_its_limit_on_thoughts_gets_room(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = spends
    judge = judge_of(server, tmp_path)
    assert judge.ask_many(prompts(6), Sampling(max_tokens=3, cut_is_whole=True)) == ["1.0"] * 6
    assert len(server.log) <= 6 + 2
    told = [
        record.getMessage() for record in caplog.records if "spent all 3 tokens before its verdict" in record.message
    ]
    assert len(told) == 1
    assert sum(total.losses for total in judge.client.ledger.summary()) == len(server.log) - 6


def test_a_judge_that_spends_all_room_is_not_asked_again(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body("", "length"))
    replies = judge_of(server, tmp_path).ask_many(prompts(3), Sampling(max_tokens=3))
    assert replies == [None] * 3
    assert "spent all 4099 tokens before its verdict" in replies.lost[0].error
    assert len(server.log) <= 3 + 3


def test_a_candidate_behind_a_router_is_asked_as_it_takes_it(server: Any, tmp_path: Path) -> None:
    server.answer = only_taking("max_completion_tokens", "seed")
    for model in ("openai/gpt-5-mini", "m"):
        lm = OpenAIVisionLM(model, url=server.url, ledger=tmp_path / "l.sqlite")
        arguments = ("Question 1", {"until": ["\n"], "max_gen_toks": 9})
        request = Instance(request_type="generate_until", doc={}, arguments=arguments, idx=0)
        assert lm.generate_until([request]) == ["Rating: 4"]
        facts = lm.provenance()
        assert facts.get("decoding", facts.get("parameters")) in (
            "the server's own",
            "temperature: not settable, stop: not settable, max_completion_tokens",
        )
        assert facts["sampling"] == "seed 0"


def test_a_batch_learns_what_the_model_takes(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchJudge, "poll", 0.01)
    judge = BatchJudge("m", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"), key="k")
    rows = iter(range(100))

    def refuse_first(place: int, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "response": {"status_code": 400, "body": NO_TEMPERATURE}} if next(rows) < 3 else row

    server.spoil = refuse_first
    replies = judge.ask_many(prompts(3))
    assert None not in replies
    assert ["temperature" in entry for entry in server.log] == [True] * 3 + [False] * 3


def test_a_refusal_of_another_kind_stays_one(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (400, openai_error("m is not a multimodal model", None))
    with pytest.raises(JudgeError, match="not a multimodal model"):
        judge_of(server, tmp_path).ask_many(prompts(20))
    assert len(server.log) <= 16
