"""Batches of pairs, or of answers, in the rows of TRL's trainers; an answer's tokens are those that are generated.

PairCollator(processor, max_length=2048, stops=stops_of(model, processor))(examples)      # chosen, then rejected
AnswerCollator(processor, max_length=2048, stops=stops_of(model, processor))(examples)    # for supervised training
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence

from support.errors import TrainingError, one_line
from trainers.data.chat import Chat, Turn

TEXTS: Final = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""A processor's outputs for texts; the others are for images."""
KINDS: Final = TEXTS[2:]
"""Those that say of each token what it is: 0 for an answer's."""


@dataclass(frozen=True)
class Collator:
    """What all collators share: a processor, the longest row, and the tokens that end answers."""

    processor: Any
    max_length: int | None = None
    stops: frozenset[int] = frozenset()

    @functools.cached_property
    def chat(self) -> Chat:
        """The processor's chat."""
        return Chat(self.processor, self.stops)

    def read_turn(self, example: Mapping[str, Any], sides: Sequence[str]) -> Turn:
        """The example's prompt, and the tokens of its answers on these sides; TrainingError names a refused pair."""
        answers = [example[side][-1]["content"] for side in sides]
        marked = [answer for answer in answers if self.chat.holds_special_token(answer)]
        if marked:  # some stand for a picture, which answers don't have
            self.process([str(example.get("id"))] * len(marked), marked, [[]] * len(marked))
        return self.chat.read(example["prompt"], example["images"], answers)

    def process(self, ids: Sequence[str], texts: Sequence[str], images: Sequence[Sequence[Any]]) -> Any:
        """The processor's outputs for texts and images, padded left; TrainingError names a pair that it refuses."""
        try:
            return self._process(texts, images)
        except ValueError:
            for id, text, own in zip(ids, texts, images, strict=True):
                try:
                    self._process([text], [own])
                except ValueError as error:
                    raise TrainingError(
                        f"pair {id!r}: {type(self.processor).__name__} can't read it: {one_line(error)}; leave it out"
                    ) from error
            raise

    def _process(self, texts: Sequence[str], images: Sequence[Sequence[Any]]) -> Any:
        shown = {"images": [list(own) for own in images]} if any(images) else {}
        settings = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        # Rendered texts have a start token already.
        return self.processor(text=list(texts), add_special_tokens=False, **shown, **settings)

    def lay_out(self, prompts: Mapping[str, Any], answers: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """A prompt and an answer a row, [rows, T], right-padded, cut at `max_length`; `completion_mask`: the answer."""
        masks = [mask.bool() for mask in prompts["attention_mask"]]
        answer_ids = [torch.tensor(answer, dtype=torch.long) for answer in answers]
        prompt_ids = [ids[mask] for ids, mask in zip(prompts["input_ids"], masks, strict=True)]
        rows = {"input_ids": [torch.cat(both) for both in zip(prompt_ids, answer_ids, strict=True)]}
        rows["attention_mask"] = [torch.ones_like(row) for row in rows["input_ids"]]
        both = zip(prompt_ids, answer_ids, strict=True)
        rows["completion_mask"] = [torch.cat([torch.zeros_like(ids), torch.ones_like(own)]) for ids, own in both]
        for name in KINDS:
            if name in prompts:
                parts = zip(prompts[name], masks, answer_ids, strict=True)
                rows[name] = [torch.cat([kinds[mask], torch.zeros_like(own)]) for kinds, mask, own in parts]
        fill = {name: self.padding if name == "input_ids" else 0 for name in rows}
        return {
            name: pad_sequence([row[: self.max_length] for row in found], batch_first=True, padding_value=fill[name])
            for name, found in rows.items()
        }

    @property
    def padding(self) -> int:
        """The token that fills rows up."""
        tokenizer = self.processor.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


class PairCollator(Collator):
    """Pairs -> TRL's rows: first all chosen, then all rejected answers, each with its images."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """TrainingError names a pair that the processor refuses."""
        turns = [self.read_turn(example, ("chosen", "rejected")) for example in examples]
        ids = [str(example.get("id", place)) for place, example in enumerate(examples)] * 2
        prompts = self.process(ids, [turn.prompt for turn in turns] * 2, [one["images"] for one in examples] * 2)
        answers = [turn.answers[side] for side in (0, 1) for turn in turns]
        return {**prompts, **self.lay_out(prompts, answers)}


class AnswerCollator(Collator):
    """Prompts with one answer each -> TRL's rows for supervised training, which learns the answers' tokens."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """TrainingError names an example that the processor refuses."""
        turns = [self.read_turn(example, ("completion",)) for example in examples]
        ids = [str(example.get("id", place)) for place, example in enumerate(examples)]
        prompts = self.process(ids, [turn.prompt for turn in turns], [one["images"] for one in examples])
        rows = self.lay_out(prompts, [turn.answers[0] for turn in turns])
        labels = rows["input_ids"].masked_fill(rows.pop("completion_mask") == 0, -100)
        return {**prompts, **rows, "labels": labels}
