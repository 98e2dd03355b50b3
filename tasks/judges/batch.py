"""The judge through OpenAI's Batch API: half the price, replies within a day, and the same ledger.

    judge = BatchJudge("gpt-4o-2024-11-20", ledger=ledger)
    judge.ask_many(questions, label="mmhal")    # uploads, waits, collects; called again after a kill, it waits for the
                                                # same batches

Questions that are in the ledger are not sent. The others go in files of bounded size; a batch's id and what is in it
are in the ledger before the waiting begins. Results are matched by their key, since a batch keeps no order. What a
batch could not do (it expired, a line of it failed) is sent again in a later one, a few times.
"""

import asyncio
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from support.errors import JudgeDown, JudgeError, SettingError
from support.progress import report
from support.secrets import redact_known
from tasks.answer import FailedAnswer
from tasks.judges import prices
from tasks.judges.chat_client import run_in_thread
from tasks.judges.completions import words_of
from tasks.judges.failures import NoReply, PermanentError, TransientError, failure_of
from tasks.judges.openai import OpenAIJudge
from tasks.judges.parameters import Parameters
from tasks.judges.protocol import GREEDY, Question, Replies, Sampling
from tasks.judges.requests import NotAsked, Request
from tasks.judges.settings import JudgeSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

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
OF_SINGLE_CALLS: Final = (
    *("attempts", "patience", "longest_wait", "concurrency", "requests_per_minute", "tokens_per_minute"),
)
"""Settings that do not act on batches."""


class BatchJudge(OpenAIJudge):
    """`OpenAIJudge` in batches, asked for their state every `poll` seconds; SettingError for one that would not act."""

    poll = 30.0
    most_lines = MOST_LINES
    most_bytes = MOST_BYTES

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        usual = JudgeSettings()
        without_effect = [name for name in OF_SINGLE_CALLS if getattr(self.settings, name) != getattr(usual, name)]
        if without_effect:
            raise SettingError(f"{', '.join(without_effect)}: of single calls, would not act on batches")
        self._asked: dict[str, Parameters] = {}
        """What was known of the model when a batch was sent, by the batch's id."""
        self._lost: dict[str, FailedAnswer] = {}
        """Why questions have no reply, by their keys."""

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> Replies:
        """The replies in the order asked; None where a question got none in `ROUNDS` batches."""
        ledger, keys, lost = self.client.ledger, [], {}
        wanted: dict[str, Request] = {}
        for place, question in enumerate(questions):
            request = self.request_or_reason(question, sampling, repeat, label)
            if isinstance(request, NotAsked):
                self.client.failures[request.why] += 1
                lost[place] = FailedAnswer(request.why)
                keys.append("")
                continue
            keys.append(request.key)
            if ledger.reply(request.key) is None:
                wanted.setdefault(request.key, request)
        if wanted:
            run_in_thread(self._collect(wanted, label))
        replies = [self.client.kept_reply(key) for key in keys]
        failed = {place: self._lost.get(key) for place, key in enumerate(keys) if replies[place] is None}
        return self.verdicts_in(
            Replies(replies, lost | {place: why for place, why in failed.items() if why is not None})
        )

    async def _collect(self, wanted: Mapping[str, Request], label: str) -> None:
        """Have all of `wanted` answered; the replies are in the ledger then."""
        from openai import APIConnectionError, APIStatusError

        ledger, missing = self.client.ledger, dict(wanted)
        try:
            seconds = max(FILE_TIMEOUT, self.settings.timeout)
            async with self.client.connect(timeout=seconds, largest=LARGEST_FILE) as connection:
                for batch, keys in ledger.open_batches(self.model):
                    if missing.keys() & set(keys):
                        await self._take_results(connection, batch, missing)
                for _ in range(ROUNDS):
                    # Another process may have collected some meanwhile.
                    for key in [key for key in missing if ledger.reply(key) is not None]:
                        del missing[key]
                    if not missing:
                        return
                    self._check_budget(missing.values(), label)
                    sent = [
                        await self._send(connection, part, label) for part in self._split_into_files(missing.values())
                    ]
                    for batch in sent:
                        await self._take_results(connection, batch, missing)
        except (APIStatusError, APIConnectionError) as error:
            kept = "they are kept, and waited for by the next run"
            raise JudgeDown(f"{self.model}: batches: {words_of(error)}; {kept}") from None
        self._lost |= {key: self.client.give_up(one, TransientError(NONE_IN_A_BATCH)) for key, one in missing.items()}

    def _check_budget(self, requests: Collection[Request], label: str) -> None:
        budget, paid = self.client.budget, self.client.paid
        if budget is None:
            return
        reply_tokens = round(self.client.expected_reply(label) * len(requests))
        cost = prices.price(self.model, sum(request.tokens for request in requests), reply_tokens, batch=True)
        if cost is not None and paid + cost > budget:
            too_much = f"would cost about ${cost:.4f}, the budget is ${budget:.4f}"
            raise JudgeError(f"{self.model}: {len(requests)} questions {too_much}")

    def _split_into_files(self, requests: Iterable[Request]) -> Iterator[dict[str, bytes]]:
        """Lines by key, as many as one file may have."""
        lines: dict[str, bytes] = {}
        size = 0
        for request in requests:
            body = self.client.parameters.fit(request.body)
            row = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            line = json.dumps(row).encode() + b"\n"
            if lines and (size + len(line) > self.most_bytes or len(lines) >= self.most_lines):
                yield lines
                lines, size = {}, 0
            lines[request.key] = line
            size += len(line)
        if lines:
            yield lines

    async def _send(self, connection: "AsyncOpenAI", lines: Mapping[str, bytes], label: str) -> str:
        """Start a batch; its id."""
        content = io.BytesIO(b"".join(lines.values()))
        file = await connection.files.create(file=("questions.jsonl", content), purpose="batch")
        batch = await connection.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        self.client.ledger.open_batch(batch.id, self.model, label, list(lines))
        self._asked[batch.id] = deepcopy(self.client.parameters)
        return str(batch.id)

    async def _take_results(self, connection: "AsyncOpenAI", batch: str, missing: dict[str, Request]) -> None:
        """Wait for a batch and take over what it did; requests that got a reply, or never will, leave `missing`."""
        while (state := await connection.batches.retrieve(batch)).status not in ENDED:
            if (counts := state.request_counts) is not None and counts.completed < counts.total:
                report(f"batch {batch}", counts.completed, counts.total)
            await asyncio.sleep(self.poll)
        asked = self._asked.get(batch) or deepcopy(self.client.parameters)
        for file in (state.output_file_id, state.error_file_id):
            if file is not None:
                for line in (await connection.files.content(file)).text.split("\n"):
                    if line.strip():
                        self._take_result(_parse_line(line), missing, asked)
        self.client.ledger.close_batch(batch)

    def _take_result(self, row: Mapping[str, Any], missing: dict[str, Request], asked: Parameters) -> None:
        """Take over a line of a batch's file; a line that is no such thing leaves its question for the next batch."""
        key, response = str(row.get("custom_id")), row.get("response")
        if key not in missing or not isinstance(response, Mapping):
            return
        request, parameters = missing[key], self.client.parameters
        sent = asked.fit(request.body)
        try:
            if response.get("status_code") in (400, 422):
                raise failure_of(self.model, int(response["status_code"]), response.get("body"), {})
            if response.get("status_code") != 200:
                return
            reply = self.read(response.get("body"), replace(request, body=sent))
        except NoReply as error:
            self.client.book_loss(request, error, batch=True)
            parameters.learn(error, sent)
            if isinstance(error, PermanentError) and parameters.fit(request.body) == sent:
                self._lost[key] = self.client.give_up(missing.pop(key), error)
            return
        self.client.book_reply(missing.pop(key), reply, latency=0.0, attempts=1, batch=True)


def _parse_line(line: str) -> Mapping[str, Any]:
    """A line of a batch's file, without secrets of ours; empty for one that is no JSON object."""
    try:
        row = redact_known(json.loads(line))
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, Mapping) else {}
