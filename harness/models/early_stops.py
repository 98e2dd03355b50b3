"""Answers of a server that end once they are decided, as those of a local model do.

    stops = EarlyStops(lambda: why_no_early_stops(server, facts, {"model": model}, thinks=False))
    early = stops.shorten(decoding, hint)       # the same with a lower limit or one more stop sequence; or None
    stops.is_settled(reply, hint, early)        # False: it is asked again, in full

A server follows no rule, but takes `max_tokens` and `stop`. A task says which part of an answer decides (`reads`); a
reply that was cut counts only where the task's rule says of the text that came that nothing more can change what is
read from it, so a score is that of full answers whatever the model writes. What can't be seen in a reply is a thought
that the chat template has opened: early stops are used only where the end of a prompt is known, or where thoughts are
never part of a reply's text. Sampled answers are not cut: of those that are not decided another one would be drawn.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from harness.engine.chat_template import SWITCHES, find_switch
from harness.models.server_facts import ServerFacts
from tasks.answer import FailedAnswer, with_words
from tasks.early_exit import Reads
from tasks.judges.bodies import read_json
from tasks.judges.chat_client import run_in_thread
from tasks.judges.replies import Reply, take_first_choice
from tasks.thoughts import MARKS, Pairs, answer_of, is_decided, marks_in

if TYPE_CHECKING:
    from harness.engine.jobs import Hints
    from harness.models.served_sampling import Decoding
    from tasks.judges.addresses import Server

APART: Final = (".openai.com", ".azure.com", ".azure-api.net", ".googleapis.com", ".anthropic.com")
"""Hosts whose models' thoughts are never in a reply's text."""
PROMPTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "vllm": ("/tokenize", {"return_token_strs": True}),
    "llama.cpp": ("/apply-template", {}),
}
"""Where a program shows a prompt, and how it is asked for it."""
PATIENCE: Final = 20.0
"""Seconds for the end of a prompt."""
THINKS: Final = "the model thinks before it answers"
NOT_SHOWN: Final = "the server does not show how its prompts end"
OPENED: Final = "the server's chat template opens a thought"
STOPPED: Final = "stopped"
"""Field of what the ledger keeps: whether our stop sequence ended the reply."""


class EarlyStops:
    """See the module's docstring. `find_why_not` is called for the first answer that could end early; `own`: marks of
    thoughts that the model's template names."""

    def __init__(self, find_why_not: Callable[[], str], *, own: Pairs = ()) -> None:
        self._find_why_not, self.own = find_why_not, own
        self.used: set[str] = set()
        """What answers that count were asked with, in words."""
        self.is_wanted = self.met_thoughts = False

    @cached_property
    def why_not(self) -> str:
        """Why there are none; empty: there may be."""
        return self._find_why_not()

    def shorten(self, decoding: "Decoding", hint: "Hints | None") -> "Decoding | None":
        """How an answer is asked for that ends once it is decided; None where it is asked for in full."""
        if hint is None or hint.reads is None or hint.decided is None or decoding.temperature != 0:
            return None
        if hint.reads.before is not None:
            early = replace(decoding, until=(hint.reads.before, *decoding.until))
        else:
            # A token has a character at least, but for a space before the first word that is taken off.
            limit = (hint.reads.characters or 0) + 1
            if decoding.max_tokens is not None and decoding.max_tokens <= limit:
                return None
            early = replace(decoding, max_tokens=limit)
        self.is_wanted = True
        return None if self.why_not or self.met_thoughts else early

    def is_settled(self, reply: str, hint: "Hints | None", early: "Decoding") -> bool:
        """Whether what is read from a reply is what would be read from the full one."""
        if hint is None or hint.reads is None or hint.decided is None or isinstance(reply, FailedAnswer):
            return True
        limited = getattr(reply, "limited", False)
        if not reply and (limited or hint.reads.before is not None):  # there were thoughts alone, or an empty sentence
            return False
        if hint.reads.before is not None and not limited:
            settled = is_decided(reply + hint.reads.before, "", hint.decided, own=self.own)
        elif limited and hint.reads.before is None:
            settled = is_decided(reply, "", hint.decided, own=self.own)
        else:
            settled = True
        settled = settled and not isinstance(answer_of(reply, own=self.own), FailedAnswer)
        if settled:
            before = hint.reads.before
            self.used.add(f"max_tokens {early.max_tokens}" if before is None else f"stop {before!r}")
        return settled

    def note(self, reply: Reply) -> None:
        """Ask in full from here on if the model thinks, after all."""
        is_empty = reply.limited and not reply.text
        self.met_thoughts = self.met_thoughts or is_empty or answer_of(reply.text, own=self.own) != reply.text

    def was_cut(self, reply: str, hint: "Hints | None", told: Mapping[str, Any]) -> bool:
        """Whether a settled reply may go on beyond what came."""
        if hint is None or hint.reads is None or hint.reads.before is None:
            return bool(getattr(reply, "limited", False))
        return not getattr(reply, "limited", False) and bool(told.get(STOPPED, hint.reads.before not in reply))

    def in_words(self) -> str:
        """What was sent, for entries; empty where no task has such stops."""
        if self.used or not self.is_wanted:
            return ", ".join(sorted(self.used))
        return f"none: {self.why_not or (THINKS if self.met_thoughts else 'the answers are kept ones')}"


def stopped_by(body: Any, reads: Reads | None, sent: Mapping[str, Any]) -> dict[str, Any]:
    """Whether our stop sequence ended a reply, where its server says so: vLLM, SGLang. `sent`: the request."""
    if reads is None or reads.before is None:
        return {}
    if reads.before not in (sent.get("stop") or ()):  # the model takes none
        return {STOPPED: False}
    choice = take_first_choice(body, None)
    named = next((name for name in ("stop_reason", "matched_stop") if name in choice), None)
    return {} if named is None else {STOPPED: choice[named] == reads.before}


def why_no_early_stops(server: "Server", facts: ServerFacts, chat: Mapping[str, Any], *, thinks: bool) -> str:
    """Why answers can't be stopped early; empty where they can. `chat`: a request's model, and the settings of its chat
    template."""
    if thinks:
        return THINKS
    host = urlsplit(server.url).hostname or ""
    openings = "|".join(re.escape(opening) for opening, _ in (*MARKS, *marks_in(facts.template)))
    opening = re.compile(openings, re.IGNORECASE)
    if f".{host}".endswith(APART) or (facts.template is not None and not opening.search(facts.template)):
        return ""
    ending = find_prompt(server, facts, chat)
    if ending is None:
        return NOT_SHOWN
    return OPENED if any(found.end() == len(ending.rstrip()) for found in opening.finditer(ending)) else ""


def find_prompt(server: "Server", facts: ServerFacts, chat: Mapping[str, Any]) -> str | None:
    """A prompt, as the server lays it out for a request's model and settings of its chat template; None where it does
    not tell."""
    path, body = PROMPTS.get(facts.kind, ("", {}))
    return run_in_thread(_ask_for_prompt(server, path, {**chat, **body})) if path else None


def find_switch_of(server: "Server", facts: ServerFacts, model: str) -> str | None:
    """The argument by which a served model thinks or not: read from its template, else seen in its prompts; as
    `ServerFacts` has it."""
    if facts.template is not None:
        return find_switch(facts.template) or ""
    for name in SWITCHES:
        chats = [{"model": model, "chat_template_kwargs": {name: on}} for on in (True, False)]
        prompts = [find_prompt(server, facts, chat) for chat in chats]
        if None in prompts:
            return None
        if prompts[0] != prompts[1]:
            return name
    return ""


async def _ask_for_prompt(server: "Server", path: str, chat: Mapping[str, Any]) -> str | None:
    """A prompt, as the server lays it out; None where it does not tell."""
    import httpx2
    import openai

    body = {**chat, "messages": [{"role": "user", "content": "Hello"}]}
    root = server.url.removesuffix("/").removesuffix("/v1")
    async with server.connect(PATIENCE) as connection:
        try:
            answer = await connection.with_options(base_url=root).post(path, cast_to=httpx2.Response, body=body)
            found = read_json(answer.content)
        except (openai.OpenAIError, httpx2.HTTPError, ValueError):
            return None
    if not isinstance(found, Mapping):
        return None
    pieces = [found["prompt"]] if "prompt" in found else found.get("token_strs")
    if not isinstance(pieces, list) or not pieces or not all(isinstance(piece, str) for piece in pieces):
        return None
    return _join(pieces)


def _join(pieces: list[str]) -> str:
    """The text of tokens as tokenizers write them."""
    return "".join(pieces).replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")


def told_of(text: str) -> Mapping[str, Any]:
    """What the ledger keeps beside a reply."""
    found = json.loads(text) if text else {}
    return found if isinstance(found, Mapping) else {}


def with_facts(answer: str, *, cut: bool, choices: Mapping[str, float], missing: str) -> str:
    """An answer with what is known beside its words."""
    if isinstance(answer, FailedAnswer) or not (cut or choices or missing):
        return answer
    limited = getattr(answer, "limited", False) and not cut  # by the task's own limit
    return with_words(answer, str(answer), cut=cut, choices=choices, no_choices=missing, limited=limited)
