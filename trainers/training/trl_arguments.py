"""Settings of a recipe as arguments of TRL's trainers."""

import importlib.util
import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from transformers import get_scheduler

from support.errors import TrainingError
from support.processes import world_size
from trainers.config.training import Training
from trainers.training.checkpoints import total_steps
from trainers.training.job import Job
from trainers.training.model import in_bf16

log = logging.getLogger(__name__)

SAME_NAMES = "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm gradient_checkpointing max_length"


def split_batch(training: Training, count: int) -> tuple[int, int]:
    """(pairs a batch, batches a step) on each of `count` processes, for steps of `batch_size` pairs; TrainingError."""
    size, at_once = training.batch_size, training.per_device_batch_size
    if size % count:
        possible = _list_divisors(size)
        raise TrainingError(f"batch_size = {size} can't be shared by {count} processes; possible: {possible}")
    share = size // count
    if at_once is None:
        return share, 1
    if share % at_once:
        raise TrainingError(
            f"batch_size = {size} on {count} processes is {share} pairs each, "
            f"which per_device_batch_size = {at_once} does not divide; possible: {_list_divisors(share)}"
        )
    return at_once, share // at_once


def _list_divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)


def warm_up(training: Training, steps: int) -> int:
    """The same as `find_warm_up`; it warns of a run that ends before its warm-up."""
    warm = find_warm_up(training, steps)
    if training.warmup_steps >= steps and training.scheduler != "constant":
        log.warning(
            "warmup_steps = %d: the run has %d steps, so the learning rate never gets to %g",
            *(warm, steps, training.learning_rate),
        )
    return warm


def find_warm_up(training: Training, steps: int) -> int:
    """Steps of warm-up in a run of `steps`; TrainingError if no step would have a learning rate."""
    # A share of the run leaves a step to train: the first step of a warm-up has the learning rate 0.
    warm = training.warmup_steps or min(math.ceil(training.warmup_ratio * steps), steps - 1)
    if training.scheduler == "polynomial" and warm == steps:
        raise TrainingError(
            f"scheduler = 'polynomial' has no step left after warmup_steps = {warm} of {steps}; lower it"
        )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=training.learning_rate)
    schedule = get_scheduler(training.scheduler, optimizer, num_warmup_steps=warm, num_training_steps=steps)
    if not any(_rates(schedule, optimizer, steps)):
        raise TrainingError(
            f"the learning rate is 0 in every step: the run has {steps} of them, and warmup_steps = {warm}; "
            "lower warmup_steps, or train on more pairs (a larger --limit), more epochs or a smaller batch_size"
        )
    return warm


def _rates(schedule: Any, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[float]:
    """The learning rate of each step."""
    for _ in range(steps):
        yield float(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def common_arguments(job: Job, pairs: int) -> dict[str, Any]:
    """Trainer arguments of all arms. TRL's bf16, checkpointing and 1024 tokens by default don't suit small models."""
    training = job.recipe.training
    on_gpu = torch.cuda.is_available()
    at_once, accumulated = split_batch(training, world_size())
    bf16 = in_bf16(job)
    evaluates = training.eval_steps is not None and bool(job.held_out)
    if training.eval_steps is not None and not evaluates:
        log.info("eval_steps = %d: no pair is held out, so nothing is evaluated", training.eval_steps)
    if training.activation_offload and not on_gpu:
        raise TrainingError("activation_offload = true: there is no GPU whose memory would be spared; leave it out")
    # Before training, the user was told which packages are missing.
    reporting = [name for name in training.report_to if importlib.util.find_spec(name) is not None]
    return {
        "output_dir": str(job.out),
        "run_name": job.recipe.name,
        "per_device_train_batch_size": at_once,
        "per_device_eval_batch_size": at_once,
        "gradient_accumulation_steps": accumulated,
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": warm_up(training, total_steps(pairs, training)),
        **{name: getattr(training, name) for name in SAME_NAMES.split()},
        "seed": job.recipe.seed,
        "data_seed": job.recipe.seed,
        "logging_steps": training.log_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": reporting or "none",
        "train_sampling_strategy": "group_by_length" if training.group_by_length else "random",
        "eval_strategy": "steps" if evaluates else "no",
        **({"eval_steps": training.eval_steps} if evaluates else {}),
        "save_strategy": "no",
        "activation_offloading": training.activation_offload,
        "use_cpu": not on_gpu,
        "bf16": bf16,
        **({"tf32": True} if on_gpu and bf16 else {}),
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if training.gradient_checkpointing else {}),
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "dataloader_num_workers": training.workers,
        "disable_tqdm": True,
        "log_level": "error",
    }
