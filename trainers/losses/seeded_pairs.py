"""Pairs whose random changes are seeded by run and epoch: new in each epoch, the same when a run is continued."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from support.errors import TrainingError
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs


class SeededPairs(Pairs):
    """Pairs that know the run's seed and the epoch they are read in; held-out ones stay in epoch 0, so that they are
    scored with the same changes each time.

    TrainingError for pairs without a picture, which these losses change.
    """

    what = "this loss changes pictures"

    def __init__(self, preferences: Sequence[Preference], seed: int) -> None:
        without_image = list(dict.fromkeys(pair.id for pair in preferences if not pair.images))
        if without_image:
            named = ", ".join(map(repr, without_image[:5])) + (" ..." if len(without_image) > 5 else "")
            raise TrainingError(
                f"{self.what}, and {len(without_image):,} pairs have none: {named}; leave them out of the data"
            )
        super().__init__(preferences)
        self.seed, self.epoch = seed, 0


class Epochs(TrainerCallback):
    """Tells pairs which epoch they are read in."""

    def __init__(self, pairs: SeededPairs) -> None:
        self.pairs = pairs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the epoch's first pair is read; a run that is continued may be within an epoch."""
        self.pairs.epoch = int(state.epoch + 1e-6)
