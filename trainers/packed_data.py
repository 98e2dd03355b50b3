"""Preference pairs as the packed trainer reads them: images opened late, each prompt once a batch, pairs of one prompt side by side.

    pairs = Pairs(job.preferences)
    batch = PackedCollator(processor, max_length=2048)([pairs[0], pairs[1]])

A batch has what TRL's collator makes of the same pairs (right-padded rows, first all chosen, then all rejected), but every image once; and,
under "packed", the one row that the model reads.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from trl.data_utils import apply_chat_template, prepare_multimodal_messages

from trainers.packed_attention import Group, PackedError, pack
from trainers.rows import Preference

AHEAD = 32
"""How many prompts are looked through for those that fill a batch up."""
WINDOW = 64
"""Batches within which prompts are sorted by length."""
FILLING = "filling"
"""Marks an example that stands where an epoch has no pair left."""
TEXTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor makes of the text; the rest is images."""


class Pairs(Dataset):
    """Pairs as a dataset of TRL's kind (images, prompt, chosen, rejected, beside `row` and `id`), made when they are looked at.

    `reference`: log-probabilities of (chosen, rejected) by the reference, where they are known.
    """

    def __init__(self, preferences: Sequence[Preference], reference: Sequence[tuple[float, float]] | None = None) -> None:
        super().__init__(Dataset.from_dict({"row": [pair.row for pair in preferences]}).data)  # TRL takes nothing but `datasets.Dataset`
        self.preferences, self.reference = preferences, reference

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.preferences[index]
        known = {} if self.reference is None else dict(zip(("ref_chosen_logps", "ref_rejected_logps"), self.reference[index], strict=True))
        return {
            "images": [picture.open().convert("RGB") for picture in pair.images],
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "row": pair.row,
            "id": pair.id,
            **known,
        }

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        # Places behind the last pair fill the last step up, and carry no weight.
        return [self[index] if index < len(self) else {**self[0], FILLING: True} for index in indices]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class PackedCollator:
    """Pairs -> one packed row, beside the rows that TRL's arithmetic is laid out for."""

    processor: Any
    max_length: int | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """PackedError for pairs that would lose a whole answer, or part of an image, to `max_length`."""
        texts = [self._texts(example) for example in examples]
        # The template may end a prompt by what follows it, so that one row can have two prompts.
        keys = [(example["row"], text["prompt"]) for example, text in zip(examples, texts, strict=True)]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        order = sorted(first, key=lambda key: first[key])
        images = [examples[first[key]]["images"] for key in order]
        ids = [str(examples[first[key]]["id"]) for key in order]
        prompts = self._read(ids, [text for _, text in order], images, padding_side="left")
        prompt_ids = dict(zip(order, _unpadded(prompts), strict=True))
        room = {key: None if self.max_length is None else self.max_length - len(ids) for key, ids in prompt_ids.items()}
        cut = [number for number, key in enumerate(keys) if (left := room[key]) is not None and left <= 0]
        if cut:
            raise CutError([examples[number]["id"] for number in cut], cut, self.max_length or 0)

        said = {text[side]: str(example["id"]) for example, text in zip(examples, texts, strict=True) for side in ("chosen", "rejected")}
        answers = list(said)
        processed = self._read(list(said.values()), answers, [[]] * len(answers), padding_side="right")
        answer_ids = dict(zip(answers, _unpadded(processed), strict=True))
        sides = [(key, text[side]) for side in ("chosen", "rejected") for key, text in zip(keys, texts, strict=True)]
        sequences = list(dict.fromkeys(sides))
        kept = {(key, answer): answer_ids[answer][: room[key]] for key, answer in sequences}
        grouped = [[sequence for sequence in sequences if sequence[0] == key] for key in order]
        row = pack([Group(prompt=prompt_ids[group[0][0]], answers=[kept[sequence] for sequence in group]) for group in grouped])
        begins = {
            sequence: start
            for group, starts in zip(grouped, row.starts, strict=True)
            for sequence, start in zip(group, starts, strict=True)
        }
        laid_out = _trl_rows([(prompt_ids[side[0]], kept[side], begins[side]) for side in sides], self._padding)
        packed = {name: value for name, value in asdict(row).items() if name != "starts"}
        packed |= {"cells": laid_out.pop("cells"), "prompts": {name: prompts[name] for name in TEXTS if name in prompts}}
        references = {
            name: torch.tensor([example[name] for example in examples])
            for name in ("ref_chosen_logps", "ref_rejected_logps")
            if name in examples[0]
        }
        return {**{name: value for name, value in prompts.items() if name not in TEXTS}, **laid_out, **references, "packed": packed}

    @property
    def _padding(self) -> int:
        tokenizer = self.processor.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def _texts(self, example: Mapping[str, Any]) -> dict[str, str]:
        """Prompt, chosen and rejected as text, as TRL renders them."""
        messages = {"prompt": prepare_multimodal_messages(example["prompt"], images=example["images"])}
        messages |= {side: prepare_multimodal_messages(example[side]) for side in ("chosen", "rejected")}
        rendered: dict[str, str] = apply_chat_template(messages, self.processor)
        return rendered

    def _read(self, ids: Sequence[str], texts: Sequence[str], images: Sequence[Sequence[Any]], **arguments: Any) -> Any:
        """What the processor makes of pairs' texts and images; PackedError names the pair that it refuses, for a thin picture, say."""
        try:
            return self._processed(texts, images, **arguments)
        except ValueError:
            for id, text, own in zip(ids, texts, images, strict=True):
                try:
                    self._processed([text], [own])
                except ValueError as error:
                    said = " ".join(str(error).split())
                    raise PackedError(f"pair {id!r}: {type(self.processor).__name__} can't read it: {said}; leave it out") from error
            raise

    def _processed(self, texts: Sequence[str], images: Sequence[Sequence[Any]], **arguments: Any) -> Any:
        shown = {"images": list(images)} if any(images) else {}
        # The template has written the start token already.
        return self.processor(text=list(texts), padding=True, return_tensors="pt", add_special_tokens=False, **shown, **arguments)


class CutError(PackedError):
    """Pairs of which `max_length` leaves no answer: their `ids`, and their `places` in what was collated."""

    def __init__(self, ids: Sequence[str], places: Sequence[int], max_length: int) -> None:
        self.ids, self.places = tuple(ids), tuple(places)
        named = ", ".join(map(repr, self.ids[:5])) + (" ..." if len(self.ids) > 5 else "")
        super().__init__(
            f"prompt and images fill max_length = {max_length} in {len(self.ids)} pairs, which would lose their answer: {named}; "
            "raise max_length, or leave them out"
        )


def _unpadded(processed: Mapping[str, Any]) -> list[list[int]]:
    rows = zip(processed["input_ids"], processed["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def _trl_rows(sequences: Sequence[tuple[list[int], list[int], int]], padding: int) -> dict[str, torch.Tensor]:
    """(prompt, answer, where its scores begin) of each row -> TRL's tensors [rows, T], and `cells` [rows, T - 1].

    A cell is 1 + the place among all scores of the one that belongs there, 0 where none does.
    """
    ids = [torch.tensor(prompt + answer) for prompt, answer, _ in sequences]
    asked = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer, _ in sequences]
    cells = [torch.tensor([0] * (len(prompt) - 1) + list(range(begin + 1, begin + 1 + len(answer)))) for prompt, answer, begin in sequences]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "completion_mask": pad_sequence(asked, batch_first=True),
        "cells": pad_sequence(cells, batch_first=True),
    }


class PromptSampler(Sampler[int]):
    """An order of the pairs in which batches of `batch_size` in a row hold whole prompts, shuffled anew every epoch.

    A prompt is divided among two batches only where no other prompts fill the first one up. With `lengths` (of each pair, in any unit),
    prompts of like length come together, and so do the `ranks` batches that are trained on at once.
    """

    def __init__(self, rows: Sequence[int], batch_size: int, seed: int, lengths: Sequence[int] | None = None, ranks: int = 1) -> None:
        prompts: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            prompts.setdefault(row, []).append(index)
        self.prompts, self.size = list(prompts.values()), len(rows)
        self.batch_size, self.seed, self.lengths, self.ranks, self.epoch = batch_size, seed, lengths, ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader: an epoch's order depends on seed and epoch alone, so that a resumed run finds it again."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self.seed}/{self.epoch}")
        prompts = chance.sample(self.prompts, len(self.prompts))
        if self.lengths is None:
            batches = fill(prompts, self.batch_size)
        else:
            prompts = list(self._by_length(prompts, self.lengths))
            batches = fill(prompts, self.batch_size)
            whole, rest = batches[: self.size // self.batch_size], batches[self.size // self.batch_size :]
            blocks = [whole[start : start + self.ranks] for start in range(0, len(whole), self.ranks)]
            short = blocks.pop() if blocks and len(blocks[-1]) < self.ranks else []
            chance.shuffle(blocks)
            batches = [batch for block in blocks for batch in block] + short + rest
        return iter([index for batch in batches for index in batch])

    def _by_length(self, prompts: Sequence[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
        window = max(1, WINDOW * self.batch_size * self.ranks * len(prompts) // self.size)
        for start in range(0, len(prompts), window):
            yield from sorted(prompts[start : start + window], key=lambda pairs: -max(lengths[index] for index in pairs))


def fill(prompts: Sequence[list[int]], room: int) -> list[list[int]]:
    """Batches of `room` pairs (the last may be shorter), of whole prompts in about their order; what fits nowhere is divided."""
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
