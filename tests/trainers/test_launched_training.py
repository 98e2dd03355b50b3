"""Training in several processes is the training of one: the same losses, gradients and weights."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.training_runs import captions
from tests.trainers.training_runs import logged as figures
from tests.trainers.two_processes import pairs
from trainers.cluster.launch import Layout, beside_python, launch

SCRIPT = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
TWO = Layout(processes=2, cpu=True)
pytestmark = pytest.mark.slow


RECIPE = """
name = "two"
trainer = "dpo"
base = "scenes-base"
[dataset]
read = "{pairs}"
test_share = 0.0
[training]
learning_rate = 7e-4
batch_size = 4
epochs = 2.0
checkpoints = 2
log_steps = 1
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*\\.(q_proj|v_proj)'
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Twelve pairs of which the rejected caption names a thing too many: six steps."""
    from trainers.data.pair_formats import write_pairs

    images = tmp_path / "images"
    images.mkdir()
    write_pairs(captions(images, 12, "two-processes"), tmp_path / "pairs.jsonl")
    path = tmp_path / "two.toml"
    path.write_text(RECIPE.format(pairs=tmp_path / "pairs.jsonl"))
    return path


def test_two_processes_train_as_one_does(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, two = tmp_path / "one", tmp_path / "two"
    harness = str(beside_python("harness"))

    def train(out: Path, layout: Layout) -> int:
        return launch([harness, "train", str(recipe), "--gpus", str(layout.world), "--out", str(out)], out, layout)

    assert train(one, Layout(cpu=True)) == 0
    assert train(two, TWO) == 0
    assert len(figures(one, "loss")) == 6
    assert figures(one, "loss")[0] == pytest.approx(0.6931, abs=1e-4)
    assert figures(one, "loss")[-1] < 0.65
    assert figures(two, "loss") == pytest.approx(figures(one, "loss"), abs=2e-6)
    assert figures(two, "grad_norm") == pytest.approx(figures(one, "grad_norm"), abs=2e-5)
    assert sorted(path.name for path in two.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    weights = two / "checkpoint-6" / "adapter_model.safetensors"
    # Without its end, the same command goes on from the middle, and ends there again; whole, there is nothing left to
    # do.
    expected = figures(two, "loss")
    (two / "checkpoint-6" / "checkpoint.json").unlink()
    assert train(two, TWO) == 0
    assert figures(two, "loss") == pytest.approx(expected, abs=2e-6)
    written = weights.stat().st_mtime_ns
    assert train(two, TWO) == 0
    assert weights.stat().st_mtime_ns == written


def trained(out: Path, name: str, runs: list[dict[str, Any]], layout: Layout) -> int:
    """Train these runs in one launch, each into a folder of its own: the exit code."""
    pairs(out / "images", 16)
    (out / "runs.json").write_text(json.dumps(runs))
    return launch([*SCRIPT, "train", str(out), name], out, layout)


def run(name: str, arm: str, count: int, dies: int = 0, **changes: Any) -> dict[str, Any]:
    settings = {"batch_size": 8, "epochs": 2.0, "checkpoints": 1, "log_steps": 1, "sft_weight": 0.0, **changes}
    return {"name": name, "arm": arm, "pairs": count, "training": settings, "dies": dies}


def assert_same_weights(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    furthest = max(float((a[name] - b[name]).abs().max()) for name in a)
    moved = max(float(a[name].abs().max()) for name in a if "lora_B" in name)
    assert furthest < 1e-5 < 1e-4 < moved


FIGURES = ("loss", "grad_norm", "rewards/chosen", "rewards/margins", "logps/rejected", "num_tokens")


def test_however_a_step_is_shared_out_it_is_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that accumulate, of whose last step one or five pairs are there, against one process with all in
    one batch."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = [
        run("sft", "sft", 16),
        run("sft of 5 and 8", "sft", 13),
        run("sft of 8 and 1", "sft", 9),
        run("packed", "dpo", 13, sft_weight=2.0),
        run("packed, 8 and 1", "dpo", 9),
        run("plain", "dpo", 13, sft_weight=2.0, plain_trl=True),
        run("mpo", "dpo", 9, loss="mpo"),
        run("povid", "dpo", 13, loss="povid-code"),
    ]
    parts = [{**one, "training": {**one["training"], "per_device_batch_size": 2}} for one in whole[1:]]
    assert trained(tmp_path, "one", whole, Layout(cpu=True)) == 0
    assert trained(tmp_path, "two", [whole[0], *parts], TWO) == 0
    for name in (one["name"] for one in whole):
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert len(figures(one, "loss")) == 4
        for figure in FIGURES:
            assert figures(two, figure) == pytest.approx(figures(one, figure), rel=1e-4, abs=1e-5), (name, figure)
        assert_same_weights(one / "checkpoint-4", two / "checkpoint-4")


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_a_run_killed_on_one_number_of_processes_ends_alike_on_another(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that is gone on from lies in the middle of an epoch, of which a last step of five pairs is
    left."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings: dict[str, Any] = {"epochs": 3.0, "save_steps": 3, "per_device_batch_size": 2}
    settings["sft_weight"] = 2.0 if arm == "dpo" else 0.0
    one, two = Layout(cpu=True), TWO
    assert trained(tmp_path, "whole", [run("run", arm, 13, **settings)], one) == 0
    for name, first, second in (("less", two, one), ("more", one, two)):
        assert trained(tmp_path, name, [run("run", arm, 13, dies=5, **settings)], first) == 137
        whole, cut = tmp_path / "whole" / "run", tmp_path / name / "run"
        assert [path.parent.name for path in cut.glob("checkpoint-*/checkpoint.json")] == ["checkpoint-3"]
        assert trained(tmp_path, name, [run("run", arm, 13, **settings)], second) == 0
        assert figures(cut, "loss") == pytest.approx(figures(whole, "loss"), rel=1e-4, abs=1e-5)
        assert_same_weights(whole / "checkpoint-6", cut / "checkpoint-6")


def test_a_model_cut_over_two_processes_has_the_loss_and_gradient_of_the_whole(tmp_path: Path) -> None:
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    from tests.harness.zoo import FAMILIES

    FAMILIES["llava"](tmp_path / "llava")
    processor = AutoProcessor.from_pretrained(tmp_path / "llava")
    pictures = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    texts = [
        f"USER: <image>\nIs there a {thing} in the image? ASSISTANT: {answer}"
        for thing, answer in (("dog", "yes"), ("car", "no"))
    ]
    inputs = processor(text=texts, images=[[picture] for picture in pictures], return_tensors="pt", padding=True)
    torch.save(dict(inputs), tmp_path / "inputs.pt")
    assert launch([*SCRIPT, "fsdp2", str(tmp_path)], tmp_path, TWO) == 0
    found = [json.loads((tmp_path / f"fsdp2-{rank}.json").read_text()) for rank in (0, 1)]
    for one in found:
        assert one["layers"] >= 3 + 2  # of the language model and of the eye
        assert one["loss"] == pytest.approx(one["whole"], abs=1e-5)
        assert one["gradient"] < 1e-5
        assert one["here"] < 0.6 * one["all"]
    assert found[0]["here"] + found[1]["here"] == found[0]["all"]
    assert found[0]["whole"] != found[1]["whole"]
