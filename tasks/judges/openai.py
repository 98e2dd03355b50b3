"""A judge behind any OpenAI-compatible server.

    judge = OpenAIJudge("gpt-4o-2024-11-20", ledger=Ledger(Path("ledger.sqlite")))
    replies = judge.ask_many(questions, label="mmhal")
    judge.client.failures           # {"content filter": 2}

Calls, failures, limits and money are the business of `tasks.judges.chat_client`.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from typing import Any, Final

from PIL import Image

from support.errors import HarnessError, JudgeError, one_line
from tasks.answer import FailedAnswer
from tasks.judges import prices
from tasks.judges.addresses import NO_KEY, Server, server_of
from tasks.judges.capabilities import capabilities_of, check_taken
from tasks.judges.chat_client import ChatClient
from tasks.judges.failures import TransientError
from tasks.judges.ledger import Ledger
from tasks.judges.parameters import Parameters
from tasks.judges.protocol import GREEDY, Question, Replies, Sampling, reasons_of
from tasks.judges.replies import Reply, read_verdict, without_fence
from tasks.judges.requests import NotAsked, Request, image_part, key_of, limit_of, messages_of
from tasks.judges.settings import JudgeSettings
from tasks.thoughts import NEVER_ENDED, without_thoughts

log = logging.getLogger(__name__)

STRUCTURED_PROMPT: Final = (
    "\n\nGive all this as one JSON object: explanation holds your reasons, verdict what the above asks for as the form "
    "of your reply, exactly in that form and nothing else."
)
STRUCTURED_FORMAT: Final[Mapping[str, Any]] = {
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

    `url` is an address or a server, by default OPENAI_BASE_URL; `key` is by default OPENAI_API_KEY; `budget` is in US
    dollars, for all processes that share the ledger, until `end_run`. `known_as` names the server in the ledger in
    place of its address: a name, or the address that it had before. `kind` is what the server calls itself
    (`server_kind`). SettingError for a setting that the model is known not to take.
    """

    def __init__(
        self,
        model: str,
        *,
        ledger: Ledger,
        url: str | Server | None = None,
        key: str | None = None,
        budget: float | None = None,
        settings: JudgeSettings | None = None,
        known_as: str | None = None,
        kind: str = "",
    ) -> None:
        self.model, self.settings = model, settings or JudgeSettings()
        server = url if isinstance(url, Server) else server_of(url, name=model, role="judge", key=key)
        self.identity = server.identity if known_as is None else _identify(known_as, model)
        """What names the server in the ledger."""
        more: dict[str, Any] = {"ledger": ledger, "budget": budget, "settings": self.settings}
        self.shown: dict[str, bool] = {}
        """Whether a question had an image, by task."""
        asked, takes = self.settings.asked(), capabilities_of(model, server.known_host, kind)
        check_taken(model, takes, {how: (name, value) for name, (value, how) in asked.items()})
        self.client = ChatClient(model, server, identity=self.identity, **more)
        self.client.parameters = Parameters(
            model, room=True, takes=takes, asked={name: how for name, (_, how) in asked.items()}
        )
        # JSON has no protocol's limit, and a reply without one may go on to the end of the model's context.
        self.client.parameters.needs_limit |= self.settings.structured

    def ask(self, prompt: str, image: Image.Image | None = None, sampling: Sampling = GREEDY) -> str:
        """The reply to one question; JudgeError where there is none."""
        (reply,) = replies = self.ask_many([(prompt, image)], sampling)
        if reply is None:
            raise JudgeError(f"{self.model}: no reply ({reasons_of(replies)[0].error})")
        return reply

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> Replies:
        """The replies in the order asked, from the ledger where they are there; None where a question has none."""
        requests = (self.request_or_reason(question, sampling, repeat, label) for question in questions)
        total = len(questions) if isinstance(questions, Sized) else None
        replies = self.client.ask_many(requests, self.read, stage=f"judge {label}" if label else "", total=total)
        return self.verdicts_in(replies)

    def tell_reuse(self, label: str) -> None:
        """Log how many replies since the last time were kept ones, and when they were asked for; and what of settings
        did not act."""
        if self.shown.get(label) is False and (images := self.settings.images_in_words()):
            log.warning("%s: %s: did not act: no question to the judge has an image", label, images)
        if told := self.client.reused.take("reply", "replies"):
            log.info("%s: %s of the judge %s", label, told, self.model)
        if count := self.client.without_server:
            self.client.without_server = 0
            log.warning("%s: %d of them were kept without their server's address, which may be another", label, count)

    def begin_run(self) -> None:
        """What is needed is there, and questions will come: other processes share the budget from here on."""
        if self.client.budget is not None:
            self.client.budget.begin()

    def end_run(self) -> None:
        """What was to be asked is asked: the next command's budget begins anew."""
        if self.client.budget is not None:
            self.client.budget.end()

    def read(self, body: Any, request: Request) -> Reply:
        """The reply in a body, as it is kept: all of it, or where it is structured, the verdict alone."""
        reply = read_verdict(body, cut_is_whole=request.cut_is_whole, limit=request.limit_sent, room=request.room)
        if not self.settings.structured:
            return reply
        try:
            found = json.loads(without_fence(self.verdict_in(reply.text) or ""))["verdict"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise TransientError("not the JSON asked for", answered=True, usage=reply.usage)
        return replace(reply, text=str(found))

    def verdicts_in(self, replies: Replies) -> Replies:
        """What the benchmark's parser gets of replies that were kept."""
        verdicts = list(map(self.verdict_in, replies))
        unread = {place for place, reply in enumerate(replies) if reply is not None and verdicts[place] is None}
        return Replies(verdicts, {**dict.fromkeys(unread, FailedAnswer(NEVER_ENDED)), **replies.lost})

    def verdict_in(self, reply: str | None) -> str | None:
        """What the benchmark's parser gets of a reply that was kept: all but its thoughts, and the space that a
        server's detokenizer puts before the first word."""
        verdict = None if reply is None else without_thoughts(reply)
        return None if verdict is None else verdict.removeprefix(" ")

    def request_or_reason(
        self, question: Question, sampling: Sampling, repeat: int = 0, label: str = ""
    ) -> Request | NotAsked:
        """How a question is sent, or why it can't be."""
        try:
            return self.request(*question, sampling, repeat, label)
        except HarnessError:  # a table of prices that can't be read, for example
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return NotAsked(why=f"image can't be shown: {one_line(error)[:200]}")

    def request(
        self, prompt: str, image: Image.Image | None, sampling: Sampling, repeat: int = 0, label: str = ""
    ) -> Request:
        """How a question is sent, and its key in the ledger."""
        structured = self.settings.structured
        if structured:
            prompt += STRUCTURED_PROMPT
        tokens = prices.text_tokens(prompt) + prices.text_tokens(sampling.system or "")
        content: Any = prompt
        named_image: Mapping[str, Any] | None = None
        self.shown[label] = self.shown.get(label, False) or image is not None
        if image is not None:
            shown = image_part(self.model, image, self.settings.detail, self.settings.image_side)
            content = [{"type": "text", "text": prompt}, shown.part]
            named_image, tokens = shown.named, tokens + shown.tokens
        settings: dict[str, Any] = {}
        if sampling.temperature is not None:
            settings["temperature"] = sampling.temperature
        if sampling.top_p is not None:
            settings["top_p"] = sampling.top_p
        if sampling.max_tokens is not None and not structured:  # a protocol's limit leaves no room for JSON
            settings |= limit_of(self.model, sampling.max_tokens)
        if self.settings.seed is not None:
            settings["seed"] = self.settings.seed
        if self.settings.reasoning_effort is not None:
            settings["reasoning_effort"] = self.settings.reasoning_effort
        if structured:
            settings["response_format"] = STRUCTURED_FORMAT
        facts: dict[str, Any] = {"schema": 1, "model": self.model, "system": sampling.system, "prompt": prompt}
        facts |= {"image": named_image, "repeat": repeat, "settings": settings}
        body = {"model": self.model, "messages": messages_of(sampling.system, content), **settings}
        more: dict[str, Any] = {"max_tokens": sampling.max_tokens, "cut_is_whole": sampling.cut_is_whole}
        more |= {"key": key_of(facts | {"server": self.identity}), "before": key_of(facts)}
        return Request(body=body, tokens=tokens, label=label, **more)


def _identify(known_as: str, model: str) -> str:
    """What a name, or an address, stands for in the ledger."""
    if "://" not in known_as:
        return known_as
    return server_of(known_as, name=model, role="judge", key=NO_KEY, what="--judge-known-as").identity
