"""A training run before it runs: everything it depends on, read from TOML.

    recipe = find_recipe("scenes-demo")          # a name in trainers/recipes, or the path of a TOML file
    recipe.digest                                # changes with every value that matters

Unknown keys are refused with the known ones named; a number without its unit in the name says it in its docstring.
"""

import hashlib
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from support.errors import RecipeError, did_you_mean
from trainers.config.data import Data, Filters, InstructionSource, PoolModel, PreferenceFile, Section
from trainers.config.training import Lora, Noise, Pretraining, Stage, Training

FOLDER = Path(__file__).parents[1] / "recipes"


class Recipe(Section):
    """One training run."""

    name: str
    trainer: str
    """An entry point of the group harness.trainers."""
    base: str | None = None
    """Model that is trained: a name of `harness models`, a folder, or a hub id; None where training starts from
    nothing."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    tasks: tuple[str, ...] = ()
    """What every checkpoint is scored on."""
    panel: tuple[str, ...] = ()
    """Metrics ("task.metric") that are judged together with the tasks' headline metrics."""
    columns: tuple[str, ...] = ()
    """Metrics the report's leaderboard shows beside the headline ones; none given: all."""
    curves: tuple[str, ...] = ()
    """Metrics the report plots against training step."""
    examples: str = ""
    """Task whose answers the report shows before and after; "" for none."""
    note: str = ""
    """A sentence the report must not be read without."""
    control: bool = False
    """Also train by SFT on the same chosen answers, to tell what the preferences themselves add."""
    data: Data | None = None
    """Preference data that are built."""
    dataset: PreferenceFile | None = None
    """In their place: data that are there already."""
    training: Training | None = None
    pretraining: Pretraining | None = None

    @field_validator("trainer")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        known = sorted(entry_points(group="harness.trainers").names)
        if value not in known:
            raise ValueError(f"no trainer of that name{did_you_mean(value, known)}")
        return value

    @model_validator(mode="after")
    def _has_its_sections(self) -> "Recipe":
        if self.pretraining is None and (
            self.base is None or self.training is None or (self.data is None and self.dataset is None)
        ):
            raise ValueError("needs either [pretraining], or base, [training] and [data] or [dataset]")
        if self.data is not None and self.dataset is not None:
            raise ValueError("has both [data], which builds, and [dataset], which reads; give one")
        if self.dataset is not None and self.dataset.take == "best" and self.trainer != "sft":
            raise ValueError(
                f"[dataset] take = 'best' has no rejected answers to train on by {self.trainer!r}; trainer = 'sft' does"
            )
        if (
            self.training is not None
            and self.training.eval_steps
            and self.dataset is not None
            and not self.dataset.test_share
        ):
            raise ValueError(
                f"eval_steps = {self.training.eval_steps} scores pairs held out, and [dataset] test_share = 0 holds none out"
            )
        return self

    @model_validator(mode="after")
    def _has_what_its_trainer_reads(self) -> "Recipe":
        if self.trainer == "scenes" and self.pretraining is None:
            raise ValueError(
                "trainer = 'scenes' pretrains from nothing and needs [pretraining]; 'dpo' and 'sft' train on preferences"
            )
        if self.trainer in ("dpo", "sft") and self.training is None:
            raise ValueError(
                f"trainer = {self.trainer!r} needs base, [training] and [data] or [dataset]; 'scenes' does [pretraining]"
            )
        sections = ("base", "data", "dataset", "training", "control") if self.trainer == "scenes" else ("pretraining",)
        if self.trainer in ("dpo", "sft", "scenes") and (given := [name for name in sections if getattr(self, name)]):
            raise ValueError(f"{given[0]} is given, which trainer = {self.trainer!r} does not read; leave it out")
        if self.trainer == "sft" and self.training is not None:
            unread = {
                "loss": "dpo",
                "beta": 0.1,
                "sft_weight": 0.0,
                "group_pairs": False,
                "features_room_mib": None,
                "plain_trl": False,
            }
            if given := [name for name, value in unread.items() if getattr(self.training, name) != value]:
                raise ValueError(
                    f"{given[0]} of [training] is for trainer = 'dpo', not 'sft', which learns the chosen answers alone"
                )
        if self.trainer == "sft" and self.control:
            raise ValueError("control = true is the SFT arm beside trainer = 'dpo'; trainer = 'sft' is that arm itself")
        return self

    @property
    def digest(self) -> str:
        """Of every value that is not the default, the name included: a run folder belongs to one digest."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]


def known_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of this name or file; `changes` replace its top-level values."""
    known = known_recipes()
    path = known.get(name, Path(name))
    if path.suffix != ".toml" or not path.is_file():
        raise RecipeError(f"no recipe {name!r}{did_you_mean(name, known)}, or the path of a .toml file")
    try:
        return Recipe.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), **changes})
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error)}") from error


def first_problem(error: ValidationError, section: Any = None) -> str:
    """In one line what is wrong first with a recipe, or with a `section` of one."""
    # A misspelt key is also a missing one; the misspelling is the better news.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] != "extra_forbidden":
        value, said = problem.get("input"), problem["msg"].removeprefix("Value error, ")
        # Of a section that does not fit together the message names the keys.
        return f"{where}: {said}" if isinstance(value, dict | BaseModel) else f"{where} = {value!r}: {said}"
    section = section or Recipe
    for part in problem["loc"][:-1]:
        if isinstance(part, str):
            section = _SECTIONS.get(part, section)
    fields = sorted(section.model_fields)
    return f"unknown key {where!r}{did_you_mean(str(problem['loc'][-1]), fields)}"


_SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "sources": InstructionSource,
    "filters": Filters,
    "pool": PoolModel,
    "dataset": PreferenceFile,
    "training": Training,
    "lora": Lora,
    "noise": Noise,
    "pretraining": Pretraining,
    "see": Stage,
    "speak": Stage,
    "believe": Stage,
}
