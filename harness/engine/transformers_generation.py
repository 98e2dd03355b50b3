"""Answers by transformers' own `generate`: without sharing, and for decoding that ours doesn't do (sampling, beams)."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from harness.engine.cpu_kernels import FastOnCPU
from harness.engine.greedy_decoding import NOT_FINITE, DecodingRules, find_finite
from harness.engine.image_encoder import image_problem
from harness.engine.jobs import Job
from harness.engine.scheduler import Scheduler
from tasks.answer import Answer, FailedAnswer


class _FiniteCheck(LogitsProcessor):
    """Notes the step at which a job's logits were not finite first; sampling from such logits would raise."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self.steps = jobs, 0
        self.first: dict[int, int] = {}
        """Job -> step."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        finite, beams = find_finite(scores), len(scores) // self.jobs
        for row in torch.nonzero(~finite).flatten().tolist():
            self.first.setdefault(row // beams, self.steps)
        self.steps += 1
        return scores if finite.all() else torch.where(finite[:, None], scores, torch.zeros_like(scores))


class _AnswerEnds(StoppingCriteria):
    """Ends each row where its answer has the tokens that it may have, or a stop sequence comes after its thoughts."""

    def __init__(self, rules: DecodingRules, jobs: list[Job], length: int) -> None:
        self.rules, self.length, self.stops = rules, length, rules.stop_sequences(jobs[0])
        self.rows = [rules.progress(job) for job in jobs]
        self.done = [False] * len(jobs)
        self.limited = [False] * len(jobs)

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        ends = self.rules.end_tokens()
        for number, written in enumerate(input_ids[:, self.length :].tolist()):
            if not self.done[number]:
                self.done[number] = written[-1] in ends or self._is_over(number, written)
        return torch.tensor(self.done, device=input_ids.device)

    def _is_over(self, number: int, written: list[int]) -> bool:
        row = self.rows[number]
        row.note(written)
        self.limited[number] = row.is_spent
        if row.in_thought or row.is_spent:
            return row.is_spent
        longest = max(map(len, self.stops), default=0)
        latest = self.rules.text_of(written[row.start :][-1 - 4 * longest :], ()) if longest else ""
        return any(stop in latest for stop in self.stops if stop)


class TransformersGeneration:
    """Uses the scheduler's encoder, layout and rules, and its batch size, of which at most `most`."""

    def __init__(self, scheduler: Scheduler, most: int | None = None) -> None:
        self.most = most
        self.scheduler, self.layout, self.rules = scheduler, scheduler.layout, scheduler.rules
        self.runner, self.clock = scheduler.runner, scheduler.clock

    def answer_one_by_one(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Each question by itself, its prompt made by the processor."""
        for job in jobs:
            why = next((wrong for image in job.images if (wrong := image_problem(image))), None)
            yield job, FailedAnswer(why) if why else self._answer(job)

    def answer_with_shared_features(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Jobs of the same settings in batches, each image encoded once."""
        jobs = sorted(jobs, key=lambda job: (len(job.context), job.digests))
        while jobs:
            batch = jobs[: min(self.scheduler.batch_size, self.most or len(jobs))]
            try:
                answered = list(self._answer_batch(batch))
            except torch.OutOfMemoryError:
                if not self.scheduler.shrink(len(batch)):
                    raise
                continue
            yield from answered
            jobs = jobs[len(batch) :]

    @torch.inference_mode()
    def _answer(self, job: Job) -> str:
        try:
            with self.clock("images"):
                inputs = self.layout.processor_inputs(job.context, job.images, templated=job.templated)
        except (OSError, ValueError, StopIteration) as error:
            return FailedAnswer(f"the prompt can't be laid out: {error}")
        return self._generate(inputs, [job])[0]

    @torch.inference_mode()
    def _answer_batch(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        ready, bad = self.scheduler.encode(jobs)
        yield from bad
        if not ready:
            return
        inputs = {
            "input_ids": self.runner.padded([job.ids for job in ready], self.runner.pad),
            "attention_mask": self.runner.padded([[1] * len(job.ids) for job in ready], 0),
            **self.scheduler.encoder.inputs([image for job in ready for image in job.encoded]),
        }
        if self.runner.types_name is not None and ready[0].types is not None:
            inputs[self.runner.types_name] = self.runner.padded([job.types or [] for job in ready], 0)
        with nullcontext() if self.runner.compiled else FastOnCPU():
            answers = self._generate(inputs, ready)
        yield from zip(ready, answers, strict=True)
        for job in ready:
            job.encoded = []

    def _generate(self, inputs: Mapping[str, Any], jobs: list[Job]) -> list[str]:
        """Answers to jobs of the same settings."""
        ours = ["until", "max_gen_toks", "max_new_tokens"]
        if not jobs[0].settings.get("do_sample"):
            ours += ["do_sample", "temperature", "top_p", "top_k"]
        settings: dict[str, Any] = {"do_sample": False, "top_k": 0}  # transformers would sample from 50 tokens
        settings |= {name: value for name, value in jobs[0].settings.items() if name not in ours}
        settings["repetition_penalty"] = self.rules.repetition_penalty(jobs[0])
        stops, length = self.rules.stop_sequences(jobs[0]), inputs["input_ids"].shape[1]
        check, over = _FiniteCheck(len(jobs)), _AnswerEnds(self.rules, jobs, length)
        # Beams change rows as they go: what is a thought of one of them is not followed.
        in_beams = (settings.get("num_beams") or self.layout.model.generation_config.num_beams or 1) > 1
        most = self.rules.new_tokens(jobs[0]) + (0 if in_beams else self.rules.thinking_tokens)
        with self.clock("decode"):
            written = self.layout.model.generate(
                **inputs,
                max_new_tokens=most,
                pad_token_id=self.runner.pad,
                use_cache=True,
                logits_processor=LogitsProcessorList([check]),
                stopping_criteria=StoppingCriteriaList(
                    [*stop_sequences_criteria(self.layout.tokenizer, stops, length, len(jobs))] if in_beams else [over]
                ),
                **settings,
            )
        ends = self.rules.end_tokens()
        answers: list[str] = []
        for number, row in enumerate(written[:, length:].tolist()):
            last = next((at for at, token in enumerate(row) if token in ends), len(row) - 1)
            failed = check.first.get(number, len(row)) <= last
            progress = over.rows[number]
            text = self.rules.text_of(row, () if progress.in_thought else stops, progress.start)
            ended = not ends.isdisjoint(row) or text != self.rules.text_of(row, ())
            limited = not ended and (len(row) >= most if in_beams else over.limited[number])
            answers.append(FailedAnswer(NOT_FINITE) if failed else Answer(text, limited=limited))
        return answers
