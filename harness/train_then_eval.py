"""Walk 2: a recipe to checkpoints, and every checkpoint to the board.

    base scored -> preference data built or read, held against the tasks -> trained (and its SFT control), every checkpoint scored as soon
    as it is whole -> looked at (does it see? what does its log say?) -> verdicts, best checkpoint, report, model cards

The run folder holds all of it. Each step looks at what the folder has and does the rest, so the same command finishes a run that was
killed and does nothing for one that is done.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from harness.best import Best, Metric, Scores, best, headlines, judged, panel_of, probe, tasks_of
from harness.checkpoint_checks import Checks, check, sample
from harness.diagnostics import Alarm, Line, alarms, alarms_of_checks, lengths_of, read_log
from harness.leaks import leaks_of
from harness.models.fetch import fetch
from harness.models.load import register
from harness.models.resident import Resident
from harness.models.spec import ModelSpec, find
from harness.options import USAGE
from harness.pool import Pool
from harness.provenance import digest_of_model
from harness.run_folder import claim, sole_owner
from harness.train_arm import PROCESSES, train_by
from harness.watch import NOTE, Scoring, Settled, look
from leaderboards.board import Board
from leaderboards.entry import Entry
from leaderboards.verdict import Verdict
from tasks.judge import Judge, JudgeError
from tasks.registry import TaskSpec
from trainers.errors import BadInput
from trainers.job import Job, trainer
from trainers.launch import Layout
from trainers.preference import STOPPED as ENDED
from trainers.read_preferences import digest, read_preferences
from trainers.recipe import Checkpoint, Recipe
from trainers.rows import Preference
from trainers.vlfeedback.build import Dataset, build_dataset
from trainers.vlfeedback.store import write_whole

Tell = Callable[[str], None]
Report = Callable[[str, int, int], None]

LOOKED_AT: Final = 48
"""Pairs by which a checkpoint is asked whether it sees."""
STOPPED: Final = "early_stop.json"
"""Why a run was stopped, in its folder."""


class RunError(RuntimeError):
    """The run can't go on; one line."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a run trains on."""

    pairs: list[Preference]
    held_out: list[Preference]
    digest: str
    """Of every pair on either side."""
    words: str
    """What was built or read, in a line."""
    built: Dataset | None
    """Where the run has built them."""
    leaks: Mapping[str, int]
    """Task -> rows of the training data that show one of its pictures."""

    @property
    def failed(self) -> float:
        """Answers and ratings that could not be had, per instruction."""
        return 0.0 if self.built is None else self.built.failed / max(1, len(self.built.instructions))


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why training ended before its time: a probe became significantly worse."""

    step: int
    probe: str
    base: float
    value: float
    p: float
    """Times the number of looks that were planned (Bonferroni)."""
    looks: int

    @property
    def words(self) -> str:
        """In a line."""
        change = f"from {self.base:.4g} to {self.value:.4g}"
        return f"{self.probe} became worse, {change}, at step {self.step} (p {self.p:.2g} over {self.looks} looks)"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run has to show."""

    out: Path
    recipe: Recipe
    base: str
    """Board name of the model that was trained."""
    checkpoints: list[Checkpoint]
    """Of all arms, each arm's first to last; those that the trainer has removed since they were scored, too."""
    entries: list[Entry]
    verdicts: dict[str, dict[str, Verdict]]
    """"dpo against base" -> "task.metric" -> verdict, Holm-adjusted within each."""
    best: Best
    """Of the main arm's checkpoints that the trainer has kept, by the tasks' headline metrics."""
    material: Material
    log: list[Line]
    """Of the main arm."""
    alarms: list[Alarm]
    """Of the main arm's last checkpoint, and of probes that have no value."""
    checks: Checks | str
    """Of the main arm's last checkpoint; or why there are none."""
    stop: Stop | None
    seconds: dict[str, float]
    """Wall time a stage took, over all calls that worked on this run."""
    lost: float
    """Largest share of failed or unscored samples of any evaluation, or of failures per instruction in the data."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Board name of a checkpoint whose scoring failed -> why; the next call tries it again."""

    @property
    def removed(self) -> list[str]:
        """Board names of the main arm's checkpoints that are gone since they were scored."""
        return [checkpoint.path.as_posix() for checkpoint in self.of_arm(self.recipe.trainer) if not checkpoint.path.is_dir()]

    def of_arm(self, arm: str) -> list[Checkpoint]:
        """One arm's checkpoints, first to last."""
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.arm == arm]

    @property
    def last(self) -> str:
        """Board name of the main arm's last checkpoint."""
        return self.of_arm(self.recipe.trainer)[-1].path.as_posix()


def train_then_eval(
    recipe: Recipe,
    out: Path,
    judge: Judge,
    *,
    limit: int | None = None,
    split: str | None = None,
    early_stop: Sequence[str] = (),
    layout: Layout | None = None,
    tell: Tell,
    report: Report,
) -> Outcome:
    """Do, or finish, the run of `recipe` in `out`; `limit` bounds instructions (or rows read) and documents a task.

    `early_stop` names probes, "task" or "task.metric": training ends once one is significantly worse than the base's. `layout`: trained by
    processes of their own, while this one does all else; None: by this one. BadInput for a probe that the recipe's tasks don't have;
    RunError.
    """
    if recipe.base is None or recipe.training is None:
        raise RunError(f"recipe {recipe.name!r} pretrains a model from nothing: run it by `harness train {recipe.name}`")
    tasks = tasks_of(recipe)
    probes = [probe(name, tasks) for name in early_stop]
    recipe = recipe if limit is None else _limited(recipe, limit)
    assert recipe.training is not None
    assert recipe.base is not None
    with sole_owner(out):
        claim(out, recipe, limit)
        clock = _Clock(out / "seconds.json")
        board = Board(out / "board")
        register()
        base = fetch(find(recipe.base), tell)
        scoring = Scoring(
            board=board,
            tasks=tasks,
            judge=judge,
            state=out / "watch",
            limit=limit,
            seed=recipe.seed,
            split=split,
            tell=tell,
            report=report,
            resident=Resident(tell=tell),  # all checkpoints are adapters of one base
            around=clock.stage,
        )

        before = {entry.model for entry in board.entries()}

        def score(spec: ModelSpec, name: str) -> None:
            if scoring.score(spec, name) == "there" and name in before:
                tell(f"{name}: already on the board, skipped")

        score(base, recipe.base)
        scoring.resident.drop()  # the pool and training need the memory
        for alarm in _without_value(Scores(board), probes, [recipe.base]):
            tell(alarm.words)
        material = _material(recipe, out, judge, tasks, clock, tell, report)
        tell(f"{len(material.pairs)} preference pairs: {material.words}")
        job = Job(
            recipe=recipe,
            out=out,
            base_name=recipe.base,
            base=str(base.folder),
            dtype=base.dtype,
            preferences=material.pairs,
            held_out=material.held_out,
            note={"data": material.digest, "leaks": dict(material.leaks)},
        )
        processes = None if layout is None else Processes(layout=layout, pairs=out / "data" / "pairs.jsonl" if recipe.data else None)
        stop = _train(job, recipe.trainer, scoring, probes, clock, processes)
        arms = {recipe.trainer: job}
        if recipe.control and recipe.trainer != "sft" and stop is None:  # a control of other length would tell nothing
            arms["sft"] = _control(job)
            _train(arms["sft"], "sft", scoring, [], clock, processes)
        failed: dict[str, str] = {}
        for arm_job in arms.values():
            for found in look(arm_job.out, Settled(0))[0]:
                name = found.path.as_posix()
                try:
                    score(fetch(find(str(found.path)), tell), name)
                except JudgeError:
                    raise  # the next one would have no judge either
                except Exception as error:  # the others, and what they show, don't hang on it
                    scoring.resident.drop()
                    failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    tell(f"{name}: not scored ({failed[name]}); the same command tries it again")
        checkpoints = [checkpoint for arm, arm_job in arms.items() for checkpoint in _checkpoints(arm_job.out, arm, board)]
        main = [checkpoint for checkpoint in checkpoints if checkpoint.arm == recipe.trainer]
        if not main:
            raise RunError(f"{out}: training by {recipe.trainer!r} left no checkpoint")
        with clock.stage("look at the last checkpoint"):
            checks = _checks(out, main[-1], base, material, scoring.resident, recipe, report)
        if isinstance(checks, str):
            tell(f"{main[-1].path}: not looked at ({checks})")
        scoring.resident.drop()
        scores = Scores(board)
        log = read_log(out)
        found_alarms = alarms(
            log,
            total=max((line.step for line in log), default=0),
            held_out=checks.seen.accuracy["image"][0] / 100 if isinstance(checks, Checks) and checks.held_out else None,
            lengths=lengths_of(scores, recipe.base, main[-1].path.as_posix(), tasks),
        )
        unseen = _without_value(scores, probes, [recipe.base, *(checkpoint.path.as_posix() for checkpoint in main)])
        return Outcome(
            out=out,
            recipe=recipe,
            base=recipe.base,
            checkpoints=checkpoints,
            entries=scores.entries,
            verdicts=_verdicts(scores, recipe, tasks, checkpoints),
            best=best(scores, [checkpoint.path.as_posix() for checkpoint in main if checkpoint.path.is_dir()], headlines(tasks)),
            material=material,
            log=log,
            alarms=[*found_alarms, *unseen, *([] if isinstance(checks, str) else alarms_of_checks(checks))],
            checks=checks,
            stop=stop,
            seconds=dict(clock.seconds),
            lost=max([material.failed, *((entry.failed + entry.unscored) / max(1, entry.samples) for entry in scores.entries)]),
            failed=failed,
        )


def unmet(outcome: Outcome, required: Sequence[str] = ()) -> str:
    """Why the last checkpoint is not better than the base, in a line; "" where it is.

    `required` names metrics of the panel ("task.metric", or a task for its headline) that all have to be better. None given: one at least
    is, and none is worse. BadInput for a name that the panel lacks.
    """
    found = outcome.verdicts[f"{outcome.recipe.trainer} against base"]
    if not required:
        worse = [name for name, verdict in found.items() if verdict.outcome == "worse"]
        if worse:
            return f"{outcome.last} is worse than {outcome.base} by {', '.join(worse)}"
        return "" if any(verdict.outcome == "better" for verdict in found.values()) else f"{outcome.last} is better by none of the panel"
    known = list(dict.fromkeys([*(".".join(metric) for metric in panel_of(outcome.recipe, tasks_of(outcome.recipe))), *found]))
    names = [judged(name, known) for name in required]
    outcomes = {name: found[name].outcome if name in found else "without a verdict" for name in names}
    short = [f"{name} is {now}" for name, now in outcomes.items() if now != "better"]
    return f"{outcome.last} against {outcome.base}: {', '.join(short)}" if short else ""


def _limited(recipe: Recipe, limit: int) -> Recipe:
    if recipe.data is not None:
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"instructions": min(limit, recipe.data.instructions)})})
    assert recipe.dataset is not None
    rows = min(limit, recipe.dataset.limit or limit)
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"limit": rows})})


def _material(recipe: Recipe, out: Path, judge: Judge, tasks: Sequence[TaskSpec], clock: "_Clock", tell: Tell, report: Report) -> Material:
    """Build or read the pairs, and hold them against what will be scored."""
    built = None
    if recipe.data is not None:
        pool = Pool(tell=tell)
        with clock.stage("build preference data"):
            built = build_dataset(out / "data", recipe.data, recipe.seed, judge, pool, report, tell)
        pool.drop()
        counts, held_out = built.counts, list[Preference]()
        if not built.pairs:
            raise RunError(f"no preference pairs from {counts.rows} rated instructions ({counts}); loosen the recipe's [data] rule")
        pairs, mark, words = built.pairs, digest(built.pairs), f"built from {counts.rows} instructions"
    else:
        assert recipe.dataset is not None
        with clock.stage("read preference data"):
            read = read_preferences(recipe.dataset)
        pairs, held_out, mark, words = read.train, read.held_out, read.digest, read.summary()
    with clock.stage("look for leaks"):
        leaks = _leaks(pairs, mark, tasks, out / "data", report)
    if leaked := {task: rows for task, rows in leaks.items() if rows}:
        tell(f"training data show pictures of {', '.join(f'{task} ({rows} rows)' for task, rows in leaked.items())}")
    return Material(pairs=pairs, held_out=held_out, digest=mark, words=words, built=built, leaks=leaks)


def _leaks(pairs: Sequence[Preference], mark: str, tasks: Sequence[TaskSpec], folder: Path, report: Report) -> dict[str, int]:
    """Rows of the training data that show a task's picture, by task; looked for once."""
    path = folder / "leaks.json"
    asked = {"data": mark, "tasks": {task.name: task.version for task in tasks}}
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["of"] == asked:
            return {str(task): int(rows) for task, rows in held["rows_with_image"].items()}
    rows = len({pair.row for pair in pairs})
    leaks = leaks_of(pairs, tasks, cache=folder / "fingerprints.sqlite", report=lambda stage, done, _: report(stage, done, rows))
    write_whole(path, json.dumps({"of": asked, **leaks.to_json()}, indent=1))
    return leaks.summary()


@dataclass(frozen=True, kw_only=True)
class Processes:
    """That several train, and what they read."""

    layout: Layout
    pairs: Path | None
    """The file of those that the run has built."""


def _train(
    job: Job, arm: str, scoring: Scoring, probes: Sequence[Metric], clock: "_Clock", processes: Processes | None = None
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
        watched = replace(
            job,
            progress=partial(scoring.report, stage),
            referring=partial(scoring.report, f"{stage}: reference"),
            saved=between,
            tell=scoring.tell,
        )
        with clock.stage(stage):
            trainer(arm)(watched)
    if between.stop is not None:
        scoring.tell(f"training is stopped: {between.stop.words}; to train on, remove {job.out / STOPPED} and {job.out / 'stopped.json'}")
    return between.stop


def _score_those_there(job: Job, arm: str, between: "_Between") -> int:
    """Score the checkpoints of a folder until a probe becomes worse; the last one's step, 0 where there is none."""
    whole = look(job.out, Settled(0))[0]
    for found in whole:
        if not between(Checkpoint(path=found.path, step=found.step, arm=arm)):
            break
    return whole[-1].step if whole else 0


def _train_by(job: Job, arm: str, scoring: Scoring, between: "_Between", clock: "_Clock", processes: Processes) -> None:
    """Have several processes train one arm; they pause where a probe, or what the trainer removes, can't wait to be scored."""
    training = job.recipe.training
    assert training is not None
    pauses = bool(between.probes) or training.keep is not None
    stage = f"train {arm}"
    while between.stop is None:
        whole = look(job.out, Settled(0))[0]
        if whole and whole[-1].last:
            return
        scoring.tell(f"{stage}: {processes.layout.world} processes; their log is in {job.out / PROCESSES / 'launch'}")
        with clock.stage(stage):
            code = train_by(job, arm, processes.layout, pairs=processes.pairs, pauses=pauses)
        if code:
            said = f"{job.out}: training by {processes.layout.world} processes ended with exit code {code}"
            raise BadInput(said) if code == USAGE else RunError(f"{said}; the same command goes on")
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
                spec = fetch(find(str(checkpoint.path)), self.scoring.tell)
                self.scoring.score(spec, checkpoint.path.as_posix(), wait=False)
            except Exception as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                self.scoring.tell(f"{checkpoint.path}: not scored while training goes on ({why}); scored after it")
            finally:
                self.scoring.resident.drop()  # training needs the memory
        self.stop = self._fallen(checkpoint, note["steps"]) if self.probes else None
        if self.stop is not None:
            write_whole(self.job.out / STOPPED, json.dumps(asdict(self.stop), indent=1))
        return self.stop is None

    def _fallen(self, checkpoint: Checkpoint, steps: int) -> Stop | None:
        training = self.job.recipe.training
        assert training is not None
        planned = -(-steps // training.save_steps) if training.save_steps else training.checkpoints
        looks = planned * len(self.probes)
        scores = Scores(self.scoring.board)
        for alarm in _without_value(scores, self.probes, [checkpoint.path.as_posix()]):
            self.scoring.tell(alarm.words)
        for metric in self.probes:
            verdict = scores.verdict(self.job.base_name, checkpoint.path.as_posix(), metric)
            if verdict is None:
                continue
            verdict = replace(verdict, p=min(1.0, verdict.p * looks))
            if verdict.outcome == "worse" and verdict.base is not None and verdict.other is not None:
                named = ".".join(metric)
                return Stop(step=checkpoint.step, probe=named, base=verdict.base, value=verdict.other, p=verdict.p, looks=looks)
        return None


def _without_value(scores: Scores, probes: Sequence[Metric], models: Sequence[str]) -> list[Alarm]:
    """One alarm a probe that has no value for some of the models that were scored: it can't become worse there."""
    found = []
    for metric in probes:
        blank = [model for model in models if scores.entry(model, metric) is not None and not scores.has_value(model, metric)]
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


CONTROL: Final = "control"


def _control(job: Job) -> Job:
    """The SFT arm: the same rows, batches and steps; only its end is scored."""
    assert job.recipe.training is not None
    training = job.recipe.training.model_copy(update={"checkpoints": 1, "save_steps": None})
    return replace(job, recipe=job.recipe.model_copy(update={"training": training}), out=job.out / CONTROL)


def _checkpoints(folder: Path, arm: str, board: Board) -> list[Checkpoint]:
    """One arm's checkpoints by step: those that are there, and those that were scored and removed by the trainer since."""
    steps = {found.path: found.step for found in look(folder, Settled(0))[0]}
    for entry in board.entries():
        path = Path(entry.model)
        number = path.name.removeprefix("checkpoint-")
        if path.parent == folder and number.isdecimal():
            steps[path] = int(number)
    return [Checkpoint(path=path, step=step, arm=arm) for path, step in sorted(steps.items(), key=lambda item: item[1])]


def _checks(
    out: Path, last: Checkpoint, base: ModelSpec, material: Material, resident: Resident, recipe: Recipe, report: Report
) -> Checks | str:
    """What the last checkpoint does on pairs, asked once and kept in `checks.json`; or why that can't be told."""
    pairs = sample(material.held_out, LOOKED_AT, recipe.seed)
    held_out = bool(pairs)
    pairs = pairs or sample(material.pairs, LOOKED_AT, recipe.seed)
    if not pairs:
        return "no pair has an image and a rejected answer"
    if not last.path.is_dir():
        return "the trainer has removed it"
    spec = fetch(find(str(last.path)))
    path = out / "checks.json"
    asked = {**digest_of_model(spec), "data": material.digest, "pairs": len(pairs)}
    if path.exists():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["of"] == asked:
                return Checks.from_json(held["found"])
        except (ValueError, KeyError, TypeError):
            pass  # of another version
    try:
        found = check(spec, base, pairs, resident, held_out=held_out, progress=partial(report, "look at the last checkpoint"))
    except Exception as error:  # scores and verdicts stand without; some family may refuse what others take
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    write_whole(path, json.dumps({"of": asked, "found": found.to_json()}, indent=1))
    return found


def _verdicts(
    scores: Scores, recipe: Recipe, tasks: Sequence[TaskSpec], checkpoints: Sequence[Checkpoint]
) -> dict[str, dict[str, Verdict]]:
    """The last checkpoint of each arm against the base, and of the main arm against the control."""
    last = {checkpoint.arm: checkpoint.path.as_posix() for checkpoint in checkpoints}
    assert recipe.base is not None
    compared = {f"{arm} against base": (recipe.base, name) for arm, name in last.items()}
    if "sft" in last and recipe.trainer != "sft":
        compared[f"{recipe.trainer} against sft"] = (last["sft"], last[recipe.trainer])
    metrics = panel_of(recipe, tasks)
    return {label: scores.panel(before, after, metrics) for label, (before, after) in compared.items()}


class _Clock:
    """Seconds a stage took, without those of stages within it, kept on disk so that a run finished in two calls knows both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._within = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - started
            spent = whole - self._within.pop()
            self._within[-1] += whole
            if name not in self.seconds or spent > 1:  # looking at a stage that is done already is no work
                self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)
                write_whole(self.path, json.dumps(self.seconds))


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its outcome, for --json."""
    return {**asdict(verdict), "outcome": verdict.outcome}
