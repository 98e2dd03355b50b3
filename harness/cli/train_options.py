"""Options of the commands that train, and what they change in a recipe."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.cli.evaluate import read_suffixes
from harness.cli.setting_options import OptionGroup, check_at_least
from harness.engine.config import Engine
from support.errors import RecipeError, SettingError, UsageError
from support.processes import is_launched
from support.shards import is_there

if TYPE_CHECKING:
    from trainers.config.recipe import AnyRecipe, PreferenceRecipe, R

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True)
class RunDataOptions:
    """Where the data are, of the tasks that a run scores and of its training."""

    paths: tuple[str, ...] = ()
    """TASK=PATH: read the task's data from a local table or folder, not from the hub; repeatable."""
    train: str | None = None
    """Other data to train on: a file or folder, public, or hub:OWNER/NAME."""
    images: str | None = None
    """Folder or zip of the pictures of the pairs to train on."""
    partial: bool = False
    """Accept local data of tasks with missing rows; results are marked."""

    def of_tasks(self, tasks: Collection[str]) -> dict[str, str]:
        """Task -> its data; SettingError for what is none, or of a task that is not scored."""
        found = {}
        for text in self.paths:
            name, equals, path = text.partition("=")
            if not (equals and path) or is_there(Path(text)):
                raise SettingError(f"--data {text!r}: must be TASK=PATH; data to train on are named by --train-data")
            if name not in tasks:
                raise SettingError(f"--data {text!r}: {name!r} is not among the tasks asked for: {', '.join(tasks)}")
            found[name] = path
        return found

    def to_train_on(self) -> dict[str, str]:
        """What replaces the recipe's data and its pictures."""
        given = {"data": self.train, "images": self.images}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """How the base and the checkpoints are asked when they are scored, in place of what the recipe's [scoring] says."""

    protocol: str | None = None
    """Whose wording questions have: official, bare, a name, a TOML file, or system:TEXT; default: the recipe's."""
    prompt_suffix: tuple[str, ...] = ()
    """TEXT or TASK=TEXT, put after every question of all tasks, or of one; recorded; repeatable."""
    thinking: Literal["on", "off"] | None = None
    """Whether the models think before they answer, where their chat template has this switch."""
    thinking_tokens: int | None = None
    """Most tokens of thoughts, on top of the limit of an answer; by default 4096."""
    engine: Engine | None = None
    """What computes the answers: own, or a server of vllm or sglang for this run; auto: vLLM on a GPU if it can."""
    engine_set: Mapping[str, str] = field(default_factory=dict)
    """NAME=VALUE: any flag of vLLM's or SGLang's server, such as max-model-len=8192; repeatable."""
    engine_url: tuple[str, ...] = ()
    """With --engine vllm: a server that runs, in place of one for this run; repeatable: they share the images."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the models compute in when they are scored; needed with --engine-url."""

    def changes(self, recipe: "PreferenceRecipe") -> dict[str, Any]:
        """The recipe's [scoring] with what is given in place of its values; nothing where none is given."""
        suffix, by_task = read_suffixes(self.prompt_suffix)
        given = {
            "protocol": self.protocol,
            "prompt_suffix": suffix,
            "prompt_suffixes": by_task or None,
            "thinking": self.thinking,
            "thinking_tokens": self.thinking_tokens,
            "engine": self.engine,
            "engine_set": dict(self.engine_set) or None,
            "engine_url": self.engine_url or None,
            "dtype": self.dtype,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return {}
        own = {} if recipe.scoring is None else recipe.scoring.model_dump(exclude_unset=True)
        if self.engine is not None and self.engine != own.get("engine"):
            own = {name: value for name, value in own.items() if name not in ("engine_set", "engine_url")}
        by_task = own.get("prompt_suffixes", {}) | by_task
        return {"scoring": own | given | ({"prompt_suffixes": by_task} if by_task else {})}


ASKED = OptionGroup(kind=AskingOptions, panel="Evaluation", whole=frozenset({"prompt_suffix"}))

RUN_DATA = OptionGroup(
    kind=RunDataOptions,
    panel="Data",
    table="data",
    names={"paths": "data", "train": "train_data", "partial": "partial_data", "images": "images"},
)

LAUNCH = OptionGroup(kind=LaunchOptions, panel="Training", environment=False)


def run_folder_of(out: Path | None, recipe: str, seed: int | None, *, several: bool = False) -> Path:
    """The folder of --out, or the default one of a recipe of this name, for one seed or `several`."""
    name = recipe if seed is None else f"{recipe}-seed{seed}"
    return out or Path("runs") / (f"{name}-seeds" if several else name)


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


def dataset_changes(recipe: "AnyRecipe", given: Mapping[str, Any], fetch: bool) -> dict[str, Any]:
    """The recipe's [dataset] with other `data`, `images` or `limit`; nothing where none is given. UsageError for a
    recipe that reads none. `fetch`: what is on the hub may be downloaded to find out what it is."""
    if not given:
        return {}
    if recipe.dataset is None:
        raise UsageError(
            f"recipe {recipe.name!r} reads no data: "
            "--train-data, --images and --limit are for recipes that have a [dataset]"
        )
    keys = {"data": "read", "images": "images", "limit": "limit"}
    dataset = recipe.dataset.model_dump(exclude_unset=True) | {keys[name]: value for name, value in given.items()}
    return {"dataset": _settle_data(dataset, recipe.name, fetch) if "data" in given else dataset}


def _settle_data(dataset: dict[str, Any], recipe: str, fetch: bool) -> dict[str, Any]:
    """[dataset] for the data of --train-data, without the recipe's keys that are for its own data alone; `fetch`: what
    is on the hub may be downloaded to find out."""
    from trainers.config.data import PreferenceFile
    from trainers.data.read_preferences import settle_for

    settled, gone = settle_for(PreferenceFile.model_validate(dataset), fetch=fetch)
    if gone and not is_launched():
        log.info(f"{settled.read}: other data than those of recipe {recipe!r}; its {', '.join(gone)} is not for them")
    return settled.model_dump(exclude_unset=True)
