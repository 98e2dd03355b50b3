"""A judge behind any OpenAI-compatible server, with a ledger: nothing is paid for twice, and no failure looks like a
reply.

    judge = OpenAIJudge("gpt-4o-2024-11-20", ledger=Ledger(Path("ledger.sqlite")))
    replies = judge.ask_many(questions, label="mmhal")
    judge.failures                  # {"content filter": 2}

What is worth another try (429, 5xx, a cut connection, a reply that is none) is tried again, after what the server asks
for and a bit of chance; 429 also lowers how many calls run at once. What is not (400, a content filter, a prompt too
long) leaves the question without a reply. A server that stays down, a refused key or an empty account ends the run with
`JudgeDown`, a spent budget with `BudgetSpent`: all replies so far are in the ledger, and the same command goes on from
there.

Keys and images are never logged. The client's own retries are off: it repeats what is hopeless and doesn't wait where
it should.
"""

import asyncio
import base64
import hashlib
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from PIL import Image

from support.errors import JudgeError
from support.images import PromptImage, encoded
from tasks.judges import prices
from tasks.judges.chat_client import NEW_LIMIT, Request, Run, TransientError, end_all, text_of
from tasks.judges.ledger import Ledger
from tasks.judges.protocol import GREEDY, Question, Sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion


T = TypeVar("T")

TYPICAL_REPLY: Final = 150
"""Tokens of a reply, where the ledger knows of none and the protocol sets no limit."""
PASSED_ON: Final = ("PNG", "JPEG", "WEBP", "GIF")
STRUCTURED: Final = (
    "\n\nGive all this as one JSON object: explanation holds your reasons, verdict what the above asks for as the form of your reply, "
    "exactly in that form and nothing else."
)
FORM: Final[Mapping[str, Any]] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"explanation": {"type": "string"}, "verdict": {"type": "string"}},
            "required": ["explanation", "verdict"],
            "additionalProperties": False,
        },
    },
}
"""What a structured reply looks like; reasons can't be taken for the verdict then."""


class OpenAIJudge:
    """See the module's docstring.

    `url` and `key` default to OPENAI_BASE_URL and OPENAI_API_KEY. `attempts` are tries of one question; a 429 is none
    while the server has answered anything in the last `patience` seconds. `structured` asks for JSON in which reasons
    and verdict are apart. `image_side` is the longest side of an image in pixels (None: as it is).
    `requests_per_minute`, `tokens_per_minute` and `budget` (US dollars for this judge's life) are limits of the user's;
    `progress` hears (replies, asked).
    """

    def __init__(
        self,
        model: str,
        *,
        ledger: Ledger,
        url: str | None = None,
        key: str | None = None,
        detail: str = "auto",
        image_side: int | None = None,
        seed: int | None = 0,
        structured: bool = False,
        timeout: float = 120.0,
        attempts: int = 8,
        patience: float = 300.0,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        budget: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model = model
        self.ledger, self.url = ledger, url
        self.detail, self.image_side, self.seed, self.structured = detail, image_side, seed, structured
        self.timeout, self.attempts, self.concurrency, self.patience = timeout, attempts, concurrency, patience
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self.budget, self.progress = budget, progress
        self.served: set[str] = set()
        """What the server says has answered."""
        self.failures: Counter[str] = Counter()
        """Questions without a reply, by reason."""
        self.asked = 0
        """Calls that were sent, tries included."""
        self.paid = 0.0
        """US dollars since this judge was made, as far as prices are known."""
        self._key = key

    def ask(self, prompt: str, image: Image.Image | None = None, sampling: Sampling = GREEDY) -> str:
        """The reply to one question; JudgeError where there is none."""
        (reply,) = self.ask_many([(prompt, image)], sampling)
        if reply is None:
            raise JudgeError(f"{self.model}: no reply ({', '.join(self.failures)})")
        return reply

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> list[str | None]:
        """The replies in the order asked, from the ledger where they are there; None where a question has none."""
        return self._in_thread(Run(self, sampling, label, repeat).replies(questions))

    @staticmethod
    def _in_thread(work: Coroutine[Any, Any, T]) -> T:
        """Run it in a loop and a thread of its own: the caller may be inside a running loop. Interrupted, it ends what
        is on its way."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="judge", daemon=True)
        thread.start()
        try:
            return asyncio.run_coroutine_threadsafe(work, loop).result()
        finally:
            asyncio.run_coroutine_threadsafe(end_all(loop), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def client(self) -> "AsyncOpenAI":
        """The official client, its own retries off."""
        from openai import AsyncOpenAI

        key = self._key or ("none" if self.url else None)
        return AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=self.timeout)

    def verdict_in(self, reply: str, usage: tuple[int, int] | None) -> str:
        """What the benchmark's parser gets of a reply: all of it, or where it is structured, the verdict alone."""
        if not self.structured:
            return reply
        try:
            verdict = json.loads(reply)["verdict"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise TransientError("not the JSON asked for", usage=usage) from None
        return str(verdict)

    def reply_in(self, completion: "ChatCompletion", usage: tuple[int, int] | None) -> str:
        """The reply in a completion; Retry or Hopeless where it is none."""
        return self.verdict_in(text_of(completion, usage), usage)

    def request(self, prompt: str, image: Image.Image | None, sampling: Sampling, repeat: int = 0) -> Request:
        """How a question is sent: its body, and its digest."""
        if self.structured:
            prompt += STRUCTURED
        content: Any = prompt
        tokens = prices.text_tokens(prompt) + (prices.text_tokens(sampling.system) if sampling.system else 0)
        picture: dict[str, Any] | None = None
        if image is not None:
            part, picture, more = self.part(image)
            content = [{"type": "text", "text": prompt}, part]
            tokens += more
        settings: dict[str, Any] = {}
        if sampling.temperature is not None:
            settings["temperature"] = sampling.temperature
        if sampling.max_tokens is not None and not self.structured:  # a protocol's limit leaves no room for JSON
            limit = "max_completion_tokens" if self.model.startswith(NEW_LIMIT) else "max_tokens"
            settings[limit] = sampling.max_tokens
        if self.seed is not None:
            settings["seed"] = self.seed
        if self.structured:
            settings["response_format"] = FORM
        system = [{"role": "system", "content": sampling.system}] if sampling.system else []
        named = {
            "schema": 1,
            "model": self.model,
            "system": sampling.system,
            "prompt": prompt,
            "image": picture,
            "repeat": repeat,
        }
        canonical = json.dumps(named | {"settings": settings}, sort_keys=True, separators=(",", ":"))
        body = {"model": self.model, "messages": [*system, {"role": "user", "content": content}], **settings}
        return Request(
            body=body, key=hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest(), tokens=tokens
        )

    def part(self, image: Image.Image) -> tuple[dict[str, Any], dict[str, Any], int]:
        """An image as it is sent, what names it in the ledger, and its tokens, about."""
        data, kind, size = _image(image, self.image_side)
        url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        part = {"type": "image_url", "image_url": {"url": url, "detail": self.detail}}
        named = {"sha256": hashlib.sha256(data).hexdigest(), "kind": kind, "detail": self.detail}
        return part, named, prices.image_tokens(self.model, *size, self.detail)

    def expected_reply(self, sampling: Sampling, label: str) -> float:
        """Tokens a reply will have, about: as those so far, else the protocol's limit where it is low, else what is
        typical."""
        so_far = self.ledger.completion_tokens(label, self.model)
        if so_far is not None:
            return so_far
        return min(TYPICAL_REPLY, sampling.max_tokens or TYPICAL_REPLY)


def _image(image: Image.Image, longest: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """What is sent of an image: its own file where a server reads that and it need not shrink, else a PNG; with its
    size in pixels."""
    width, height = image.size
    if longest is None or max(width, height) <= longest:
        if isinstance(image, PromptImage) and image.format in PASSED_ON:
            return encoded(image), str(image.format).lower(), (width, height)
        small = image
    else:
        scale = longest / max(width, height)
        small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue(), "png", small.size
