"""One row for a prompt and all its answers, and the attention that keeps the answers apart.

    row = pack([Group(prompt=[1, 5, 6], answers=[[7, 8], [9]])])
    row.input_ids                # 1 5 | 6 7 | 6              what is read
    row.targets                  #       7 8   9              what is predicted, at `row.scored`
    row.positions                # 0 1 | 2 3 | 2

The prompt's last token is repeated before every answer, whose first token it predicts. A token attends to the prompt
and to its own answer before it. No mask of the row's length squared is made: the keys are gathered for each segment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from support.errors import TrainingError

NAME = "shared_prefix"
"""Name for `model.set_attn_implementation`; calls without the keyword argument of this name use transformers' sdpa."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The token ids of one prompt, images included, and of the answers to it."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Groups in one row of N tokens, n of which predict an answer's token."""

    input_ids: Tensor
    """[1, N]."""
    positions: Tensor
    """[N]: position of each token in its own sequence, from 0."""
    scored: Tensor
    """[n]: places in the row whose predictions are scored."""
    targets: Tensor
    """[1, n]: the tokens to predict there."""
    keys: Tensor
    """[M]: places in the row that each segment's queries attend to, segment after segment."""
    sizes: list[int]
    """Tokens of each group: they add up to N."""
    lengths: list[tuple[int, int]]
    """(queries, keys) of each segment; its last query and its last key are the same token."""
    answers: list[int]
    """Scored tokens of each segment, which are its last ones."""
    starts: list[list[int]]
    """For each group and answer, where its scores begin among the n."""


def pack(groups: Sequence[Group]) -> Packed:
    """Put the groups one after the other. A group's prompt and first answer are one segment, each other answer one."""
    ids: list[int] = []
    positions: list[int] = []
    scored: list[int] = []
    targets: list[int] = []
    keys: list[int] = []
    lengths: list[tuple[int, int]] = []
    starts: list[list[int]] = []
    sizes: list[int] = []

    for group in groups:
        begin, shared = len(ids), len(group.prompt) - 1
        ids += group.prompt[:-1]
        positions += range(shared)
        starts.append([])
        for number, answer in enumerate(group.answers):
            branch = range(len(ids), len(ids) + len(answer))
            ids += [group.prompt[-1], *answer[:-1]]
            positions += range(shared, shared + len(answer))
            starts[-1].append(len(scored))
            scored += branch
            targets += answer
            keys += [*range(begin, begin + shared), *branch]
            lengths.append((len(answer) + (0 if number else shared), shared + len(answer)))
        sizes.append(len(ids) - begin)
    return Packed(
        input_ids=torch.tensor([ids]),
        positions=torch.tensor(positions),
        scored=torch.tensor(scored),
        targets=torch.tensor([targets]),
        keys=torch.tensor(keys),
        sizes=sizes,
        lengths=lengths,
        answers=[len(answer) for group in groups for answer in group.answers],
        starts=starts,
    )


def attention_argument(
    keys: Tensor, lengths: Sequence[tuple[int, int]], queries: Tensor | None = None
) -> dict[str, Any]:
    """The keyword argument `shared_prefix` of a forward pass over a packed row, on the device of `keys`.

    `queries`: the places in the row whose attention is computed; None: all. The output is zero at the others.
    """
    # A segment with as many queries as keys is causal, which sdpa computes faster without a mask.
    masks = [
        None if asked == seen else torch.ones(asked, seen, dtype=torch.bool, device=keys.device).tril(seen - asked)
        for asked, seen in lengths
    ]
    bounds = torch.tensor([(0, 0), *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(keys.device)
    return {
        "queries": queries,
        "keys": keys,
        "lengths": lengths,
        "masks": masks,
        "bounds": (bounds[:, 0].contiguous(), bounds[:, 1].contiguous()),
        "longest": tuple(max(side) for side in zip(*lengths, strict=True)),
    }


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prefix: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over a packed row, query [1, heads, N, width] -> [1, N, heads, width]; sdpa for other rows."""
    if shared_prefix is None:
        ordinary: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return ordinary
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            model = type(module).__name__
            raise TrainingError(f"{model} attends with {name}, which packed rows do not support; train it unpacked")
    key, value = (part.index_select(2, shared_prefix["keys"]) for part in (key, value))
    places = shared_prefix["queries"]
    if places is None:
        return _attend_by_segment(query, key, value, shared_prefix, dropout, scaling), None
    seen = _attend_by_segment(query.index_select(2, places), key, value, shared_prefix, dropout, scaling)
    nothing = seen.new_zeros(1, query.shape[2], *seen.shape[2:])
    return nothing.index_copy(1, places, seen), None


def _attend_by_segment(
    query: Tensor, key: Tensor, value: Tensor, shared_prefix: Mapping[str, Any], dropout: float, scaling: float | None
) -> Tensor:
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        # The flash kernel for segments of several lengths; its causal window ends at a segment's last query and key.
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
        shape = (*shared_prefix["bounds"], *shared_prefix["longest"])
        grouped = query.shape[1] != key.shape[1]
        seen: Any = varlen_attn(query, key, value, *shape, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)
        attended: Tensor = seen[None]
        return attended
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    asked, seen = zip(*shared_prefix["lengths"], strict=True)
    segments = zip(
        query.split(asked, dim=2), key.split(seen, dim=2), value.split(seen, dim=2), shared_prefix["masks"], strict=True
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    found = [
        attend(q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling)
        for q, k, v, mask in segments
    ]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous()


def register() -> None:
    """Make the attention known to transformers."""
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
