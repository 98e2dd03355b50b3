"""Shared and exact decoding of one task: equal where nothing is broken, and reported where something is."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.parity import Parity, exact_decoding, parity, render
from harness.models.load import load
from harness.models.spec import WEIGHTS, ModelSpec, find
from support.errors import ModelError
from tasks.registry import registry
from tasks.scenes.judge import ScenesJudge

pytestmark = pytest.mark.usefixtures("one_thread")


def found(model: Path, task: str, samples: int, change: Callable[[Any], None] | None = None, **given: Any) -> Parity:
    """`change` is applied to the loaded LM."""

    def load_changed(spec: ModelSpec, *_: Any, **__: Any) -> Any:
        lm: Any = load(spec)
        (change or id)(lm)
        return lm

    return parity(find(str(model)), registry().task(task), samples, load=change and load_changed, **given)


@pytest.mark.parametrize(("task", "samples"), (("scenes_pope", 40), ("scenes_chair", 12)))
def test_both_ways_are_equal_in_single_precision(random_model: Path, task: str, samples: int) -> None:
    both = found(random_model, task, samples)
    assert (both.samples, both.differ, both.share, both.read_differently, both.failed) == (samples, 0, 0.0, 0, (0, 0))
    assert both.examples == ()
    assert both.logits is not None
    assert both.logits_deviations is not None
    assert 0 < both.logits_deviations < 1e-3
    assert "prefix" in both.shares
    assert both.dtype == "float32"
    assert min(both.seconds_shared, both.seconds_exact) > 0
    names = [name for name in registry().task(task).metrics if "token" not in name]
    assert [score.metric for score in both.scores] == names
    assert all(score.shared == score.exact and not score.difference for score in both.scores)
    assert json.loads(json.dumps(asdict(both)))["differ"] == 0


def test_a_broken_sharing_is_caught_and_told() -> None:
    def swap_images(lm: Any) -> None:
        inputs = lm.encoder.inputs
        lm.encoder.inputs = lambda images: inputs(list(images)[::-1])  # each row sees another row's image

    broken = found(WEIGHTS / "scenes-base", "scenes_pope", 48, swap_images)
    assert broken.differ > 4
    assert broken.share == broken.differ / 48
    assert 0 < broken.read_differently <= broken.differ
    assert broken.logits_deviations is not None
    assert broken.logits_deviations > 0.1
    assert 0 < len(broken.examples) <= 5
    assert broken.examples[0].read_differently
    assert broken.examples[0].shared != broken.examples[0].exact
    accuracy = next(score for score in broken.scores if score.metric == "accuracy")
    assert accuracy.shared is not None
    assert accuracy.exact is not None
    assert accuracy.difference == accuracy.shared - accuracy.exact != 0
    said = render(broken)
    assert f"{broken.differ} ({100 * broken.share:.1f} %)" in said
    assert broken.examples[0].prompt not in said
    assert "answers that differ | shared" in " ".join(said.split())


def test_an_answer_that_was_cut_by_its_tasks_rule_is_the_same_as_what_it_begins(random_model: Path) -> None:
    both = found(random_model, "scenes_mme", 16)
    assert both.cut > 0
    assert (both.differ, both.read_differently) == (0, 0)


def test_a_cut_that_comes_too_soon_is_read_differently(random_model: Path) -> None:
    from harness.engine.jobs import Hints

    def cut_at_once(lm: Any) -> None:
        lm.hints = {"scenes_chair": Hints(decided=lambda text: True)}

    both = found(random_model, "scenes_chair", 6, cut_at_once)
    assert both.cut == 6
    assert both.differ == 0  # each is the beginning of the whole answer
    assert both.read_differently > 0
    assert len(both.examples) == min(5, both.read_differently)


def test_a_judged_tasks_answers_are_judged(random_model: Path) -> None:
    both = found(random_model, "scenes_mmhal", 6, judge=ScenesJudge())
    assert (both.differ, both.read_differently) == (0, 0)
    assert both.scores[0].metric == "score"


def test_settings_and_stored_answers_are_as_before_afterwards(random_model: Path) -> None:
    lms: list[Any] = []

    class Store:
        def get(self, key: Any) -> str:
            return "from another run"

        def put(self, key: Any, text: str) -> None:
            raise AssertionError

    def keep(lm: Any) -> None:
        lm.cache = Store()
        lms.append(lm)

    assert found(random_model, "scenes_pope", 4, keep).differ == 0
    assert isinstance(lms[0].cache, Store)
    with exact_decoding(lms[0]):
        assert not lms[0].sharing.shares_images
    assert lms[0].sharing.shares_images


def test_a_served_model_is_refused() -> None:
    with pytest.raises(ModelError, match="behind a server"):
        parity(find("openai:m"), registry().task("scenes_pope"))
