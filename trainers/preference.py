"""What DPO and its SFT control share around TRL: model, adapters, dataset, schedule, checkpoints that are whole or not there.

A checkpoint folder counts once it holds `checkpoint.json`, written after everything else. A run goes on from the last one that counts.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor, PrinterCallback, TrainerCallback

from trainers.job import Job
from trainers.recipe import Checkpoint, Training
from trainers.rows import Picture
from trainers.vlfeedback.store import write_whole

NOTE = "checkpoint.json"


def total_steps(rows: int, training: Training) -> int:
    """Optimizer steps of the whole run."""
    return math.ceil(math.ceil(rows / training.batch_size) * training.epochs)


def save_steps(steps: int, checkpoints: int) -> list[int]:
    """After which steps a checkpoint is written: evenly spaced, the last at the end."""
    count = min(checkpoints, steps)
    return [round(steps * (index + 1) / count) for index in range(count)]


def find_checkpoints(out: Path, arm: str) -> list[Checkpoint]:
    """The whole checkpoints of a folder, first to last."""
    notes = sorted(out.glob(f"checkpoint-*/{NOTE}"))
    found = [Checkpoint(path=note.parent, step=int(note.parent.name.removeprefix("checkpoint-")), arm=arm) for note in notes]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def load_model(job: Job) -> tuple[Any, Any]:
    """Model and processor of the job's base, safetensors only."""
    dtype = job.dtype if job.dtype == "auto" else getattr(torch, job.dtype)
    model = AutoModelForImageTextToText.from_pretrained(job.base, dtype=dtype, use_safetensors=True)
    return model, AutoProcessor.from_pretrained(job.base)


def lora(training: Training) -> Any:
    """The recipe's adapters."""
    return LoraConfig(
        r=training.lora.r,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=training.lora.targets,
        task_type="CAUSAL_LM",
    )


def image_dataset(rows: list[dict[str, Any]]) -> Any:
    """Rows with `images`, decoded by the dataset when they are needed."""
    from datasets import Dataset, Image, List

    listed = [row | {"images": [_image(picture) for picture in row["images"]]} for row in rows]
    return Dataset.from_list(listed).cast_column("images", List(Image()))


def _image(picture: Picture) -> dict[str, Any]:
    plain = picture.file is not None and picture.member is None
    return {"path": str(picture.file), "bytes": None} if plain else {"path": picture.name, "bytes": picture.read()}


def common_arguments(job: Job, training: Training) -> dict[str, Any]:
    """Trainer arguments that both arms share. TRL's defaults (bf16, gradient checkpointing, 1024 tokens) are traps on small models."""
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(job.out),
        "per_device_train_batch_size": training.batch_size,
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup_steps,
        "seed": job.recipe.seed,
        "data_seed": job.recipe.seed,
        "logging_steps": 5,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": not on_gpu,
        "bf16": on_gpu and job.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "max_length": None,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "log_level": "error",
    }


class Progress(TrainerCallback):
    """Saves at the wanted steps, marks what is whole, reports steps, keeps the log as JSON lines."""

    def __init__(self, job: Job, wanted: list[int]) -> None:
        self.job, self.wanted = job, wanted

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ask for a checkpoint where one is wanted."""
        self.job.progress(state.global_step, state.max_steps)
        control.should_save = state.global_step in self.wanted
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """The trainer's own figures; a loss that is no number ends the run."""
        if logs and "loss" in logs and not math.isfinite(float(logs["loss"])):
            raise FloatingPointError(f"loss is {logs['loss']} at step {state.global_step}; see {self.job.out}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The run's own summary is the log's last line."""
        self._write_log(state)

    def _write_log(self, state: Any) -> None:
        write_whole(self.job.out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in state.log_history))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Only now is the folder a checkpoint."""
        note = {"base": self.job.base_name, "step": state.global_step, "steps": state.max_steps, "recipe": self.job.recipe.digest}
        folder = self.job.out / f"checkpoint-{state.global_step}"
        self._write_log(state)
        write_whole(folder / NOTE, json.dumps(note))


def run(job: Job, arm: str, rows: int, make_trainer: Callable[[Progress], Any]) -> list[Checkpoint]:
    """Train to the end from wherever the folder stands; does nothing where it is already there."""
    training = job.recipe.training
    assert training is not None
    wanted = save_steps(total_steps(rows, training), training.checkpoints)
    found = find_checkpoints(job.out, arm)
    if [checkpoint.step for checkpoint in found] == wanted:
        return found
    for torn in job.out.glob("checkpoint-*"):
        if not (torn / NOTE).exists():
            shutil.rmtree(torn)
    trainer = make_trainer(Progress(job, wanted))
    trainer.remove_callback(PrinterCallback)  # its lines go to stdout, which is for results; `Progress` keeps them in log.jsonl
    trainer.train(resume_from_checkpoint=str(found[-1].path) if found else None)
    return find_checkpoints(job.out, arm)
