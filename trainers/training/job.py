"""What a trainer is given, whatever it trains: the signature of the entry points in the group `harness.trainers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trainers.config.recipe import Recipe
from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint


def _ignore(done: int, total: int) -> None:
    """No one is watching."""


def _go_on(checkpoint: Checkpoint) -> bool:
    return True


def _unheard(line: str) -> None:
    """No one is listening."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run to do or to finish."""

    recipe: Recipe
    out: Path
    """Folder for checkpoints and log; what a killed run left there is gone on with."""
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
    progress: Callable[[int, int], None] = _ignore
    """Told (steps done, steps in all)."""
    referring: Callable[[int, int], None] = _ignore
    """Told (pairs done, pairs in all) while the reference is asked about them, before training."""
    saved: Callable[[Checkpoint], bool] = _go_on
    """Told of every checkpoint once it is whole, in the main process alone; False ends the run there, for good."""
    tell: Callable[[str], None] = _unheard
    """Told what the user should read, line by line."""


Trainer = Callable[[Job], list[Checkpoint]]


def trainer(name: str) -> Trainer:
    """The trainer installed under this name; LookupError names the known ones."""
    installed = entry_points(group="harness.trainers")
    if name not in installed.names:
        raise LookupError(f"no trainer {name!r}; known: {', '.join(sorted(installed.names))}")
    found: Trainer = installed[name].load()
    return found
