"""Sampler and weights that give a step on several processes the same gradient as on one."""

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
    """A collator whose batches have their pairs' ids under "ids".

    Examples that only fill a step are left out; a batch of these alone has the first one, without an id.
    """

    collate: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the wrapped collator makes, and the ids."""
        pairs = [example for example in examples if FILLING not in example]
        first = [{name: value for name, value in example.items() if name != FILLING} for example in examples[:1]]
        batch = {**self.collate(pairs or first), "ids": [example["id"] for example in pairs]}
        return batch if pairs or "labels" not in batch else {**batch, "labels": torch.full_like(batch["labels"], -100)}


class PaddedSampler(Sampler[int]):
    """An order of `count` pairs, padded to whole steps of `size` by indices from `count` on.

    Otherwise processes would repeat pairs to fill their last batch.
    """

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
    """Factors for the means of a batch, with which the mean over batches is a mean over the step's pairs or tokens."""

    pairs: float
    """For means over pairs."""
    tokens: float
    """For means over the chosen answers' tokens."""
    incomplete: bool
    """True if the step has fewer pairs than others."""
    concurrent: float
    """For figures gathered from the batches that all processes train on at the same time; 0 if these have no pairs."""


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
    """[2]: a batch's number of pairs and, if `with_tokens`, of tokens of chosen answers (else 0)."""
    mask = batch["completion_mask" if with_tokens else "attention_mask"]
    tokens = mask[: len(mask) // 2].sum() if with_tokens and batch["ids"] else mask.new_zeros(())
    return torch.stack([tokens.new_tensor(len(batch["ids"])), tokens])


@contextmanager
def uneven_gathering(accelerator: Any, rows: int, room: int, weight: float) -> Iterator[None]:
    """Inside, figures are gathered from processes with different numbers of pairs: `rows` here, at most `room`.

    Figures of pairs are multiplied by `weight`.
    """
    gather, gather_for_metrics = accelerator.gather, accelerator.gather_for_metrics

    def gather_pairs(values: Any) -> Any:
        if values.ndim != 1:
            return gather(values)
        found = gather(torch.nn.functional.pad(values[:rows].float(), (0, room - rows), value=math.nan))
        there = found[~found.isnan()]
        return weight * there if len(there) else values

    # accelerate's own would drop the last processes' figures as those of repeated pairs.
    accelerator.gather = gather_pairs
    accelerator.gather_for_metrics = lambda total: gather(total if rows else torch.zeros_like(total))
    try:
        yield
    finally:
        accelerator.gather, accelerator.gather_for_metrics = gather, gather_for_metrics
