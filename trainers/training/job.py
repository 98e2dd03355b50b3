"""What a trainer is given: the argument of the entry points in the group `harness.trainers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from support.errors import UnknownName
from trainers.config.recipe import PreferenceRecipe, PretrainingRecipe
from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint


def _go_on(checkpoint: Checkpoint) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Job:
    """Training on preferences, to do or to finish."""

    recipe: PreferenceRecipe
    out: Path
    """Folder for checkpoints and log; a killed run is continued from what it left there."""
    base_name: str = ""
    """Model to start from, as the user named it; checkpoints note it."""
    base: str = ""
    """The same as a folder or hub id with full weights."""
    dtype: str = "auto"
    """What to compute in: "float32", "bfloat16", or "auto" for what the weights are stored in."""
    preferences: Sequence[Preference] = field(default=())
    held_out: Sequence[Preference] = field(default=())
    """Pairs that are scored every `eval_steps` and never trained on."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """What checkpoint.json says beside what it always does: of the data, say."""
    saved: Callable[[Checkpoint], bool] = _go_on
    """Called with every checkpoint once it is complete, in the main process alone; False ends the run for good."""


@dataclass(frozen=True, kw_only=True)
class PretrainingJob:
    """Pretraining, to do or to finish."""

    recipe: PretrainingRecipe
    out: Path
    """Folder for the models and the log; a killed run is continued from what it left there."""


Trainer = Callable[[Any], list[Checkpoint]]
"""Takes a Job, or a PretrainingJob if its recipes pretrain."""


def trainer(name: str) -> Trainer:
    """The trainer installed under this name; UnknownName."""
    installed = entry_points(group="harness.trainers")
    if name not in installed.names:
        raise UnknownName("trainer", name, installed.names)
    found: Trainer = installed[name].load()
    return found
