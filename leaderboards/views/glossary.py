"""What every interval, p-value and mark says, in a sentence: one text for all views.

    INTERVAL                          # beside scores
    test_of(OF_BOARD)                 # beside p-values and marks, with the family that p is adjusted over
    in_json(OF_BOARD)                 # {"interval": ..., "p": ...}, beside the numbers of a JSON output

Plain text without markup: HTML escapes it as all else, markdown takes it as it is. docs/statistics.md has the reasons.
"""

from typing import Final

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
RANK: Final = "#: the ranks a model can have, since what cannot be told apart is tied."

SIGNS: Final = {
    "better": "▲ better: than the base, p at most 5%",
    "worse": "▼ worse: than the base, p at most 5%",
    "not separable": "≈ not separable: p above 5%, which does not say that both are equal",
    "not better": "△ not better: the score is better, but only as less is said; what fell is named",
}
MARKS: Final = "▲ better, ▼ worse (p at most 5%), ≈ not separable."


def p_of(family: str) -> str:
    """What p is, adjusted over this family."""
    return f"p: two-sided paired permutation test by image, Holm-adjusted over {family}."


def in_json(family: str) -> dict[str, str]:
    """Field of an output -> what it is."""
    ends = {"low": INTERVAL, "high": INTERVAL, "difference_low": DIFFERENCE, "difference_high": DIFFERENCE}
    return {**ends, "p": p_of(family), "mde": VISIBLE, "outcome": "; ".join(SIGNS.values()) + "."}
