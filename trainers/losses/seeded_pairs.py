"""Pairs whose random changes are seeded by run and epoch: new in each epoch, the same when a run is continued."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from trl import DPOTrainer

from support.errors import TrainingError, first_few
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
            raise TrainingError(
                f"{self.what}, and {len(without_image):,} pairs have none: {first_few(without_image)}; "
                "leave them out of the data"
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


class SeededDPOTrainer(DPOTrainer):
    """TRL's trainer over seeded pairs, whose collator makes more of them than TRL's rows; its arguments are TRL's."""

    def __init__(self, *, args: Any, train_dataset: SeededPairs, data_collator: Any, **given: Any) -> None:
        args.remove_unused_columns = False  # the collator reads columns that are no argument of any model
        super().__init__(args=args, train_dataset=train_dataset, data_collator=data_collator, **given)
        self.add_callback(Epochs(train_dataset))

    def log_pairs(
        self, chosen: Tensor, rejected: Tensor, logps: Sequence[Tensor], others: Mapping[str, Tensor]
    ) -> None:
        """Log, as means over all processes, TRL's figures of the answers' log-ratios and log-probabilities [pairs], and
        the others."""
        figures = {
            "rewards/chosen": self.beta * chosen,
            "rewards/rejected": self.beta * rejected,
            "rewards/margins": self.beta * (chosen - rejected),
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": logps[0],
            "logps/rejected": logps[1],
            **others,
        }
        mode = "train" if self.model.training else "eval"
        for name, value in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())
