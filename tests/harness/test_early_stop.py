"""Training that ends early, and pairs that are read from a file."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness.scored_runs import HARNESS, scores


@pytest.mark.slow
def test_two_processes_killed_and_called_again_end_on_the_board_of_one(spoilt: Any, tmp_path: Path) -> None:
    """Of two checkpoints one is kept, so training pauses until the first is scored."""
    import psutil  # type: ignore[import-untyped]

    text = (
        (spoilt.folder / "spoilt.toml")
        .read_text()
        .replace("learning_rate = 0.5", "learning_rate = 1e-3\nlog_steps = 1\nkeep = 1")
    )
    recipe = tmp_path / "two.toml"
    recipe.write_text(text.replace("control = true", ""))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}

    def command(name: str, *more: str) -> list[str]:
        return [*HARNESS, "train-then-eval", str(recipe), "--out", str(tmp_path / name), "--limit", "16", *more]

    assert (
        subprocess.run(command("one"), env=environment, capture_output=True, timeout=300, check=False).returncode == 0
    )
    two = tmp_path / "two"
    log = tmp_path / "two.log"
    with log.open("w") as said:
        running = subprocess.Popen(
            command("two", "--gpus", "2"), env=environment, stdout=subprocess.DEVNULL, stderr=said
        )
    deadline = time.monotonic() + 300
    while not any(two.glob("checkpoint-*/checkpoint.json")):
        assert running.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]:
        process.kill()
    running.wait()
    done = subprocess.run(
        command("two", "--gpus", "2"), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(two.glob("checkpoint-*"))) == 1
    assert "2 processes" in done.stderr
    alone, together = ({key: value[0] for key, value in scores(tmp_path / name).items()} for name in ("one", "two"))
    assert len({model for model, *_ in alone}) == 4  # the base, and three checkpoints
    assert together == pytest.approx(alone, nan_ok=True)
    losses = [
        [
            line["loss"]
            for line in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
            if "loss" in line
        ]
        for name in ("one", "two")
    ]
    assert len(losses[0]) >= 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


FROM_A_FILE = """
name = "spoilt"
trainer = "dpo"
base = "scenes-base"
tasks = ["scenes_mme"]
control = true
[dataset]
read = {read!r}
test_share = 0.4
[training]
learning_rate = 0.5
batch_size = 2
checkpoints = 3
sft_weight = 0.0
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*q_proj'
"""


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on pairs that are there already, at a learning rate that ruins the model, and its recipe's file."""
    from harness.evaluation.eval_settings import EvalSettings
    from harness.runs.train_then_eval import train_then_eval
    from support.images import ImageRef
    from tasks.scenes.judge import ScenesJudge
    from tasks.scenes.language import caption
    from tasks.scenes.world import make_scene
    from trainers.config.recipe import preference_recipe
    from trainers.data.pair_formats import write_pairs
    from trainers.data.rows import Preference
    from trainers.vlfeedback.instructions import write_image

    folder = tmp_path_factory.mktemp("spoilt")
    scenes = [make_scene(f"test-spoilt/{index}") for index in range(16)]
    pairs = [
        Preference(
            id=scene.id,
            prompt=f"describe image {index}.",
            images=(ImageRef(f"images/{index}.png", folder / write_image(scene, folder)),),
            chosen="no",
            rejected=caption(scene),
            row=index,
        )
        for index, scene in enumerate(scenes)
    ]
    write_pairs(pairs, folder / "pairs.jsonl")
    (folder / "spoilt.toml").write_text(FROM_A_FILE.format(read=str(folder / "pairs.jsonl")))

    def run(**given: Any) -> Any:
        recipe = preference_recipe(str(folder / "spoilt.toml"))
        settings = EvalSettings(limit=40)
        return train_then_eval(recipe, folder / "run", ScenesJudge(), settings=settings, early_stop=["scenes_mme"])

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.mark.slow
def test_a_probe_that_falls_ends_the_training_for_good(spoilt: Any, caplog: pytest.LogCaptureFixture) -> None:
    from harness.runs.report import write_report

    caplog.set_level("INFO")
    outcome = spoilt()
    assert outcome.stop is not None
    assert (outcome.stop.probe, outcome.stop.looks) == ("scenes_mme.accuracy", 3)
    assert outcome.stop.value < outcome.stop.base
    assert outcome.checkpoints[-1].step == outcome.stop.step < 5
    assert any("training is stopped" in line for line in caplog.messages)
    again = spoilt()
    assert again.stop == outcome.stop
    assert [checkpoint.path for checkpoint in again.checkpoints] == [
        checkpoint.path for checkpoint in outcome.checkpoints
    ]
    report = write_report(again)
    assert "stopped early" in report
    assert "dpo against sft" not in report  # a control that trained on would be no control


@pytest.mark.slow
def test_pairs_that_are_there_are_read_and_some_held_out(spoilt: Any) -> None:
    outcome = spoilt()
    assert outcome.data.built is None
    assert outcome.data.held_out
    assert not {pair.prompt for pair in outcome.data.held_out} & {pair.prompt for pair in outcome.data.pairs}
    assert outcome.checks.held_out
    assert not (outcome.out / "data" / "pairs.jsonl").exists()


def test_an_early_stop_by_what_is_not_scored_is_a_mistake(tiny_recipe: Path, tmp_path: Path) -> None:
    from harness.runs.train_then_eval import train_then_eval
    from support.errors import InputError
    from tasks.scenes.judge import ScenesJudge
    from trainers.config.recipe import preference_recipe

    for probe, known in (("pope", "scenes_pope"), ("scenes_pope.f2", "scenes_pope.f1")):
        with pytest.raises(InputError, match=f"known: .*{known}"):
            train_then_eval(preference_recipe(str(tiny_recipe)), tmp_path, ScenesJudge(), early_stop=[probe])
    assert not list(tmp_path.iterdir())
