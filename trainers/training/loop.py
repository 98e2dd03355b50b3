"""What DPO and its SFT control share around TRL: model, adapters, schedule, checkpoints that are whole or not there.

A checkpoint folder counts once it holds `checkpoint.json`, written after everything else. A run goes on from the last
one that counts. Steps hold `batch_size` pairs on any number of processes: what they do not have in memory at once is
accumulated.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.distributed import barrier, broadcast_object_list, is_initialized
from transformers import PrinterCallback, TrainerCallback

from support.errors import RunError, TrainingError
from support.files import atomic_write_text
from support.processes import is_main_process, world_size
from trainers.config.training import Training
from trainers.data.rows import Preference
from trainers.packed.collator import CutError
from trainers.training.checkpoints import NOTE, STOPPED, Checkpoint, find_checkpoints, saved_at, total_steps
from trainers.training.job import Job
from trainers.training.trl_arguments import shares

LEFT_OUT = "left_out.json"
"""Pairs that `max_length` leaves no answer of."""


class Progress(TrainerCallback):
    """Saves at the wanted steps, marks what is whole, reports steps, keeps the log as JSON lines, sees that something
    is learnt."""

    def __init__(self, job: Job, arm: str, wanted: Sequence[int], left_out: int = 0) -> None:
        self.job, self.arm, self.wanted, self.left_out = job, arm, frozenset(wanted), left_out
        self.before: list[float] = []
        self.started = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Remember what is to change."""
        self.before, self.started = _sums(model), state.global_step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Have the order be the epoch's: loaders of several processes that go on within an epoch do not tell their
        sampler which it is."""
        order = train_dataloader.batch_sampler
        while (inner := getattr(order, "batch_sampler", getattr(order, "sampler", None))) is not None:
            order = inner
        order.set_epoch(int(state.epoch + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        """Ask for a checkpoint where one is wanted."""
        self.job.progress(state.global_step, state.max_steps)
        # A gradient can be no number where the loss is one: the next step's loss would tell, after the checkpoint.
        if state.global_step in self.wanted and not all(map(math.isfinite, _sums(model))):
            raise FloatingPointError(
                f"step {state.global_step} left weights that are no numbers; no checkpoint is made of them"
            )
        # The first step of a warm-up has no learning rate.
        if self.before and state.global_step == self.started + 2 and _sums(model) == self.before:
            raise RunError(
                f"no weight has changed after {state.global_step} steps: policy and reference are one model; see the learning rate"
            )
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
        if is_main_process():
            atomic_write_text(
                self.job.out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in state.log_history)
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Only now is the folder a checkpoint."""
        self._write_log(state)
        if is_initialized():
            barrier()  # every process has written its part
        go_on = [True]
        if is_main_process():
            go_on = [self._noted(state)]
        if is_initialized():
            broadcast_object_list(go_on, src=0)
        control.should_training_stop = control.should_training_stop or not go_on[0]
        return control

    def _noted(self, state: Any) -> bool:
        note = {
            "base": self.job.base_name,
            "step": state.global_step,
            "steps": state.max_steps,
            "recipe": self.job.recipe.digest,
        }
        note |= {"left out": self.left_out} if self.left_out else {}
        assert self.job.recipe.training is not None
        note |= {"order": order} if (order := _order(self.job.recipe.training)) else {}
        folder = self.job.out / f"checkpoint-{state.global_step}"
        atomic_write_text(folder / NOTE, json.dumps({**note, **self.job.note}))
        if self.job.recipe.training.keep is not None:
            for old in find_checkpoints(self.job.out, self.arm)[: -self.job.recipe.training.keep]:
                (old.path / NOTE).unlink()  # first: half a checkpoint counts for nothing
                shutil.rmtree(old.path)
        go_on = self.job.saved(Checkpoint(path=folder, step=state.global_step, arm=self.arm))
        if not go_on:
            atomic_write_text(self.job.out / STOPPED, json.dumps({"step": state.global_step, "steps": state.max_steps}))
        return go_on


def _sums(model: Any) -> list[float]:
    # ZeRO-3 leaves nothing of a parameter in its place.
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel())
    return [float(parameter.detach().double().abs().sum()) for parameter in trained]


MakeTrainer = Callable[[Sequence[Preference], Sequence[Preference], Progress], Any]
"""Of the pairs to train on, those held out, and what watches."""


def run(job: Job, arm: str, make_trainer: MakeTrainer) -> list[Checkpoint]:
    """Train to the end from wherever the folder stands; does nothing where it is already there."""
    training = job.recipe.training
    assert training is not None
    gone = _left_out(job.out)
    while True:
        pairs, held_out = ([pair for pair in side if pair.id not in gone] for side in (job.preferences, job.held_out))
        if not pairs:
            raise TrainingError("there is no pair to train on")
        wanted = saved_at(total_steps(len(pairs), training), training)
        found = find_checkpoints(job.out, arm)
        if (job.out / STOPPED).exists() or (found and found[-1].step == wanted[-1]):
            return found
        if found:
            _check_order(found[-1], training)
        if is_main_process():
            for torn in job.out.glob("checkpoint-*"):
                if not (torn / NOTE).exists():
                    shutil.rmtree(torn)
        try:
            trainer = make_trainer(pairs, held_out, Progress(job, arm, wanted, len(gone)))
            trainer.remove_callback(
                PrinterCallback
            )  # its lines go to stdout, which is for results; `Progress` keeps them in log.jsonl
            trainer.train(resume_from_checkpoint=str(found[-1].path) if found else None)
        except CutError as error:
            gone |= _leave_out(job, gone, error)
            continue
        return find_checkpoints(job.out, arm)


def _order(training: Training) -> dict[str, int]:
    """What the order of the pairs hangs on where they are grouped: each process's batches are."""
    if not (training.group_pairs or training.group_by_length):
        return {}
    return {"processes": world_size(), "pairs at once": shares(training, world_size())[0]}


def _check_order(last: Checkpoint, training: Training) -> None:
    """TrainingError where going on would meet some pairs twice and others never."""
    held, here = json.loads((last.path / NOTE).read_text(encoding="utf-8")).get("order"), _order(training)
    if held is not None and held != here:
        grouped = "group_pairs" if training.group_pairs else "group_by_length"
        raise TrainingError(
            f"{last.path} was trained on {held['processes']} processes, and this would be {here['processes']}: {grouped} orders the pairs "
            f"for each number of them another way; go on with {held['processes']}"
        )


def _left_out(out: Path) -> frozenset[str]:
    path = out / LEFT_OUT
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["ids"]) if path.exists() else frozenset()


def _leave_out(job: Job, gone: frozenset[str], error: CutError) -> frozenset[str]:
    """Have these pairs left out of the run, where the recipe wants it so."""
    training = job.recipe.training
    assert training is not None
    if training.too_long == "refuse":
        raise TrainingError(f"{error}, by too_long = 'drop'") from None
    job.tell(
        f"left out: {len(error.ids)} pairs whose prompt and images fill max_length = {training.max_length}; see {job.out / LEFT_OUT}"
    )
    if is_main_process():
        atomic_write_text(
            job.out / LEFT_OUT,
            json.dumps({"max_length": training.max_length, "ids": sorted(gone | set(error.ids))}, indent=1),
        )
    return frozenset(error.ids)
