"""Supervised fine-tuning on the chosen answers alone: the control that tells what the preferences themselves add to
DPO."""

from collections.abc import Sequence
from typing import Any

from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import Job


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the SFT arm: same rows, batches, steps and learning rate as DPO, without the rejected
    answers."""
    from trl import SFTConfig, SFTTrainer

    from trainers.data.torch_dataset import Answers
    from trainers.training.checked_trainer import CheckedTrainer, check_lengths, check_texts
    from trainers.training.loop import Progress, run
    from trainers.training.model import adapted, load_model
    from trainers.training.step_weights import ByLength
    from trainers.training.trl_arguments import common_arguments

    class Supervised(CheckedTrainer, ByLength, SFTTrainer):
        """TRL's own."""

    training = job.recipe.training
    assert training is not None

    def make_trainer(pairs: Sequence[Preference], held_out: Sequence[Preference], progress: Progress) -> Any:
        arguments = SFTConfig(**common_arguments(job, training, len(pairs)))
        model, processor = load_model(job)
        check_texts([*pairs, *held_out], processor)
        check_lengths([*pairs, *held_out], processor, training.max_length, job.referring)
        model, peft_config = adapted(model, training, job.recipe.seed)
        trainer = Supervised(
            model=model,
            args=arguments,
            train_dataset=Answers(pairs),
            eval_dataset=Answers(held_out) if held_out else None,
            processing_class=processor,
            peft_config=peft_config,
            callbacks=[progress],
        )
        trainer.guard([*pairs, *held_out], training.lora)
        return trainer

    return run(job, "sft", make_trainer)
