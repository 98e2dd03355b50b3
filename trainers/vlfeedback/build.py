"""The dataset of one run, stage by stage: instructions, answers, ratings, pairs. Every stage goes on where it was left.

The folder holds `images/`, `instructions.jsonl`, `draw.jsonl` (who answers what), `answers/` (a file a member of the
pool), `ratings.jsonl`, `vlfeedback.jsonl` (in the schema of MMInstruction/VLFeedback) and `pairs.jsonl` (in TRL's
columns).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support.files import JsonLines, atomic_write_text, file_lock
from support.images import ImageRef
from tasks.judges.protocol import Judge, use_judge
from trainers.config.data import Data, PoolModel
from trainers.data.pair_formats import write_pairs
from trainers.data.pair_rules import PairCounts, pair_up, rule_of, settle
from trainers.data.rows import Completion, Preference, Row
from trainers.data.vlfeedback_format import write_rows
from trainers.vlfeedback.annotation import annotate, items_of
from trainers.vlfeedback.answers import AnswersLM, MemberCounts, decode, read_answers
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.sampling import instructions_of

Report = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


@dataclass(frozen=True, kw_only=True)
class BuiltDataset:
    """What a run trains on."""

    instructions: list[Instruction]
    pairs: list[Preference]
    counts: PairCounts
    failed: int
    """Answers and ratings that could not be had this time; the same command asks for them again."""
    members: Mapping[str, MemberCounts]
    """How far each member of the pool is, and why answers failed."""


Answering = Callable[..., Mapping[str, MemberCounts]]
"""`answers.decode`, or what does the same elsewhere."""


def build_dataset(
    folder: Path,
    data: Data,
    seed: int,
    judge: Judge,
    load: Callable[[PoolModel], AnswersLM],
    report: Report,
    tell: Callable[[str], None] = lambda line: None,
    decode: Answering = decode,
) -> BuiltDataset:
    """Build or finish the dataset in `folder`; `load` makes an LM of a member of the pool, `decode` has all of them
    answer."""
    images = folder / "images"
    instructions = _instructions(folder, data, seed, images, report)
    wanted = len(instructions) * min(data.answers, len(data.pool))
    members = decode(instructions, data, seed, folder, load=load, done=_counter("answers", wanted, report), tell=tell)
    failed = sum(member.missing for member in members.values())
    for name, member in members.items():
        if member.missing:
            why = ", ".join(f"{count} x {reason}" for reason, count in member.reasons.items())
            tell(f"{name}: {member.missing} of {member.wanted} answers failed ({why}); the same command asks again")
    given = read_answers(folder)
    answers = {instruction.id: given.get(instruction.id, {}) for instruction in instructions}
    path = folder / "ratings.jsonl"
    with use_judge(judge), file_lock(path, wait=True):  # another process may be rating here
        rated = JsonLines(path)
        failed += annotate(
            items_of(instructions, answers, images),
            rated,
            seed=seed,
            mode=data.mode,
            order=data.order,
            done=_counter("ratings", len(instructions), report),
        )
    rows = list(rows_of(instructions, answers, rated.by_id, images))
    write_rows(rows, folder / "vlfeedback.jsonl")
    counts = PairCounts()
    pairs = list(pair_up(rows, settle(rule_of(data), lambda: rows), counts))
    write_pairs(pairs, folder / "pairs.jsonl")
    return BuiltDataset(instructions=instructions, pairs=pairs, counts=counts, failed=failed, members=members)


def rows_of(
    instructions: Iterable[Instruction],
    answers: Mapping[str, Mapping[str, str]],
    rated: Mapping[str, Mapping[str, Any]],
    images: Path,
) -> Iterator[Row]:
    """The rated instructions as rows; `answers` by instruction and member, `rated` the rows of a ratings file by
    instruction.

    Completions stand in the order the judge saw them. A rating that could not be read is "N/A", as in VLFeedback.
    """
    found = (instruction for instruction in instructions if instruction.id in rated)
    for index, instruction in enumerate(found):
        judged = rated[instruction.id]
        yield Row(
            index=index,
            id=instruction.id,
            prompt=instruction.prompt,
            images=(ImageRef(f"images/{instruction.image}", images / instruction.image),),
            completions=tuple(
                Completion(
                    model=member,
                    response=answers[instruction.id][member],
                    ratings={
                        aspect: "N/A" if points is None else str(points)
                        for aspect, points in judged["ratings"][member].items()
                    },
                    rationales=judged.get("rationales", {}).get(member, {}),
                )
                for member in judged["order"]
            ),
            source=instruction.source,
        )


def _counter(stage: str, total: int, report: Report) -> Callable[[int], None]:
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    return more


def _instructions(folder: Path, data: Data, seed: int, images: Path, report: Report) -> list[Instruction]:
    path = folder / "instructions.jsonl"
    if not path.exists():
        made = instructions_of(data, seed, images, report=report)
        atomic_write_text(path, "".join(json.dumps(asdict(instruction)) + "\n" for instruction in made))
    return [Instruction(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
