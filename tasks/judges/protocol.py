"""The judge: a model, or an exact rater, that is asked about answers.

    session = JudgeSession(judge=judge, label="mmhal")
    replies = session.ask_about(answers, docs, lambda doc, answer: (fill(template, data=as_data(doc)), None))

A judged task names in its YAML a function `judge(answers, docs, session) -> list[JudgeReply]`, which sees all answers
at once, so that calls run side by side. Errors: a call that fails raises `JudgeError`; in lists of replies None stands
in its place, and the sample stays unscored. A failed call is never a rating. Any other exception is a mistake in the
code and goes up.
"""

import json
import logging
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict, TypeVar

from support.errors import JudgeError
from tasks.answer import FailedAnswer
from tasks.judges.official_prompts import SOURCES, fetch

if TYPE_CHECKING:
    from PIL.Image import Image


log = logging.getLogger(__name__)


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
    top_p: float | None = None
    max_tokens: int | None = None
    system: str | None = None
    """A system message before the prompt."""
    cut_is_whole: bool = False
    """Whether `max_tokens` is so small that it ends replies which are whole: else one that it ends is none."""


GREEDY: Final = Sampling()
"""Temperature 0, nothing else asked for."""


class Replies(list[str | None]):
    """Replies in the order asked, and beside them, by place, why there is none."""

    def __init__(self, replies: Iterable[str | None], lost: Mapping[int, FailedAnswer]) -> None:
        super().__init__(replies)
        self.lost = lost


NO_REASON: Final = FailedAnswer("the judge gave no reply", may_pass=True)


def reasons_of(replies: Sequence[str | None]) -> dict[int, FailedAnswer]:
    """By place, why there is no reply."""
    lost = replies.lost if isinstance(replies, Replies) else {}
    return {place: lost.get(place, NO_REASON) for place, reply in enumerate(replies) if reply is None}


Question = tuple[str, "Image | None"]
"""A prompt, and the image it is about."""


class Judge(Protocol):
    """Whoever rates answers. One that can't rate those of every task has a method `can_rate(official_judge)`: a task is
    known by the judge that its authors used. One that needs more of a picture than its pixels has `check_picture(image,
    name)`, which raises SettingError."""

    @property
    def model(self) -> str:
        """Which judge this is: scores of different judges are not comparable."""

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """The replies in the order asked; None where a call failed. Raises `JudgeError` where going on makes no sense.

        Where they are `Replies`, the reasons of failed calls reach the user.
        `label` is the task that a ledger books the calls for; another `repeat` makes the same questions other calls.
        """


class ThreadedJudge(ABC):
    """A judge that answers one question a call; many questions are asked in threads, side by side."""

    model: str
    workers: int = 8
    """Questions asked at once."""

    @abstractmethod
    def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
        """The reply to `prompt` about `image`; JudgeError. Called from several threads at once."""

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """See `Judge`. Questions are read only a little ahead of the replies, so that few images are open at once."""

        def reply_or_reason(prompt: str, image: "Image | None") -> str:
            try:
                return self.ask(prompt, image, sampling)
            except JudgeError as error:
                return FailedAnswer(str(error), may_pass=True)

        replies: list[str] = []
        waiting: deque[Future[str]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")
        try:
            for prompt, image in questions:
                waiting.append(pool.submit(reply_or_reason, prompt, image))
                if len(waiting) >= 4 * self.workers:
                    replies.append(waiting.popleft().result())
            replies.extend(future.result() for future in waiting)
        finally:
            pool.shutdown(cancel_futures=True)
        lost = {place: reply for place, reply in enumerate(replies) if isinstance(reply, FailedAnswer)}
        return Replies((None if place in lost else reply for place, reply in enumerate(replies)), lost)


Doc = Mapping[str, Any]
"""A task's document, as lm-eval holds it."""


@dataclass(frozen=True, kw_only=True)
class JudgeSession:
    """One round of questions to a judge."""

    judge: Judge
    label: str = ""
    """The task that a ledger books the calls for."""
    repeat: int = 0
    """How often the judge was asked the same before."""
    official_prompts: bool = False
    """Ask in the benchmark authors' own words, where they published some."""
    lost: dict[int, FailedAnswer] = field(default_factory=dict, compare=False)
    """Why questions about documents got no reply, by the `id` of the document's object."""

    def ask_all(self, questions: Iterable[Question], sampling: Sampling = GREEDY) -> list[str | None]:
        """The replies in the order asked; None where a call failed."""
        return self.judge.ask_many(questions, sampling, label=self.label, repeat=self.repeat)

    def ask_about(
        self,
        answers: Iterable[str],
        docs: Iterable[Doc],
        question: Callable[[Doc, str], Question],
        sampling: Sampling = GREEDY,
    ) -> list[str | None]:
        """The reply about each answer; None where the call failed. Nothing is asked about a `FailedAnswer`."""
        pairs = list(zip(answers, docs, strict=True))
        places = [
            place for place in _by_image([doc for _, doc in pairs]) if not isinstance(pairs[place][0], FailedAnswer)
        ]
        asked = (question(doc, answer) for answer, doc in map(pairs.__getitem__, places))
        found: list[str | None] = [None] * len(pairs)
        replies = self.ask_all(asked, sampling)
        for place, reply in zip(places, replies, strict=True):
            found[place] = reply
        self.lost.update({id(pairs[places[number]][1]): why for number, why in reasons_of(replies).items()})
        return found

    def official_prompt(self, name: str) -> str | None:
        """The authors' template of this name, or None where ours is to be used; `RunError`."""
        return fetch(SOURCES[name]) if self.official_prompts else None


def _by_image(docs: Sequence[Doc]) -> list[int]:
    """The places of all documents, those of one image together: it is encoded, and read by the server, once."""
    first: dict[str, int] = {}
    names = [str(doc.get("image") or doc.get("scene") or f"\n{place}") for place, doc in enumerate(docs)]
    return sorted(range(len(docs)), key=lambda place: first.setdefault(names[place], place))


Records = dict[str, dict[str, Any]]
Reply = TypeVar("Reply", bound=JudgeReply)


def scores_replies(process: Callable[[Doc, list[Reply]], Records]) -> Callable[[Doc, list[Reply]], Records]:
    """For the `process_results` of a judged task: an answer that was not judged (plain lm-eval) stays unscored."""

    @wraps(process)
    def process_results(doc: Doc, results: list[Reply]) -> Records:
        if isinstance(results[0], str):
            _warn_unjudged(process.__module__.rpartition(".")[2])
            return {}
        return process(doc, results)

    return process_results


@cache
def _warn_unjudged(task: str) -> None:
    log.warning("%s: no judge was asked, so its samples stay unscored; `harness eval` asks one", task)


PROMPTS: Final = Path(__file__).parents[1] / "prompts"


@cache
def template(name: str) -> str:
    """Our own prompt of this name."""
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip()


SLOT: Final = re.compile(r"\[\[(\w+)\]\]")


def fill(template: str, **slots: str) -> str:
    """`template` with each `[[name]]` replaced by that slot in one pass: a slot in a slot's text stays as it is."""
    names = set(SLOT.findall(template))
    if names != slots.keys():
        missing, unknown = sorted(names - slots.keys()), sorted(slots.keys() - names)
        raise ValueError(f"template has slots {sorted(names)}: without text {missing}, not in it {unknown}")
    return SLOT.sub(lambda match: slots[match[1]], template)


# Fences and tags, headings, code; then whatever some reader takes for the end of a line or can't encode.
_NOT_PLAIN: Final = re.compile("[<>#`\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def as_data(value: Any) -> str:
    """`value` as one line of JSON without fences, headings, tags or line ends that a judge could take for its own."""
    return _NOT_PLAIN.sub(
        lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False, allow_nan=False)
    )
