"""Supervised fine-tuning on the chosen answers alone: the control that tells what the preferences themselves add to DPO."""

from typing import Any

from trainers.job import Job
from trainers.recipe import Checkpoint


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the SFT arm: same rows, batches, steps and learning rate as DPO, without the rejected answers."""
    from trl import SFTConfig, SFTTrainer

    from trainers.preference import Progress, common_arguments, image_dataset, load_model, lora, run

    training = job.recipe.training
    assert training is not None

    def make_trainer(progress: Progress) -> Any:
        model, processor = load_model(job)
        rows = [
            {
                "images": pair.images,
                "prompt": [{"role": "user", "content": pair.prompt}],
                "completion": [{"role": "assistant", "content": pair.chosen}],
            }
            for pair in job.preferences
        ]
        return SFTTrainer(
            model=model,
            args=SFTConfig(**common_arguments(job, training)),
            train_dataset=image_dataset(rows),
            processing_class=processor,
            peft_config=lora(training),
            callbacks=[progress],
        )

    return run(job, "sft", len(job.preferences), make_trainer)
