"""Training whose checkpoints are scored as soon as they are written."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.models.fetch import fetch
from harness.models.spec import find
from harness.runs.checkpoint_selection import Metric, Scores
from harness.runs.outcome import STOPPED, Stop
from harness.runs.scoring_queue import Scoring
from harness.runs.training_alarms import Alarm
from harness.runs.training_worker import PROCESSES, train_by
from support.errors import USAGE, InputError, RunError
from support.files import atomic_write_text
from trainers.cluster.launch import Layout
from trainers.training.checkpoints import NOTE, Checkpoint, QuietPeriod, find_complete_checkpoints
from trainers.training.checkpoints import STOPPED as ENDED
from trainers.training.job import Job, trainer

if TYPE_CHECKING:
    from harness.engine.stage_timer import StageTimer


@dataclass(frozen=True, kw_only=True)
class Processes:
    """That several train, and what they read."""

    layout: Layout
    pairs: Path | None
    """The file of those that the run has built."""
    images: Path
    """Keeps what is known of their images."""


def train(
    job: Job,
    arm: str,
    scoring: Scoring,
    probes: Sequence[Metric],
    clock: "StageTimer",
    processes: Processes | None = None,
) -> Stop | None:
    """Train one arm, scoring between its saves; why it was stopped, if it was, now or by an earlier call."""
    between = _Between(job, scoring, probes)
    if between.stop is None:
        job.out.mkdir(parents=True, exist_ok=True)
        (job.out / ENDED).unlink(missing_ok=True)  # processes that were to pause were killed in that moment
        _score_those_there(job, arm, between)  # an earlier call may have been killed while it scored
    if between.stop is None and processes is not None:
        _train_by(job, arm, scoring, between, clock, processes)
    elif between.stop is None:
        stage = f"train {arm}"
        watched = replace(job, saved=between)
        with clock(stage):
            trainer(arm)(watched)
    if between.stop is not None:
        scoring.tell(
            f"training is stopped: {between.stop.words}; to train on, remove {job.out / STOPPED} and {job.out / 'stopped.json'}"
        )
    return between.stop


def _score_those_there(job: Job, arm: str, between: "_Between") -> int:
    """Score the checkpoints of a folder until a probe becomes worse; the last one's step, 0 where there is none."""
    whole = find_complete_checkpoints(job.out, QuietPeriod(0))[0]
    for found in whole:
        if not between(Checkpoint(path=found.path, step=found.step, arm=arm)):
            break
    return whole[-1].step if whole else 0


def _train_by(
    job: Job, arm: str, scoring: Scoring, between: "_Between", clock: "StageTimer", processes: Processes
) -> None:
    """Have several processes train one arm; they pause where a probe, or what the trainer removes, can't wait to be
    scored."""
    training = job.recipe.training
    pauses = bool(between.probes) or training.keep is not None
    stage = f"train {arm}"
    while between.stop is None:
        whole = find_complete_checkpoints(job.out, QuietPeriod(0))[0]
        if whole and whole[-1].last:
            return
        scoring.tell(f"{stage}: {processes.layout.world} processes; their log is in {job.out / PROCESSES / 'launch'}")
        with clock(stage):
            code = train_by(job, arm, processes.layout, pairs=processes.pairs, images=processes.images, pauses=pauses)
        if code:
            said = f"{job.out}: training by {processes.layout.world} processes ended with exit code {code}"
            raise InputError(said) if code == USAGE else RunError(f"{said}; the same command goes on")
        if not pauses:
            return
        before = whole[-1].step if whole else 0
        if _score_those_there(job, arm, between) == before:
            raise RunError(
                f"{job.out}: training by {processes.layout.world} processes ended well, and left no checkpoint after step {before}"
            )


class _Between:
    """Scores a checkpoint while training waits, and leaves the training as it was; says whether to go on.

    A scoring that fails, for want of memory perhaps, is left for when training is over; so is the last one.
    """

    def __init__(self, job: Job, scoring: Scoring, probes: Sequence[Metric]) -> None:
        self.job, self.scoring, self.probes = job, scoring, probes
        note = job.out / STOPPED
        self.stop = Stop(**json.loads(note.read_text(encoding="utf-8"))) if note.exists() else None

    def __call__(self, checkpoint: Checkpoint) -> bool:
        """False once a probe became worse."""
        note = json.loads((checkpoint.path / NOTE).read_text(encoding="utf-8"))
        if note["step"] == note.get("steps"):
            return True
        with _same_chance():
            try:
                spec = fetch(find(str(checkpoint.path)))
                self.scoring.score(spec, checkpoint.path.as_posix(), wait=False)
            except Exception as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                self.scoring.tell(f"{checkpoint.path}: not scored while training goes on ({why}); scored after it")
            finally:
                self.scoring.resident.drop()  # training needs the memory
        self.stop = self._fallen(checkpoint, note["steps"]) if self.probes else None
        if self.stop is not None:
            atomic_write_text(self.job.out / STOPPED, json.dumps(asdict(self.stop), indent=1))
        return self.stop is None

    def _fallen(self, checkpoint: Checkpoint, steps: int) -> Stop | None:
        training = self.job.recipe.training
        planned = -(-steps // training.save_steps) if training.save_steps else training.checkpoints
        looks = planned * len(self.probes)
        scores = Scores(self.scoring.board)
        for alarm in without_value(scores, self.probes, [checkpoint.path.as_posix()]):
            self.scoring.tell(alarm.words)
        for metric in self.probes:
            verdict = scores.verdict(self.job.base_name, checkpoint.path.as_posix(), metric)
            if verdict is None:
                continue
            verdict = replace(verdict, p=min(1.0, verdict.p * looks))
            if verdict.outcome == "worse" and verdict.base is not None and verdict.other is not None:
                named = ".".join(metric)
                return Stop(
                    step=checkpoint.step, probe=named, base=verdict.base, value=verdict.other, p=verdict.p, looks=looks
                )
        return None


def without_value(scores: Scores, probes: Sequence[Metric], models: Sequence[str]) -> list[Alarm]:
    """One alarm a probe that has no value for some of the models that were scored: it can't become worse there."""
    found = []
    for metric in probes:
        blank = [
            model for model in models if scores.entry(model, metric) is not None and not scores.has_value(model, metric)
        ]
        if blank:
            words = f"{'.'.join(metric)} has no value for {', '.join(blank)}: it can't end the training there, however bad the answers are"
            found.append(Alarm(name="early stop", words=words))
    return found


@contextmanager
def _same_chance() -> Iterator[None]:
    """Inside, random numbers are drawn as one likes; outside, training draws those it would have drawn."""
    import numpy as np
    import torch

    devices = list(range(torch.cuda.device_count()))
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
