"""Rows that can't be trained on, losses that are no number, and the weight of each pair in its step."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.runs.training_alarms import find_idle_training
from support.errors import TrainingError
from tests.trainers.training_runs import captions, job_of, logged
from trainers.data.rows import Preference
from trainers.training.checked_trainer import CheckedTrainer
from trainers.training.checkpoints import NOTE, find_checkpoints, read_note
from trainers.training.job import trainer
from trainers.training.left_out import LEFT_OUT
from trainers.training.step_weights import BatchWeight, weigh_batches


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    return captions(tmp_path_factory.mktemp("images"), 24, "test-preference")


@pytest.mark.parametrize(("arm", "plain", "weight"), (("dpo", False, 2.0), ("dpo", True, 0.0), ("sft", False, 0.0)))
def test_a_last_step_of_fewer_pairs_is_shared_out_without_repeating_any(
    arm: str, plain: bool, weight: float, preferences: list[Preference], tmp_path: Path
) -> None:
    """Five pairs in the second of two steps of eight: 2 + 2 + 1 + 0, where one batch has all five at once."""
    settings: dict[str, Any] = {
        "sft_weight": weight,
        "checkpoints": 1,
        "log_steps": 1,
        "batch_size": 8,
        "plain_trl": plain,
    }
    trainer(arm)(job_of(preferences[:13], tmp_path / "whole", **settings))
    trainer(arm)(job_of(preferences[:13], tmp_path / "parts", per_device_batch_size=2, **settings))
    for name in ("loss", "grad_norm", "num_tokens", *(("rewards/margins", "logps/chosen") if arm == "dpo" else ())):
        whole, parts = logged(tmp_path / "whole", name), logged(tmp_path / "parts", name)
        assert len(whole) == 2
        assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_what_a_batch_weighs_in_its_step() -> None:
    """Two processes of two batches of two: seven pairs, whose chosen answers have 10 tokens, but for the first pair's,
    which has 40."""
    first, second = (weigh_batches([[(2, 50), (2, 20)], [(2, 20), (1, 10)]], 8, process) for process in (0, 1))
    assert [one.pairs for one in (*first, *second)] == pytest.approx([8 / 7, 8 / 7, 8 / 7, 4 / 7])
    assert [one.tokens for one in (*first, *second)] == pytest.approx([2.0, 0.8, 0.8, 0.4])
    assert [one.concurrent for one in first] == [one.concurrent for one in second] == pytest.approx([8 / 7, 6 / 7])
    assert all(one.incomplete for one in (*first, *second))
    whole = weigh_batches([[(2, 20)], [(2, 20)]], 4, 0)
    assert whole == [BatchWeight(pairs=1.0, tokens=1.0, incomplete=False, concurrent=1.0)]
    alone = weigh_batches([[(1, 10), (0, 0)], [(0, 0), (0, 0)]], 8, 0)
    assert [(one.pairs, one.tokens, one.concurrent) for one in alone] == [(4.0, 4.0, 1.0), (0.0, 0.0, 0.0)]


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_a_loss_that_is_no_number_ends_the_run_with_its_batch_kept(
    arm: str, preferences: list[Preference], tmp_path: Path
) -> None:
    doomed = job_of(preferences, tmp_path, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step 2; its batch is in .*not-a-number"):
        trainer(arm)(doomed)
    [folder] = (tmp_path / "not-a-number").iterdir()
    told = json.loads((folder / "pairs.json").read_text())
    assert told["loss"] == "nan"
    assert len(told["pairs"]) == 4
    assert {pair["chosen"] for pair in told["pairs"]} <= {pair.chosen for pair in preferences}
    assert "pixel_values" in load_file(folder / "batch.safetensors")
    assert find_checkpoints(tmp_path, arm) == []


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_training_that_changes_nothing_is_noted(arm: str, preferences: list[Preference], tmp_path: Path) -> None:
    *_, last = trainer(arm)(job_of(preferences, tmp_path, learning_rate=1e-60, warmup_steps=0))
    assert read_note(last.path)["unchanged"] is True
    alarm = find_idle_training(tmp_path)
    assert alarm is not None
    assert alarm.words.startswith(f"no weight has changed in {last.step} steps")


@pytest.mark.parametrize("arm", ("dpo", "sft"))
@pytest.mark.parametrize("side", ("prompt", "chosen"))
def test_a_text_that_holds_what_stands_for_a_picture_is_named(
    arm: str, side: str, preferences: list[Preference], tmp_path: Path
) -> None:
    text = "an <image> of a ring"
    held = replace(preferences[1], prompt=text) if side == "prompt" else replace(preferences[1], chosen=text)
    pairs = [preferences[0], held]
    with pytest.raises(TrainingError, match=rf"1 of 2 pairs have '<image>' written .*: {pairs[1].id!r}; ") as raised:
        trainer(arm)(job_of(pairs, tmp_path, warmup_steps=0))
    assert "\n" not in str(raised.value)


def batches_of(
    arm: str, preferences: list[Preference], out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> list[list[str]]:
    """The ids of each batch trained on."""
    seen: list[list[str]] = []
    compute = CheckedTrainer.compute_loss

    def noted(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["ids"])
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CheckedTrainer, "compute_loss", noted)
    trainer(arm)(job_of(preferences, out, checkpoints=1, **changes))
    return seen


@pytest.mark.parametrize(("arm", "plain"), (("dpo", False), ("dpo", True), ("sft", False)))
def test_batches_hold_pairs_of_like_length_where_the_recipe_wants_it(
    arm: str, plain: bool, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [replace(pair, prompt="describe the image. " * (1 + index % 3)) for index, pair in enumerate(preferences)]
    length = {pair.id: len(pair.prompt + pair.chosen + pair.rejected) for pair in pairs}

    def spread(out: str, **changes: Any) -> float:
        seen = batches_of(arm, pairs, tmp_path / out, monkeypatch, plain_trl=plain, **changes)
        assert sorted(id for batch in seen for id in batch) == sorted(length)
        spans = [max(length[id] for id in batch) - min(length[id] for id in batch) for batch in seen]
        return sum(spans) / len(spans)

    assert spread("grouped", group_by_length=True) < spread("random") / 2


@pytest.fixture
def too_long(preferences: list[Preference]) -> list[Preference]:
    """The third and the fifth have prompts that 60 tokens do not hold with the image."""
    return [
        replace(pair, prompt="describe the image in detail. " * 8) if place in (2, 4) else pair
        for place, pair in enumerate(preferences[:12])
    ]


@pytest.mark.parametrize(("arm", "plain"), (("dpo", False), ("dpo", True), ("sft", False)))
def test_pairs_that_would_lose_their_answer_are_named_or_left_out(
    arm: str, plain: bool, too_long: list[Preference], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"max_length": 80, "checkpoints": 1, "plain_trl": plain, "warmup_steps": 0}
    with pytest.raises(TrainingError, match="fill max_length = 80 in 2 pairs") as raised:
        trainer(arm)(job_of(too_long, tmp_path / "refused", **settings))
    assert repr(too_long[2].id) in str(raised.value)
    assert "too_long = 'drop'" in str(raised.value)
    dropping = job_of(too_long, tmp_path / "dropped", too_long="drop", **settings)
    with caplog.at_level("INFO", "trainers.training"):
        [last] = trainer(arm)(dropping)
    assert last.step == 3  # ten pairs, four a step
    assert json.loads((last.path / NOTE).read_text())["left out"] == 2
    assert json.loads((tmp_path / "dropped" / LEFT_OUT).read_text())["ids"] == sorted(
        too_long[place].id for place in (2, 4)
    )
    assert [record.getMessage()[:18] for record in caplog.records] == ["left out: 2 pairs "]
    assert trainer(arm)(dropping) == [last]
