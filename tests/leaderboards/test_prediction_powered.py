"""Corrected scores: closed forms, and simulated judges with known errors. The 95% interval must hold the truth in 93 to
97% of the simulations, and never be wider than that of the labels alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import binom, t

from leaderboards.statistics.prediction_powered import LEAST_IMAGES, Corrected, Side, correct
from leaderboards.statistics.resampling import Array
from support.errors import RecordsError
from tasks.metric import Metric, mean_of

Mask = NDArray[np.bool_]
RATING: Final = mean_of("rating")


def one_side(human: Array, judged: Array, labelled: Mask) -> Side:
    """Of one rating an image."""
    own = [np.stack([ratings, np.ones(len(ratings))], axis=1) for ratings in (human, judged)]
    return Side(judged=own[1], judged_labelled=own[1] * labelled[:, None], human=own[0] * labelled[:, None])


def mean_case(images: int = 300, labels: int = 60, noise: float = 1.0) -> tuple[Array, Array, Mask]:
    rng = np.random.default_rng(5)
    human = rng.normal(3, 1.5, images)
    labelled = np.arange(images) < labels
    return human, human + 0.7 + rng.normal(0, noise, images), labelled


def test_a_mean_is_corrected_as_the_paper_says() -> None:
    human, judged, labelled = mean_case()
    found = correct([one_side(human, judged, labelled)], labelled, RATING)
    n, rest = 60, 240
    ours, theirs, others = human[labelled], judged[labelled], judged[~labelled]
    # Angelopoulos, Duchi and Zrnic 2023, example 6.1, where the other answers alone are averaged: the variance of the
    # judge is over both parts, each about its own mean.
    around = np.concatenate([theirs - theirs.mean(), others - others.mean()])
    power = ((ours - ours.mean()) * (theirs - theirs.mean())).mean() / (around**2).mean() / (1 + n / rest)
    paper = ours.mean() + power * (others.mean() - theirs.mean())
    assert found.weight * rest / (n + rest) == pytest.approx(power, rel=0.02)
    assert found.value == pytest.approx(paper, abs=0.005)
    error = np.sqrt(np.var(ours - power * theirs) / n + power**2 * np.var(others) / rest)
    # Wider by what the paper's error, made for many labels, leaves out: degrees of freedom, the choice of weight.
    assert 1 < (found.high - found.low) / 2 / (t.ppf(0.975, n - 1) * error) < 1.1


def test_labels_alone_give_the_textbook_interval() -> None:
    human, judged, labelled = mean_case()
    for useless in (np.full(300, 4.0), -judged):
        found = correct([one_side(human, useless, labelled)], labelled, RATING)
        reach = t.ppf(0.975, 59) * human[:60].std(ddof=1) / np.sqrt(60)
        assert found.weight == 0.0
        assert (found.value, found.low, found.high) == pytest.approx(
            (human[:60].mean(), human[:60].mean() - reach, human[:60].mean() + reach)
        )
        assert (found.low, found.high) == (found.alone_low, found.alone_high)


def test_all_answers_labelled_are_their_own_mean() -> None:
    human, judged, _ = mean_case()
    found = correct([one_side(human, judged, np.ones(300, bool))], np.ones(300, bool), RATING)
    assert found.value == pytest.approx(human.mean())
    assert found.raw == pytest.approx(judged.mean())


def test_a_judge_without_noise_is_shifted_by_its_bias() -> None:
    human, judged, labelled = mean_case(noise=0.0)
    found = correct([one_side(human, judged, labelled)], labelled, RATING)
    assert found.weight == pytest.approx(1, abs=0.02)
    assert found.value == pytest.approx(human.mean(), abs=0.01)
    assert found.raw == pytest.approx(human.mean() + 0.7)
    # Not as narrow as if all were labelled: an error among the others could have been missed by 60 labels.
    assert found.high - found.low > 2 * 1.96 * human.std() / np.sqrt(300)


def test_a_difference_is_corrected_on_pairs() -> None:
    human, judged, labelled = mean_case()
    rng = np.random.default_rng(9)
    better = human + 0.5 + rng.normal(0, 0.3, 300)
    sides = [one_side(human, judged, labelled), one_side(better, better - 0.4 + rng.normal(0, 0.3, 300), labelled)]
    found = correct(sides, labelled, RATING)
    assert found.raw == pytest.approx(-0.6, abs=0.1)  # the judge is kind to the first, and strict with the second
    assert found.low < 0.5 < found.high
    assert found.p < 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda human, labelled: labelled.__setitem__(slice(LEAST_IMAGES - 1, None), False), "about 19 images"),
        (lambda human, labelled: human.__setitem__(slice(4, None), 3.0), "other than the commonest on 4 images only"),
    ),
)
def test_too_little_for_an_interval_is_refused(change: Callable[[Array, Mask], None], message: str) -> None:
    human, judged, labelled = mean_case()
    change(human, labelled)
    with pytest.raises(RecordsError, match=message):
        correct([one_side(human, judged, labelled)], labelled, RATING)


def test_a_sum_is_no_score_that_labels_correct() -> None:
    human, judged, labelled = mean_case()
    total = Metric(counts=lambda records: [0.0], value=lambda sums: sums[..., 0])
    with pytest.raises(RecordsError, match="depends on how many images"):
        correct([one_side(human, judged, labelled)], labelled, total)


Judge = Callable[[Generator, Array], Array]
JUDGES: Final[Mapping[str, Judge]] = {
    "one point kind": lambda rng, human: human + 1 + rng.normal(0, 0.5, human.size),
    "one point strict, noisy": lambda rng, human: human - 1 + rng.normal(0, 1.5, human.size),
    "kind, on the scale": lambda rng, human: np.clip(np.rint(human + 1 + rng.normal(0, 1, human.size)), 0, 6),
    "kind to bad answers": lambda rng, human: 0.6 * human + 1 + rng.normal(0, 0.7, human.size),
    "useless": lambda rng, human: rng.integers(0, 7, human.size).astype(np.float64),
    "says 4 to all": lambda rng, human: np.full(human.size, 4.0),
    "perfect": lambda rng, human: human.copy(),
}
SKILLS: Final = (0.2, 0.4)


def rate(z: Array) -> Array:
    """People's ratings, 0-6."""
    return np.asarray(np.clip(np.rint(3 + 1.6 * z), 0, 6))


@dataclass(frozen=True)
class Design:
    """How much is labelled of how much."""

    labels: int
    images: int
    questions: int
    """The most about one image, whose answers are alike (correlation 0.5)."""
    models: int = 1
    faithful_from: int | None = None
    """Then the score is the share of ratings below it, as MMHal-Bench's hallucination rate."""

    def score(self, ratings: Array) -> Array:
        return ratings if self.faithful_from is None else np.asarray(ratings < self.faithful_from, dtype=np.float64)

    def truth(self) -> float:
        """Of all images that could be drawn: the chance of each rating by the normal distribution."""
        from scipy.stats import norm

        edges = (np.arange(7) - 2.5) / 1.6
        means = []
        for skill in SKILLS[: self.models]:
            below = norm.cdf(np.append(edges[:6], np.inf) - skill)
            means.append(float(np.diff(below, prepend=0.0) @ self.score(np.arange(7.0))))
        return means[-1] - means[0] if self.models == 2 else means[0]

    def draw(self, rng: Generator, judge: Judge) -> Corrected:
        asked = rng.integers(1, self.questions + 1, self.images)
        image = np.repeat(np.arange(self.images), asked)
        hard = rng.normal(size=self.images)[image]
        labelled = np.zeros(self.images, bool)
        labelled[rng.choice(self.images, self.labels, replace=False)] = True
        sides = []
        for skill in SKILLS[: self.models]:
            human = rate(skill + np.sqrt(0.5) * (hard + rng.normal(size=image.size)))
            counts = [
                np.stack([np.bincount(image, self.score(own), self.images), asked], axis=1)
                for own in (human, judge(rng, human))
            ]
            mask = labelled[:, None]
            sides.append(Side(judged=counts[1], judged_labelled=counts[1] * mask, human=counts[0] * mask))
        return correct(sides, labelled, RATING)


def check(design: Design, judge: str, simulations: int, least: float = 0.93, most: float = 0.97) -> None:
    rng = np.random.default_rng([design.labels, design.images, design.questions, design.models, simulations])
    truth, held, refused = design.truth(), 0, 0
    for _ in range(simulations):
        try:
            found = design.draw(rng, JUDGES[judge])
        except RecordsError:  # too few labels are other than the commonest, as may be with 50 of a rate
            refused += 1
            continue
        held += found.low <= truth <= found.high
        assert found.high - found.low <= (found.alone_high - found.alone_low) * (1 + 1e-9)
    simulations -= refused
    assert simulations > refused
    # A share outside the bounds by no more than chance: one of 1,000 such checks would fail without a reason.
    assert binom.cdf(held, simulations, least) > 0.001, f"{held} of {simulations}"
    assert binom.sf(held - 1, simulations, most) > 0.001, f"{held} of {simulations}"


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("design", (Design(50, 100, 1), Design(60, 240, 4, models=2)), ids=("score", "difference"))
def test_the_interval_holds_the_truth(design: Design, judge: str) -> None:
    check(design, judge, 300)


GRID: Final = [
    Design(labels, images, questions, models, faithful_from)
    for labels, images, questions in ((50, 100, 1), (50, 100, 3), (50, 3000, 6), (100, 400, 4), (200, 600, 1))
    for models in (1, 2)
    for faithful_from in (None, 3)
] + [Design(400, 3000, 6, models) for models in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("design", GRID, ids=str)
def test_the_interval_holds_the_truth_on_the_whole_grid(design: Design, judge: str) -> None:
    # 50 labels can't show that a judge is never wrong about 3,000 images: there the interval stays wider on purpose.
    unseen = judge == "perfect" and design.labels * 20 <= design.images
    check(design, judge, 1000, most=1.0 if unseen else 0.97)


def test_a_judge_who_is_seldom_wrong_is_not_taken_for_perfect() -> None:
    rng, held, simulations = np.random.default_rng(3), 0, 400
    for _ in range(simulations):
        human = (rng.random(3000) < 0.4).astype(np.float64)
        judged = np.where(rng.random(3000) < 0.02, 1.0, human)  # of which 50 labels often show none
        labelled = np.zeros(3000, bool)
        labelled[rng.choice(3000, 50, replace=False)] = True
        found = correct([one_side(human, judged, labelled)], labelled, RATING)
        held += found.low <= 0.4 <= found.high
    assert held / simulations > 0.93
