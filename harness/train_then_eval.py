"""Walk 2: a recipe to checkpoints, and every checkpoint to the board.

    base scored -> instructions, answers, ratings, pairs -> trained (and its SFT control) -> every checkpoint scored -> verdict -> report

The run folder holds all of it. Each step looks at what the folder has and does the rest, so the same command finishes a run that was
killed and does nothing for one that is done.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.evaluate import evaluate, on_board
from harness.models.fetch import fetch
from harness.models.load import register
from harness.models.resident import Resident
from harness.models.spec import ModelSpec, find
from harness.pool import Pool
from leaderboards.board import Board
from leaderboards.entry import Entry
from leaderboards.verdict import Pair, Verdict, panel
from tasks.judge import Judge
from tasks.registry import TaskSpec, registry
from trainers.job import Job, trainer
from trainers.recipe import Checkpoint, Recipe
from trainers.vlfeedback.build import Dataset, build_dataset
from trainers.vlfeedback.store import write_whole

Tell = Callable[[str], None]
Report = Callable[[str, int, int], None]


class RunError(RuntimeError):
    """The run can't go on; one line."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run has to show."""

    out: Path
    recipe: Recipe
    base: str
    """Board name of the model that was trained."""
    checkpoints: list[Checkpoint]
    """Of all arms, each arm's first to last."""
    entries: list[Entry]
    verdicts: dict[str, dict[str, Verdict]]
    """"dpo against base" -> "task.metric" -> verdict, Holm-adjusted within each."""
    dataset: Dataset
    seconds: dict[str, float]
    """Wall time a stage took, over all calls that worked on this run."""
    lost: float
    """Largest share of failed or unscored samples of any evaluation, or of failures per instruction in the data."""


def train_then_eval(
    recipe: Recipe, out: Path, judge: Judge, *, limit: int | None = None, split: str | None = None, tell: Tell, report: Report
) -> Outcome:
    """Do, or finish, the run of `recipe` in `out`; `limit` bounds instructions and documents a task."""
    if recipe.base is None or recipe.data is None:
        raise RunError(f"recipe {recipe.name!r} pretrains a model from nothing: run it by `harness train {recipe.name}`")
    if limit is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"instructions": min(limit, recipe.data.instructions)})})
    assert recipe.base is not None
    assert recipe.data is not None
    base_name = recipe.base
    with _sole_owner(out):
        _claim(out, recipe, limit)
        clock = _Clock(out / "seconds.json")
        board = Board(out / "board")
        tasks = registry().expand(recipe.tasks)
        register()
        base = fetch(find(base_name), tell)

        resident = Resident()  # all checkpoints are adapters of one base

        def score(spec: ModelSpec, name: str) -> None:
            if on_board(board, spec, name, tasks, judge, limit):
                tell(f"{name}: already on the board, skipped")
                return
            tell(f"{name}: scoring on {', '.join(task.name for task in tasks)}")
            with clock.stage(f"score {name}"):
                evaluation = evaluate(
                    spec,
                    tasks,
                    judge,
                    limit=limit,
                    seed=recipe.seed,
                    name=name,
                    split=split,
                    resident=resident,
                    progress=partial(report, f"score {name}"),
                )
            board.add(evaluation.entries, evaluation.samples)

        score(base, base_name)
        resident.drop()  # the pool and training need the memory
        pool = Pool(tell=tell)
        with clock.stage("build preference data"):
            dataset = build_dataset(out / "data", recipe.data, recipe.seed, judge, pool, report, tell)
        pool.drop()
        if not dataset.pairs:
            raise RunError(
                f"no preference pairs from {dataset.counts.rows} rated instructions ({dataset.counts}); loosen the recipe's [data] rule"
            )
        tell(f"{len(dataset.pairs)} preference pairs from {dataset.counts.rows} instructions")
        job = Job(recipe=recipe, out=out, base_name=base_name, base=str(base.folder), dtype=base.dtype, preferences=dataset.pairs)
        arms = {recipe.trainer: job} | ({"sft": _control(job)} if recipe.control else {})
        checkpoints: list[Checkpoint] = []
        for arm, arm_job in arms.items():
            stage = f"train {arm}"
            with clock.stage(stage):
                watched = replace(arm_job, progress=partial(report, stage))
                checkpoints += trainer(arm)(watched)
        for checkpoint in checkpoints:
            score(fetch(find(str(checkpoint.path)), tell), checkpoint.path.as_posix())
        entries = board.standing(partial=True)
        return Outcome(
            out=out,
            recipe=recipe,
            base=base_name,
            checkpoints=checkpoints,
            entries=entries,
            verdicts=_verdicts(board, entries, recipe, tasks, checkpoints),
            dataset=dataset,
            seconds=dict(clock.seconds),
            lost=max(
                dataset.failed / max(1, len(dataset.instructions)),
                *((entry.failed + entry.unscored) / max(1, entry.samples) for entry in entries),
            ),
        )


def _control(job: Job) -> Job:
    """The SFT arm: the same rows, batches and steps; only its end is scored."""
    assert job.recipe.training is not None
    recipe = job.recipe.model_copy(update={"training": job.recipe.training.model_copy(update={"checkpoints": 1})})
    return replace(job, recipe=recipe, out=job.out / "control")


def _verdicts(
    board: Board, entries: Sequence[Entry], recipe: Recipe, tasks: Sequence[TaskSpec], checkpoints: Sequence[Checkpoint]
) -> dict[str, dict[str, Verdict]]:
    """The last checkpoint of each arm against the base, and of the main arm against the control."""
    last = {checkpoint.arm: checkpoint.path.as_posix() for checkpoint in checkpoints}
    assert recipe.base is not None
    compared = {f"{arm} against base": (recipe.base, name) for arm, name in last.items()}
    if recipe.control and recipe.trainer != "sft":
        compared[f"{recipe.trainer} against sft"] = (last["sft"], last[recipe.trainer])
    metrics = [(task.name, task.headline) for task in tasks]
    metrics += [(name, metric) for name, _, metric in (dotted.partition(".") for dotted in recipe.panel) if (name, metric) not in metrics]
    runs = {(entry.model, entry.task): entry.run for entry in entries}
    logs = {run: board.samples(run) for run in set(runs.values())}

    def records(model: str, task: str, metric: str) -> list[Any]:
        return [sample.records[metric] for sample in logs[runs[model, task]] if sample.task == task and metric in sample.records]

    return {
        label: panel(
            {
                f"{task}.{metric}": Pair(
                    records(before, task, metric),
                    records(after, task, metric),
                    registry().metric(task, metric),
                    registry().task(task).metrics[metric].higher_is_better,
                )
                for task, metric in metrics
            }
        )
        for label, (before, after) in compared.items()
    }


class _Clock:
    """Seconds a stage took, kept on disk so that a run finished in two calls knows both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            if name not in self.seconds or spent > 1:  # looking at a stage that is done already is no work
                self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)
                write_whole(self.path, json.dumps(self.seconds))


@contextmanager
def _sole_owner(out: Path) -> Iterator[None]:
    """Two processes in one run folder would write over each other: the second one is told so."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{out}: another process is at work in this run folder") from None
        yield


def _claim(out: Path, recipe: Recipe, limit: int | None) -> None:
    """The folder belongs to one recipe; a changed recipe needs another folder."""
    path = out / "run.json"
    claim = {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest, "limit": limit}
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if (held["digest"], held["limit"]) != (recipe.digest, limit):
            raise RunError(f"{out} holds a run of recipe {held['recipe']['name']!r} with other settings; choose another --out or remove it")
    else:
        write_whole(path, json.dumps(claim, indent=1))


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its outcome, for --json."""
    return {**asdict(verdict), "outcome": verdict.outcome}
