"""`harness power`: which difference a run can detect, and how many samples a claim needs."""

import json
import logging
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.board_options import RUNS, Boards, refuse
from harness.cli.options import Json
from harness.cli.shown import show
from support.errors import OK, UsageError

if TYPE_CHECKING:
    from leaderboards.comparison.power import Power
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)


def power_command(
    task: Annotated[str, typer.Argument(help="A task's name.")],
    metric: Annotated[str | None, typer.Option(help="A metric; default: the headline metric.")] = None,
    board: Boards = None,
    model: Annotated[
        str | None, typer.Option(help="Estimate the variance from this model; default: the two scored last.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="The model to compare it with.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Also print a run of this many samples.")] = None,
    difference: Annotated[
        float | None, typer.Option(help="Also print the samples that this difference needs, in the metric's unit.")
    ] = None,
    accuracy: Annotated[float | None, typer.Option(help="Assume this % of right answers; default: 50.")] = None,
    discordance: Annotated[
        float | None, typer.Option(help="Assume that only one of two models is right on this % of questions.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Tell which difference between two models a run can detect.

    With 80% power at a two-sided 5% level; and how many samples a claim needs.
    """
    from dataclasses import asdict

    from harness.evaluation.find_boards import boards_in, find_boards, log_skipped
    from leaderboards.comparison.power import of_boards, render
    from tasks.registry import registry

    by_assumption = accuracy is not None or discordance is not None
    from_boards = bool(board) or model is not None or against is not None
    refuse(
        (
            by_assumption and from_boards,
            "--accuracy and --discordance suppose answers; --board, --model and --against read them: "
            "give either these or those",
        ),
        (
            accuracy is not None and discordance is not None,
            "--accuracy and --discordance say one thing in two ways: give one of them",
        ),
    )
    spec = registry().task(task)
    name = metric or spec.headline
    counts = registry().metric(task, name)
    boards = [] if by_assumption else find_boards(board) if board else boards_in(RUNS)
    found = of_boards(boards, task, name, counts, model=model, against=against)
    for each in boards:
        log_skipped(each.skipped)
    if found is None:
        if board:
            log.info(f"no complete run of {task} with its answers on the boards under {', '.join(map(str, board))}")
        found = _suppose_power(spec, name, samples, accuracy, discordance)
    if as_json:
        needed = None if difference is None else found.samples_for(difference)
        print(json.dumps(asdict(found) | {"detectable": found.detectable(samples), "samples_needed": needed}))
    else:
        show(render(found, samples=samples, difference=difference))
    return OK


def _suppose_power(
    spec: "TaskSpec", metric: str, samples: int | None, accuracy: float | None, discordance: float | None
) -> "Power":
    """Power without answers; UsageError where it cannot be supposed, with what would help."""
    from leaderboards.comparison.power import RANGES, supposed

    unit = spec.all_metrics[metric].unit
    shares = [name for name, one in spec.all_metrics.items() if one.unit == "%" and name.endswith("accuracy")]
    if unit not in RANGES:
        way = f", or --metric {shares[0]}" if shares else ""
        raise UsageError(
            f"{spec.name} {metric} ({unit}): what one answer adds to it is not known without answers; "
            f"give --board with a complete run of {spec.name}{way}. "
            "--accuracy and --discordance are for shares (%) only"
        )
    if unit != "%" and (accuracy is not None or discordance is not None):
        raise UsageError(
            f"{spec.name} {metric} ({unit}): --accuracy and --discordance are for shares (%) only; "
            "give --board with a complete run"
        )
    rows = samples or spec.rows or _count_embedded(spec)
    if rows is None:
        raise UsageError(f"{spec.name}: how many samples it has is not known; give --samples")
    return supposed(rows, unit=unit, accuracy=50.0 if accuracy is None else accuracy, discordance=discordance)


def _count_embedded(spec: "TaskSpec") -> int | None:
    """How many documents a task brings along; None where its data are elsewhere."""
    if spec.data != "embedded":
        return None
    from harness.evaluation.generate import load_tasks

    return len(load_tasks([spec])[spec.name].eval_docs)
