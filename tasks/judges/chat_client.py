"""Requests to an OpenAI-compatible server: retries, rate limits, and every failure sorted once."""

import asyncio
import json
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from support.errors import BudgetSpent, JudgeDown, JudgeError
from tasks.judges import prices
from tasks.judges.ledger import Call, now
from tasks.judges.protocol import Question, Sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

    from tasks.judges.openai import OpenAIJudge


class TransientError(Exception):
    """Worth another try, after so many seconds if the server said; `usage` is what it cost all the same."""

    def __init__(
        self, why: str, after: float | None = None, *, limited: bool = False, usage: tuple[int, int] | None = None
    ) -> None:
        super().__init__(why)
        self.why, self.after, self.limited, self.usage = why, after, limited, usage


class PermanentError(Exception):
    """This question will never get a reply; `usage` is what it cost all the same."""

    def __init__(self, why: str, usage: tuple[int, int] | None = None) -> None:
        super().__init__(why)
        self.why, self.usage = why, usage


LONGEST_WAIT: Final = 60.0
"""Seconds between two tries, where the server does not ask for more."""
FIRST_WAIT: Final = 0.25
IN_A_ROW: Final = 3
"""After so many questions without a reply, and none in between, the judge counts as down."""

NEW_LIMIT: Final = ("o1", "o3", "o4", "gpt-5")
"""Models that call the limit max_completion_tokens begin like this."""


@dataclass(frozen=True)
class Request:
    """One question as it is sent, and what names it in the ledger."""

    body: Mapping[str, Any]
    key: str
    tokens: int
    """Of the prompt, about."""


async def end_all(loop: asyncio.AbstractEventLoop) -> None:
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


class Run:
    """One round of questions."""

    def __init__(self, judge: "OpenAIJudge", sampling: Sampling, label: str, repeat: int) -> None:
        self.judge, self.sampling = judge, sampling
        self.task, self.repeat = label, repeat
        self.expected = judge.expected_reply(sampling, label)
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
        """The replies in the order asked; None where a question got none."""
        judge = self.judge
        results: dict[int, str | None] = {}
        tasks: dict[str, asyncio.Task[str | None]] = {}
        waiting: dict[int, asyncio.Task[str | None]] = {}
        asked = 0
        async with judge.client() as client:
            for index, (prompt, image) in enumerate(questions):
                asked += 1
                request = await asyncio.to_thread(judge.request, prompt, image, self.sampling, self.repeat)
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
            except TransientError as error:
                why = error.why
                self._pay(request, why, error.usage)
                # A server that says "later" while it answers others is not failing: that is no try.
                tries += not (error.limited and time.monotonic() - self.last_reply < judge.patience)
                wait = (
                    error.after if error.after is not None else min(LONGEST_WAIT, FIRST_WAIT * 2 ** max(0, tries - 1))
                )
                if error.limited:
                    self.room = max(1.0, self.room / 2)
                    self.gate = max(self.gate, time.monotonic() + wait)
                if tries < judge.attempts:
                    await asyncio.sleep(wait * (1 + 0.25 * random.random()))
                continue
            except PermanentError as error:
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
            self.stop = JudgeDown(
                f"{judge.model}: {self.in_a_row} questions in a row got no reply in {judge.attempts} tries ({why})"
            )
        return None

    def _cost(self, request: Request) -> float:
        return prices.price(self.judge.model, request.tokens, round(self.expected)) or 0.0

    async def _reserve(self, request: Request) -> float | None:
        """What one more call will cost, set aside; None where the budget has no room. Calls on their way may turn out
        cheaper: it waits."""
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
                self.stop = BudgetSpent(
                    f"{judge.model}: {spent} is spent, the next call could pass it; the ledger keeps all replies"
                )
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
        raise TransientError("too many requests", _retry_after(error.response.headers), limited=True) from None
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise PermanentError(
            "content filter" if error.code == "content_filter" else f"refused request: {_said(error)}"
        ) from None
    except openai.APIStatusError as error:
        if error.status_code in (408, 409) or error.status_code >= 500:
            raise TransientError(f"status {error.status_code}", _retry_after(error.response.headers)) from None
        raise PermanentError(f"status {error.status_code}") from None
    except openai.APITimeoutError:
        raise TransientError("timeout") from None
    except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
        raise TransientError(type(error).__name__) from None
    except json.JSONDecodeError:  # which the client lets through
        raise TransientError("a body that is no JSON") from None
    if not isinstance(completion, ChatCompletion):  # it gives a text where a page of HTML came with status 200
        raise TransientError("a body that is no completion")
    return completion


def text_of(completion: "ChatCompletion", usage: tuple[int, int] | None) -> str:
    """The reply in a completion, if it is one."""
    if not completion.choices or completion.choices[0].message is None:
        raise TransientError("no choices", usage=usage)
    choice = completion.choices[0]
    if choice.message.refusal:
        raise PermanentError("refusal", usage)
    if choice.finish_reason == "content_filter":
        raise PermanentError("content filter", usage)
    if not (choice.message.content or "").strip():
        raise TransientError("no content", usage=usage)
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
