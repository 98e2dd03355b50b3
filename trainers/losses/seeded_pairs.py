"""Pairs with random changes of their pictures: new in each epoch, the same when a run is repeated or continued."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from trl import DPOTrainer

from support.errors import TrainingError, first_few
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs


class SeededPairs(Pairs):
    """Pairs with the run's seed and the current epoch; held-out pairs stay in epoch 0, with the same changes each time.

    TrainingError for pairs without a picture.
    """

    what = "this loss changes pictures"
    """Begins the error message."""

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
    """Sets the epoch of seeded pairs."""

    def __init__(self, pairs: SeededPairs) -> None:
        self.pairs = pairs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set it; a continued run may begin within an epoch, at a fraction of it."""
        self.pairs.epoch = int(state.epoch + 1e-6)


class SeededDPOTrainer(DPOTrainer):
    """TRL's trainer over seeded pairs, with a collator and a loss of its own; its arguments are TRL's."""

    def __init__(self, *, args: Any, train_dataset: SeededPairs, data_collator: Any, **given: Any) -> None:
        args.remove_unused_columns = False  # the collator reads columns that are no argument of any model
        super().__init__(args=args, train_dataset=train_dataset, data_collator=data_collator, **given)
        self.add_callback(Epochs(train_dataset))

    def mean_loss(self, model: Any, inputs: Any) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`mean_loss` as TRL wants it."""
        loss = self.mean_loss(model, inputs)
        return (loss, {}) if return_outputs else loss

    def log_pairs(
        self, chosen: Tensor, rejected: Tensor, logps: Sequence[Tensor], others: Mapping[str, Tensor]
    ) -> None:
        """Log TRL's figures of log-ratios and log-probabilities [pairs], and others, as means over all processes."""
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
