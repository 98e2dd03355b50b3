"""A candidate model behind any OpenAI-compatible server (GPT-4o, or what vLLM, SGLang and transformers serve) as an
lm-eval LM.

    lm = OpenAIVisionLM("gpt-4o-2024-11-20")                        # OPENAI_API_KEY, OPENAI_BASE_URL
    lm = OpenAIVisionLM("visualglm-6b", url="http://127.0.0.1:8000/v1", concurrency=4)
    lm.generate_until(requests)
    lm.provenance()             # {"asked": "visualglm-6b", "served": "THUDM/visualglm-6b", "server": "http://127.0.0.1:8000/v1"}

Calls go through the judge's client and ledger: the same tries, limits and budget; no answer is paid for twice, and
after a kill the same command asks only for the rest. A call without a reply is a `FailedAnswer`; a server that stays
down ends the run with `JudgeDown`. The server's URL is part of what names an answer in the ledger, since "default" is
another model elsewhere; new weights under an old name and URL need another ledger.
"""

import base64
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from PIL.Image import Image

from support.errors import ModelError, SettingError
from tasks.answer import FailedAnswer
from tasks.judges import prices
from tasks.judges.chat_client import NEW_LIMIT, PermanentError, Request
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Question, Sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

PLACE: Final = "<image>"
"""Where an image stands in a prompt; lm-eval's."""
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
"""What parts a system message from the prompt, in a context that has one."""
OPENAI: Final = "https://api.openai.com/v1"
MOST_STOPS: Final = 4
"""Stop sequences that a server takes; the answer is cut at all of them here."""


@dataclass(frozen=True, kw_only=True)
class Decoding(Sampling):
    """What a task asks of decoding."""

    until: tuple[str, ...] = ()
    top_p: float | None = None
    seed: int | None = None


class _Prompt(str):
    """A prompt with its images, on its way through the judge's client."""

    __slots__ = ("images",)
    images: Sequence[Image]

    def __new__(cls, text: str, images: Sequence[Image]) -> "_Prompt":
        prompt = super().__new__(cls, text)
        prompt.images = images
        return prompt


class _Asker(OpenAIJudge):
    """The judge's client with another question: several images in their places, stop sequences, and an empty answer is
    one."""

    def __init__(self, model: str, *, url: str, identity: str | None = None, **settings: Any) -> None:
        # Credentials would be logged with the URL: they go in a header.
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        self.server = urlunsplit((parts.scheme, host, parts.path, "", ""))
        self.identity = identity or self.server
        """What names the server in the ledger."""
        self.headers = {"Authorization": "Basic " + base64.b64encode(unquote(user).encode()).decode()} if user else {}
        self.keys: set[str] = set()
        """Names in the ledger of what was asked so far."""
        super().__init__(model, url=self.server, **settings)

    def client(self) -> "AsyncOpenAI":
        return super().client().with_options(default_headers=self.headers)

    def request(self, prompt: str, image: Image | None, sampling: Sampling, repeat: int = 0) -> Request:
        assert isinstance(prompt, _Prompt)
        assert isinstance(sampling, Decoding)
        content: list[dict[str, Any]] = []
        named: list[Any] = []
        tokens = prices.text_tokens(prompt + (sampling.system or ""))
        for index, text in enumerate(prompt.split(PLACE)):
            if index:
                part, name, more = self.part(prompt.images[index - 1])
                content.append(part)
                named.append(name)
                tokens += more
            if text.strip():
                content.append({"type": "text", "text": text})
                named.append(text)
        settings = self._settings(sampling)
        facts = {
            "answers": 1,
            "model": self.model,
            "server": self.identity,
            "system": sampling.system,
            "content": named,
        }
        canonical = json.dumps(facts | {"repeat": repeat, "settings": settings}, sort_keys=True, separators=(",", ":"))
        self.keys.add(key := hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest())
        system = [{"role": "system", "content": sampling.system}] if sampling.system else []
        user = {"role": "user", "content": content if prompt.images else str(prompt)}
        return Request(body={"model": self.model, "messages": [*system, user], **settings}, key=key, tokens=tokens)

    def _settings(self, sampling: Decoding) -> dict[str, Any]:
        thinks = self.model.startswith(NEW_LIMIT)
        settings: dict[str, Any] = {"max_completion_tokens" if thinks else "max_tokens": sampling.max_tokens}
        if not thinks:  # they refuse all three
            settings |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "stop": list(sampling.until[:MOST_STOPS]) or None,
            }
        settings["seed"] = self.seed if sampling.seed is None else sampling.seed
        return {name: value for name, value in settings.items() if value is not None}

    def reply_in(self, completion: "ChatCompletion", usage: tuple[int, int] | None) -> str:
        choice = completion.choices[0] if completion.choices else None
        if (
            choice is not None
            and choice.message is not None
            and not (choice.message.content or choice.message.refusal or "").strip()
        ):
            if choice.finish_reason == "length":  # the same again would cost the same again
                raise PermanentError("no answer within the limit of tokens", usage)
            if (
                choice.finish_reason == "stop" and choice.message.content is not None
            ):  # null is no answer, an empty one is
                return choice.message.content
        return super().reply_in(completion, usage)


class OpenAIVisionLM(LM):
    """See the module's docstring.

    `key` defaults to OPENAI_API_KEY where no `url` is given: a key goes to no server it was not meant for. `identity`
    names in the ledger what is behind a URL that is another one next time. `max_new_tokens` is for tasks that set no
    limit; `thinking_tokens` come on top of any, for models whose thoughts count. `progress` hears (answered, asked).
    `settings` are further ones of `OpenAIJudge`: budget, image_side, seed (None: not sent), timeout, attempts,
    requests_per_minute, ...
    """

    MULTIMODAL = True

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        key: str | None = None,
        identity: str | None = None,
        ledger: Path | None = None,
        max_new_tokens: int = 256,
        thinking_tokens: int = 0,
        detail: str = "auto",
        concurrency: int = 16,
        progress: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if url is None:
            key = key or os.environ.get("OPENAI_API_KEY")
            url = os.environ.get("OPENAI_BASE_URL") or (OPENAI if key else None)
        if url is None:
            raise SettingError(f"model {model!r}: set OPENAI_API_KEY, or name its server by --model-url")
        self.max_new_tokens, self.thinking_tokens, self.progress = max_new_tokens, thinking_tokens, progress
        books = Ledger(ledger or LEDGER)
        self.asker = _Asker(
            model, url=url, identity=identity, key=key, ledger=books, detail=detail, concurrency=concurrency, **settings
        )

    @property
    def tokenizer_name(self) -> str:
        """Names the form of contexts in lm-eval's cache of requests: it is the same for all servers."""
        return "openai-chat"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The user's text as it is, after the system message where there is one: the server has the template."""
        system = [turn["content"] for turn in chat_history if turn["role"] == "system"]
        rest = [turn["content"] for turn in chat_history[len(system) :] if turn["role"] == "user"]
        if len(system) > 1 or len(rest) != 1 or len(chat_history) != len(system) + 1 or not add_generation_prompt:
            roles = ", ".join(turn["role"] for turn in chat_history)
            raise ModelError(
                f"{self.asker.model}: only one user turn can be asked of a server, after a system message or not; got {roles}"
            )
        return f"{SYSTEM}{''.join(system)}{USER}{rest[0]}" if system or rest[0].startswith(SYSTEM) else rest[0]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where the call failed or the images can't be shown."""
        groups: dict[tuple[str, int, Decoding], list[int]] = defaultdict(list)
        asked: Counter[int] = Counter()
        for index, request in enumerate(requests):
            system, _ = _parted(request.args[0])
            decoding = self._decoding(request.args[1], system)
            # lm-eval repeats a request as the same object: sampled, it is asked anew.
            repeat = asked[id(request)] if decoding.temperature != 0 else 0
            asked[id(request)] += 1
            groups[request.task_name or "", repeat, decoding].append(index)
        answers: dict[int, str] = {}
        first_seen = _first_seen(requests)
        for (task, repeat, decoding), unordered in groups.items():
            # One image's questions one after the other: a server that keeps prefixes reads the image once.
            indices = sorted(unordered, key=lambda index: first_seen[index])
            sent: list[int] = []
            failed = Counter(self.asker.failures)
            self.asker.progress = None if disable_tqdm else self._from(len(answers), len(requests))
            label = f"{task} (answers)" if task else "answers"
            questions = _questions(requests, indices, sent, answers)
            replies = self.asker.ask_many(questions, decoding, label=label, repeat=repeat)
            why = ", ".join(self.asker.failures - failed)
            for index, reply in zip(sent, replies, strict=True):
                answers[index] = FailedAnswer(f"no reply ({why})") if reply is None else _cut(reply, decoding.until)
        if self.progress is not None and not disable_tqdm:
            self.progress(len(requests), len(requests))
        return [answers[index] for index in range(len(requests))]

    def _decoding(self, given: Mapping[str, Any], system: str | None) -> Decoding:
        until = given.get("until") or ()
        until = tuple(end for end in ([until] if isinstance(until, str) else until) if end)
        tokens = given.get("max_gen_toks", self.max_new_tokens) + self.thinking_tokens
        if not given.get("do_sample"):
            return Decoding(system=system, max_tokens=tokens, until=until, seed=given.get("seed"))
        known = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "seed")
        # 0 and 1 switch most of them off (top_k, num_beams, repetition_penalty).
        if unknown := sorted(name for name, value in given.items() if name not in known and value not in (None, 0, 1)):
            raise ModelError(f"{self.asker.model}: a server of chat completions has no setting {', '.join(unknown)}")
        chosen: dict[str, Any] = {name: given.get(name) for name in ("temperature", "top_p", "seed")}
        return Decoding(system=system, max_tokens=tokens, until=until, **chosen)

    def _from(self, before: int, total: int) -> Callable[[int, int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done, _: progress(before + done, total)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Not to be had."""
        raise NotImplementedError(
            "a server of chat completions gives no likelihoods: only tasks that generate can be scored"
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not to be had."""
        return [value for value, _ in self.loglikelihood(requests)]

    def provenance(self) -> dict[str, str]:
        """What has answered, in this run or when its replies were paid for: id asked for, ids the server returned, and
        where that was."""
        # From the ledger, not from this process: a second run makes no calls.
        served = {call.served for call in self.asker.ledger.calls() if call.key in self.asker.keys}
        found = {"asked": self.asker.model, "served": ", ".join(sorted(served)), "server": self.asker.server}
        if self.asker.model.startswith(NEW_LIMIT):
            found["decoding"] = "the server's own"
        if self.asker.detail != "auto" or self.asker.image_side is not None:
            found["images"] = f"detail {self.asker.detail}, longest side {self.asker.image_side or 'as it is'}"
        return found


def _first_seen(requests: Sequence[Instance]) -> list[int]:
    """For each request, the first one about the same images."""
    seen: dict[object, int] = {}
    found = []
    for index, request in enumerate(requests):
        images = request.args[2]["visual"] if len(request.args) > 2 else []
        found.append(seen.setdefault(tuple(getattr(image, "key", None) or id(image) for image in images), index))
    return found


def _parted(context: str) -> tuple[str | None, str]:
    """System message and user's text of a context."""
    if not context.startswith(SYSTEM):
        return None, context
    system, _, text = context.removeprefix(SYSTEM).partition(USER)
    return system or None, text


def _questions(
    requests: Sequence[Instance], indices: Sequence[int], sent: list[int], answers: dict[int, str]
) -> Iterator[Question]:
    """The questions of some requests, opened as they are asked; `sent` says whose they are, the others fail in
    `answers`."""
    for index in indices:
        _, text = _parted(requests[index].args[0])
        images = requests[index].args[2]["visual"] if len(requests[index].args) > 2 else []
        try:
            for image in images:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            answers[index] = FailedAnswer(f"image can't be shown: {error}")
            continue
        if (places := text.count(PLACE)) != len(images):
            answers[index] = FailedAnswer(f"{len(images)} images for {places} places in the prompt")
            continue
        sent.append(index)
        yield _Prompt(text, images), None


def _cut(answer: str, until: Sequence[str]) -> str:
    for end in until:
        answer = answer.split(end)[0]
    return answer
