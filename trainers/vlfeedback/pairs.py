"""Preference pairs from rated answers, as pure functions.

VLFeedback's own rule: the score of an answer is the mean of its aspects' ratings, every two answers of unequal score are a pair, ties are
dropped, an answer without all its ratings is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from trainers.recipe import Data
from trainers.rows import Picture, Preference
from trainers.vlfeedback.instructions import Instruction

Ratings = Mapping[str, int | None]
"""Aspect -> 1-5, None where the judge's reply held none."""


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """What became of the rated answers."""

    rows: int
    pairs: int
    ties: int
    unrated: int
    """Answers left out for a missing rating."""
    refused: int
    """Unequal pairs that the recipe's rule does not take."""
    balanced_away: int
    """Yes/no pairs dropped so that yes and no are chosen equally often."""


def mean_rating(ratings: Ratings) -> float | None:
    """The mean over aspects; None where one is missing. Integer sums, so that ties are exact."""
    values = list(ratings.values())
    if not values or any(value is None for value in values):
        return None
    return sum(value for value in values if value is not None) / len(values)


def dominates(better: Ratings, worse: Ratings) -> bool:
    """Whether no aspect of `better` is rated below `worse`: such a pair does not teach one aspect at another's cost."""
    return all((better[aspect] or 0) >= (worse[aspect] or 0) for aspect in better)


def candidates(ratings: Mapping[str, Ratings]) -> Iterator[tuple[str, str, float]]:
    """(chosen, rejected, margin in points) by the authors' rule, over all answers of one instruction that have every rating."""
    scores = {member: score for member, rated in ratings.items() if (score := mean_rating(rated)) is not None}
    for a, b in combinations(scores, 2):
        if scores[a] != scores[b]:
            chosen, rejected = (a, b) if scores[a] > scores[b] else (b, a)
            yield chosen, rejected, scores[chosen] - scores[rejected]


def build(
    instructions: Sequence[Instruction],
    answers: Mapping[str, Mapping[str, str]],
    rated: Mapping[str, Mapping[str, Ratings]],
    images: Path,
    data: Data,
) -> tuple[list[Preference], PairCounts]:
    """The recipe's pairs, in the order of the instructions, and what was left out."""
    pairs: list[tuple[Instruction, Preference]] = []
    rated_rows = ties = unrated = refused = 0
    for row, instruction in enumerate(instructions):
        ratings = rated.get(instruction.id, {})
        if not ratings:
            continue
        rated_rows += 1
        texts = answers[instruction.id]
        complete = [member for member in ratings if mean_rating(ratings[member]) is not None]
        unrated += len(ratings) - len(complete)
        found = list(candidates(ratings))
        ties += len(complete) * (len(complete) - 1) // 2 - len(found)
        taken: list[Preference] = []
        seen: set[tuple[str, str]] = set()
        for chosen, rejected, margin in sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1])):
            wanted = (
                (data.rule == "authors" or dominates(ratings[chosen], ratings[rejected]))
                and (mean_rating(ratings[chosen]) or 0) >= data.min_chosen
                and (texts[chosen], texts[rejected]) not in seen
                and (data.per_instruction is None or len(taken) < data.per_instruction)
            )
            if not wanted:
                refused += 1
                continue
            seen.add((texts[chosen], texts[rejected]))
            taken.append(
                Preference(
                    id=f"{instruction.id}|{chosen}|{rejected}",
                    prompt=instruction.prompt,
                    images=(Picture(f"images/{instruction.image}", images / instruction.image),),
                    chosen=texts[chosen],
                    rejected=texts[rejected],
                    margin=margin,
                    row=row,
                    row_id=instruction.id,
                    chosen_model=chosen,
                    rejected_model=rejected,
                    chosen_ratings={aspect: str(rating) for aspect, rating in ratings[chosen].items()},
                    rejected_ratings={aspect: str(rating) for aspect, rating in ratings[rejected].items()},
                )
            )
        pairs += [(instruction, pair) for pair in taken]
    kept = _balanced(pairs) if data.balance_yes_no else pairs
    counts = PairCounts(rows=rated_rows, pairs=len(kept), ties=ties, unrated=unrated, refused=refused, balanced_away=len(pairs) - len(kept))
    return [pair for _, pair in kept], counts


def _balanced(pairs: Sequence[tuple[Instruction, Preference]]) -> list[tuple[Instruction, Preference]]:
    """Drop the last of the more frequent choice among yes/no pairs until "yes" and "no" are chosen equally often."""
    chosen = {answer: [pair for kind, pair in pairs if kind.kind == "yes/no" and pair.chosen == answer] for answer in ("yes", "no")}
    keep = min(len(found) for found in chosen.values())
    dropped = {pair.id for found in chosen.values() for pair in found[keep:]}
    return [(instruction, pair) for instruction, pair in pairs if pair.id not in dropped]
