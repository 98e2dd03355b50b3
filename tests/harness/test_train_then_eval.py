"""Walk 2 end to end on a recipe of seconds; killed at each stage, it ends on the same board."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main as cli
from harness.models.spec import find
from leaderboards.board.board import Board
from tests.harness.scored_runs import HARNESS, scores

LIMIT = 6


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(out), "--limit", str(LIMIT)]) == 0
    return out


def test_base_control_and_every_checkpoint_are_on_the_board(finished: Path) -> None:
    models = {model for model, *_ in scores(finished)}
    checkpoints = {path.name for path in finished.glob("checkpoint-*")}
    assert len(checkpoints) >= 1
    assert models == {"scenes-base"} | {f"RUN/{name}" for name in checkpoints} | {
        f"RUN/control/{name}" for name in checkpoints
    }


def test_the_run_folder_holds_everything(finished: Path) -> None:
    for name in ("run.json", "report.md", "hallucination.png", "seconds.json", "log.jsonl", "control/log.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    for name in ("instructions", "ratings", "pairs", "vlfeedback"):
        lines = (finished / "data" / f"{name}.jsonl").read_text().splitlines()
        assert lines, name
        assert all(json.loads(line) for line in lines)
    entry = Board(finished / "board").entries()[0]
    assert Board(finished / "board").samples(entry.run)


def test_the_report_says_what_matters(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    for part in (
        "## Leaderboard",
        "## dpo against base",
        "## dpo against sft",
        "Partial",
        "hallucination.png",
        "## Time",
    ):
        assert part in report
    assert "scenes-base" in report
    for command in ("--partial  ", f"harness train-then-eval RECIPE.toml --seed 1 --limit {LIMIT}"):
        assert command in report
    assert "harness check" not in report  # the gate compares no partial runs


def test_the_commands_that_a_report_of_a_whole_run_names_can_be_typed() -> None:
    from types import SimpleNamespace

    from harness.runs.report import _next_commands

    recipe: Any = SimpleNamespace(name="scenes-demo", tasks=["scenes", "pope"], seed=2)
    last, entries = "my runs/x/checkpoint-4", [SimpleNamespace(limit=None)]
    outcome: Any = SimpleNamespace(
        out=Path("my runs/x"),
        board=Path("my runs/x/board"),
        base="scenes-base",
        last=last,
        recipe=recipe,
        entries=entries,
    )
    commands = [shlex.split(line, comments=True) for line in _next_commands(outcome).splitlines()[1:-1]]
    assert [command[1] for command in commands] == ["eval", "leaderboard", "check", "train-then-eval"]
    assert commands[0][2:] == ["--model", last, "--tasks", "scenes,pope"]
    assert commands[3][2:] == ["scenes-demo", "--seed", "3"]


def test_the_same_command_does_nothing_when_all_is_done(
    finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {
        path: path.stat().st_mtime_ns
        for path in [*finished.glob("board/*"), *finished.glob("**/adapter_model.safetensors")]
    }
    assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT), "--json"]) == 0
    said = capsys.readouterr()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert said.err.count("already on the board, skipped") == len({model for model, *_ in scores(finished)})
    printed = json.loads(said.out)
    assert {verdict["outcome"] for verdict in printed["verdicts"]["dpo against base"].values()} <= {
        "better",
        "worse",
        "not separable",
    }
    assert len(printed["entries"]) == len(scores(finished))


def test_a_checkpoint_scored_by_itself_gives_what_the_board_has(finished: Path, tmp_path: Path) -> None:
    last = sorted(finished.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))[-1]
    assert (
        cli.run(["eval", "--model", str(last), "--tasks", "scenes", "--limit", str(LIMIT), "--out", str(tmp_path)]) == 0
    )
    alone = {key[1:]: value for key, value in scores(tmp_path).items()}
    assert alone == {key[1:]: value for key, value in scores(finished).items() if key[0] == f"RUN/{last.name}"}


def test_a_run_from_an_adapter_trains_on_the_merged_base(finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    adapter = next(finished.glob("checkpoint-*"))
    pool = tiny_recipe.read_text().replace('base = "scenes-base"', f'base = "{adapter}"')
    recipe = tmp_path / "second.toml"
    recipe.write_text(pool.replace("control = true", "control = false").replace("checkpoints = 2", "checkpoints = 1"))
    out = tmp_path / "second"
    assert cli.run(["train-then-eval", str(recipe), "--out", str(out), "--limit", str(LIMIT)]) == 0
    [last] = out.glob("checkpoint-*")
    assert json.loads((last / "checkpoint.json").read_text())["base_from_here"] == "../base"
    config = json.loads((last / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == (out / "base").resolve()
    shutil.move(out, tmp_path / "moved")
    assert (
        Path(find(str(tmp_path / "moved" / last.name)).pretrained).resolve() == (tmp_path / "moved" / "base").resolve()
    )
    assert {entry.model for entry in Board(tmp_path / "moved" / "board").entries()} == {str(adapter), str(last)}


def test_another_recipe_may_not_use_the_folder(
    finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.run(["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT), "--seed", "7"])
        == 2
    )
    assert "with other settings (seed: 0 there, 7 asked)" in capsys.readouterr().err


def test_a_second_process_is_told_that_the_folder_is_taken(
    finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.files import file_lock

    with file_lock(finished / "run", wait=False):
        assert cli.run(["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT)]) == 1
    assert "another process is at work" in capsys.readouterr().err


def test_the_gate_reads_the_runs_board(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = str(finished / "board")
    assert cli.run(["check", "--baseline", board, "--board", board]) == 1
    assert "nothing was compared" in capsys.readouterr().out  # limited runs are no baseline
    assert cli.run(["leaderboard", str(finished), "--partial"]) == 0
    assert "limit 6" in capsys.readouterr().out


def test_every_checkpoint_says_what_it_was_trained_on(finished: Path) -> None:
    leaks = json.loads((finished / "data" / "leaks.json").read_text())
    notes = [json.loads(path.read_text()) for path in finished.glob("**/checkpoint-*/checkpoint.json")]
    assert len(notes) >= 2
    assert {note["data"] for note in notes} == {leaks["of"]["data"]}
    assert all(note["leaks"] == leaks["rows_with_image"] for note in notes)
    trained = [entry for entry in Board(finished / "board").entries() if entry.model != "scenes-base"]
    assert {entry.parameters for entry in trained} == {1_343_104 + 4_096}  # the base and its adapter
    assert all(entry.provenance["training data"] == leaks["of"]["data"] for entry in trained)
    assert all(entry.provenance["leaks"] == str(leaks["rows_with_image"][entry.task]) for entry in trained)
    assert all(
        "leaks" not in entry.provenance for entry in Board(finished / "board").entries() if entry.model == "scenes-base"
    )


def test_the_report_and_the_cards_tell_of_the_training(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    for part in (
        "## Best checkpoint",
        "## Training",
        "reward margin",
        "(checkpoint-",
        "## Does it see?",
        "a grey image",
        "Held against",
    ):
        assert part in report, part
    for folder in (*finished.glob("checkpoint-*"), *finished.glob("control/checkpoint-*")):
        assert "## Training data" in (folder / "README.md").read_text()
    checks = json.loads((finished / "checks.json").read_text())
    assert checks["found"]["merged"]["error"] < checks["found"]["merged"]["effect"]


def test_a_checkpoint_that_cannot_be_scored_ends_no_run_and_one_that_is_gone_is_not_the_best(
    finished: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from harness.runs.scoring_queue import Scoring

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    last, gone, board = next(out.glob("checkpoint-*")), out / "checkpoint-0", Board(out / "board")
    known = [entry for entry in board.entries() if entry.model == "scenes-base"]
    run = known[0].run
    samples = [replace(sample, run="gone") for sample in board.samples(run)]
    board.add([replace(entry, run="gone", model=gone.as_posix()) for entry in known if entry.run == run], samples)
    command = ["train-then-eval", str(tiny_recipe), "--out", str(out), "--limit", str(LIMIT), "--json"]
    score = Scoring.score
    monkeypatch.setattr(
        "harness.runs.train_then_eval.headlines", lambda tasks: [("scenes_mme", "accuracy")]
    )  # six documents give F1 no value

    def failing(self: Scoring, spec: Any, name: str, **given: Any) -> Any:
        if name == last.as_posix():
            raise MemoryError("none left")
        return score(self, spec, name, **given)

    with monkeypatch.context() as patched:
        patched.setattr(Scoring, "score", failing)
        assert cli.run(command) == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["failed"], found["best"]) == ({last.as_posix(): "MemoryError: none left"}, None)
    assert "1 checkpoints are not scored; the same command tries them again" in said.err
    report = (out / "report.md").read_text()
    assert "Not scored" in report
    assert "removed, not ranked" in report
    assert cli.run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["failed"], found["best"]) == ({}, last.as_posix())
    assert "Not scored" not in (out / "report.md").read_text()


def test_names_that_no_verdict_can_be_on_are_refused_before_anything_runs(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-then-eval", str(tiny_recipe), "--out", str(tmp_path / "out")]
    for names in (["--require-better", "pope"], ["--require-better", "scenes_chair.covrage"], ["--early-stop", "pope"]):
        assert cli.run([*command, *names]) == 2
        assert "known: " in capsys.readouterr().err
    good = ["scenes_pope", "scenes_pope.f1", "scenes_chair.coverage"]
    assert cli.run([*command, *(word for name in good for word in ("--require-better", name)), "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()


def test_a_claim_without_a_name_is_that_something_is_better(
    finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-then-eval", str(tiny_recipe), "--out", str(finished), "--limit", str(LIMIT)]
    for words in (["--require-better"], ["--require-better", "--seed", "0"], ["--require-better", "any"]):
        assert cli.run([*command, *words]) == 3  # six documents separate nothing
        assert "is better by none of the panel" in capsys.readouterr().err
    assert cli.run([*command, "--require-better", "--require-better", "scenes_chair"]) == 3
    said = capsys.readouterr().err
    assert "is better by none of the panel; " in said
    assert "scenes_chair.chair_s is not separable" in said


@pytest.mark.parametrize(
    ("given", "understood"),
    (
        (["t", "r", "--require-better"], ["t", "r", "--require-better", "any"]),
        (["t", "--require-better", "--json"], ["t", "--require-better", "any", "--json"]),
        (["t", "--require-better", "pope", "--json"], ["t", "--require-better", "pope", "--json"]),
        (["t", "--require-better=pope"], ["t", "--require-better=pope"]),
    ),
)
def test_an_option_whose_name_may_be_left_out_is_spelled_out(given: list[str], understood: list[str]) -> None:
    from harness.cli.application import complete_options

    assert complete_options(given) == understood


def test_a_dry_run_says_which_processes_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["train-then-eval", "scenes-demo", "--out", str(out), "--gpus", "2", "--dry-run"]
    assert cli.run([*command, "--slurm", "partition=gpu"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --gres=gpu:2" in said
    assert "#SBATCH --nodes=1" in said
    assert f"train-then-eval scenes-demo --out {out} --gpus 2" in said
    assert "accelerate" not in said  # the job scores, too: it starts them itself
    assert cli.run(["train-then-eval", "scenes-demo", "--out", str(out), "--gpus", "1", "--dry-run"]) == 0
    assert "train-arm" not in capsys.readouterr().out
    assert not out.exists()


def test_processes_refuse_other_pairs_than_the_runs(finished: Path, tmp_path: Path) -> None:
    from harness.runs.training_worker import train_arm
    from support.errors import RunError
    from trainers.config.recipe import preference_recipe

    told: dict[str, Any] = {
        "arm": "dpo",
        "recipe": preference_recipe("scenes-demo").model_dump(mode="json"),
        "out": str(tmp_path / "out"),
        "note": {"data": "0"},
    }
    told |= {
        "base_name": "",
        "base": "",
        "dtype": "auto",
        "pairs": str(finished / "data" / "pairs.jsonl"),
        "images": str(tmp_path / "images.sqlite"),
        "pauses": False,
    }
    (tmp_path / "arm.json").write_text(json.dumps(told))
    with pytest.raises(
        RunError, match=r"pairs.jsonl: other pairs \(digest [0-9a-f]{16}\) than the run began with \(0\)"
    ):
        train_arm(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_scores_nothing_is_refused_before_anything_runs(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.runs.train_then_eval import train_then_eval
    from support.errors import InputError
    from tasks.scenes.judge import ScenesJudge
    from trainers.config.recipe import preference_recipe

    path = tmp_path / "none.toml"
    path.write_text(tiny_recipe.read_text().replace('tasks = ["scenes"]', "tasks = []"))
    assert cli.run(["train-then-eval", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "tasks is empty" in capsys.readouterr().err
    recipe = preference_recipe(str(tiny_recipe)).model_copy(update={"tasks": ()})
    with pytest.raises(InputError, match="tasks is empty"):
        train_then_eval(recipe, tmp_path / "out", ScenesJudge())
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_learning_rate_is_refused_before_its_base_is_scored(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "short.toml", tmp_path / "out"
    path.write_text(tiny_recipe.read_text().replace("batch_size = 8", "batch_size = 100\nwarmup_steps = 1"))
    assert cli.run(["train-then-eval", str(path), "--out", str(out)]) == 2
    assert "the learning rate is 0 in every step" in capsys.readouterr().err
    assert not list((out / "board").glob("*.json"))
    assert not (out / "run.json").exists()


def test_scoring_between_saves_leaves_the_training_as_it_was(finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    """A trainer that nobody interrupts ends with the same weights."""
    from safetensors.torch import load_file

    from trainers.config.recipe import preference_recipe
    from trainers.data.pair_formats import read_pairs
    from trainers.training import dpo
    from trainers.training.job import Job

    pairs = list(read_pairs(finished / "data" / "pairs.jsonl"))
    base = find("scenes-base").pretrained
    job = Job(
        recipe=preference_recipe(str(tiny_recipe)),
        out=tmp_path,
        base_name="scenes-base",
        base=base,
        dtype="float32",
        preferences=pairs,
    )
    for checkpoint in dpo.train(job):
        alone, watched = (
            load_file(at / checkpoint.path.name / "adapter_model.safetensors") for at in (tmp_path, finished)
        )
        assert all(torch.equal(alone[name], watched[name]) for name in alone)


def stages(out: Path) -> list[tuple[str, Any]]:
    """Where the run is killed: as soon as each of these is there."""
    return [
        ("while the base is scored", lambda: (out / "run.json").exists()),
        ("while answers are given", lambda: any((out / "data" / "answers").glob("*.jsonl"))),
        ("after the pairs", lambda: (out / "data" / "pairs.jsonl").exists()),
        ("amid training", lambda: any(out.glob("checkpoint-*"))),
        ("while checkpoints are scored", lambda: len(list(out.glob("board/*.json"))) >= 2),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(5))
def test_killed_at_any_stage_the_same_command_ends_on_the_same_board(
    stage: int, finished: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    command = [*HARNESS, "train-then-eval", str(tiny_recipe), "--out", str(out), "--limit", str(LIMIT)]
    name, reached = stages(out)[stage]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not reached():
            assert process.poll() is None, f"ended before it could be killed {name}"
            time.sleep(0.005)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True)
    assert scores(out) == scores(finished)
    ours, theirs = (
        (folder / "data" / "pairs.jsonl").read_text().replace(str(folder.resolve()), "") for folder in (out, finished)
    )
    assert ours == theirs
