"""Samplers and weights by which a step on several processes has the gradient of the same step on one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from trainers.data.torch_dataset import FILLING


@dataclass(frozen=True)
class IdCollator:
    """A collator whose batches hold their pairs' ids, under "ids".

    Examples that only fill a step are left out; if all of a batch do, it holds the first one, which has no id.
    """

    collate: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the wrapped collator makes, and the ids."""
        pairs = [example for example in examples if FILLING not in example]
        first = [{name: value for name, value in example.items() if name != FILLING} for example in examples[:1]]
        batch = {**self.collate(pairs or first), "ids": [example["id"] for example in pairs]}
        return batch if pairs or "labels" not in batch else {**batch, "labels": torch.full_like(batch["labels"], -100)}


class PaddedSampler(Sampler[int]):
    """An order of `count` pairs, filled to whole steps of `size` by indices behind the last, so that no process repeats
    a pair to fill its batch."""

    def __init__(self, order: Sampler[int], count: int, size: int) -> None:
        self.order, self.count, self.size = order, count, size

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self.order.set_epoch(epoch)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return math.ceil(self.count / self.size) * self.size

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from range(self.count, len(self))


@dataclass(frozen=True, kw_only=True)
class BatchWeight:
    """Factors of a batch's means, with which the mean over a step's batches is the mean over the step's pairs or
    tokens."""

    pairs: float
    """Of a mean over pairs."""
    tokens: float
    """Of a mean over the chosen answers' tokens."""
    incomplete: bool
    """True if the step has fewer pairs than a whole one."""
    concurrent: float
    """Of figures gathered over the batches that the processes train on at the same time, so that each such group
    counts by its pairs; 0 if this group has none."""


def weigh_batches(step: Sequence[Sequence[tuple[int, int]]], size: int, process: int) -> list[BatchWeight]:
    """The weights of one process's batches.

    `step`: (pairs, tokens of chosen answers) by process and batch; `size`: pairs of a whole step.
    """
    pairs, tokens = (sum(batch[which] for batches in step for batch in batches) for which in (0, 1))
    parts = len(step) * len(step[0])
    at_once = [sum(batch[0] for batch in batches) for batches in zip(*step, strict=True)]
    groups = sum(count > 0 for count in at_once)
    return [
        BatchWeight(
            pairs=own_pairs * parts / pairs,
            tokens=own_tokens * parts / max(tokens, 1),
            incomplete=pairs < size,
            concurrent=count * groups / pairs,
        )
        for (own_pairs, own_tokens), count in zip(step[process], at_once, strict=True)
    ]


def count_pairs_and_tokens(batch: Mapping[str, Any], with_tokens: bool) -> torch.Tensor:
    """How many pairs a batch has and, `with_tokens`, how many tokens of chosen answers (else 0): [2]."""
    mask = batch["completion_mask" if with_tokens else "attention_mask"]
    tokens = mask[: len(mask) // 2].sum() if with_tokens and batch["ids"] else mask.new_zeros(())
    return torch.stack([tokens.new_tensor(len(batch["ids"])), tokens])


@contextmanager
def uneven_gathering(accelerator: Any, rows: int, room: int, weight: float) -> Iterator[None]:
    """Inside, figures are gathered from processes that have different numbers of pairs: this one `rows`, none more than
    `room`. Figures of pairs are multiplied by `weight`."""
    gather, gather_for_metrics = accelerator.gather, accelerator.gather_for_metrics

    def gather_pairs(values: Any) -> Any:
        if values.ndim != 1:
            return gather(values)
        found = gather(torch.nn.functional.pad(values[:rows].float(), (0, room - rows), value=math.nan))
        there = found[~found.isnan()]
        return weight * there if len(there) else values

    # accelerate's own leaves out the figures of the last processes, taking them for pairs that are there twice.
    accelerator.gather = gather_pairs
    accelerator.gather_for_metrics = lambda total: gather(total if rows else torch.zeros_like(total))
    try:
        yield
    finally:
        accelerator.gather, accelerator.gather_for_metrics = gather, gather_for_metrics
