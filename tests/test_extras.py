"""What a light install does, and what it says of the rest. Slow: a fresh environment for each extra."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.extras import _MODULES, extra_of

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "tests" / "runs" / "demo"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOG = sorted((DEMO / "board").glob("*.samples.parquet"))[0]
LAST = "runs/scenes-demo/checkpoint-47"

LIGHT = (
    "tasks",
    "models",
    "judge families gpt-4o",
    f"leaderboard {DEMO} --base scenes-base --ranks",
    f"leaderboard {DEMO} --html page.html",
    f"compare scenes-base {LAST} --board {DEMO}",
    f"check --baseline {DEMO}/board --baseline-model scenes-base --board {DEMO}/board --model {LAST}",
    f"power scenes_chair --board {DEMO} --difference 2",
    f"score scenes_pope {LOG} --out files --name given",
    "leaderboard files",
)


def names_of(extra: str) -> set[str]:
    found = map(Requirement, PROJECT["optional-dependencies"][extra])
    return {one.name for one in found if one.name != PROJECT["name"]}


def test_each_package_of_an_extra_has_a_module_that_names_it() -> None:
    owners = importlib.metadata.packages_distributions()
    for extra in ("eval", "train"):
        named = {name.lower().replace("_", "-") for module in _MODULES[extra] for name in owners.get(module, ())}
        assert {name.lower() for name in names_of(extra)} <= named, extra
    assert set(_MODULES) <= set(PROJECT["optional-dependencies"])


def test_no_package_of_a_light_install_belongs_to_an_extra() -> None:
    light = {Requirement(one).name.lower() for one in PROJECT["dependencies"]}
    assert not light & {name.lower() for extra in ("eval", "train") for name in names_of(extra)}
    assert extra_of("lm_eval.api.task") == "eval"
    assert extra_of("trl") == "train"
    assert extra_of("numpy") is None
    assert extra_of(None) is None


IN_LIGHT = {"PIL", "yaml", "backports", "markdown_it", "markupsafe"}
"""Modules of a light install that are called otherwise than its packages, or that come with these."""


def test_every_module_that_is_imported_is_of_a_light_install_or_of_an_extra() -> None:
    own = {"harness", "trainers", "tasks", "leaderboards", "support"}
    light = own | IN_LIGHT | {Requirement(one).name for one in PROJECT["dependencies"]} | sys.stdlib_module_names
    lacking: dict[str, Path] = {}
    for file in (file for folder in sorted(own) for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            lacking |= {name: file for name in names if name.partition(".")[0] not in light and extra_of(name) is None}
    assert lacking == {}


BLOCKED = """
import importlib.util, sys
sys.modules.update(dict.fromkeys({modules!r}))  # what is None here can't be imported
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: sys.modules.get(name, ...) and there(name, package)
from harness.cli.main import run
sys.exit([code for code in (run(command.split()) for command in {commands!r}) if code] != {expected!r})
"""


def run_blocked(commands: tuple[str, ...], expected: list[int], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run commands in one process in which nothing of an extra can be imported; exit 0 for the expected failures."""
    modules = sorted(module for extra in _MODULES.values() for module in extra)
    code = BLOCKED.format(modules=modules, commands=commands, expected=expected)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_a_light_install_reads_compares_and_gates(tmp_path: Path) -> None:
    done = run_blocked(LIGHT, [], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "scenes_chair" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "extra"),
    (
        ("eval --model scenes-base --tasks scenes_pope --limit 2", "eval"),
        ("train-then-eval scenes-demo", "train"),
    ),
)
def test_a_missing_extra_is_named_with_its_command(command: str, extra: str, tmp_path: Path) -> None:
    done = run_blocked((command,), [1], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"pip install 'vlm-harness[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def outside() -> dict[str, str]:
    """An environment in which this checkout is not found by itself."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def make_environment(folder: Path, extra: str) -> tuple[Path, float]:
    """A fresh environment with the project's wheel in it, and the seconds that took after torch."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip"]
    build = [sys.executable, *f"-m pip wheel --quiet --no-deps --no-build-isolation -w {folder} {ROOT}".split()]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    if extra:  # by itself and first: no other package may choose its build
        subprocess.run(
            [*pip, "install", "--quiet", f"torch=={importlib.metadata.version('torch')}"], check=True, env=outside()
        )
    start = time.monotonic()
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    subprocess.run([*pip, "install", "--quiet", "-c", str(ROOT / "constraints.txt"), what], check=True, env=outside())
    return folder / "venv" / "bin" / "harness", time.monotonic() - start


@pytest.mark.slow
def test_the_light_install_is_light(tmp_path: Path) -> None:
    harness, seconds = make_environment(tmp_path, "")
    for command in LIGHT:
        subprocess.run([str(harness), *command.split()], cwd=tmp_path, env=outside(), check=True, capture_output=True)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    own = [folder for folder in site.iterdir() if not folder.name.startswith(("pip", "setuptools", "pkg_resources"))]
    size = sum(path.stat().st_size for folder in own for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{size:.0f} MB, {seconds:.0f} s")
    assert size < 150
    assert not (site / "torch").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "command"),
    (
        ("eval", "eval --model scenes-base --tasks scenes --limit 4"),
        ("train", "train-then-eval scenes-demo --limit 4"),
    ),
)
def test_an_extra_brings_all_it_is_for(extra: str, command: str, tmp_path: Path) -> None:
    harness, _ = make_environment(tmp_path, extra)
    done = subprocess.run(
        [str(harness), *command.split()], cwd=tmp_path, env=outside(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
