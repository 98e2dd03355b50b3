"""Options of the commands that train, and what they change in a recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from support.errors import RecipeError, UsageError

if TYPE_CHECKING:
    from trainers.config.recipe import AnyRecipe, PreferenceRecipe, R

PlainTrl = Annotated[
    bool, typer.Option("--plain-trl", help="Use TRL's own DPO trainer, not the one that reads images and prompts once.")
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=1, help="Number of GPUs to train on; default: all of this machine.")
]
Mode = Annotated[str, typer.Option("--mode", help="What each GPU holds: ddp, zero2, zero3 or fsdp2.")]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", help="Run as a Slurm job, with NAME=VALUE of sbatch (partition, time, ...); repeatable."),
]


def by_plain_trl(recipe: "AnyRecipe") -> "PreferenceRecipe":
    """The recipe with TRL's own trainer; UsageError where it has no DPO to do, or settings that this trainer lacks."""
    from trainers.config.recipe import PretrainingRecipe

    if isinstance(recipe, PretrainingRecipe) or recipe.trainer != "dpo":
        raise UsageError(f"recipe {recipe.name!r} trains by {recipe.trainer!r}: --plain-trl is for dpo")
    training = recipe.training.model_dump(exclude_unset=True) | {"plain_trl": True}
    return changed(recipe, {"training": training}, f"--plain-trl: recipe {recipe.name!r}")


def changed(recipe: "R", changes: Mapping[str, Any], what: str) -> "R":
    """The recipe with other top-level values; UsageError, with `what` changed it, for values that it can't have."""
    from trainers.config.recipe import parse_as

    try:
        return parse_as(type(recipe), recipe.model_dump(exclude_unset=True) | dict(changes))
    except RecipeError as error:
        raise UsageError(f"{what}: {error}") from None
