"""Options of the commands that train, and what they change in a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.setting_options import OptionGroup, check_at_least
from support.errors import RecipeError, UsageError

if TYPE_CHECKING:
    from trainers.config.recipe import AnyRecipe, PreferenceRecipe, R


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How training is done, and on how many processes."""

    plain_trl: bool = False
    """Use TRL's own DPO trainer, not the one that reads images and prompts once."""
    gpus: int | None = None
    """Number of GPUs to train on; default: all of this machine."""
    mode: str = "ddp"
    """What each GPU holds: ddp, zero2, zero3 or fsdp2."""
    trust_remote_code: bool = False
    """Run Python code that comes with the models that the recipe names."""
    slurm: tuple[str, ...] | None = None
    """Run as a Slurm job, with NAME=VALUE of sbatch (partition, time, ...); repeatable."""

    def __post_init__(self) -> None:
        check_at_least("--gpus", self.gpus, 1)


LAUNCH = OptionGroup(kind=LaunchOptions, panel="Training", environment=False)


def run_folder_of(out: Path | None, recipe: str, seed: int | None) -> Path:
    """The folder of --out, or the default one of a recipe of this name."""
    return out or Path("runs") / (recipe if seed is None else f"{recipe}-seed{seed}")


def use_plain_trl(recipe: "AnyRecipe") -> "PreferenceRecipe":
    """The recipe with TRL's own DPO trainer; UsageError if it is not for DPO, or has settings that this lacks."""
    from trainers.config.recipe import PretrainingRecipe

    if isinstance(recipe, PretrainingRecipe) or recipe.trainer != "dpo":
        raise UsageError(f"recipe {recipe.name!r} trains by {recipe.trainer!r}: --plain-trl is for dpo")
    training = recipe.training.model_dump(exclude_unset=True) | {"plain_trl": True}
    return change_recipe(recipe, {"training": training}, f"--plain-trl: recipe {recipe.name!r}")


def change_recipe(recipe: "R", changes: Mapping[str, Any], what: str) -> "R":
    """The recipe with other top-level values; UsageError beginning with `what` if it can't have them."""
    from trainers.config.recipe import parse_as

    try:
        return parse_as(type(recipe), recipe.model_dump(exclude_unset=True) | dict(changes))
    except RecipeError as error:
        raise UsageError(f"{what}: {error}") from None
