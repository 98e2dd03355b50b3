"""A run folder is one recipe's, and one process at a time works in it.

with sole_owner(folder):
    claim(folder, recipe, limit)
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import InputError, RunError
from support.files import atomic_write_text
from support.processes import rank

if TYPE_CHECKING:
    from trainers.config.recipe import Recipe

NAMED: Final = 4
"""Settings that a refusal names."""


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Two runs in one folder would write over each other: the second one is told so. The processes of one run are one.

    InputError for what can't be a folder; RunError where another process is at work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{folder}: can't be the run's folder ({error.strerror}); choose another --out") from None
    with opened as file:
        try:
            if rank() == 0:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process is at work in this run folder") from None
        yield


def claim(folder: Path, recipe: "Recipe", limit: int | None = None) -> None:
    """The folder belongs to one recipe and limit; InputError, with what differs, for another's."""
    path = folder / "run.json"
    asked: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest, "limit": limit}
    if not path.exists():
        if rank() == 0:
            atomic_write_text(path, json.dumps(asked, indent=1))
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        same, name = (held["digest"], held["limit"]) == (recipe.digest, limit), held["recipe"]["name"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: can't be read; choose another --out or remove it") from None
    if not same:
        told = [*differing(held["recipe"], asked["recipe"]), *differing({"limit": held["limit"]}, {"limit": limit})]
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        said = f" ({', '.join(told[:NAMED])}{more})" if told else ""
        raise InputError(
            f"{folder} holds a run of recipe {name!r} with other settings{said}; choose another --out or remove it"
        )


def differing(held: Mapping[str, Any], asked: Mapping[str, Any], within: str = "") -> list[str]:
    """Each setting of two recipes that differs, as "training.beta: 0.1 there, 0.2 asked"."""
    found = []
    for name in dict.fromkeys([*held, *asked]):
        there, here = held.get(name), asked.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += differing(there, here, f"{within}{name}.")
        elif there != here:
            found.append(f"{within}{name}: {_short(there)} there, {_short(here)} asked")
    return found


def _short(value: object) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
