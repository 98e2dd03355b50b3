"""DPO and its control around TRL: batches, steps, checkpoints, and what a killed run is continued from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.errors import TrainingError
from tests.trainers.training_runs import captions, have_same_weights, job_of, killed_at, logged
from trainers.config.training import Training
from trainers.data.rows import Preference
from trainers.training import dpo, sft
from trainers.training.checkpoints import NOTE, STOPPED, Checkpoint, find_checkpoints, saved_at
from trainers.training.job import trainer
from trainers.training.trl_arguments import split_batch


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    return captions(tmp_path_factory.mktemp("images"), 24, "test-preference")


def training(**changes: Any) -> Training:
    return Training.model_validate({"learning_rate": 1e-3, "batch_size": 256, **changes})


def test_checkpoints_are_evenly_spaced_and_end_at_the_end() -> None:
    assert saved_at(40, training(checkpoints=4)) == [10, 20, 30, 40]
    assert saved_at(3, training(checkpoints=5)) == [1, 2, 3]
    assert saved_at(7, training(checkpoints=1)) == [7]


def test_dpo_learns_to_tell_the_answers_apart(preferences: list[Preference], tmp_path: Path) -> None:
    dpo.train(job_of(preferences, tmp_path, epochs=4.0, checkpoints=1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    accuracies = [line["rewards/accuracies"] for line in lines if "rewards/accuracies" in line]
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert accuracies[-1] > 0.9
    assert margins[-1] > margins[0]


def test_the_first_loss_is_ln_2_plus_the_sft_term(preferences: list[Preference], tmp_path: Path) -> None:
    """Policy and reference are the same model before the first step, so the DPO term is log 2 whatever the model."""
    without = job_of(preferences, tmp_path, sft_weight=0.0, epochs=0.2, checkpoints=1, learning_rate=1e-9)
    dpo.train(without)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(
    ("module", "grouped"), ((dpo, False), (sft, False), (sft, True)), ids=("dpo", "sft", "sft by length")
)
def test_a_run_killed_between_checkpoints_ends_with_the_same_weights(
    module: Any, grouped: bool, preferences: list[Preference], tmp_path: Path
) -> None:
    whole = module.train(job_of(preferences, tmp_path / "whole", group_by_length=grouped))
    cut = job_of(preferences, tmp_path / "cut", group_by_length=grouped)
    with killed_at(5):
        module.train(cut)
    assert [checkpoint.step for checkpoint in find_checkpoints(cut.out, "x")] == [2, 4]
    (cut.out / "checkpoint-6").mkdir()  # torn: no note in it
    again = module.train(cut)
    assert all(map(have_same_weights, whole, again))


@pytest.mark.slow
def test_noise_goes_on_where_a_killed_run_was(preferences: list[Preference], tmp_path: Path) -> None:
    """Killed within the second epoch, whose noise is not the first one's."""

    settings: dict[str, Any] = {
        "loss": "povid-code",
        "sft_weight": 0.0,
        "epochs": 2.0,
        "save_steps": 5,
        "warmup_steps": 0,
    }
    whole = dpo.train(job_of(preferences[:16], tmp_path / "whole", **settings))
    cut = job_of(preferences[:16], tmp_path / "cut", **settings)
    with killed_at(6):
        dpo.train(cut)
    again = dpo.train(cut)
    assert [checkpoint.step for checkpoint in again] == [5, 8]
    assert have_same_weights(whole[-1], again[-1])


@pytest.mark.parametrize("grouped", ("group_pairs", "group_by_length"))
def test_an_order_that_hangs_on_the_processes_is_gone_on_with_by_as_many(
    grouped: str, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 2.0, grouped: True}
    cut = job_of(preferences[:12], tmp_path, **settings)
    with killed_at(3):
        dpo.train(cut)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=f"on 1 processes, and this would be 2: {grouped} orders"):
        dpo.train(cut)
    monkeypatch.delenv("WORLD_SIZE")
    assert [checkpoint.step for checkpoint in dpo.train(cut)] == [2, 4, 6]


def test_a_finished_run_is_not_trained_again(preferences: list[Preference], tmp_path: Path) -> None:
    done = dpo.train(job_of(preferences, tmp_path, checkpoints=1))
    written = (done[0].path / "adapter_model.safetensors").stat().st_mtime_ns
    assert dpo.train(job_of(preferences, tmp_path, checkpoints=1)) == done
    assert (done[0].path / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_a_step_has_as_many_pairs_on_any_number_of_processes() -> None:
    authors = training(per_device_batch_size=2)
    for count in (1, 2, 8, 16, 128):
        at_once, accumulated = split_batch(authors, count)
        assert (at_once, at_once * accumulated * count) == (2, 256)
    assert split_batch(authors, 16) == (2, 8)  # as their launcher had it
    assert split_batch(training(), 4) == (64, 1)


@pytest.mark.parametrize(
    ("changes", "count", "said"),
    (
        ({}, 3, "batch_size = 256 can't be shared by 3 processes; possible: 1, 2, 4, 8"),
        (
            {"per_device_batch_size": 3},
            8,
            "is 32 pairs each, which per_device_batch_size = 3 does not divide; possible: 1, 2, 4, 8, 16, 32",
        ),
    ),
)
def test_a_batch_that_cannot_be_shared_names_what_can(changes: dict[str, Any], count: int, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        split_batch(training(**changes), count)


def test_saves_come_every_so_many_steps_and_at_the_end() -> None:
    assert saved_at(250, training(save_steps=100)) == [100, 200, 250]
    assert saved_at(200, training(save_steps=100)) == [100, 200]


def test_accumulated_batches_train_as_whole_ones(preferences: list[Preference], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sft_weight": 0.0, "checkpoints": 1, "log_steps": 1}
    dpo.train(job_of(preferences[:12], tmp_path / "whole", **settings))
    dpo.train(job_of(preferences[:12], tmp_path / "parts", per_device_batch_size=2, **settings))
    assert len(logged(tmp_path / "whole", "loss")) == 3
    assert logged(tmp_path / "parts", "loss") == pytest.approx(logged(tmp_path / "whole", "loss"), rel=1e-3)


def test_packed_and_plain_training_log_the_same(preferences: list[Preference], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"checkpoints": 1, "log_steps": 1}
    dpo.train(job_of(preferences[:12], tmp_path / "packed", **settings))
    dpo.train(job_of(preferences[:12], tmp_path / "plain", plain_trl=True, **settings))
    assert (tmp_path / "packed" / "reference").exists()
    assert not (tmp_path / "plain" / "reference").exists()
    for name in ("loss", "rewards/margins"):
        assert logged(tmp_path / "packed", name) == pytest.approx(logged(tmp_path / "plain", name), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    (
        pytest.param({"loss": "cdpo", "smoothing": 0.1}, id="cdpo"),
        pytest.param({"loss": "ipo"}, id="ipo", marks=pytest.mark.slow),
        pytest.param({"loss": "mpo", "sft_weight": 0.0}, id="mpo", marks=pytest.mark.slow),
        pytest.param({"loss": "povid-code", "sft_weight": 0.0}, id="povid-code"),
        pytest.param(
            {"loss": "povid-paper", "sft_weight": 0.0, "noise": {"place": "after"}},
            id="povid-paper",
            marks=pytest.mark.slow,
        ),
        pytest.param({"precision": "bf16", "gradient_checkpointing": True}, id="bf16", marks=pytest.mark.slow),
        pytest.param(
            {"weight_decay": 0.05, "adam_beta2": 0.98, "warmup_steps": 0, "warmup_ratio": 0.5}, id="optimizer"
        ),
        pytest.param({"group_pairs": True, "workers": 1}, id="grouped", marks=pytest.mark.slow),
    ),
)
def test_every_setting_trains(changes: dict[str, Any], preferences: list[Preference], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2.0, "checkpoints": 1, "log_steps": 1, **changes}
    [last] = dpo.train(job_of(preferences[:8], tmp_path, **settings))
    assert last.step == 4
    assert logged(tmp_path, "rewards/margins")[-1] > logged(tmp_path, "rewards/margins")[0] - 1e-6
    assert logged(tmp_path, "rewards/margins")[-1] != 0


def test_pairs_held_out_are_scored_and_not_trained_on(preferences: list[Preference], tmp_path: Path) -> None:
    whole = replace(job_of(preferences[:16], tmp_path, eval_steps=2, checkpoints=1), held_out=preferences[16:])
    [last] = dpo.train(whole)
    assert last.step == 4
    assert len(logged(tmp_path, "eval_rewards/margins")) == 2


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_pairs_held_out_are_scored_where_training_is_grouped_by_length(
    arm: str, preferences: list[Preference], tmp_path: Path
) -> None:
    whole = job_of(preferences[:16], tmp_path, eval_steps=2, checkpoints=1, group_by_length=True)
    trainer(arm)(replace(whole, held_out=preferences[16:]))
    assert len(logged(tmp_path, "eval_loss")) == 2


def test_no_checkpoint_is_made_of_weights_that_are_no_numbers(
    preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boundless(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.nan)
        return torch.tensor(1.0)

    monkeypatch.setattr(
        "accelerate.Accelerator.clip_grad_norm_", lambda self, parameters, *_: boundless(self._models[0])
    )
    with pytest.raises(FloatingPointError, match="step 1 left weights that are no numbers"):
        dpo.train(job_of(preferences, tmp_path, save_steps=1, checkpoints=1, warmup_steps=0))
    assert find_checkpoints(tmp_path, "dpo") == []


def test_only_the_last_checkpoints_stay(preferences: list[Preference], tmp_path: Path) -> None:
    keeping = job_of(preferences[:16], tmp_path, save_steps=1, keep=2)
    found = dpo.train(keeping)
    assert [checkpoint.step for checkpoint in found] == [3, 4]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert dpo.train(keeping) == found


def test_who_hears_of_a_checkpoint_can_end_the_run_for_good(preferences: list[Preference], tmp_path: Path) -> None:
    heard: list[Checkpoint] = []

    def enough(checkpoint: Checkpoint) -> bool:
        assert (checkpoint.path / NOTE).exists()
        heard.append(checkpoint)
        return checkpoint.step < 4

    ended = replace(job_of(preferences, tmp_path), saved=enough, note={"data": "abc"})
    assert dpo.train(ended) == heard
    assert [checkpoint.step for checkpoint in heard] == [2, 4]
    assert json.loads((tmp_path / STOPPED).read_text()) == {"step": 4, "steps": 6}
    assert json.loads((heard[0].path / NOTE).read_text())["data"] == "abc"
    assert dpo.train(ended) == heard


def test_an_unknown_trainer_names_the_known_ones() -> None:
    with pytest.raises(LookupError, match="dpo, scenes, sft"):
        trainer("ppo")
