"""The judge through OpenAI's Batch API: half the price, replies within a day, and the same ledger.

    judge = BatchJudge("gpt-4o-2024-11-20", ledger=ledger)
    judge.ask_many(questions, label="mmhal")    # uploads, waits, collects; called again after a kill, it waits for the
                                                # same batches

Questions that are in the ledger are not sent. The others go in files of bounded size. A batch is in the ledger before
anything of it is sent, under a name of ours that is in its metadata: after a kill the next run finds it by that in the
server's list. Results are matched by their key, since a batch keeps no order. What a batch did not do (it expired, a
line of it was refused for now) is sent again in a later one, a few times. What it did is paid for: a line that can't be
read is a reply that can't be read.
"""

import asyncio
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from support.errors import JudgeDown, SettingError
from support.progress import report
from tasks.answer import FailedAnswer
from tasks.judges.batch_lines import Line, read_lines, write_line
from tasks.judges.capabilities import check_taken
from tasks.judges.chat_client import run_in_thread
from tasks.judges.completions import words_of
from tasks.judges.failures import NoReply, PermanentError, TransientError, failure_of
from tasks.judges.ledger import now
from tasks.judges.open_batches import OpenBatch
from tasks.judges.openai import OpenAIJudge
from tasks.judges.paid_bodies import Body
from tasks.judges.parameters import Parameters
from tasks.judges.protocol import GREEDY, Question, Replies, Sampling
from tasks.judges.requests import NotAsked, Request
from tasks.judges.settings import JudgeSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

log = logging.getLogger(__name__)

MOST_BYTES: Final = 190_000_000
"""Of a file, below what the API takes (200 MB)."""
LARGEST_FILE: Final = 2**29
"""Bytes of a batch's replies that are read."""
FILE_TIMEOUT: Final = 3600.0
"""Seconds at least for a file on its way."""
MOST_LINES: Final = 50_000
ROUNDS: Final = 3
NONE_IN_A_BATCH: Final = "no reply in a batch"
ENDED: Final = ("completed", "failed", "expired", "cancelled")
OUR_NAME: Final = "harness"
"""The field of a batch's metadata that has our own name for it."""
MOST_LISTED: Final = 100_000
"""Batches of a server's list that are looked through."""
SETTLED: Final = 10.0
"""Seconds after which a server's list has a batch that was made."""
OF_SINGLE_CALLS: Final = (
    *("attempts", "patience", "longest_wait", "concurrency", "requests_per_minute", "tokens_per_minute"),
)
"""Settings that do not act on batches."""


class BatchJudge(OpenAIJudge):
    """`OpenAIJudge` in batches, asked for their state every `poll` seconds, at first more often; SettingError for a
    setting that would not act."""

    poll = 30.0
    settled = SETTLED
    most_lines = MOST_LINES
    most_bytes = MOST_BYTES

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        usual = JudgeSettings()
        without_effect = [name for name in OF_SINGLE_CALLS if getattr(self.settings, name) != getattr(usual, name)]
        if without_effect:
            raise SettingError(f"{', '.join(without_effect)}: of single calls, would not act on batches")
        check_taken(model, self.client.parameters.takes, {"--judge-batch": ("batch", True)})
        self._asked: dict[str, Parameters] = {}
        """What was known of the model when a batch was sent, by our name for it."""
        self._tokens: dict[str, str] = {}
        """Claims of the batches that this process makes or collects."""
        self._lost: dict[str, FailedAnswer] = {}
        """Why questions have no reply, by their keys."""

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> Replies:
        """The replies in the order asked; None where a question got none in `ROUNDS` batches."""
        self.client.ledger.batches.close_done()
        asked = [self.request_or_reason(question, sampling, repeat, label) for question in questions]
        wanted: dict[str, Request] = {}
        for request in asked:
            if isinstance(request, NotAsked):
                self.client.failures[request.why] += 1
            elif self.client.find_call(request) is None:
                wanted.setdefault(request.key, request)
        self._read_kept(wanted)
        if wanted:
            try:
                run_in_thread(self._collect(wanted, label))
            finally:
                for batch in list(self._tokens):
                    self._release(batch)
        self.client.tell_unread()
        replies: list[str | None] = []
        lost: dict[int, FailedAnswer] = {}
        for place, request in enumerate(asked):
            replies.append(None if isinstance(request, NotAsked) else self.client.kept_reply(request))
            if isinstance(request, NotAsked):
                lost[place] = FailedAnswer(request.why)
            elif replies[place] is None and request.key in self._lost:
                lost[place] = self._lost[request.key]
        return self.verdicts_in(Replies(replies, lost))

    def _read_kept(self, wanted: dict[str, Request]) -> None:
        """Read again what was paid for and could not be read; whatever comes of it, it is not asked."""
        for key, request in list(wanted.items()):
            if (body := self.client.kept_body(key)) is not None:
                del wanted[key]
                try:
                    self.client.read_body(body, request, self.read)
                except NoReply as failure:
                    self._lose(request, failure)
        self.client.check_refusals()

    async def _collect(self, wanted: Mapping[str, Request], label: str) -> None:
        """Have all of `wanted` answered; the replies are in the ledger then."""
        from openai import APIConnectionError, APIStatusError

        missing, rounds = dict(wanted), 0
        try:
            seconds = max(FILE_TIMEOUT, self.settings.timeout)
            async with self.client.connect(timeout=seconds, largest=LARGEST_FILE) as connection:
                while self._drop_replied(missing):
                    if (batch := self._find_open(missing)) is not None:
                        await self._take(connection, batch, missing)
                    elif rounds == ROUNDS:
                        break
                    elif await self._send_all(connection, missing, label):
                        rounds += 1
                    else:  # other processes ask them one by one
                        await asyncio.sleep(min(self.poll, 1.0))
        except (APIStatusError, APIConnectionError) as error:
            kept = "they are kept, and waited for by the next run"
            raise JudgeDown(f"{self.model}: batches: {words_of(error)}; {kept}") from None
        for request in missing.values():
            self._lose(request, TransientError(NONE_IN_A_BATCH))

    def _drop_replied(self, missing: dict[str, Request]) -> bool:
        """Take out what has a reply by now, whoever asked; whether anything is missing."""
        for key in [key for key, request in missing.items() if self.client.find_call(request) is not None]:
            del missing[key]
        return bool(missing)

    def _find_open(self, missing: Mapping[str, Request]) -> OpenBatch | None:
        """The oldest batch on its way that has any of these questions."""
        keys = {key for request in missing.values() for key in (request.key, request.before)}
        found = self.client.ledger.batches.find(self.model, self.identity)
        return next((batch for batch in found if not keys.isdisjoint(batch.keys)), None)

    async def _send_all(self, connection: "AsyncOpenAI", missing: Mapping[str, Request], label: str) -> int:
        """Make batches of these questions, but for those that other processes ask; how many were made."""
        budget, tokens = self.client.budget, sum(request.tokens for request in missing.values())
        reply_tokens = round(self.client.expected_reply(label) * len(missing))
        cost = self.client.estimate(tokens, reply_tokens, calls=len(missing), batch=True) or 0.0
        what = f"{len(missing)} questions for about ${cost:.4f}"
        while budget is not None and not budget.reserve(cost, what):
            await asyncio.sleep(min(self.poll, 1.0))
        try:
            made = 0
            for lines in self._split_into_files(missing.values()):
                made += await self._send(connection, lines, label, cost * len(lines) / len(missing))
            return made
        finally:
            if budget is not None:
                budget.settle(cost)

    def _split_into_files(self, requests: Iterable[Request]) -> Iterator[dict[str, bytes]]:
        """Lines by key, as many as one file may have."""
        lines: dict[str, bytes] = {}
        size = 0
        for request in requests:
            line = write_line(request.key, self.client.parameters.fit(request.body))
            if lines and (size + len(line) > self.most_bytes or len(lines) >= self.most_lines):
                yield lines
                lines, size = {}, 0
            lines[request.key] = line
            size += len(line)
        if lines:
            yield lines

    async def _send(self, connection: "AsyncOpenAI", lines: Mapping[str, bytes], label: str, cost: float) -> bool:
        """Make a batch of those of these questions that nobody asks; False where there are none."""
        batches, run = self.client.ledger.batches, "" if self.client.budget is None else self.client.budget.run
        batch, keys = batches.open(
            self.model, label, lines, server=self.identity, estimate=cost, run=run, claims=self._tokens
        )
        if not keys:
            self._release(batch)
            return False
        self._asked[batch] = deepcopy(self.client.parameters)
        content = io.BytesIO(b"".join(lines[key] for key in keys))
        file = await connection.files.create(file=(f"{OUR_NAME}-{batch}.jsonl", content), purpose="batch")
        made = await connection.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={OUR_NAME: batch},
        )
        batches.name(batch, made.id)
        return True

    async def _take(self, connection: "AsyncOpenAI", batch: OpenBatch, missing: dict[str, Request]) -> None:
        """Wait for a batch and take over what it did; where another process does so, wait a while for that one."""
        batches = self.client.ledger.batches
        if batch.id not in self._tokens:
            token = self.client.ledger.claims.take(batch.claim)
            if token is None:
                await asyncio.sleep(min(self.poll, 1.0))
                return
            self._tokens[batch.id] = token
        try:
            if not batches.is_open(batch.id):
                return
            if not batch.name and await self._is_unknown(connection, batch, missing):
                return
            (found,) = [one for one in batches.find(self.model, self.identity) if one.id == batch.id]
            await self._take_results(connection, found, missing)
        finally:
            self._release(batch.id)

    async def _is_unknown(self, connection: "AsyncOpenAI", batch: OpenBatch, missing: dict[str, Request]) -> bool:
        """Find out what became of a batch that was about to be made when its process ended; True if there is nothing to
        collect."""
        batches = self.client.ledger.batches
        await asyncio.sleep(max(0.0, self.settled - batch.age))
        try:
            name = await _find_in_list(connection, batch.id)
        except _NoListError as error:
            self._give_up(batch, missing, str(error))
            return True
        if name is None:
            log.info("%s: a batch of %d questions was not made before; it is now", self.model, len(batch.keys))
            batches.close(batch.id)
        else:
            log.info("%s: the batch %s was made before, and is waited for", self.model, name)
            batches.name(batch.id, name)
        return name is None

    def _give_up(self, batch: OpenBatch, missing: dict[str, Request], why: str) -> None:
        """Of a batch that may have been paid for nothing can be had: its questions are asked again where the user wants
        that."""
        if self.settings.retry_unread:
            log.warning("%s: %s; its questions are asked again", self.model, why)
            self.client.ledger.batches.close(batch.id)
            return
        keys = set(batch.keys)
        for key in [key for key, request in missing.items() if not keys.isdisjoint((key, request.before))]:
            self._lose(missing.pop(key), PermanentError(f"{why}; --judge-set retry_unread=true asks again"))

    async def _take_results(self, connection: "AsyncOpenAI", batch: OpenBatch, missing: dict[str, Request]) -> None:
        """Wait for a batch and take over what it did; requests that got a reply, or never will, leave `missing`."""
        from openai import NotFoundError

        try:
            state = await self._wait_for(connection, batch)
        except NotFoundError:
            self._give_up(batch, missing, f"it was in the batch {batch.name}, which the server does not know")
            return
        lines: dict[str, Line] = {}
        damaged = 0
        for file in (state.output_file_id, state.error_file_id):
            if file is None:
                continue
            try:
                data = await (await connection.files.content(file)).aread()
            except NotFoundError:  # servers remove files after a while
                log.warning("%s: the server has no file %s of the batch %s", self.model, file, batch.name)
                damaged += 1
                continue
            found, bad = read_lines(data, batch.keys)
            lines, damaged = found | lines, damaged + bad
        if damaged:
            log.warning("%s: %d lines of the batch %s can't be read", self.model, damaged, batch.name)
        requests = {key: request for request in missing.values() for key in (request.key, request.before)}
        refused: SettingError | None = None
        for key in batch.keys:
            line = lines.get(key)
            if line is None and (state.status == "completed" or damaged):
                line = Line(data=b"")  # it was done, and what came of it is lost
            if line is not None:
                try:
                    self._take_line(line, requests.get(key), key, batch, missing)
                except SettingError as error:  # a setting that was asked for: what the other lines brought is kept
                    refused = error
        self.client.ledger.batches.close(batch.id)
        if refused is not None:
            raise refused
        self.client.check_refusals()

    async def _wait_for(self, connection: "AsyncOpenAI", batch: OpenBatch) -> "Batch":
        wait = min(self.poll, 1.0)
        while (state := await connection.batches.retrieve(batch.name)).status not in ENDED:
            if (counts := state.request_counts) is not None and counts.completed < counts.total:
                report(f"batch {batch.name}", counts.completed, counts.total)
            await asyncio.sleep(wait)
            wait = min(self.poll, wait * 1.5)
        return state

    def _take_line(
        self, line: Line, request: Request | None, key: str, batch: OpenBatch, missing: dict[str, Request]
    ) -> None:
        """Take over what a batch did with one question; what it did not do stays in `missing`."""
        asked = self._asked.get(batch.id) or self.client.parameters
        sent = asked.fit(request.body) if request is not None else {}
        target = key if request is None else request.key
        if line.data is not None:
            why = "" if line.data else "the batch's files have no line for it that can be read"
            facts: dict[str, Any] = {"latency": 0.0, "attempts": 1, "created": now(), "why": why}
            body = Body(key=target, data=line.data, sent=sent, batch=True, **facts)
            if request is None:  # of another run, which reads it
                self.client.ledger.bodies.keep(body)
                return
        if request is None or target not in missing:
            return
        try:
            if line.data is not None:
                self.client.take(body, request, self.read)
            elif line.status in (400, 422):
                raise failure_of(self.model, line.status, line.refusal, {})
            else:
                return
            del missing[target]
        except JudgeDown:  # one line says that the account is empty, others were done
            return
        except NoReply as failure:
            parameters = self.client.parameters
            parameters.learn(failure, sent, request.body)
            if parameters.fit(request.body) != sent:
                self.client.ledger.bodies.drop(target)
            elif failure.paid or isinstance(failure, PermanentError):
                self._lose(missing.pop(target), failure)

    def _lose(self, request: Request, failure: NoReply) -> None:
        self._lost[request.key] = self.client.give_up(request, failure, may_end=False)

    def _release(self, batch: str) -> None:
        self.client.ledger.claims.release(OpenBatch.claim_of(batch), self._tokens.pop(batch))


class _NoListError(Exception):
    """Whether a batch was made can't be found out."""


async def _find_in_list(connection: "AsyncOpenAI", ours: str) -> str | None:
    """What the server calls the batch that has our name; None: there is none. _NoListError."""
    from openai import APIStatusError

    seen: set[str] = set()
    try:
        async for made in connection.batches.list(limit=100):
            if made.id in seen or len(seen) >= MOST_LISTED:
                raise _NoListError("it may be in a batch, and the server's list of batches has no end")
            seen.add(made.id)
            if isinstance(made.metadata, Mapping) and made.metadata.get(OUR_NAME) == ours:
                return str(made.id)
    except APIStatusError as error:
        if error.status_code not in (400, 404, 405, 501):
            raise
        raise _NoListError(f"it may be in a batch, and the server lists none (status {error.status_code})") from None
    except (AttributeError, TypeError, ValueError):
        raise _NoListError("it may be in a batch, and the server's list of batches can't be read") from None
    return None
