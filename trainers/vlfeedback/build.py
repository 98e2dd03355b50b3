"""The dataset of one run, stage by stage: instructions, answers, ratings, pairs. Every stage goes on where it was left.

The folder holds `images/`, `instructions.jsonl`, `answers.jsonl`, `ratings.jsonl`, `pairs.jsonl` and `vlfeedback.jsonl`, the last in
the schema of MMInstruction/VLFeedback.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.judge import Judge, use_judge
from trainers.recipe import Data
from trainers.rows import Preference
from trainers.vlfeedback.answers import AnswersLM, decode, draw, row_id
from trainers.vlfeedback.instructions import Instruction, scenes_instructions
from trainers.vlfeedback.pairs import PairCounts, build
from trainers.vlfeedback.ratings import annotate
from trainers.vlfeedback.store import Rows, write_whole

Report = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a run trains on."""

    instructions: list[Instruction]
    pairs: list[Preference]
    counts: PairCounts
    failed: int
    """Answers and ratings that could not be had this time; the same command asks for them again."""


def build_dataset(folder: Path, data: Data, seed: int, judge: Judge, load: Callable[[str], AnswersLM], report: Report) -> Dataset:
    """Build or finish the dataset in `folder`."""
    images = folder / "images"
    instructions = _instructions(folder, data, seed, images)
    drawn = draw(instructions, data, seed)
    wanted = sum(len(members) for members in drawn.values())
    answered = Rows(folder / "answers.jsonl")
    failed = decode(instructions, data, seed, images, answered, load, _counter("answers", wanted, report))
    answers = {
        id: {member.name: answered.by_id[key]["answer"] for member in members if (key := row_id(id, member.name)) in answered.by_id}
        for id, members in drawn.items()
    }
    rated = Rows(folder / "ratings.jsonl")
    with use_judge(judge):
        failed += annotate(instructions, answers, seed, images, rated, _counter("ratings", len(instructions), report))
    ratings = {id: row["ratings"] for id, row in rated.by_id.items()}
    pairs, counts = build(instructions, answers, ratings, images, data)
    write_whole(folder / "pairs.jsonl", "".join(json.dumps(_pair(pair)) + "\n" for pair in pairs))
    public = [
        _public(instruction, answers[instruction.id], rated.by_id[instruction.id])
        for instruction in instructions
        if instruction.id in ratings
    ]
    write_whole(folder / "vlfeedback.jsonl", "".join(json.dumps(row) + "\n" for row in public))
    return Dataset(instructions=instructions, pairs=pairs, counts=counts, failed=failed)


def _counter(stage: str, total: int, report: Report) -> Callable[[int], None]:
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    return more


def _instructions(folder: Path, data: Data, seed: int, images: Path) -> list[Instruction]:
    path = folder / "instructions.jsonl"
    if not path.exists():
        made = scenes_instructions(data, seed, images)
        write_whole(path, "".join(json.dumps(asdict(instruction)) + "\n" for instruction in made))
    return [Instruction(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _pair(pair: Preference) -> dict[str, Any]:
    return {**asdict(pair), "images": [picture.name for picture in pair.images]}


def _public(instruction: Instruction, answers: Mapping[str, str], rated: Mapping[str, Any]) -> dict[str, Any]:
    """One row as MMInstruction/VLFeedback has it: ratings are strings there, "N/A" where there is none."""
    completions = [
        {
            "model": member,
            "response": answers[member],
            "annotations": {
                aspect: {"Rating": "N/A" if rating is None else str(rating), "Rationale": rated["rationales"][member][aspect]}
                for aspect, rating in rated["ratings"][member].items()
            },
        }
        for member in rated["order"]
    ]
    return {
        "id": instruction.id,
        "prompt": instruction.prompt,
        "models": [completion["model"] for completion in completions],
        "completions": completions,
        "img_path": f"images/{instruction.image}",
    }
