"""Our plan in front of another engine: the same questions, prompts and answers as `SharedImageLM`, computed by a server
of vLLM or SGLang.

    lm = EngineLM(str(spec.local_folder), engine, client=client, facts={"engine": "vllm", "dtype": "float32"})
    lm.generate_until(requests)

The model is here as its configuration alone, without weights: its processor and chat template write the prompts, its
tokenizer reads the tokens that come back, and the rules of our own decoding say where an answer ends. Each distinct
question is asked once, image by image; an answer that is decided early is asked for no further than its task reads, and
again in full where that did not decide it. The tokens of each task's first prompt, as the server read it, are compared
with the processor's.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForImageTextToText, GenerationConfig

from harness.engine.config import EngineConfig
from harness.engine.families import INTERLEAVED, PLACES_IMAGES_ITSELF
from harness.engine.jobs import Job, size_problem
from harness.engine.lm import SharedImageLM
from harness.models.chat_settings import ServedModelSettings
from harness.models.served_sampling import decoding_of
from harness.serving.engine_client import EngineClient
from harness.serving.engine_requests import Question, Reply
from support.errors import ModelError, SettingError
from support.processes import world_size
from tasks.answer import Answer, FailedAnswer

SHARED = "answers, image features, prefix"


class EngineLM(SharedImageLM):
    """See the module's docstring. `facts` are what entries record of the engine. SettingError, ModelError,
    ServerError."""

    def __init__(
        self, pretrained: str, engine: EngineConfig, *, client: EngineClient, facts: Mapping[str, str], **given: Any
    ) -> None:
        if world_size() > 1:
            raise SettingError(f"engine = {engine.engine}: one process asks its server: gpus = N copies the model")
        own = {name: getattr(engine, name) for name in _OURS}
        super().__init__(pretrained, EngineConfig(**own, device="cpu"), **given)
        self.client, self.facts, self.engine = client, dict(facts), engine
        family = self.config.model_type
        if family in PLACES_IMAGES_ITSELF | INTERLEAVED:
            raise ModelError(f"{pretrained}: {engine.engine} does not take the prompts of {family}; use engine = own")
        self._compared: set[str] = set()
        """Tasks of which a prompt's tokens were compared."""

    def _create_model(self, pretrained: str, trust_remote_code: bool = False, **given: Any) -> None:
        with torch.device("meta"):
            self._model = AutoModelForImageTextToText.from_config(self.config, trust_remote_code=trust_remote_code)
        self._model.to = lambda *args, **kwargs: self._model  # beside a GPU, lm-eval would move weights there
        with suppress(OSError):  # it has none
            self._model.generation_config = GenerationConfig.from_pretrained(pretrained)

    def provenance(self) -> dict[str, str]:
        """The same as of our own engine, and which one it is."""
        return super().provenance() | {"shared": SHARED} | self.facts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where an image could not be read or the server refused."""
        for request in requests:
            if len(request.args) < 3:  # of a task without pictures
                request.arguments = (*request.args, {"visual": []})
        return super().generate_until(requests, disable_tqdm)

    def _ask_model(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        readable: list[Job] = []
        for job in jobs:
            if why := size_problem(job.images):
                yield job, FailedAnswer(why)
            else:
                readable.append(job)
        full = {id(job): self._question(job) for job in readable}
        # The others about a picture wait for the first one: it is the shortest.
        early = sorted(
            ((job, self._shorten(job, full[id(job)])) for job in readable),
            key=lambda asked: (asked[1].decoding.max_tokens or 0, asked[0].context),
        )
        again: list[tuple[Job, Question]] = []
        for place, reply in self._ask(early):
            job, question = early[place]
            answer = self._read(job, reply, is_full=question is full[id(job)])
            if answer is None:
                again.append((job, full[id(job)]))
            else:
                yield job, answer
        for place, reply in self._ask(again):
            job, _ = again[place]
            yield job, self._read(job, reply, is_full=True) or FailedAnswer("the server gave no answer")

    def _ask(self, asked: Sequence[tuple[Job, Question]]) -> Iterator[tuple[int, Reply | FailedAnswer]]:
        replies = self.client.ask([question for _, question in asked])
        while True:
            with self.clock(self.client.engine):
                found = next(replies, None)
            if found is None:
                return
            if isinstance(found[1], Reply):
                self._compare_prompt(asked[found[0]][0], found[1])
            yield found

    def _question(self, job: Job) -> Question:
        """How a job is asked in full. SettingError for what the engine can't do."""
        settings = ServedModelSettings(repetition_penalty=self.hf.generation_config.repetition_penalty)
        decoding = decoding_of(job.settings, settings, system=None, model=self.stage)
        if decoding.temperature and decoding.seed is None:
            decoding = replace(decoding, seed=_seed_of(job))
        text = self.layout.with_placeholders(job.context, job.templated)
        first = {token for choice in job.hints.choices for token in self.decoder.first_tokens(choice)}
        return Question(
            prompt=text,
            digests=job.digests,
            pictures=job.images,
            pads=self.padded,
            adds_tokens=self.layout.adds_special_tokens(text, job.templated),
            decoding=replace(decoding, max_tokens=self.rules.most_tokens(job)),
            stops=() if self._may_think(job) else self._stops(job),  # within a thought they end nothing
            ends=tuple(sorted(self.rules.end_tokens())),
            choices=tuple(sorted(first)),
        )

    def _may_think(self, job: Job) -> bool:
        return self.rules.most_tokens(job) > self.rules.new_tokens(job)

    def _stops(self, job: Job) -> tuple[str, ...]:
        return tuple(filter(None, self.rules.stop_sequences(job)))

    def _shorten(self, job: Job, full: Question) -> Question:
        """How an answer is asked for first, where it may be known to end before the tokens that it may have; the same
        question where not."""
        if full.decoding.temperature or self.rules.progress(job).in_thought:
            return full
        limit, stops, reads = self.rules.new_tokens(job), self._stops(job), job.hints.reads
        if reads is not None and job.hints.decided is not None:
            # A token has a character at least, but for a space before the first word that is taken off.
            limit = min(limit, (reads.characters or limit) + 1)
            stops = stops if reads.before is None else (*stops, reads.before)
        if limit == full.decoding.max_tokens and stops == full.stops:
            return full
        return replace(full, decoding=replace(full.decoding, max_tokens=limit), stops=stops)

    def _read(self, job: Job, reply: Reply | FailedAnswer, *, is_full: bool) -> str | None:
        """The answer in a reply; None where it came cut, and is not decided."""
        if isinstance(reply, FailedAnswer):
            return reply
        text, reason = self.decoder.read(job, reply.tokens)
        if reason is None:
            if not is_full:
                return None
            text, reason = self.rules.text_of(reply.tokens, ()), "limited" if reply.limited else "ended"
        self.counts["cut"] += reason == "decided"
        choices = {choice: likely for choice in job.hints.choices if (likely := self._weigh(choice, reply)) is not None}
        return Answer(text, cut=reason == "decided", choices=choices, limited=reason == "limited")

    def _weigh(self, choice: str, reply: Reply) -> float | None:
        """The log-probability that an answer begins as this choice."""
        likely = [reply.likely[token] for token in self.decoder.first_tokens(choice) if token in reply.likely]
        most = max(likely, default=0.0)
        return most + math.log(math.fsum(math.exp(each - most) for each in likely)) if likely else None

    def _compare_prompt(self, job: Job, reply: Reply) -> None:
        """ModelError where the server read another prompt than the model's processor makes."""
        if reply.prompt is None or job.task in self._compared:
            return
        self._compared.add(job.task)
        inputs = self.layout.processor_inputs(job.context, job.images, templated=job.templated)
        ours = inputs["input_ids"][0].tolist()
        if ours != reply.prompt:
            pairs = enumerate(zip(ours, reply.prompt, strict=False))
            at = next((at for at, (one, other) in pairs if one != other), min(len(ours), len(reply.prompt)))
            told = f"{len(reply.prompt)} tokens where this model's processor makes {len(ours)}, others from token {at}"
            raise ModelError(f"{self.stage}: {self.client.engine} reads another prompt: {told}; use engine = own")


_OURS = (
    *("max_new_tokens", "repetition_penalty", "thinking", "thinking_tokens", "suffix", "suffixes", "max_images"),
    *("min_pixels", "max_pixels", "interleave", "image_string", "image_token_id"),
)
"""Settings that act here, before a question is sent and after it is answered."""


def _seed_of(job: Job) -> int:
    """Another one for each question, and each time that it is asked, by the run's seed."""
    asked = json.dumps([torch.initial_seed(), job.context, job.digests, job.requests]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(asked).digest()[:4], "big") >> 1
