"""A run folder belongs to one recipe, and one process at a time works in it.

with hold_run_folder(folder):
    claim(folder, recipe, limit)
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import InputError, RunError
from support.files import atomic_write_text, file_lock
from support.processes import rank

if TYPE_CHECKING:
    from trainers.config.recipe import PreferenceRecipe, PretrainingRecipe

NAMED: Final = 4
"""Settings that a refusal names."""


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Inside, no other run works in the folder. The processes of one run count as one.

    InputError for what can't be a folder; RunError if another process is at work.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = rank() != 0 or stack.enter_context(file_lock(folder / "run", wait=False))
        except OSError as error:
            raise InputError(f"{folder}: can't be the run's folder ({error.strerror}); choose another --out") from None
        if not held:
            raise RunError(f"{folder}: another process is at work in this run folder")
        yield


def claim(folder: Path, recipe: "PreferenceRecipe | PretrainingRecipe", limit: int | None = None) -> None:
    """Make the folder this recipe's, with this limit; InputError, with what differs, if it is another's."""
    path = folder / "run.json"
    wanted: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest, "limit": limit}
    if not path.exists():
        if rank() == 0:
            atomic_write_text(path, json.dumps(wanted, indent=1))
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        same, name = (held["digest"], held["limit"]) == (recipe.digest, limit), held["recipe"]["name"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: can't be read; choose another --out or remove it") from None
    if not same:
        found = find_differences(held["recipe"], wanted["recipe"])
        found += find_differences({"limit": held["limit"]}, {"limit": limit})
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        which = f" ({', '.join(found[:NAMED])}{more})" if found else ""
        raise InputError(
            f"{folder} holds a run of recipe {name!r} with other settings{which}; choose another --out or remove it"
        )


def find_differences(held: Mapping[str, Any], wanted: Mapping[str, Any], within: str = "") -> list[str]:
    """Each setting of two recipes that differs, as "training.beta: 0.1 there, 0.2 asked"."""
    found = []
    for name in dict.fromkeys([*held, *wanted]):
        there, here = held.get(name), wanted.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += find_differences(there, here, f"{within}{name}.")
        elif there != here:
            found.append(f"{within}{name}: {_shorten(there)} there, {_shorten(here)} asked")
    return found


def _shorten(value: object) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
