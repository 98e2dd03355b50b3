"""Scores to experiment trackers: one run a model, gone on with and not doubled, and never at the scores' cost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.evaluation import trackers
from harness.evaluation.score_reports import SAMPLES, ScoreReport, reports_of
from leaderboards.board.board import Board
from support.extras import is_installed

DEMO = Path(__file__).resolve().parents[1] / "runs" / "demo" / "board"
BASE, LAST = "scenes-base", "runs/scenes-demo/checkpoint-47"
LOG = sorted(DEMO.glob("*.samples.parquet"))[0]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    shutil.copytree(DEMO, tmp_path / "run" / "board")
    return Board(tmp_path / "run" / "board")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ScoreReport]:
    """What a tracker that is always there was told."""
    found: list[ScoreReport] = []
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": lambda report, folder: found.append(report)})
    monkeypatch.setattr(trackers, "is_installed", lambda name: True)
    return found


def test_a_report_has_scores_intervals_verdict_samples_with_pictures_and_the_board(board: Board) -> None:
    base, last = reports_of(board, [BASE, LAST], base=BASE)
    entry = next(one for one in board.current() if one.model == LAST and one.headline)
    name = f"{entry.task}/{entry.metric}"
    assert [last.metrics[key] for key in (name, f"{name}_low", f"{name}_high")] == [entry.value, entry.low, entry.high]
    assert last.facts["board"] == board.folder.resolve().as_uri()
    assert last.verdict.startswith(f"against {BASE}: ")
    assert last.facts[f"verdict/{name}"]
    assert base.verdict == ""
    assert base.id != last.id
    of_task = [sample for sample in last.samples if sample.cells["task"] == entry.task]
    assert 0 < len(of_task) <= SAMPLES
    assert all(sample.picture and sample.picture.startswith(b"\xff\xd8") for sample in last.samples)


def test_what_was_told_is_not_told_again_until_it_changes(board: Board, told: list[ScoreReport]) -> None:
    for _ in range(2):
        trackers.report_scores(board, [BASE, LAST], ["wandb"], base=BASE)
    assert [report.model for report in told] == [BASE, LAST]
    trackers.report_scores(board, [BASE, LAST], ["wandb"], base=LAST)  # other verdicts
    assert [report.id for report in told] == [told[0].id, told[1].id] * 2


def test_a_tracker_that_fails_costs_no_scores(
    tmp_path: Path, told: list[ScoreReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(report: ScoreReport, folder: Path) -> None:
        print("noise on stdout")
        raise OSError("no route to host\nsecond line")

    command = ["score", "scenes_pope", str(LOG), "--out", str(tmp_path / "out"), "--json", "--report-to", "wandb"]
    working = dict(trackers.TRACKERS)
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": fail})
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["samples"]
    assert "--report-to wandb: 20261130T175829-0fac1915 is not reported: OSError: no route to host" in err
    monkeypatch.setattr(trackers, "TRACKERS", working)
    assert run(command) == 0  # the same command tells it
    assert len(told) == 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    (
        ("wandbb", "--report-to 'wandbb': known: wandb, trackio, mlflow, tensorboard"),
        ("mlflow", "--report-to mlflow: not installed: pip install 'vlm-harness[track]'"),
    ),
)
def test_a_tracker_that_is_not_there_is_told_before_anything_is_done(
    given: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    for command in (
        f"eval --model scenes-base --tasks scenes_pope --out {tmp_path / 'out'}",
        f"score scenes_pope {LOG} --out {tmp_path / 'out'}",
        f"train-then-eval scenes-demo --out {tmp_path / 'out'}",
        f"watch {tmp_path} --tasks scenes_pope",
    ):
        assert run([*command.split(), "--report-to", given]) == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_score_reports_what_is_on_a_board(capsys: pytest.CaptureFixture[str], told: list[ScoreReport]) -> None:
    assert run(["score", "scenes_pope", str(LOG), "--report-to", "wandb"]) == 2
    assert "--report-to: needs --out" in capsys.readouterr().err


@pytest.mark.skipif(not is_installed("mlflow"), reason="mlflow is not installed (extra: track)")
@pytest.mark.parametrize("store", ("sqlite:///{}.db", "file://{}"))
def test_mlflow_has_one_run_a_model(store: str, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(tmp_path / "mlflow"))
    monkeypatch.chdir(tmp_path)
    for base in (BASE, LAST):
        trackers.report_scores(board, [LAST], ["mlflow"], base=base)
    client: Any = MlflowClient()
    (found,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert found.data.metrics["scenes_pope/f1_low"] < found.data.metrics["scenes_pope/f1"]
    assert "samples.json" in {one.path for one in client.list_artifacts(found.info.run_id)}


@pytest.mark.skipif(not is_installed("tensorboard"), reason="tensorboard is not installed (extra: track)")
def test_tensorboard_has_one_run_a_model(board: Board) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for base in (BASE, LAST):
        trackers.report_scores(board, [LAST], ["tensorboard"], base=base)
    (place,) = (board.folder.parent / "tensorboard").iterdir()
    read: Any = EventAccumulator(str(place))
    read.Reload()
    assert len(read.Scalars("scenes_pope/f1")) == 1
    assert read.Tags()["images"]


@pytest.mark.skipif(not is_installed("wandb"), reason="wandb is not installed (extra: track)")
def test_wandb_writes_offline(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trackers.report_scores(board, [LAST], ["wandb"], base=BASE)
    (report,) = reports_of(board, [LAST], base=BASE)
    assert [path for path in (tmp_path / "wandb").glob("offline-run-*") if path.name.endswith(report.id)]
