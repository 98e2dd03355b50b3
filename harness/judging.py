"""The judge of a run: made from what the user gave, asked nothing before its price was shown where the user wants that.

judge = make_judge("gpt-4o-2024-11-20", url=None, ledger=Path("runs/ledger.sqlite"), budget=5.0)
plan(judge, registry().task("mmhal"), docs, answers)        # calls, tokens and price, without a call
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tasks import prices
from tasks.batch_judge import BatchJudge
from tasks.judge import GREEDY, Judge, Question, Sampling, judging, use_judge
from tasks.ledger import Ledger
from tasks.openai_judge import OpenAIJudge
from tasks.registry import TaskSpec, registry

EXACT: Final = "exact"
LEDGER: Final = Path("runs") / "ledger.sqlite"
ANSWER_WORDS: Final = 60
"""Length of the answers that a plan supposes, where there are none yet."""


class NoServer(ValueError):
    """A judge was named, and where it is was not."""


def make_judge(
    name: str,
    *,
    url: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    batch: bool = False,
    **settings: Any,
) -> Judge:
    """The exact rater of the scenes world, or a model behind an OpenAI-compatible server; `batch`: through the Batch API."""
    if name == EXACT:
        from tasks.scenes.judge import ExactJudge

        return ExactJudge()
    if url is None and not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        raise NoServer(f"judge {name!r}: set OPENAI_API_KEY, or name its server with --judge-url (known without: {EXACT})")
    # A server of one's own wants no key, and the client wants one.
    key = None if os.environ.get("OPENAI_API_KEY") else "none"
    kind = BatchJudge if batch else OpenAIJudge
    return kind(name, url=url, key=key, ledger=Ledger(ledger or LEDGER), budget=budget, **settings)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What judging will take."""

    task: str
    model: str
    calls: int
    kept: int
    """Replies that the ledger has already."""
    prompt_tokens: int
    completion_tokens: int
    """As many as replies so far had, else as the protocol allows or is typical."""
    price: float | None
    """US dollars; None where the judge is in no price table."""


@dataclass
class _Counting:
    """Stands in for a judge, and counts what it would be asked."""

    judge: OpenAIJudge
    keys: set[str] = field(default_factory=set)
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: float = 0.0

    @property
    def model(self) -> str:
        return self.judge.model

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        self.ask_many([(prompt, image)], sampling)
        return ""

    def ask_many(self, questions: Iterable[Question], sampling: Sampling = GREEDY) -> list[str | None]:
        replies = []
        for prompt, image in questions:
            request = self.judge.request(prompt, image, sampling)
            reply = self.judge.ledger.reply(request.key)
            replies.append(reply)
            if request.key in self.keys:
                continue
            self.keys.add(request.key)
            if reply is not None:
                self.kept += 1
                continue
            self.prompt_tokens += request.tokens
            self.completion_tokens += self.judge.expected_reply(sampling)
        return replies


def plan(judge: OpenAIJudge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> Plan:
    """What judging these answers will take; later passes that depend on replies (a second question, a retry) are not in it."""
    counting = _Counting(judge)
    with use_judge(counting), judging(task.name):
        registry().judge_answers(task.name)(list(answers), list(docs))
    completion = round(counting.completion_tokens)
    return Plan(
        task=task.name,
        model=judge.model,
        calls=len(counting.keys) - counting.kept,
        kept=counting.kept,
        prompt_tokens=counting.prompt_tokens,
        completion_tokens=completion,
        price=prices.price(judge.model, counting.prompt_tokens, completion, batch=isinstance(judge, BatchJudge)),
    )


def supposed_answers(count: int) -> list[str]:
    """Answers of a usual length, all different, where a model has not answered yet."""
    return [f"{number} " + "word " * (ANSWER_WORDS - 1) for number in range(count)]
