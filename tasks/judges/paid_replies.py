"""What one model behind a server has replied, and what that cost: taken from the ledger, and booked in it.

What a server sends is in the ledger before it is read. It was paid for where the server counts tokens for it, or where
it is a completion at all; where such a one can't be read, the next run reads it again, and asks again only if
`retry_unread` says so. A page of a proxy, an empty body, half a body are no completions: they cost nothing, and are
asked again.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any, Final, TypeAlias

from support.errors import HarnessError, JudgeError, one_line
from support.reuse import Reuse
from tasks.answer import Answer, FailedAnswer
from tasks.judges import prices
from tasks.judges.addresses import Server
from tasks.judges.capabilities import capabilities_of
from tasks.judges.completions import Route, parsed
from tasks.judges.failures import NoReply, TransientError, Usage
from tasks.judges.ledger import Call, Ledger, Loss, now
from tasks.judges.pace import FIRST_CALLS, Refusals
from tasks.judges.paid_bodies import Body
from tasks.judges.parameters import Parameters, in_words
from tasks.judges.reasons import grouped
from tasks.judges.replies import NOT_SAID, Reply, cached_of, served_of, usage_of
from tasks.judges.requests import Request
from tasks.judges.settings import ClientSettings

log = logging.getLogger(__name__)

Reader: TypeAlias = Callable[[Any, Request], Reply]
"""Gives the reply in a body of any JSON, of the request as it was sent; raises NoReply where it is none."""
TYPICAL_REPLY: Final = 150
"""Tokens of a reply, where the ledger knows of none and no limit is set."""
TYPICAL_THOUGHTS: Final = 500
"""Tokens of the thoughts before it, where the ledger knows of no reply."""


class PaidReplies:
    """See the module's docstring. `identity` names the server in the ledger."""

    def __init__(
        self,
        model: str,
        server: Server,
        *,
        ledger: Ledger,
        budget: float | None = None,
        settings: ClientSettings | None = None,
        identity: str | None = None,
    ) -> None:
        self.model, self.route, self.ledger = model, Route(server), ledger
        self.settings, self.identity = settings or ClientSettings(), identity or server.identity
        self.tariff = prices.Tariff(model=model, url=server.url, told=self.settings.told_price)
        """What calls cost."""
        self.last_served = ledger.last_served(model, server.shown)
        """What has answered last, as the server says: the next call will cost as much."""
        self.budget = None if budget is None else ledger.budget(model, f"{model} at {self.identity}", budget)
        """What may be spent, together with other processes."""
        self.parameters = Parameters(model, takes=capabilities_of(model, server.known_host))
        """What the model takes of a request."""
        self.asked_by_task: defaultdict[str, set[str]] = defaultdict(set)
        """How calls of a task differed from what its protocol asks for, in words."""
        self.served: set[str] = set()
        """What the server says has answered, now or when a kept reply was asked for."""
        self.servers: set[str] = set()
        """Where that was."""
        self.failures: Counter[str] = Counter()
        """Questions without a reply, by reason."""
        self.refusals = Refusals()
        """Requests refused before there was any reply."""
        self.paid = 0.0
        """US dollars since this client was made, as far as prices are known."""
        self.unpriced = 0
        """Calls since then whose price is not known."""
        self.fresh = False
        """Whether what the ledger keeps is asked again, and replaced."""
        self.reused = Reuse()
        """Replies that the ledger had."""
        self.without_server = 0
        """Of them, those that were kept without their server's address."""
        self.unread: Counter[str] = Counter()
        """Questions whose reply was paid for and can't be read, by reason."""
        self._new: set[str] = set()
        """What this client was answered."""
        self._sent: set[str] = set()
        """What this client asked, and got any body for."""
        self._refusal = ""
        """Why the last of the refused requests was."""
        self._told: set[str] = set()
        """What was said once."""

    @property
    def server(self) -> Server:
        """Where it is asked."""
        return self.route.server

    @property
    def asked_otherwise(self) -> set[str]:
        """How calls of all tasks differed from what protocols ask for, in words."""
        return set().union(*self.asked_by_task.values())

    def expected_reply(self, label: str, max_tokens: int | None = None) -> float:
        """Tokens that a reply and its thoughts will have, about: as those so far, else the limit where it is low, else
        what is typical."""
        if (so_far := self.ledger.completion_tokens(label, self.model)) is not None:
            return so_far
        thinks = self.parameters.takes.at(self.parameters.asked.get("reasoning_effort")).thinks
        return min(TYPICAL_REPLY, max_tokens or TYPICAL_REPLY) + TYPICAL_THOUGHTS * thinks

    def estimate(self, prompt: float, completion: float, *, calls: int = 1, batch: bool = False) -> float | None:
        """US dollars that calls with so many tokens will cost; None where the price is not known."""
        return self.tariff.cost(prompt, completion, served=self.last_served, calls=calls, batch=batch)

    def find_call(self, request: Request) -> Call | None:
        """The call that the ledger has for a request, whether it may be used or not."""
        call = self.ledger.call(request.key)
        return self.ledger.call(request.before) if call is None and request.before else call

    def kept_reply(self, request: Request) -> str | None:
        """The reply that the ledger has, or None; with `fresh`, only what came since this client was made."""
        call = self.find_call(request) if not self.fresh or request.key in self._new else None
        if call is None:
            return None
        self.refusals.replied = True  # the server has replied, if in an earlier run
        if request.key not in self._new:
            self.reused.add(call.created)
            self.without_server += call.key != request.key
        self.asked_by_task[request.label] |= {call.asked} - {""}
        self.served |= {call.served} - {NOT_SAID}
        self.servers |= {call.server} - {""}
        return Answer(call.reply, limited=True) if call.finish == "length" else call.reply

    def is_new(self, key: str) -> bool:
        """Whether the ledger's reply under this key came to this client."""
        return key in self._new

    def kept_body(self, key: str) -> Body | None:
        """What came for a question and could not be read, or None: it is asked."""
        mine = key in self._sent
        return None if self.settings.retry_unread or (self.fresh and not mine) else self.ledger.bodies.find(key)

    def take(self, body: Body, request: Request, read: Reader) -> Reply:
        """Keep a body and read it; `request` is as it was before it was fitted to the model. NoReply."""
        self._sent.add(body.key)
        self.ledger.bodies.keep(body)
        return self.read_body(body, request, read)

    def read_body(self, body: Body, request: Request, read: Reader) -> Reply:
        """The reply in a kept body, which is booked. NoReply; where that was `paid` for, the body stays and what it
        cost is booked."""
        found: Any = None
        try:
            if body.why:
                raise TransientError(body.why)
            found = parsed(body.data)
            reply = read(found, replace(request, body=body.sent))
        except NoReply as failure:
            failure.paid = (body.batch or bool(body.why) or _is_paid(body.data, found)) and not getattr(
                failure, "limited", False
            )
            if not failure.paid:
                self.ledger.bodies.drop(body.key)
            elif not body.is_booked:
                self._book_loss(request, failure, body, found)
            raise
        except HarnessError:  # the server says, in a body of status 200, that it takes no calls
            self.ledger.bodies.drop(body.key)
            raise
        self._tell_of_count(found)
        mark = found.get("system_fingerprint") if isinstance(found, Mapping) else None
        self._book_reply(request, reply, body, found, one_line(mark)[:200] if isinstance(mark, str) else "")
        return reply

    def _book_reply(self, request: Request, reply: Reply, body: Body, found: Any, fingerprint: str) -> None:
        """Keep a reply, read as JSON in `found`; it is on disk when this returns."""
        if not reply.end_told:
            self._tell_once(logging.INFO, "no finish_reason: replies with fewer tokens than the limit count as whole")
        self.refusals.replied = True
        asked = in_words(request.body, body.sent)
        cached = cached_of(found) if isinstance(found, Mapping) else 0
        tokens, price = self._charge(request, reply.usage, prices.text_tokens(reply.text), body, found)
        call = Call(
            key=request.key,
            task=request.label,
            model=self.model,
            served=reply.served,
            reply=reply.text,
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            price=price,
            latency=body.latency,
            attempts=body.attempts,
            batch=body.batch,
            created=now(),
            finish="length" if reply.limited else "stop",
            asked=asked,
            server=self.server.shown,
            fingerprint=fingerprint,
            estimated=reply.usage is None,
            cached_tokens=cached,
            told=reply.told,
        )
        if self.ledger.put(call, instead=self.fresh, run=self._run):
            self._new.add(request.key)
        self.served |= {reply.served} - {NOT_SAID}
        self.last_served = reply.served if reply.served != NOT_SAID else self.last_served
        if reply.served != self.model and (warning := prices.retired(reply.served, date.today())):
            self._tell_once(logging.WARNING, warning)
        self.servers.add(self.server.shown)
        self.asked_by_task[request.label] |= {asked} - {""}

    def give_up(self, request: Request, error: NoReply, *, may_end: bool = True) -> FailedAnswer:
        """Leave a question without a reply, and keep why; `may_end`: JudgeError if the server refuses all, for one
        reason."""
        self.failures[error.why] += 1
        if error.paid:
            self.unread[error.why] += 1
        self.ledger.fail(request.key, request.label, self.model, error.why)
        is_refused = error.paid if isinstance(error, TransientError) else getattr(error, "hopeless", False)
        if is_refused:
            self._refusal = error.why
            if self.refusals.add(error.why) and may_end:
                self.check_refusals()
        return FailedAnswer(error.why, may_pass=error.may_pass and not error.paid)

    def check_refusals(self) -> None:
        """JudgeError if the server refuses all requests, for one reason."""
        if not self.refusals.replied and self.refusals.most >= FIRST_CALLS:
            why = self._refusal
            raise JudgeError(f"{self.model}: the first {self.refusals.most} requests were all refused: {why}")

    def tell_unread(self) -> None:
        """Say how many replies were paid for and can't be read since this was last said."""
        if count := self.unread.total():
            again = f"--{self.server.role}-set retry_unread=true asks them again, and pays again"
            why = grouped(self.unread.elements())
            log.warning("%s: %d replies that were paid for can't be read (%s); %s", self.model, count, why, again)
            self.unread.clear()

    @property
    def _run(self) -> str:
        return "" if self.budget is None else self.budget.run

    def _book_loss(self, request: Request, error: NoReply, body: Body, found: Any) -> None:
        """Keep what a call without a usable reply has cost."""
        expected = round(self.expected_reply(request.label, request.max_tokens))
        tokens, price = self._charge(request, error.usage, expected, body, found)
        facts: dict[str, Any] = {"key": request.key, "task": request.label, "model": self.model, "reason": error.why}
        facts["served"] = served_of(found) if isinstance(found, Mapping) else ""
        loss = Loss(prompt_tokens=tokens[0], completion_tokens=tokens[1], price=price, **facts)
        self.ledger.lose(replace(loss, estimated=error.usage is None), run=self._run, body=True)

    def _charge(
        self, request: Request, usage: Usage | None, reply_tokens: int, body: Body, found: Any
    ) -> tuple[Usage, float | None]:
        """The tokens and the price of a call, estimated where the server did not count."""
        tokens = usage or (request.tokens, reply_tokens)
        said = found if isinstance(found, Mapping) else {}
        more: dict[str, Any] = {"cached": cached_of(said), "served": served_of(said)}
        price = self.tariff.cost(*tokens, batch=body.batch, **more)
        self.paid += price or 0.0
        self.unpriced += price is None
        return tokens, price

    def _tell_of_count(self, found: Any) -> None:
        usage = found.get("usage") if isinstance(found, Mapping) else None
        if usage and usage_of(found) is None:
            shown = one_line(usage)[:100]
            self._tell_once(logging.WARNING, f"{shown}: no count of tokens: estimates are booked in its place")

    def _tell_once(self, level: int, words: str) -> None:
        kind = words.rpartition(":")[2]
        if kind not in self._told:
            self._told.add(kind)
            log.log(level, "%s: %s", self.model, words)


def _is_paid(data: bytes, found: Any) -> bool:
    """Whether a body was paid for: the server counts tokens for it, or it is a completion and no count can be had."""
    if not isinstance(found, Mapping):
        return b'"choices"' in data
    usage = usage_of(found)
    return bool(found.get("choices")) if usage is None else sum(usage) > 0
