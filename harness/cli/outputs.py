"""Where a command will write is looked at before it does anything: no hour of work, and no paid call, for a full disk
or a folder that can't be written."""

import errno
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from support.errors import Need, UsageError, one_line
from support.full_disk import is_full

FOLDERS: Final = (
    *(
        "eval",
        "score",
        "train-then-eval",
        "train",
        "attention",
        "vlfeedback build",
        "vlfeedback annotate",
        "povid inject",
    ),
    *("models convert-llava", "judge bench", "tasks new"),
)
"""Commands whose `out` is a folder."""
LISTED: Final = tuple(command for command in FOLDERS if command not in ("models convert-llava", "tasks new"))
"""Those of them that tell of it among all that is missing."""
PLACES: Final = {
    "watch": ("out",),
    "judge export": ("file",),
    "judge labels": ("out",),
    "store rescue": ("new",),
    "vlfeedback pairs": ("out",),
    "vlfeedback convert": ("out",),
    "vlfeedback stats": ("out",),
    "vlfeedback leaks": ("out", "drop", "fingerprints"),
    "povid noise": ("out",),
}
"""Commands that write a file, or a file or a folder."""
STORES: Final = ("ledger", "answers")
"""Options of any command that name a file which is kept open and written."""
_SHOWN: Final = 80
"""Most characters of a name in a message."""


def check_outputs(command: str, values: Mapping[str, Any], options: Mapping[str, str], given: Collection[str]) -> None:
    """UsageError for an output of a command (its words, without `harness`) that can't be written.

    `values` is what its parameters are, `options` how they are written, `given` those that the user has given.
    """
    for name, value in values.items():
        if not isinstance(value, (str, Path)) or not str(value):
            continue
        option, path = options[name], Path(value)
        if name == "out" and command in FOLDERS and command not in LISTED:
            check_target(option, path, folder=True)
        elif name in PLACES.get(command, ()):
            check_target(option, path, folder=path.is_dir())
        elif name in STORES and name in given and not command.startswith("judge"):
            check_target(option, path)
            if path.exists() and not os.access(path, os.W_OK):
                raise UsageError(f"{option} {str(path)!r}: can't be written")


def needs_of_output(option: str, folder: Path) -> list[Need]:
    """The folder of a command's results, where nothing can be written there."""
    try:
        check_target(option, folder, folder=True)
    except UsageError as error:
        return [Need.of(error)]
    return []


def shorten(text: str) -> str:
    """The name of a file for a message: of a long one its ends."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made in a folder: of some, as /proc, only trying tells."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return is_full(folder) or error.errno in (errno.ENOSPC, errno.EDQUOT)  # which is told in its own words


def check_target(option: str, path: Path | None, *, folder: bool = False) -> None:
    """UsageError where nothing can be written at `path`, before anything is computed for it."""
    if path is None:
        return
    if "\0" in str(path):
        raise UsageError(f"{option} {str(path)!r}: no name of a file has a null character")
    try:
        path.exists()
    except OSError as error:  # of a name that is too long, or of links that go in a circle
        raise UsageError(f"{option} {shorten(str(path))!r}: {one_line(error.strerror)}") from None
    if not folder and path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a folder; give a file")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a file; give a folder")
    above = next(parent for parent in (*path.parents, Path()) if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{option} {str(path)!r}: {str(above)!r} is a file, not a folder")
    there = path if folder and path.exists() else above
    if not os.access(there, os.W_OK | os.X_OK) or not _takes_files(there):
        raise UsageError(f"{option} {str(path)!r}: nothing can be written in {str(there)!r}")
    if not folder and path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{option} {str(path)!r}: can't be written")
    if is_full(there):
        raise UsageError(f"{option} {str(path)!r}: no space is left on its disk; name another place, or free some")
