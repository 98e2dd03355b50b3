"""A client of any OpenAI-compatible server, with a ledger: nothing is paid for twice, and no failure looks like a
reply. A judge and a model that is scored are asked through it alike.

    client = ChatClient("gpt-4o-2024-11-20", ledger=Ledger(Path("ledger.sqlite")))
    client.ask_many(requests)       # replies in order; None where a request got none
    client.failures                 # {"content filter": 2}

What is worth another try (429, 5xx, a cut connection, a reply that is none) is tried again, after what the server asks
for and a bit of chance; 429 also lowers how many calls run at once. What is not (400, a content filter, a prompt too
long) leaves the question without a reply. A server that stays down, a refused key or an empty account ends the run with
`JudgeDown`, a spent budget with `BudgetSpent`: all replies so far are in the ledger, and the same command goes on from
there.

Keys and images are never logged. The official client's own retries are off: it repeats requests that will always be
refused, and doesn't wait as long as a server asks.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from support.errors import BudgetSpent, JudgeDown, JudgeError
from support.progress import report
from tasks.judges import prices
from tasks.judges.completions import Reader, complete, text_of, usage_of
from tasks.judges.failures import NoReply, PermanentError, TransientError, Usage
from tasks.judges.ledger import Call, Ledger, now
from tasks.judges.requests import Request
from tasks.judges.settings import ClientSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

T = TypeVar("T")
LONGEST_WAIT: Final = 60.0
"""Seconds between two tries, where the server does not ask for more."""
FIRST_WAIT: Final = 0.25
MOST_FAILURES_IN_A_ROW: Final = 3
"""After so many questions without a reply, and none in between, the server counts as down."""
TYPICAL_REPLY: Final = 150
"""Tokens of a reply, where the ledger knows of none and no limit is set."""


class ChatClient:
    """See the module's docstring.

    `url` and `key` default to OPENAI_BASE_URL and OPENAI_API_KEY; `budget` is in US dollars, for this client's life.
    """

    def __init__(
        self,
        model: str,
        *,
        ledger: Ledger,
        url: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        budget: float | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.model, self.ledger, self.url, self.budget = model, ledger, url, budget
        self.settings = settings or ClientSettings()
        self.served: set[str] = set()
        """What the server says has answered."""
        self.failures: Counter[str] = Counter()
        """Questions without a reply, by reason."""
        self.asked = 0
        """Calls that were sent, tries included."""
        self.paid = 0.0
        """US dollars since this client was made, as far as prices are known."""
        self._key, self._headers = key, headers

    def ask_many(
        self, requests: Iterable[Request], read: Reader = text_of, *, stage: str = "", total: int | None = None
    ) -> list[str | None]:
        """The replies in the order asked, from the ledger where they are there; None where a request has none.

        `read` gives the reply in a completion. Progress is reported as `stage`, of `total` requests.
        """
        return run_in_thread(_Round(self, read).replies(requests, stage, total))

    def expected_reply(self, label: str, max_tokens: int | None = None) -> float:
        """Tokens a reply will have, about: as those so far, else the limit where it is low, else what is typical."""
        so_far = self.ledger.completion_tokens(label, self.model)
        return so_far if so_far is not None else min(TYPICAL_REPLY, max_tokens or TYPICAL_REPLY)

    def connect(self) -> "AsyncOpenAI":
        """The official client, without its own retries."""
        from openai import AsyncOpenAI

        key, timeout = self._key or ("none" if self.url else None), self.settings.timeout
        return AsyncOpenAI(
            base_url=self.url, api_key=key, max_retries=0, timeout=timeout, default_headers=self._headers
        )

    def book_reply(
        self, request: Request, text: str, completion: "ChatCompletion", *, latency: float, attempts: int, batch: bool
    ) -> None:
        """Keep a reply; it is on disk when this returns."""
        usage, served = usage_of(completion), str(completion.model)
        prompt_tokens, completion_tokens = usage or (None, None)
        self.served.add(served)
        names, price = (request.key, request.label, self.model, served, text), self._pay(usage, batch)
        self.ledger.put(Call(*names, prompt_tokens, completion_tokens, price, latency, attempts, batch, now()))

    def book_loss(self, request: Request, error: NoReply, *, batch: bool = False) -> None:
        """Keep what a call without a usable reply has cost."""
        if error.usage is not None:
            cost = self._pay(error.usage, batch)
            self.ledger.lose(request.key, request.label, self.model, error.why, *error.usage, cost)

    def _pay(self, usage: Usage | None, batch: bool) -> float | None:
        cost = prices.price(self.model, *usage, batch=batch) if usage else None
        self.paid += cost or 0.0
        return cost


def run_in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a new loop and thread, since the caller may be in a running loop; an interrupt cancels its tasks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chat client", daemon=True)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(work, loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(loop), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
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


class _Round:
    """Requests that are asked together."""

    def __init__(self, client: ChatClient, read: Reader) -> None:
        self.client, self.settings, self.ledger, self.read = client, client.settings, client.ledger, read
        self.expected: dict[str, float] = {}
        """Tokens of a reply by label, about; learned as replies come."""
        self.room = float(self.settings.concurrency)
        """Calls that may run at once."""
        self.running = 0
        self.changed = asyncio.Condition()
        self.gate = 0.0
        """No call is sent before this time."""
        self.requests = _Limit(self.settings.requests_per_minute)
        self.tokens = _Limit(self.settings.tokens_per_minute)
        self.failures_in_a_row = 0
        self.last_reply = time.monotonic()
        self.stop: JudgeError | None = None
        """Why no more calls are sent."""
        self.finished = 0
        self.in_flight = 0.0
        """US dollars of the calls on their way, about."""

    async def replies(self, requests: Iterable[Request], stage: str, total: int | None) -> list[str | None]:
        """The replies in the order asked; None where a request got none."""
        results: dict[int, str | None] = {}
        tasks: dict[str, asyncio.Task[str | None]] = {}
        waiting: dict[int, asyncio.Task[str | None]] = {}
        iterator, asked = iter(requests), 0

        def show() -> None:
            done = self.finished + len(results)
            if stage and total is not None and done < total:
                report(stage, done, total)

        async with self.client.connect() as connection:
            # Requests are made in a thread: encoding an image takes a while.
            while (request := await asyncio.to_thread(next, iterator, None)) is not None:
                index, asked = asked, asked + 1
                kept = self.ledger.reply(request.key)
                if kept is not None:
                    results[index] = kept
                elif request.key in tasks:
                    waiting[index] = tasks[request.key]
                else:
                    await self._enter()
                    if self.stop is not None:
                        break
                    call = self._ask_and_leave(connection, request)
                    waiting[index] = tasks[request.key] = asyncio.create_task(call)
                show()
            for index, task in waiting.items():
                results[index] = await task
        if self.stop is not None:
            raise self.stop
        if stage and (total := total or asked):
            report(stage, total, total)
        return [results[index] for index in range(asked)]

    async def _enter(self) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.running < max(1, int(self.room)) or self.stop is not None)
            self.running += 1

    async def _ask_and_leave(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        try:
            return await self._ask_once_among_processes(connection, request)
        finally:
            self.finished += 1
            async with self.changed:
                self.running -= 1
                self.changed.notify_all()

    async def _ask_once_among_processes(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        """The reply; where another process is asking the same, that one's."""
        ledger = self.ledger
        while not ledger.claim(request.key, self.settings.timeout * 2):
            await asyncio.sleep(0.1)
            if (reply := ledger.reply(request.key)) is not None:
                return reply
        try:
            if (reply := ledger.reply(request.key)) is not None:
                return reply
            return await self._ask_until_reply(connection, request)
        finally:
            ledger.release(request.key)

    async def _ask_until_reply(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        started, why = time.monotonic(), "no reply"
        tries = sent = 0
        while tries < self.settings.attempts:
            cost = await self._reserve_money(request)
            if cost is None:
                return None
            sent += 1
            try:
                return await self._call(connection, request, sent, started)
            except TransientError as error:
                why, failure = error.why, error
            except PermanentError as error:
                self.client.failures[error.why] += 1
                self.client.book_loss(request, error)
                return None
            except JudgeDown as error:
                self.stop = self.stop or error
                return None
            finally:
                self.in_flight -= cost
            self.client.book_loss(request, failure)
            # A server that says "later" while it answers others is not failing: that is no try.
            later = failure.limited and time.monotonic() - self.last_reply < self.settings.patience
            tries += not later
            await self._wait_before_retry(failure, tries)
        self._count_failure(why)
        return None

    async def _wait_before_retry(self, failure: TransientError, tries: int) -> None:
        wait = failure.after
        if wait is None:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** max(0, tries - 1))
        if failure.limited:
            self.room = max(1.0, self.room / 2)
            self.gate = max(self.gate, time.monotonic() + wait)
        if tries < self.settings.attempts:
            await asyncio.sleep(wait * (1 + 0.25 * random.random()))

    def _count_failure(self, why: str) -> None:
        self.client.failures[why] += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= MOST_FAILURES_IN_A_ROW and self.stop is None:
            failures, attempts = self.failures_in_a_row, self.settings.attempts
            in_a_row = f"{failures} questions in a row got no reply in {attempts} tries"
            self.stop = JudgeDown(f"{self.client.model}: {in_a_row} ({why})")

    async def _reserve_money(self, request: Request) -> float | None:
        """Set aside the cost of one more call, waiting if calls in flight may cost less; None: send no more."""
        client = self.client
        while self.stop is None:
            cost = prices.price(client.model, request.tokens, round(self._expected_tokens(request))) or 0.0
            if client.budget is None or client.paid + self.in_flight + cost <= client.budget:
                self.in_flight += cost
                return cost
            if client.paid + cost > client.budget:
                spent = f"${client.paid:.4f} of ${client.budget:.4f} is spent, the next call could pass it"
                self.stop = BudgetSpent(f"{client.model}: {spent}; the ledger keeps all replies")
            else:
                await asyncio.sleep(0.02)
        return None

    def _expected_tokens(self, request: Request) -> float:
        if request.label not in self.expected:
            self.expected[request.label] = self.client.expected_reply(request.label, request.max_tokens)
        return self.expected[request.label]

    async def _call(self, connection: "AsyncOpenAI", request: Request, attempt: int, started: float) -> str:
        """One call; the reply is in the ledger when this returns."""
        await asyncio.sleep(max(0.0, self.gate - time.monotonic()))
        await self.requests.take(1)
        expected = self._expected_tokens(request)
        await self.tokens.take(request.tokens + expected)
        self.client.asked += 1
        completion = await complete(connection, request.body)
        usage = usage_of(completion)
        text = self.read(completion, usage)
        if usage is not None:
            self.expected[request.label] = expected + 0.2 * (usage[1] - expected)
        latency = round(time.monotonic() - started, 3)
        self.client.book_reply(request, text, completion, latency=latency, attempts=attempt, batch=False)
        self.failures_in_a_row = 0
        self.last_reply = time.monotonic()
        self.room = min(float(self.settings.concurrency), self.room + 1 / max(1.0, self.room))
        return text
