"""What a trainer is given, whatever it trains: the signature of the entry points in the group `harness.trainers`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from trainers.recipe import Checkpoint, Recipe
from trainers.rows import Preference


def _ignore(done: int, total: int) -> None:
    """No one is watching."""


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
    progress: Callable[[int, int], None] = _ignore
    """Told (steps done, steps in all)."""


Trainer = Callable[[Job], list[Checkpoint]]


def trainer(name: str) -> Trainer:
    """The trainer installed under this name; LookupError names the known ones."""
    installed = entry_points(group="harness.trainers")
    if name not in installed.names:
        raise LookupError(f"no trainer {name!r}; known: {', '.join(sorted(installed.names))}")
    found: Trainer = installed[name].load()
    return found
