"""A server's program that was upgraded: what the board has of the one before is scored anew, nothing else is."""

import shutil
import sys
from pathlib import Path

import pytest

from harness.cli import main as cli
from harness.serving.installed import installed_version
from leaderboards.board.board import Board
from tests.harness.fake_vllm import program, starts

EVAL = ("eval", "--serve", "vllm", "--tasks", "scenes_pope", "--limit", "6", "--model", "scenes-base", "--out", "run")


def install(folder: Path, version: str) -> None:
    """In the environment of a program, as pip notes it."""
    for old in folder.glob("vllm-*.dist-info"):
        shutil.rmtree(old)
    info = folder / f"vllm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Where packages of an environment are, whose Python is `tmp_path/python`, beside the program of `vllm`."""
    packages = tmp_path / "packages"
    packages.mkdir()
    program(tmp_path / "python", f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
    return packages


def test_the_version_is_that_of_the_programs_own_environment(environment: Path, tmp_path: Path) -> None:
    beside = program(tmp_path / "served", "#!/bin/sh\n")
    assert installed_version(str(beside), "vllm") is None
    install(environment, "0.32.0+cpu")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/vllm").symlink_to(beside)
    named = program(tmp_path / "links/named", f"#!{tmp_path}/python\n")
    for way in (beside, tmp_path / "links/vllm", named, tmp_path / "python"):
        assert installed_version(str(way), "vllm") == "0.32.0+cpu"
    assert installed_version(str(tmp_path / "none"), "vllm") is None


def test_after_an_upgrade_alone_the_model_is_scored_anew(
    environment: Path, vllm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    for version in ("1.0+cu128", "1.0+cu130", "1.1", "1.1"):
        install(environment, version)
        monkeypatch.setenv("FAKE_VLLM", version.split("+")[0])
        assert cli.run([*EVAL]) == 0
        started.append(len(starts(vllm)))
    assert started == [1, 1, 2, 2]
    known = {entry.provenance["server version"] for entry in Board(Path("run/board")).entries()}
    assert known == {"vllm 1.0", "vllm 1.1"}
