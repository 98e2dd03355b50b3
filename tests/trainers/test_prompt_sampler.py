"""The order of pairs: whole prompts, like lengths, the same again in a resumed run."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from trainers.data.torch_dataset import PromptSampler, fill


def chunks(order: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (order[start : start + size] for start in range(0, len(order), size))


SIZES = random.Random(0).choices((3, 4, 5, 6), weights=(1, 1, 4, 6), k=300)
PROMPT_OF = [prompt for prompt, size in enumerate(SIZES) for _ in range(size)]


@pytest.mark.parametrize("lengths", (None, [1 + index % 97 for index in range(len(PROMPT_OF))]))
def test_every_pair_is_trained_on_once_an_epoch_beside_the_others_of_its_prompt(lengths: list[int] | None) -> None:
    """Thirty pairs can be had of prompts of five and of six, which is what four answers give."""
    sampler = PromptSampler(PROMPT_OF, batch_size=30, seed=0, lengths=lengths)
    order = list(sampler)
    assert sorted(order) == list(range(len(PROMPT_OF)))
    divided = sum(len({PROMPT_OF[index] for index in batch}) for batch in chunks(order, 30)) - len(SIZES)
    assert divided <= 3


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = PromptSampler(PROMPT_OF, batch_size=12, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_ranks_train_on_prompts_of_like_length() -> None:
    chance = random.Random(0)
    length_of = [chance.randint(100, 2000) for _ in SIZES]

    def means(lengths: list[int] | None) -> list[float]:
        order = list(PromptSampler(PROMPT_OF, batch_size=12, seed=0, lengths=lengths, ranks=4))
        return [float(np.mean([length_of[PROMPT_OF[index]] for index in batch])) for batch in chunks(order, 12)]

    def spread(of: list[float]) -> float:
        return float(np.mean([max(step) - min(step) for step in chunks(of, 4) if len(step) == 4]))

    sorted_out = means([length_of[prompt] for prompt in PROMPT_OF])
    assert spread(sorted_out) < spread(means(None)) / 2
    assert abs(np.corrcoef(range(len(sorted_out)), sorted_out)[0, 1]) < 0.5  # and not from long to short


def test_a_prompt_of_more_pairs_than_a_batch_is_divided() -> None:
    assert fill([[0, 1, 2, 3, 4], [5]], 2) == [[0, 1], [2, 3], [4, 5]]
    assert fill([[0, 1, 2], [3, 4, 5], [6]], 4) == [[0, 1, 2, 6], [3, 4, 5]]
    assert fill([[0, 1, 2], [3, 4, 5], [6, 7, 8]], 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
