"""Scores of answer tokens tile by tile: those of the whole table of logits, in less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from trainers.packed import head
from trainers.packed.head import score_in_forward, score_tokens

TOKENS, WIDTH, WORDS = 11, 8, 77


def given(dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    chance = torch.Generator().manual_seed(0)
    hidden, weight, offset = (
        torch.randn(shape, generator=chance).to(dtype) for shape in ((TOKENS, WIDTH), (WORDS, WIDTH), (WORDS,))
    )
    targets = torch.randint(WORDS, (TOKENS,), generator=chance)
    targets[0] = (hidden[0] @ weight.T + bias * offset).argmax()
    return hidden, weight, offset if bias else None, targets


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> dict[str, Tensor]:
    """The same from the table of all logits."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    logs = logits.log_softmax(-1)
    return {
        "log_probs": logs.gather(1, targets[:, None])[:, 0],
        "entropy": -(logs.exp() * logs).sum(-1),
        "log_sum_sq_probs": (2 * logs).logsumexp(-1),
        "mean_logits": logits.mean(-1),
        "is_top1": logits.argmax(-1) == targets,
    }


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ROWS", 4)
    monkeypatch.setattr(head, "TILE", 4 * 10)
    monkeypatch.setattr(head, "LEAST_COLUMNS", 1)


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("trained", ((True, False), (True, True), (False, True)), ids=("hidden", "both", "head"))
def test_values_and_gradients_are_those_of_all_logits(trained: tuple[bool, bool], bias: bool) -> None:
    weights = torch.linspace(-1, 2, TOKENS)
    found = []
    for way in (lambda *parts: vars(score_tokens(*parts)), plain):
        hidden, weight, offset, targets = given(bias=bias)
        hidden.requires_grad_(trained[0])
        parts = [part.requires_grad_(trained[1]) for part in (weight, offset) if part is not None]
        values = way(hidden, weight, offset, targets)
        (values["log_probs"] * weights).sum().backward()
        found.append((values, [part.grad for part in (hidden, *parts)]))
    (ours, gradients), (theirs, expected) = found
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
    for mine, other in zip(gradients, expected, strict=True):
        assert (mine is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(mine, other)


def test_half_precision_is_summed_in_single() -> None:
    exact = plain(*given())["log_probs"]
    hidden, weight, bias, targets = given(torch.bfloat16)
    hidden.requires_grad_()
    found = score_tokens(hidden, weight, bias, targets).log_probs
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(hidden.detach(), weight, bias, targets)["log_probs"], rtol=0.02, atol=0.1)
    found.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.3)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.numel())
        return out


@pytest.mark.parametrize("trained", (False, True))
def test_no_tensor_is_as_large_as_tokens_times_vocabulary(trained: bool) -> None:
    hidden, weight, bias, targets = given()
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    with Largest() as largest:
        score_tokens(hidden, weight, bias, targets).log_probs.sum().backward()
    assert largest.numbers == WORDS * WIDTH if trained else 4 * 10 <= largest.numbers < TOKENS * WORDS / 4
    with Largest() as largest:
        plain(hidden, weight, bias, targets)
    assert largest.numbers == TOKENS * WORDS


def test_logits_of_an_untrained_head_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    multiply = torch.mm

    def count(one: Tensor, other: Tensor) -> Tensor:
        made.append(1)
        return multiply(one, other)

    monkeypatch.setattr(torch, "mm", count)
    hidden, weight, bias, targets = given()
    scores = score_tokens(hidden.requires_grad_(), weight, bias, targets).log_probs
    forward = len(made)
    scores.sum().backward()
    assert len(made) == forward == 8 + 8 + 6  # tiles of 4, 4 and 3 tokens
    score_tokens(hidden, weight.requires_grad_(), bias, targets).log_probs.sum().backward()
    assert len(made) == 3 * forward


def test_a_model_whose_logits_are_capped_keeps_its_head(checkpoint: Any) -> None:
    for cap, changed in ((None, True), (30.0, False)):
        model = AutoModelForImageTextToText.from_pretrained(checkpoint("llava"))
        model.config.text_config.final_logit_softcapping = cap
        before = model.forward
        score_in_forward(model)
        assert (model.forward != before) is changed
