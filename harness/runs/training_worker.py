"""One arm of a train-then-eval run, trained by several processes.

    code = train_in_processes(job, "dpo", layout, pairs=file, images=facts, pauses=False)   # in the run
    train_arm(folder)                                                                     # in each training process

The run's own process builds data, scores and judges; the others train, and end. With `pauses` they end at their next
checkpoint: it is scored while no process waits, and the next call continues from it.
"""

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from harness.models.load import register
from support.errors import RunError
from support.files import atomic_write_text
from support.processes import rank
from trainers.cluster.launch import Layout, beside_python, check_world, launch, plan_of
from trainers.config.recipe import PreferenceRecipe
from trainers.data.image_hashes import shared_cache
from trainers.data.pair_formats import read_pairs
from trainers.data.read_preferences import digest, read_preferences
from trainers.data.rows import Preference
from trainers.training.checkpoints import NOTE, STOPPED, Checkpoint, scored_at
from trainers.training.job import Job, trainer

PROCESSES: Final = "processes"
"""Folder of an arm with what its processes are to do, and their logs."""
COMMAND: Final = "train-arm"
"""The hidden command that each of them runs."""
_ARM: Final = "arm.json"
_OF_BASE: Final = ("base_name", "base", "base_hub_id", "base_revision", "chat_template", "remote_code", "dtype")
"""Fields of a Job about the model to start from."""


def train_in_processes(job: Job, arm: str, layout: Layout, *, pairs: Path | None, images: Path, pauses: bool) -> int:
    """Train an arm by these processes, and wait: the exit code of the process that failed first, else 0; RunError as of
    a launch.

    `pairs` is the file that holds the job's pairs; None = those that the recipe's [dataset] names are read again.
    `images` keeps what is known of their images, so that none is opened again.
    """
    folder = job.out / PROCESSES
    handed = {
        "arm": arm,
        "recipe": job.recipe.model_dump(mode="json", exclude_unset=True),  # some keys may not be given to some data
        "out": str(job.out),
        **{name: getattr(job, name) for name in _OF_BASE},
        "note": dict(job.note),
        "bad_rows": job.bad_rows,
        "pairs": None if pairs is None else str(pairs),
        "images": str(images),
        "reference": None if job.reference is None else str(job.reference),
        "pauses": pauses,
    }
    atomic_write_text(folder / _ARM, json.dumps(handed, indent=1))
    with contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
        return launch(_command(folder), folder, layout)


def plan(out: Path, layout: Layout) -> str:
    """The command that a run in the folder `out` would start for its main arm, to the letter."""
    return plan_of(_command(out / PROCESSES), out / PROCESSES, layout)


def _command(folder: Path) -> list[str]:
    return [str(beside_python("harness")), COMMAND, str(folder)]


def train_arm(folder: Path) -> None:
    """Train what the folder says, as one of several processes. RunError if the pairs are not the run's."""
    from support.stages import Stages

    handed = json.loads((folder / _ARM).read_text(encoding="utf-8"))
    check_world()
    register()
    recipe = PreferenceRecipe.model_validate(handed["recipe"])
    preferences, held_out, mark = _read_pairs(recipe, handed["pairs"], Path(handed["images"]))
    if mark != handed["note"]["data"]:
        raise RunError(
            f"{handed['pairs'] or '[dataset]'}: other pairs (digest {mark}) "
            f"than the run began with ({handed['note']['data']})"
        )
    job = Job(
        recipe=recipe,
        out=Path(handed["out"]),
        **{name: handed[name] for name in _OF_BASE},
        preferences=preferences,
        held_out=held_out,
        bad_rows=handed.get("bad_rows", 0),
        reference=None if handed.get("reference") is None else Path(handed["reference"]),
        note=handed["note"],
    )
    if handed["pauses"]:
        job = replace(job, saved=lambda checkpoint: _goes_on(checkpoint, recipe))
    with Stages():
        trainer(handed["arm"])(job)
    if handed["pauses"] and rank() == 0:
        (job.out / STOPPED).unlink(missing_ok=True)  # it is to go on


def _read_pairs(
    recipe: PreferenceRecipe, path: str | None, images: Path
) -> tuple[list[Preference], list[Preference], str]:
    """What to train on, what is held out, and the digest of both."""
    with shared_cache(images) as cache:
        if path is not None:
            pairs = list(read_pairs(Path(path)))
            return pairs, [], digest(pairs, cache)
        if recipe.dataset is None:
            raise RunError(f"recipe {recipe.name!r} builds its pairs, and no file of them was handed over")
        found = read_preferences(recipe.dataset, cache, chosen_alone=recipe.trainer == "sft")
        return found.train, found.held_out, found.digest


def _goes_on(checkpoint: Checkpoint, recipe: PreferenceRecipe) -> bool:
    """True at the last checkpoint, and at those that are not scored: nothing waits for them."""
    note = json.loads((checkpoint.path / NOTE).read_text(encoding="utf-8"))
    return note["step"] == note["steps"] or note["step"] not in scored_at(note["steps"], recipe.training)
