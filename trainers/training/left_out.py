"""Pairs that training leaves out once it knows the model: prompts that fill `max_length`, pictures that the processor
refuses. They are kept in the run folder, so that a continued run has the same pairs."""

import json
import logging
from pathlib import Path
from typing import Final

from support.errors import InputError, TrainingError, first_few
from support.files import atomic_write_text
from support.parsing import parse_json
from support.processes import is_main_process
from trainers.config.data import PreferenceFile
from trainers.packed.collator import CutError
from trainers.training.job import Job
from trainers.training.picture_check import MarkedTexts, RefusedPictures

log = logging.getLogger(__name__)

NO_DATASET: Final = PreferenceFile(read="built by the run")
"""Says of pairs that the run has built what a recipe says that says nothing."""
LEFT_OUT: Final = "left_out.json"
"""File of the ids of these pairs."""


def read_left_out(out: Path) -> frozenset[str]:
    """The pairs that the run of this folder leaves out; InputError for a file that is torn."""
    path = out / LEFT_OUT
    try:
        return frozenset(map(str, parse_json(path.read_text(encoding="utf-8"))["ids"]))
    except FileNotFoundError:
        return frozenset()
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: can't be read, and the run needs its pairs; choose another --out") from None


def leave_out(job: Job, before: frozenset[str], error: CutError | RefusedPictures | MarkedTexts) -> frozenset[str]:
    """Record that these pairs are left out; TrainingError if the recipe does not allow it."""
    training, dataset, path = job.recipe.training, job.recipe.dataset or NO_DATASET, job.out / LEFT_OUT
    rows = len(job.preferences) + len(job.held_out) + job.bad_rows
    most, lost = dataset.most_bad(rows), len(before) + len(error.ids)
    if isinstance(error, CutError):
        allowed, why = training.too_long == "drop", f"whose prompt and images fill max_length = {training.max_length}"
        way = ", by too_long = 'drop'"
    elif isinstance(error, MarkedTexts):
        allowed, why = lost <= dataset.most_spared(rows, "image_tokens"), "with a mark of a picture in a text"
        way = ""
    else:
        allowed = dataset.missing_images == "drop" or lost <= dataset.most_spared(rows, "missing_images")
        why, way = "whose picture the processor refuses", ""
    bad = job.bad_rows + lost
    if most is not None and bad > most:
        raise TrainingError(
            f"{bad:,} rows can't be used, {len(error.ids):,} of them pairs {why} ({first_few(error.ids, 3)}); "
            f"max_bad_rows = {dataset.max_bad_rows} allows no more"
        ) from None
    if not allowed and most is None:
        raise TrainingError(f"{error}{way}") from None
    log.info("left out: %d pairs %s (%s); see %s", len(error.ids), why, first_few(error.ids, 3), path)
    if is_main_process():
        left_out = {"max_length": training.max_length, "ids": sorted(before | set(error.ids))}
        atomic_write_text(path, json.dumps(left_out, indent=1))
    return frozenset(error.ids)
