"""DPO with LoRA through TRL: the reference is the same model with its adapters off."""

from typing import Any

from trainers.job import Job
from trainers.recipe import Checkpoint


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the DPO arm, first to last."""
    from trl import DPOConfig, DPOTrainer

    from trainers.preference import Progress, common_arguments, image_dataset, load_model, lora, run

    training = job.recipe.training
    assert training is not None

    def make_trainer(progress: Progress) -> Any:
        model, processor = load_model(job)
        rows = [
            {
                "images": pair.images,
                "prompt": [{"role": "user", "content": pair.prompt}],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in job.preferences
        ]
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, training.sft_weight]} if training.sft_weight else {}
        return DPOTrainer(
            model=model,
            args=DPOConfig(beta=training.beta, **losses, **common_arguments(job, training)),
            train_dataset=image_dataset(rows),
            processing_class=processor,
            peft_config=lora(training),
            callbacks=[progress],
        )

    return run(job, "dpo", len(job.preferences), make_trainer)
