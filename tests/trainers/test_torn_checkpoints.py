"""Training goes on from a checkpoint that is whole, and never without the state of its optimizer."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.errors import RunError
from trainers.training.checkpoints import NOTE, find_checkpoints, what_state_lacks
from trainers.training.loop import _continuable


def write(out: Path, step: int) -> Path:
    """A checkpoint as training leaves it."""
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(64, 64)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(32, 32)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9, "log_history": []}))
    (folder / NOTE).write_text(json.dumps({"step": step, "steps": 9}))
    return folder


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros from the middle on": lambda path: path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2] + bytes(path.stat().st_size - path.stat().st_size // 2)
    ),
    "other bytes": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
}
STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
WHOLE = ("adapter_model.safetensors", "adapter_config.json", NOTE)


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", STATE)
def test_training_goes_on_from_the_checkpoint_before_a_torn_one(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 2)
    torn = write(tmp_path, 4)
    DAMAGE[how](torn / name)
    found = find_checkpoints(tmp_path, "dpo")
    assert [each.step for each in found] == [2, 4]  # its weights can be scored
    with caplog.at_level(logging.WARNING):
        assert [each.step for each in _continuable(found)] == [2]
    assert name in caplog.text
    shutil.rmtree(tmp_path / "checkpoint-2")
    with pytest.raises(RunError, match=f"checkpoint-4: training can't go on from it: .*{name}.*remove it") as error:
        _continuable(find_checkpoints(tmp_path, "dpo"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", [how for how in DAMAGE if how != "zeros from the middle on"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_checkpoint_with_torn_weights_is_not_whole(tmp_path: Path, name: str, how: str) -> None:
    write(tmp_path, 2)
    DAMAGE[how](write(tmp_path, 4) / name)
    if (name, how) == ("adapter_config.json", "gone"):
        (tmp_path / "checkpoint-4" / "adapter_model.safetensors").unlink()
    assert [each.step for each in find_checkpoints(tmp_path, "dpo")] == [2]


def test_only_the_last_ones_are_looked_at(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        write(tmp_path, step)
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()  # to save room
    assert [each.step for each in _continuable(find_checkpoints(tmp_path, "dpo"))] == [2, 4, 6]
    assert _continuable([]) == []


def test_states_of_several_processes_and_of_sharded_optimizers_are_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    assert what_state_lacks(folder, 2) == ""
    (folder / "optimizer.pt").unlink()
    (folder / "optimizer_0").mkdir()  # FSDP's
    assert what_state_lacks(folder, 2) == ""
    (folder / "optimizer_0").rmdir()
    (folder / "scheduler.pt").unlink()
    (folder / "global_step2").mkdir()  # DeepSpeed's
    assert what_state_lacks(folder, 2) == ""
    assert "of step 2" in what_state_lacks(folder, 4)
