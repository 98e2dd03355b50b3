"""Jobs of training: the arguments of the entry points in the group `harness.trainers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from support.errors import UnknownName
from trainers.config.recipe import PreferenceRecipe, PretrainingRecipe
from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Job:
    """Training on preferences, to start or to continue."""

    recipe: PreferenceRecipe
    out: Path
    """Folder for checkpoints and log; a killed run is continued from what it left there."""
    base_name: str = ""
    """Model to start from, as the user named it; checkpoints note it."""
    base: str = ""
    """The same as a folder or hub id with full weights."""
    base_hub_id: str = ""
    """The base's id on the Hugging Face hub, where its files are from there."""
    base_revision: str | None = None
    """Commit of the hub id."""
    chat_template: str | None = None
    """What conversations are put into; None: the template in the base's folder."""
    remote_code: bool = False
    """Whether the user allows the base's own code to run."""
    dtype: str = "auto"
    """Type to compute in: "float32", "bfloat16", or "auto" for the type of the stored weights."""
    preferences: Sequence[Preference] = field(default=())
    held_out: Sequence[Preference] = field(default=())
    """Pairs that are scored every `eval_steps` and never trained on."""
    bad_rows: int = 0
    """Rows of the data that gave no pair to train on, of those that `max_bad_rows` allows."""
    reference: Path | None = None
    """Folder that keeps the reference's log-probabilities, which trainings may share; None: within `out`."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """Further contents of checkpoint.json, such as a description of the data."""
    saved: Callable[[Checkpoint], bool] = lambda checkpoint: True
    """Called by the main process with every complete checkpoint; False ends the run for good."""


@dataclass(frozen=True, kw_only=True)
class PretrainingJob:
    """Pretraining, to start or to continue."""

    recipe: PretrainingRecipe
    out: Path
    """Folder for the models and the log; a killed run is continued from what it left there."""


Trainer = Callable[[Any], list[Checkpoint]]
"""A function of a Job, or of a PretrainingJob if its recipes pretrain."""


def trainer(name: str) -> Trainer:
    """The trainer installed under this name; UnknownName."""
    installed = entry_points(group="harness.trainers")
    if name not in installed.names:
        raise UnknownName("trainer", name, installed.names)
    found: Trainer = installed[name].load()
    return found
