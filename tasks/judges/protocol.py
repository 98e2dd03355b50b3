"""The judge: a model, or an exact rater, that is asked about answers. There is no default one; whoever scores a judged
task sets it.

    with use_judge(judge):
        replies = ask_all((fill(template, data=as_data(doc)), None) for doc in docs)

Errors: a call that fails raises `JudgeError`; `ask_all` gives None in its place, and the sample stays unscored. A
failed call is never a rating. Any other exception is a mistake in the code and goes up.
"""

import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict

from support.errors import JudgeError, NoJudgeError

if TYPE_CHECKING:
    from PIL.Image import Image


class JudgeReply(TypedDict):
    """What a judge said about one answer. A dict, since sample logs are JSON."""

    rating: float | None
    """Read from `text` by the benchmark's own rule; None: the call failed or the text holds no rating."""

    text: str
    """The whole reply; empty where the call failed."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a benchmark's official protocol asks its judge."""

    temperature: float | None = 0.0
    """None: the server's own default."""
    max_tokens: int | None = None
    system: str | None = None
    """A system message before the prompt."""


GREEDY: Final = Sampling()
"""Temperature 0, nothing else asked for."""


Question = tuple[str, "Image | None"]
"""A prompt, and the image it is about."""


class Judge(Protocol):
    """Whoever rates answers."""

    @property
    def model(self) -> str:
        """Which judge this is: scores of different judges are not comparable."""

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """The replies in the order asked; None where a call failed. Raises `JudgeError` where going on makes no sense.

        `label` is the task that a ledger books the calls for; another `repeat` makes the same questions other calls.
        """


class ThreadedJudge(ABC):
    """A judge that answers one question a call; many questions are asked in threads, side by side."""

    model: str
    workers: int = 8
    """Questions asked at once."""

    @abstractmethod
    def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
        """The reply to `prompt`, about `image` where given. Called from several threads at once; raises
        `JudgeError`."""

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """See `Judge`. Questions are taken only a little ahead of the replies, so that of a generator's images few are
        open at a time."""

        def reply_or_none(prompt: str, image: "Image | None") -> str | None:
            try:
                return self.ask(prompt, image, sampling)
            except JudgeError:
                return None

        replies: list[str | None] = []
        waiting: deque[Future[str | None]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")
        try:
            for prompt, image in questions:
                waiting.append(pool.submit(reply_or_none, prompt, image))
                if len(waiting) >= 4 * self.workers:
                    replies.append(waiting.popleft().result())
            replies.extend(future.result() for future in waiting)
        finally:
            pool.shutdown(cancel_futures=True)
        return replies


_JUDGE: ContextVar[Judge] = ContextVar("judge")


@contextmanager
def use_judge(judge: Judge) -> Iterator[Judge]:
    """Inside, `judge` is the current one."""
    token = _JUDGE.set(judge)
    try:
        yield judge
    finally:
        _JUDGE.reset(token)


def current_judge() -> Judge:
    """The judge set by `use_judge`."""
    try:
        return _JUDGE.get()
    except LookupError:
        raise NoJudgeError("this task needs a judge and none is set: there is no default one") from None


_BOOKED: ContextVar[tuple[str, int]] = ContextVar("judged_task", default=("", 0))


@contextmanager
def judging(task: str, repeat: int = 0) -> Iterator[None]:
    """Inside, what the judge is asked is for `task`: a ledger books it there."""
    token = _BOOKED.set((task, repeat))
    try:
        yield
    finally:
        _BOOKED.reset(token)


def ask_all(questions: Iterable[Question], sampling: Sampling = GREEDY) -> list[str | None]:
    """The current judge's replies in the order asked; None where a call failed."""
    label, repeat = _BOOKED.get()
    return current_judge().ask_many(questions, sampling, label=label, repeat=repeat)


SLOT: Final = re.compile(r"\[\[(\w+)\]\]")


def fill(template: str, **slots: str) -> str:
    """`template` with each `[[name]]` replaced by that slot, in one pass: what a slot's text holds is never a slot
    again."""
    names = set(SLOT.findall(template))
    if names != slots.keys():
        missing, unknown = sorted(names - slots.keys()), sorted(slots.keys() - names)
        raise ValueError(f"template has slots {sorted(names)}: without text {missing}, not in it {unknown}")
    return SLOT.sub(lambda match: slots[match[1]], template)


# Fences and tags, headings, code; then whatever some reader takes for the end of a line or can't encode.
_NOT_PLAIN: Final = re.compile("[<>#`\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def as_data(value: Any) -> str:
    """`value` as JSON on a single line in which no text can close a fence, start a heading or a tag, or look like a
    reply of its own."""
    return _NOT_PLAIN.sub(
        lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False, allow_nan=False)
    )
