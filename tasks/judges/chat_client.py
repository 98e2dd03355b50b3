"""A client of any OpenAI-compatible server, with a ledger: nothing is paid for twice, and no failure looks like a
reply. A judge and a model that is scored are asked through it alike.

    client = ChatClient("gpt-4o-2024-11-20", server_of(None, name="gpt-4o"), ledger=Ledger(Path("ledger.sqlite")))
    client.ask_many(requests)       # replies in order; None where a request got none
    client.failures                 # {"content filter": 2}

What is worth another try (5xx, a cut connection, a reply that is none) is tried again, after what the server asks for
and a bit of chance; 429 is no try, but slows all calls down (`tasks.judges.pace`). What is not (400, a content filter,
a prompt too long) leaves the question without a reply, and its reason beside it. A server that stays down, a refused
key or an empty account ends the run with `JudgeDown`, a spent budget with `BudgetSpent`: all replies so far are in the
ledger, and the same command goes on from there. A server that refuses the first requests all for one reason ends it
with a `JudgeError`: the same command would change nothing.

Keys and images are never logged. The official client's own retries are off: it repeats requests that will always be
refused, and doesn't wait as long as a server asks.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from support.errors import BudgetSpent, HarnessError, JudgeDown, JudgeError
from support.progress import report
from support.reuse import Reuse
from tasks.answer import Answer, FailedAnswer
from tasks.judges import prices
from tasks.judges.addresses import Server
from tasks.judges.completions import Route
from tasks.judges.failures import NoReply, PermanentError, TransientError, Usage, without_secrets
from tasks.judges.ledger import Call, Ledger, now
from tasks.judges.pace import Pace, Refusals, with_jitter
from tasks.judges.parameters import Parameters
from tasks.judges.protocol import Replies
from tasks.judges.replies import NOT_SAID, Reply
from tasks.judges.requests import NotAsked, Request
from tasks.judges.settings import ClientSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

Reader: TypeAlias = Callable[[Any, Request], Reply]
"""Gives the reply in a body of any JSON, of the request as it was sent; raises NoReply where it is none."""
T = TypeVar("T")
MOST_FAILURES_IN_A_ROW: Final = 3
"""After so many questions without a reply, and none in between, the server counts as down."""
MOST_ANSWERED: Final = 3
"""Tries of one question after which the server did its work, and sent no reply: each may be paid for."""
TYPICAL_REPLY: Final = 150
"""Tokens of a reply, where the ledger knows of none and no limit is set."""


class ChatClient:
    """See the module's docstring. `budget` is in US dollars, for this client's life."""

    def __init__(
        self,
        model: str,
        server: Server,
        *,
        ledger: Ledger,
        budget: float | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.model, self.route, self.ledger, self.budget = model, Route(server), ledger, budget
        self.settings = settings or ClientSettings()
        self.parameters = Parameters(model)
        """What the model takes of a request."""
        self.asked_otherwise: set[str] = set()
        """How calls differed from what the protocol asks for, in words."""
        self.served: set[str] = set()
        """What the server says has answered."""
        self.failures: Counter[str] = Counter()
        """Questions without a reply, by reason."""
        self.refusals = Refusals()
        """Requests refused before there was any reply."""
        self.asked = 0
        """Calls that were sent, tries included."""
        self.paid = 0.0
        """US dollars since this client was made, as far as prices are known."""
        self.fresh = False
        """Whether what the ledger keeps is asked again, and replaced."""
        self.told_of_key = False
        """Whether it was said which key is sent where."""
        self.reused = Reuse()
        """Replies that the ledger had."""
        self._new: set[str] = set()
        """What this client was answered."""
        self._told_of_ends = False
        """Whether it was said that the server does not tell how replies ended."""

    def ask_many(
        self, requests: Iterable[Request | NotAsked], read: Reader, *, stage: str = "", total: int | None = None
    ) -> Replies:
        """The replies in the order asked, from the ledger where they are there; None where a request has none. One that
        the limit of tokens ended is an `Answer` that says so.

        `read` gives the reply in a body. Progress is reported as `stage`, of `total` requests.
        """
        return run_in_thread(_Round(self, read).replies(requests, stage, total))

    def expected_reply(self, label: str, max_tokens: int | None = None) -> float:
        """Tokens a reply will have, about: as those so far, else the limit where it is low, else what is typical."""
        so_far = self.ledger.completion_tokens(label, self.model)
        return so_far if so_far is not None else min(TYPICAL_REPLY, max_tokens or TYPICAL_REPLY)

    @property
    def server(self) -> Server:
        """Where it is asked."""
        return self.route.server

    def connect(self, **limits: Any) -> "AsyncOpenAI":
        """The official client, without its own retries; `limits` of `Server.connect`."""
        if not self.told_of_key and (line := self.server.told_of_key()):
            log.info("%s: %s", self.model, line)
        self.told_of_key = True
        hosts = tuple(filter(None, (host.strip() for host in (self.settings.redirects_to or "").split(","))))
        given: dict[str, Any] = {"timeout": self.settings.timeout, "redirects_to": hosts} | limits
        return self.server.connect(**given)

    def kept_reply(self, key: str) -> str | None:
        """The reply under this key in the ledger, or None; with `fresh`, only what came since this client was made."""
        call = self.ledger.call(key) if not self.fresh or key in self._new else None
        if call is None:
            return None
        if key not in self._new:
            self.reused.add(call.created)
        self.asked_otherwise |= {call.asked} - {""}
        return Answer(call.reply, limited=True) if call.finish == "length" else call.reply

    def book_reply(self, request: Request, reply: Reply, *, latency: float, attempts: int, batch: bool) -> None:
        """Keep a reply; it is on disk when this returns."""
        prompt_tokens, completion_tokens = reply.usage or (None, None)
        if reply.served != NOT_SAID:
            self.served.add(reply.served)
        if not reply.end_told and not self._told_of_ends:
            self._told_of_ends = True
            log.info("%s: no finish_reason: replies with fewer tokens than the limit count as whole", self.model)
        self.refusals.replied = True
        asked = self.parameters.in_words(request.body)
        self.asked_otherwise |= {asked} - {""}
        self.ledger.put(
            Call(
                key=request.key,
                task=request.label,
                model=self.model,
                served=reply.served,
                reply=reply.text,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                price=self.charge(request, reply.usage, reply.text, batch=batch),
                latency=latency,
                attempts=attempts,
                batch=batch,
                created=now(),
                finish="length" if reply.limited else "stop",
                asked=asked,
            ),
            instead=self.fresh,
        )
        self._new.add(request.key)

    def book_loss(self, request: Request, error: NoReply, *, batch: bool = False) -> None:
        """Keep what a call without a usable reply has cost."""
        if error.usage is not None:
            cost = self.charge(request, error.usage, batch=batch)
            self.ledger.lose(request.key, request.label, self.model, error.why, *error.usage, cost)

    def give_up(self, request: Request, error: NoReply) -> FailedAnswer:
        """Leave a question without a reply, and keep why; JudgeError if the server refuses all, for one reason."""
        self.failures[error.why] += 1
        self.ledger.fail(request.key, request.label, self.model, error.why)
        if isinstance(error, PermanentError) and error.refused and self.refusals.add(error.why):
            raise JudgeError(f"{self.model}: the first {self.refusals.most} requests were all refused: {error.why}")
        return FailedAnswer(error.why, may_pass=error.may_pass)

    def charge(self, request: Request, usage: Usage | None, text: str = "", *, batch: bool = False) -> float | None:
        """Charge a call to the budget, by an estimate where the server did not say what it took; its price if known."""
        cost = prices.price(self.model, *(usage or (request.tokens, prices.text_tokens(text))), batch=batch)
        self.paid += cost or 0.0
        return cost if usage else None


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


class _Round:
    """Requests that are asked together."""

    def __init__(self, client: ChatClient, read: Reader) -> None:
        self.client, self.settings, self.ledger, self.read = client, client.settings, client.ledger, read
        self.expected: dict[str, float] = {}
        """Tokens of a reply by label, about; learned as replies come."""
        self.pace = Pace(client.model, client.settings, client.refusals)
        self.running = 0
        """Questions in work."""
        self.changed = asyncio.Condition()
        self.failures_in_a_row = 0
        self.stop: HarnessError | None = None
        """Why no more calls are sent."""
        self.lost: dict[str, FailedAnswer] = {}
        """Why questions have no reply, by their keys."""
        self.finished = 0
        self.in_flight = 0.0
        """US dollars of the calls on their way, about."""

    async def replies(self, requests: Iterable[Request | NotAsked], stage: str, total: int | None) -> Replies:
        """The replies in the order asked; None where a request got none."""
        results: dict[int, str | None] = {}
        tasks: dict[str, asyncio.Task[str | None]] = {}
        waiting: dict[int, asyncio.Task[str | None]] = {}
        keys: dict[int, str] = {}
        lost: dict[int, FailedAnswer] = {}
        iterator, asked = iter(requests), 0

        def show() -> None:
            done = self.finished + len(results)
            if stage and total is not None and done < total:
                report(stage, done, total)

        async with self.client.connect() as connection:
            try:
                # Requests are made in a thread: encoding an image takes a while.
                while (request := await asyncio.to_thread(next, iterator, None)) is not None:
                    index, asked = asked, asked + 1
                    if isinstance(request, NotAsked):
                        results[index], lost[index] = None, FailedAnswer(request.why)
                        self.client.failures[request.why] += 1
                        continue
                    keys[index] = request.key
                    if (kept := self.client.kept_reply(request.key)) is not None:
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
            finally:  # what calls on their way bring is kept, also where no more can be sent
                for index, task in waiting.items():
                    results[index] = await task
        if self.stop is not None:
            raise self.stop
        if stage and (total := total or asked):
            report(stage, total, total)
        lost |= {index: self.lost[key] for index, key in keys.items() if key in self.lost}
        return Replies((results[index] for index in range(asked)), lost)

    async def _enter(self) -> None:
        """Wait until one more question may be in work."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.running < self.settings.concurrency or self.stop is not None)
            self.running += 1

    async def _ask_and_leave(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        try:
            return await self._ask_until_reply(connection, request)
        except HarnessError as error:  # no question will get a reply, or the ledger can't be written
            await self._end(error)
        except Exception as error:  # one question's, never the run's end
            why = PermanentError(f"{type(error).__name__}: {without_secrets(str(error))}")
            self.lost[request.key] = self.client.give_up(request, why)
        finally:
            self.finished += 1
            async with self.changed:
                self.running -= 1
                self.changed.notify_all()
        return None

    async def _ask_until_reply(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        started, tries, answered, calls, late = time.monotonic(), 0, 0, 0, False
        while (cost := await self._reserve_money(request)) is not None:
            try:
                async with self.pace.turn(request.tokens + self._expected_tokens(request)):
                    sent, calls = time.monotonic(), calls + 1
                    try:
                        return await self._ask_once_among_processes(connection, request, calls, started)
                    except TransientError as error:  # told before a waiting call takes this turn
                        late = error.limited and self.pace.limit(error, sent)
                        raise
            except PermanentError as error:
                self.pace.went_through(reply=not error.refused)
                self.client.book_loss(request, error)
                self.lost[request.key] = self.client.give_up(request, error)
                return None
            except TransientError as error:
                failure = error
            finally:
                self.in_flight -= cost
            self.client.book_loss(request, failure)
            if failure.limited:  # a server that says "later" is not failing: that is no try
                if not late:
                    continue
                tries = self.settings.attempts
            else:
                tries += 1
                answered += failure.answered
            if tries >= self.settings.attempts or answered >= MOST_ANSWERED:
                self.lost[request.key] = self.client.give_up(request, failure)
                self._count_failure(failure.why, tries)
                return None
            await self.pace.sleep(with_jitter(self.pace.wait_after(failure, tries)))
        return None

    async def _ask_once_among_processes(
        self, connection: "AsyncOpenAI", request: Request, attempt: int, started: float
    ) -> str | None:
        """The reply; where another process is asking the same, that one's."""
        ledger = self.ledger
        while not ledger.claim(request.key, self.settings.timeout * 2):
            await asyncio.sleep(0.1)
        try:
            kept = self.client.kept_reply(request.key)
            if kept is not None or self.stop is not None:
                return kept
            return await self._call(connection, request, attempt, started)
        finally:
            ledger.release(request.key)

    async def _end(self, error: HarnessError) -> None:
        """Send no more calls."""
        self.stop = self.stop or error
        await self.pace.end()
        async with self.changed:
            self.changed.notify_all()

    def _count_failure(self, why: str, tries: int) -> None:
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            in_a_row = f"{self.failures_in_a_row} questions in a row got no reply in {tries} tries"
            raise JudgeDown(f"{self.client.model}: {in_a_row} ({why})")

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
                raise BudgetSpent(f"{client.model}: {spent}; the ledger keeps all replies")
            await asyncio.sleep(0.02)
        return None

    def _expected_tokens(self, request: Request) -> float:
        if request.label not in self.expected:
            self.expected[request.label] = self.client.expected_reply(request.label, request.max_tokens)
        return self.expected[request.label]

    async def _call(self, connection: "AsyncOpenAI", request: Request, attempt: int, started: float) -> str:
        """One call; the reply is in the ledger when this returns."""
        reply = await self._ask_as_it_takes(connection, request)
        expected = self._expected_tokens(request)
        tokens = prices.text_tokens(reply.text) if reply.usage is None else reply.usage[1]
        self.expected[request.label] = expected + 0.2 * (tokens - expected)
        latency = round(time.monotonic() - started, 3)
        self.client.book_reply(request, reply, latency=latency, attempts=attempt, batch=False)
        self.failures_in_a_row = 0
        self.pace.went_through(reply=True)
        return Answer(reply.text, limited=True) if reply.limited else reply.text

    async def _ask_as_it_takes(self, connection: "AsyncOpenAI", request: Request) -> Reply:
        """The reply to a request, asked again at once where the failure shows what the model takes in its place."""
        client = self.client
        while True:
            sent = client.parameters.fit(request.body)
            try:
                return await self._send(connection, replace(request, body=sent))
            except NoReply as failure:
                client.parameters.learn(failure, sent)
                if client.parameters.fit(request.body) == sent:
                    raise
                client.book_loss(request, failure)

    async def _send(self, connection: "AsyncOpenAI", request: Request) -> Reply:
        self.client.asked += 1
        body = await self.client.route.complete(connection, request.body)
        try:
            return self.read(body, request)
        except NoReply as error:
            if error.usage is None:
                self.client.charge(request, None)
            raise
