"""Questions with one beginning, side by side in one row of the model: the beginning is in memory once, and a step reads
it once for all of them.

    runner = GroupRunner(model, pad=0, device=device)
    prefix = runner.prefill(rows, images)
    state = runner.ask(prefix, [0, 1], [[question, question], [question]], room=64)
    state = runner.step(state, state.logits.argmax(-1))

A row is [padded beginning][question 1][question 2]...[a token of each][a token of each]...; a mask lets each question
see the beginning and its own tokens. To the model a step is a row of as many new tokens as it has questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from harness.engine.prefix_cache import Runner, State, select_positions, select_rows

MOST_IN_A_ROW: Final = 16
"""Questions in one row at most: the tokens of each are multiplied with those of all."""


@dataclass(frozen=True)
class Groups:
    """A batch in the middle of decoding. Each row has as many slots as the longest has questions."""

    cache: DynamicCache
    sees: Tensor
    """The positions that each slot's last token sees [rows, slots, positions]."""
    following: Tensor
    """The number of each slot's next position [rows, slots]."""
    delta: Tensor | None
    """M-RoPE: the offset from a token's index to its position [rows, 1]."""
    places: Tensor
    """Where each question is, in order of rows and slots: row x slots + slot [questions]."""
    logits: Tensor
    """Of the next token [questions, vocabulary]."""


class GroupRunner(Runner):
    """A Runner that also has questions side by side."""

    @property
    def groups(self) -> bool:
        """Whether questions can be read side by side: by an attention that takes any mask, and sees all positions."""
        return self.text_config._attn_implementation == "sdpa" and not self.windowed

    def ask(
        self, prefix: State, which: Sequence[int], questions: Sequence[Sequence[Sequence[int]]], room: int
    ) -> Groups:
        """Row i reads `questions[i]` (at least one, of at least one id each) after prefix `which[i]`; `room` is the
        tokens of an answer for which positions are allocated at first."""
        rows, slots = torch.tensor(which, device=self.device), max(map(len, questions))
        # A slot has the same columns in all rows.
        by_slot = [[row[slot] if slot < len(row) else () for row in questions] for slot in range(slots)]
        ids = torch.cat([self.padded(slot, self.pad) for slot in by_slot], 1)
        real = torch.cat([self.padded([[1] * len(ids) for ids in slot], 0) for slot in by_slot], 1).bool()
        widths = torch.tensor([max(map(len, slot)) for slot in by_slot], device=self.device)
        slot_of = torch.repeat_interleave(torch.arange(slots, device=self.device), widths)
        own = (slot_of[:, None] == slot_of).tril() & real[:, None]
        own |= torch.eye(len(slot_of), dtype=torch.bool, device=self.device)  # padding, too, must see something
        before = prefix.mask[rows].bool()
        positions = before.sum(-1)[:, None] + own.sum(-1) - 1
        sees = torch.cat([before[:, None].expand(-1, len(slot_of), -1), own], -1)
        places = [row * slots + slot for row, group in enumerate(questions) for slot in range(len(group))]
        state = Groups(
            cache=select_rows(prefix.cache, rows, len(slot_of) + slots * room),
            sees=sees,
            following=positions,
            delta=None if prefix.delta is None else prefix.delta[rows],
            places=torch.tensor(places, device=self.device),
            logits=prefix.logits,
        )
        return self._read(state, ids, sees, positions, widths.cumsum(0) - 1)

    def step(self, state: Any, tokens: Tensor) -> Any:
        """Read one token a question [questions]."""
        if not isinstance(state, Groups):
            return super().step(state, tokens)
        ids = torch.full_like(state.following, self.pad)
        ids.view(-1)[state.places] = tokens
        slots = torch.arange(ids.shape[1], device=self.device)
        own = (slots[:, None] == slots).expand(len(ids), -1, -1)
        return self._read(state, ids, torch.cat([state.sees, own], -1), state.following, slots)

    def keep(self, state: Any, rows: Tensor, room: int) -> Any:
        """The state of these questions only, given in their order."""
        if not isinstance(state, Groups):
            return super().keep(state, rows, room)
        slots = state.following.shape[1]
        chosen = state.places[rows]
        left, row_of, counts = torch.unique_consecutive(chosen // slots, return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        slot_of = torch.arange(len(chosen), device=self.device) - starts[row_of]
        fewer = int(counts.max())
        # Slots that are left over do what the first one does.
        taken = chosen[starts][:, None].repeat(1, fewer)
        taken[row_of, slot_of] = chosen
        sees = state.sees.flatten(0, 1)[taken]
        seen = sees.any(1)
        positions = seen.long().argsort(dim=-1, descending=True, stable=True)[:, : int(seen.sum(-1).max())]
        return Groups(
            cache=select_positions(state.cache, left, positions, fewer * room),
            sees=sees.gather(-1, positions[:, None].expand(-1, fewer, -1)),
            following=state.following.flatten()[taken],
            delta=None if state.delta is None else state.delta[left],
            places=row_of * fewer + slot_of,
            logits=state.logits[rows],
        )

    def _read(self, state: Groups, ids: Tensor, sees: Tensor, positions: Tensor, ends: Tensor) -> Groups:
        """Read `ids` [rows, columns], each of which sees the positions `sees` [rows, columns, positions], itself among
        them; `ends` are the columns of the slots' last tokens."""
        numbers = positions
        if state.delta is not None:
            numbers = torch.stack([positions, *[positions + state.delta] * 3])
        logits = self.forward(ids, sees[:, None], numbers, state.cache, keep=ends)
        return replace(
            state,
            sees=sees[:, ends],
            following=positions[:, ends] + 1,
            logits=logits.flatten(0, 1)[state.places],
        )
