"""Training whose checkpoints are scored as soon as they are written."""

import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.engine.stage_timer import StageTimer
from harness.runs.checkpoint_selection import Metric, Scores
from harness.runs.outcome import STOPPED, Stop
from harness.runs.scoring_queue import Scoring, describe_error
from harness.runs.training_alarms import Alarm
from harness.runs.training_worker import PROCESSES, train_in_processes
from leaderboards.statistics.looks import adjusted_for_look
from support.errors import USAGE, InputError, RunError
from support.files import atomic_write_text
from support.parsing import parse_json, parse_object
from trainers.cluster.launch import Layout
from trainers.training.checkpoints import NOTE, Checkpoint, QuietPeriod, find_complete_checkpoints, scored_at
from trainers.training.checkpoints import STOPPED as ENDED
from trainers.training.job import Job, trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Training by several processes, and what they read."""

    layout: Layout
    pairs: Path | None
    """The file of the pairs that the run has built; None = the recipe's [dataset] is read again."""
    images: Path
    """Keeps what is known of their images."""


def train_and_score(
    job: Job,
    arm: str,
    scoring: Scoring,
    probes: Sequence[Metric],
    seconds: StageTimer,
    processes: Processes | None = None,
) -> Stop | None:
    """Train one arm, scoring between its saves; why it was stopped early, if it was, now or by an earlier call."""
    between = _ScoreBetweenSaves(job, scoring, probes)
    if between.stop is None:
        job.out.mkdir(parents=True, exist_ok=True)
        (job.out / ENDED).unlink(missing_ok=True)  # an earlier call was killed while its processes paused
        _score_existing(job, arm, between)  # an earlier call may have been killed while it scored
    if between.stop is None and processes is not None:
        _train_in_processes(job, arm, between, seconds, processes)
    elif between.stop is None:
        with seconds(f"train {arm}"):
            trainer(arm)(replace(job, saved=between))
    if between.stop is not None:
        notes = f"{job.out / STOPPED} and {job.out / ENDED}"
        log.info("training is stopped: %s; to train on, remove %s", between.stop.words, notes)
    return between.stop


def _score_existing(job: Job, arm: str, between: "_ScoreBetweenSaves") -> int:
    """Score the checkpoints of a folder until a probe becomes worse; the last one's step, 0 if there is none."""
    complete = find_complete_checkpoints(job.out, QuietPeriod(0))[0]
    for found in complete:
        if not between(Checkpoint(path=found.path, step=found.step, arm=arm)):
            break
    return complete[-1].step if complete else 0


def _train_in_processes(
    job: Job, arm: str, between: "_ScoreBetweenSaves", seconds: StageTimer, processes: Processes
) -> None:
    """Train one arm by several processes. They pause at each checkpoint if it must be scored before training goes on:
    for a probe, or since the trainer removes old checkpoints."""
    pauses = bool(between.probes) or job.recipe.training.keep is not None
    by = f"training by {processes.layout.world} processes"
    while between.stop is None:
        complete = find_complete_checkpoints(job.out, QuietPeriod(0))[0]
        if complete and complete[-1].last:
            return
        launch_log = job.out / PROCESSES / "launch"
        log.info("train %s: %d processes; their log is in %s", arm, processes.layout.world, launch_log)
        with seconds(f"train {arm}"):
            code = train_in_processes(
                job, arm, processes.layout, pairs=processes.pairs, images=processes.images, pauses=pauses
            )
        if code:
            text = f"{job.out}: {by} ended with exit code {code}"
            raise InputError(text) if code == USAGE else RunError(f"{text}; the same command goes on")
        if not pauses:
            return
        before = complete[-1].step if complete else 0
        if _score_existing(job, arm, between) == before:
            raise RunError(f"{job.out}: {by} ended well, and left no checkpoint after step {before}")


def _read_stop(note: Path) -> Stop:
    """What stopped the training, of the run's note; InputError for one that is torn."""
    try:
        return Stop(**parse_object(note.read_bytes()))
    except (ValueError, TypeError):
        raise InputError(f"{note}: can't be read; remove it, and the same command trains on") from None


class _ScoreBetweenSaves:
    """Scores a checkpoint while training waits, and leaves the training as it was; tells whether to go on.

    A scoring that fails, for lack of memory perhaps, is done after training; so is the last checkpoint's.
    """

    def __init__(self, job: Job, scoring: Scoring, probes: Sequence[Metric]) -> None:
        self.job, self.scoring, self.probes = job, scoring, probes
        note = job.out / STOPPED
        self.stop = _read_stop(note) if note.exists() else None

    def __call__(self, checkpoint: Checkpoint) -> bool:
        """False once a probe became worse."""
        note = parse_json((checkpoint.path / NOTE).read_text(encoding="utf-8"))
        steps = note.get("steps")
        if note["step"] == steps or self.scoring.after_training:
            return True
        if steps is not None and note["step"] not in scored_at(steps, self.job.recipe.training):
            return True
        with _keep_random_state():
            try:
                spec = self.scoring.fetch(checkpoint.path)
                self.scoring.score(spec, checkpoint.path.as_posix(), wait=False)
            except Exception as error:
                text = "%s: not scored while training goes on (%s); scored after it"
                log.info(text, checkpoint.path, describe_error(error, 200))
            finally:
                self.scoring.drop()  # training needs the memory
        self.stop = self._find_stop(checkpoint, note["steps"]) if self.probes else None
        if self.stop is not None:
            atomic_write_text(self.job.out / STOPPED, json.dumps(asdict(self.stop), indent=1))
        return self.stop is None

    def _find_stop(self, checkpoint: Checkpoint, steps: int) -> Stop | None:
        """The first probe, or guard of one, that is significantly worse than the base's, over all looks that are
        planned (Bonferroni)."""
        training = self.job.recipe.training
        planned = -(-steps // training.save_steps) if training.save_steps else training.checkpoints
        planned = min(planned, training.score_checkpoints or planned)
        looks = planned * len(self.probes)
        scores = Scores(self.scoring.board)
        for alarm in find_probes_without_value(scores, self.probes, [checkpoint.path.as_posix()]):
            log.info("%s", alarm.words)
        for metric in self.probes:
            verdict = scores.verdict(self.job.base_name, checkpoint.path.as_posix(), metric)
            if verdict is None:
                continue
            verdict = replace(verdict, p=adjusted_for_look(verdict.p, 1, looks))
            for guard in verdict.guards:
                p = adjusted_for_look(guard.p, 1, looks)
                if replace(guard, p=p).worse and guard.base is not None and guard.other is not None:
                    name = f"{'.'.join(metric)} ({guard.name})"
                    return Stop(step=checkpoint.step, probe=name, base=guard.base, value=guard.other, p=p, looks=looks)
            if verdict.outcome == "worse" and verdict.base is not None and verdict.other is not None:
                return Stop(
                    step=checkpoint.step,
                    probe=".".join(metric),
                    base=verdict.base,
                    value=verdict.other,
                    p=verdict.p,
                    looks=looks,
                )
        return None


def find_probes_without_value(scores: Scores, probes: Sequence[Metric], models: Sequence[str]) -> list[Alarm]:
    """One alarm for each probe without a value for some of the scored models: it can't become worse there."""
    found = []
    for metric in probes:
        blank = [
            model for model in models if scores.entry(model, metric) is not None and not scores.has_value(model, metric)
        ]
        if blank:
            where = f"{'.'.join(metric)} has no value for {', '.join(blank)}"
            words = f"{where}: it can't end the training there, however bad the answers are"
            found.append(Alarm(name="early stop", words=words))
    return found


@contextmanager
def _keep_random_state() -> Iterator[None]:
    """Random numbers drawn inside change none of those that training draws afterwards."""
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
