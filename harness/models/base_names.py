"""What a checkpoint says of the base it was trained from: an absolute folder, one relative to itself, or a hub id.

Notes of earlier versions, and other trainers, name folders relative to where training ran: that was some folder above
the checkpoint, or is the working directory. Who wrote a checkpoint may be a stranger: `is_outside` says which folders
it may name; a note with this user's own seal may name any.
"""

import json
import os
import re
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from support.errors import InputError, one_line
from trainers.training.base_note import BASE, HUB_CACHE, MERGED, NEAR, REVISION, is_sealed
from trainers.training.checkpoints import NOTE

ADAPTER_CONFIG: Final = "adapter_config.json"
WEIGHTS_CONFIGS: Final = (ADAPTER_CONFIG, "config.json")
_REVISION: Final = re.compile(r"(?!.*\.\.)[\w][\w./-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class NamedBase:
    """A base as `find` takes it."""

    name: str
    revision: str | None = None
    """Commit of a hub id."""
    outside: bool = False
    """Whether it is a folder that a stranger's checkpoint may not name."""


def named_base(folder: Path, known: Container[str] = ()) -> NamedBase | None:
    """The base that a checkpoint's note, else its adapter's configuration, names; None where neither names one.

    `known` are models' names, hub ids and folders, which are taken as they are. InputError for a file that can't be
    read, or a revision that is none.
    """
    config = read_object(folder / ADAPTER_CONFIG)
    note = read_object(folder / NOTE)
    revision = _read_text(note, REVISION) or _read_text(config, REVISION)
    if revision is not None and _REVISION.fullmatch(revision) is None:
        raise InputError(f"{folder}: revision {revision!r} is no commit, branch or tag of a hub id")
    if (name := _read_text(note, BASE)) is not None:
        found = _find_named(name, folder, known, revision, _read_text(note, NEAR))
        return replace(found, outside=False) if is_sealed(note) else found
    if (name := _read_text(config, "base_model_name_or_path")) is not None:
        return _find_named(name, folder, known, _read_text(config, REVISION))
    return None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, nothing where there is no file; InputError."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: can't be read: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object")
    return found


def holds_weights(folder: Path, *configs: str) -> bool:
    """True for a folder with weights or an adapter, or one of `configs`; False for what can't be a path, too."""
    try:
        return any((folder / name).is_file() for name in configs or WEIGHTS_CONFIGS)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """True for a folder; False for what can't be a path, too."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _read_text(found: dict[str, Any], key: str) -> str | None:
    value = found.get(key)
    return value if isinstance(value, str) and value.strip() else None


def _find_named(
    name: str, folder: Path, known: Container[str], revision: str | None, near: str | None = None
) -> NamedBase:
    """The base of this name, for the checkpoint in `folder`."""
    if name in known or "://" in name:
        return NamedBase(name=name, revision=revision)
    path, here = Path(name), folder.resolve()
    if name.startswith(("./", "../")) and holds_weights(here / path):
        return NamedBase(name=name_of_folder(here / path), outside=is_outside(here / path, here, name))
    if path.is_absolute():
        places = {path: name} | ({here / near: near} if near else {})
    else:
        places = {parent / path: name for parent in here.parents}
    if path.name == MERGED:  # an adapter's base with another adapter merged into it lies in the run folder
        places = {parent / MERGED: MERGED for parent in here.parents[:2]} | places
    found = {
        place: is_outside(place, here, as_) for place, as_ in (places | {path: name}).items() if holds_weights(place)
    }
    for place in sorted(found, key=lambda place: found[place]):
        as_written = near is None and holds_weights(path) and place.resolve() == path.resolve()
        shown = name if as_written else name_of_folder(place)  # boards know bases as they were written
        if not found[place] or not re.search(HUB_CACHE, name):
            return NamedBase(name=shown, outside=found[place])
    if (cached := re.search(HUB_CACHE, name)) is not None:
        return NamedBase(name=f"{cached[1]}/{cached[2]}", revision=cached[3])
    return NamedBase(name=name, revision=revision)


def is_outside(place: Path, here: Path, name: str) -> bool:
    """True for a folder that the checkpoint in `here` may not name, links followed.

    It may name one beside it (of a `checkpoint-N`: beside its run), one below the working directory, and by an absolute
    name, as peft writes it, one of the user's own. Who put it on the hub knows no folder of this machine.
    """
    place = place.resolve()
    beside = here.parents[1] if here.name.startswith("checkpoint-") and len(here.parents) > 1 else here.parent
    if any(place.is_relative_to(root) for root in (Path.cwd().resolve(), beside)):
        return False
    from_hub = re.search(HUB_CACHE, here.as_posix()) is not None
    return from_hub or not (Path(name).is_absolute() and place.stat().st_uid == os.geteuid())


def name_of_folder(folder: Path) -> str:
    """What boards call a folder, however it is spelled: its path from the working directory where it lies below that,
    else in full; links are followed."""
    place, here = folder.expanduser().resolve(), Path.cwd().resolve()
    return place.relative_to(here).as_posix() if here in place.parents else place.as_posix()
