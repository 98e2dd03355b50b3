"""Samplers and weights that make a step on several processes equal to the same step on one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from trainers.data.torch_dataset import FILLING, Pairs, PromptSampler


@dataclass(frozen=True)
class IdCollator:
    """A collator whose batches know their pairs, under "ids". What fills a step up is left out; alone, it is read and
    has no id."""

    collate: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The collator's own, and the ids."""
        pairs = [example for example in examples if FILLING not in example]
        alone = [{name: value for name, value in example.items() if name != FILLING} for example in examples[:1]]
        ids = [example["id"] for example in pairs]
        batch = {**self.collate(pairs or alone), "ids": ids}
        return batch if pairs or "labels" not in batch else {**batch, "labels": torch.full_like(batch["labels"], -100)}


class PaddedSampler(Sampler[int]):
    """An order of `count` pairs, filled up to whole steps of `size` by places behind the last: no process repeats a
    pair in their stead."""

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


class ByLength:
    """Before a TRL trainer in a class's bases: batches of pairs of like length where `train_sampling_strategy` asks for
    them."""

    args: Any
    accelerator: Any
    train_dataset: Pairs

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        pairs = self.train_dataset.preferences
        return PromptSampler(
            range(len(pairs)),
            batch_size=self.args.train_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=[len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs],
            ranks=self.accelerator.num_processes,
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a batch weighs within its step, which takes the mean of all its batches' means."""

    pairs: float
    """Times the batch's mean over pairs: the step's mean over pairs."""
    tokens: float
    """The same of means over the chosen answers' tokens."""
    short: bool
    """Whether the step lacks pairs."""
    beside: float
    """Of all batches that are trained on at the same time, among those times that have any pair; 0: this one has
    none."""


def shared(step: Sequence[Sequence[tuple[int, int]]], size: int, process: int) -> list[Share]:
    """The shares of a process's batches: (pairs, chosen answers' tokens) by process and batch; `size` pairs are a whole
    step."""
    pairs, tokens = (sum(batch[which] for batches in step for batch in batches) for which in (0, 1))
    parts = len(step) * len(step[0])
    at_once = [sum(batch[0] for batch in batches) for batches in zip(*step, strict=True)]
    times = sum(count > 0 for count in at_once)
    return [
        Share(
            pairs=own * parts / pairs,
            tokens=said * parts / max(tokens, 1),
            short=pairs < size,
            beside=count * times / pairs,
        )
        for (own, said), count in zip(step[process], at_once, strict=True)
    ]


def batch_size_and_tokens(batch: Mapping[str, Any], says: bool) -> torch.Tensor:
    """How many pairs a batch has and, where `says`, tokens of chosen answers."""
    asked = batch["attention_mask"] if not says else batch["completion_mask"]
    said = asked[: len(asked) // 2].sum() if says and batch["ids"] else asked.new_zeros(())
    return torch.stack([said.new_tensor(len(batch["ids"])), said])


@contextmanager
def uneven(accelerator: Any, rows: int, room: int, weight: float) -> Iterator[None]:
    """Figures are gathered from processes that have fewer than `room` pairs, each another number; those of pairs come
    times `weight`."""
    gather, gather_for_metrics = accelerator.gather, accelerator.gather_for_metrics

    def of_pairs(values: Any) -> Any:
        if values.ndim != 1:
            return gather(values)
        found = gather(torch.nn.functional.pad(values[:rows].float(), (0, room - rows), value=math.nan))
        there = found[~found.isnan()]
        return weight * there if len(there) else values

    # accelerate's own leaves out the figures of the last processes, taking them for pairs that are there twice.
    accelerator.gather, accelerator.gather_for_metrics = (
        of_pairs,
        lambda total: gather(total if rows else torch.zeros_like(total)),
    )
    try:
        yield
    finally:
        accelerator.gather, accelerator.gather_for_metrics = gather, gather_for_metrics
