"""A training run from start to end, for DPO and its SFT control, with complete checkpoints only.

A checkpoint is complete once it has `checkpoint.json`, which is written last; runs continue from the last complete one.
A step has `batch_size` pairs on any number of processes; gradients are accumulated over what does not fit into memory.
"""

import json
import logging
import math
import pickle
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Final

from torch.distributed import barrier, broadcast_object_list, is_initialized
from transformers import PrinterCallback, TrainerCallback

from support.errors import RunError, TrainingError
from support.files import atomic_write_text
from support.processes import is_main_process, world_size
from support.progress import report
from trainers.config.training import Training
from trainers.data.chat import TOKENS_VERSION, stops_of
from trainers.data.rows import Preference
from trainers.packed.collator import CutError
from trainers.training.base_note import name_base_in_adapter, note_base
from trainers.training.checkpoints import (
    NOTE,
    STOPPED,
    TOKENS,
    UNCHANGED,
    Checkpoint,
    find_checkpoints,
    read_note,
    saved_at,
    total_steps,
    what_state_lacks,
)
from trainers.training.earlier_tokens import check_begun_alike
from trainers.training.job import Job
from trainers.training.left_out import leave_out, read_left_out
from trainers.training.picture_check import MarkedTexts, RefusedPictures
from trainers.training.trl_arguments import split_batch

log = logging.getLogger(__name__)

LEAST_CHANGE: Final = 1e-12
"""Mean change of a tensor that is less than the rounding of any weight: no answer depends on it."""


class RunCallback(TrainerCallback):
    """Saves and marks checkpoints, reports steps, writes log.jsonl, and ends a run that diverges."""

    def __init__(self, job: Job, arm: str, wanted: Sequence[int], left_out: int = 0) -> None:
        self.job, self.arm, self.wanted, self.left_out = job, arm, frozenset(wanted), left_out
        self.first_means: list[float] = []
        self.unchanged = True

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Remember the weights that training has to change."""
        self.first_means = _mean_trained_weights(model)
        self.unchanged = state.global_step == 0 or read_note(self.job.out / f"checkpoint-{state.global_step}").get(
            UNCHANGED, False
        )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Set the sampler's epoch, which loaders of several processes don't when a run continues within an epoch."""
        order = train_dataloader.batch_sampler
        while (inner := getattr(order, "batch_sampler", getattr(order, "sampler", None))) is not None:
            order = inner
        order.set_epoch(int(state.epoch + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        """Ask for a checkpoint at the wanted steps."""
        step = state.global_step
        report(f"train {self.arm}", step, state.max_steps)
        if step not in self.wanted:
            return control
        means = _mean_trained_weights(model)
        # A gradient can be NaN though the loss is not; the next loss would show it only after this checkpoint.
        if not all(map(math.isfinite, means)):
            raise FloatingPointError(f"step {step} left weights that are no numbers; no checkpoint is made of them")
        changes = [abs(now - first) for now, first in zip(means, self.first_means, strict=True)]
        self.unchanged = self.unchanged and bool(changes) and max(changes) < LEAST_CHANGE
        control.should_save = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """End the run at a loss that is not finite."""
        if logs and "loss" in logs and not math.isfinite(float(logs["loss"])):
            raise FloatingPointError(f"loss is {logs['loss']} at step {state.global_step}; see {self.job.out}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the log once more, with the trainer's summary as its last line."""
        self._write_log(state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Mark the checkpoint as complete, and end the run if `Job.saved` returns False."""
        self._write_log(state)
        if is_initialized():
            barrier()  # every process has written its part
        go_on = [self._complete_checkpoint(state) if is_main_process() else True]
        if is_initialized():
            broadcast_object_list(go_on, src=0)
        control.should_training_stop = control.should_training_stop or not go_on[0]
        return control

    def _write_log(self, state: Any) -> None:
        if is_main_process():
            lines = "".join(json.dumps(line) + "\n" for line in state.log_history)
            atomic_write_text(self.job.out / "log.jsonl", lines)

    def _complete_checkpoint(self, state: Any) -> bool:
        """Write the note and remove checkpoints that are not kept; False if training is to end."""
        recipe, out = self.job.recipe, self.job.out
        place = {"step": state.global_step, "steps": state.max_steps}
        folder = out / f"checkpoint-{state.global_step}"
        name_base_in_adapter(self.job, folder)
        note: dict[str, Any] = {**note_base(self.job, folder), **place, "recipe": recipe.digest}
        last, saves = state.global_step >= state.max_steps, saved_at(state.max_steps, recipe.training)
        number = len([step for step in saves if step <= state.global_step])
        # Trainings with different seeds may have different numbers of steps, where each builds its own data.
        note |= {"seed": recipe.seed, "settings": f"{recipe.settings} {self.arm}", "save": "last" if last else number}
        note |= {"left out": self.left_out} if self.left_out else {}
        note |= {TOKENS: TOKENS_VERSION} | ({UNCHANGED: True} if self.unchanged else {})
        note |= {"order": order} if (order := _order_of_pairs(recipe.training)) else {}
        atomic_write_text(folder / NOTE, json.dumps({**note, **self.job.note}))
        if recipe.training.keep is not None:
            for old in find_checkpoints(out, self.arm)[: -recipe.training.keep]:
                (old.path / NOTE).unlink()  # first, so that a half-removed checkpoint is incomplete
                shutil.rmtree(old.path)
        go_on = self.job.saved(Checkpoint(path=folder, step=state.global_step, arm=self.arm))
        if not go_on:
            atomic_write_text(out / STOPPED, json.dumps(place))
        return go_on


def _mean_trained_weights(model: Any) -> list[float]:
    """The mean of the absolute values of each trained tensor."""
    # With ZeRO-3 parameters are empty here.
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel())
    return [float(parameter.detach().double().abs().sum()) / parameter.numel() for parameter in trained]


MakeTrainer = Callable[[Job, Sequence[Preference], Sequence[Preference], RunCallback], Any]
"""Job, pairs to train on, pairs held out, callback -> a TRL trainer."""


def run(job: Job, arm: str, make_trainer: MakeTrainer) -> list[Checkpoint]:
    """Train to the end from the last complete checkpoint; returns at once if training is finished."""
    training = job.recipe.training
    left_out = read_left_out(job.out)
    while True:
        pairs, held_out = (
            [pair for pair in side if pair.id not in left_out] for side in (job.preferences, job.held_out)
        )
        if not pairs:
            raise TrainingError("there is no pair to train on")
        wanted = saved_at(total_steps(len(pairs), training), training)
        found = find_checkpoints(job.out, arm)
        if (job.out / STOPPED).exists() or (found and found[-1].step == wanted[-1]):
            return found
        found = _continuable(found)
        if found:
            _check_order(found[-1], training)
        if is_main_process():
            for folder in set(job.out.glob("checkpoint-*")) - {checkpoint.path for checkpoint in found}:
                shutil.rmtree(folder)
        try:
            trainer = make_trainer(job, pairs, held_out, RunCallback(job, arm, wanted, len(left_out)))
            # It prints to stdout, which is for results; the same is in log.jsonl.
            trainer.remove_callback(PrinterCallback)
            processor = trainer.processing_class
            check_begun_alike(job.out, pairs, processor, stops_of(trainer.model, processor))
            trainer.train(resume_from_checkpoint=str(found[-1].path) if found else None)
        except (CutError, RefusedPictures, MarkedTexts) as error:
            left_out |= leave_out(job, left_out, error)
            continue
        except pickle.UnpicklingError:
            where = found[-1].path if found else job.out
            raise RunError(f"{where}: a file of its state holds more than tensors, so it is not read") from None
        return find_checkpoints(job.out, arm)


def _continuable(found: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints up to the last one that training can go on from; RunError if there are some, and none can."""
    torn = ""
    for count in range(len(found), 0, -1):
        path = found[count - 1].path
        if not (lacks := what_state_lacks(path, found[count - 1].step)):
            if torn:
                log.warning("%s; training goes on from %s, to the same weights", torn, path.name)
            return found[:count]
        torn = f"{path}: training can't go on from it: {lacks}"
    if torn:
        raise RunError(f"{torn}; no checkpoint is left to go on from: remove it to train from the start, or restore it")
    return []


def _order_of_pairs(training: Training) -> dict[str, int]:
    """What the order of grouped pairs depends on: they are grouped by process."""
    if not (training.group_pairs or training.group_by_length):
        return {}
    return {"processes": world_size(), "pairs at once": split_batch(training, world_size())[0]}


def _check_order(last: Checkpoint, training: Training) -> None:
    """TrainingError if a continued run would train on some pairs twice and on others never."""
    held, here = json.loads((last.path / NOTE).read_text(encoding="utf-8")).get("order"), _order_of_pairs(training)
    if held is not None and held != here:
        grouped = "group_pairs" if training.group_pairs else "group_by_length"
        raise TrainingError(
            f"{last.path} was trained on {held['processes']} processes, and this would be {here['processes']}: "
            f"{grouped} orders the pairs for each number of them another way; go on with {held['processes']}"
        )
