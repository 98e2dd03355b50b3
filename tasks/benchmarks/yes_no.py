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


def f1_of(sums: Array) -> Array:
    """2 TP / (predicted yes + true yes): defined even where precision or recall has no denominator."""
    return 100 * 2 * sums[..., 2] / (sums[..., 3] + sums[..., 4])


accuracy = Metric(counts=counts, value=lambda sums: 100 * sums[..., 1] / sums[..., 0])
"""% of answers that are correct; "other" is not."""
precision = Metric(counts=counts, value=lambda sums: 100 * sums[..., 2] / sums[..., 3])
"""% of predicted yes that are true."""
recall = Metric(counts=counts, value=lambda sums: 100 * sums[..., 2] / sums[..., 4])
"""% of true yes that were predicted."""
f1 = Metric(counts=counts, value=f1_of)
yes_rate = Metric(counts=counts, value=lambda sums: 100 * sums[..., 3] / sums[..., 0])
"""% of answers that say yes: if it is far from the share of true yes, the model leans to one answer."""
