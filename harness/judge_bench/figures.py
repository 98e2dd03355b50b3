"""From what was chosen to accuracies with intervals, by the official rule and beside it.

    found = figures_of(BENCHES["vl_rewardbench"], compared)
    found.accuracy[0]           # Figure(name="overall", value=65.3, low=62.5, high=68.0, pairs=1250)

Intervals resample images, within categories: pairs about one image are drawn together.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from harness.judge_bench.ask import Compared
from leaderboards.statistics.verdict import interval
from support.errors import DataError
from tasks.judges.reasons import Reason, list_reasons
from tasks.metric import Metric, mean_of, ratio_of
from tasks.pairs.multimodal_rewardbench import guesser
from tasks.pairs.protocol import FIRST, PairBench

OVERALL: Final = "overall"
MACRO: Final = "macro"
TIE: Final = 0.5
"""What a pair counts whose answers have the same reward."""

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share of pairs, in %."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    pairs: int
    """Of which it is the share."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How good a judge, or a model's reward, is."""

    accuracy: tuple[Figure, ...]
    """By the official rule: overall, the mean over categories, each category, some categories together."""
    beside: tuple[Figure, ...]
    """Of both orders; empty for a reward, which knows no order."""
    pairs: int
    lost: int
    """Pairs with a call that got no reply, or without a reward."""
    unread: int
    """Pairs that the official rule finds no verdict for."""
    ties: int
    reasons: tuple[Reason, ...]
    """Why pairs are lost, with counts; the example is a pair's id."""

    @property
    def share_lost(self) -> float:
        """Share of the pairs without a score of their own."""
        return (self.lost + self.unread) / max(1, self.pairs)


def figures_of(bench: PairBench, compared: Sequence[Compared]) -> Figures:
    """The accuracies; DataError where there is no pair."""
    if not compared:
        raise DataError(f"{bench.name}: there are no pairs")
    coin = guesser()
    records, unread = [], 0
    for one in compared:
        if one.reason:
            continue
        record, read = _score(bench, one, coin)
        records.append(record)
        unread += not read
    counted = [record for record in records if record["counted"]]
    names = [name for name in bench.categories if any(record["category"] == name for record in records)]
    names += sorted({record["category"] for record in records} - {*names})
    macro = [_figure(MACRO, records, _macro(names), len(counted))] if bench.macro else []
    parts = [
        _figure(name, own, _ACCURACY, sum(record["counted"] for record in own))
        for name, members in {**{name: (name,) for name in names}, **bench.groups}.items()
        if (own := [record for record in records if record["category"] in members])
    ]
    lost = [(one.id, one.reason) for one in compared if one.reason]
    return Figures(
        accuracy=(_figure(OVERALL, records, _ACCURACY, len(counted)), *macro, *parts),
        beside=tuple(_both_orders(compared)),
        pairs=len(compared),
        lost=len(lost),
        unread=unread,
        ties=sum(record["correct"] == TIE for record in counted),
        reasons=tuple(list_reasons(lost)),
    )


def _score(bench: PairBench, one: Compared, coin: Any) -> tuple[Record, bool]:
    """A pair's record by the official rule, and whether that found a verdict."""
    record: Record = {"image": one.image, "category": one.category, "counted": True}
    if one.rewards:
        margin = reward_margin(one)
        return {**record, "correct": TIE if margin == 0 else float(margin > 0)}, True
    verdicts = Counter(
        None if call.picked is None else call.picked == call.chosen_at for call in one.calls if call.official
    )
    majority = next((verdict for verdict, count in verdicts.items() if count > verdicts.total() / 2), None)
    if majority is None and bench.guesses:
        chosen_at = next(call.chosen_at for call in one.calls if call.official)
        return {**record, "correct": float((FIRST if coin.random() < 0.5 else 1 - FIRST) == chosen_at)}, False
    return {**record, "correct": float(majority or False), "counted": majority is not None}, majority is not None


def reward_margin(one: Compared) -> float:
    """The implicit reward of the chosen answer minus that of the rejected one, in units of beta."""
    found = one.rewards
    return (found["policy_chosen"] - found["reference_chosen"]) - (
        found["policy_rejected"] - found["reference_rejected"]
    )


_ACCURACY: Final = ratio_of("correct", "counted", 100)


def _macro(names: Sequence[str]) -> Metric:
    """The mean of the categories' accuracies."""
    return Metric(
        counts=lambda records: [
            sum(record[what] for record in records if record["category"] == name)
            for what in ("correct", "counted")
            for name in names
        ],
        value=lambda sums: 100 * np.mean(sums[..., : len(names)] / sums[..., len(names) :], axis=-1),
    )


def _figure(name: str, records: Sequence[Record], metric: Metric, pairs: int) -> Figure:
    value = metric(records) if pairs else float("nan")
    low, high = interval(records, metric) if pairs else (None, None)
    return Figure(name=name, value=value if np.isfinite(value) else None, low=low, high=high, pairs=pairs)


def _both_orders(compared: Sequence[Compared]) -> list[Figure]:
    """What the pairs say that were read in both orders of the first asking."""
    records: list[Record] = []
    for one in compared:
        both = [call for call in one.calls if call.repeat == 0]
        if len(both) != 2 or any(call.concluded is None for call in both):
            continue
        right = [call.concluded == call.chosen_at for call in both]
        records.append(
            {
                "image": one.image,
                "category": one.category,
                "either": sum(right) / 2,
                "both": float(all(right)),
                "follows": float(both[0].concluded == both[1].concluded),
                "first": float(all(call.concluded == FIRST for call in both)),
            }
        )
    if not any(one.calls for one in compared):
        return []
    make = partial(_figure, records=records, pairs=len(records))
    return [make(name, metric=mean_of(key, 100)) for key, name in BESIDE.items()]


BESIDE: Final = {
    "either": "mean of both orders",
    "both": "right in both orders",
    "follows": "verdict follows the position",
    "first": "verdict is the first answer both times",
}
"""Key of a record -> what is shown."""
