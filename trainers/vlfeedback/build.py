"""The dataset of one run in stages: instructions, answers, ratings, pairs. Every stage continues where it stopped.

The folder holds `images/`, `instructions.jsonl`, `draw.jsonl` (who answers what), `answers/` (a file a member of the
pool), `ratings.jsonl`, `vlfeedback.jsonl` (in the schema of MMInstruction/VLFeedback) and `pairs.jsonl` (in TRL's
columns).
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support.errors import DataError
from support.files import JsonLines, atomic_write_text, file_lock
from support.images import ImageRef
from support.parsing import parse_object
from tasks.judges.protocol import Judge
from tasks.judges.reasons import Reason, list_reasons
from trainers.config.data import Data, PoolModel
from trainers.data.pair_formats import write_pairs
from trainers.data.pair_rules import PairCounts, pair_up, rule_of, settle
from trainers.data.rows import Completion, Preference, Row
from trainers.data.usable_pairs import EMPTY, EQUAL, describe_left_out, why_useless
from trainers.data.vlfeedback_format import write_rows
from trainers.vlfeedback.annotation import (
    RatingProtocol,
    annotate,
    check_pictures,
    items_of,
    ratings_as_text,
)
from trainers.vlfeedback.answers import AnswersLM, MemberCounts, decode, read_answers
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.rating_counts import RatingCounts
from trainers.vlfeedback.sampling import instructions_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuiltDataset:
    """What a run trains on."""

    instructions: list[Instruction]
    pairs: list[Preference]
    counts: PairCounts
    failed: int
    """Answers and ratings that failed this time."""
    ratings: RatingCounts
    """What became of the instructions that the judge rated."""
    members: Mapping[str, MemberCounts]
    """How far each member of the pool is, and why answers failed."""

    @property
    def reasons(self) -> list[Reason]:
        """Why answers and ratings failed, with counts; the example is a member of the pool, or an instruction."""
        answers = [(name, member.reasons) for name, member in self.members.items()]
        lost = [(name, why) for name, reasons in answers for why, count in reasons.items() for _ in range(count)]
        return list_reasons([*lost, *self.ratings.lost])

    @property
    def may_pass(self) -> bool:
        """Whether the same command may get what failed."""
        return self.ratings.may_pass or any(member.missing for member in self.members.values())


Answering = Callable[..., Mapping[str, MemberCounts]]
"""`answers.decode`, or `ray_stages.decode_by_ray`."""


def build_dataset(
    folder: Path,
    data: Data,
    seed: int,
    judge: Judge,
    load: Callable[[PoolModel], AnswersLM],
    decode: Answering = decode,
) -> BuiltDataset:
    """Build or finish the dataset in `folder`; `load` makes an LM of a member of the pool, `decode` has all of them
    answer. SettingError for a judge that can't rate answers about such pictures."""
    images = folder / "images"
    instructions = _draw_instructions(folder, data, seed, images)
    check_pictures(judge, instructions, images)
    members = decode(instructions, data, seed, folder, load=load)
    failed = sum(member.missing for member in members.values())
    for name, member in members.items():
        if member.missing:
            why = ", ".join(f"{count} x {reason}" for reason, count in member.reasons.items())
            text = "%s: %d of %d answers failed (%s); the same command asks again"
            log.info(text, name, member.missing, member.wanted, why)
    given = read_answers(folder)
    answers = {instruction.id: given.get(instruction.id, {}) for instruction in instructions}
    path = folder / "ratings.jsonl"
    with file_lock(path, wait=True):  # another process may be rating here
        rated = JsonLines(path)
        protocol = RatingProtocol(seed=seed, mode=data.mode, order=data.order)
        items = items_of(instructions, answers, images)
        ratings = annotate(items, rated, judge, protocol, total=len(instructions))
        failed += ratings.missing
    rows = list(rows_of(instructions, answers, rated.by_id, images))
    write_rows(rows, folder / "vlfeedback.jsonl")
    counts = PairCounts()
    rule, read = settle(rule_of(data), rows)
    made = list(pair_up(read, rule, counts))
    pairs = [pair for pair in made if not why_useless(pair)]
    left_out = {why: [pair.id for pair in made if why_useless(pair) == why] for why in (EMPTY, EQUAL)}
    for line in describe_left_out({why: ids for why, ids in left_out.items() if ids}):
        log.info("of %d pairs %s", len(made), line)
    write_pairs(pairs, folder / "pairs.jsonl")
    return BuiltDataset(
        instructions=instructions, pairs=pairs, counts=counts, failed=failed, ratings=ratings, members=members
    )


def rows_of(
    instructions: Iterable[Instruction],
    answers: Mapping[str, Mapping[str, str]],
    rated: Mapping[str, Mapping[str, Any]],
    images: Path,
) -> Iterator[Row]:
    """The rated instructions as rows; `answers` by instruction and member, `rated` rows of a ratings file by id.

    Completions are in the order in which the judge saw them. A rating that could not be read is "N/A".
    """
    found = (instruction for instruction in instructions if instruction.id in rated)
    for index, one in enumerate(found):
        judged, completions = rated[one.id], []
        for member in judged["order"]:
            ratings, reasons = ratings_as_text(judged["ratings"][member]), judged.get("rationales", {}).get(member, {})
            response = answers[one.id][member]
            completions.append(Completion(model=member, response=response, ratings=ratings, rationales=reasons))
        shown, done = (ImageRef(f"images/{one.image}", images / one.image),), tuple(completions)
        yield Row(index=index, id=one.id, prompt=one.prompt, images=shown, completions=done, source=one.source)


def _draw_instructions(folder: Path, data: Data, seed: int, images: Path) -> list[Instruction]:
    path = folder / "instructions.jsonl"
    if not path.exists():
        made = instructions_of(data, seed, images)
        atomic_write_text(path, "".join(json.dumps(asdict(instruction)) + "\n" for instruction in made))
    try:
        return [Instruction(**parse_object(line)) for line in path.read_bytes().splitlines()]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: no instructions: {error}") from None
