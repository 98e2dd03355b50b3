"""Asks servers of vLLM or SGLang many questions at once, in their order, and gives the replies as they come.

    client = EngineClient("vllm", ["http://127.0.0.1:8000"], "llava", at_once=64)
    for place, reply in client.ask(questions): ...      # a FailedAnswer where the server refused the question

Questions about one picture go to one server, which keeps its features and the beginning of its prompts: the first one
brings the picture, and the others come once it is answered, without the picture. Few pictures are in work at a time. A
server that does not answer is tried a few times; then the
run ends with a ServerError.
"""

import asyncio
import hashlib
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from harness.engine.config import EngineConfig
from harness.serving.engine_requests import Question, Reply, protocol_of
from support.errors import ServerError, one_line
from support.secrets import redact
from tasks.answer import FailedAnswer
from tasks.judges.bodies import read_json
from tasks.judges.chat_client import run_in_thread
from trainers.training.llava_15 import padded

if TYPE_CHECKING:
    from PIL.Image import Image

    from tasks.judges.http_client import LimitedClient

AT_ONCE: Final = 64
"""Questions in work at a server, unless a batch size is given; enough for it to fill its batches."""
PER_PICTURE: Final = 8
"""Questions at once for each picture in work: with 64 at once, eight pictures that have several questions."""
PATIENCE: Final = 1800.0
"""Seconds for one answer, with the time that it waits for others."""
TRIES: Final = 3
PAUSE = 1.0
"""Seconds between the first two tries."""
MOST_REFUSED: Final = 3
"""So many refusals, and no reply: the server refuses all questions, and the run ends."""
_REFUSED: Final = (400, 413, 422)
"""Statuses that say that this question can't be answered."""
_MOST_PICTURES: Final = 16
"""Pictures that are kept as they are sent."""


def at_once_of(engine: EngineConfig) -> int:
    """Questions in work at each server."""
    return AT_ONCE if engine.batch_size in (None, "auto") else int(engine.batch_size or AT_ONCE)


class EngineClient:
    """See the module's docstring. `adapted` names the adapter where it changes the vision encoder; `sends_template`:
    the servers were not started with our template."""

    def __init__(
        self,
        engine: str,
        servers: Sequence[str],
        model: str,
        *,
        at_once: int,
        adapted: str = "",
        sends_template: bool = False,
    ) -> None:
        self.engine, self.protocol = engine, protocol_of(engine, sends_template=sends_template)
        self.servers, self.model, self.at_once, self.adapted = list(servers), model, at_once, adapted
        self._written: OrderedDict[str, bytes] = OrderedDict()
        self._there: list[set[str]] = [set() for _ in servers]
        """Pictures that each server has."""
        self._refused: int | None = 0
        """Refusals of the questions that are asked together, while there is no reply."""

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | FailedAnswer]]:
        """The place of each question, with its reply. ServerError."""
        self._refused = 0
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        over = threading.Event()

        def work() -> None:
            try:
                run_in_thread(self._ask_all(questions, replies, over))
            except BaseException as error:
                replies.put(error)

        thread = threading.Thread(target=work, name="engine client", daemon=True)
        thread.start()
        try:
            for _ in questions:
                found = replies.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            over.set()
            thread.join()

    def server_of(self, question: Question) -> int:
        """The place of the server that is asked: the same for all questions about a picture."""
        named = hashlib.sha256("".join(question.digests).encode()).digest()
        return int.from_bytes(named[:8], "big") % len(self.servers)

    def turns_of(self, questions: Sequence[Question]) -> list["Turns"]:
        """In which order each server is asked."""
        turns = [Turns(max(1, self.at_once // PER_PICTURE)) for _ in self.servers]
        for place, question in enumerate(questions):
            turns[self.server_of(question)].add(question.digests, place)
        return turns

    async def _ask_all(self, questions: Sequence[Question], replies: Any, over: threading.Event) -> None:
        from tasks.judges.http_client import LARGEST_REPLY, LimitedClient

        turns = self.turns_of(questions)
        async with LimitedClient(timeout=PATIENCE, largest=LARGEST_REPLY, trust_env=False) as http:

            async def take(server: int) -> None:
                while not over.is_set() and (place := await turns[server].next()) is not None:
                    replies.put((place, await self._ask(http, server, questions[place])))
                    await turns[server].note(place)

            work = asyncio.gather(*(take(server) for server in range(len(self.servers)) for _ in range(self.at_once)))
            watch = asyncio.create_task(_cancel_when(over, work))
            try:
                await work
            except asyncio.CancelledError:
                if not over.is_set():
                    raise
            finally:
                watch.cancel()

    async def _ask(self, http: "LimitedClient", server: int, question: Question) -> Reply | FailedAnswer:
        import httpx2

        url = self.servers[server] + self.protocol.path
        why, known = "", self.protocol.misses != "" and all(each in self._there[server] for each in question.digests)
        tries = 0
        while tries < TRIES:
            try:
                parts = self._parts(question, known)
            except (OSError, SyntaxError, ValueError) as error:
                return FailedAnswer(f"image can't be read: {error}")
            body = self.protocol.body(question, self.model, parts)
            try:
                answer = await http.post(url, content=body, headers={"content-type": "application/json"})
            except httpx2.HTTPError as error:
                why = one_line(error) or type(error).__name__
            else:
                if answer.status_code == 200:
                    self._there[server] |= set(question.digests)
                    self._refused = None
                    return self.protocol.read(read_json(answer.content))
                why = redact(f"{answer.status_code}: {_words_of(answer)}")
                if known and self.protocol.misses in why:
                    self._there[server] -= set(question.digests)
                    known = False
                    continue
                if answer.status_code in _REFUSED:
                    return self._refuse(why)
            tries += 1
            await asyncio.sleep(PAUSE * tries)
        raise ServerError(f"the server of {self.engine} at {self.servers[server]} does not answer: {why}")

    def _refuse(self, why: str) -> FailedAnswer:
        """ServerError where nothing but refusals came."""
        if self._refused is not None:
            self._refused += 1
            if self._refused >= MOST_REFUSED:
                raise ServerError(f"the server of {self.engine} refuses every question: {why}")
        return FailedAnswer(f"{self.engine} refuses the question: {why}")

    def _parts(self, question: Question, known: bool) -> list[bytes]:
        """The pictures of a question as they are sent."""
        pairs = zip(question.digests, question.pictures, strict=True)
        if known:
            return [self.protocol.part(digest, None, self.adapted) for digest in question.digests]
        return [self._write(digest, image, question.pads) for digest, image in pairs]

    def _write(self, digest: str, image: "Image", pads: bool) -> bytes:
        if digest not in self._written:
            shown = padded(image) if pads else image
            self._written[digest] = self.protocol.part(digest, shown, self.adapted)
        self._written.move_to_end(digest)
        while len(self._written) > _MOST_PICTURES * len(self.servers):
            self._written.popitem(last=False)
        return self._written[digest]


class Turns:
    """Which question a server is asked next: those about a picture come once the first of them is answered, so that the
    server has the picture, and few pictures are in work at a time, as many as it keeps features of."""

    def __init__(self, most_open: int) -> None:
        self.most_open, self.open = most_open, 0
        self.groups: dict[tuple[str, ...], deque[int]] = {}
        """What was not asked yet, by pictures."""
        self.ready: deque[int] = deque()
        self.first: dict[int, deque[int]] = {}
        """The first question about a picture, in work -> the others."""
        self.left: dict[int, list[int]] = {}
        """Question -> how many about its picture have no answer yet."""
        self.changed = asyncio.Condition()

    def add(self, digests: tuple[str, ...], place: int) -> None:
        """One more question, at the end."""
        self.groups.setdefault(digests, deque()).append(place)

    async def next(self) -> int | None:
        """The question whose turn it is; None after the last one."""
        async with self.changed:
            while not self.ready and (self.groups or self.open):
                digests = next(iter(self.groups), None)
                if digests is not None and (len(self.groups[digests]) == 1 or self.open < self.most_open):
                    self._begin(self.groups.pop(digests), gated=bool(digests))
                else:
                    await self.changed.wait()
            return self.ready.popleft() if self.ready else None

    def _begin(self, group: deque[int], *, gated: bool) -> None:
        if not gated or len(group) == 1:
            self.ready.extend(group)
            return
        self.open += 1
        left = [len(group)]
        self.left |= {place: left for place in group}  # noqa: C420
        first = group.popleft()
        self.ready.append(first)
        self.first[first] = group

    async def note(self, place: int) -> None:
        """It has an answer."""
        async with self.changed:
            self.ready.extend(self.first.pop(place, ()))
            if (left := self.left.pop(place, None)) is not None:
                left[0] -= 1
                self.open -= left[0] == 0
            self.changed.notify_all()


async def _cancel_when(over: threading.Event, work: "asyncio.Future[Any]") -> None:
    """End what is in work once nobody waits for it."""
    while not over.is_set():
        await asyncio.sleep(0.1)
    work.cancel()


def _words_of(answer: Any) -> str:
    """What a refusal says."""
    try:
        found = read_json(answer.content)
        told = found.get("error", found) if isinstance(found, dict) else found
        return one_line(str(told.get("message", told) if isinstance(told, dict) else told))[:300]
    except ValueError:
        return one_line(answer.text)[:300]
