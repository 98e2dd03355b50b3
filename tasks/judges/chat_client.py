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
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from support.errors import HarnessError, JudgeDown
from support.progress import Doing, doing, report
from tasks.answer import Answer, FailedAnswer
from tasks.judges import prices
from tasks.judges.failures import NoReply, PermanentError, TransientError, without_secrets
from tasks.judges.ledger import now
from tasks.judges.pace import Pace, wait_before_try, with_jitter
from tasks.judges.paid_bodies import Body
from tasks.judges.paid_replies import PaidReplies, Reader
from tasks.judges.protocol import Replies
from tasks.judges.replies import Reply
from tasks.judges.requests import NotAsked, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

T = TypeVar("T")
MOST_FAILURES_IN_A_ROW: Final = 3
"""After so many questions without a reply, and none in between, the server counts as down."""
MOST_ANSWERED: Final = 3
"""Tries of one question after which the server did its work, and sent no reply: each may be paid for."""
MOST_WAITING: Final = 4
"""Times as many questions as are asked at once may wait for other processes beside them: each holds its pictures."""
LONGEST_LOOK: Final = 1.0
"""Seconds between two looks whether another process has a question's reply."""


class ChatClient(PaidReplies):
    """See the module's docstring. `budget` is in US dollars, for all processes that share the ledger."""

    asked = 0
    """Calls that were sent, tries included."""
    told_of_key = False
    """Whether it was said which key is sent where."""

    def ask_many(
        self, requests: Iterable[Request | NotAsked], read: Reader, *, stage: str = "", total: int | None = None
    ) -> Replies:
        """The replies in the order asked, from the ledger where they are there; None where a request has none. One that
        the limit of tokens ended is an `Answer` that says so.

        `read` gives the reply in a body. Progress is reported as `stage`, of `total` requests.
        """
        try:
            return run_in_thread(_Round(self, read).replies(requests, stage, total))
        finally:
            self.tell_unread()

    def connect(self, **limits: Any) -> "AsyncOpenAI":
        """The official client, without its own retries; `limits` of `Server.connect`."""
        if not self.told_of_key and (line := self.server.told_of_key()):
            log.info("%s: %s", self.model, line)
        self.told_of_key = True
        hosts = tuple(filter(None, (host.strip() for host in (self.settings.redirects_to or "").split(","))))
        given: dict[str, Any] = {"timeout": self.settings.timeout, "redirects_to": hosts} | limits
        return self.server.connect(**given)


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
        self.waiting = 0
        """Questions that other processes ask, and that are not in work here."""
        self.changed = asyncio.Condition()
        self.failures_in_a_row = 0
        self.stop: HarnessError | None = None
        """Why no more calls are sent."""
        self.lost: dict[str, FailedAnswer] = {}
        """Why questions have no reply, by their keys."""
        self.finished = 0
        self.doing: Doing | None = None
        """What a display says of it."""
        self.told_of_failure = False
        """Whether it was said that calls fail, and are tried again."""

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

        with doing(self._in_words(0)) as self.doing:
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
                        if (kept := self.client.kept_reply(request)) is not None:
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
            self._show()

    async def _leave(self) -> None:
        async with self.changed:
            self.running -= 1
            self._show()
            self.changed.notify_all()

    async def _ask_and_leave(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        try:
            return await self._ask_among_processes(connection, request)
        except HarnessError as error:  # no question will get a reply, or the ledger can't be written
            await self._end(error)
        except Exception as error:  # one question's, never the run's end
            why = PermanentError(f"{type(error).__name__}: {without_secrets(str(error))}")
            self.lost[request.key] = self.client.give_up(request, why)
        finally:
            self.finished += 1
            await self._leave()
        return None

    async def _ask_among_processes(self, connection: "AsyncOpenAI", request: Request) -> str | None:
        """The reply; where another process is asking the same, that one's."""
        while (token := await self._claim(request.key)) is not None:
            try:
                return await self._ask_as_holder(connection, request, token)
            except NoReply as failure:
                self.lost[request.key] = self.client.give_up(request, failure)
                return None
            except _TakenOverError:  # by another process, while this one was suspended
                continue
            finally:
                self.ledger.claims.release(request.key, token)
        return None

    async def _claim(self, key: str) -> str | None:
        """The claim of a question, once nobody else has it; None: no more calls are sent."""
        while self.stop is None:
            if (token := self.ledger.claims.take(key)) is not None:
                return token
            # Others are asked meanwhile. Who holds a claim is in work: else two processes could wait for each other.
            steps_aside = self.waiting < MOST_WAITING * self.settings.concurrency
            self.waiting += steps_aside
            if steps_aside:
                await self._leave()
            look = 0.05
            while self.stop is None and self.ledger.claims.is_taken(key):
                await self.pace.sleep(look)
                look = min(LONGEST_LOOK, look * 1.5)
            self.waiting -= steps_aside
            if steps_aside:
                await self._enter()
        return None

    async def _ask_as_holder(self, connection: "AsyncOpenAI", request: Request, token: str) -> str | None:
        """The reply to a question that this process has claimed: a kept one, or a new one. NoReply."""
        client = self.client
        if (kept := client.kept_reply(request)) is not None:
            return kept
        if (body := client.kept_body(request.key)) is not None:
            return _text_of(client.read_body(body, request, self.read))
        batch = self.ledger.batches.of(request.key, request.before)
        if batch is not None and not client.settings.retry_unread:
            raise TransientError(f"in a batch on its way ({batch}): --judge-batch waits for it")
        return await self._ask_until_reply(connection, request, token)

    async def _ask_until_reply(self, connection: "AsyncOpenAI", request: Request, token: str) -> str | None:
        """The reply; None where no more calls are sent. NoReply after the last try, _TakenOverError."""
        started, tries, answered, calls, late = time.monotonic(), 0, 0, 0, False
        while (cost := await self._reserve_money(request)) is not None:
            try:
                async with self.pace.turn(request.tokens + self._expected_tokens(request)):
                    if self.stop is not None:
                        return None
                    if not self.ledger.claims.holds(request.key, token):
                        raise _TakenOverError
                    sent, calls = time.monotonic(), calls + 1
                    try:
                        return await self._call(connection, request, calls, started)
                    except TransientError as error:  # told before a waiting call takes this turn
                        late = error.limited and self.pace.limit(error, sent)
                        raise
            except PermanentError as error:
                self.pace.went_through(reply=not error.hopeless)
                raise
            except TransientError as error:
                failure = error
            finally:
                if self.client.budget is not None:
                    self.client.budget.settle(cost)
            if failure.paid and not self.settings.retry_unread:
                self.pace.went_through(reply=False)
                raise failure
            if failure.limited:  # a server that says "later" is not failing: that is no try
                if not late:
                    continue
                tries = self.settings.attempts
            else:
                tries += 1
                answered += failure.answered
            if tries >= self.settings.attempts or answered >= MOST_ANSWERED:
                self._count_failure(request, failure, tries)
                raise failure
            self._tell_of_failure(failure, tries)
            await self.pace.sleep(with_jitter(self.pace.wait_after(failure, tries)))
        return None

    def _tell_of_failure(self, failure: TransientError, tries: int) -> None:
        """That a call failed, and how it is tried again: of the first one a line, of each one on the display."""
        plan = f"try {tries + 1} of {self.settings.attempts} in {self.pace.wait_after(failure, tries):.2g} s"
        self._show(f"; {failure.why}: {plan}")
        if not self.told_of_failure:
            self.told_of_failure = True
            longest = wait_before_try(self.settings.attempts - 1)
            end = (
                f"{MOST_FAILURES_IN_A_ROW} questions in a row without a reply end the command, which keeps what is done"
            )
            where = f"{self.client.model} at {self.client.server.shown}"
            log.info(f"{where}: no reply ({failure.why}); {plan}, later ones after up to {longest:g} s; {end}")

    def _show(self, more: str = "") -> None:
        if self.doing is not None:
            self.doing.what = self._in_words(self.running) + more

    def _in_words(self, running: int) -> str:
        calls = f"{running} question{'s' * (running != 1)} waiting for a reply" if running else "connecting"
        return f"{self.client.model} at {self.client.server.shown}: {calls}"

    async def _end(self, error: HarnessError) -> None:
        """Send no more calls."""
        self.stop = self.stop or error
        await self.pace.end()
        async with self.changed:
            self.changed.notify_all()

    def _count_failure(self, request: Request, failure: NoReply, tries: int) -> None:
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            self.lost[request.key] = self.client.give_up(request, failure)
            in_a_row = f"{self.failures_in_a_row} questions in a row got no reply in {tries} tries"
            why = failure.why
            raise JudgeDown(f"{self.client.model}: {in_a_row} ({why})")

    async def _reserve_money(self, request: Request) -> float | None:
        """Set aside the cost of one more call, waiting if calls in flight may cost less; None: send no more."""
        client = self.client
        while self.stop is None:
            if client.budget is None:
                return 0.0
            cost = client.estimate(request.tokens, round(self._expected_tokens(request))) or 0.0
            if client.budget.reserve(cost):
                return cost
            await self.pace.sleep(0.05)
        return None

    def _expected_tokens(self, request: Request) -> float:
        if request.label not in self.expected:
            self.expected[request.label] = self.client.expected_reply(request.label, request.max_tokens)
        return self.expected[request.label]

    async def _call(self, connection: "AsyncOpenAI", request: Request, attempt: int, started: float) -> str | None:
        """One call; the reply is in the ledger when this returns."""
        reply = await self._ask_as_it_takes(connection, request, attempt, started)
        expected = self._expected_tokens(request)
        tokens = prices.text_tokens(reply.text) if reply.usage is None else reply.usage[1]
        self.expected[request.label] = expected + 0.2 * (tokens - expected)
        self.failures_in_a_row = 0
        self.pace.went_through(reply=True)
        if self.client.is_new(request.key):
            return _text_of(reply)
        return self.client.kept_reply(request)  # this process was suspended, and another asked meanwhile

    async def _ask_as_it_takes(
        self, connection: "AsyncOpenAI", request: Request, attempt: int, started: float
    ) -> Reply:
        """The reply to a request, asked again at once where the failure shows what the model takes in its place."""
        client = self.client
        while True:
            sent = client.parameters.fit(request.body)
            try:
                data, why = await self._send(connection, sent)
                latency = round(time.monotonic() - started, 3)
                facts: dict[str, Any] = {"latency": latency, "attempts": attempt, "created": now(), "batch": False}
                facts["why"] = why
                return client.take(Body(key=request.key, data=data, sent=sent, **facts), request, self.read)
            except NoReply as failure:
                client.parameters.learn(failure, sent, request.body)
                if client.parameters.fit(request.body) == sent:
                    raise
                self.ledger.bodies.drop(request.key)

    async def _send(self, connection: "AsyncOpenAI", sent: Mapping[str, Any]) -> tuple[bytes, str]:
        """The body that came, or why nothing can be kept of one that was paid for. NoReply."""
        self.client.asked += 1
        try:
            return await self.client.route.complete(connection, sent), ""
        except NoReply as failure:
            if not failure.paid:
                raise
            return b"", failure.why


class _TakenOverError(Exception):
    """Another process asks the question now."""


def _text_of(reply: Reply) -> str:
    return Answer(reply.text, limited=True) if reply.limited else reply.text
