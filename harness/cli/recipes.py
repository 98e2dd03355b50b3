"""Commands under `harness recipes`: the training runs that have a name here."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json
from harness.cli.shown import show
from support.errors import OK

if TYPE_CHECKING:
    from trainers.config.recipe import AnyRecipe

recipes_app = typer.Typer(invoke_without_command=True, help="List the recipes, or show one.")


@recipes_app.callback()
def recipes_command(context: typer.Context, as_json: Json = False) -> int:
    """List the recipes: what each trains, on which data, and what it needs."""
    if context.invoked_subcommand is not None:
        return OK
    from support.tables import Table
    from trainers.config.recipe import find_recipe, known_recipes

    found = {name: _facts_of(name, find_recipe(name)) for name in known_recipes()}
    if as_json:
        print(json.dumps({"recipes": [{"name": name, **facts} for name, facts in found.items()]}))
        return OK
    columns = ("base", "by", "data", "tasks", "needs", "what it is")
    rows = [[name, *(facts[column] for column in columns)] for name, facts in found.items()]
    show([Table(["recipe", *columns], rows), "A path of a TOML file is a recipe too (docs/training.md)."])
    return OK


@recipes_app.command("show")
def recipes_show_command(
    name: Annotated[str, typer.Argument(help="A recipe's name, or the path of a TOML file.")],
    as_json: Json = False,
) -> int:
    """Print what a recipe does, step by step, what it needs, and its file with the source of each number."""
    from support.markdown import line
    from trainers.config.recipe import find_recipe, known_recipes

    recipe = find_recipe(name)
    facts = _facts_of(name, recipe)
    steps = _steps_of(recipe)
    if as_json:
        print(json.dumps({"name": name, **facts, "steps": steps, "recipe": recipe.model_dump(mode="json")}))
        return OK
    print(f"recipe: {line(recipe.name)}")
    for key, value in facts.items():
        print(f"{key}: {line(value)}")
    print("steps:", *(f"{number:3}. {line(step)}" for number, step in enumerate(steps, start=1)), sep="\n")
    if (path := known_recipes().get(name)) is not None:
        print(f"\n{path.read_text(encoding='utf-8')}", end="")
    return OK


def _facts_of(name: str, recipe: "AnyRecipe") -> dict[str, str]:
    from trainers.config.data import PreferenceFile
    from trainers.config.recipe import PretrainingRecipe

    if isinstance(recipe, PretrainingRecipe):
        data, by, command = "drawn as it goes", "pretraining", "train"
    else:
        source, training = recipe.preferences, recipe.training
        data = source.read if isinstance(source, PreferenceFile) else f"built: {source.instructions:,} instructions"
        by = recipe.trainer if recipe.trainer == "sft" else training.loss
        command = "train-then-eval"
    return {
        "base": recipe.base or "",
        "by": by,
        "data": data,
        "tasks": ", ".join(recipe.tasks),
        "needs": _needs_of(recipe),
        "what it is": _describe(name),
        "cost": f"harness {command} {name} --dry-run" + (" (calls, dollars, hours)" if recipe.tasks else ""),
    }


def _needs_of(recipe: "AnyRecipe") -> str:
    """What it takes that not everybody has: weights, a GPU, a judge."""
    from harness.models.spec import MODELS
    from tasks.registry import registry

    spec = MODELS.get(recipe.base or "")
    size = None if spec is None or Path(spec.pretrained).is_dir() else spec.gigabytes  # the embedded ones are here
    judged = [task.name for task in registry().expand(list(recipe.tasks)) if task.judged and task.data != "embedded"]
    needs = [f"a GPU, {size:g} GB of weights"] if size is not None else []
    return "; ".join([*needs, *([f"a judge for {', '.join(judged)}"] if judged else [])]) or "nothing more"


def _steps_of(recipe: "AnyRecipe") -> list[str]:
    from harness.runs.plan import pretraining_steps, steps_of, training_steps
    from trainers.config.recipe import PretrainingRecipe

    if isinstance(recipe, PretrainingRecipe):
        return pretraining_steps(recipe)
    if recipe.tasks:
        return steps_of(recipe, None, "each on the same tasks")
    assert recipe.dataset is not None
    return training_steps(recipe, recipe.dataset, 1)


def _describe(name: str) -> str:
    """The comment at the top of a recipe's file."""
    from trainers.config.recipe import known_recipes

    lines = known_recipes().get(name, Path(name)).read_text(encoding="utf-8").splitlines()
    first = next((line.removeprefix("#").strip() for line in lines if line.strip()), "")
    return first if lines and lines[0].startswith("#") else ""
