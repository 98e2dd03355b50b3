"""Which version of a server's program is installed, told without starting it: to import vLLM takes half a minute.

installed_version("/opt/vllm/bin/vllm", "vllm")        # "0.32.0+cpu"; None where that can't be told

is_same("vllm 0.32.0", "vllm 0.32.0+cpu")              # True: servers leave out the build
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ASKED: Final = "import sys, importlib.metadata as found; print(found.version(sys.argv[1]))"
_PLACE: Final = "import sys, importlib.util as found; print(*found.find_spec(sys.argv[1]).submodule_search_locations)"
_PATIENCE: Final = 20.0
"""Seconds for Python to start."""


def installed_version(program: str, package: str) -> str | None:
    """What the environment that a program belongs to says of a package."""
    found = (said for said in _ask(program, _ASKED, package) if re.fullmatch(r"[\w.+!-]{1,100}", said))
    return next(found, None)


def find_package(program: str, package: str) -> Path | None:
    """The folder of a package in the environment that a program belongs to."""
    return next((Path(said) for said in _ask(program, _PLACE, package) if Path(said).is_dir()), None)


def _ask(program: str, code: str, package: str) -> Iterator[str]:
    """What the Pythons that may be a program's print."""
    for python in dict.fromkeys(_find_pythons(Path(program))):
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            yield subprocess.run(
                [python, "-c", code, package],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            continue


def is_same(one: str, other: str) -> bool:
    """Whether two versions are the same but for the build."""
    return one.split("+")[0] == other.split("+")[0]


def _find_pythons(program: Path) -> Iterator[str]:
    """The program itself, the one that its first line names, those beside it and beside what it is a link to."""
    if re.fullmatch(r"python[\d.]*", program.name):
        yield str(program)
        return
    try:
        with program.open("rb") as file:
            first = file.readline(500).decode(errors="replace")
    except OSError:
        return
    if found := re.match(r"#!\s*(/\S*python[\d.]*)\s*$", first):
        yield found[1]
    for folder in (program.parent, program.resolve().parent):
        if beside := shutil.which("python", path=folder):
            yield beside
