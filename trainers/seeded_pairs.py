"""Pairs with a seed of their own for every epoch: what is drawn for them is fresh in each, and the same when a run is gone on with."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from trainers.packed_data import Pairs
from trainers.rows import Preference


class SeededPairs(Pairs):
    """Pairs that know the run's seed and the epoch they are read in; held-out ones stay in epoch 0: scored alike each time."""

    def __init__(self, preferences: Sequence[Preference], seed: int) -> None:
        super().__init__(preferences)
        self.seed, self.epoch = seed, 0


class Epochs(TrainerCallback):
    """Tells pairs which epoch they are read in."""

    def __init__(self, pairs: SeededPairs) -> None:
        self.pairs = pairs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the epoch's first pair is read; a run that is gone on with may be within an epoch."""
        self.pairs.epoch = int(state.epoch + 1e-6)
