"""`harness power`: which difference a run can detect, and how many samples a claim needs."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.board_options import RUNS, Boards, refuse
from harness.cli.options import Json
from harness.cli.shown import show
from support.errors import OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leaderboards.comparison.power import Power
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)


def power_command(
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Tasks or suites; several are a panel, each by its headline.")
    ],
    metric: Annotated[str | None, typer.Option(help="A metric of one task; default: the headline metric.")] = None,
    board: Boards = None,
    model: Annotated[
        str | None, typer.Option(help="Estimate the variance from this model; default: the two scored last.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="The model to compare it with.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Plan a run of this many samples.")] = None,
    images: Annotated[int | None, typer.Option(min=2, help="Plan a run of this many images.")] = None,
    difference: Annotated[
        float | None, typer.Option(help="Also print what this difference needs, in the metric's unit.")
    ] = None,
    judge_repeats: Annotated[
        int | None, typer.Option(min=1, help="Plan to ask the judge so often; default: as on the board.")
    ] = None,
    tests: Annotated[
        int | None,
        typer.Option(min=1, help="Adjust by Holm for so many tests (metrics x models); default: one a task."),
    ] = None,
    accuracy: Annotated[float | None, typer.Option(help="Assume so many percent right (70: 70%); default: 50.")] = None,
    discordance: Annotated[
        float | None,
        typer.Option(help="Assume that one alone of two models is right on so many percent of questions."),
    ] = None,
    per_image: Annotated[float | None, typer.Option(help="Assume so many questions about each image.")] = None,
    correlation: Annotated[
        float | None, typer.Option(help="Assume that differences about one image correlate so much, 0 to 1.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Tell which difference between two models a run can detect.

    With 80% power at a two-sided 5% level; and how many images a claim needs. Counts questions about one image as the
    cluster they are, the variance of a judge that was asked several times, and Holm's adjustment for a panel.
    """
    from leaderboards.comparison.power_report import Plan, render, render_panel, to_json
    from tasks.registry import registry

    given = {"accuracy": accuracy, "discordance": discordance, "per_image": per_image, "correlation": correlation}
    assumed = {name: value for name, value in given.items() if value is not None}
    _check_units(assumed)
    chosen = registry().expand(tasks)
    _refuse_contradictions(len(chosen), assumed, bool(board or model or against), metric, samples, images)
    if tests is not None and tests < len(chosen):
        raise UsageError(f"--tests {tests}: the panel alone has {len(chosen)}")
    panel = _find_powers(chosen, metric, [] if assumed else board, (model, against), samples, assumed)
    _check_repeats(panel, judge_repeats)
    numbers = {"samples": samples, "images": images, "repeats": judge_repeats}
    plan = Plan(**numbers, difference=difference, tests=tests or len(panel))
    only = next(iter(panel.values())) if len(panel) == 1 else None
    if as_json:
        every = {name: to_json(one, plan) for name, one in panel.items()} if only is None else to_json(only, plan)
        print(json.dumps(every))
    else:
        show(render_panel(panel, plan) if only is None else render(only, plan))
    return OK


def _find_powers(
    chosen: "Sequence[TaskSpec]",
    metric: str | None,
    board: list[Path] | None,
    models: tuple[str | None, str | None],
    samples: int | None,
    assumed: "dict[str, float]",
) -> "dict[str, Power]":
    """Of each task (its name, metric and unit), from boards where these know it; `board` [] reads none, None looks for
    them."""
    from harness.evaluation.find_boards import boards_in, find_boards, log_skipped
    from leaderboards.comparison.power import of_boards
    from tasks.registry import registry

    boards = find_boards(board) if board else boards_in(RUNS) if board is None else []
    panel = {}
    for spec in chosen:
        name = metric or spec.headline
        counts = registry().metric(spec.name, name)
        known = of_boards(boards, spec.name, name, counts, model=models[0], against=models[1])
        if known is None and board:
            where = ", ".join(map(str, board))
            log.info(f"no complete run of {spec.name} with its answers on the boards under {where}")
        title = f"{spec.name} {name} {spec.all_metrics[name].unit}".rstrip()
        panel[title] = known or _suppose_power(spec, name, samples, assumed)
    for each in boards:
        log_skipped(each.skipped)
    return panel


def _check_units(assumed: "dict[str, float]") -> None:
    """UsageError for a share, or a percentage that is none of right answers, where percent are meant."""
    for name, least in (("accuracy", 10), ("discordance", 1)):
        given = assumed.get(name, least)
        if 0 < given < 1:
            raise UsageError(f"--{name} {given:g}: is in %; for a share of {given:g} give {100 * given:g}")
        if 0 < given < least:
            as_much = f"give {100 - given:g}, which supposes as much chance"
            raise UsageError(f"--{name} {given:g}: is in %, and {given:g}% is less than guessing gives; else {as_much}")


def _refuse_contradictions(
    tasks: int,
    assumed: "dict[str, float]",
    from_boards: bool,
    metric: str | None,
    samples: int | None,
    images: int | None,
) -> None:
    refuse(
        (
            bool(assumed) and from_boards,
            "--accuracy and --discordance suppose answers; --board, --model and --against read them, as they do how "
            "questions about one image hang together (--per-image, --correlation): give either these or those",
        ),
        (
            "accuracy" in assumed and "discordance" in assumed,
            "--accuracy and --discordance say one thing in two ways: give one of them",
        ),
        (
            "correlation" in assumed and assumed.get("per_image", 1) <= 1,
            "--correlation is of questions about one image: give --per-image, too",
        ),
        (samples is not None and images is not None, "--samples and --images say one thing in two ways: give one"),
        (metric is not None and tasks > 1, f"--metric is of one task, but {tasks} are given"),
    )


def _check_repeats(panel: "dict[str, Power]", repeats: int | None) -> None:
    """--judge-repeats acts only where it is known what repeats differ by."""
    if repeats is not None and all(power.judged == 1 for power in panel.values()):
        raise UsageError(
            f"--judge-repeats {repeats}: what repeats of the judge differ by is not known here; it is read from a "
            "board whose runs asked the judge several times (harness eval --judge-repeats 3)"
        )


def _suppose_power(spec: "TaskSpec", metric: str, samples: int | None, assumed: "dict[str, float]") -> "Power":
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
    if unit != "%" and assumed.keys() & {"accuracy", "discordance"}:
        raise UsageError(
            f"{spec.name} {metric} ({unit}): --accuracy and --discordance are for shares (%) only; "
            "give --board with a complete run"
        )
    rows = samples or spec.rows or _count_embedded(spec)
    if rows is None:
        raise UsageError(f"{spec.name}: how many samples it has is not known; give --samples")
    return supposed(rows, unit=unit, **assumed)


def _count_embedded(spec: "TaskSpec") -> int | None:
    """How many documents a task brings along; None where its data are elsewhere."""
    if spec.data != "embedded":
        return None
    from harness.evaluation.generate import load_tasks

    return len(load_tasks([spec])[spec.name].eval_docs)
