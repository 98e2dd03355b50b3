"""DPO and its control around TRL: what is trained, what is saved, what a killed run goes on from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.models.spec import find
from tasks.scenes.language import caption
from tasks.scenes.world import make_scene
from trainers import dpo, sft
from trainers.job import Job, trainer
from trainers.preference import NOTE, find_checkpoints, save_steps
from trainers.recipe import Recipe, find_recipe
from trainers.rows import Picture, Preference
from trainers.vlfeedback.instructions import write_image


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    images = tmp_path_factory.mktemp("images")
    made = []
    for index in range(24):
        scene = make_scene(f"test-preference/{index}")
        image = images / write_image(scene, images)
        right = caption(scene)
        wrong = right.replace("the background is", "a red ring. the background is")
        made.append(
            Preference(
                id=scene.id,
                prompt="describe the image in detail.",
                images=(Picture(image.name, image),),
                chosen=right,
                rejected=wrong,
                margin=1.0,
                row=index,
            )
        )
    return made


def job(preferences: list[Preference], out: Path, **changes: Any) -> Job:
    recipe = find_recipe("scenes-demo")
    assert recipe.training is not None
    lora = recipe.training.lora.model_copy(update={"r": 4, "alpha": 8})
    training = recipe.training.model_copy(update={"batch_size": 4, "checkpoints": 3, "lora": lora, **changes})
    recipe = Recipe.model_validate({**recipe.model_dump(), "training": training.model_dump()})
    return Job(
        recipe=recipe, out=out, base_name="scenes-base", base=find("scenes-base").pretrained, dtype="float32", preferences=preferences
    )


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_checkpoints_are_evenly_spaced_and_end_at_the_end() -> None:
    assert save_steps(40, 4) == [10, 20, 30, 40]
    assert save_steps(3, 5) == [1, 2, 3]
    assert save_steps(7, 1) == [7]


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_training_saves_adapters_of_the_language_model_alone(arm: str, preferences: list[Preference], tmp_path: Path) -> None:
    found = trainer(arm)(job(preferences, tmp_path))
    assert [(checkpoint.step, checkpoint.arm) for checkpoint in found] == [(2, arm), (4, arm), (6, arm)]
    weights = load_file(found[-1].path / "adapter_model.safetensors")
    assert weights
    assert all("language_model" in name for name in weights)
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert json.loads((found[-1].path / NOTE).read_text())["base"] == "scenes-base"


def test_dpo_learns_to_tell_the_answers_apart(preferences: list[Preference], tmp_path: Path) -> None:
    dpo.train(job(preferences, tmp_path, epochs=4.0, checkpoints=1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    accuracies = [line["rewards/accuracies"] for line in lines if "rewards/accuracies" in line]
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert accuracies[-1] > 0.9
    assert margins[-1] > margins[0]


def test_the_first_loss_is_ln_2_plus_the_sft_term(preferences: list[Preference], tmp_path: Path) -> None:
    """Policy and reference are the same model before the first step, so the DPO term is log 2 whatever the model."""
    without = job(preferences, tmp_path, sft_weight=0.0, epochs=0.2, checkpoints=1, learning_rate=1e-9)
    dpo.train(without)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize("module", (dpo, sft), ids=("dpo", "sft"))
def test_a_run_killed_between_checkpoints_ends_with_the_same_weights(module: Any, preferences: list[Preference], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killer(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    whole = module.train(job(preferences, tmp_path / "whole"))
    from dataclasses import replace

    cut = job(preferences, tmp_path / "cut")
    with pytest.raises(Killed):
        module.train(replace(cut, progress=killer))
    assert [checkpoint.step for checkpoint in find_checkpoints(cut.out, "x")] == [2, 4]
    (cut.out / "checkpoint-6").mkdir()  # torn: no note in it
    again = module.train(cut)
    for before, after in zip(whole, again, strict=True):
        a, b = (load_file(checkpoint.path / "adapter_model.safetensors") for checkpoint in (before, after))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_trained_again(preferences: list[Preference], tmp_path: Path) -> None:
    done = dpo.train(job(preferences, tmp_path, checkpoints=1))
    written = (done[0].path / "adapter_model.safetensors").stat().st_mtime_ns
    assert dpo.train(job(preferences, tmp_path, checkpoints=1)) == done
    assert (done[0].path / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_an_unknown_trainer_names_the_known_ones() -> None:
    with pytest.raises(LookupError, match="dpo, scenes, sft"):
        trainer("ppo")
