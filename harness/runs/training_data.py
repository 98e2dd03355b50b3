"""What a run trains on: preference pairs, built or read, and checked for pictures of the tasks."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.datasets.contamination import leaks_of
from harness.datasets.pool import PoolModels, check_thinking
from harness.engine.stage_timer import StageTimer
from harness.evaluation.eval_settings import EvalSettings
from harness.models.served_identity import end_run
from support.errors import InputError, RunError
from support.files import atomic_write_text
from support.parsing import parse_json, parse_object
from tasks.judges.protocol import Judge
from tasks.judges.reasons import Reason
from tasks.registry import TaskSpec
from trainers.config.data import Data
from trainers.config.recipe import PreferenceRecipe
from trainers.data.image_hashes import IMAGE_FACTS, HashCache
from trainers.data.pair_formats import read_pairs
from trainers.data.read_preferences import digest, read_preferences
from trainers.data.rows import Preference
from trainers.vlfeedback.build import BuiltDataset, build_dataset

log = logging.getLogger(__name__)

DATA: Final = "data.json"
"""Which pairs trainings with several seeds share, in the folder of all of them."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Preference pairs and where they are from."""

    pairs: list[Preference]
    held_out: list[Preference]
    digest: str
    """Of every pair on either side."""
    summary: str
    """What was built or read, in a line."""
    built: BuiltDataset | None
    """If the run has built them."""
    leaks: Mapping[str, int]
    """Task -> rows of the training data that show one of its pictures."""
    bad_rows: int = 0
    """Rows that gave no pair to train on."""
    failed: float = 0.0
    """Answers and ratings that could not be had, per instruction."""
    reasons: Sequence[Reason] = ()
    """Why, with counts and one example each."""


def prepare_training_data(
    recipe: PreferenceRecipe,
    folder: Path,
    judge: Judge,
    tasks: Sequence[TaskSpec],
    seconds: StageTimer,
    scored: EvalSettings,
    *,
    remote_code: bool = False,
) -> TrainingData:
    """Build or read the recipe's pairs in `folder`, and look for the tasks' pictures in them. `scored` says where the
    tasks' data are; `remote_code`: code of the pool's models may run. RunError if there are no pairs."""
    source = recipe.preferences
    bad_rows = 0
    if isinstance(source, Data):
        with seconds("build preference data"):
            built = _build(recipe, source, folder, judge, remote_code)
        with HashCache(folder / IMAGE_FACTS) as cache:
            mark = digest(built.pairs, cache)
        pairs, held_out, summary = built.pairs, list[Preference](), f"built from {built.counts.rows} instructions"
    else:
        with seconds("read preference data"), HashCache(folder / IMAGE_FACTS) as cache:
            read = read_preferences(source, cache, chosen_alone=recipe.trainer == "sft")
        built, pairs, held_out, mark, summary = None, read.train, read.held_out, read.digest, read.summary()
        bad_rows = read.bad_rows
        if read.left_out:
            atomic_write_text(folder / "left_out.json", json.dumps(read.left_out, indent=1))
    with seconds("look for leaks"):
        leaks = _find_leaks(pairs, mark, tasks, folder, scored)
    if leaked := ", ".join(f"{task} ({rows} rows)" for task, rows in leaks.items() if rows):
        log.info("training data show pictures of %s", leaked)
    log.info("%d preference pairs: %s", len(pairs), summary)
    more = _losses(built) if built is not None else {}
    return TrainingData(
        pairs=pairs,
        held_out=held_out,
        digest=mark,
        summary=summary,
        built=built,
        leaks=leaks,
        bad_rows=bad_rows,
        **more,
    )


def _losses(built: BuiltDataset) -> dict[str, Any]:
    return {"failed": built.failed / max(1, len(built.instructions)), "reasons": built.reasons}


@dataclass(frozen=True)
class OneOfSeeds:
    """Where one of several trainings is that differ by their seed alone."""

    out: Path
    """Its own folder."""
    shared: "SharedData"
    """The data of all, and the folder that they share."""


class SharedData:
    """The data of trainings in folders below `out` that differ by their seed alone: prepared once, for all of them.

    Once a training may have begun, what had failed is not asked for again: later seeds would train on other pairs.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder, self.note = out, out / "data", out / DATA
        self._found: TrainingData | None = None

    def prepare(self, recipe: PreferenceRecipe, *given: Any, remote_code: bool = False) -> TrainingData:
        """As `prepare_training_data`, which is asked once; InputError where the pairs are others than they were."""
        if self._found is None and recipe.data is not None and self.note.exists():
            self._found = self._read(*given)
        if self._found is None:
            self._found = prepare_training_data(recipe, self.folder, *given, remote_code=remote_code)
            self._keep(self._found)
        return self._found

    def _keep(self, found: TrainingData) -> None:
        told = {"digest": found.digest, "summary": found.summary, "failed": found.failed}
        reasons = [asdict(reason) for reason in found.reasons]
        atomic_write_text(self.note, json.dumps({**told, "reasons": reasons}, indent=1))

    def _read(self, judge: Judge, tasks: Sequence[TaskSpec], seconds: StageTimer, scored: EvalSettings) -> TrainingData:
        """The pairs that were built."""
        path = self.folder / "pairs.jsonl"
        try:
            held = parse_object(self.note.read_bytes())
            reasons = [Reason(**reason) for reason in held["reasons"]]
            told: dict[str, Any] = {
                "summary": str(held["summary"]),
                "failed": float(held["failed"]),
                "reasons": reasons,
            }
            mark = str(held["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{self.note}: can't be read; choose another --out or remove it") from None
        with seconds("read preference data"), HashCache(self.folder / IMAGE_FACTS) as cache:
            pairs = list(read_pairs(path))
            now = digest(pairs, cache)
        if now != mark:
            raise InputError(f"{path}: the trainings began with other pairs (digest {mark}, now {now}); restore it")
        with seconds("look for leaks"):
            leaks = _find_leaks(pairs, mark, tasks, self.folder, scored)
        log.info("%d preference pairs: %s", len(pairs), told["summary"])
        return TrainingData(pairs=pairs, held_out=[], digest=mark, built=None, leaks=leaks, **told)


def _build(recipe: PreferenceRecipe, data: Data, folder: Path, judge: Judge, remote_code: bool) -> BuiltDataset:
    run = f"answers in {folder.resolve()}"
    check_thinking(data.pool, remote_code=remote_code)
    pool = PoolModels(run=run, remote_code=remote_code)
    built = build_dataset(folder, data, recipe.seed_of_data, judge, pool)
    end_run(None, run)
    pool.drop()
    if not built.pairs:
        rows, counts = built.counts.rows, built.counts.summary()
        raise RunError(
            f"no preference pairs from {rows} rated instructions ({counts}); loosen the recipe's [data] rule"
        )
    return built


def _find_leaks(
    pairs: Sequence[Preference], mark: str, tasks: Sequence[TaskSpec], folder: Path, scored: EvalSettings
) -> dict[str, int]:
    """Rows of the training data that show a task's picture, by task; kept in `leaks.json`."""
    path = folder / "leaks.json"
    key = {"data": mark, "tasks": {task.name: task.version for task in tasks}}
    if path.exists():
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # torn, it is made again
            held = parse_json(path.read_text(encoding="utf-8"))
            if held["of"] == key:
                return {str(task): int(rows) for task, rows in held["rows_with_image"].items()}
    rows = len({pair.row for pair in pairs})
    where: dict[str, Any] = {"data": scored.data, "partial_data": scored.partial_data}
    leaks = leaks_of(pairs, tasks, cache=folder / IMAGE_FACTS, total=rows, **where)
    atomic_write_text(path, json.dumps({"of": key, **leaks.to_json()}, indent=1))
    return leaks.summary()
