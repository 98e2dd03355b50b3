"""The attention over packed rows against one by a dense mask."""

from typing import Any

import pytest
import torch

from support.errors import TrainingError
from trainers.packed import attention
from trainers.packed.attention import Group, pack


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Any) -> torch.Tensor:
    """By a mask of the row's length squared."""
    allowed = torch.zeros(query.shape[2], key.shape[2], dtype=torch.bool)
    first = 0
    for (queries, seen), keys in zip(row.lengths, row.keys.split([seen for _, seen in row.lengths]), strict=True):
        for number in range(queries):
            allowed[first + number, keys[: seen - queries + number + 1]] = True
        first += queries
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2)


ROW = pack([Group(prompt=[1] * 7, answers=[[2] * 3, [3] * 5, [4]]), Group(prompt=[5], answers=[[6] * 2, [7] * 2])])


def test_segments_attend_as_a_dense_mask_would_have_them() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, ROW.input_ids.shape[1], 16) for heads in (4, 2, 2))
    argument = attention.attention_argument(ROW.keys, ROW.lengths)
    found, _ = attention.shared_prefix_attention(torch.nn.Identity(), query, key, value, None, shared_prefix=argument)
    torch.testing.assert_close(found, dense(query, key, value, ROW))


def test_places_that_nobody_asks_for_see_nothing() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, ROW.input_ids.shape[1], 16) for heads in (4, 2, 2))
    lengths = [(asked, seen) for asked, (_, seen) in zip(ROW.answers, ROW.lengths, strict=True)]
    argument = attention.attention_argument(ROW.keys, lengths, ROW.scored)
    found, _ = attention.shared_prefix_attention(torch.nn.Identity(), query, key, value, None, shared_prefix=argument)
    torch.testing.assert_close(found[:, ROW.scored], dense(query, key, value, ROW)[:, ROW.scored])
    rest = sorted(set(range(ROW.input_ids.shape[1])) - set(ROW.scored.tolist()))
    assert rest
    assert not found[:, rest].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on GPUs alone")
def test_the_kernel_attends_alike() -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, ROW.input_ids.shape[1], 64, device="cuda").bfloat16() for heads in (4, 2, 2)
    )
    argument = attention.attention_argument(ROW.keys.cuda(), ROW.lengths)
    found, _ = attention.shared_prefix_attention(torch.nn.Identity(), query, key, value, None, shared_prefix=argument)
    expected = dense(query.float().cpu(), key.float().cpu(), value.float().cpu(), ROW)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)


def test_a_sliding_window_is_refused_rather_than_ignored() -> None:
    query = torch.randn(1, 1, ROW.input_ids.shape[1], 4)
    argument = attention.attention_argument(ROW.keys, ROW.lengths)
    with pytest.raises(TrainingError, match="sliding_window"):
        attention.shared_prefix_attention(
            torch.nn.Identity(), query, query, query, None, shared_prefix=argument, sliding_window=2
        )
