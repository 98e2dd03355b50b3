"""Completions, judges and candidates for the tests of replies."""

from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from harness.models.chat_model import OpenAIVisionLM
from harness.models.chat_settings import ServedModelSettings
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.settings import JudgeSettings

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def body(content: Any = "Rating: 4", finish: Any = "stop", *, over: Any = None, **message: Any) -> dict[str, Any]:
    """A completion; `over` replaces fields of it, other names are the message's."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return {"id": "x", "model": "m", "choices": [choice], "usage": USAGE, **(over or {})}


def unsaid(content: Any = "Rating: 4", tokens: Any = 5, **choice: Any) -> dict[str, Any]:
    """A completion whose choice has no finish_reason, but these fields."""
    made = body(content, over={"usage": {"prompt_tokens": 10, "completion_tokens": tokens}})
    del made["choices"][0]["finish_reason"]
    made["choices"][0] |= choice
    return made


TEXT_PART = {"type": "text", "text": "Rating: 4"}


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Rating: 1?"}]}


def judge_of(server: Any, tmp_path: Path, **given_settings: Any) -> OpenAIJudge:
    made = JudgeSettings(**{"timeout": 5.0, "attempts": 1, "concurrency": 4} | given_settings)
    return OpenAIJudge("m", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"), settings=made)


def prompts(count: int) -> list[tuple[str, None]]:
    return [(f"Question {n}", None) for n in range(count)]


def number_in(request: dict[str, Any]) -> int:
    return int(str(request["messages"][-1]["content"]).split()[-1])


def answers_of(server: Any, tmp_path: Path, count: int = 1, until: Any = (), **given_settings: Any) -> list[str]:
    made = ServedModelSettings(**{"timeout": 5.0, "attempts": 1} | given_settings)
    lm = OpenAIVisionLM("m", url=server.url, ledger=tmp_path / "l.sqlite", settings=made)
    requests = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(f"Question {number}", {"until": list(until), "max_gen_toks": 9, "do_sample": False}),
            idx=number,
        )
        for number in range(count)
    ]
    return lm.generate_until(requests)
