"""The recipes that come along: the papers' numbers, and what a recipe may not say."""

from typing import Any, get_args

import pytest

from support.errors import RecipeError
from trainers.config.data import PreferenceFile, RuleName
from trainers.config.recipe import PreferenceRecipe, find_recipe, known_recipes, preference_recipe
from trainers.config.training import Training
from trainers.data.pair_rules import RULES, rule_of
from trainers.losses.mdpo import AREA

LORA = {"r": 4, "alpha": 8, "targets": "x"}


def test_silkie_has_its_authors_numbers() -> None:
    silkie = preference_recipe("silkie")
    training, dataset = silkie.training, silkie.dataset
    assert dataset is not None
    assert training.lora is not None
    assert (training.learning_rate, training.beta, training.epochs, training.batch_size) == (1e-5, 0.1, 3, 256)
    assert (training.weight_decay, training.adam_beta2) == (0.05, 0.98)
    assert (training.warmup_ratio, training.max_length) == (0.1, 2048)
    assert (training.lora.r, training.lora.alpha, training.lora.dropout) == (64, 16, 0.05)
    assert (dataset.read, dataset.rule, dataset.test_share, dataset.split_seed) == ("public", "authors", 0.005, 42)


def test_silkies_adapters_are_on_the_language_model_alone(qwen_vl_modules: list[str]) -> None:
    import re

    training = preference_recipe("silkie").training
    assert training.lora is not None
    adapted = [name for name in qwen_vl_modules if re.fullmatch(training.lora.targets, name)]
    assert adapted
    assert {name.split(".h.")[0] for name in adapted} == {"transformer"}
    assert {name.split(".", 3)[3] for name in adapted} == {"attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2"}


@pytest.fixture(scope="module")
def qwen_vl_modules() -> list[str]:
    from harness.models.qwen_vl.config import QwenVLConfig
    from harness.models.qwen_vl.model import QwenVLForConditionalGeneration
    from tests.harness.qwen_vl_checkpoint import config

    return [name for name, _ in QwenVLForConditionalGeneration(QwenVLConfig(**config())).named_modules()]


def test_povids_stages_differ_in_loss_and_epochs_alone() -> None:
    first, second = (preference_recipe(f"povid-stage{stage}").training for stage in (1, 2))
    assert (first.loss, second.loss) == ("dpo", "povid-code")
    assert (first.epochs, second.epochs) == (3, 1)
    assert (second.noise.step, second.noise.overflow, second.noise.place) == (500, "clamp", "before")
    assert (first.log_steps, second.log_steps) == (1, 1)
    assert first.model_dump(exclude={"loss", "epochs"}) == second.model_dump(exclude={"loss", "epochs"})
    assert (first.learning_rate, first.warmup_ratio, first.weight_decay, first.batch_size) == (1e-7, 0.03, 0, 1)


def test_mdpo_has_its_authors_numbers() -> None:
    training = preference_recipe("mdpo").training
    assert training.lora is not None
    assert (training.loss, training.beta, training.anchor, training.crop_area) == ("mdpo", 0.1, 0.0, AREA)
    assert (training.learning_rate, training.epochs, training.batch_size) == (1e-5, 3, 32)
    assert (training.lora.r, training.lora.alpha) == (64, 128)


@pytest.mark.parametrize("name", ("dpo-longest", "dpo-strongest", "sft-best"))
def test_a_control_differs_from_silkie_in_what_is_chosen_alone(name: str) -> None:
    control, silkie = preference_recipe(name), preference_recipe("silkie")
    assert control.training == silkie.training
    assert control.base == silkie.base
    assert control.dataset is not None
    assert silkie.dataset is not None
    same = {"rule", "take"}
    assert control.dataset.model_dump(exclude=same) == silkie.dataset.model_dump(exclude=same)
    assert (control.trainer, control.dataset.rule, control.dataset.take) != (silkie.trainer, "authors", "pairs")


@pytest.mark.parametrize("name", sorted(known_recipes()))
def test_every_rule_of_a_recipe_can_be_had(name: str) -> None:
    dataset = find_recipe(name).dataset
    if dataset is not None:
        assert rule_of(dataset).name == dataset.rule


def test_recipes_know_every_pair_rule() -> None:
    assert set(get_args(RuleName)) == set(RULES)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    (
        ({"quantization": "4bit"}, "is for training adapters"),
        ({"quantization": "4bit", "lora": LORA | {"init": "pissa"}}, "has fixed"),
        ({"lora": LORA | {"init": "olora", "dora": True}}, "does not go with dora"),
        ({"lora": LORA | {"targets": "("}}, "is no regular expression"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "both warmup_steps and warmup_ratio"),
        ({"smoothing": 0.1}, "is for the losses cdpo and robust"),
        ({"loss": "cdpo"}, "'cdpo' with smoothing = 0 is dpo"),
        ({"loss": "robust"}, "'robust' with smoothing = 0 is dpo"),
        ({"too_long": "drop"}, "give max_length"),
        ({"loss": "povid-code", "sft_weight": 1.0}, "losses dpo, cdpo, robust, ipo, hinge and mpo, not 'povid-code'"),
        ({"noise": {"step": 100}}, "noise.step = 100 is for the losses povid-paper and povid-code"),
        ({"loss": "povid-code", "noise": {"alpha": 1.0}}, "noise.alpha = 1.0 is for the loss povid-paper, not"),
        ({"loss": "povid"}, "known: dpo, .*, povid-paper, povid-code"),
        ({"loss": "mpdo"}, "no loss of that name"),
        ({"loss": "mdpo", "sft_weight": 1.0}, "sft_weight = 1.0 is for the losses dpo, .* not 'mdpo'"),
        ({"loss": "ddpo", "sft_weight": 1.0}, "sft_weight = 1.0 is for .* not 'ddpo'"),
        ({"loss": "mdpo", "lora": LORA, "plain_trl": True}, "loss = 'mdpo' has neither"),
        ({"loss": "povid-code", "lora": LORA, "plain_trl": True}, "loss = 'povid-code' has neither"),
        ({"loss": "povid-paper", "lora": LORA, "plain_trl": True}, "loss = 'povid-paper' has neither"),
        ({"loss": "povid-paper", "plain_trl": True}, "loss = 'povid-paper' has neither"),
        ({"loss": "mdpo", "lora": LORA, "group_pairs": True}, "loss = 'mdpo' does not have"),
        ({"loss": "ddpo", "smoothing": 0.1}, "is for the losses cdpo and robust, not 'ddpo'"),
        ({"loss": "mdpo", "gamma": 2.0}, "gamma = 2.0 is for the loss ddpo, not 'mdpo'"),
        ({"loss": "ddpo", "anchor": 0.0}, "anchor = 0.0 is for the loss mdpo, not 'ddpo'"),
        ({"crop_area": [0.1, 0.2]}, "is for the loss mdpo, not 'dpo'"),
        ({"loss": "mdpo", "crop_area": [0.3, 0.2]}, "the least share comes first"),
        ({"loss": "mdpo", "crop_area": [0.0, 0.2]}, "greater than 0"),
        ({"loss": "mdpo", "noise": {"step": 100}}, "not 'mdpo'"),
        ({"features_room_mib": 0}, "full fine-tuning trains what is behind the vision tower"),
        ({"group_pairs": True, "lora": LORA, "plain_trl": True}, "which plain_trl does not have"),
        ({"group_pairs": True, "loss": "povid-code", "lora": LORA}, "loss = 'povid-code' does not have"),
    ),
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Training.model_validate({"learning_rate": 1e-3, "batch_size": 4, **changes})


def test_a_recipe_reads_its_data_or_builds_them() -> None:
    demo = preference_recipe("scenes-demo").model_dump(exclude_unset=True)
    with pytest.raises(ValueError, match="has both"):
        PreferenceRecipe.model_validate(demo | {"dataset": {"read": "x.jsonl"}})
    del demo["data"]
    with pytest.raises(ValueError, match="no rejected answers to train on by 'dpo'"):
        PreferenceRecipe.model_validate(demo | {"dataset": {"read": "x", "take": "best"}})


def test_a_misspelt_key_of_a_dataset_gets_a_suggestion(tmp_path: Any) -> None:
    path = tmp_path / "mine.toml"
    text = known_recipes()["silkie"].read_text(encoding="utf-8")
    path.write_text(text.replace("test_share", "test_shar"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"unknown key 'dataset\.test_shar' \(did you mean 'test_share'\?\)"):
        find_recipe(str(path))


@pytest.mark.parametrize(
    ("option", "value"),
    (
        ("min_margin", 1),
        ("largest_gap", True),
        ("max_length_ratio", 2),
        ("per_instruction", 1),
        ("balance_yes_no", True),
    ),
)
def test_best_answers_take_no_option_of_pairs(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is for pairs, and take = 'best' makes none"):
        PreferenceFile.model_validate({"read": "x", "take": "best", option: value})


def test_options_of_a_dataset_reach_its_rule() -> None:
    options = {"read": "x", "rule": "margin", "min_margin": 2, "per_instruction": 1, "min_chosen": 4}
    rule = rule_of(PreferenceFile.model_validate(options))
    assert (rule.name, rule.min_margin, rule.per_instruction, rule.min_chosen) == ("margin", 2, 1, 4)
