"""What every interval, p-value and mark says, in a sentence: one text for all views.

    INTERVAL                          # beside scores
    p_of(OF_BOARD)                    # beside p-values and marks, with the family that p is adjusted over
    in_json(OF_BOARD)                 # {"interval": ..., "p": ...}, beside the numbers of a JSON output

Plain text without markup: HTML escapes it as all else, markdown takes it as it is. docs/statistics.md has the reasons.
"""

from collections.abc import Iterable
from typing import Final, Literal

Unit = Literal["image", "seed", "both"]
"""What the tests of a view are over: images, seeds and images, or some over one and some over the other."""

OF_BOARD: Final = "the headline metrics of all models on the board, and over all other metrics by themselves"
OF_PAIR: Final = "the headline metrics of these two models, and over their other metrics by themselves"
OF_TABLE: Final = "all tests of this table"
OF_GATE: Final = (
    "all metrics that can fail this check, over its other metrics by themselves, and over all its guards by themselves"
)

INTERVAL: Final = (
    "In brackets: the 95% interval of a score over images (binomial, of the effective sample size), not adjusted."
)
DIFFERENCE: Final = "In brackets: the 95% interval of a difference over the same images (paired), not adjusted."
VISIBLE: Final = "Visible: the true difference that 80% of such comparisons would find, of this metric alone."
SEEDS: Final = (
    "Of several seeds: the mean, with an interval and a p over seeds and images; of N seeds so many better: each by "
    "its own test, not adjusted."
)
RANK: Final = "#: the ranks a model can have, since what cannot be told apart is tied."

SIGNS: Final = {
    "better": "▲ better: than the base, p at most 5%",
    "worse": "▼ worse: than the base, p at most 5%",
    "not separable": "≈ not separable: p above 5%, which does not say that both are equal",
    "not better": "△ not better: the score is better, but only as less is said; what fell is named",
}
MARKS: Final = "▲ better, ▼ worse (p at most 5%), ≈ not separable."


_TESTS: Final[dict[Unit, str]] = {
    "image": "two-sided paired permutation test by image",
    "seed": "two-sided paired t test over seeds and images (crossed)",
    "both": "two-sided paired permutation test by image, or of several seeds a t test over seeds and images (crossed)",
}


def unit_of(seeds: Iterable[bool]) -> Unit:
    """What tests are over, by whether each is of several seeds."""
    found = set(seeds)
    return "both" if len(found) > 1 else "seed" if found == {True} else "image"


def p_of(family: str, unit: Unit = "image") -> str:
    """What p is, adjusted over this family."""
    return f"p: {_TESTS[unit]}, Holm-adjusted over {family}."


def stopped_of(looks: int) -> str:
    """What a stop at one of so many planned looks does to the p-values of what was seen there."""
    return (
        "Training was stopped at a look, since a score was significantly worse there: after Holm's adjustment each p "
        f"is multiplied by the {looks} planned looks (Bonferroni), at most 1; intervals are not adjusted."
    )


def in_json(family: str, unit: Unit = "image") -> dict[str, str]:
    """Field of an output -> what it is."""
    ends = {"low": INTERVAL, "high": INTERVAL, "difference_low": DIFFERENCE, "difference_high": DIFFERENCE}
    seeds = {} if unit == "image" else {"seeds": SEEDS}
    return {**ends, "p": p_of(family, unit), "mde": VISIBLE, "outcome": "; ".join(SIGNS.values()) + ".", **seeds}
