"""The cost of judging, estimated without a call to the judge: calls, tokens and price."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tasks.judges.protocol import GREEDY, JudgeSession, Question, Sampling
from tasks.registry import TaskSpec, registry

if TYPE_CHECKING:
    from tasks.judges.openai import OpenAIJudge

ANSWER_WORDS: Final = 60
"""Assumed length of answers that do not exist yet."""
GUESSED_PROMPT: Final = 800
"""Assumed tokens of a call to a judge, with its instructions, about a question that is not here."""


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """The estimated cost of judging."""

    task: str
    model: str
    calls: int
    kept: int
    """Replies that are in the ledger already, read or not."""
    prompt_tokens: int
    completion_tokens: int
    """Estimated from replies so far, else from the protocol."""
    price: float | None
    """US dollars; None if the judge's prices are not known."""


@dataclass
class Counting:
    """Takes the place of a judge and counts its questions."""

    judge: "OpenAIJudge"
    keys: set[str] = field(default_factory=set)
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: float = 0.0

    @property
    def model(self) -> str:
        """The model that would be asked."""
        return self.judge.model

    @property
    def identity(self) -> str:
        """What names its server in the ledger."""
        return self.judge.identity

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """The replies that are in the ledger, None for other questions, which are counted."""
        replies = []
        for prompt, image in questions:
            request = self.judge.request(prompt, image, sampling, repeat)
            call = self.judge.client.find_call(request)
            reply = None if call is None else call.reply
            replies.append(reply)
            if request.key in self.keys:
                continue
            self.keys.add(request.key)
            if reply is not None or self.judge.client.kept_body(request.key) is not None:
                self.kept += 1
                continue
            self.prompt_tokens += request.tokens
            self.completion_tokens += self.judge.client.expected_reply(label, sampling.max_tokens)
        return replies


def plan(
    judge: "OpenAIJudge", task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[str], repeats: int = 1
) -> JudgePlan:
    """The cost of judging these answers `repeats` times, without questions that depend on a reply, and retries."""
    counting = Counting(judge)
    for repeat in range(repeats):
        session = JudgeSession(judge=counting, label=task.name, repeat=repeat)
        registry().judge(task.name)(answers, docs, session)
    return planned(counting, task.name)


def planned(counting: Counting, task: str, *, times: int = 1) -> JudgePlan:
    """The cost of the counted questions; `times`: of so many like them."""
    from tasks.judges.batch import BatchJudge

    judge = counting.judge
    prompt, completion = counting.prompt_tokens * times, round(counting.completion_tokens * times)
    calls, batch = (len(counting.keys) - counting.kept) * times, isinstance(judge, BatchJudge)
    return JudgePlan(
        task=task,
        model=judge.model,
        calls=calls,
        kept=counting.kept,
        prompt_tokens=prompt,
        completion_tokens=completion,
        price=judge.client.estimate(prompt, completion, calls=calls, batch=batch),
    )


def guess(judge: "OpenAIJudge", task: str, calls: int) -> JudgePlan:
    """The cost of so many calls about questions that are not here, for `GUESSED_PROMPT` tokens each."""
    from tasks.judges.batch import BatchJudge

    prompt = calls * GUESSED_PROMPT
    completion = round(calls * judge.client.expected_reply(task, None))
    price = judge.client.estimate(prompt, completion, calls=calls, batch=isinstance(judge, BatchJudge))
    counts = {"calls": calls, "kept": 0, "prompt_tokens": prompt, "completion_tokens": completion}
    return JudgePlan(task=task, model=judge.model, price=price, **counts)


def supposed_answers(count: int) -> list[str]:
    """Placeholder answers of `ANSWER_WORDS` words, all different."""
    return [f"{number} " + "word " * (ANSWER_WORDS - 1) for number in range(count)]
