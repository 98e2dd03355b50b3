"""Recipes: read strictly, refused with a hint."""

from pathlib import Path
from typing import Any

import pytest

from support.errors import RecipeError
from trainers.config.recipe import FOLDER, find_recipe, known_recipes, parse_recipe

DEMO = (FOLDER / "scenes-demo.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(known_recipes()))
def test_every_recipe_that_comes_along_is_read(name: str) -> None:
    assert find_recipe(name).name == name


def test_the_digest_changes_with_any_value() -> None:
    recipes = find_recipe("scenes-demo"), find_recipe("scenes-demo", seed=1), find_recipe("scenes-base")
    assert len({recipe.digest for recipe in recipes}) == 3
    assert find_recipe("scenes-demo", seed=0).digest == find_recipe("scenes-demo").digest


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    (
        ("beta = 0.1", "betta = 0.1", r"unknown key 'training\.betta' \(did you mean 'beta'\?\)"),
        ("r = 16", "rank = 16", r"unknown key 'training\.lora\.rank'"),
        (
            'pool = "scenes"',
            'pool = [{ model = "a", temprature = 0.7 }, { model = "b" }]',
            "did you mean 'temperature'",
        ),
        ("beta = 0.1", "beta = -1", r"training\.beta = -1: .*greater than 0"),
        ("beta = 0.1", "beta = ", "not TOML"),
        ('base = "scenes-base"', "", "needs either"),
        ('trainer = "dpo"', 'trainer = "dop"', r"'dop': .*no trainer .*\(did you mean 'dpo'\?\); known: dpo, .*sft"),
        ('trainer = "dpo"', 'trainer = "scenes"', r"trainer = 'scenes' .*needs \[pretraining\]"),
        ("beta = 0.1", 'scheduler = "cosin"', r"training\.scheduler = 'cosin': .*'linear', 'cosine'"),
        ("beta = 0.1", 'scheduler = "reduce_lr_on_plateau"', r"scheduler = 'reduce_lr_on_plateau': .*'polynomial'"),
        ("learning_rate = 7e-4", 'learning_rate = 1e-8\nscheduler = "polynomial"', "scheduler = 'polynomial' goes"),
        ("beta = 0.1", "features_room_mib = -1", r"training\.features_room_mib = -1: .*greater than or equal to 0"),
        ("beta = 0.1", "features_room_mib = 1\nplain_trl = true", "_mib is for packed rows, which plain_trl does not"),
        ("beta = 0.1", "beta = inf", r"training\.beta = inf: .*finite number"),
        ("learning_rate = 7e-4", "learning_rate = inf", r"training\.learning_rate = inf: .*finite number"),
        ('trainer = "dpo"', 'trainer = "dpo"\nseed = -1', r"seed = -1: .*greater than or equal to 0"),
        ('trainer = "dpo"', 'trainer = "dpo"\nseed = 4294967296', r"seed = 4294967296: .*less than 4294967296"),
        ('trainer = "dpo"', 'trainer = "sft"', "sft_weight of .* is for trainer = 'dpo', not 'sft'"),
        ("beta = 0.1", "group_pairs = true\nplain_trl = true", "group_pairs is for packed rows, which plain_trl does"),
    ),
)
def test_a_wrong_recipe_is_named_in_one_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    assert old in DEMO
    path.write_text(DEMO.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError, match=complaint) as raised:
        find_recipe(str(path))
    assert "\n" not in str(raised.value)
    assert "mine.toml" in str(raised.value)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'scenes-demo'\?"):
        find_recipe("scene-demo")


def test_a_trainer_that_pretrains_needs_its_section(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "scenes-base.toml").read_text().replace('"scenes"', '"dpo"', 1))
    with pytest.raises(RecipeError, match=r"trainer = 'dpo' needs base, \[training\]"):
        find_recipe(str(path))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    (
        ({"trainer": "sft", "training": {"beta": 0.5}}, "beta of .* is for trainer = 'dpo', not 'sft'"),
        ({"trainer": "sft", "control": True}, "trainer = 'sft' is that arm itself"),
        (
            {"pretraining": find_recipe("scenes-base").model_dump()["pretraining"]},
            "pretraining is given, which trainer = 'dpo' does not read",
        ),
        ({"dataset": {"read": "x", "test_share": 0.0}, "training": {"eval_steps": 5}}, "test_share = 0 holds none out"),
    ),
)
def test_what_a_trainer_would_pass_over_is_refused(changes: dict[str, Any], complaint: str) -> None:
    training: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 4, **changes.get("training", {})}
    plain = {"name": "mine", "trainer": "dpo", "base": "scenes-base", "dataset": {"read": "x"}}
    with pytest.raises(ValueError, match=complaint):
        parse_recipe({**plain, **changes, "training": training})


@pytest.mark.parametrize("section", ("base", "dataset", "training", "control"))
def test_pretraining_reads_no_other_section(section: str) -> None:
    given: dict[str, Any] = {"base": "scenes-base", "dataset": {"read": "x"}, "control": True}
    given["training"] = {"learning_rate": 1e-3, "batch_size": 4}
    with pytest.raises(ValueError, match=f"{section} is given, which trainer = 'scenes' does not read"):
        find_recipe("scenes-base", **{section: given[section]})
