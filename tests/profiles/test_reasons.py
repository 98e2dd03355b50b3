"""What befalls a reply of any profile has its own reason, for judges and for models that are scored."""

from pathlib import Path
from typing import Any, Final

import pytest
from lm_eval.api.instance import Instance

from harness.models.chat_model import OpenAIVisionLM
from harness.models.chat_settings import ServedModelSettings
from tasks.answer import FailedAnswer
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Sampling
from tasks.judges.settings import JudgeSettings
from tests.profiles.apis import KEY
from tests.profiles.server import PROFILES, ProfileServer

pytestmark = pytest.mark.usefixtures("no_keys")
NAMES: Final = sorted(PROFILES)
FILTER: Final = {
    "vllm": "content filter: Blocked: content_filter",
    "vllm-thinking": "content filter: Blocked: content_filter",
    "vllm-in-tags": "content filter: Blocked: content_filter",
    "sglang": "finish_reason abort: the reply did not end",
    "ollama": "status 500: llama runner process has terminated",
    "llama.cpp": "status 500: Failed to process the picture",
}
"""What comes of servers that have no filter of their own."""
CUT: Final = "the judge's reply was cut at the limit of tokens"
QUESTION: Final = "Is it red?"


def ask_judge(profiles: ProfileServer, name: str, folder: Path) -> str:
    made = JudgeSettings(attempts=1, timeout=10.0)
    judge = OpenAIJudge(
        profiles.model(name), url=profiles.url(name), key=KEY, ledger=Ledger(folder / "j"), settings=made
    )
    (reply,) = replies = judge.ask_many([(QUESTION, None)], Sampling(max_tokens=500))
    assert reply is None
    return replies.lost[0].error


def ask_model(profiles: ProfileServer, name: str, folder: Path) -> str:
    made = ServedModelSettings(attempts=1, timeout=10.0)
    lm = OpenAIVisionLM(profiles.model(name), url=profiles.url(name), key=KEY, ledger=folder / "m", settings=made)
    given: Any = {"until": [], "max_gen_toks": 500, "do_sample": False}
    (answer,) = lm.generate_until([Instance(request_type="generate_until", doc={}, arguments=(QUESTION, given), idx=0)])
    return answer


def expect(name: str, event: str) -> tuple[str, str | None]:
    """The reasons of a judge's question and of a model's; None: it has an answer."""
    filtered = FILTER.get(name, "content filter")
    field = PROFILES[name]().thoughts_in
    shown = f" (in {field})" if field not in ("", "content") else ""
    alone = (f"no verdict beside the judge's thoughts{shown}", f"no answer beside its thoughts{shown}")
    if event.startswith("filter"):
        return filtered, filtered
    if event == "refusal":
        return "refusal", "refusal"
    if event == "cut":
        return CUT, None
    if event == "null" and not shown:
        return "no content", "no content"
    return alone


EVENTS: Final = ("filter", "filtered reply", "refusal", "null", "cut")
WITHOUT_NULL: Final = ("ollama", "llama.cpp", "vllm-in-tags")
"""Whose replies have neither a refusal nor null for a content."""
CASES: Final = [
    (name, event) for name in NAMES for event in EVENTS if not (name in WITHOUT_NULL and event in ("refusal", "null"))
]


@pytest.mark.parametrize(("name", "event"), CASES)
def test_each_has_its_own_reason(profiles: ProfileServer, name: str, event: str, tmp_path: Path) -> None:
    profiles.befall[QUESTION] = event
    of_judge, of_model = expect(name, event)
    assert ask_judge(profiles, name, tmp_path) == of_judge
    answer = ask_model(profiles, name, tmp_path)
    if of_model is None:
        assert getattr(answer, "limited", False)
    else:
        assert isinstance(answer, FailedAnswer)
        assert answer.error == of_model


@pytest.mark.parametrize("name", ("vllm-thinking", "sglang", "ollama", "llama.cpp"))
def test_thoughts_alone_are_neither_answer_nor_verdict(profiles: ProfileServer, name: str, tmp_path: Path) -> None:
    profiles.befall[QUESTION] = "thoughts only"
    field = profiles.profiles[name].thoughts_in
    assert ask_judge(profiles, name, tmp_path) == f"no verdict beside the judge's thoughts (in {field})"
    answer = ask_model(profiles, name, tmp_path)
    assert isinstance(answer, FailedAnswer)
    assert answer.error == f"no answer beside its thoughts (in {field})"


@pytest.mark.parametrize("name", ("gemini", "sglang", "vllm-thinking", "ollama", "openai-reasoning"))
def test_thoughts_are_paid_for(profiles: ProfileServer, name: str, tmp_path: Path) -> None:
    """Also where a server counts them in the total alone."""
    made = JudgeSettings(attempts=1, timeout=10.0)
    ledger = Ledger(tmp_path / "j")
    judge = OpenAIJudge(profiles.model(name), url=profiles.url(name), key=KEY, ledger=ledger, settings=made)
    assert judge.ask(QUESTION) == "Yes"
    (call,) = ledger.calls()
    assert call.completion_tokens is not None
    assert call.completion_tokens > profiles.profiles[name].thoughts
