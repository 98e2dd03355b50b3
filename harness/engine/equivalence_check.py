"""A check that sharing work changes no logits.

In families that our tests don't cover, the first questions of a run are also computed without sharing; where logits
differ by more than rounding, less is shared from there on.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from harness.engine.families import VERIFIED
from harness.engine.image_encoder import image_problem
from harness.engine.jobs import Job
from harness.engine.scheduler import Scheduler

TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference of logits, in standard deviations of the logits without sharing."""
HALF_PRECISION_TOLERANCE: Final = 0.25


def check_equivalence(jobs: list[Job], scheduler: Scheduler) -> None:
    """Compute up to two of the questions with and without sharing; share less while their logits differ."""
    sharing, model = scheduler.sharing, scheduler.layout.model
    sharing.checked = True
    if model.config.model_type in VERIFIED:
        return
    sample = _two_about_one_image(jobs)
    while sharing.level != "answers" and sample:
        with torch.inference_mode():
            distance = _largest_distance(sample, scheduler)
        if distance <= TOLERANCE.get(model.dtype, HALF_PRECISION_TOLERANCE):
            return
        reason = f"logits were {distance:.2g} standard deviations off with {sharing.level} shared"
        sharing.fall_back("features" if sharing.level == "prefix" else "answers", reason)


def first_logits(jobs: list[Job], scheduler: Scheduler) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [vocabulary] of the first new token with and without sharing, in float32, of each job that can be
    encoded. Under torch.inference_mode."""
    ready, _ = scheduler.encode(jobs)
    shared = [(job, state.logits[row]) for state, rows in scheduler.states(ready) for row, job in enumerate(rows)]
    for job, logits in shared:
        yield logits.float(), logits_without_sharing(job, scheduler)


def logits_without_sharing(job: Job, scheduler: Scheduler) -> Tensor:
    """Logits [vocabulary] of a job's first new token, by the processor and one plain forward pass."""
    inputs = scheduler.layout.processor_inputs(job.context, job.images, templated=job.templated)
    logits: Tensor = scheduler.layout.model(**inputs).logits[0, -1].float()
    return logits


def _two_about_one_image(jobs: list[Job]) -> list[Job]:
    """Two questions about the same readable images if there are two, else one."""
    by_image: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        if not any(image_problem(image) for image in job.images):
            by_image[job.digests].append(job)
            if len(by_image[job.digests]) > 1:
                break
    return max(by_image.values(), key=len, default=[])[:2]


def _largest_distance(jobs: list[Job], scheduler: Scheduler) -> float:
    """How far the logits are apart, in standard deviations of those without sharing; infinite where sharing fails."""
    try:
        ready, bad = scheduler.encode(jobs)
        if bad:
            return 0.0
        shared = [(job, state.logits[row]) for state, rows in scheduler.states(ready) for row, job in enumerate(rows)]
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return math.inf  # a family that is built otherwise than the engine assumes
    worst = 0.0
    for job, logits in shared:
        plain = logits_without_sharing(job, scheduler)
        worst = max(worst, float((logits - plain).abs().max() / plain.std()))
    return worst
