"""Answers of a server that end once they are decided: the same scores as of full ones, whatever the model writes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from PIL import Image

from harness.engine.config import EngineConfig
from harness.engine.jobs import Hints
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.evaluate import evaluate
from harness.evaluation.generate import early_exit_hints
from harness.models.chat_model import OpenAIVisionLM
from harness.models.chat_settings import ServedModelSettings
from harness.models.early_stops import NOT_SHOWN, OPENED, THINKS, EarlyStops
from harness.models.next_token_logprobs import NOT_GIVEN, REFUSED
from harness.models.served_sampling import Decoding
from harness.models.server_facts import ServerFacts
from harness.models.spec import ModelSpec
from support.errors import SettingError
from tasks.answer import Answer, FailedAnswer
from tasks.early_exit import Reads
from tasks.judges.ledger import Ledger
from tasks.registry import NEXT_TOKEN, registry
from tasks.thoughts import MARKS, answer_of

pytestmark = pytest.mark.usefixtures("no_keys")
PLAIN = ["<s>", "USER", ":", "Hello", "\u2581ASSISTANT", ":"]
DOCS: dict[str, dict[str, Any]] = {
    "mme": {"image": "i", "category": "color", "pair": "i", "answer": "Yes"},
    "pope": {"image": "i", "category": "random", "answer": "yes"},
    "amber": {"image": "i", "type": "discriminative-attribute-state", "truth": ["yes"], "id": "1"},
    "seedbench_img": {"image": "i", "question_type_id": 1, "answer": "A", "image_ids": ["i"]},
}


def hint_of(task: str) -> Hints:
    request = Instance(request_type="generate_until", doc=DOCS[task], arguments=("",), idx=0, metadata=(task, 0, 1))
    found: Hints = early_exit_hints(request, {task}, full_answers=False)
    return found


def spoken_by(text: str, body: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """What a server sends of a text that its model writes: up to a stop sequence, or a limit of tokens; and why it
    ended."""
    tokens = re.findall(r"\s*\w{1,4}|\s*[^\w\s]|\s+", text)
    limited = len(tokens) > body["max_tokens"]
    written = "".join(tokens[: body["max_tokens"]])
    for stop in body.get("stop") or ():
        if stop in written:
            return written.partition(stop)[0], "stop", stop
    return written, "length" if limited else "stop", None


def completion(body: Mapping[str, Any], content: str | None, finish: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **more}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    return {"id": "1", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


def asked_for(body: Mapping[str, Any]) -> str:
    return str(body["messages"][0]["content"][-1]["text"])


def says(words: Mapping[str, str], *, tells: bool = True) -> Any:
    """A server whose model writes these words to these questions."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        text, finish, stop = spoken_by(words[asked_for(body)], body)
        return 200, completion(body, text, finish, **({"stop_reason": stop} if tells else {}))

    return answer


def missing_of(answer: str) -> str:
    assert isinstance(answer, Answer)
    assert not answer.choices
    return answer.no_choices


def requests_of(*questions: str, task: str) -> list[Instance]:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    given = {"do_sample": False, "max_gen_toks": 128, "until": []}
    return [
        Instance(
            request_type="generate_until",
            doc=DOCS[task],
            arguments=(f"<image>{question}", dict(given), {"visual": [image]}),
            idx=at,
            metadata=(task, at, 1),
        )
        for at, question in enumerate(questions)
    ]


def lm_of(server: Any, ledger: Path, hints: Any = None, template: str | None = None, **own: Any) -> OpenAIVisionLM:
    facts = ServerFacts(kind="vllm", template=template)
    more: dict[str, Any] = {"url": server.url, "digests": {"weights": "1"}, "server": facts}
    spec = ModelSpec(name="m", pretrained="m", backend="openai", **more)
    with_rules = lambda request: early_exit_hints(request, set(DOCS), full_answers=False)  # noqa: E731
    settings = ServedModelSettings(**own)
    return OpenAIVisionLM.of(spec, ledger=ledger, hints=hints or with_rules, settings=settings)


PIECES = ["Yes", "yes", "No", "no", "not", "nothing", "A", "B", " ", ",", ".", ". ", "\n", "é", "😀", "<", "<answer>"]
PIECES += ["</answer>", "<think>", "</think>", "Here is my thought process:", "x", "\u202f"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join) | st.text(max_size=12)


@pytest.mark.parametrize("task", DOCS)
@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
@example(text="<think>No. It is</think>Yes")
@example(text="<answer>No. There is none.</answer>")
@example(text="nothing. no")
@example(text="no,thing")
def test_what_decides_is_all_that_the_official_rule_reads(task: str, text: str) -> None:
    spec, process = registry().task(task), registry().process_results(task)
    assert spec.reads is not None
    read, short = (
        {
            name: {key: value for key, value in record.items() if key != "words"}
            for name, record in process(DOCS[task], [answer]).items()
            if name != "answer_length"
        }
        for answer in (text, spec.reads.part_of(text))
    )
    assert read == short


@pytest.mark.parametrize("task", DOCS)
@settings(max_examples=600, deadline=None)
@given(text=TEXTS)
@example(text="<think>No. It is</think>Yes")
@example(text="<answer>No. There is none.</answer>")
def test_a_reply_that_counts_is_read_as_the_full_one(task: str, text: str) -> None:
    """Of models that think before they answer, if at all: the same that a local model's early stops suppose."""
    is_marked = any(mark.lower() in text.lower() for pair in MARKS for mark in pair)
    assume(not is_marked or text.lstrip().startswith("<think>"))
    stops, hint, full = EarlyStops(lambda: ""), hint_of(task), Decoding(max_tokens=128)
    early = stops.shorten(full, hint)
    assert early is not None
    assert early.max_tokens is not None
    words, finish, _ = spoken_by(text, {"max_tokens": early.max_tokens, "stop": early.until})
    if not stops.is_settled(Answer(words, limited=finish == "length"), hint, early):
        return
    whole, _, _ = spoken_by(text, {"max_tokens": 128})
    process = registry().process_results(task)
    answers = [answer_of(answer) for answer in (words, whole)]
    assert not any(isinstance(answer, FailedAnswer) for answer in answers)
    read, expected = (
        {name: {k: v for k, v in record.items() if k != "words"} for name, record in process(DOCS[task], [one]).items()}
        for one in answers
    )
    assert read == expected


def test_answers_end_where_they_are_decided_and_say_so(server: Any, tmp_path: Path) -> None:
    server.prompt_tokens = lambda chat: PLAIN
    server.answer = says({"a": "Yes, there is a dog. It is big.", "b": "No"})
    lm = lm_of(server, tmp_path / "ledger.sqlite")
    answers = lm.generate_until([*requests_of("a", "b", task="mme"), *requests_of("a", "b", task="pope")])
    assert answers == ["Yes, there is", "No", "Yes, there is a dog", "No"]
    assert [getattr(answer, "cut", False) for answer in answers] == [True, False, True, False]
    assert not any(getattr(answer, "limited", False) for answer in answers)
    assert {(entry["max_tokens"], *entry.get("stop", ())) for entry in server.log} == {(5,), (128, ".")}
    assert lm.provenance()["early stops"] == "max_tokens 5, stop '.'"


def test_a_server_that_does_not_tell_why_it_ended_may_have_cut_what_has_no_full_stop(
    server: Any, tmp_path: Path
) -> None:
    server.prompt_tokens = lambda chat: PLAIN
    server.answer = says({"a": "Yes. It is.", "b": "No"}, tells=False)
    answers = lm_of(server, tmp_path / "ledger.sqlite").generate_until(requests_of("a", "b", task="pope"))
    assert [(str(answer), answer.cut) for answer in answers if isinstance(answer, Answer)] == [
        ("Yes", True),
        ("No", True),
    ]


def test_what_is_undecided_is_asked_in_full_once_and_kept(server: Any, tmp_path: Path) -> None:
    server.prompt_tokens = lambda chat: PLAIN
    words = {"a": "<answer>No. None.</answer>", "b": "Yes. So it is.", "c": "<answer> Yes"}
    server.answer = says(words)
    for _ in range(2):
        lm = lm_of(server, tmp_path / "ledger.sqlite")
        assert lm.generate_until(requests_of(*words, task="pope")) == ["No. None.", "Yes", "<answer> Yes"]
        assert sorted(asked_for(entry) for entry in server.log) == ["a", "a", "b", "c", "c"]
    assert lm.provenance()["early stops"] == "stop '.'"


@pytest.mark.parametrize("tells", (True, False))
def test_an_answer_whose_first_sentence_is_empty_is_no_empty_answer(server: Any, tmp_path: Path, tells: bool) -> None:
    server.prompt_tokens = lambda chat: PLAIN
    server.answer = says({"a": ". Yes", "b": "Yes. No"}, tells=tells)
    lm = lm_of(server, tmp_path / "ledger.sqlite")
    assert lm.generate_until(requests_of("a", "b", task="pope")) == [". Yes", "Yes"]


def test_a_full_answer_that_is_paid_for_is_not_asked_again(server: Any, tmp_path: Path) -> None:
    server.prompt_tokens = lambda chat: PLAIN
    server.answer = says({"a": "Yes, it is red."})
    whole = lm_of(server, tmp_path / "ledger.sqlite", {"mme": Hints()}).generate_until(requests_of("a", task="mme"))
    lm = lm_of(server, tmp_path / "ledger.sqlite")
    assert lm.generate_until(requests_of("a", task="mme")) == whole == ["Yes, it is red."]
    assert len(server.log) == 1
    assert lm.provenance()["early stops"] == "none: the answers are kept ones"


@pytest.mark.parametrize("task", ("mme", "pope"))
def test_a_model_that_thinks_after_all_is_asked_again_and_then_in_full(server: Any, tmp_path: Path, task: str) -> None:
    """Thoughts beside the reply count as its tokens, and a stop sequence ends them."""
    server.prompt_tokens = lambda chat: PLAIN

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body["max_tokens"] < 20 or body.get("stop"):
            finish = "length" if body["max_tokens"] < 20 else "stop"
            return 200, completion(body, None, finish, message={"reasoning": "Let me"})
        return 200, completion(body, "Yes", "stop", message={"reasoning": "Let me see."})

    server.answer = answer
    questions = [f"question {n}" for n in range(40)]
    for _ in range(2):
        lm = lm_of(server, tmp_path / "ledger.sqlite")
        assert lm.generate_until(requests_of(*questions, task=task)) == ["Yes"] * 40
        assert 40 < len(server.log) <= 60
    assert not Ledger(tmp_path / "ledger.sqlite").failures()


OPEN = [*PLAIN, "<think>", "\u010a"]
BY_SWITCH = "{% if enable_thinking %}<think>{% endif %}"


@pytest.mark.parametrize(
    ("prompt", "template", "own", "why_not"),
    (
        (None, None, {}, NOT_SHOWN),
        (None, BY_SWITCH, {}, NOT_SHOWN),
        (None, "USER: {{ text }} ASSISTANT:", {}, ""),
        (lambda chat: OPEN, BY_SWITCH, {}, OPENED),
        (lambda chat: PLAIN, None, {}, ""),
        (lambda chat: [*OPEN, "</think>", "\u010a\u010a"], BY_SWITCH, {}, ""),
        (lambda chat: OPEN if chat["chat_template_kwargs"]["enable_thinking"] else PLAIN, BY_SWITCH, "off", ""),
        (lambda chat: PLAIN, BY_SWITCH, {"thinking_tokens": 64}, THINKS),
    ),
)
def test_nothing_is_cut_where_a_thought_may_be_open(
    server: Any, tmp_path: Path, prompt: Any, template: str | None, own: Any, why_not: str
) -> None:
    server.prompt_tokens = prompt
    server.answer = says({"a": "It has four legs. So</think>No"})
    settings = {"enable_thinking": False} if own == "off" else own
    lm = lm_of(server, tmp_path / "ledger.sqlite", template=template, **settings)
    (answer,) = lm.generate_until(requests_of("a", task="pope"))
    assert (answer == "No") is bool(why_not)
    assert lm.provenance()["early stops"] == (f"none: {why_not}" if why_not else "stop '.'")


def test_a_switch_of_thoughts_is_found_in_the_prompts_of_a_server(server: Any, tmp_path: Path) -> None:
    server.answer = says({"a": "No, it has four legs."})
    for name in ("enable_thinking", "thinking"):
        server.prompt_tokens = lambda chat, name=name: (
            PLAIN if chat["chat_template_kwargs"].get(name) is False else OPEN
        )
        lm = lm_of(server, tmp_path / f"{name}.sqlite", enable_thinking=False)
        assert lm.generate_until(requests_of("a", task="pope")) == ["No, it has four legs"]
        assert server.log[-1]["chat_template_kwargs"] == {name: False}
        assert lm.provenance()["thinking"] == "off"
    server.prompt_tokens = lambda chat: OPEN
    with pytest.raises(SettingError, match="enable_thinking = True: would not act: its chat template has no such"):
        lm_of(server, tmp_path / "none.sqlite", enable_thinking=True)


def test_sampled_answers_and_short_limits_are_asked_as_they_are() -> None:
    stops, hint = EarlyStops(lambda: ""), hint_of("mme")
    assert stops.shorten(Decoding(max_tokens=128, temperature=0.7), hint) is None
    assert stops.shorten(Decoding(max_tokens=5), hint) is None
    assert stops.shorten(Decoding(max_tokens=6), Hints(reads=Reads(characters=4))) is None
    assert stops.in_words() == ""


# --- Likelihoods of the first token, in the request of the answer.


def likely(**more: float) -> dict[str, Any]:
    listed = [{"token": token, "logprob": value, "bytes": None} for token, value in more.items()]
    return {"content": [{**listed[0], "top_logprobs": listed}]}


def test_likelihoods_come_with_the_answer_and_are_kept(server: Any, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        told = likely(Yes=-0.1, no=-2.5, The=-6.0) if body.get("logprobs") else None
        return 200, completion(body, "Yes", "stop", logprobs=told)

    server.answer = answer
    for _ in range(2):
        (found,) = lm_of(server, tmp_path / "ledger.sqlite").generate_until(requests_of("a", task="pope"))
        assert isinstance(found, Answer)
        assert dict(found.choices) == {"yes": -0.1, "no": -2.5}
    assert [entry["top_logprobs"] for entry in server.log] == [20]


def test_a_server_without_likelihoods_is_asked_without_and_the_reason_is_told(server: Any, tmp_path: Path) -> None:
    def refuses(body: dict[str, Any]) -> tuple[int, Any]:
        if "logprobs" in body:
            error = {
                "message": "Unsupported parameter: 'logprobs'",
                "type": "invalid",
                "param": "logprobs",
                "code": "x",
            }
            return 400, {"error": error}
        return 200, completion(body, "Yes", "stop")

    server.answer = refuses
    (found,) = lm_of(server, tmp_path / "refuses.sqlite").generate_until(requests_of("a", task="pope"))
    assert (str(found), missing_of(found)) == ("Yes", REFUSED)
    server.answer = lambda body: (200, completion(body, "Yes", "stop"))
    (found,) = lm_of(server, tmp_path / "ignores.sqlite").generate_until(requests_of("a", task="pope"))
    assert missing_of(found) == NOT_GIVEN


def test_asking_for_likelihoods_names_no_other_answer(server: Any, tmp_path: Path) -> None:
    server.answer = says({"a": "Yes"})
    hints = {"pope": Hints()}
    lm_of(server, tmp_path / "ledger.sqlite", hints).generate_until(requests_of("a", task="pope"))
    (found,) = lm_of(server, tmp_path / "ledger.sqlite").generate_until(requests_of("a", task="pope"))
    assert len(server.log) == 1
    assert "did not ask" in missing_of(found)


def test_what_the_ledger_keeps_beside_a_reply_is_json(server: Any, tmp_path: Path) -> None:
    server.answer = says({"a": "Yes"})
    lm_of(server, tmp_path / "ledger.sqlite").generate_until(requests_of("a", task="pope"))
    (call,) = Ledger(tmp_path / "ledger.sqlite").calls()
    assert json.loads(call.told) == {"no log-probabilities": NOT_GIVEN}


def test_an_entry_says_for_how_many_answers_there_are_no_likelihoods_and_why(server: Any, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        asked = len(server.log)
        told = {1: likely(yes=-0.1, no=-3.0), 2: likely(ye=-0.1, A=-2.5)}.get(asked)
        return 200, completion(body, "yes", "stop", logprobs=told)

    server.answer = answer
    more: dict[str, Any] = {"url": server.url, "digests": {"weights": "1"}}
    spec = ModelSpec(name="m", pretrained="m", backend="openai", **more)
    engine = EngineConfig(overrides={"concurrency": 1})
    tasks, settings = [registry().task("scenes_pope")], EvalSettings(limit=4)
    found = evaluate(spec, tasks, None, settings, engine=engine, ledger=tmp_path / "l.sqlite")
    (entry,) = (entry for entry in found.entries if entry.metric == NEXT_TOKEN)
    assert [NEXT_TOKEN in sample.records for sample in found.samples].count(True) == 1
    why = entry.provenance["no next-token likelihoods"]
    assert f"{NOT_GIVEN} (2" in why
    assert "the choices are not among the 2 likeliest tokens (1" in why
