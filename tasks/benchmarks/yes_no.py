"""What yes/no benchmarks share: accuracy, precision, recall, F1 and the share of yes, all in %.

    accuracy([{"image": "1", "correct": True, "predicted": "yes", "truth": "yes"}])     # 100.0

How an answer is read as yes, no or other is each benchmark's own rule and stays with it. Yes is the positive class.
"other" (no rule could read the answer) is never a predicted yes: it makes no false positive, but an object it fails to
confirm is missed.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

from tasks.metric import Array, Metric, Record

YesNo = Literal["yes", "no"]
YesNoOther = Literal["yes", "no", "other"]


def record(image: str, category: str, predicted: YesNoOther, truth: str) -> dict[str, Any]:
    """What the metrics here count of one answer."""
    return {"image": image, "category": category, "predicted": predicted, "truth": truth, "correct": predicted == truth}


COUNTS: Final = 5
"""How many numbers `counts` gives."""


def counts(records: Sequence[Record]) -> tuple[int, ...]:
    """Answers, correct ones, true positives, predicted yes, true yes."""
    return (
        len(records),
        sum(bool(r["correct"]) for r in records),
        sum(r["predicted"] == "yes" and r["truth"] == "yes" for r in records),
        sum(r["predicted"] == "yes" for r in records),
        sum(r["truth"] == "yes" for r in records),
    )


def accuracy_of(sums: Array) -> Array:
    """% of answers that are correct; "other" is not."""
    return 100 * sums[..., 1] / sums[..., 0]


def precision_of(sums: Array) -> Array:
    """% of predicted yes that are true."""
    return 100 * sums[..., 2] / sums[..., 3]


def recall_of(sums: Array) -> Array:
    """% of true yes that were predicted."""
    return 100 * sums[..., 2] / sums[..., 4]


def f1_of(sums: Array) -> Array:
    """Harmonic mean of precision and recall: 2 TP / (predicted yes + true yes), which also stands where one of them has
    no denominator."""
    return 100 * 2 * sums[..., 2] / (sums[..., 3] + sums[..., 4])


def yes_rate_of(sums: Array) -> Array:
    """% of answers that say yes: far from the share of true yes, the model leans to one answer."""
    return 100 * sums[..., 3] / sums[..., 0]


accuracy = Metric(counts=counts, value=accuracy_of)
precision = Metric(counts=counts, value=precision_of)
recall = Metric(counts=counts, value=recall_of)
f1 = Metric(counts=counts, value=f1_of)
yes_rate = Metric(counts=counts, value=yes_rate_of)
