"""`harness train` on recipes whose losses need more than a pair's two sums: from the command to held-out figures, and
what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from tests.harness.rated_scenes import write_rated_scenes

RECIPE = """
name = "small"
trainer = "dpo"
base = "scenes-base"

[dataset]
read = "{data}"
test_share = 0.25

[training]
learning_rate = 1e-3
batch_size = 4
epochs = 2
log_steps = 1
eval_steps = 4
{loss}

[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*\\.(q_proj|v_proj)'
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rows, a pair each."""
    return write_rated_scenes(tmp_path_factory.mktemp("data"), "test-losses")


def recipe(data: Path, folder: Path, loss: str) -> Path:
    path = folder / "small.toml"
    path.write_text(RECIPE.format(data=data.as_posix(), loss=loss), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("loss", "figure"),
    (
        ('loss = "mdpo"\ncrop_area = [0.01, 0.1]\nanchor = 0.1', "rewards/chosen_elsewhere"),
        ('loss = "ddpo"\nbeta = 0.5\ngroup_pairs = true', "rewards/margins"),
        ('loss = "ddpo"\nbeta = 0.5\ngamma = 2.0\nplain_trl = true', "rewards/margins"),
    ),
    ids=("mdpo", "ddpo", "ddpo plain"),
)
def test_a_recipe_trains_and_scores_held_out_pairs(
    loss: str, figure: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(["train", str(recipe(data, tmp_path, loss)), "--out", str(out), "--json"]) == 0
    [last] = json.loads(capsys.readouterr().out)["checkpoints"]
    assert Path(last).name == "checkpoint-8"
    lines: list[dict[str, Any]] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    trained, scored = (
        [line[f"{side}{figure}"] for line in lines if f"{side}{figure}" in line] for side in ("", "eval_")
    )
    assert len(trained) == 8
    assert len(scored) == 2
    assert scored[0] != scored[1]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("loss", "options", "complaint"),
    (
        ('loss = "mdpo"', ["--plain-trl"], "loss = 'mdpo' has neither"),
        ('loss = "mdpo"\ngroup_pairs = true', [], "loss = 'mdpo' does not have"),
        ('loss = "ddpo"\nsft_weight = 1.0', [], "sft_weight = 1.0 is for the losses dpo"),
        ('loss = "ddop"', [], "did you mean 'ddpo'?"),
    ),
)
def test_what_a_loss_does_not_go_with_is_one_line_and_exit_code_2(
    loss: str, options: list[str], complaint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", str(recipe(data, tmp_path, loss)), "--out", str(tmp_path / "run"), *options]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()
