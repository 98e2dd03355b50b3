"""Ratings for a folder of instructions and answers that is there already, by any judge.

    annotate_folder(Path("runs/x/data"), judge, seed=0, done=print)       # goes on where it was left; how many calls failed

The folder holds `instructions.jsonl`, `answers.jsonl` and `images/`, as a run's data folder does. Ratings go to `ratings-JUDGE.jsonl`
beside them, so that two judges' ratings of the same answers can be held against each other.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tasks.judge import Judge, judging, use_judge
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.ratings import annotate
from trainers.vlfeedback.store import Rows

TASK = "vlfeedback"
"""What the calls are booked under."""


class FolderError(ValueError):
    """A folder is not one of instructions and answers."""


def ratings_file(folder: Path, judge: str) -> Path:
    """Where a judge's ratings of the answers in `folder` go."""
    return folder / f"ratings-{re.sub(r'[^A-Za-z0-9._-]', '-', judge)}.jsonl"


def annotate_folder(folder: Path, judge: Judge, *, seed: int, done: Callable[[int, int], None], into: Path | None = None) -> int:
    """Have all answers in `folder` rated that are not yet; how many calls failed, to be made again next time."""
    instructions, answers = read_folder(folder)
    rows = Rows(into or ratings_file(folder, judge.model))
    so_far = 0

    def more(count: int) -> None:
        nonlocal so_far
        so_far += count
        done(so_far, len(instructions))

    with use_judge(judge), judging(TASK):
        return annotate(instructions, answers, seed, folder / "images", rows, more)


def read_folder(folder: Path) -> tuple[list[Instruction], dict[str, dict[str, str]]]:
    """The instructions, and each one's answers by who gave them."""
    for name in ("instructions.jsonl", "answers.jsonl", "images"):
        if not (folder / name).exists():
            raise FolderError(f"{folder}: has no {name}; a run's data folder is wanted")
    try:
        lines = (folder / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
        instructions = [Instruction(**json.loads(line)) for line in lines]
    except (json.JSONDecodeError, TypeError) as error:
        raise FolderError(f"{folder / 'instructions.jsonl'}: no instructions: {error}") from None
    answers: dict[str, dict[str, str]] = {}
    for key, row in Rows(folder / "answers.jsonl").by_id.items():
        name, _, member = key.rpartition("|")
        answers.setdefault(name, {})[member] = row["answer"]
    return instructions, answers
