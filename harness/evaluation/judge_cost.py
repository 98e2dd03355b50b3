"""What judging will cost: calls, tokens and price, counted without a call."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tasks.judges import prices
from tasks.judges.batch import BatchJudge
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import GREEDY, JudgeSession, Question, Sampling
from tasks.registry import TaskSpec, registry

ANSWER_WORDS: Final = 60
"""Length of the answers that a plan supposes, where there are none yet."""


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
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
class Counting:
    """Stands in for a judge, and counts what it would be asked."""

    judge: OpenAIJudge
    keys: set[str] = field(default_factory=set)
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: float = 0.0

    @property
    def model(self) -> str:
        """The model that would be asked."""
        return self.judge.model

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """Count questions; replies that the ledger has are given, None for the others."""
        replies = []
        for prompt, image in questions:
            request = self.judge.request(prompt, image, sampling, repeat)
            reply = self.judge.client.ledger.reply(request.key)
            replies.append(reply)
            if request.key in self.keys:
                continue
            self.keys.add(request.key)
            if reply is not None:
                self.kept += 1
                continue
            self.prompt_tokens += request.tokens
            self.completion_tokens += self.judge.client.expected_reply(label, sampling.max_tokens)
        return replies


def plan(
    judge: OpenAIJudge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[str], repeats: int = 1
) -> JudgePlan:
    """What judging these answers `repeats` times will take; passes that depend on replies (a second question, a retry)
    are not in it."""
    counting = Counting(judge)
    for repeat in range(repeats):
        session = JudgeSession(judge=counting, label=task.name, repeat=repeat)
        registry().judge(task.name)(answers, docs, session)
    return planned(counting, task.name)


def planned(counting: Counting, task: str) -> JudgePlan:
    """What the counted questions will cost."""
    completion = round(counting.completion_tokens)
    judge = counting.judge
    return JudgePlan(
        task=task,
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
