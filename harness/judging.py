"""The judge of a run: made from what the user gave, asked nothing before its price was shown where the user wants that.

judge = make_judge("gpt-4o-2024-11-20", url=None, ledger=Path("runs/ledger.sqlite"), budget=5.0)
plan(judge, registry().task("mmhal"), docs, answers)        # calls, tokens and price, without a call
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaderboards.sample import Asking
from tasks import prices
from tasks.answer import FailedAnswer
from tasks.batch_judge import BatchJudge
from tasks.judge import GREEDY, Judge, Question, Sampling, judging, use_judge
from tasks.ledger import Ledger
from tasks.openai_judge import OpenAIJudge
from tasks.registry import TaskSpec, UnknownName, registry

if TYPE_CHECKING:
    from harness.ratings import Way
    from trainers.rows import Row

EXACT: Final = "exact"
LEDGER: Final = Path("runs") / "ledger.sqlite"
ANSWER_WORDS: Final = 60
"""Length of the answers that a plan supposes, where there are none yet."""


SETTINGS: Final[Mapping[str, Callable[[str], Any]]] = {
    "detail": str,
    "image_side": int,
    "seed": int,
    "timeout": float,
    "attempts": int,
    "concurrency": int,
    "structured": lambda text: {"true": True, "false": False}[text.lower()],
    "requests_per_minute": float,
    "tokens_per_minute": float,
}
"""What `--judge-set NAME=VALUE` may set, and how its value is read."""


def settings_of(given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as arguments of `OpenAIJudge`; UnknownName for another name, BadSetting for a value that is none."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in SETTINGS:
            raise UnknownName("judge setting", name, SETTINGS)
        try:
            found[name] = SETTINGS[name](value)
        except (ValueError, KeyError):
            kind = "true or false" if name == "structured" else SETTINGS[name].__name__
            raise BadSetting(f"--judge-set {text!r}: {name} must be {kind}") from None
        if isinstance(found[name], (int, float)) and name not in ("seed", "structured") and found[name] <= 0:
            raise BadSetting(f"--judge-set {text!r}: {name} must be more than 0")
    if found.get("detail", "auto") not in ("auto", "low", "high"):
        raise BadSetting(f"--judge-set detail={found['detail']}: must be auto, low or high")
    return found


class BadSetting(ValueError):
    """A setting of the judge has a value that it can't have."""


class NoServer(ValueError):
    """A judge or a model behind a server was named, and where it is was not."""


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
    if budget is not None and prices.price(name, 1, 1) is None:
        raise BadSetting(f"--judge-budget: no price of {name!r} is known; add it to a file of prices and name that in {prices.OVERRIDE}")
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


def plan_ratings(judge: OpenAIJudge, way: "Way", data: "Path | Callable[[], Iterable[Row]]") -> Plan:
    """What rating a folder's answers, or those of rows, on VLFeedback's three aspects will take."""
    from harness.ratings import rate_folder, rate_rows
    from trainers.vlfeedback.annotation import TASK, ratings_file

    counting = _Counting(judge)
    with tempfile.TemporaryDirectory() as nowhere:
        if isinstance(data, Path):
            into = Path(nowhere) / "ratings.jsonl"
            there = ratings_file(data, judge.model, way.mode, way.order)
            if there.exists():
                into.write_bytes(there.read_bytes())
            rate_folder(data, counting, way, into=into)
        else:
            rate_rows(data, counting, way, Path(nowhere), whole=False)
    return _planned(counting, TASK)


def plan(judge: OpenAIJudge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[str], repeats: int = 1) -> Plan:
    """What judging these answers `repeats` times will take; passes that depend on replies (a second question, a retry) are not in it."""
    counting = _Counting(judge)
    for repeat in range(repeats):
        with use_judge(counting), judging(task.name), judge.repeating(repeat):
            registry().judge_answers(task.name)(list(answers), list(docs))
    return _planned(counting, task.name)


def _planned(counting: _Counting, task: str) -> Plan:
    completion = round(counting.completion_tokens)
    judge = counting.judge
    return Plan(
        task=task,
        model=judge.model,
        calls=len(counting.keys) - counting.kept,
        kept=counting.kept,
        prompt_tokens=counting.prompt_tokens,
        completion_tokens=completion,
        price=prices.price(judge.model, counting.prompt_tokens, completion, batch=isinstance(judge, BatchJudge)),
    )


def asked_again(judge: Judge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], count: int) -> list[list[Asking]]:
    """What each further asking of the judge makes of the answers, `count` askings in all with the one that was made already.

    None of a judge that says the same whenever it is asked; nothing is rated of an answer that the model failed to give.
    """
    if not isinstance(judge, OpenAIJudge) or count < 2:
        return []
    known, process = registry(), registry().process_results(task.name)
    found = []
    for repeat in range(1, count):
        with use_judge(judge), judging(task.name), judge.repeating(repeat):
            verdicts = known.judge_answers(task.name)(list(answers), list(docs))
        found.append(
            [
                Asking(records={}, reply=None)
                if isinstance(answer, FailedAnswer)
                else Asking(records=process(doc, [verdict]), reply=verdict["text"] or None)
                for doc, answer, verdict in zip(docs, answers, verdicts, strict=True)
            ]
        )
    return found


def repeats(
    judge: Judge, task: TaskSpec, docs: Sequence[Mapping[str, Any]], answers: Sequence[Any], count: int
) -> list[dict[str, list[Mapping[str, Any]]]]:
    """Metric -> records by each further asking of the judge, as `asked_again` has them."""
    return [
        {name: [asking.records[name] for asking in found if name in asking.records] for name in task.metrics}
        for found in asked_again(judge, task, docs, answers, count)
    ]


def value_of(task: str, metric: str, records: Sequence[Mapping[str, Any]]) -> float | None:
    """A metric's value; None where nothing could be scored."""
    value = registry().metric(task, metric)(records) if records else None
    return None if value is None or value != value else value


def over_repeats(first: float | None, others: Sequence[float | None]) -> tuple[float | None, str]:
    """The mean over all askings, and the single values as text."""
    every = [first, *others]
    known = [value for value in every if value is not None]
    mean = sum(known) / len(known) if known else None
    return mean, ", ".join("none" if value is None else f"{value:.4f}".rstrip("0").rstrip(".") for value in every)


def supposed_answers(count: int) -> list[str]:
    """Answers of a usual length, all different, where a model has not answered yet."""
    return [f"{number} " + "word " * (ANSWER_WORDS - 1) for number in range(count)]
