"""A judge behind any OpenAI-compatible server, with a ledger: nothing is paid for twice, and no failure looks like a reply.

    judge = OpenAIJudge("gpt-4o-2024-11-20", ledger=Ledger(Path("ledger.sqlite")), task="mmhal")
    with use_judge(judge): ...
    judge.failures                  # {"content filter": 2}

What is worth another try (429, 5xx, a cut connection, a reply that is none) is tried again, after what the server asks for and a bit of
chance; 429 also lowers how many calls run at once. What is not (400, a content filter, a prompt too long) leaves the question without a
reply. A server that stays down, a refused key or an empty account ends the run with `JudgeDown`, a spent budget with `BudgetSpent`: all
replies so far are in the ledger, and the same command goes on from there.

Keys and images are never logged. The client's own retries are off: it repeats what is hopeless and doesn't wait where it should.
"""

import asyncio
import base64
import hashlib
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from PIL import Image

from tasks import prices
from tasks.judge import GREEDY, JudgeError, Question, Sampling, label
from tasks.ledger import Call, Ledger, now
from tasks.pictures import Picture, encoded

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion


T = TypeVar("T")


class JudgeDown(JudgeError):
    """The judge gives no more replies; what was paid for is in the ledger."""


class BudgetSpent(JudgeError):
    """The next call could pass the budget."""


class Retry(Exception):
    """Worth another try, after so many seconds if the server said; `usage` is what it cost all the same."""

    def __init__(self, why: str, after: float | None = None, *, limited: bool = False, usage: tuple[int, int] | None = None) -> None:
        super().__init__(why)
        self.why, self.after, self.limited, self.usage = why, after, limited, usage


class Hopeless(Exception):
    """This question will never get a reply; `usage` is what it cost all the same."""

    def __init__(self, why: str, usage: tuple[int, int] | None = None) -> None:
        super().__init__(why)
        self.why, self.usage = why, usage


LONGEST_WAIT: Final = 60.0
"""Seconds between two tries, where the server does not ask for more."""
FIRST_WAIT: Final = 0.25
IN_A_ROW: Final = 3
"""After so many questions without a reply, and none in between, the judge counts as down."""
TYPICAL_REPLY: Final = 150
"""Tokens of a reply, where the ledger knows of none and the protocol sets no limit."""
PASSED_ON: Final = ("PNG", "JPEG", "WEBP", "GIF")
STRUCTURED: Final = (
    "\n\nGive all this as one JSON object: explanation holds your reasons, verdict what the above asks for as the form of your reply, "
    "exactly in that form and nothing else."
)
FORM: Final[Mapping[str, Any]] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"explanation": {"type": "string"}, "verdict": {"type": "string"}},
            "required": ["explanation", "verdict"],
            "additionalProperties": False,
        },
    },
}
"""What a structured reply looks like; reasons can't be taken for the verdict then."""
NEW_LIMIT: Final = ("o1", "o3", "o4", "gpt-5")
"""Models that call the limit max_completion_tokens begin like this."""


@dataclass(frozen=True)
class Request:
    """One question as it is sent, and what names it in the ledger."""

    body: Mapping[str, Any]
    key: str
    tokens: int
    """Of the prompt, about."""


class OpenAIJudge:
    """See the module's docstring.

    `url` and `key` default to OPENAI_BASE_URL and OPENAI_API_KEY. `task` labels calls in the ledger, `repeat` asks the same again as
    another call. `attempts` are tries of one question; a 429 is none while the server has answered anything in the last `patience` seconds.
    `structured` asks for JSON in which reasons and verdict are apart. `image_side` is the longest side of an image in pixels (None: as it
    is). `requests_per_minute`, `tokens_per_minute` and `budget` (US dollars for this judge's life) are limits of the user's; `progress`
    hears (replies, asked).
    """

    def __init__(
        self,
        model: str,
        *,
        ledger: Ledger,
        url: str | None = None,
        key: str | None = None,
        task: str = "",
        repeat: int = 0,
        detail: str = "auto",
        image_side: int | None = None,
        seed: int | None = 0,
        structured: bool = False,
        timeout: float = 120.0,
        attempts: int = 8,
        patience: float = 300.0,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        budget: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model = model
        self.ledger, self.url, self.task, self.repeat = ledger, url, task, repeat
        self.detail, self.image_side, self.seed, self.structured = detail, image_side, seed, structured
        self.timeout, self.attempts, self.concurrency, self.patience = timeout, attempts, concurrency, patience
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self.budget, self.progress = budget, progress
        self.served: set[str] = set()
        """What the server says has answered."""
        self.failures: Counter[str] = Counter()
        """Questions without a reply, by reason."""
        self.asked = 0
        """Calls that were sent, tries included."""
        self.paid = 0.0
        """US dollars since this judge was made, as far as prices are known."""
        self._key = key

    def ask(self, prompt: str, image: Image.Image | None = None, sampling: Sampling = GREEDY) -> str:
        """The reply to one question; JudgeError where there is none."""
        (reply,) = self.ask_many([(prompt, image)], sampling)
        if reply is None:
            raise JudgeError(f"{self.model}: no reply ({', '.join(self.failures)})")
        return reply

    def ask_many(self, questions: Iterable[Question], sampling: Sampling = GREEDY) -> list[str | None]:
        """The replies in the order asked, from the ledger where they are there; None where a question has none."""
        return self._in_thread(_Run(self, sampling).replies(questions))

    @staticmethod
    def _in_thread(work: Coroutine[Any, Any, T]) -> T:
        """Run it in a loop and a thread of its own: the caller may be inside a running loop. Interrupted, it ends what is on its way."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="judge", daemon=True)
        thread.start()
        try:
            return asyncio.run_coroutine_threadsafe(work, loop).result()
        finally:
            asyncio.run_coroutine_threadsafe(_end_all(loop), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def client(self) -> "AsyncOpenAI":
        """The official client, its own retries off."""
        from openai import AsyncOpenAI

        key = self._key or ("none" if self.url else None)
        return AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=self.timeout)

    def verdict_in(self, reply: str, usage: tuple[int, int] | None) -> str:
        """What the benchmark's parser gets of a reply: all of it, or where it is structured, the verdict alone."""
        if not self.structured:
            return reply
        try:
            verdict = json.loads(reply)["verdict"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise Retry("not the JSON asked for", usage=usage) from None
        return str(verdict)

    def reply_in(self, completion: "ChatCompletion", usage: tuple[int, int] | None) -> str:
        """The reply in a completion; Retry or Hopeless where it is none."""
        return self.verdict_in(text_of(completion, usage), usage)

    @contextmanager
    def repeating(self, repeat: int) -> Iterator[None]:
        """Inside, the same questions are other calls: the judge is asked once more."""
        before, self.repeat = self.repeat, repeat
        try:
            yield
        finally:
            self.repeat = before

    def request(self, prompt: str, image: Image.Image | None, sampling: Sampling) -> Request:
        """How a question is sent: its body, and its digest."""
        if self.structured:
            prompt += STRUCTURED
        content: Any = prompt
        tokens = prices.text_tokens(prompt) + (prices.text_tokens(sampling.system) if sampling.system else 0)
        picture: dict[str, Any] | None = None
        if image is not None:
            part, picture, more = self.part(image)
            content = [{"type": "text", "text": prompt}, part]
            tokens += more
        settings: dict[str, Any] = {}
        if sampling.temperature is not None:
            settings["temperature"] = sampling.temperature
        if sampling.max_tokens is not None and not self.structured:  # a protocol's limit leaves no room for JSON
            limit = "max_completion_tokens" if self.model.startswith(NEW_LIMIT) else "max_tokens"
            settings[limit] = sampling.max_tokens
        if self.seed is not None:
            settings["seed"] = self.seed
        if self.structured:
            settings["response_format"] = FORM
        system = [{"role": "system", "content": sampling.system}] if sampling.system else []
        named = {"schema": 1, "model": self.model, "system": sampling.system, "prompt": prompt, "image": picture, "repeat": self.repeat}
        canonical = json.dumps(named | {"settings": settings}, sort_keys=True, separators=(",", ":"))
        body = {"model": self.model, "messages": [*system, {"role": "user", "content": content}], **settings}
        return Request(body=body, key=hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest(), tokens=tokens)

    def part(self, image: Image.Image) -> tuple[dict[str, Any], dict[str, Any], int]:
        """An image as it is sent, what names it in the ledger, and its tokens, about."""
        data, kind, size = _image(image, self.image_side)
        url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        part = {"type": "image_url", "image_url": {"url": url, "detail": self.detail}}
        named = {"sha256": hashlib.sha256(data).hexdigest(), "kind": kind, "detail": self.detail}
        return part, named, prices.image_tokens(self.model, *size, self.detail)

    def expected_reply(self, sampling: Sampling) -> float:
        """Tokens a reply will have, about: as those so far, else the protocol's limit where it is low, else what is typical."""
        so_far = self.ledger.completion_tokens(label() or self.task, self.model)
        if so_far is not None:
            return so_far
        return min(TYPICAL_REPLY, sampling.max_tokens or TYPICAL_REPLY)


def _image(image: Image.Image, longest: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """What is sent of an image: its own file where a server reads that and it need not shrink, else a PNG; with its size in pixels."""
    width, height = image.size
    if longest is None or max(width, height) <= longest:
        if isinstance(image, Picture) and image.format in PASSED_ON:
            return encoded(image), str(image.format).lower(), (width, height)
        small = image
    else:
        scale = longest / max(width, height)
        small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue(), "png", small.size


async def _end_all(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks of a loop but this one."""
    others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_default_executor()


class _Limit:
    """Lets through so many units a minute, without a burst of more than two seconds' worth."""

    def __init__(self, per_minute: float | None) -> None:
        self.rate = None if per_minute is None else per_minute / 60
        self.free_at = 0.0

    async def take(self, units: float) -> None:
        if self.rate is None:
            return
        start = max(self.free_at, time.monotonic() - 2.0)
        self.free_at = start + units / self.rate
        await asyncio.sleep(max(0.0, start - time.monotonic()))


class _Run:
    """One round of questions."""

    def __init__(self, judge: OpenAIJudge, sampling: Sampling) -> None:
        self.judge, self.sampling = judge, sampling
        self.task = label() or judge.task
        self.expected = judge.expected_reply(sampling)
        """Tokens of a reply, about; learned as replies come."""
        self.room = float(judge.concurrency)
        self.running = 0
        self.changed = asyncio.Condition()
        self.gate = 0.0
        self.requests, self.tokens = _Limit(judge.requests_per_minute), _Limit(judge.tokens_per_minute)
        self.in_a_row = 0
        self.last_reply = time.monotonic()
        self.stop: JudgeError | None = None
        self.finished = 0
        self.in_flight = 0.0
        """US dollars of the calls on their way, about."""

    async def replies(self, questions: Iterable[Question]) -> list[str | None]:
        judge = self.judge
        results: dict[int, str | None] = {}
        tasks: dict[str, asyncio.Task[str | None]] = {}
        waiting: dict[int, asyncio.Task[str | None]] = {}
        asked = 0
        async with judge.client() as client:
            for index, (prompt, image) in enumerate(questions):
                asked += 1
                request = await asyncio.to_thread(judge.request, prompt, image, self.sampling)
                kept = judge.ledger.reply(request.key)
                if kept is not None:
                    results[index] = kept
                elif request.key in tasks:
                    waiting[index] = tasks[request.key]
                else:
                    await self._enter()
                    if self.stop is not None:
                        break
                    waiting[index] = tasks[request.key] = asyncio.create_task(self._question(client, request))
                if judge.progress is not None:
                    judge.progress(self.finished + len(results), asked)
            for index, task in waiting.items():
                results[index] = await task
        if self.stop is not None:
            raise self.stop
        if judge.progress is not None:
            judge.progress(asked, asked)
        return [results[index] for index in range(asked)]

    async def _enter(self) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.running < max(1, int(self.room)) or self.stop is not None)
            self.running += 1

    async def _leave(self) -> None:
        async with self.changed:
            self.running -= 1
            self.changed.notify_all()

    async def _question(self, client: "AsyncOpenAI", request: Request) -> str | None:
        try:
            return await self._claimed(client, request)
        finally:
            self.finished += 1
            await self._leave()

    async def _claimed(self, client: "AsyncOpenAI", request: Request) -> str | None:
        """Another process may be asking the same: then its reply will do."""
        ledger, patience = self.judge.ledger, self.judge.timeout * 2
        while not ledger.claim(request.key, patience):
            await asyncio.sleep(0.1)
            if (reply := ledger.reply(request.key)) is not None:
                return reply
        if (reply := ledger.reply(request.key)) is not None:
            ledger.release(request.key)
            return reply
        try:
            return await self._asked(client, request)
        finally:
            ledger.release(request.key)

    async def _asked(self, client: "AsyncOpenAI", request: Request) -> str | None:
        judge = self.judge
        started = time.monotonic()
        why = "no reply"
        tries = sent = 0
        while tries < judge.attempts:
            if self.stop is not None:
                return None
            sent += 1
            cost = await self._reserve(request)
            if cost is None:
                return None
            try:
                await asyncio.sleep(max(0.0, self.gate - time.monotonic()))
                await self.requests.take(1)
                await self.tokens.take(request.tokens + self.expected)
                reply = await self._once(client, request, sent, started)
            except Retry as error:
                why = error.why
                self._pay(request, why, error.usage)
                # A server that says "later" while it answers others is not failing: that is no try.
                tries += not (error.limited and time.monotonic() - self.last_reply < judge.patience)
                wait = error.after if error.after is not None else min(LONGEST_WAIT, FIRST_WAIT * 2 ** max(0, tries - 1))
                if error.limited:
                    self.room = max(1.0, self.room / 2)
                    self.gate = max(self.gate, time.monotonic() + wait)
                if tries < judge.attempts:
                    await asyncio.sleep(wait * (1 + 0.25 * random.random()))
                continue
            except Hopeless as error:
                judge.failures[error.why] += 1
                self._pay(request, error.why, error.usage)
                return None
            except JudgeDown as error:
                self.stop = self.stop or error
                return None
            finally:
                self.in_flight -= cost
            self.in_a_row = 0
            self.last_reply = time.monotonic()
            self.room = min(float(judge.concurrency), self.room + 1 / max(1.0, self.room))
            return reply
        judge.failures[why] += 1
        self.in_a_row += 1
        if self.in_a_row >= IN_A_ROW and self.stop is None:
            self.stop = JudgeDown(f"{judge.model}: {self.in_a_row} questions in a row got no reply in {judge.attempts} tries ({why})")
        return None

    def _cost(self, request: Request) -> float:
        return prices.price(self.judge.model, request.tokens, round(self.expected)) or 0.0

    async def _reserve(self, request: Request) -> float | None:
        """What one more call will cost, set aside; None where the budget has no room. Calls on their way may turn out cheaper: it waits."""
        judge = self.judge
        while True:
            cost = self._cost(request)
            if self.stop is not None:
                return None
            if judge.budget is None or judge.paid + self.in_flight + cost <= judge.budget:
                self.in_flight += cost
                return cost
            if judge.paid + cost > judge.budget:
                spent = f"${judge.paid:.4f} of ${judge.budget:.4f}"
                self.stop = BudgetSpent(f"{judge.model}: {spent} is spent, the next call could pass it; the ledger keeps all replies")
                return None
            await asyncio.sleep(0.02)

    def _pay(self, request: Request, why: str, usage: tuple[int, int] | None) -> None:
        """Book what a call without a usable reply has cost."""
        judge = self.judge
        if usage is not None:
            cost = prices.price(judge.model, *usage)
            judge.paid += cost or 0.0
            judge.ledger.lose(request.key, self.task, judge.model, why, *usage, cost)

    async def _once(self, client: "AsyncOpenAI", request: Request, attempt: int, started: float) -> str:
        """One call; the reply is in the ledger when this returns."""
        judge = self.judge
        judge.asked += 1
        completion = await _completion(client, request.body)
        usage = (completion.usage.prompt_tokens, completion.usage.completion_tokens) if completion.usage else None
        text = judge.reply_in(completion, usage)
        judge.served.add(completion.model)
        cost = prices.price(judge.model, *usage) if usage else None
        judge.paid += cost or 0.0
        if usage is not None:
            self.expected += 0.2 * (usage[1] - self.expected)
        judge.ledger.put(
            Call(
                key=request.key,
                task=self.task,
                model=judge.model,
                served=str(completion.model),
                reply=text,
                prompt_tokens=usage[0] if usage else None,
                completion_tokens=usage[1] if usage else None,
                price=cost,
                latency=round(time.monotonic() - started, 3),
                attempts=attempt,
                batch=False,
                created=now(),
            )
        )
        return text


async def _completion(client: "AsyncOpenAI", body: Mapping[str, Any]) -> "ChatCompletion":
    """The server's answer to one call, its failures sorted."""
    import openai
    from openai.types.chat import ChatCompletion

    try:
        completion = await client.chat.completions.create(**body)
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise JudgeDown(f"{body['model']}: {_said(error)}") from None
    except openai.RateLimitError as error:
        if error.code == "insufficient_quota":
            raise JudgeDown(f"{body['model']}: {_said(error)}") from None
        raise Retry("too many requests", _retry_after(error.response.headers), limited=True) from None
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise Hopeless("content filter" if error.code == "content_filter" else f"refused request: {_said(error)}") from None
    except openai.APIStatusError as error:
        if error.status_code in (408, 409) or error.status_code >= 500:
            raise Retry(f"status {error.status_code}", _retry_after(error.response.headers)) from None
        raise Hopeless(f"status {error.status_code}") from None
    except openai.APITimeoutError:
        raise Retry("timeout") from None
    except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
        raise Retry(type(error).__name__) from None
    except json.JSONDecodeError:  # which the client lets through
        raise Retry("a body that is no JSON") from None
    if not isinstance(completion, ChatCompletion):  # it gives a text where a page of HTML came with status 200
        raise Retry("a body that is no completion")
    return completion


def text_of(completion: "ChatCompletion", usage: tuple[int, int] | None) -> str:
    """The reply in a completion, if it is one."""
    if not completion.choices or completion.choices[0].message is None:
        raise Retry("no choices", usage=usage)
    choice = completion.choices[0]
    if choice.message.refusal:
        raise Hopeless("refusal", usage)
    if choice.finish_reason == "content_filter":
        raise Hopeless("content filter", usage)
    if not (choice.message.content or "").strip():
        raise Retry("no content", usage=usage)
    assert choice.message.content is not None
    return choice.message.content


def _said(error: Any) -> str:
    """The server's own sentence, on one line and not endless."""
    body = error.body if isinstance(error.body, Mapping) else {}
    return " ".join(str(body.get("message") or type(error).__name__).split())[:300]


def _retry_after(headers: Any) -> float | None:
    """Seconds the server asks to wait, from either header it may say so in."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
    return None
