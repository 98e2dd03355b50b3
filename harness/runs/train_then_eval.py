"""Walk 2: a recipe to checkpoints, and every checkpoint to the board.

    base scored -> preference data built or read, held against the tasks -> trained (and its SFT control), every
    checkpoint scored as soon as it is whole -> looked at (does it see? what does its log say?) -> verdicts, best
    checkpoint, report, model cards

The run folder holds all of it. Each step looks at what the folder has and does the rest, so the same command finishes a
run that was killed and does nothing for one that is done.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from harness.datasets.contamination import leaks_of
from harness.datasets.pool import PoolModels
from harness.engine.stage_timer import StageTimer
from harness.models.adapter_host import AdapterHost
from harness.models.fetch import fetch
from harness.models.load import register
from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec, find
from harness.runs.checkpoint_selection import Scores, best, headlines, probe, tasks_of
from harness.runs.image_use_checks import Checks, check, sample
from harness.runs.interim_scoring import Processes, train, without_value
from harness.runs.outcome import CONTROL, Material, Outcome, panel_verdicts
from harness.runs.run_folder import claim, sole_owner
from harness.runs.scoring_queue import Scoring
from harness.runs.training_alarms import alarms, alarms_of_checks, lengths_of, read_log
from leaderboards.board.board import Board
from support.errors import JudgeError, RunError
from support.files import atomic_write_text
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec
from trainers.cluster.launch import Layout
from trainers.config.data import Data
from trainers.config.recipe import PreferenceRecipe
from trainers.data.image_hashes import IMAGE_FACTS, HashCache
from trainers.data.read_preferences import digest, read_preferences
from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint, QuietPeriod, find_complete_checkpoints
from trainers.training.job import Job
from trainers.vlfeedback.build import build_dataset

Tell = Callable[[str], None]
Report = Callable[[str, int, int], None]

LOOKED_AT: Final = 48
"""Pairs by which a checkpoint is asked whether it sees."""


def train_then_eval(
    recipe: PreferenceRecipe,
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

    `early_stop` names probes, "task" or "task.metric": training ends once one is significantly worse than the base's.
    `layout`: trained by processes of their own, while this one does all else; None: by this one. BadInput for a probe
    that the recipe's tasks don't have; RunError.
    """
    tasks = tasks_of(recipe)
    probes = [probe(name, tasks) for name in early_stop]
    recipe = recipe if limit is None else _limited(recipe, limit)
    with sole_owner(out):
        claim(out, recipe, limit)
        clock = StageTimer(out / "seconds.json")
        board = Board(out / "board")
        register()
        base = fetch(find(recipe.base))
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
            resident=AdapterHost(),  # all checkpoints are adapters of one base
            around=clock,
        )

        before = {entry.model for entry in board.entries()}

        def score(spec: ModelSpec, name: str) -> None:
            if scoring.score(spec, name) == "there" and name in before:
                tell(f"{name}: already on the board, skipped")

        score(base, recipe.base)
        scoring.resident.drop()  # the pool and training need the memory
        for alarm in without_value(Scores(board), probes, [recipe.base]):
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
        processes = (
            None
            if layout is None
            else Processes(
                layout=layout,
                pairs=out / "data" / "pairs.jsonl" if recipe.data else None,
                images=out / "data" / IMAGE_FACTS,
            )
        )
        stop = train(job, recipe.trainer, scoring, probes, clock, processes)
        arms = {recipe.trainer: job}
        if recipe.control and recipe.trainer != "sft" and stop is None:  # a control of other length would tell nothing
            arms["sft"] = _control(job)
            train(arms["sft"], "sft", scoring, [], clock, processes)
        failed: dict[str, str] = {}
        for arm_job in arms.values():
            for found in find_complete_checkpoints(arm_job.out, QuietPeriod(0))[0]:
                name = found.path.as_posix()
                try:
                    score(fetch(find(str(found.path))), name)
                except JudgeError:
                    raise  # the next one would have no judge either
                except Exception as error:  # the others, and what they show, don't hang on it
                    scoring.resident.drop()
                    failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    tell(f"{name}: not scored ({failed[name]}); the same command tries it again")
        checkpoints = [
            checkpoint for arm, arm_job in arms.items() for checkpoint in _checkpoints(arm_job.out, arm, board)
        ]
        main = [checkpoint for checkpoint in checkpoints if checkpoint.arm == recipe.trainer]
        if not main:
            raise RunError(f"{out}: training by {recipe.trainer!r} left no checkpoint")
        with clock("look at the last checkpoint"):
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
        unseen = without_value(scores, probes, [recipe.base, *(checkpoint.path.as_posix() for checkpoint in main)])
        return Outcome(
            out=out,
            recipe=recipe,
            base=recipe.base,
            checkpoints=checkpoints,
            entries=scores.entries,
            verdicts=panel_verdicts(scores, recipe, tasks, checkpoints),
            best=best(
                scores,
                [checkpoint.path.as_posix() for checkpoint in main if checkpoint.path.is_dir()],
                headlines(tasks),
            ),
            material=material,
            log=log,
            alarms=[*found_alarms, *unseen, *([] if isinstance(checks, str) else alarms_of_checks(checks))],
            checks=checks,
            stop=stop,
            seconds=dict(clock.seconds),
            lost=max(
                [
                    material.failed,
                    *((entry.failed + entry.unscored) / max(1, entry.samples) for entry in scores.entries),
                ]
            ),
            failed=failed,
        )


def _limited(recipe: PreferenceRecipe, limit: int) -> PreferenceRecipe:
    source = recipe.preferences
    if isinstance(source, Data):
        rows = min(limit, source.instructions)
        return recipe.model_copy(update={"data": source.model_copy(update={"instructions": rows})})
    rows = min(limit, source.limit or limit)
    return recipe.model_copy(update={"dataset": source.model_copy(update={"limit": rows})})


def _material(
    recipe: PreferenceRecipe,
    out: Path,
    judge: Judge,
    tasks: Sequence[TaskSpec],
    clock: "StageTimer",
    tell: Tell,
    report: Report,
) -> Material:
    """Build or read the pairs, and hold them against what will be scored."""
    built, source = None, recipe.preferences
    if isinstance(source, Data):
        pool = PoolModels()
        with clock("build preference data"):
            built = build_dataset(out / "data", source, recipe.seed, judge, pool)
        pool.drop()
        counts, held_out = built.counts, list[Preference]()
        if not built.pairs:
            raise RunError(
                f"no preference pairs from {counts.rows} rated instructions ({counts}); loosen the recipe's [data] rule"
            )
        with HashCache(out / "data" / IMAGE_FACTS) as cache:
            mark = digest(built.pairs, cache)
        pairs, words = built.pairs, f"built from {counts.rows} instructions"
    else:
        with clock("read preference data"), HashCache(out / "data" / IMAGE_FACTS) as cache:
            read = read_preferences(source, cache)
        pairs, held_out, mark, words = read.train, read.held_out, read.digest, read.summary()
    with clock("look for leaks"):
        leaks = _leaks(pairs, mark, tasks, out / "data", report)
    if leaked := {task: rows for task, rows in leaks.items() if rows}:
        tell(f"training data show pictures of {', '.join(f'{task} ({rows} rows)' for task, rows in leaked.items())}")
    return Material(pairs=pairs, held_out=held_out, digest=mark, words=words, built=built, leaks=leaks)


def _leaks(
    pairs: Sequence[Preference], mark: str, tasks: Sequence[TaskSpec], folder: Path, report: Report
) -> dict[str, int]:
    """Rows of the training data that show a task's picture, by task; looked for once."""
    path = folder / "leaks.json"
    asked = {"data": mark, "tasks": {task.name: task.version for task in tasks}}
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["of"] == asked:
            return {str(task): int(rows) for task, rows in held["rows_with_image"].items()}
    rows = len({pair.row for pair in pairs})
    leaks = leaks_of(pairs, tasks, cache=folder / IMAGE_FACTS, total=rows)
    atomic_write_text(path, json.dumps({"of": asked, **leaks.to_json()}, indent=1))
    return leaks.summary()


def _control(job: Job) -> Job:
    """The SFT arm: the same rows, batches and steps; only its end is scored."""
    training = job.recipe.training.model_copy(update={"checkpoints": 1, "save_steps": None})
    return replace(job, recipe=job.recipe.model_copy(update={"training": training}), out=job.out / CONTROL)


def _checkpoints(folder: Path, arm: str, board: Board) -> list[Checkpoint]:
    """One arm's checkpoints by step: those that are there, and those that were scored and removed by the trainer
    since."""
    steps = {found.path: found.step for found in find_complete_checkpoints(folder, QuietPeriod(0))[0]}
    for entry in board.entries():
        path = Path(entry.model)
        number = path.name.removeprefix("checkpoint-")
        if path.parent == folder and number.isdecimal():
            steps[path] = int(number)
    return [Checkpoint(path=path, step=step, arm=arm) for path, step in sorted(steps.items(), key=lambda item: item[1])]


def _checks(
    out: Path,
    last: Checkpoint,
    base: ModelSpec,
    material: Material,
    resident: AdapterHost,
    recipe: PreferenceRecipe,
    report: Report,
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
        found = check(
            spec, base, pairs, resident, held_out=held_out, progress=partial(report, "look at the last checkpoint")
        )
    except Exception as error:  # scores and verdicts stand without; some family may refuse what others take
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    atomic_write_text(path, json.dumps({"of": asked, "found": found.to_json()}, indent=1))
    return found
