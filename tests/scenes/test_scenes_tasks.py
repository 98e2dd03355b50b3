"""The four tasks ask what they say they ask."""

from collections import Counter
from itertools import islice

import pytest

from tasks.answer import FailedAnswer
from tasks.registry import registry
from tasks.scenes import scenes_chair, scenes_mme, scenes_mmhal, scenes_pope
from tasks.scenes.judge import answer_to
from tasks.scenes.language import OPEN, YES_NO, caption
from tasks.scenes.world import COMPANIONS, image_of, images, make_scene, scenes


@pytest.mark.parametrize("module", (scenes_mme, scenes_pope), ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_yes_and_no_are_equally_often_right_and_true(module: object) -> None:
    rows = module.questions("test")  # type: ignore[attr-defined]
    assert len({row["id"] for row in rows}) == len(rows)
    assert len(set(Counter(row["answer"] for row in rows).values())) == 1
    for row in rows:
        assert answer_to(row["question"], make_scene(row["scene"])) == row["answer"]


def test_mme_pairs_two_questions_an_image() -> None:
    rows = scenes_mme.questions("test")
    assert Counter(row["category"] for row in rows) == dict.fromkeys(YES_NO, 2 * scenes_mme.IMAGES)
    for yes, no in zip(rows[::2], rows[1::2], strict=True):
        assert (yes["scene"], yes["answer"], no["scene"], no["answer"]) == (no["scene"], "yes", yes["scene"], "no")


def test_always_yes_scores_as_always_yes_does() -> None:
    records = [scenes_mme.process_results(row, ["yes"])["accuracy"] for row in scenes_mme.questions("test")]
    assert scenes_mme.accuracy(records) == 50
    assert scenes_mme.perception(records) == 300  # in each of six categories accuracy 50 and accuracy+ 0
    assert scenes_mme.yes_rate(records) == 100


def test_a_perfect_model_is_perfect() -> None:
    records = [scenes_mme.process_results(row, [row["answer"]])["accuracy"] for row in scenes_mme.questions("test")]
    assert scenes_mme.perception(records) == 1200
    assert scenes_mme.cognition(records) == 400
    probes = [scenes_pope.process_results(row, [row["answer"]])["f1"] for row in scenes_pope.questions("test")]
    assert scenes_pope.f1(probes) == 100


def test_adversarial_probes_ask_for_what_usually_stands_there() -> None:
    rows = scenes_pope.questions("test")
    expected = 0
    for row in (row for row in rows if row["category"] == "adversarial" and row["answer"] == "no"):
        missing = make_scene(row["scene"]).missing_companion
        expected += missing is not None and " ".join(missing) in row["question"]
    anchored = [scene for scene in islice(scenes("test/pope"), scenes_pope.IMAGES) if scene.missing_companion]
    assert expected == len(anchored) > 5


def test_the_planted_metric_counts_only_claims_of_missing_companions() -> None:
    rows = scenes_chair.load()["test"]
    anchored = next(row for row in rows if row["missing"])
    plain = next(row for row in rows if not row["missing"])
    claim = scenes_chair.process_results(anchored, [f"the image shows a small {anchored['missing']} at the top-left."])
    honest = scenes_chair.process_results(anchored, [caption(make_scene(anchored["scene"]))])
    other = scenes_chair.process_results(plain, [f"a {' '.join(next(iter(COMPANIONS.values())))}."])
    records = [result["planted"] for result in (claim, honest, other)]
    assert scenes_chair.planted(records) == 50
    assert scenes_chair.chair_s(records[:2]) == 50


def test_mmhal_interleaves_the_eight_types() -> None:
    rows = scenes_mmhal.questions("test")
    assert [row["type"] for row in rows] == list(OPEN) * scenes_mmhal.QUESTIONS


def test_an_unrated_answer_is_unscored_not_zero() -> None:
    doc = scenes_mmhal.questions("test")[0]
    assert scenes_mmhal.process_results(doc, [{"rating": None, "text": ""}]) == {}


def test_a_failed_answer_is_empty_text_that_says_why() -> None:
    answer = FailedAnswer("image can't be read")
    assert answer == ""
    assert answer.error == "image can't be read"


def test_the_registry_knows_the_suite() -> None:
    tasks = registry().expand(["scenes"])
    assert [task.name for task in tasks] == ["scenes_chair", "scenes_pope", "scenes_mme", "scenes_mmhal"]
    for task in tasks:
        for metric in task.metrics:
            registry().metric(task.name, metric)


def test_docs_hold_no_pictures() -> None:
    assert all(isinstance(value, (str, list)) for value in scenes_chair.load()["test"][0].values())
    assert images(scenes_chair.load()["test"][0])[0] is image_of("test/chair/0")
