"""The judge through OpenAI's Batch API: half the price, replies within a day, and the same ledger.

    judge = BatchJudge("gpt-4o-2024-11-20", ledger=ledger)
    judge.ask_many(questions, label="mmhal")    # uploads, waits, collects; called again after a kill, it waits for the
                                                # same batches

Questions that are in the ledger are not sent. The others go in files of bounded size; a batch's id and what is in it
are in the ledger before the waiting begins. Results are told apart by their key, since a batch keeps no order. What a
batch could not do (it expired, a line of it failed) is sent again in a later one, a few times.
"""

import asyncio
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from support.errors import JudgeDown, JudgeError
from tasks.judges import prices
from tasks.judges.chat_client import PermanentError, Request, TransientError, text_of
from tasks.judges.ledger import Call, now
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import GREEDY, Question, Sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_BYTES: Final = 190_000_000
"""Of a file, below what the API takes (200 MB)."""
MOST_LINES: Final = 50_000
ROUNDS: Final = 3
OVER: Final = ("completed", "failed", "expired", "cancelled")


class BatchJudge(OpenAIJudge):
    """`OpenAIJudge` that sends its questions in batches; `poll` is how often it asks for their state, in seconds."""

    poll = 30.0
    most_lines = MOST_LINES
    most_bytes = MOST_BYTES

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """The replies in the order asked; None where a question got none in `ROUNDS` batches."""
        keys: list[str] = []
        wanted: dict[str, Request] = {}
        for prompt, image in questions:
            request = self.request(prompt, image, sampling, repeat)
            keys.append(request.key)
            if self.ledger.reply(request.key) is None:
                wanted.setdefault(request.key, request)
        if wanted:
            self._in_thread(self._collect(wanted, label))
        return [self.ledger.reply(key) for key in keys]

    async def _collect(self, wanted: Mapping[str, Request], task: str) -> None:
        from openai import APIConnectionError, APIStatusError

        open_keys = dict(wanted)
        try:
            async with self.client() as client:
                for batch, keys in self.ledger.open_batches(self.model):
                    if open_keys.keys() & set(keys):
                        await self._finish(client, batch, open_keys, task)
                for _ in range(ROUNDS):
                    # Another process may have collected some meanwhile.
                    for key in [key for key in open_keys if self.ledger.reply(key) is not None]:
                        del open_keys[key]
                    if not open_keys:
                        return
                    self._afford(open_keys.values(), task)
                    sent = [await self._send(client, part, task) for part in self._parts(open_keys.values())]
                    for batch in sent:
                        await self._finish(client, batch, open_keys, task)
        except (APIStatusError, APIConnectionError) as error:
            raise JudgeDown(
                f"{self.model}: batches: {type(error).__name__}; they are kept, and waited for by the next run"
            ) from None
        self.failures["no reply in a batch"] += len(open_keys)

    def _afford(self, requests: Iterable[Request], task: str) -> None:
        if self.budget is None:
            return
        found = list(requests)
        reply = self.expected_reply(GREEDY, task)
        cost = prices.price(self.model, sum(r.tokens for r in found), round(reply * len(found)), batch=True)
        if cost is not None and self.paid + cost > self.budget:
            raise JudgeError(
                f"{self.model}: {len(found)} questions would cost about ${cost:.4f}, the budget is ${self.budget:.4f}"
            )

    def _parts(self, requests: Iterable[Request]) -> Iterator[dict[str, bytes]]:
        """Lines by key, in parts that a file may have."""
        part: dict[str, bytes] = {}
        size = 0
        for request in requests:
            row = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": request.body}
            line = json.dumps(row).encode() + b"\n"
            if part and (size + len(line) > self.most_bytes or len(part) >= self.most_lines):
                yield part
                part, size = {}, 0
            part[request.key] = line
            size += len(line)
        if part:
            yield part

    async def _send(self, client: "AsyncOpenAI", part: Mapping[str, bytes], task: str) -> str:
        file = await client.files.create(file=("questions.jsonl", io.BytesIO(b"".join(part.values()))), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        self.ledger.open_batch(batch.id, self.model, task, list(part))
        return str(batch.id)

    async def _finish(self, client: "AsyncOpenAI", batch: str, open_keys: dict[str, Request], task: str) -> None:
        """Wait for a batch and take over what it did; its questions that got a reply, or never will, leave
        `open_keys`."""
        while (state := await client.batches.retrieve(batch)).status not in OVER:
            if self.progress is not None and state.request_counts is not None:
                self.progress(state.request_counts.completed, state.request_counts.total)
            await asyncio.sleep(self.poll)
        for file in (state.output_file_id, state.error_file_id):
            if file is not None:
                for line in (await client.files.content(file)).text.split("\n"):
                    if line.strip():
                        self._take(json.loads(line), open_keys, task)
        self.ledger.close_batch(batch)

    def _take(self, row: Mapping[str, Any], open_keys: dict[str, Request], task: str) -> None:
        from openai.types.chat import ChatCompletion
        from pydantic import ValidationError

        key = str(row.get("custom_id"))
        response = row.get("response") or {}
        if key not in open_keys:
            return
        if response.get("status_code") != 200:
            if response.get("status_code") in (400, 422):
                self.failures["refused request"] += 1
                del open_keys[key]
            return
        try:
            completion = ChatCompletion.model_validate(response.get("body"))
        except ValidationError:
            return
        usage = (completion.usage.prompt_tokens, completion.usage.completion_tokens) if completion.usage else None
        cost = prices.price(self.model, *usage, batch=True) if usage else None
        self.paid += cost or 0.0
        try:
            text = self.verdict_in(text_of(completion, usage), usage)
        except (PermanentError, TransientError) as error:
            if usage is not None:
                self.ledger.lose(key, task, self.model, error.why, *usage, cost)
            if isinstance(error, PermanentError):
                self.failures[error.why] += 1
                del open_keys[key]
            return
        self.served.add(completion.model)
        tokens: Sequence[int | None] = usage or (None, None)
        self.ledger.put(
            Call(
                key=key,
                task=task,
                model=self.model,
                served=completion.model,
                reply=text,
                prompt_tokens=tokens[0],
                completion_tokens=tokens[1],
                price=cost,
                latency=0.0,
                attempts=1,
                batch=True,
                created=now(),
            )
        )
        del open_keys[key]
