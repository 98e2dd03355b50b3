"""Ratings: the judge reads image, instruction and all answers at once, and rates each on three aspects (VLFeedback's protocol).

parse(reply, 4)["Visual Faithfulness"][2]        # (4, "the star is small") for Text 3, or None: never a guess
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

import tasks
from tasks.judge import as_data, ask_all, current_judge, fill
from trainers.recipe import ASPECTS
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.store import Rows

BATCH = 64
"""Instructions judged between two writes."""

_ASPECT = re.compile(r"^#{3,5}\s*\**\s*(.+?)\s*(?:Assessment)?\s*\**\s*:?\s*$", re.MULTILINE | re.IGNORECASE)
_TEXT = re.compile(r"^#{3,6}\s*\**\s*Output for Text (\d+)\s*\**\s*:?\s*$", re.MULTILINE | re.IGNORECASE)
_RATING = re.compile(r"^\W*Rating\W*?:\W*([1-5])(?:\s*/\s*5)?\W*$", re.MULTILINE | re.IGNORECASE)
_RATIONALE = re.compile(r"^\W*Rationale\W*?:\**\s*(.+)", re.MULTILINE | re.IGNORECASE | re.DOTALL)

Rating = tuple[int, str]
"""Points 1-5, and why."""


def parse(reply: str, texts: int) -> dict[str, list[Rating | None]]:
    """Aspect -> rating of each text; None where the reply gives no single one in its place."""
    found: dict[str, list[Rating | None]] = {aspect: [None] * texts for aspect in ASPECTS}
    headings = [match for match in _ASPECT.finditer(reply) if _aspect(match.group(1))]
    for match, after in zip(headings, [*headings, None][1:], strict=True):
        aspect = _aspect(match.group(1))
        section = reply[match.end() : after.start() if after else len(reply)]
        outputs = list(_TEXT.finditer(section))
        for output, following in zip(outputs, [*outputs, None][1:], strict=True):
            number = int(output.group(1))
            body = section[output.end() : following.start() if following else len(section)]
            if aspect and 1 <= number <= texts:
                found[aspect][number - 1] = _rating(body) if found[aspect][number - 1] is None else None
    return found


def _aspect(heading: str) -> str | None:
    return next((aspect for aspect in ASPECTS if aspect.lower() == heading.strip(" *").lower()), None)


def _rating(body: str) -> Rating | None:
    ratings = _RATING.findall(body)
    rationale = _RATIONALE.search(body)
    return (int(ratings[0]), rationale.group(1).strip() if rationale else "") if len(ratings) == 1 else None


@cache
def _template() -> str:
    return (Path(tasks.__file__).parent / "prompts" / "vlfeedback.txt").read_text(encoding="utf-8").strip()


def prompt(instruction: str, texts: Sequence[str]) -> str:
    """What the judge is asked."""
    return fill(_template(), data=as_data({"instruction": instruction, "texts": list(texts)}))


def annotate(
    instructions: Sequence[Instruction],
    answers: Mapping[str, Mapping[str, str]],
    seed: int,
    images: Path,
    rows: Rows,
    done: Callable[[int], None],
) -> int:
    """Have every instruction's answers (instruction id -> member -> text) rated; returns how many calls failed, to be made again next time.

    The order of the texts is shuffled, since judges prefer some positions, and kept with the row.
    """
    judge, failed = current_judge().model, 0
    waiting = [instruction for instruction in instructions if len(answers.get(instruction.id, {})) >= 2]
    missing = set(rows.missing(instruction.id for instruction in waiting))
    done(len(waiting) - len(missing))
    left = [instruction for instruction in waiting if instruction.id in missing]
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        orders = [_order(answers[instruction.id], seed, instruction.id) for instruction in batch]
        texts = [[answers[instruction.id][member] for member in order] for instruction, order in zip(batch, orders, strict=True)]
        replies = ask_all(
            (prompt(instruction.prompt, said), Image.open(images / instruction.image))
            for instruction, said in zip(batch, texts, strict=True)
        )
        failed += sum(reply is None for reply in replies)
        rows.append(
            _row(instruction, order, reply, judge)
            for instruction, order, reply in zip(batch, orders, replies, strict=True)
            if reply is not None
        )
        done(len(batch))
    return failed


def _order(answers: Mapping[str, str], seed: int, id: str) -> list[str]:
    return random.Random(f"order/{seed}/{id}").sample(sorted(answers), len(answers))


def _row(instruction: Instruction, order: Sequence[str], reply: str, judge: str) -> dict[str, Any]:
    rated = parse(reply, len(order))
    ratings = {
        member: {aspect: rated[aspect][place][0] if rated[aspect][place] else None for aspect in ASPECTS}  # type: ignore[index]
        for place, member in enumerate(order)
    }
    rationales = {
        member: {aspect: rated[aspect][place][1] if rated[aspect][place] else "" for aspect in ASPECTS}  # type: ignore[index]
        for place, member in enumerate(order)
    }
    return {"id": instruction.id, "order": list(order), "ratings": ratings, "rationales": rationales, "judge": judge}
