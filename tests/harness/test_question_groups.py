"""Questions side by side in a row have the logits that they have in rows of their own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from harness.engine.prefix_cache import State
from harness.engine.question_groups import GroupRunner, Groups
from harness.models.torchvision_shim import allow_missing_torchvision
from tests.harness.zoo import FAMILIES

allow_missing_torchvision()
COUNTS = (3, 1, 2)
"""Questions on each beginning."""
STEPS = 3


@pytest.fixture(params=("llava", "qwen2_vl"))
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> GroupRunner:
    FAMILIES[request.param](tmp_path / "tiny")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "tiny", dtype=torch.float32).eval()
    return GroupRunner(model, pad=0, device=torch.device("cpu"))


def ids(count: int) -> list[int]:
    found: list[int] = torch.randint(3, 60, (count,)).tolist()
    return found


@torch.inference_mode()
def both_ways(runner: GroupRunner) -> tuple[Groups, State, list[list[int]]]:
    """Questions of 1 to 7 tokens after beginnings of three lengths, in groups and apart; the tokens of each."""
    torch.manual_seed(0)
    beginnings = [ids(length) for length in (9, 5, 12)]
    questions = [[ids(1 + (3 * row + 2 * slot) % 7) for slot in range(count)] for row, count in enumerate(COUNTS)]
    prefix = runner.prefill(beginnings, [[0] * len(row) for row in beginnings], {})
    which = [row for row, count in enumerate(COUNTS) for _ in range(count)]
    flat = [question for group in questions for question in group]
    grouped = runner.ask(prefix, [0, 1, 2], questions, room=1)  # grows on the way
    apart = runner.fork(prefix, which, flat, room=1)
    return grouped, apart, [beginnings[at] + question for at, question in zip(which, flat, strict=True)]


def assert_same(runner: GroupRunner, grouped: Groups, apart: State, read: list[list[int]]) -> None:
    torch.testing.assert_close(grouped.logits, apart.logits, atol=1e-5, rtol=1e-4)
    alone: Tensor = torch.cat([runner.prefill([row], [[0] * len(row)], {}).logits for row in read])
    torch.testing.assert_close(grouped.logits, alone, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_each_question_sees_its_beginning_and_itself(runner: GroupRunner) -> None:
    assert runner.groups
    grouped, apart, read = both_ways(runner)
    assert len({tuple(row.tolist()) for row in grouped.logits}) == sum(COUNTS)
    for _ in range(STEPS):
        assert_same(runner, grouped, apart, read)
        tokens = torch.randint(3, 60, (sum(COUNTS),))
        grouped, apart = runner.step(grouped, tokens), runner.step(apart, tokens)
        read = [[*row, token] for row, token in zip(read, tokens.tolist(), strict=True)]
    assert_same(runner, grouped, apart, read)


@pytest.mark.parametrize("kept", ([0, 2, 5], [1, 4], [3], [0, 1, 2]))
@torch.inference_mode()
def test_some_questions_go_on_without_the_others(runner: GroupRunner, kept: list[int]) -> None:
    grouped, apart, read = both_ways(runner)
    tokens = torch.randint(3, 60, (sum(COUNTS),))
    grouped, apart = runner.step(grouped, tokens), runner.step(apart, tokens)
    rows = torch.tensor(kept)
    grouped, apart = runner.keep(grouped, rows, room=1), runner.keep(apart, rows, room=1)
    read = [[*read[at], int(tokens[at])] for at in kept]
    if len(kept) == 1:  # neither padding nor others' tokens are left
        assert grouped.cache.get_seq_length() == len(read[0])
    for _ in range(STEPS):
        assert_same(runner, grouped, apart, read)
        tokens = torch.randint(3, 60, (len(kept),))
        grouped, apart = runner.step(grouped, tokens), runner.step(apart, tokens)
        read = [[*row, token] for row, token in zip(read, tokens.tolist(), strict=True)]
    assert_same(runner, grouped, apart, read)
