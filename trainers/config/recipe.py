"""A training run before it runs: everything it depends on, read from TOML.

    recipe = find_recipe("scenes-demo")          # a name in trainers/recipes, or the path of a TOML file
    preference_recipe("scenes-demo").training    # the same; RecipeError for one that pretrains
    recipe.digest                                # changes with every value that matters

Unknown keys are refused with the known ones named; a number without its unit in the name says it in its docstring.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from support.errors import RecipeError, did_you_mean
from support.parsing import parse_toml
from trainers.config.data import UNLESS_NONE, Data, PreferenceFile, Section
from trainers.config.scoring import REACHED, ScoringSettings
from trainers.config.training import Pretraining, Training

FOLDER = Path(__file__).parents[1] / "recipes"
_NAME: Final = re.compile(r"[^\W_][\w .+=,@-]*")
_LONGEST_NAME: Final = 100


class Recipe(Section):
    """A training run: a PreferenceRecipe or a PretrainingRecipe, as `parse_recipe` decides.

    All keys are declared here, in the order in which the digest takes them.
    """

    name: str
    trainer: str
    """An entry point of the group harness.trainers."""
    base: str | None = None
    """Model to train: a name of `harness models`, a folder, or a hub id; None for pretraining."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data_seed: Annotated[int | None, Field(ge=0, lt=2**32), UNLESS_NONE] = None
    """Seed by which [data] builds preferences; None: `seed`."""
    tasks: tuple[str, ...] = ()
    """Tasks on which every checkpoint is scored."""
    panel: tuple[str, ...] = ()
    """Metrics ("task.metric") that are tested together with the tasks' headline metrics."""
    columns: tuple[str, ...] = ()
    """Metrics the report's leaderboard shows beside the headline ones; none given: all."""
    curves: tuple[str, ...] = ()
    """Metrics the report plots against training step."""
    examples: str = ""
    """Task whose answers before and after training the report shows; "" for none."""
    note: str = ""
    """A warning at the top of the report."""
    control: bool = False
    """Also train by SFT on the same chosen answers, to measure what the preferences add."""
    data: Data | None = None
    """Preference data to build."""
    dataset: PreferenceFile | None = None
    """In place of `data`: preference data to read."""
    training: Training | None = None
    pretraining: Pretraining | None = None
    scoring: Annotated[ScoringSettings | None, UNLESS_NONE] = None
    """How models are asked when they are scored; None: by the official protocol."""

    @field_validator("name")
    @classmethod
    def _can_name_a_folder(cls, value: str) -> str:
        if _NAME.fullmatch(value) is None or len(value.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"{value[:80]!r} can't name a run folder: letters, digits and . _ - + = , @ and spaces, the first a "
                f"letter or digit, at most {_LONGEST_NAME} bytes"
            )
        return value

    @field_validator("trainer")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        known = sorted(entry_points(group="harness.trainers").names)
        if value not in known:
            raise ValueError(f"no trainer of that name{did_you_mean(value, known)}")
        return value

    @field_validator("scoring")
    @classmethod
    def _says_something(cls, value: ScoringSettings | None) -> ScoringSettings | None:
        return None if value == ScoringSettings() else value

    @property
    def digest(self) -> str:
        """A hash of all values that differ from their defaults, and of the name; a run folder belongs to one digest."""
        told = self.model_dump_json(exclude_defaults=True, exclude={"scoring": {*REACHED}})
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def settings(self) -> str:
        """Its name, and a digest of all but the seed: trainings that share it differ by their seed alone."""
        return f"{self.name} {self.model_copy(update={'seed': 0}).digest}"


class PreferenceRecipe(Recipe):
    """A model trained on preference data."""

    base: str
    training: Training

    @property
    def preferences(self) -> Data | PreferenceFile:
        """Where its pairs come from."""
        return next(found for found in (self.data, self.dataset) if found is not None)

    @model_validator(mode="before")
    @classmethod
    def _check_sections(cls, values: Any) -> Any:
        if not values.keys() <= cls.model_fields.keys():
            return values  # so that a misspelt key is reported first
        given = {name for name, value in values.items() if value is not None}
        trainer = values.get("trainer")
        if trainer == "scenes":
            raise ValueError(
                "trainer = 'scenes' pretrains from nothing and needs [pretraining]; "
                "'dpo' and 'sft' train on preferences"
            )
        if not {"base", "training"} <= given or not {"data", "dataset"} & given:
            if "pretraining" in given:
                raise ValueError(
                    f"trainer = {trainer!r} needs base, [training] and [data] or [dataset]; 'scenes' does [pretraining]"
                )
            raise ValueError("needs either [pretraining], or base, [training] and [data] or [dataset]")
        if "pretraining" in given and trainer in ("dpo", "sft"):
            raise ValueError(f"pretraining is given, which trainer = {trainer!r} does not read; leave it out")
        return values

    @property
    def seed_of_data(self) -> int:
        """By which its preference data are built."""
        return self.seed if self.data_seed is None else self.data_seed

    @model_validator(mode="after")
    def _check_data(self) -> "PreferenceRecipe":
        if self.dataset is None:
            return self
        if self.data_seed is not None:
            raise ValueError("data_seed is for [data], which builds preferences; [dataset] reads them, by split_seed")
        if self.data is not None:
            raise ValueError("has both [data], which builds, and [dataset], which reads; give one")
        if self.dataset.take == "best" and self.trainer != "sft":
            raise ValueError(
                f"[dataset] take = 'best' has no rejected answers to train on by {self.trainer!r}; trainer = 'sft' does"
            )
        if self.training.eval_steps and not (self.dataset.test_share or self.dataset.held_out):
            raise ValueError(
                f"eval_steps = {self.training.eval_steps} scores pairs held out, "
                "and [dataset] test_share = 0 holds none out"
            )
        return self

    @model_validator(mode="after")
    def _check_sft(self) -> "PreferenceRecipe":
        if self.trainer != "sft":
            return self
        for name in ("loss", "beta", "sft_weight", "group_pairs", "features_room_mib", "plain_trl"):
            if getattr(self.training, name) != Training.model_fields[name].default:
                raise ValueError(
                    f"{name} of [training] is for trainer = 'dpo', not 'sft', which learns the chosen answers alone"
                )
        if self.control:
            raise ValueError("control = true is the SFT arm beside trainer = 'dpo'; trainer = 'sft' is that arm itself")
        return self


class PretrainingRecipe(Recipe):
    """Models trained from nothing."""

    pretraining: Pretraining

    @model_validator(mode="after")
    def _check_sections(self) -> "PretrainingRecipe":
        if self.trainer in ("dpo", "sft"):
            raise ValueError(
                f"trainer = {self.trainer!r} needs base, [training] and [data] or [dataset]; "
                "'scenes' does [pretraining]"
            )
        for name in ("base", "data", "data_seed", "dataset", "training", "control", "scoring"):
            value = getattr(self, name)
            if self.trainer == "scenes" and value is not None and value is not False:
                raise ValueError(f"{name} is given, which trainer = 'scenes' does not read; leave it out")
        return self


AnyRecipe = PreferenceRecipe | PretrainingRecipe


def parse_recipe(values: Mapping[str, Any]) -> AnyRecipe:
    """The recipe of these values; RecipeError with the first problem."""
    pretrains = values.get("pretraining") is not None and (
        values.get("trainer") == "scenes" or values.get("training") is None
    )
    return parse_as(PretrainingRecipe, values) if pretrains else parse_as(PreferenceRecipe, values)


R = TypeVar("R", bound=Recipe)


def parse_as(kind: type[R], values: Mapping[str, Any]) -> R:
    """`parse_recipe` where the kind of recipe is known."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise RecipeError(first_problem(error)) from error


def known_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_recipe(name: str, **changes: Any) -> AnyRecipe:
    """The recipe of this name or file; `changes` replace its top-level values."""
    known = known_recipes()
    path = known.get(name, Path(name))
    if path.suffix != ".toml" or not path.is_file():
        raise RecipeError(f"no recipe {name!r}{did_you_mean(name, known)}, or the path of a .toml file")
    try:
        return parse_recipe({**_read_toml(path), **changes})
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_bytes())
    except ValueError as error:
        raise RecipeError(f"not TOML: {error}") from None


def preference_recipe(name: str, **changes: Any) -> PreferenceRecipe:
    """`find_recipe` for recipes that train on preferences; RecipeError for one that pretrains."""
    found = find_recipe(name, **changes)
    if isinstance(found, PretrainingRecipe):
        raise RecipeError(f"recipe {found.name!r} pretrains a model from nothing: run it by `harness train {name}`")
    return found


def first_problem(error: ValidationError, section: Any = None) -> str:
    """One line about the first problem of a recipe, or of a `section` of one."""
    # A misspelt key is often a missing one too, and its own message helps more.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] != "extra_forbidden":
        value, said = problem.get("input"), problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "too_short":
            said = f"must be at least {problem['ctx']['min_length']}, not {problem['ctx']['actual_length']}"
        # Messages about a whole section name its keys themselves.
        return f"{where}: {said}" if isinstance(value, dict | BaseModel) else f"{where} = {value!r}: {said}"
    section = section or Recipe
    for part in problem["loc"][:-1]:
        if part in section.model_fields:
            section = next(_find_sections(section.model_fields[part].annotation), section)
    return f"unknown key {where!r}{did_you_mean(str(problem['loc'][-1]), sorted(section.model_fields))}"


def _find_sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections within a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _find_sections(part)
