"""Supervised fine-tuning on the chosen answers: the control that shows what the preferences add."""

from collections.abc import Sequence

from trl import SFTConfig, SFTTrainer

from trainers.data.chat import stops_of
from trainers.data.collators import AnswerCollator
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Answers, PromptSampling
from trainers.training.checked_trainer import CheckedTrainer, check_texts
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import Job
from trainers.training.loop import RunCallback, run
from trainers.training.model import add_adapters, load_model, load_processor
from trainers.training.picture_check import check_pictures
from trainers.training.prompt_lengths import check_lengths
from trainers.training.trl_arguments import common_arguments


class SupervisedTrainer(CheckedTrainer, PromptSampling, SFTTrainer):
    """TRL's own rows."""


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the SFT arm, with DPO's rows, batches, steps and learning rate."""
    return run(job, "sft", _make_trainer)


def _make_trainer(
    job: Job, pairs: Sequence[Preference], held_out: Sequence[Preference], callback: RunCallback
) -> CheckedTrainer:
    training, both = job.recipe.training, [*pairs, *held_out]
    arguments = SFTConfig(**common_arguments(job, len(pairs)))
    processor = load_processor(job)
    check_texts(both, processor)
    check_pictures(both, processor)
    model, processor = load_model(job)
    check_lengths(both, processor, training.max_length)
    model, peft_config = add_adapters(model, training, job.recipe.seed)
    trainer = SupervisedTrainer(
        model=model,
        args=arguments,
        train_dataset=Answers(pairs),
        eval_dataset=Answers(held_out) if held_out else None,
        processing_class=processor,
        data_collator=AnswerCollator(processor, training.max_length, stops_of(model, processor)),
        peft_config=peft_config,
        callbacks=[callback],
    )
    trainer.prepare(both, training.lora)
    return trainer
