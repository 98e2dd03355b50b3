"""Preference pairs as torch datasets, and samplers that keep answers to one prompt together."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from torch.utils.data import Sampler

from trainers.data.image_places import user_message
from trainers.data.rows import Preference

AHEAD = 32
"""Number of next prompts among which those that fill a batch are searched."""
WINDOW = 64
"""Batches within which prompts are sorted by length."""
FILLING = "filling"
"""Key of examples that only pad the last batch of an epoch; they have no weight."""


class Pairs(Dataset):
    """Pairs as a dataset of TRL's kind (images, prompt, chosen, rejected, and `row` and `id`); images are opened when a
    pair is read.

    `reference`: log-probabilities of (chosen, rejected) by the reference, where they are known.
    """

    def __init__(
        self, preferences: Sequence[Preference], reference: Sequence[tuple[float, float]] | None = None
    ) -> None:
        # TRL takes nothing but `datasets.Dataset`.
        super().__init__(Dataset.from_dict({"row": [pair.row for pair in preferences]}).data)
        self.preferences, self.reference = preferences, reference

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.preferences[index]
        columns: dict[str, Any] = {
            **_prompt_columns(pair),
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "row": pair.row,
        }
        if self.reference is not None:
            columns["ref_chosen_logps"], columns["ref_rejected_logps"] = self.reference[index]
        return columns

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        # Indices behind the last pair fill the last step, and have no weight.
        return [self[index] if index < len(self) else {**self[0], FILLING: True} for index in indices]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


class PromptSampler(Sampler[int]):
    """An order of the pairs in which batches of `batch_size` in a row hold whole prompts, shuffled anew every epoch.

    A prompt is divided among two batches only where no other prompts fill the first one up. With `lengths` (of each
    pair, in any unit), prompts of like length come together, and so do the `ranks` batches that are trained on at once.
    """

    def __init__(
        self, rows: Sequence[int], batch_size: int, seed: int, lengths: Sequence[int] | None = None, ranks: int = 1
    ) -> None:
        prompts: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            prompts.setdefault(row, []).append(index)
        self.prompts, self.size = list(prompts.values()), len(rows)
        self.batch_size, self.seed, self.lengths, self.ranks, self.epoch = batch_size, seed, lengths, ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader: an epoch's order depends on seed and epoch alone, so that a resumed run finds it
        again."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self.seed}/{self.epoch}")
        prompts = chance.sample(self.prompts, len(self.prompts))
        if self.lengths is None:
            batches = fill(prompts, self.batch_size)
        else:
            prompts = list(self._sort_by_length(prompts, self.lengths))
            batches = fill(prompts, self.batch_size)
            whole, rest = batches[: self.size // self.batch_size], batches[self.size // self.batch_size :]
            blocks = [whole[start : start + self.ranks] for start in range(0, len(whole), self.ranks)]
            short = blocks.pop() if blocks and len(blocks[-1]) < self.ranks else []
            chance.shuffle(blocks)
            batches = [batch for block in blocks for batch in block] + short + rest
        return iter([index for batch in batches for index in batch])

    def _sort_by_length(self, prompts: Sequence[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
        window = max(1, WINDOW * self.batch_size * self.ranks * len(prompts) // self.size)
        for start in range(0, len(prompts), window):
            yield from sorted(
                prompts[start : start + window], key=lambda pairs: -max(lengths[index] for index in pairs)
            )


class PromptSampling:
    """Before a TRL trainer in a class's bases: batches of whole prompts where `group_pairs`, and of pairs of like
    length where `train_sampling_strategy` is "group_by_length"."""

    args: Any
    accelerator: Any
    train_dataset: Pairs
    group_pairs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        by_length = self.args.train_sampling_strategy == "group_by_length"
        if not self.group_pairs and not by_length:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        pairs = self.train_dataset.preferences
        lengths = [len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs]
        return PromptSampler(
            [pair.row for pair in pairs] if self.group_pairs else range(len(pairs)),
            batch_size=self.args.train_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=lengths if by_length else None,
            ranks=self.accelerator.num_processes,
        )


def fill(prompts: Sequence[list[int]], room: int) -> list[list[int]]:
    """Batches of `room` pairs (the last may be shorter), of whole prompts in about their order; what fits nowhere is
    divided."""
    batches: list[list[int]] = []
    left = [prompt[start : start + room] for prompt in prompts for start in range(0, len(prompt), room)][::-1]
    while left:
        ahead = [left.pop() for _ in range(min(AHEAD, len(left)))]
        reached: dict[int, tuple[int, ...]] = {len(ahead[0]): (0,)}  # the first is always taken: none waits for ever
        for number, prompt in enumerate(ahead[1:], start=1):
            if room in reached:
                break
            for size, taken in list(reached.items()):
                if size + len(prompt) <= room:
                    reached.setdefault(size + len(prompt), (*taken, number))
        chosen = reached[max(reached)]
        batch = [index for number in chosen for index in ahead[number]]
        over = [prompt for number, prompt in enumerate(ahead) if number not in chosen]
        if over and len(batch) < room:
            missing = room - len(batch)
            batch += over[0][:missing]
            over[0] = over[0][missing:]
        left += reversed(over)
        batches.append(batch)
    return batches


class Answers(Pairs):
    """The chosen answers alone, in TRL's columns for supervised training."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.preferences[index]
        return {**_prompt_columns(pair), "completion": [{"role": "assistant", "content": pair.chosen}]}


def _prompt_columns(pair: Preference) -> dict[str, Any]:
    return {
        "images": [picture.open().convert("RGB") for picture in pair.images],
        "prompt": [user_message(pair)],
        "id": pair.id,
    }
