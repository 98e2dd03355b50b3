"""Log-probabilities of answer tokens, for vocabularies of any size: no tensor is as large as tokens times vocabulary.

    scores = score_tokens(hidden, head.weight, head.bias, targets)      # hidden [N, width], targets [N]
    scores.log_probs.sum().backward()

The head is multiplied one tile of the vocabulary at a time, and its softmax is summed up over the tiles. The gradient
of log p(y) by the hidden state is `W[y] - sum_v p(v) W[v]`. This sum is taken in the same pass, as attention takes the
sum of its values, so that a head that is not trained is multiplied twice a step and not three times. A head that is
trained is multiplied again in the backward pass. Sums are in float32.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from trainers.packed.attention import NAME

ROWS = 1024
"""Tokens of a tile, at most."""
TILE = 1 << 21
"""Logits of a tile, at most: 8 MiB in float32."""
LEAST_COLUMNS = 128
"""Words of a tile, at least."""
CHANGED_LOGITS = (
    *("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"),
)
"""Settings of language models whose logits are more than the head's product."""


@dataclass(frozen=True)
class TokenScores:
    """What a model says about each of N tokens, [N] each; only `log_probs` has a gradient."""

    log_probs: Tensor
    entropy: Tensor
    """Of the distribution over the vocabulary."""
    log_sum_sq_probs: Tensor
    mean_logits: Tensor
    is_top1: Tensor
    """Whether the token is the most likely one, the first of equals."""


def score_tokens(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> TokenScores:
    """Scores of `targets` [N] after the hidden states [N, width], by a head of weight [vocabulary, width]."""
    found: tuple[Tensor, ...] = _Scores.apply(hidden, weight, bias, targets)
    return TokenScores(*found)


def score_in_forward(model: Any) -> None:
    """Make a model's forward pass over packed rows end with `score_tokens`; others are as before.

    Models whose logits are scaled or capped keep the head that TRL gave them, which computes the same in larger tiles.
    """
    config = model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in CHANGED_LOGITS):
        return
    ordinary, head = model.forward, model.get_output_embeddings()
    multiply = head.forward

    # A part of the head's own forward pass: there FSDP2 has gathered its weights, and takes care of their gradients.
    def score(hidden: Tensor, targets: Tensor | None = None) -> Any:
        return multiply(hidden) if targets is None else _Scores.apply(hidden, head.weight, head.bias, targets)

    @functools.wraps(ordinary)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get(NAME) is None:
            return ordinary(*args, **kwargs)
        targets = kwargs.pop("shift_labels")[0]
        del kwargs["fused_lm_head"]
        hidden = model.base_model(*args, **kwargs, use_cache=False).last_hidden_state[0]
        found = TokenScores(*head(hidden, targets=targets))
        return FusedCausalLMOutput(
            loss=-found.log_probs.mean(), **{name: value[None] for name, value in vars(found).items()}
        )

    head.forward = score
    model.forward = forward


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        ctx.dtype = _type_of_products(hidden)
        trains_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        toward = None if trains_head or not ctx.needs_input_grad[0] else torch.zeros_like(hidden, dtype=torch.float32)
        parts = []
        for own in _ranges(len(hidden), ROWS):
            mean = None if toward is None else toward[own]
            parts.append(_score(hidden[own].to(ctx.dtype), weight, bias, targets[own], mean))
            if mean is not None:
                mean.neg_().add_(weight[targets[own]])
        log_sums, *scores = (torch.cat(each) for each in zip(*parts, strict=True))
        kept = (hidden, weight, bias, targets, log_sums) if trains_head else (toward,)
        ctx.save_for_backward(*kept)
        ctx.hidden_dtype, ctx.trains_head = hidden.dtype, trains_head
        ctx.mark_non_differentiable(*scores[1:])
        ctx.set_materialize_grads(False)
        log_probs, entropy, squares, means, first = scores
        return log_probs, entropy, squares, means, first

    @staticmethod
    def backward(ctx: Any, given: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if given is None:
            return None, None, None, None
        if not ctx.trains_head:
            (toward,) = ctx.saved_tensors
            return (given.float()[:, None] * toward).to(ctx.hidden_dtype), None, None, None
        hidden, weight, bias, targets, log_sums = ctx.saved_tensors
        of_hidden, of_weight = (torch.zeros_like(part, dtype=torch.float32) for part in (hidden, weight))
        of_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for own in _ranges(len(hidden), ROWS):
            states = hidden[own].to(ctx.dtype)
            for columns, rows, logits in _tiles(states, weight, bias):
                share = logits.sub_(log_sums[own, None]).exp_().mul_(-given[own, None])
                local = targets[own] - columns.start
                inside = (local >= 0) & (local < share.shape[1])
                share[inside, local[inside]] += given[own][inside]
                if of_bias is not None:
                    of_bias[columns] += share.sum(0)
                rounded = share.to(ctx.dtype)
                _add_product(of_hidden[own], rounded, rows)
                _add_product(of_weight[columns], rounded.t(), states)
        return of_hidden.to(hidden.dtype), of_weight.to(weight.dtype), _like(of_bias, bias), None


def _score(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, mean: Tensor | None
) -> tuple[Tensor, ...]:
    """(log of the softmax's sum, then `TokenScores`) of the targets; `mean` becomes the head's expected row."""
    zero = torch.zeros(len(states), device=states.device)
    highest, best = torch.full_like(zero, -torch.inf), torch.zeros_like(targets)
    total, weighted, squares, summed, own = (zero.clone() for _ in range(5))
    for columns, rows, logits in _tiles(states, weight, bias):
        peak, place = logits.max(-1)
        best = torch.where(peak > highest, place + columns.start, best)
        peak = torch.maximum(highest, peak)
        before, highest = torch.exp(highest - peak), peak
        local = targets - columns.start
        inside = (local >= 0) & (local < logits.shape[1])
        own = torch.where(inside, logits.gather(1, local.clamp(0, logits.shape[1] - 1)[:, None])[:, 0], own)
        summed += logits.sum(-1)
        share = (logits - peak[:, None]).exp_()
        weighted = weighted * before + torch.linalg.vecdot(share, logits)
        total = total * before + share.sum(-1)
        squares = squares * before**2 + torch.linalg.vecdot(share, share)
        if mean is not None:
            mean *= before[:, None]
            _add_product(mean, share.to(states.dtype), rows)
    if mean is not None:
        mean /= total[:, None]
    log_sums = highest + total.log()
    entropy = log_sums - weighted / total
    return log_sums, own - log_sums, entropy, squares.log() - 2 * total.log(), summed / len(weight), best == targets


def _tiles(states: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(columns of the vocabulary, the head's rows, logits in float32) one tile after the other."""
    for columns in _ranges(len(weight), max(TILE // max(len(states), 1), LEAST_COLUMNS)):
        rows = weight[columns].to(states.dtype)
        logits = torch.mm(states, rows.t()).float()
        if bias is not None:
            logits += bias[columns]
        yield columns, rows, logits


def _ranges(count: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _type_of_products(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a float32 total, without rounding the product first."""
    if total.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _like(value: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if value is None or other is None else value.to(other.dtype)
