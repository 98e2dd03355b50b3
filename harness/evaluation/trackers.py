"""Scores to experiment trackers: W&B, trackio, MLflow, TensorBoard; one run a model.

    check_trackers(("wandb",))                                 # before anything is paid for
    report_scores(board, models, ("wandb", "mlflow"), base="llava-7b")

A model's run has the same id whenever the same command runs, and is gone on with; what was sent already, by
`reported.json` beside the board, is not sent again. Where a tracker puts its runs is said by its own variables
(WANDB_MODE, WANDB_PROJECT, TRACKIO_SPACE_ID, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...); TensorBoard's files are
in the folder tensorboard/ beside the board. A tracker that fails costs no scores: it is a warning.
"""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.evaluation.score_reports import COLUMNS, ScoreReport, reports_of
from leaderboards.board.board import Board
from support.errors import SettingError, did_you_mean, one_line
from support.extras import is_installed
from support.files import atomic_write
from support.images import decode
from support.markdown import cell, table
from support.parsing import parse_json
from support.secrets import redact

log = logging.getLogger(__name__)

PROJECT: Final = "vlm-harness"
"""What the project, or experiment, is called where the tracker's own variable names none."""
SENT: Final = "reported.json"
"""Beside the board: tracker -> model -> digest of what it was told."""


def check_trackers(names: Iterable[str]) -> None:
    """SettingError for a tracker that is not known, or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise SettingError(f"--report-to {name!r}: known: {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}")
        if not is_installed(name):
            raise SettingError(f"--report-to {name}: not installed: pip install 'vlm-harness[track]'")


def report_scores(board: Board, models: Iterable[str], trackers: Sequence[str], *, base: str | None = None) -> None:
    """Tell each tracker of each model's scores on the board, unless it was told the same. Warns where one fails."""
    if not trackers:
        return
    try:
        reports = list(reports_of(board, models, base))
        sent = _read_sent(board.folder.parent / SENT)
    except Exception as error:  # of logs, pictures and files of all kinds: the scores stand on the board
        log.warning(f"--report-to: nothing is reported: {redact(one_line(error))}")
        return
    for name in trackers:
        told = 0
        for report in reports:
            if sent.setdefault(name, {}).get(report.model) == report.digest:
                continue
            try:
                with contextlib.redirect_stdout(sys.stderr):  # stdout is the scores'
                    TRACKERS[name](report, board.folder.parent)
                sent[name][report.model] = report.digest
                atomic_write(board.folder.parent / SENT, json.dumps(sent, indent=1).encode())
                told += 1
            except (Exception, SystemExit) as error:
                why = f"{type(error).__name__}: {redact(one_line(error))[:300]}"
                log.warning(f"--report-to {name}: {report.model} is not reported: {why}")
        if told:
            log.info(f"reported to {name}: {told} of {len(reports)} models")


def _read_sent(path: Path) -> dict[str, dict[str, str]]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(found, dict) and all(isinstance(value, dict) for value in found.values())
    return found if is_whole else {}


def _rows(report: ScoreReport, picture: Callable[[bytes], Any]) -> list[list[Any]]:
    """The table of samples, with a column of what `picture` makes."""
    return [
        [*(sample.cells[name] for name in COLUMNS), None if sample.picture is None else picture(sample.picture)]
        for sample in report.samples
    ]


def _report_to_wandb(report: ScoreReport, folder: Path) -> None:
    import wandb

    # Machine facts, code and the command line are not the scores', and may hold what is nobody's business.
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=report.id,
        name=report.model,
        resume="allow",
        config=dict(report.facts),
        notes=report.verdict or None,
        settings=settings,
    )
    try:
        rows = _rows(report, lambda data: wandb.Image(decode(data)))
        samples = {"samples": wandb.Table(columns=[*COLUMNS, "picture"], data=rows)} if rows else {}
        run.log({**report.metrics, **samples})
        run.summary.update({**report.metrics, "verdict": report.verdict})
    finally:
        run.finish()


def _report_to_trackio(report: ScoreReport, folder: Path) -> None:
    import trackio

    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{report.model} {report.id[:6]}",
        config={**report.facts, "verdict": report.verdict},
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    try:
        rows = _rows(report, lambda data: trackio.Image(decode(data)))
        samples = {"samples": trackio.Table(columns=[*COLUMNS, "picture"], data=rows)} if rows else {}
        run.log({**report.metrics, "verdict": report.verdict, **samples})
    finally:
        run.finish()


def _report_to_mlflow(report: ScoreReport, folder: Path) -> None:
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("file:", "/", "./")):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the user has named one
    from mlflow.entities import Metric, RunTag
    from mlflow.tracking import MlflowClient

    client, experiment = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(experiment)
    place = client.create_experiment(experiment) if known is None else known.experiment_id
    found = client.search_runs([place], f"tags.`{PROJECT}.id` = '{report.id}'", max_results=1)
    tags = {f"{PROJECT}.id": report.id, "mlflow.note.content": report.verdict, **report.facts}
    tags = {_as_key(name): text[:5000] for name, text in tags.items()}
    run = found[0] if found else client.create_run(place, run_name=report.model, tags=tags)
    now, of_run = int(time.time() * 1000), run.info.run_id
    metrics = [Metric(_as_key(name), value, now, 0) for name, value in report.metrics.items()]
    changed = [RunTag(name, text) for name, text in tags.items()]
    for start in range(0, max(len(metrics), len(changed)), 100):
        client.log_batch(of_run, metrics=metrics[start : start + 100], tags=changed[start : start + 100])
    pictures: dict[str, bytes] = {}

    def keep(data: bytes) -> str:
        return next((name for name, one in pictures.items() if one == data), "") or _add(pictures, data)

    if rows := _rows(report, keep):
        for name, data in pictures.items():
            client.log_image(of_run, decode(data), artifact_file=name)
        client.log_dict(of_run, {"columns": [*COLUMNS, "picture"], "data": rows}, "samples.json")
    client.set_terminated(of_run)


def _add(pictures: dict[str, bytes], data: bytes) -> str:
    name = f"pictures/{len(pictures):03}.jpg"
    pictures[name] = data
    return name


def _as_key(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./ -]", "_", name)[:250]


def _report_to_tensorboard(report: ScoreReport, folder: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    name = re.sub(r"[^\w.-]+", "_", report.model)[-80:].strip("._") or "model"
    place = folder / "tensorboard" / f"{name}-{report.id[:6]}"
    earlier = list(place.glob("events.out.tfevents.*"))
    writer = EventFileWriter(str(place), filename_suffix=f".{report.digest[:8]}")

    def add(value: Any) -> None:
        writer.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=[value])))

    def add_text(tag: str, text: str) -> None:
        about = create_summary_metadata(display_name=tag, description="")
        add(Summary.Value(tag=tag, metadata=about, tensor=make_tensor_proto([text.encode()])))

    for tag, number in report.metrics.items():
        add(Summary.Value(tag=tag, simple_value=number))
    add_text("about", table(["fact", "value"], [[cell(key), cell(text)] for key, text in report.facts.items()]))
    if report.verdict:
        add_text("verdict", cell(report.verdict))
    for place_of, sample in enumerate(report.samples):
        shown: Mapping[str, str] = sample.cells
        tag = f"samples/{shown['task']}/{place_of:03}"
        add_text(tag, table(list(COLUMNS), [[cell(shown[column]) for column in COLUMNS]]))
        if sample.picture is not None:
            width, height = decode(sample.picture).size
            image = Summary.Image(encoded_image_string=sample.picture, width=width, height=height, colorspace=3)
            add(Summary.Value(tag=f"{tag}/picture", image=image))
    writer.close()
    for path in earlier:  # of what was told before; gone once the new is there
        path.unlink(missing_ok=True)


TRACKERS: Final[Mapping[str, Callable[[ScoreReport, Path], None]]] = {
    "wandb": _report_to_wandb,
    "trackio": _report_to_trackio,
    "mlflow": _report_to_mlflow,
    "tensorboard": _report_to_tensorboard,
}
"""Name of the tracker, which is that of its package -> what tells it of one model; the folder is that of the run."""
