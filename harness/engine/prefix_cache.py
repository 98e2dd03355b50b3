"""Prefix caching: keys and values of a prompt up to the end of its images are computed once and forked over the
questions that follow.

    prefix = runner.prefill(rows, images)             # one row a distinct beginning
    state = runner.fork(prefix, [0, 0, 1], suffixes)  # three questions on two beginnings
    state = runner.step(state, state.logits.argmax(-1))

Rows are laid out [padded beginning][left-padded question][answer]; positions count what is not padding, M-RoPE
included.
"""

import contextlib
import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer

from harness.engine.cpu_kernels import FastOnCPU
from harness.engine.families import READS_BOTH_WAYS

ROOM = 64
"""Positions by which a cache grows at a time."""


class _GrowingLayer(DynamicLayer):
    """A layer's keys and values in a buffer with free positions at its end: a step writes one and copies nothing."""

    def __init__(
        self, keys: Tensor, values: Tensor, rows: Tensor, room: int, *, positions: Tensor | None = None
    ) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.length, self.is_initialized = keys.shape[-2] if positions is None else positions.shape[-1], True
        self.key_store = self._allocate(keys, rows, room, positions)
        self.value_store = self._allocate(values, rows, room, positions)
        self._set_views()

    def _allocate(self, part: Tensor, rows: Tensor, room: int, positions: Tensor | None = None) -> Tensor:
        """These rows, and of each these positions [rows, positions], with room behind them."""
        length = part.shape[-2] if positions is None else positions.shape[-1]
        store = part.new_empty(len(rows), part.shape[1], length + room, part.shape[-1])
        if positions is None:
            torch.index_select(part, 0, rows, out=store[:, :, :length])  # `part[rows]` would be one copy more
        else:
            for at, row in enumerate(rows.tolist()):
                torch.index_select(part[row], 1, positions[at], out=store[at, :, :length])
        return store

    def _set_views(self) -> None:
        self.keys, self.values = self.key_store[:, :, : self.length], self.value_store[:, :, : self.length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write behind what is there."""
        more = key_states.shape[-2]
        if self.length + more > self.key_store.shape[-2]:
            everything = torch.arange(len(self.keys), device=self.device)
            self.key_store = self._allocate(self.keys, everything, more + ROOM)
            self.value_store = self._allocate(self.values, everything, more + ROOM)
        self.key_store[:, :, self.length : self.length + more] = key_states
        self.value_store[:, :, self.length : self.length + more] = value_states
        self.length += more
        self._set_views()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions held."""
        return self.length


class _AllRead(Exception):
    """The last layer's keys and values are there."""


class _LastLayer(DynamicLayer):
    """Ends the pass once it has its keys and values: what comes after them is for the logits alone."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Raises _AllRead."""
        super().update(key_states, value_states)
        raise _AllRead


def select_rows(cache: DynamicCache, rows: Tensor, room: int) -> DynamicCache:
    """A new cache with these rows and `room` free positions; the old one stays as it is."""
    out = copy.copy(cache)
    out.layers = []
    for layer in cache.layers:
        if type(layer) in (_GrowingLayer, _LastLayer, DynamicLayer):
            if not layer.is_initialized or layer.keys is None or layer.keys.numel() == 0:
                out.layers.append(copy.copy(layer))
            else:
                out.layers.append(_GrowingLayer(layer.keys, layer.values, rows.to(layer.keys.device), room))
        else:  # sliding windows
            other = copy.copy(layer)
            if getattr(layer, "is_initialized", False) and layer.keys is not None:
                own = rows.to(layer.keys.device)
                other.keys, other.values = layer.keys[own], layer.values[own]
            out.layers.append(other)
    return out


def select_positions(cache: DynamicCache, rows: Tensor, positions: Tensor, room: int) -> DynamicCache:
    """A new cache with these rows and of each these positions [rows, positions], none of whose layers has a window."""
    out = copy.copy(cache)
    out.layers = [_GrowingLayer(layer.keys, layer.values, rows, room, positions=positions) for layer in cache.layers]
    return out


@dataclass
class State:
    """A batch of rows in the middle of decoding."""

    cache: Any
    mask: Tensor
    """Attention mask [rows, positions]: 1 for tokens, 0 for padding."""
    delta: Tensor | None
    """M-RoPE: the offset from a token's index to its position [rows, 1]."""
    logits: Tensor
    """Of the next token [rows, vocabulary]."""


def join(states: Sequence[State]) -> State:
    """Several prefixes as one batch; the shorter ones are padded before them."""
    if len(states) == 1:
        return states[0]
    longest = max(state.mask.shape[1] for state in states)

    def pad(part: Tensor, dim: int) -> Tensor:
        return functional.pad(part, (*[0] * (2 * (part.ndim - 1 - dim)), longest - part.shape[dim], 0))

    cache = copy.copy(states[0].cache)
    cache.layers = []
    for layers in zip(*(state.cache.layers for state in states), strict=True):
        joined = copy.copy(layers[0])
        joined.keys, joined.values = (
            torch.cat([pad(getattr(layer, name), 2) for layer in layers]) for name in ("keys", "values")
        )
        cache.layers.append(joined)
    deltas = [state.delta for state in states if state.delta is not None]
    return State(
        cache=cache,
        mask=torch.cat([pad(state.mask, 1) for state in states]),
        delta=torch.cat(deltas) if deltas else None,
        logits=torch.cat([state.logits for state in states]),
    )


class Runner:
    """A model's forward passes over prefixes, questions and single tokens."""

    def __init__(self, model: Any, *, pad: int, device: torch.device, compiled: bool = False) -> None:
        self.model, self.pad, self.device, self.compiled = model, pad, device, compiled
        self.base = model.base_model
        self.text_config = model.config.get_text_config()
        takes = set(inspect.signature(model.forward).parameters)
        self.types_name = next((name for name in ("mm_token_type_ids", "token_type_ids") if name in takes), None)
        self.takes = takes
        self.mrope = hasattr(self.base, "get_rope_index")
        self.both_ways = model.config.model_type in READS_BOTH_WAYS
        self.first = 1 if self.both_ways else 0
        """The first position's number."""

    def why_no_prefix(self) -> str | None:
        """Why this family's prefixes can't be shared, or None."""
        if self.both_ways:
            return "it reads the question in both directions, so what is before it depends on it"
        if "position_ids" not in self.takes or "past_key_values" not in self.takes:
            return "the model takes no positions or no cache"
        layers = DynamicCache(config=self.text_config).layers
        if self.model._is_stateful or not all(isinstance(layer, DynamicLayer | DummyLayer) for layer in layers):
            return "the model's state is more than keys and values"
        return None

    @property
    def windowed(self) -> bool:
        """True if a layer has a sliding window, in which padding between tokens would take up positions."""
        return any(
            type(layer) not in (DynamicLayer, DummyLayer) for layer in DynamicCache(config=self.text_config).layers
        )

    def bytes_per_position(self) -> int:
        """Of keys and values of one token in all layers, about."""
        config = self.text_config
        try:
            shared = config.num_attention_heads / config.num_key_value_heads
        except (AttributeError, RuntimeError):  # it has none, or others in each layer
            shared = 1
        return int(2 * config.num_hidden_layers * config.hidden_size * self.model.dtype.itemsize / shared)

    def longest(self) -> int | None:
        """The longest prompt whose prefix keys don't depend on its length; None: any."""
        if self.model.config.model_type == "qwen":
            return int(self.model.config.seq_length)
        rope = getattr(self.text_config, "rope_parameters", None) or {}
        if isinstance(rope, dict) and rope.get("rope_type") in ("dynamic", "longrope"):
            return int(rope.get("original_max_position_embeddings") or self.text_config.max_position_embeddings)
        return None

    def padded(self, rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        """Left-padded rows [rows, longest]."""
        length = max(map(len, rows))
        return torch.tensor([[fill] * (length - len(row)) + list(row) for row in rows], device=self.device)

    def prefill(
        self,
        rows: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]] | None,
        inputs: dict[str, Any],
        *,
        last: bool = True,
    ) -> State:
        """Forward pass over rows of ids; `types` marks image tokens (1), `inputs` holds the images. Without `last` it
        ends at the last layer's keys and values, and there are no logits."""
        ids, mask = self.padded(rows, self.pad), self.padded([[1] * len(row) for row in rows], 0)
        given = dict(inputs)
        if self.both_ways:
            given["token_type_ids"] = torch.zeros_like(ids)  # all is read in both directions, the answer to come is not
        elif types is not None and self.types_name is not None:
            given[self.types_name] = self.padded(types, 0)
        positions, delta = (mask.cumsum(-1) - 1).clamp(min=0) + self.first, None
        if self.mrope:
            grids = {name: part for name, part in given.items() if name.endswith("_grid_thw")}
            three, delta = self.base.get_rope_index(
                ids, mm_token_type_ids=given.pop(self.types_name or ""), attention_mask=mask, **grids
            )
            positions = torch.cat([positions[None], three.to(positions)])
        cache = DynamicCache(config=self.text_config)
        if last or self.windowed or self.compiled:
            return State(cache, mask, delta, self.forward(ids, mask, positions, cache, **given)[:, -1])
        cache.layers[-1] = _LastLayer()
        with contextlib.suppress(_AllRead):
            self.forward(ids, mask, positions, cache, **given)
        return State(cache, mask, delta, torch.empty(0, device=self.device))

    def fork(self, prefix: State, which: Sequence[int], suffixes: Sequence[Sequence[int]], room: int) -> State:
        """Continue prefixes: row i reads `suffixes[i]` (at least one id) after prefix `which[i]`."""
        rows = torch.tensor(which, device=self.device)
        cache = select_rows(prefix.cache, rows, max(map(len, suffixes)) + room)
        delta = None if prefix.delta is None else prefix.delta[rows]
        state = State(cache, prefix.mask[rows], delta, prefix.logits)
        more, seen = self.padded(suffixes, self.pad), self.padded([[1] * len(row) for row in suffixes], 0)
        return self._read_more(state, more, seen)

    def with_room(self, state: State, room: int) -> State:
        """The same rows, with cache positions allocated for an answer."""
        everything = torch.arange(len(state.mask), device=self.device)
        return State(select_rows(state.cache, everything, room), state.mask, state.delta, state.logits)

    def step(self, state: State, tokens: Tensor) -> State:
        """Read one token a row [rows]."""
        return self._read_more(state, tokens[:, None], torch.ones_like(tokens[:, None]))

    def keep(self, state: State, rows: Tensor, room: int) -> State:
        """The state of these rows only."""
        delta = None if state.delta is None else state.delta[rows]
        return State(select_rows(state.cache, rows, room), state.mask[rows], delta, state.logits[rows])

    def _read_more(self, state: State, more: Tensor, seen: Tensor) -> State:
        mask = torch.cat([state.mask, seen], 1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -more.shape[1] :] + self.first
        if state.delta is not None:
            positions = torch.stack([positions, *[positions + state.delta] * 3])
        logits = self.forward(more, mask, positions, state.cache)[:, -1]
        return State(state.cache, mask, state.delta, logits)

    def forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int | Tensor = 1, **given: Any
    ) -> Tensor:
        """Logits in float32 [rows, kept, vocabulary]: of the last `keep` columns, or of the columns `keep`."""
        if "logits_to_keep" in self.takes:
            given["logits_to_keep"] = keep
        given |= {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        with contextlib.nullcontext() if self.compiled else FastOnCPU():  # torch.compile chooses its own kernels
            logits: Tensor = self.model(**given, use_cache=True).logits
        if "logits_to_keep" not in self.takes:
            logits = logits[:, -keep:] if isinstance(keep, int) else logits[:, keep]
        return logits.float()
