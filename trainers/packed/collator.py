"""Preference pairs as batches of the packed trainer: each prompt once, with the pairs of a prompt side by side.

    pairs = Pairs(job.preferences)
    batch = PackedCollator(processor, max_length=2048)([pairs[0], pairs[1]])

A batch has the right-padded rows of TRL's collator (first all chosen, then all rejected answers), with every image
once, and under "packed" the one row that the model reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from support.errors import TrainingError, first_few
from trainers.data.collators import TEXTS, Collator
from trainers.packed.attention import Group, pack


@dataclass(frozen=True)
class PackedCollator(Collator):
    """Pairs -> one packed row, and the rows that TRL's loss is computed from."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """TrainingError for pairs that would lose a whole answer, or part of an image, to `max_length`."""
        both = "chosen", "rejected"
        turns = [self.read_turn(example, both) for example in examples]
        # One row of the data can have two prompts.
        keys = [(example["row"], turn.prompt) for example, turn in zip(examples, turns, strict=True)]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        order = sorted(first, key=lambda key: first[key])
        images = [examples[first[key]]["images"] for key in order]
        ids = [str(examples[first[key]]["id"]) for key in order]
        prompts = self.process(ids, [text for _, text in order], images)
        prompt_ids = dict(zip(order, _unpad(prompts), strict=True))
        room = {key: None if self.max_length is None else self.max_length - len(ids) for key, ids in prompt_ids.items()}
        cut = [number for number, key in enumerate(keys) if (left := room[key]) is not None and left <= 0]
        if cut:
            raise CutError([examples[number]["id"] for number in cut], cut, self.max_length or 0)

        sides = [
            (key, tuple(turn.answers[side])) for side in range(len(both)) for key, turn in zip(keys, turns, strict=True)
        ]
        sequences = list(dict.fromkeys(sides))
        kept = {(key, answer): list(answer[: room[key]]) for key, answer in sequences}
        grouped = [[sequence for sequence in sequences if sequence[0] == key] for key in order]
        row = pack([Group(prompt=prompt_ids[own[0][0]], answers=[kept[each] for each in own]) for own in grouped])
        begins = {
            sequence: start
            for group, starts in zip(grouped, row.starts, strict=True)
            for sequence, start in zip(group, starts, strict=True)
        }
        laid_out = _lay_out_rows([(prompt_ids[side[0]], kept[side], begins[side]) for side in sides], self.padding)
        packed = {name: value for name, value in asdict(row).items() if name != "starts"}
        packed["cells"] = laid_out.pop("cells")
        packed["prompts"] = {name: prompts[name] for name in TEXTS if name in prompts}
        known = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in examples[0]]
        references = {name: torch.tensor([example[name] for example in examples]) for name in known}
        shown = {name: value for name, value in prompts.items() if name not in TEXTS}
        return {**shown, **laid_out, **references, "packed": packed}


class CutError(TrainingError):
    """Pairs whose prompt alone fills `max_length`: their `ids`, and their `places` among the given pairs."""

    def __init__(self, ids: Sequence[str], places: Sequence[int], max_length: int) -> None:
        self.ids, self.places = tuple(ids), tuple(places)
        super().__init__(
            f"prompt and images fill max_length = {max_length} in {len(self.ids)} pairs, "
            f"which would lose their answer: {first_few(self.ids)}; raise max_length, or leave them out"
        )


def _unpad(processed: Mapping[str, Any]) -> list[list[int]]:
    rows = zip(processed["input_ids"], processed["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def _lay_out_rows(sequences: Sequence[tuple[list[int], list[int], int]], padding: int) -> dict[str, torch.Tensor]:
    """(prompt, answer, where its scores begin) of each row -> TRL's tensors [rows, T], and `cells` [rows, T - 1].

    A cell is 1 + the index of its score among all scores, 0 if it has none.
    """
    ids = [torch.tensor(prompt + answer) for prompt, answer, _ in sequences]
    asked = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer, _ in sequences]
    cells = [
        torch.tensor([0] * (len(prompt) - 1) + list(range(begin + 1, begin + 1 + len(answer))))
        for prompt, answer, begin in sequences
    ]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "completion_mask": pad_sequence(asked, batch_first=True),
        "cells": pad_sequence(cells, batch_first=True),
    }
