"""A training run before it runs: everything it depends on, read from TOML.

    recipe = find_recipe("scenes-demo")          # a name in trainers/recipes, or the path of a TOML file
    recipe.digest                                # changes with every value that matters

Unknown keys are refused with the known ones named; a number without its unit in the name says it in its docstring.
"""

import difflib
import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).parent / "recipes"
ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
"""VLFeedback's three aspects, in the order of its prompt."""


class RecipeError(ValueError):
    """A recipe that can't be found or read; one line that names the file, the key and what is known."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolModel(_Section):
    """One member of the pool that answers instructions."""

    model: str
    temperature: Annotated[float, Field(ge=0)] = 1.0

    @property
    def name(self) -> str:
        """How its answers are labelled: two temperatures of one model are two members."""
        return f"{self.model}@{self.temperature:g}"


class Data(_Section):
    """How preference data are built: instructions, answers, ratings, pairs."""

    source: Literal["scenes"] = "scenes"
    instructions: Annotated[int, Field(gt=0)]
    captions: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of instructions that ask for a caption; the rest are questions, yes/no ones in pairs of true yes and true no."""
    pool: tuple[PoolModel, ...] = Field(min_length=2)
    answers: Annotated[int, Field(ge=2)] = 4
    """Answers an instruction, each by another member of the pool."""
    judge: str = "exact"
    max_new_tokens: Annotated[int, Field(gt=0)] = 96
    rule: Literal["authors", "dominant"] = "authors"
    """"authors" (VLFeedback): all pairs of unequal mean rating. "dominant": of these, where the chosen answer is worse in no aspect."""
    min_chosen: Annotated[float, Field(ge=1, le=5)] = 1.0
    """Lowest mean rating of a chosen answer."""
    per_instruction: Annotated[int, Field(gt=0)] | None = None
    """At most this many pairs an instruction, those of the largest margin; None: all."""
    balance_yes_no: bool = False
    """As many pairs that choose "yes" as pairs that choose "no"."""


class Lora(_Section):
    """Low-rank adapters (peft)."""

    r: Annotated[int, Field(gt=0)]
    alpha: Annotated[int, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str
    """Regular expression over module names; one that reaches into the vision tower trains it too."""


class Training(_Section):
    """The optimizer's side, the same for DPO and its SFT control."""

    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Pairs an optimizer step."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    scheduler: str = "cosine"
    beta: Annotated[float, Field(gt=0)] = 0.1
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the negative log-likelihood of the chosen answer beside the DPO loss."""
    checkpoints: Annotated[int, Field(gt=0)] = 1
    """How many checkpoints are saved and scored, evenly spaced, the last at the end."""
    lora: Lora


class Stage(_Section):
    """One stage of pretraining."""

    steps: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Images a step."""
    learning_rate: Annotated[float, Field(gt=0)]


class Pretraining(_Section):
    """The three stages of the embedded models' pretraining, and where the early one is taken."""

    see: Stage
    speak: Stage
    believe: Stage
    early_step: Annotated[int, Field(gt=0)]
    """Step of `speak` whose weights become scenes-early."""


class Recipe(_Section):
    """One training run."""

    name: str
    trainer: str
    """An entry point of the group harness.trainers."""
    base: str | None = None
    """Model that is trained: a name of `harness models`, a folder, or a hub id; None where training starts from nothing."""
    seed: int = 0
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
    training: Training | None = None
    pretraining: Pretraining | None = None

    @model_validator(mode="after")
    def _has_its_sections(self) -> "Recipe":
        if self.pretraining is None and (self.base is None or self.data is None or self.training is None):
            raise ValueError("needs either [pretraining], or base, [data] and [training]")
        return self

    @property
    def digest(self) -> str:
        """Of every value that is not the default, the name included: a run folder belongs to one digest."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights on disk after `step` optimizer steps."""

    path: Path
    step: int
    arm: str
    """ "dpo", or "sft" for the control."""


def known_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of this name or file; `changes` replace its top-level values."""
    known = known_recipes()
    path = known.get(name, Path(name))
    if path.suffix != ".toml" or not path.is_file():
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise RecipeError(f"no recipe {name!r}{hint}; known: {', '.join(known)}, or the path of a .toml file")
    try:
        return Recipe.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), **changes})
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    # A misspelt key is also a missing one; the misspelling is the better news.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] != "extra_forbidden":
        return f"{where} = {problem.get('input')!r}: {problem['msg']}"
    section: Any = Recipe
    for part in problem["loc"][:-1]:
        if isinstance(part, str):
            section = _SECTIONS.get(part, section)
    fields = sorted(section.model_fields)
    near = difflib.get_close_matches(str(problem["loc"][-1]), fields, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {where!r}{hint}; known: {', '.join(fields)}"


_SECTIONS: dict[str, type[_Section]] = {
    "data": Data,
    "pool": PoolModel,
    "training": Training,
    "lora": Lora,
    "pretraining": Pretraining,
    "see": Stage,
    "speak": Stage,
    "believe": Stage,
}
