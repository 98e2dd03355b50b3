"""A run folder belongs to one recipe, and one process at a time works in it.

with hold_run_folder(folder):
    claim(folder, recipe, limit)
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from support.errors import InputError, RunError
from support.files import atomic_write_text, check_regular_files, file_lock
from support.full_disk import naming_full_disk
from support.judge_names import current_judge
from support.parsing import parse_json
from support.processes import rank
from trainers.data.image_hashes import IMAGE_FACTS
from trainers.training.base_note import MERGED
from trainers.training.checkpoints import read_note

if TYPE_CHECKING:
    from trainers.config.recipe import PreferenceRecipe, PretrainingRecipe, Recipe

R = TypeVar("R", bound="Recipe")

log = logging.getLogger(__name__)

NAMED: Final = 4
"""Settings that a refusal names."""
MADE: Final = ("checkpoint-*", "*/checkpoint-*", "log.jsonl", "stopped.json", "data/*", "report.md")
"""Files of a run folder that belong to one recipe and took work. Scores are of no recipe: each says what it is of."""
DERIVED: Final = (f"{IMAGE_FACTS}*", "leaks.json", "left_out.json")
"""Those among them that are made again in no time."""
SCORED: Final = "score_checkpoints"
CLAIM: Final = "run.json"
AUTO: Final = "auto"
SEVERAL: Final = "several_seeds"
LEFT: Final = (CLAIM, "data.json", "left_out.json")
"""Files that a start writes before there is anything."""


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Inside, no other run works in the folder. The processes of one run count as one. A run that fails before it made
    anything leaves the folder free.

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
        was_claimed = (folder / CLAIM).exists()
        try:
            with naming_full_disk(folder):
                yield
        except BaseException:
            if rank() == 0 and not was_claimed and not any(_made_in(folder)):
                _release(folder)
            raise


def _release(folder: Path) -> None:
    """Take back a claim of which nothing came, so that the same folder is free for what an error advises."""
    for name in LEFT:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / MERGED, ignore_errors=True)


def claim(
    folder: Path,
    recipe: "PreferenceRecipe | PretrainingRecipe",
    limit: int | None = None,
    *,
    several: bool = False,
) -> None:
    """Make the folder this recipe's, with this limit, for one training or for `several`; InputError, with what differs,
    if it is another's."""
    check_regular_files(folder, ("*", "*/*", "data/answers/*"))
    path = folder / CLAIM
    wanted: dict[str, Any] = {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest, "limit": limit}
    wanted |= {SEVERAL: True} if several else {}
    if not path.exists():
        for note in map(read_note, sorted(folder.glob("checkpoint-*"))):
            if note.get("recipe", recipe.digest) != recipe.digest:
                raise InputError(
                    f"{folder} has checkpoints of a run with other settings, and its {CLAIM} is gone; "
                    "choose another --out or remove it"
                )
        if rank() == 0:
            atomic_write_text(path, json.dumps(wanted, indent=1))
        return
    try:
        held = parse_json(path.read_text(encoding="utf-8"))
        for_several = bool(held.get(SEVERAL))
        same = (held["digest"], held["limit"], for_several) == (recipe.digest, limit, several)
        name = held["recipe"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: can't be read; choose another --out or remove it") from None
    if not same:
        found = find_differences(_identify_scoring(held["recipe"]), _identify_scoring(wanted["recipe"]))
        found += find_differences({"limit": held["limit"], SEVERAL: for_several}, {"limit": limit, SEVERAL: several})
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        which = f" ({', '.join(found[:NAMED])}{more})" if found else ""
        raise InputError(
            f"{folder} holds a run of recipe {name!r} with other settings{which}; choose another --out or remove it"
        )


def tasks_of_run(folder: Path) -> list[str]:
    """The tasks that a run of ours is scored on; none where the folder is of no such run."""
    try:
        found = parse_json((folder / CLAIM).read_text(encoding="utf-8"))["recipe"]["tasks"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def keep_own_scoring(folder: Path, recipe: R) -> R:
    """The recipe, with as many checkpoints to score as the folder's run began with, and with the engine that `auto`
    stood for then, if it differs in nothing else, such as a run of a recipe's earlier version."""
    training, is_auto = recipe.training, recipe.scoring is not None and recipe.scoring.engine == AUTO
    kept = (f"training.{SCORED}:", *["scoring.engine:"] * is_auto)
    try:
        held = parse_json((folder / CLAIM).read_text(encoding="utf-8"))["recipe"]
        there, asked = _identify_scoring(held), _identify_scoring(recipe.model_dump(mode="json"))
        differences = find_differences(there, asked)
        count, engine = held["training"].get(SCORED), there["scoring"].get("engine")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return recipe  # `claim` tells
    if training is None or not differences or not all(each.startswith(kept) for each in differences):
        return recipe
    log.info("%s: goes on as it began: %s", folder, ", ".join(differences))
    recipe = recipe.model_copy(update={"training": training.model_copy(update={SCORED: count})})
    return with_engine(recipe, engine) if is_auto else recipe


def with_engine(recipe: R, engine: str | None) -> R:
    """The recipe with this engine in place of `auto`; None: our own."""
    assert recipe.scoring is not None
    given = recipe.scoring.model_dump(exclude_defaults=True)
    left = {name: value for name, value in {**given, "engine": engine}.items() if value is not None}
    scoring = type(recipe.scoring).model_validate(left) if left else None
    return recipe.model_copy(update={"scoring": scoring})


def _identify_scoring(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values with those of its [scoring] that a run must go on with, where they say something."""
    from trainers.config.scoring import REACHED

    own = recipe.get("scoring") or {}
    told = {name: value for name, value in own.items() if value not in (None, {}) and name not in REACHED}
    return {**recipe, "scoring": told}


def _made_in(folder: Path) -> Iterator[Path]:
    """What a run has trained, scored, asked or paid for."""
    for pattern in MADE:
        for path in folder.glob(pattern):
            derived = any(fnmatch(path.name, name) for name in DERIVED)
            if not derived and (path.is_dir() or path.stat().st_size):
                yield path


def find_differences(held: Mapping[str, Any], wanted: Mapping[str, Any], within: str = "") -> list[str]:
    """Each setting of two recipes that differs, as "training.beta: 0.1 there, 0.2 asked"."""
    found = []
    for name in dict.fromkeys([*held, *wanted]):
        there, here = held.get(name), wanted.get(name)
        there = current_judge(there) if name == "judge" else there
        if isinstance(there, dict) and isinstance(here, dict):
            found += find_differences(there, here, f"{within}{name}.")
        elif there != here:
            found.append(f"{within}{name}: {_shorten(there)} there, {_shorten(here)} asked")
    return found


def _shorten(value: object) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
