"""`harness train` from a command to checkpoints, and again; on a tiny Qwen-VL, and on the scenes world's own model."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.cli import main as cli
from tests.harness import qwen_vl_checkpoint
from tests.harness.rated_scenes import write_rated_scenes
from tests.trainers.test_silkie_config import EXAMPLE

RECIPE = """
name = "small"
trainer = "dpo"
base = "scenes-base"

[dataset]
read = "{data}"
test_share = 0.0

[training]
learning_rate = 1e-3
batch_size = 4
checkpoints = 2

[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*\\.(q_proj|v_proj)'
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rows, a pair each."""
    return write_rated_scenes(tmp_path_factory.mktemp("data"), "test-train")


@pytest.fixture
def recipe(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(data=data.as_posix()), encoding="utf-8")
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def logged(folder: Path, name: str) -> list[float]:
    """A value of each step in a run's log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line[name] for line in lines if "loss" in line]


def test_a_recipe_that_reads_its_data_is_trained_and_finished_once(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", str(recipe), "--out", str(out), "--json"]
    assert cli.run(command) == 0
    checkpoints = printed(capsys)["checkpoints"]
    assert [Path(path).name for path in checkpoints] == ["checkpoint-2", "checkpoint-4"]
    note = json.loads((Path(checkpoints[-1]) / "checkpoint.json").read_text())
    assert (note["base"], note["steps"]) == ("scenes-base", 4)
    about = json.loads((out / "data.json").read_text())
    assert (note["data"], about["pairs"]) == (about["digest"], 16)
    before = (Path(checkpoints[-1]) / "adapter_model.safetensors").stat().st_mtime_ns
    assert cli.run(command) == 0
    assert printed(capsys)["checkpoints"] == checkpoints
    assert (Path(checkpoints[-1]) / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_as_base_is_merged_first(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """POVID's second stage starts from its first one."""
    assert cli.run(["train", str(recipe), "--out", str(tmp_path / "one"), "--json"]) == 0
    first = printed(capsys)["checkpoints"][-1]
    assert cli.run(["train", str(recipe), "--base", first, "--out", str(tmp_path / "two"), "--json"]) == 0
    second = Path(printed(capsys)["checkpoints"][-1])
    base = tmp_path / "two" / "base"
    assert json.loads((second / "checkpoint.json").read_text())["base_from_here"] == "../base"
    from harness.models.spec import find

    assert find(str(second)).pretrained == str(base)
    original = load_file(Path(find("scenes-base").pretrained) / "model.safetensors")
    merged = load_file(base / "model.safetensors")
    assert original.keys() - merged.keys() <= {"language_model.lm_head.weight"}  # tied to what the tokens are read by
    changed = {name.rsplit(".", 2)[1] for name in merged if not (merged[name] == original[name]).all()}
    assert changed == {"q_proj", "v_proj"}


def test_the_authors_example_runs_unchanged(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But for the model, which is tiny here, and the data, which lie on this machine."""
    qwen_vl_checkpoint.write(tmp_path / "qwen-vl")
    example = tmp_path / "example.yaml"
    example.write_text(EXAMPLE, encoding="utf-8")
    out = tmp_path / "run"
    command = f"train --config {example} --working {out} --base {tmp_path / 'qwen-vl'} --train-data {data}".split()
    assert cli.run([*command, "--limit", "2"]) == 0
    told = capsys.readouterr()
    assert Path(told.out.strip()).name == "checkpoint-3"  # two pairs are less than 256: a step an epoch
    assert "256: 2 x 8 x 16 GPUs" in told.err
    weights = load_file(Path(told.out.strip()) / "adapter_model.safetensors")
    layers = {name.split(".h.")[1].split(".", 1)[1].rsplit(".", 2)[0] for name in weights}
    assert layers == {"attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2"}


@pytest.mark.parametrize(
    ("command", "said"),
    (
        ("train", "give either a recipe or --config"),
        ("train silkie --config x.yaml", "give either a recipe or --config"),
        ("train --config none.yaml", "none.yaml: No such file"),
        ("train silkei", "did you mean 'silkie'?"),
        ("train silkie --seed -1", "Input should be greater than or equal to 0"),
        ("train scenes-base --out /dev/null", "--out '/dev/null' is a file; give a folder"),
        ("train-then-eval scenes-demo --out /dev/null", "--out '/dev/null' is a file; give a folder"),
        ("train scenes-demo", "harness train-then-eval scenes-demo"),
        (
            "train scenes-base --train-data x",
            "--images and --limit are for recipes that have a [dataset]",
        ),
        ("train silkie --data pope=x", "train scores no task; data to train on are named by --train-data"),
        ("train silkie --data x --train-data y", "--train-data names the data to train on already"),
        ("train scenes-base --base x", "starts from nothing"),
        ("train silkie --gpus 3 --dry-run", "can't be shared by 3 processes; possible: 1, 2, 4, 8"),
        ("train silkie --slurm partition=x --gpus 12 --dry-run", "12: a job of several nodes has a multiple of 8"),
        ("train silkie --mode dpd --dry-run", "did you mean 'ddp'?"),
        ("train silkie --slurm partitoin=x --dry-run", "did you mean 'partition'?"),
        ("train-then-eval scenes-demo --gpus 3 --dry-run", "can't be shared by 3 processes; possible: 1, 2, 4, 8"),
        ("train-then-eval scenes-demo --gpus 2 --mode zero --dry-run", "mode 'zero': unknown (did you mean 'zero"),
        ("train-then-eval scenes-demo --gpus 16 --slurm time=1-00 --dry-run", "is of one node, with 8 at most"),
        ("train-then-eval scenes-demo --gpus 4 --slurm gpus=2 --dry-run", "--slurm gpus=2: --gpus says 4"),
    ),
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(command.split()) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_plain_trl_refuses_a_recipe_of_packed_rows(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(recipe.read_text().replace("checkpoints = 2", "group_pairs = true"))
    assert cli.run(["train", str(recipe), "--out", str(tmp_path / "run"), "--plain-trl"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("harness: --plain-trl: recipe 'small': training: group_pairs is for packed rows")
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ("train", "train-then-eval"))
def test_packages_that_are_missing_are_named_with_their_extra_before_anything_is_done(
    command: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in ("wandb", "bitsandbytes") else there(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    plain = recipe.read_text().replace('base = "scenes-base"', 'base = "scenes-base"\ntasks = ["scenes_mme"]')
    arguments = [command, str(recipe), "--out", str(tmp_path / "run"), "--dry-run"]
    recipe.write_text(plain.replace("checkpoints = 2", 'report_to = ["wandb"]'))
    assert cli.run(arguments) == 0
    assert "report_to = 'wandb': not installed (pip install 'vlm-harness[track]')" in capsys.readouterr().err
    recipe.write_text(plain.replace("checkpoints = 2", 'quantization = "4bit"'))
    assert cli.run(arguments) == 2
    assert "pip install 'vlm-harness[qlora]'" in capsys.readouterr().err


def test_a_recipe_says_how_much_is_kept_of_pictures_and_how_the_learning_rate_falls(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.packed import trainer as packed
    from trainers.packed.vision_cache import KeptFeatures

    rooms: list[int] = []

    class Noted(KeptFeatures):
        def __init__(self, backbone: Any, room: int) -> None:
            rooms.append(room)
            super().__init__(backbone, room)

    monkeypatch.setattr(packed, "KeptFeatures", Noted)
    for room in (3, 0):
        settings = f'log_steps = 1\nscheduler = "polynomial"\nfeatures_room_mib = {room}'
        path = tmp_path / f"{room}.toml"
        path.write_text(recipe.read_text().replace("checkpoints = 2", settings))
        assert cli.run(["train", str(path), "--out", str(tmp_path / str(room))]) == 0
    assert rooms == [3 << 20]
    rates = logged(tmp_path / "3", "learning_rate")
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4], rel=1e-3)


@pytest.mark.parametrize(("layout", "launches"), (({}, False), ({"processes": 2}, True), ({"mode": "fsdp2"}, True)))
def test_a_mode_of_its_own_is_launched_on_one_gpu_too(layout: dict[str, Any], launches: bool) -> None:
    from trainers.cluster.launch import Layout

    assert Layout(**layout).needs_launch == launches


def test_a_folder_belongs_to_one_recipe_and_its_data(
    recipe: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(["train", str(recipe), "--out", str(out)]) == 0
    assert cli.run(["train", str(recipe), "--out", str(out), "--seed", "3"]) == 2
    assert "holds a run of recipe 'small' with other settings (seed: 0 there, 3 asked)" in capsys.readouterr().err
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        data.write_text("".join(lines[:-1]), encoding="utf-8")
        assert cli.run(["train", str(recipe), "--out", str(out)]) == 2
    finally:
        data.write_text("".join(lines), encoding="utf-8")
    assert "the run began with other data (16 pairs" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_trained_and_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.run(["train", "silkie", "--gpus", "16", "--slurm", "partition=gpu", "--out", str(out), "--dry-run"]) == 2
    said = capsys.readouterr().out
    assert "batches of 256 (16 processes x 2 pairs x 8 accumulated)" in said
    assert "#SBATCH --partition=gpu" in said
    assert "#SBATCH --nodes=2" in said
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifteen pairs: the last of the steps has three, which two processes can't share evenly."""
    recipe.write_text(recipe.read_text().replace("checkpoints = 2", "log_steps = 1"))
    assert cli.run(["train", str(recipe), "--out", str(tmp_path / "one"), "--limit", "15", "--json"]) == 0
    alone = Path(printed(capsys)["checkpoints"][-1])
    harness = Path(sys.executable).with_name("harness")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    command = f"{harness} train {recipe} --out {tmp_path / 'two'} --limit 15 --gpus 2 --json".split()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    together = tmp_path / "two" / alone.name
    losses = [logged(folder.parent, "loss") for folder in (alone, together)]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len(list((tmp_path / "two" / "reference").glob("*/*.jsonl"))) == 2


def test_data_is_another_word_for_train_data_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "scenes-base", "--data", "x"]) == 2
    told = capsys.readouterr().err
    assert "warning: --data is read as --train-data" in told
    assert "recipe 'scenes-base' reads no data" in told
