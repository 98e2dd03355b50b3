"""Aligning a Qwen2.5-VL on pairs of one's own, and a gate on the repository that keeps the boards."""

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from tests.journeys.walk import ROOT, User
from tests.trainers.image_makers import photo

RECIPE = """
name = "mine"
trainer = "dpo"
base = "{qwen}"
tasks = ["scenes_pope"]
[dataset]
read = "pairs.jsonl"
[training]
learning_rate = 1e-2
batch_size = 4
epochs = 2
checkpoints = 2
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*q_proj'
"""
PAIR = {"prompt": "What is in the image?", "chosen": "yes a red circle", "rejected": "no two dogs on the table"}
RUN = "train-then-eval mine.toml --images pictures --limit 4"
CHECK = "check --baseline {base} --baseline-model {qwen} --partial --junit gate.xml --comment gate.md"


@pytest.fixture
def engineer(user: User, qwen: Path) -> User:
    """With a recipe, and sixteen pairs about pictures in a folder."""
    Path("pictures").mkdir()
    for number in range(16):
        photo(number, 84, 56).save(f"pictures/{number}.png")
    rows = [{"id": str(number), "image": f"{number}.png", **PAIR} for number in range(16)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("mine.toml").write_text(RECIPE.replace("{qwen}", str(qwen)), encoding="utf-8")
    user.names.update(qwen=qwen, base="runs/mine/board")
    return user


def last_checkpoint() -> Path:
    return max(Path("runs/mine").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


def test_from_the_recipe_to_the_gate(engineer: User) -> None:
    wrong = engineer.types("train-then-eval min.toml --dry-run", code=2)
    assert "min.toml" in wrong.err
    missing = engineer.types("train-then-eval mine.toml --images nowhere --limit 4", code=2)
    assert "nowhere" in missing.err
    assert not Path("runs/mine/board").exists()
    planned = engineer.types(RUN + " --dry-run")
    assert "mine: dpo on" in planned.out
    assert not Path("runs/mine").exists()

    seen = engineer.types(RUN)
    last = last_checkpoint()
    assert f"`{last}` against `{engineer.names['qwen']}`" in seen.out
    for line in seen.err.splitlines():  # what it says comes next is typed as it stands
        if line.startswith("next: "):
            engineer.types(line.removeprefix("next: harness "))
    assert Path("runs/mine/board.html").is_file()
    again = engineer.types(RUN)
    assert "train dpo" not in again.err
    scored = engineer.types(f"eval --model {last} --tasks scenes_pope --limit 4 --out scored")
    assert str(last) in scored.out

    unlike = engineer.types(CHECK + " --model runs/mine/checkpoint-99", code=2)
    assert f"did you mean '{last}'" in unlike.err or "known:" in unlike.err
    forgotten = engineer.types("check --baseline runs/mine/board --board scored", code=1)
    assert "--partial includes them" in forgotten.out
    passed = engineer.types(CHECK + f" --model {last}")
    assert "Gate passed" in passed.out
    assert ET.parse("gate.xml").getroot().get("failures") == "0"
    claimed = engineer.types(CHECK + f" --model {last} --require-better scenes_pope", code=3)
    assert "Gate failed" in claimed.out
    assert ET.parse("gate.xml").getroot().get("failures") == "1"
    comment = Path("gate.md").read_text(encoding="utf-8")
    assert comment.startswith("<!-- harness check -->")
    assert "Gate failed" in comment


def test_the_action_runs_the_gate_of_the_workflow(engineer: User, tmp_path: Path) -> None:
    """The shell lines of action.yml, with inputs as gate.yml names them and `harness` as it is installed."""
    engineer.types("eval --model {qwen} --name ours --tasks scenes_pope --limit 4 --out board")
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    workflow = yaml.safe_load((ROOT / ".github/workflows/gate.yml").read_text(encoding="utf-8"))
    step = next(step for step in workflow["jobs"]["gate"]["steps"] if "vlm-harness" in step.get("uses", ""))
    assert set(step["with"]) <= set(action["inputs"])
    script = next(step["run"] for step in action["runs"]["steps"] if "harness check" in step.get("run", ""))
    harness = tmp_path / "bin" / "harness"
    harness.parent.mkdir()
    harness.write_text(f'#!/bin/sh\nexec "$PYTHON" -c \'{MAIN}\' "$@" --partial\n', encoding="utf-8")
    harness.chmod(0o755)
    inputs = {"BASELINE": "board", "BOARD": "board", "TOLERANCE": "scenes_pope.f1=5", "REQUIRE_BETTER": ""}
    for claim, code in (("", 0), ("scenes_pope", 3)):
        done = run_shell(script, tmp_path, inputs | {"REQUIRE_BETTER": claim})
        assert done.returncode == code, done.stdout + done.stderr
        assert ET.parse("gate.xml").getroot().get("failures") == str(int(code == 3))


MAIN = "from harness.cli.main import main; main()"


def run_shell(script: str, folder: Path, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    import os
    import sys

    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    given = {**os.environ, **variables, "PATH": path, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=given, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_while_it_trains_the_same_command_goes_on(engineer: User) -> None:
    engineer.kills(RUN, lambda: any(Path("runs/mine").glob("checkpoint-*/checkpoint.json")))
    first = min(Path("runs/mine").glob("checkpoint-*/checkpoint.json"))
    written = first.stat().st_mtime_ns
    seen = engineer.types(RUN)
    assert first.stat().st_mtime_ns == written
    assert f"`{last_checkpoint()}` against" in seen.out
