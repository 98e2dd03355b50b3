"""Greedy decoding of a batch whose rows end independently, and the generation settings that it follows.

rules = DecodingRules(model, tokenizer, default_new_tokens=256)
decoder = GreedyDecoder(runner, rules, clock=clock, counts=counts)
for job, answer in decoder.decode(state, jobs): ...
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import torch
from lm_eval.models.utils import handle_stop_sequences
from torch import Tensor

from harness.engine.answer_progress import MarkTokens, Progress
from harness.engine.jobs import Job
from harness.engine.own_decoding import NO_OP_VALUES
from harness.engine.prefix_cache import ROOM, State
from harness.engine.question_groups import GroupRunner, Groups
from harness.engine.stage_timer import StageTimer
from tasks.answer import Answer, FailedAnswer
from tasks.thoughts import MARKS, ROOM_FOR_THOUGHTS, WRAPPERS, Pairs, is_decided

SUPPORTED_SETTINGS: Final = frozenset(
    {"until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty"}
)
"""Generation settings that act on our greedy decoding, or that mean nothing to any greedy decoding."""

StopReason = Literal["ended", "limited", "decided"]

NOT_FINITE: Final = "the model's logits are not finite numbers (broken weights, or an overflow in this dtype)"
"""Why there is no answer where a model computes NaN or infinity: its likeliest token would mean nothing."""


def find_finite(logits: Tensor) -> Tensor:
    """Whether each row of logits [rows, vocabulary] has a largest finite logit [rows]; single tokens may be -inf."""
    return logits.amax(-1).isfinite()


class DecodingRules:
    """How to decode a job: by its settings, the user's, its family's, and the token ids of the checkpoint."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        default_new_tokens: int,
        max_new_tokens: int | None = None,
        thinking_tokens: int = ROOM_FOR_THOUGHTS,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.default_new_tokens, self.max_new_tokens = default_new_tokens, max_new_tokens
        self.thinking_tokens = thinking_tokens
        self.take_marks(())

    def take_marks(self, own: Pairs) -> None:
        """Look for these marks of thoughts, too, from here on: those that the model's chat template names."""
        self.own_marks, tokenizer = own, self.tokenizer
        self.__dict__.pop("knows_thoughts", None)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added if token.special)}
        every = [mark for pair in (*MARKS, *own, *WRAPPERS) for mark in pair]
        parts = [token for token in special if len(token) > 2 and any(token in mark for mark in every)]
        self.thought_marks: dict[int, str] = {tokenizer.convert_tokens_to_ids(token): token for token in parts}
        """Marks of thoughts, and parts of them, that decoding would leave out, as it does with special tokens."""
        self.marks = MarkTokens(lambda tokens: self.text_of(tokens, ()), special=self.thought_marks, own=own)

    def can_decode(self, job: Job) -> bool:
        """True if our greedy decoding supports all of the job's settings."""
        if job.settings.get("do_sample"):
            return False
        asked = {name: value for name, value in job.settings.items() if name not in SUPPORTED_SETTINGS}
        config = self.model.generation_config
        return asked.keys() <= NO_OP_VALUES.keys() and all(
            asked.get(name, getattr(config, name, None)) in no_op for name, no_op in NO_OP_VALUES.items()
        )

    def new_tokens(self, job: Job) -> int:
        """The most tokens an answer may have, its thoughts aside."""
        asked = job.settings.get("max_gen_toks", job.settings.get("max_new_tokens", self.default_new_tokens))
        return int(self.max_new_tokens or asked)

    def most_tokens(self, job: Job) -> int:
        """The most tokens that may be written: an answer, and the thoughts of a model that is known to have some."""
        thinks = self.knows_thoughts or self.progress(job).in_thought
        return self.new_tokens(job) + self.thinking_tokens * thinks

    @cached_property
    def knows_thoughts(self) -> bool:
        """Whether the model has tokens for marks of thoughts."""
        known = self.tokenizer.get_added_vocab()
        return bool(self.thought_marks) or any(mark in known for pair in (*MARKS, *self.own_marks) for mark in pair)

    def progress(self, job: Job) -> Progress:
        """How far a job's text is, before its first token."""
        return Progress(job.context, limit=self.new_tokens(job), room=self.thinking_tokens, marks=self.marks)

    def room(self, jobs: Sequence[Job]) -> int:
        """Cache positions to allocate for answers at first; more are added as needed."""
        return min(ROOM, max(self.new_tokens(job) for job in jobs))

    def stop_sequences(self, job: Job) -> list[str]:
        """Texts before which an answer is cut off, the end-of-text token's included."""
        asked = job.settings.get("until")
        end = self.tokenizer.decode(self.tokenizer.eos_token_id, skip_special_tokens=False)
        given = list(asked) if isinstance(asked, list) else asked  # a copy: lm-eval appends to the list it is given
        stops: list[str] = handle_stop_sequences(given, end)
        return stops

    def end_tokens(self) -> set[int]:
        """Tokens that end an answer."""
        named = self.model.generation_config.eos_token_id
        tokens = {*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id}
        return tokens - {None}

    def repetition_penalty(self, job: Job) -> float:
        """The divisor of logits of tokens seen before, the user's before the task's; 1 has no effect."""
        return float(self.model.generation_config.repetition_penalty or job.settings.get("repetition_penalty") or 1)

    def text_of(self, tokens: Sequence[int], stops: Sequence[str], start: int = 0) -> str:
        """The text of tokens, that of the answer, which starts at a place, up to the first stop sequence."""
        if start and stops:
            text, thoughts = self.text_of(tokens, ()), self.text_of(tokens[:start], ())
            at = len(thoughts) if text.startswith(thoughts) else 0
            return text[:at] + _cut(text[at:], stops)
        text, start = "", 0
        marks = [place for place, token in enumerate(tokens) if token in self.thought_marks]
        for place in marks:
            text += self._decode(tokens[start:place]) + self.thought_marks[tokens[place]]
            start = place + 1
        return _cut(text + self._decode(tokens[start:]), stops)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text


class GreedyDecoder:
    """See the module's docstring. `counts["cut"]` is the number of answers that ended early because they were
    decided."""

    def __init__(
        self, runner: GroupRunner, rules: DecodingRules, *, clock: StageTimer, counts: defaultdict[str, int]
    ) -> None:
        self.runner, self.rules, self.clock, self.counts = runner, rules, clock, counts
        self._first_tokens: dict[str, list[int]] = {}

    def decode(self, state: State | Groups, jobs: list[Job]) -> Iterator[tuple[Job, Answer | FailedAnswer]]:
        """Answers as they end, a FailedAnswer where logits are not finite; finished rows leave a batch once half of it
        has ended."""
        ends, stops = self.rules.end_tokens(), [self.rules.stop_sequences(job) for job in jobs]
        choices = self._weigh_choices(state.logits, jobs)
        written: list[list[int]] = [[] for _ in jobs]
        progress = [self.rules.progress(job) for job in jobs]
        seen = self._seen_tokens(state.logits, jobs)
        active = list(range(len(jobs)))  # the job of each row of the state, ended ones included until they leave
        done: set[int] = set()
        while True:
            with self.clock("decode"):
                tokens = self._choose_tokens(state.logits, seen, [jobs[index] for index in active])
                listed, finite = tokens.tolist(), find_finite(state.logits).tolist()
            for row, index in enumerate(active):
                if index in done:
                    continue
                if not finite[row]:
                    done.add(index)
                    yield jobs[index], FailedAnswer(NOT_FINITE)
                    continue
                written[index].append(listed[row])
                text, reason = self._stop_reason(jobs[index], written[index], stops[index], ends, progress[index])
                if reason is not None:
                    done.add(index)
                    cut = reason == "decided"
                    self.counts["cut"] += cut
                    limited = reason == "limited"
                    yield jobs[index], Answer(text, cut=cut, choices=choices[index], limited=limited)
            if len(done) == len(jobs):
                return
            with self.clock("decode"):
                rows = [row for row, index in enumerate(active) if index not in done]
                if 2 * len(rows) <= len(active):
                    at = torch.tensor(rows, device=tokens.device)
                    state, tokens = self.runner.keep(state, at, self.rules.room(jobs)), tokens[at]
                    seen = None if seen is None else seen[at]
                    active = [active[row] for row in rows]
                state = self.runner.step(state, tokens)

    def read(self, job: Job, tokens: Sequence[int]) -> tuple[str, StopReason | None]:
        """The answer in tokens that came from elsewhere, and why it ends; the reason is None where more must come."""
        ends, stops, progress = self.rules.end_tokens(), self.rules.stop_sequences(job), self.rules.progress(job)
        for count in range(1, len(tokens) + 1):
            text, reason = self._stop_reason(job, list(tokens[:count]), stops, ends, progress)
            if reason is not None:
                return text, reason
        return "", None

    def first_tokens(self, choice: str) -> list[int]:
        """First tokens of this choice: in any case, with and without a space before it."""
        if choice not in self._first_tokens:
            # " a" is a word, not the letter of a choice: letters are taken as they are written.
            words = (choice,) if len(choice) == 1 else (choice, choice.lower(), choice.upper(), choice.capitalize())
            firsts = set()
            for form in sorted({lead + word for lead in ("", " ") for word in words}):
                ids = self.rules.tokenizer(form, add_special_tokens=False)["input_ids"]
                read = self.rules.text_of(ids[:1], ()).strip() if ids else ""
                if read == choice or (len(choice) > 1 and read.lower() == choice.lower()):
                    firsts.add(ids[0])
            self._first_tokens[choice] = sorted(firsts)
        return self._first_tokens[choice]

    def _stop_reason(
        self, job: Job, tokens: list[int], stops: list[str], ends: set[int], progress: Progress
    ) -> tuple[str, StopReason | None]:
        """A row's text and why it ends here; None if it goes on."""
        progress.note(tokens)
        spent, ended = progress.is_spent, tokens[-1] in ends
        if progress.in_thought:  # nothing there stops an answer, or decides it
            if not ended and not spent:
                return "", None
            return self.rules.text_of(tokens, ()), "ended" if ended else "limited"
        # A new token completes a stop sequence only among the last tokens, at most four a character (single bytes).
        # To decode all of them at every step would take ever longer.
        longest = max(map(len, stops), default=0)
        latest = self.rules.text_of(tokens[progress.start :][-1 - 4 * longest :], ()) if longest else ""
        ended = ended or any(stop in latest for stop in stops if stop)
        if ended or spent:
            return self.rules.text_of(tokens, stops, progress.start), "ended" if ended else "limited"
        if job.hints.decided is None:
            return "", None
        text = self.rules.text_of(tokens, stops, progress.start)
        # U+FFFD stands for the first bytes of a character whose other bytes may still come.
        decided = not text.endswith("\ufffd") and is_decided(
            text, job.context, job.hints.decided, own=self.rules.own_marks
        )
        return text, "decided" if decided else None

    def _weigh_choices(self, logits: Tensor, jobs: list[Job]) -> list[dict[str, float]]:
        """For each job, the log-probability that its answer begins as each of its choices."""
        if not any(job.hints.choices for job in jobs):
            return [{} for _ in jobs]
        likely = logits.log_softmax(-1)
        return [
            {
                choice: float(likely[row, ids].logsumexp(-1))
                for choice in job.hints.choices
                if (ids := self.first_tokens(choice))
            }
            for row, job in enumerate(jobs)
        ]

    def _seen_tokens(self, logits: Tensor, jobs: list[Job]) -> Tensor | None:
        """Which tokens each prompt holds [rows, vocabulary]; None if no job has a penalty on repeating them."""
        if all(self.rules.repetition_penalty(job) == 1 for job in jobs):
            return None
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, job in enumerate(jobs):
            known = [token for token in job.ids if token < logits.shape[-1]]
            seen[row, torch.tensor(known, device=logits.device)] = True
        return seen

    def _choose_tokens(self, logits: Tensor, seen: Tensor | None, jobs: list[Job]) -> Tensor:
        """The likeliest token of each row [rows]. Logits of tokens seen before are divided by the penalty, or
        multiplied where negative (Keskar et al., arXiv 1909.05858); `seen` gets the new tokens."""
        if seen is None:
            return logits.argmax(-1)
        penalty = torch.tensor([self.rules.repetition_penalty(job) for job in jobs], device=logits.device)[:, None]
        penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
        tokens = torch.where(seen, penalised, logits).argmax(-1)
        seen[torch.arange(len(jobs), device=logits.device), tokens] = True
        return tokens
