"""The script for a GPU runs, at a size of toys."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("measure.py")


@pytest.mark.slow
def test_the_script_measures_every_part(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--cpu", "--out", str(tmp_path / "found.json")]
    subprocess.run(command, env=environment, check=True)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["generate.equal_answers"] == 1
    assert found["dpo.pair.loss_difference"] < 1e-4
    assert {"engine.vs_hf", "generate.vs_hf", "dpo.pair.vs_trl", "dpo.group.vs_trl"} <= found.keys()


@pytest.mark.slow
def test_without_a_gpu_the_script_says_so() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "there is no GPU; --cpu" in ended.stderr
