"""When the next call of a round may be sent: what the user allows, and what the server takes.

async with pace.turn(tokens):
    ...                             # one call
pace.limit(error, sent)             # it said 429: the waits double, one call at a time, until there is a reply
pace.went_through(reply=True)       # it took a call
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from tasks.judges.failures import TransientError, wait_in_words
from tasks.judges.reasons import kind_of
from tasks.judges.settings import ClientSettings

log = logging.getLogger(__name__)

FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 60.0
"""Seconds between two tries, where the server does not ask for more."""
FIRST_CALLS: Final = 8
"""Most calls before the first reply: if all are refused for one reason, so will be the others."""
QUIET: Final = 1.0
"""Seconds of waiting that nobody is told of."""
BETWEEN_LINES: Final = 10.0
"""Seconds at least between two lines that tell of waiting."""


def wait_before_try(tries: int) -> float:
    """Seconds after so many tries without a reply: 0.25, 0.5, 1, ... 60."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(16, max(0, tries - 1)))


def with_jitter(seconds: float) -> float:
    """A little longer, so that processes which were sent away together don't come back together."""
    return seconds * (1 + 0.25 * random.random())


class _Rate:
    """So many units a minute, without a burst of more than two seconds' worth."""

    def __init__(self, per_minute: float | None) -> None:
        self.rate = None if per_minute is None else per_minute / 60
        self.free_at = 0.0

    def take(self, units: float) -> float:
        """Seconds to wait before so many units are used."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        start = max(self.free_at, now - 2.0)
        self.free_at = start + units / self.rate
        return start - now


class Refusals:
    """Requests that a model's server refused before it gave any reply, by kind of reason."""

    def __init__(self) -> None:
        self.replied = False
        self.counts: Counter[str] = Counter()

    def add(self, why: str) -> bool:
        """Count one; True if the server refuses them all."""
        if not self.replied:
            self.counts[kind_of(why)] += 1
        return not self.replied and self.most >= FIRST_CALLS

    @property
    def most(self) -> int:
        """How many were refused for one reason."""
        return max(self.counts.values(), default=0)


class Pace:
    """See the module's docstring. All of it runs in one event loop."""

    def __init__(self, model: str, settings: ClientSettings, refusals: Refusals) -> None:
        self.model, self.settings, self.refusals = model, settings, refusals
        self.at_once = float(settings.concurrency)
        """Calls that may be on their way at once, where the server is not limited."""
        self.calling = 0
        self.changed = asyncio.Condition()
        self.ended = asyncio.Event()
        """No more calls are sent: nobody waits any longer."""
        self.not_before = 0.0
        """No call is sent before this time."""
        self.limited_since: float | None = None
        """Since when the server says "later" and nothing else."""
        self.limited_at = 0.0
        """When it last said so to a call that was sent after the refusal before it."""
        self.refused_in_a_row = 0
        self.late = 0
        """Calls turned away after more than `patience` seconds without a reply."""
        self.last_reply = float("inf")
        """The time of the last reply, or of the first call."""
        self.told_at = 0.0
        self.told_of_cap = False
        """Whether it was said that the server asks for a longer wait than the setting allows."""
        self.requests = _Rate(settings.requests_per_minute)
        self.tokens = _Rate(settings.tokens_per_minute)

    @property
    def _most_calls(self) -> int:
        """Calls that may be on their way at once."""
        if self.limited_since is not None:
            return 1
        allowed = max(1, int(self.at_once))
        return allowed if self.refusals.replied else max(1, min(allowed, FIRST_CALLS - self.refusals.most))

    @contextlib.asynccontextmanager
    async def turn(self, tokens: float) -> AsyncIterator[None]:
        """Inside, one call of about so many tokens may be sent."""
        await self._enter()
        try:
            await self.sleep(max(self.requests.take(1), self.tokens.take(tokens)))
            while not self._is_free(self.calling):  # limited while it slept
                await self._leave()
                await self._enter()
            self.last_reply = min(self.last_reply, time.monotonic())
            yield
        finally:
            await self._leave()

    async def _enter(self) -> None:
        async with self.changed:
            while True:
                await self.changed.wait_for(lambda: self.calling < self._most_calls or self.ended.is_set())
                if self._is_free(self.calling + 1):
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), self.not_before - time.monotonic())
            self.calling += 1

    def _is_free(self, calls: int) -> bool:
        """Whether so many calls may be on their way now."""
        return self.ended.is_set() or (calls <= self._most_calls and self.not_before <= time.monotonic())

    async def _leave(self) -> None:
        self.calling -= 1
        async with self.changed:
            self.changed.notify_all()

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until no more calls are sent."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), seconds)

    async def end(self) -> None:
        """Send no more calls."""
        self.ended.set()
        async with self.changed:
            self.changed.notify_all()

    def limit(self, error: TransientError, sent: float) -> bool:
        """A call that was sent at this time came too early; True if the server has said so for too long."""
        now = time.monotonic()
        if self.limited_since is None:
            self.limited_since, self.refused_in_a_row = now, 0
            self.at_once = max(1.0, self.at_once / 2)
        elif sent < self.limited_at:  # it was on its way when the server began to say so
            self.not_before = max(self.not_before, now + with_jitter(self.wait_after(error, 0)))
            return False
        self.limited_at = now
        self.refused_in_a_row += 1
        wait = self.wait_after(error, self.refused_in_a_row)
        self.not_before = max(self.not_before, now + with_jitter(wait))
        self._tell(error.why, now)
        self.late += now - self.last_reply > self.settings.patience
        return self.late >= self.settings.attempts

    def wait_after(self, error: TransientError, tries: int) -> float:
        """Seconds until the next try, after so many: as the server asks, up to the setting, else ever longer."""
        if error.after is None:
            return wait_before_try(tries) if tries else 0.0
        longest = self.settings.longest_wait
        if error.after > longest and not self.told_of_cap:
            self.told_of_cap = True
            asks = f"the server asks to wait {wait_in_words(error.after)}; waiting at most {longest:g} s ({error.why})"
            log.info(f"{self.model}: {asks}")
        if error.after < FIRST_WAIT and tries > 1:
            return wait_before_try(tries - 1)  # what it asks for does not help
        return min(error.after, longest)

    def _tell(self, why: str, now: float) -> None:
        left = self.not_before - now
        waited = now - (now if self.limited_since is None else self.limited_since)
        if max(left, waited) >= QUIET and max(left, now - self.told_at) >= BETWEEN_LINES:
            self.told_at = now
            log.info(f"{self.model}: limited by the server, waiting {left:.0f} s ({why})")

    def went_through(self, *, reply: bool) -> None:
        """The server has taken a call, with a `reply` or without."""
        self.limited_since = None
        if reply:
            self.refusals.replied, self.late, self.last_reply = True, 0, time.monotonic()
            self.at_once = min(float(self.settings.concurrency), self.at_once + 1 / max(1.0, self.at_once))
