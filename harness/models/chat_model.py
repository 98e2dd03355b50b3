"""A candidate model behind any OpenAI-compatible server (GPT-4o, or what vLLM, SGLang and transformers serve) as an
lm-eval LM.

    lm = OpenAIVisionLM("gpt-4o-2024-11-20")                        # OPENAI_API_KEY, OPENAI_BASE_URL
    lm = OpenAIVisionLM("visualglm-6b", url="http://127.0.0.1:8000/v1", settings=ServedModelSettings(concurrency=4))
    lm.generate_until(requests)
    lm.provenance()     # {"asked": "visualglm-6b", "served": "THUDM/visualglm-6b", "server": "http://127.0.0.1:8000"}

Calls go through the judge's client and ledger: the same tries, limits and budget; no answer is paid for twice, and
after a kill the same command asks only for the rest. A call without a reply is a `FailedAnswer`; a server that stays
down ends the run with `JudgeDown`. What is known of the model behind the server is part of what names an answer in the
ledger (`served_identity`): new weights under an old name and URL are asked anew.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from PIL.Image import Image

from harness.engine.chat_template import PADDED, PICTURES
from harness.models.chat_settings import ServedModelSettings
from harness.models.early_stops import EarlyStops, find_switch_of, stopped_by, told_of, why_no_early_stops, with_facts
from harness.models.next_token_logprobs import ASKED, Weighed, told_in, weigh
from harness.models.question_order import Asked, by_image
from harness.models.served_identity import FINGERPRINT, fingerprint_in, identified, name_in_ledger
from harness.models.served_sampling import (
    OF_REQUESTS,
    THINKING,
    Decoding,
    check_settings,
    decoding_of,
    given_settings,
    is_left_out,
    left_to_server,
    parameters_of,
    sampling_in_words,
    settings_sent,
)
from harness.models.server_facts import ServerFacts
from harness.models.spec import ModelSpec
from support.errors import ModelError
from support.images import image_digest
from tasks.answer import FailedAnswer, stripped, with_words
from tasks.early_exit import Reads
from tasks.judges import prices
from tasks.judges.addresses import Server, server_of
from tasks.judges.capabilities import capabilities_of
from tasks.judges.chat_client import ChatClient
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.parameters import Parameters
from tasks.judges.replies import NOT_SAID, OnlyThoughts, Reply, answer_tokens, read_answer
from tasks.judges.requests import Request, image_part, key_of, messages_of
from tasks.thoughts import answer_of, marks_in
from trainers.training.llava_15 import padded

if TYPE_CHECKING:
    from harness.engine.jobs import TaskHints

log = logging.getLogger(__name__)

PLACE: Final = "<image>"
"""Where an image stands in a prompt; lm-eval's."""
LONGER: Final = "longer than the limit"
"""In provenance, and beside a reply: answers of more tokens than their task gives. Where thoughts have room, too, a
server can't hold the answer alone to a limit."""
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
"""What parts a system message from the prompt, in a context that has one."""


REASONING_KEPT: Final = "reasoning"
"""Field of what the ledger keeps: thoughts that came beside a reply's text."""


class OpenAIVisionLM(LM):
    """See the module's docstring.

    `url` is an address or a server, by default OPENAI_BASE_URL, else OpenAI's; `key` is by default OPENAI_API_KEY.
    `identity` names in the ledger what is behind a URL that is another one next time; `facts` are what the server says
    of itself. Progress is reported as `stage`. SettingError for a setting that would not act.
    """

    MULTIMODAL = True

    def __init__(
        self,
        model: str,
        *,
        url: str | Server | None = None,
        key: str | None = None,
        identity: str | None = None,
        ledger: Path | None = None,
        settings: ServedModelSettings | None = None,
        facts: ServerFacts | None = None,
        stage: str = "",
    ) -> None:
        super().__init__()
        server = url if isinstance(url, Server) else server_of(url, name=model, key=key)
        self.model, self.settings = model, settings or ServedModelSettings()
        self.stage, self.facts = stage, facts or ServerFacts()
        takes = capabilities_of(model, server.known_host, self.facts.kind)
        self.takes = takes.at(self.settings.reasoning_effort)
        self.takes_seed = False
        """Whether each question has a seed of its own: with one for all, a server would sample every answer with the
        same chances."""
        self.identity = identity or server.shown
        """What names the server in the ledger."""
        self.system = ""
        """A message before every question that comes without one."""
        self.pads = False
        """Whether pictures are padded to a square before they are sent."""
        self.digests: Mapping[str, str] = {}
        """What is known of the model behind it."""
        self.fingerprints: set[str] = set()
        """Of the servers that replied."""
        self.hints: TaskHints = {}
        """Where an answer may end early, and for which first tokens likelihoods are wanted, by task or request."""
        thinks = self.takes.thinks or self.settings.thinking_tokens > 0 or self.settings.enable_thinking is True
        if self.settings.enable_thinking is not None:
            self.facts = replace(self.facts, switch=find_switch_of(server, self.facts, model))
        switch = self.facts.switch or THINKING
        kwargs = {} if self.settings.enable_thinking is None else {switch: self.settings.enable_thinking}
        chat = {"model": model, **({"chat_template_kwargs": kwargs} if kwargs else {})}
        self.own_marks = marks_in(self.facts.template)
        """Marks of thoughts that the model's template names."""
        self.early = EarlyStops(
            lambda: why_no_early_stops(self.client.server, self.facts, chat, thinks=thinks), own=self.own_marks
        )
        self.shortened: dict[str, Reads] = {}
        """What decides the answers that were asked to end early, by their names in the ledger."""
        self.weighed: set[str] = set()
        """Names in the ledger of what was asked with the likelihoods of its first token."""
        self.keys: set[str] = set()
        """Names in the ledger of what was asked so far."""
        self.sampling: set[tuple[tuple[str, str], ...]] = set()
        """How tokens of the answers were chosen, as it was sent: names and values."""
        self.client = ChatClient(model, server, ledger=Ledger(ledger or LEDGER), settings=self.settings)
        self.client.parameters = Parameters(model, room=not self.settings.thinking_tokens, takes=takes)
        self.require(given_settings(self.settings))

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        *,
        ledger: Path | None = None,
        hints: "TaskHints | None" = None,
        given: Collection[str] = (),
        seed_by_question: bool = False,
        **settings: Any,
    ) -> "OpenAIVisionLM":
        """The model of a spec, whose server is asked who it is; ServerError if it is not there. `given` names the
        settings that were given, at their defaults or not; `seed_by_question` mixes the seed with what is asked."""
        spec = identified(spec, ledger)
        server = server_of(spec.url, name=spec.pretrained, variable=spec.key)
        identity = json.dumps(spec.digests, sort_keys=True) if spec.digests else None
        lm = cls(spec.pretrained, url=server, identity=identity, ledger=ledger, facts=spec.server, **settings)
        lm.client.fresh, lm.digests, lm.takes_seed = spec.fresh, spec.digests, seed_by_question
        lm.hints = hints or {}
        lm.require(given)
        return lm

    def require(self, given: Collection[str]) -> None:
        """SettingError if one of these settings would not act; the run ends with one if the server refuses it."""
        check_settings(self.settings, given, self.model, self.takes, self.facts)
        self.client.parameters.asked |= parameters_of(self.settings, given, self.facts)

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
                f"{self.model}: only one user turn can be asked of a server, after a system message or not; got {roles}"
            )
        text, system = rest[0] + self.settings.prompt_suffix, system or [self.system] * bool(self.system)
        return f"{SYSTEM}{''.join(system)}{USER}{text}" if system or text.startswith(SYSTEM) else text

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where the call failed or the images can't be shown."""
        asked = [self._plan(request) for request in requests]
        repeats: Counter[int] = Counter()
        for one in asked:
            # lm-eval repeats a request as the same object: sampled, it is asked anew.
            one.repeat = repeats[id(one.request)] if one.full.temperature != 0 else 0
            repeats[id(one.request)] += 1
        stage = "" if disable_tqdm else self.stage
        again = self._ask([asked[index] for index in by_image(requests)], stage)
        if told := self.client.reused.take("answer", "answers"):
            log.info("%s: %s", self.stage or self.model, told)
        self._ask(again, "")
        if (versions := sorted(self.fingerprints)) and len(versions) > 1:
            several = "replies of %d versions of the server (%s): the model may have changed meanwhile"
            log.warning(f"%s: {several}", self.stage or self.model, len(versions), ", ".join(versions))
        return [one.answer for one in asked]

    def _ask(self, asked: list[Asked], stage: str) -> list[Asked]:
        """Ask, and put each answer in its place; those whose answers came cut and undecided, to be asked in full."""
        sent: list[tuple[Asked, Request]] = []
        again: list[Asked] = []

        def questions() -> Iterator[Request]:
            for one in asked:
                question = self._question(one)
                if isinstance(question, FailedAnswer):
                    one.answer = question
                else:
                    sent.append((one, question))
                    yield question

        replies = self.client.ask_many(questions(), self.read, stage=stage, total=len(asked))
        for place, ((one, request), reply) in enumerate(zip(sent, replies, strict=True)):
            given = replies.lost[place] if reply is None else reply
            if one.early is not None and not self.early.is_settled(given, one.hint, one.early):
                one.early, one.is_undecided = None, True
                again.append(one)
            else:
                one.answer = self._finish(one, given, request)
        return again

    def _finish(self, one: Asked, reply: str, request: Request) -> str:
        """The answer in a reply, with what is known beside its words."""
        answer = stripped(_cut_at(answer_of(reply, own=self.own_marks), one.full.until))
        if isinstance(answer, FailedAnswer) or (call := self.client.ledger.call(request.key)) is None:
            return answer
        told = told_of(call.told)
        if thoughts := told.get(REASONING_KEPT):
            answer = with_words(answer, str(answer), reasoning=str(thoughts))
        weighed = weigh(told, one.choices, reply) if one.choices else Weighed()
        cut = one.early is not None and self.early.was_cut(reply, one.hint, told)
        return with_facts(answer, cut=cut, choices=weighed.choices, missing=weighed.missing)

    def _plan(self, request: Instance) -> Asked:
        hint = self.hints(request) if callable(self.hints) else self.hints.get(request.task_name or "")
        system, _ = _split_context(request.args[0])
        full = decoding_of(request.args[1], self.settings, system=system, model=self.model)
        return Asked(request=request, full=full, hint=hint)

    def _question(self, one: Asked) -> Request | FailedAnswer:
        """How one request of lm-eval's is sent; its images are opened here."""
        request, (_, text) = one.request, _split_context(one.request.args[0])
        images: Sequence[Image] = request.args[2]["visual"] if len(request.args) > 2 else []
        try:
            for image in images:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return FailedAnswer(f"image can't be shown: {error}")
        if (places := text.count(PLACE)) != len(images):
            return FailedAnswer(f"{len(images)} images for {places} places in the prompt")
        decoding = one.full
        if self.takes_seed:
            decoding = replace(decoding, seed=_seed_of_question(decoding.seed, text, images))
        label = f"{request.task_name} (answers)" if request.task_name else "answers"
        try:
            question = self.request(text, images, decoding, one.repeat, label)
            early = None if one.is_undecided else self.early.shorten(decoding, one.hint)
            if early is not None and self.client.find_call(question) is None:  # a full answer is paid for
                one.early = early
                question = self.request(text, images, early, one.repeat, label)
        except OSError as error:  # its file has changed meanwhile
            return FailedAnswer(f"image can't be shown: {error}")
        if one.early is not None and one.hint is not None and one.hint.reads is not None:
            self.shortened[question.key] = one.hint.reads
        return self._with_likelihoods(question, one)

    def _with_likelihoods(self, question: Request, one: Asked) -> Request:
        """The same question, which also asks how likely the first token's choices are; its name stays: that changes no
        answer."""
        if not one.choices:
            return question
        self.weighed.add(question.key)
        if self.takes.logprobs is False or self.takes.thinks:
            return question
        return replace(question, body={**question.body, **ASKED})

    def request(
        self, text: str, images: Sequence[Image], decoding: Decoding, repeat: int = 0, label: str = ""
    ) -> Request:
        """How a prompt is sent, with its images in their places, and its key in the ledger."""
        content: list[Mapping[str, Any]] = []
        named: list[Any] = []
        tokens = prices.text_tokens(text + (decoding.system or ""))
        for index, piece in enumerate(text.split(PLACE)):
            if index:
                image = padded(images[index - 1]) if self.pads else images[index - 1]
                shown = image_part(self.model, image, self.settings.detail, self.settings.image_side)
                content.append(shown.part)
                named.append(shown.named)
                tokens += shown.tokens
            if piece.strip():
                content.append({"type": "text", "text": piece})
                named.append(piece)
        sent = settings_sent(decoding, self.settings, self.model, self.takes, self.facts)
        facts = {
            "answers": 1,
            "model": self.model,
            "server": self.identity,
            "system": decoding.system,
            "content": named,
            "repeat": repeat,
            "settings": sent,
        }
        self.keys.add(key := key_of(facts))
        body = {"model": self.model, "messages": messages_of(decoding.system, content if images else text), **sent}
        seed = {"seed": "by question"} if self.takes_seed else {}
        self.sampling.add(sampling_in_words(self.client.parameters.fit({**sent, **seed})))
        return Request(body=body, key=key, tokens=tokens, label=label, max_tokens=decoding.max_tokens)

    def read(self, body: Any, request: Request) -> Reply:
        """The answer in a body, which may be empty. TransientError, PermanentError."""
        room = request.room + self.settings.thinking_tokens
        try:
            answer = read_answer(body, limit=request.limit_sent, room=room, own=self.own_marks)
        except OnlyThoughts as failure:
            if request.key not in self.shortened:
                raise
            # Ended before its answer by our own limit or stop sequence: it is asked again, in full.
            answer = Reply(text="", limited=True, usage=failure.usage, served=NOT_SAID)
        if request.key in self.shortened:
            self.early.note(answer)
        told = stopped_by(body, self.shortened.get(request.key), request.body)
        limit = (request.max_tokens or 0) - self.settings.thinking_tokens
        if (tokens := answer_tokens(body)) is not None and tokens > limit > 0:
            told[LONGER] = tokens
        if request.key in self.weighed:
            told |= told_in(body, asked="logprobs" in request.body)
        told |= {REASONING_KEPT: answer.reasoning} if answer.reasoning else {}
        answer = replace(answer, told=json.dumps(told) if told else "")
        fingerprint = fingerprint_in(body)
        if fingerprint and fingerprint not in self.fingerprints:
            self.fingerprints.add(fingerprint)
            if self.digests:
                mark = self.digests.get(FINGERPRINT, "")
                self.client.ledger.note_fingerprint(name_in_ledger(self.digests), fingerprint, mark)
        return answer

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Not to be had."""
        raise ModelError(
            f"{self.model}: a server of chat completions does not tell how likely a given text is: a task that "
            "compares likelihoods of whole texts needs a local model"
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not to be had."""
        return [value for value, _ in self.loglikelihood(requests)]

    def provenance(self) -> dict[str, str]:
        """What has answered, in this run or when its replies were paid for: id asked for, ids the server returned, and
        where that was."""
        # From the ledger, not from this process: a second run makes no calls.
        calls = [call for call in self.client.ledger.calls() if call.key in self.keys]
        served = {call.served for call in calls} - {NOT_SAID}
        found = {"asked": self.model, "served": ", ".join(sorted(served)), "server": self.client.server.shown}
        thinks = self.takes.temperature is None
        if thinks:
            found["decoding"] = "the server's own"
        asked = {call.asked for call in calls}
        # What was refused in the course of this run, or of the one that paid.
        never = {name for name in OF_REQUESTS if asked and all(is_left_out(name, words) for words in asked)}
        kept = {tuple((name, value) for name, value in one if name not in never) for one in self.sampling}
        sent = [dict(one) for one in sorted(kept)]
        own = {name for one in sent if not thinks for name in left_to_server(self.takes, self.facts, one)}
        longer = sum(LONGER in told_of(call.told) for call in calls)
        more = {
            LONGER: f"{longer} of {len(calls)}" if longer else "",
            "parameters": "; ".join(sorted(asked - {""})),
            "sampling": "; ".join(", ".join(f"{name} {value}" for name, value in one.items()) for one in sent if one),
            "sampling of the server's own": ", ".join(sorted(own)),
            "images": self.settings.images_in_words(),
            "prompt suffix": self.settings.prompt_suffix,
            "thinking": self.settings.thinking_in_words(),
            PICTURES: PADDED if self.pads else "",
            "fingerprints": ", ".join(sorted(self.fingerprints)),
            "early stops": self.early.in_words(),
        }
        return found | {name: value for name, value in more.items() if value}


def _seed_of_question(seed: int | None, text: str, images: Sequence[Image]) -> int:
    asked = json.dumps([seed, text, [image_digest(image) for image in images]]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(asked).digest()[:4], "big") >> 1


def _split_context(context: str) -> tuple[str | None, str]:
    """System message and user's text of a context."""
    if not context.startswith(SYSTEM):
        return None, context
    system, _, text = context.removeprefix(SYSTEM).partition(USER)
    return system or None, text


def _cut_at(answer: str, until: Sequence[str]) -> str:
    """An answer up to the first of these; what is known of it stays beside it."""
    text = str(answer)
    for end in until:
        text = text.split(end)[0]
    if text == answer:
        return answer
    return with_words(answer, text, limited=False, raw=getattr(answer, "raw", None) or str(answer))
