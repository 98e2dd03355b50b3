"""A judge is asked as its model takes it, and entries say what was sent: for all profiles of APIs and servers, for what
the user asked for, and in a column's header."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.main import run
from harness.evaluation.eval_settings import judge_facts, judge_name
from harness.evaluation.make_judge import make_judge
from support.errors import SettingError
from support.settings import made as set_from
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.parameters import in_words, not_settable
from tasks.judges.protocol import Sampling
from tasks.judges.settings import GivenSettings, JudgeSettings
from tasks.registry import registry
from tests.judge.reply_makers import body, prompts
from tests.profiles.apis import KEY
from tests.profiles.server import PROFILES, ProfileServer

pytestmark = pytest.mark.usefixtures("no_keys")
NO_TEMPERATURE = "temperature: not settable"


def made(url: str, path: Path, model: str, **settings: Any) -> OpenAIJudge:
    judge = JudgeSettings(**{"timeout": 5.0, "attempts": 2, "concurrency": 2} | settings)
    return OpenAIJudge(model, url=url, key=KEY, ledger=Ledger(path / "l.sqlite"), settings=judge)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("limit", (3, None))
def test_every_profile_rates_and_the_ledger_has_what_was_sent(
    name: str, limit: int | None, profiles: ProfileServer, tmp_path: Path
) -> None:
    judge = made(profiles.url(name), tmp_path, profiles.model(name))
    sampling = Sampling(temperature=0.0, max_tokens=limit, cut_is_whole=limit is not None, system="Be strict.")
    assert None not in judge.ask_many(prompts(3), sampling, label="mmhal")
    request = judge.request("Question 0", None, sampling)
    sent = profiles.calls(name)[-1]
    assert {call.asked for call in judge.client.ledger.calls()} == {in_words(request.body, sent.body)}
    has_temperature = "temperature" in sent.asked
    assert has_temperature is (name not in ("openai-reasoning", "azure", "anthropic"))
    assert (NO_TEMPERATURE in " ".join(judge.client.asked_by_task["mmhal"])) is not has_temperature
    assert len([call for call in profiles.calls(name) if call.status == 200]) >= 3


def test_names_and_facts_of_a_judge_are_of_what_was_sent(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body("Rating: 4"))
    mmhal, mmvet = registry().task("mmhal"), registry().task("mmvet")
    judge = made(server.url, tmp_path, "openai/gpt-5-mini", reasoning_effort="low", seed=7)
    assert judge_name(mmhal, judge, False) == "openai/gpt-5-mini (reasoning effort low)"
    judge.ask_many(prompts(2), label="mmhal")
    judge.ask_many(prompts(2), Sampling(temperature=None), label="mmvet")
    assert judge_name(mmhal, judge, True) == (
        "openai/gpt-5-mini (official prompts, reasoning effort low), temperature not settable"
    )
    assert judge_name(mmvet, judge, False) == "openai/gpt-5-mini (reasoning effort low)"
    assert judge_facts(mmhal, judge)["judge parameters"] == NO_TEMPERATURE
    assert judge_facts(mmhal, judge)["judge settings"] == "seed = 7, reasoning_effort = low"
    assert "judge parameters" not in judge_facts(mmvet, judge)
    assert {(sent["reasoning_effort"], sent["seed"]) for sent in server.log} == {("low", 7)}


def test_settings_of_images_are_recorded_where_one_was_shown(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body("Rating: 4"))
    judge = made(server.url, tmp_path, "gpt-4o", detail="low")
    judge.ask_many([("Rate.", Image.new("RGB", (8, 8)))], label="mmhal")
    judge.ask_many(prompts(1), label="mmvet")
    facts = [judge_facts(registry().task(name), judge)["judge image"] for name in ("mmhal", "mmvet")]
    assert facts == ["detail low, longest side as it is", "none was shown"]
    assert server.log[0]["messages"][0]["content"][1]["image_url"]["detail"] == "low"


def test_settings_of_images_that_did_not_act_are_told_where_something_was_asked(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda request: (200, body("Rating: 4"))
    judge = made(server.url, tmp_path, "gpt-4o", image_side=8)
    judge.ask_many([("Rate.", Image.new("RGB", (8, 8)))], label="vlfeedback")
    judge.ask_many(prompts(1), label="mmvet")
    for label in ("vlfeedback", "mmvet", "all of it was rated before"):
        judge.tell_reuse(label)
    told = [record.getMessage() for record in caplog.records if "did not act" in record.message]
    assert [line.partition(":")[0] for line in told] == ["mmvet"]


def test_what_the_ledger_kept_without_a_setting_is_not_claimed(server: Any, tmp_path: Path) -> None:
    judge = made(server.url, tmp_path, "m", seed=7)
    judge.client.asked_by_task["mmhal"].add("without seed")  # of earlier versions
    assert "judge settings" not in judge_facts(registry().task("mmhal"), judge)


def test_effort_is_a_part_of_what_names_a_reply_only_where_it_is_given(server: Any, tmp_path: Path) -> None:
    plain, low = (made(server.url, tmp_path, "m", reasoning_effort=effort) for effort in (None, "low"))
    keys = [judge.request("Rate.", None, Sampling()).key for judge in (plain, low)]
    assert len(set(keys)) == 2
    assert "reasoning_effort" not in plain.request("Rate.", None, Sampling()).body


def test_without_thoughts_the_official_temperature_is_sent(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body("Rating: 4"))
    judge = made(server.url, tmp_path, "gpt-5.4", reasoning_effort="none")
    judge.ask_many(prompts(1), Sampling(max_tokens=9), label="mmhal")
    (sent,) = server.log
    assert (sent["temperature"], sent["max_completion_tokens"], sent["reasoning_effort"]) == (0.0, 9, "none")
    assert judge_name(registry().task("mmhal"), judge, False) == "gpt-5.4 (reasoning effort none)"


@pytest.mark.parametrize(
    ("model", "kind", "settings", "why"),
    (
        ("claude-opus-4-8", "", {"seed": 7}, "seed = 7: would not act"),
        ("gpt-4o", "", {"reasoning_effort": "low"}, r"reasoning_effort = low: would not act: gpt-4o \(openai-chat\)"),
        ("gpt-5-mini", "", {"reasoning_effort": "xhigh"}, "takes minimal, low, medium, high alone"),
        ("gpt-4", "", {"structured": True}, "structured = true: would not act"),
        ("m", "vllm", {"detail": "low"}, r"detail = low: would not act: m \(vllm\)"),
        ("m", "vllm", {"batch": True}, "--judge-batch: would not act"),
        ("claude-opus-4-8", "", {"reasoning_effort": " "}, "is empty"),
    ),
)
def test_what_would_not_act_is_refused_before_anything_is_paid(
    model: str, kind: str, settings: dict[str, Any], why: str, server: Any, tmp_path: Path
) -> None:
    server.owner = kind or None
    given = {name: value for name, value in settings.items() if name != "batch"}
    with pytest.raises(SettingError, match=why):
        make_judge(
            model,
            url=server.url,
            ledger=tmp_path / "l",
            batch="batch" in settings,
            settings=JudgeSettings(**given),
        )
    assert not server.log


def test_a_providers_prefix_tells_what_is_taken_wherever_its_server_is(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    for settings, why in (
        (JudgeSettings(structured=True), "structured = true: would not act"),
        (GivenSettings(given=("seed",)), "seed = 0: would not act"),
    ):
        with pytest.raises(SettingError, match=why):
            make_judge("anthropic:claude-sonnet-4-5", ledger=tmp_path / "l", settings=settings)
    made_so = make_judge("anthropic:claude-sonnet-4-5", ledger=tmp_path / "l")
    assert isinstance(made_so, OpenAIJudge)
    assert made_so.client.parameters.takes.family == "anthropic"


def test_a_usual_value_that_was_given_is_refused_where_it_would_not_act(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text("[]")
    options = ["--judge", "claude-sonnet-4-5", "--judge-url", server.url, "--ledger", str(tmp_path / "l")]
    assert run(["score", "mmhal", str(answers), *options, "--judge-set", "seed=0"]) == 2
    assert "seed = 0: would not act: claude-sonnet-4-5 (claude) refuses or ignores it" in capsys.readouterr().err


REFUSALS = {
    "seed": (400, {"error": {"message": "Unrecognized request argument supplied: seed"}}),
    "reasoning_effort": (400, {"error": {"message": '"gemma3" does not support thinking', "param": None}}),
    "response_format": (422, {"object": "error", "message": "json_schema is not supported here", "code": 422}),
    "detail": (
        422,
        {"detail": [{"loc": ["body", "messages", 0, "content", 1, "image_url", "detail"], "msg": "Extra inputs"}]},
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_only_the_server_refuses_ends_the_run_with_its_words(name: str, server: Any, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "seed": {"seed": 7},
        "reasoning_effort": {"reasoning_effort": "low"},
        "detail": {"detail": "low"},
    }
    server.answer = lambda request: REFUSALS[name] if name in json.dumps(request) else (200, body("Rating: 4"))
    judge = made(server.url, tmp_path, "m", **settings.get(name, {"structured": True}))
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(SettingError, match="not settable, the server says: refused request"):
        judge.ask_many([(f"Question {n}", picture) for n in range(20)], label="mmhal")
    assert len(server.log) <= 2
    assert not list(judge.client.ledger.calls())


def test_a_batch_that_refuses_a_setting_ends_the_run_and_keeps_what_was_paid(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchJudge, "poll", 0.01)
    settings = JudgeSettings(timeout=5.0, reasoning_effort="low")
    judge = BatchJudge("m", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"), key="k", settings=settings)

    def refuse_first(place: int, row: dict[str, Any]) -> dict[str, Any]:
        refusal = {"error": {"message": "Unknown parameter: 'reasoning_effort'.", "param": "reasoning_effort"}}
        return {**row, "response": {"status_code": 400, "body": refusal}} if place == 0 else row

    server.spoil = refuse_first
    with pytest.raises(SettingError, match="reasoning_effort = low: not settable"):
        judge.ask_many(prompts(3))
    assert len(list(judge.client.ledger.calls())) == 2
    assert {sent["reasoning_effort"] for sent in server.log} == {"low"}


@pytest.mark.parametrize(
    ("refusal", "roles", "words"),
    (
        (
            "Developer instruction is not enabled for models/gemma-3-27b-it",
            ["user"],
            "system message before the question",
        ),
        ("System role not supported", ["user"], "system message before the question"),
        ("Conversation roles must alternate user/assistant/user/...", ["user"], "system message before the question"),
        ("'system' is not supported with this model, use 'developer' instead", ["developer", "user"], "a developer's"),
    ),
)
def test_a_system_message_goes_where_the_model_takes_it(
    refusal: str, roles: list[str], words: str, server: Any, tmp_path: Path
) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        if any(message["role"] == "system" for message in request["messages"]):
            return 400, {"error": {"message": refusal, "code": 400}}
        return 200, body("Rating: 4")

    server.answer = answer
    judge = made(server.url, tmp_path, "m")
    assert judge.ask_many(prompts(3), Sampling(system="Be strict."), label="mmhal") == ["Rating: 4"] * 3
    messages = server.log[-1]["messages"]
    assert [message["role"] for message in messages] == roles
    assert all(text in json.dumps(messages) for text in ("Be strict.", "Question"))
    (told,) = judge.client.asked_by_task["mmhal"]
    assert words in told


def test_a_temperature_of_later_tries_alone_marks_no_column(server: Any, tmp_path: Path) -> None:
    server.answer = lambda request: (200, body("Rating: 4"))
    judge = made(server.url, tmp_path, "claude-sonnet-4-5")
    for temperature in (0.0, 1.5):
        judge.ask_many(prompts(1), Sampling(temperature=temperature), label="mmvet")
    assert judge.client.asked_by_task["mmvet"] == {
        "seed: not settable",
        "temperature 1.5: not settable, seed: not settable",
    }
    assert not_settable(judge.client.asked_by_task["mmvet"]) == []
    assert not_settable(["without temperature, without stop", "top_p: not settable"]) == ["temperature", "top_p"]


def test_the_table_is_shown_for_a_model(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.owner = "vllm"
    assert run(["judge", "families", "gpt-5.4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["takes"]["temperature"] == "the model's own alone"
    assert shown["takes"]["temperature, with reasoning_effort none"] == "0 to 2"
    assert run(["judge", "families", "qwen", "--judge-url", server.url]) == 0
    assert "family vllm" in capsys.readouterr().out


def test_a_setting_may_be_none_where_none_is_no_value_of_its_own() -> None:
    found = set_from(JudgeSettings, {"seed": "none", "reasoning_effort": "none"}, "--judge-set")
    assert (found.seed, found.reasoning_effort) == (None, "none")
    with pytest.raises(SettingError, match="seed = 'no': must be a whole number"):
        set_from(JudgeSettings, {"seed": "no"}, "--judge-set")
