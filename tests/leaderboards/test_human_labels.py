"""Which answers count as labelled: several repeats of a judge, images of which some answers have labels, two models."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from leaderboards.board.sample import JudgeRepeat, Sample
from leaderboards.comparison.human_labels import correct_logs
from support.errors import CompareError, RecordsError
from tasks.metric import Metric, mean_of

MEAN: Final = mean_of("rating")
ALL_GOOD: Final = Metric(
    counts=lambda records: (all(r["rating"] > 1 for r in records), 1.0),
    value=lambda sums: 100 * sums[..., 0] / sums[..., 1],
)
"""% of images all of whose answers are good: not a sum over answers."""
IMAGES: Final = 60
Rating = Callable[[int, int], float]
"""Of an image and a question."""


def truth(image: int, question: int) -> float:
    return float((image * 7 + question * 3) % 5 + 1)


def kind(image: int, question: int) -> float:
    return truth(image, question) + 1 + (image * question) % 3 / 2


def record(image: int, rating: float) -> dict[str, Any]:
    return {"score": {"image": str(image), "rating": rating}}


def log(*judges: Rating, picture: str = "picture") -> dict[str, Sample]:
    """Two answers about each image; each further judge is another repeat."""
    samples = {}
    for image in range(IMAGES):
        for question in range(2):
            first, *more = (record(image, judge(image, question)) for judge in judges)
            name = f"{image}/{question}"
            shared: dict[str, Any] = {"run": "r", "task": "t", "prompt": "?", "answer": "!", "reply": "said"}
            shared |= {"repeats": tuple(JudgeRepeat(records=one, reply="said") for one in more)}
            samples[name] = Sample(
                id=name, image=str(image), records=first, image_digest=f"{picture}-{image}", **shared
            )
    return samples


def labels(*questions: int, images: int = 40) -> Mapping[str, list[dict[str, Any]]]:
    return {f"{image}/{at}": [record(image, truth(image, at))] for image in range(images) for at in questions}


def test_repeats_of_a_judge_count_as_their_mean() -> None:
    once = correct_logs([log(kind)], [labels(0, 1)], "score", MEAN)
    apart = correct_logs(
        [log(lambda i, q: kind(i, q) + 0.5, lambda i, q: kind(i, q) - 0.5)], [labels(0, 1)], "score", MEAN
    )
    assert (apart.value, apart.low, apart.raw) == pytest.approx((once.value, once.low, once.raw))
    assert (once.labels, once.images) == (80, 40)


def test_some_answers_of_an_image_are_labels_of_a_mean() -> None:
    found = correct_logs([log(kind)], [labels(1)], "score", MEAN)
    assert (found.labels, found.images) == (40, 40)


def test_what_needs_all_answers_of_an_image_takes_whole_images() -> None:
    some = {**labels(0, 1, images=30), **{name: own for name, own in labels(0).items() if int(name[:-2]) >= 30}}
    found = correct_logs([log(kind)], [some], "score", ALL_GOOD)
    assert (found.labels, found.images) == (60, 30)
    with pytest.raises(RecordsError, match="no answer that the judge rated has a label"):
        correct_logs([log(kind)], [labels(0)], "score", ALL_GOOD)


def test_a_difference_takes_answers_labelled_on_both_sides() -> None:
    def better(image: int, question: int) -> float:
        return truth(image, question) + image % 3

    theirs = {f"{i}/{q}": [record(i, better(i, q))] for i in range(10, 60) for q in range(2)}
    found = correct_logs([log(kind), log(better)], [labels(0, 1), theirs], "score", MEAN)
    assert (found.images, found.labels) == (30, 60)
    assert found.raw < 0 < 0.7 < found.low  # one point better, by people


def test_a_metric_that_people_did_not_rate_is_named() -> None:
    with pytest.raises(RecordsError, match="people's ratings don't say what it counts"):
        correct_logs([log(kind)], [{"0/0": [{}]}], "score", MEAN)


def test_other_pictures_are_no_pair() -> None:
    with pytest.raises(CompareError, match="was about image"):
        correct_logs([log(kind), log(kind, picture="other")], [labels(0), labels(0)], "score", MEAN)
