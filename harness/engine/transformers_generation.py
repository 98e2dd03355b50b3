"""Answers by transformers' own `generate`: without sharing, and for decoding that ours doesn't do (sampling, beams)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lm_eval.models.utils_hf import stop_sequences_criteria
from transformers import StoppingCriteriaList

from harness.engine.image_encoder import image_problem
from harness.engine.jobs import Job
from harness.engine.scheduler import Scheduler
from tasks.answer import FailedAnswer


class TransformersGeneration:
    """Uses the scheduler's encoder, layout and rules."""

    def __init__(self, scheduler: Scheduler) -> None:
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
        size = self.scheduler.batch_size
        for start in range(0, len(jobs), size):
            yield from self._answer_batch(jobs[start : start + size])

    @torch.inference_mode()
    def _answer(self, job: Job) -> str:
        try:
            with self.clock("images"):
                inputs = self.layout.processor_inputs(job.context, job.images, templated=job.templated)
        except (ValueError, StopIteration) as error:
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
        yield from zip(ready, self._generate(inputs, ready), strict=True)
        for job in ready:
            job.encoded = []

    def _generate(self, inputs: Mapping[str, Any], jobs: list[Job]) -> list[str]:
        """Answers to jobs of the same settings."""
        ours = ["until", "max_gen_toks", "max_new_tokens"]
        if not jobs[0].settings.get("do_sample"):
            ours += ["do_sample", "temperature", "top_p", "top_k"]
        settings = {"do_sample": False} | {name: value for name, value in jobs[0].settings.items() if name not in ours}
        stops, length = self.rules.stop_sequences(jobs[0]), inputs["input_ids"].shape[1]
        with self.clock("decode"):
            written = self.layout.model.generate(
                **inputs,
                max_new_tokens=self.rules.new_tokens(jobs[0]),
                pad_token_id=self.runner.pad,
                use_cache=True,
                stopping_criteria=StoppingCriteriaList(
                    stop_sequences_criteria(self.layout.tokenizer, stops, length, len(jobs))
                ),
                **settings,
            )
        return [self.rules.text_of(row, stops) for row in written[:, length:].tolist()]
