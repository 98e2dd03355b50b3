import math

import pytest

from tasks.benchmarks import yes_no
from tasks.metric import Metric


def answer(predicted: str, truth: str, image: str = "1") -> dict[str, object]:
    return {"image": image, "predicted": predicted, "truth": truth, "correct": predicted == truth}


RECORDS = [
    *[answer("yes", "yes", "a")] * 3,
    answer("yes", "no", "a"),
    *[answer("no", "yes", "b")] * 2,
    *[answer("no", "no", "b")] * 3,
    answer("other", "yes", "c"),
]


@pytest.mark.parametrize(
    ("metric", "expected"),
    (
        (yes_no.accuracy, 60.0),
        (yes_no.precision, 75.0),
        (yes_no.recall, 50.0),
        (yes_no.f1, 60.0),
        (yes_no.yes_rate, 40.0),
    ),
    ids=("accuracy", "precision", "recall", "f1", "yes_rate"),
)
def test_each_score_is_in_percent_with_yes_as_the_positive_class(metric: Metric, expected: float) -> None:
    assert metric(RECORDS) == pytest.approx(expected)


def test_counts_have_the_announced_length() -> None:
    assert len(yes_no.counts(RECORDS)) == yes_no.COUNTS


def test_an_unread_answer_is_wrong_and_missed_but_no_predicted_yes() -> None:
    unread = [answer("other", "yes"), answer("other", "no")]
    assert yes_no.accuracy(unread) == 0
    assert yes_no.recall(unread) == 0
    assert yes_no.yes_rate(unread) == 0


def test_what_has_no_denominator_is_nan_and_f1_stands_without_a_predicted_yes() -> None:
    never_yes = [answer("no", "yes"), answer("no", "no")]
    assert math.isnan(yes_no.precision(never_yes))
    assert yes_no.f1(never_yes) == 0
    assert math.isnan(yes_no.f1([answer("no", "no")]))
