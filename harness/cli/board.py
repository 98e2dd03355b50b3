"""`harness leaderboard`, `harness compare`, `harness check`: what boards say, without a model and without torch."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.options import ANY, Json, tell
from support.errors import FAILED, OK, REGRESSED, UsageError, did_you_mean

if TYPE_CHECKING:
    from leaderboards.board.board import Board
    from leaderboards.board.entry import Entry
    from leaderboards.comparison.paired_logs import Loader
    from leaderboards.comparison.power import Power
    from leaderboards.statistics.resampling import CountsMetric
    from leaderboards.views.published import Reference
    from tasks.registry import TaskSpec

RUNS = Path("runs")
EXPORTED = RUNS / "exported"

Folders = Annotated[list[Path] | None, typer.Argument(help="Boards, or folders that hold some; default: runs.")]
Partial = Annotated[bool, typer.Option("--partial", help="Also runs with --limit.")]


def leaderboard_command(
    folders: Folders = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric each task ranks by.")] = False,
    partial: Partial = False,
    base: Annotated[
        str | None, typer.Option(help="The model the others are held against, on the same questions.")
    ] = None,
    ranks: Annotated[
        bool, typer.Option("--ranks", help="The ranks each model can have, ties included (reads the sample logs).")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Also what others reported of these tasks, apart.")
    ] = False,
    replaced: Annotated[
        bool, typer.Option("--replaced", help="Also rows of models that have other weights by now, marked.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write it as one page: charts, curves, flips with pictures.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="With small pictures of what was asked about, in the page.")] = True,
    form: Annotated[
        Literal["markdown", "csv"], typer.Option("--format", help="markdown or csv; for JSON, --json.")
    ] = "markdown",
    output: Annotated[
        Literal["lm-eval", "hub"] | None,
        typer.Option(help="Write each model's results as lm-eval does, or for the hub, to --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help=f"Folder of --output; default: {EXPORTED}.")] = None,
    source_url: Annotated[
        str | None, typer.Option(help="--output hub: a page with the evidence, linked from every result.")
    ] = None,
    hub_task: Annotated[
        list[str] | None,
        typer.Option(
            help="--output hub: TASK=ID or TASK=OWNER/NAME/ID, as the benchmark's dataset calls it; default: the data and the task."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Print the board: models by metrics, with intervals, ranks and the difference to a base; or write it as a page, or
    for others."""
    from dataclasses import replace

    from leaderboards.board.board import newest
    from leaderboards.comparison.compare_board import compare_board
    from leaderboards.views.markdown_report import leaderboard, to_csv, to_json
    from leaderboards.views.published import beside as reported
    from leaderboards.views.published import rows
    from support.markdown import line

    forms = {
        "--html": html is not None,
        f"--output {output}": output is not None,
        "--json": as_json,
        "--format csv": form == "csv",
    }
    asked = [name for name, given in forms.items() if given]
    refuse(
        (len(asked) > 1, f"{' and '.join(asked)} are forms of one board: give one of them"),
        (output is None and out is not None, "--out is for --output only"),
        (output != "hub" and source_url is not None, "--source-url is for --output hub only"),
        (output != "hub" and bool(hub_task), "--hub-task is for --output hub only"),
        (output is not None and base is not None, "--base is not for --output, whose files hold scores alone"),
        (output is not None and ranks, "--ranks is not for --output, whose files hold scores alone"),
        (output is not None and published, "--published is not for --output, whose files hold own scores alone"),
        (html is None and not pictures, "--no-pictures is for --html only"),
    )
    check_target("--html", html)
    check_target("--out", out or EXPORTED, folder=True)
    places = folders or [RUNS]
    boards = boards_of(places)
    entries = newest([entry for board in boards for entry in standing_of(board, partial, replaced)])
    if not entries:
        raise UsageError(_nothing(boards, places))
    if output is not None:
        chosen = [entry for entry in entries if entry.headline or not headline]
        return _export(chosen, output, out or EXPORTED, source_url, dict(_hub_task(given) for given in hub_task or []))
    reports = references() if published else []
    if published and not rows(entries, reports, only_headline=headline):
        tell("nothing is known here to be published of what was measured on this board")
    if html is not None:
        from harness.evaluation.board_page import board_page
        from leaderboards.views.html_page import write_page

        entries = [entry for entry in entries if entry.headline or not headline]
        found = compare_board(entries, samples=loader_of(boards), metrics=metric_of, base=base)
        for note in found.notes:
            tell(line(f"note: {note}"))
        title = f"Leaderboard: {', '.join(dict.fromkeys(map(str, places)))}"
        text = board_page(
            boards,
            entries,
            title=title,
            base=base,
            samples=loader_of(boards),
            comparison=found,
            pictures=pictures,
            references=reports,
        )
        write_page(html, text)
        tell(f"page: {html} ({len(text) / 1e6:.1f} MB)")
        return OK
    beside: dict[str, Any] = {"only_headline": headline}
    if base is not None or ranks:
        found = compare_board(entries, samples=loader_of(boards), metrics=metric_of, base=base, only_headline=headline)
        beside["comparison"] = found if ranks else replace(found, ranks={})
        for note in found.notes:
            tell(line(f"note: {note}"))
    if as_json:
        print(
            to_json(entries, **beside, published=rows(entries, reports, only_headline=headline) if published else None)
        )
    elif form == "csv":
        print(to_csv(entries, **beside, published=rows(entries, reports, only_headline=headline)), end="")
    else:
        print(leaderboard(entries, base=base, **beside))
        if text := reported(entries, reports, only_headline=headline):
            print(f"\n{text}")
    return OK


def compare_command(
    before: Annotated[
        str, typer.Argument(help="A model on the boards, or a board or a run's JSON file that holds one.")
    ],
    after: Annotated[str, typer.Argument(help="Likewise.")],
    board: Annotated[
        list[Path] | None, typer.Option("--board", help="Boards, or folders that hold some; default: runs.")
    ] = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric each task ranks by.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind of flip and task.")] = 3,
    partial: Partial = False,
    as_json: Json = False,
) -> int:
    """What changed from one model to another: scores, format or ability, and which answers were fixed or broken."""
    from leaderboards.comparison.compare import compare_runs, to_json, to_markdown
    from leaderboards.gate.source import source

    boards = boards_of(board) if board else boards_in(RUNS)
    entries, samples = [entry for one in boards for entry in standing_of(one, partial)], loader_of(boards)
    models = list(dict.fromkeys(entry.model for entry in entries))

    def side(name: str) -> "tuple[Sequence[Entry], Loader]":
        if name in models:
            return [entry for entry in entries if entry.model == name], samples
        if name and Path(name).exists():
            found = source(Path(name), partial=partial)
            tell_skipped(found.skipped)
            return found.entries, found.samples
        raise UsageError(f"no model {name!r} on the boards, and no such file{did_you_mean(name, models)}")

    (old, old_samples), (new, new_samples) = side(before), side(after)
    found = compare_runs(old, new, samples=(old_samples, new_samples), metrics=metric_of, only_headline=headline)
    print(json.dumps(to_json(found), allow_nan=False) if as_json else to_markdown(found, shown=examples))
    return OK


def check_command(
    baseline: Annotated[Path, typer.Option(help="The board to hold against, or the JSON file of one run.")],
    board: Annotated[
        Path | None, typer.Option(help="The board (or run) with the new results; with --model: the same.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The new results' model; default: the baseline's names.")] = None,
    baseline_model: Annotated[
        str | None, typer.Option(help="The baseline's model, where it is named otherwise.")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help="TASK.METRIC=X: fail on a drop of more than X (metric's unit), significant or not."),
    ] = None,
    require_better: Annotated[
        list[str] | None, typer.Option(help="TASK or TASK.METRIC that must be significantly better, or the gate fails.")
    ] = None,
    partial: Partial = False,
    junit: Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")] = None,
    comment: Annotated[
        Path | None, typer.Option(help="Write a markdown comment that lists the flipped samples.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Fail (exit 3) where a score is significantly worse than the baseline, worse than tolerated, or not better as
    claimed."""
    from leaderboards.gate.ci_output import publish
    from leaderboards.gate.gate import GateSettings, check
    from leaderboards.gate.result import render, to_json
    from leaderboards.gate.source import source

    if (model is None) != (baseline_model is None):
        raise UsageError(
            "--model and --baseline-model go together: the new results' model and the one it is held against"
        )
    if ANY in (require_better or ()):
        raise UsageError("--require-better: name the TASK or TASK.METRIC that must be better")
    given = [tolerance_of(one) for one in tolerance or []]
    tolerances = dict(given)
    if twice := [name for name, count in Counter(name for name, _ in given).items() if count > 1]:
        raise UsageError(f"--tolerance: {twice[0]} is given twice")
    check_target("--junit", junit)
    check_target("--comment", comment)
    old, new = source(baseline, partial=partial), source(board or baseline, partial=partial)
    tell_skipped(new.skipped)
    if board is None and model is None:
        raise UsageError(
            "--baseline alone would be held against itself: name the new results by --board, or by --model and --baseline-model"
        )
    if board is None and model == baseline_model:
        raise UsageError(f"--model and --baseline-model are both {model!r}, which would be held against itself")
    for option, name, side in (("--baseline-model", baseline_model, old), ("--model", model, new)):
        models = list(dict.fromkeys(entry.model for entry in side.entries))
        if (
            name is not None and models and name not in models and not side.skipped
        ):  # a torn file may be the named model's
            raise UsageError(f"{option} {name!r}: no such model{did_you_mean(name, models)}")
    settings = GateSettings(
        tolerances=tolerances,
        require_better=require_better or (),
        models=(baseline_model, model) if model is not None and baseline_model is not None else None,
    )
    result = check(old, new, metrics=metric_of, settings=settings)
    for text in publish(result, os.environ, junit=junit, comment=comment):
        tell(text)  # the runner reads both streams; stdout is the result's
    print(json.dumps(to_json(result), allow_nan=False) if as_json else render(result))
    return OK if result.passed else REGRESSED if result.regressions or result.unmet else FAILED


def metric_of(task: str, name: str) -> "CountsMetric | None":
    """The metric of a task; None where there is none of that name here."""
    from support.errors import UnknownName
    from tasks.registry import registry

    try:
        return registry().metric(task, name)
    except UnknownName:
        return None


def references() -> "list[Reference]":
    """What papers report, and what the tasks' YAMLs say that others did."""
    from leaderboards.views.published import Reference, published
    from tasks.registry import registry

    of_tasks = [
        Reference(model=row.model, task=task.name, metric=metric, value=value, source=row.source)
        for task in registry().tasks.values()
        for row in task.published
        for metric, value in row.scores.items()
    ]
    return [*published(), *of_tasks]


def loader_of(boards: "Sequence[Board]") -> "Loader":
    """The samples of a run, from the board that has it."""

    def load(run: str) -> Any:
        for board in boards:
            if (board.folder / f"{run}.json").is_file():
                return board.samples(run)
        raise FileNotFoundError(run)

    return load


def boards_of(folders: Sequence[Path]) -> "list[Board]":
    """The boards in some folders; UsageError for a folder without any."""
    found = {
        board.folder: board for folder in folders for board in _boards_of(folder)
    }  # two folders may hold the same one
    return list(found.values())


def _boards_of(folder: Path) -> "list[Board]":
    if folder.is_file():
        raise UsageError(f"{str(folder)!r} is a file; give a board (runs/NAME/board) or a folder that holds some")
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a board (runs/NAME/board) or a folder that holds some")
    if not (found := boards_in(folder)):
        raise UsageError(
            f"no board in {str(folder)!r}; give a folder that holds one, such as the --out of `harness eval`"
        )
    return found


def boards_in(folder: Path) -> "list[Board]":
    """The boards below a folder, or itself where it holds runs' files; none where there is no such folder."""
    from leaderboards.board.board import Board

    below = [path for path in sorted(folder.glob("**/board")) if path.is_dir()] if folder.name != "board" else []
    itself = folder.is_dir() and (folder.name == "board" or any(folder.glob("*.json")))
    return [Board(path) for path in below or ([folder] if itself else [])]


def _nothing(boards: "Sequence[Board]", folders: Sequence[Path]) -> str:
    """Why a leaderboard would be empty."""
    runs = {entry.run for board in boards for entry in board.entries() if entry.partial}
    where = ", ".join(repr(str(folder)) for folder in folders)
    if not runs:
        return f"no run on the boards in {where}"
    many = f"{len(runs)} run" + "s" * (len(runs) > 1)
    return f"no whole run on the boards in {where}: {many} with --limit or on partial data; --partial shows them"


def standing_of(board: "Board", partial: bool, replaced: bool = False) -> "list[Entry]":
    """The board's numbers; what could not be read, and what has other weights by now, is told."""
    from support.markdown import line

    entries = board.current(partial=partial, replaced=replaced)
    tell_skipped(board.skipped)
    if board.replaced and not replaced:
        models = list(dict.fromkeys(entry.model for entry in board.replaced))
        tell(
            line(f"left out, since these names have other weights by now: {', '.join(models)} (--replaced shows them)")
        )
    return entries


def refuse(*mistakes: tuple[bool, str]) -> None:
    """UsageError for the first mistake that was made."""
    for made, what in mistakes:
        if made:
            raise UsageError(what)


def check_target(option: str, path: Path | None, *, folder: bool = False) -> None:
    """UsageError where nothing can be written at `path`, before anything is computed for it."""
    if path is None:
        return
    if not folder and path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a folder; give a file")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{option} {str(path)!r} is a file; give a folder")
    above = next(parent for parent in (*path.parents, Path()) if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{option} {str(path)!r}: {str(above)!r} is a file, not a folder")
    if not os.access(path if folder and path.exists() else above, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {str(path)!r}: nothing can be written in {str(above)!r}")


def _export(
    entries: "Sequence[Entry]",
    form: Literal["lm-eval", "hub"],
    out: Path,
    source_url: str | None,
    task_ids: dict[str, str],
) -> int:
    """Write each model's entries for others, once all are made; FAILED where a model has no file."""
    from leaderboards.board.export_results import hub_files, lm_eval_files, write_files
    from support.markdown import line

    made = lm_eval_files(entries) if form == "lm-eval" else hub_files(entries, source_url=source_url, task_ids=task_ids)
    for path in write_files(out, made.files):
        print(path)
    for model, scores in made.left_out.items():
        for score in scores:
            tell(line(f"{model}: left out: {score}"))
    for model, why in made.refused.items():
        tell(line(f"{model}: not exported: {why}"))
    return FAILED if made.refused else OK


def _hub_task(given: str) -> tuple[str, str]:
    """A --hub-task as given: TASK, and ID or OWNER/NAME/ID."""
    task, equals, name = given.partition("=")
    if not equals or not name:
        raise UsageError(f"--hub-task {given!r}: must be TASK=ID or TASK=OWNER/NAME/ID")
    return task, name


def import_command(
    files: Annotated[list[Path], typer.Argument(help="results_*.json of lm-eval or lmms-eval.")],
    out: Annotated[Path, typer.Option(help="The run folder whose board gets them.")] = Path("runs/imported"),
    model: Annotated[
        str | None, typer.Option(help="What the board shall call the model; default: as the file says.")
    ] = None,
    created: Annotated[str | None, typer.Option(help="When it ran (ISO 8601, UTC); default: as the file says.")] = None,
) -> int:
    """Put results of lm-eval or lmms-eval on a board, marked as imported; they share no column with measured ones."""
    from leaderboards.board.board import Board
    from leaderboards.board.import_results import read_results
    from support.markdown import line

    check_target("--out", out / "board", folder=True)
    board = Board(out / "board")
    read = [
        (file, read_results(file, model=model, created=created)) for file in files
    ]  # all, before one is on the board
    for file, found in read:
        board.add(found.entries, [])
        tell(line(f"{file}: {len(found.entries)} numbers of {found.entries[0].model}, into {board.folder}"))
        for what in found.left_out:
            tell(line(f"{file}: left out: {what}"))
    return OK


def power_command(
    task: Annotated[str, typer.Argument(help="A task's name.")],
    metric: Annotated[str | None, typer.Option(help="Another metric than the headline one.")] = None,
    board: Annotated[
        list[Path] | None, typer.Option("--board", help="Boards, or folders that hold some; default: runs.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose answers tell how much they vary; default: the two scored last.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="The model it is held against.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Also a run of so many samples.")] = None,
    difference: Annotated[
        float | None, typer.Option(help="Also what a claim of this difference needs, in the metric's unit.")
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(help="Suppose answers of which so many % are right; default: 50.")
    ] = None,
    discordance: Annotated[
        float | None, typer.Option(help="Suppose that just one of two models is right on so many % of questions.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Which difference a run can see (80% power, 5% two-sided), and how many samples a claim needs."""
    from dataclasses import asdict

    from leaderboards.comparison.power import of_boards, render
    from tasks.registry import registry

    supposing = accuracy is not None or discordance is not None
    reading = bool(board) or model is not None or against is not None
    refuse(
        (
            supposing and reading,
            "--accuracy and --discordance suppose answers; --board, --model and --against read them: give the ones or the others",
        ),
        (
            accuracy is not None and discordance is not None,
            "--accuracy and --discordance say one thing in two ways: give one of them",
        ),
    )
    spec = registry().task(task)
    name = metric or spec.headline
    counts = registry().metric(task, name)
    boards = [] if supposing else boards_of(board) if board else boards_in(RUNS)
    found = of_boards(boards, task, name, counts, model=model, against=against)
    for one in boards:
        tell_skipped(one.skipped)
    if found is None:
        if board:
            tell(f"no whole run of {task} with its answers on the boards under {', '.join(map(str, board))}")
        found = _supposed(spec, name, samples, accuracy, discordance)
    if as_json:
        needed = None if difference is None else found.samples_for(difference)
        print(json.dumps(asdict(found) | {"detectable": found.detectable(samples), "samples_needed": needed}))
    else:
        print(render(found, samples=samples, difference=difference))
    return OK


def _supposed(
    spec: "TaskSpec", metric: str, samples: int | None, accuracy: float | None, discordance: float | None
) -> "Power":
    """Power without answers; UsageError where it cannot be supposed, with what would help."""
    from leaderboards.comparison.power import RANGES, supposed

    unit = spec.all_metrics[metric].unit
    shares = [name for name, one in spec.all_metrics.items() if one.unit == "%" and name.endswith("accuracy")]
    if unit not in RANGES:
        way = f", or --metric {shares[0]}" if shares else ""
        raise UsageError(
            f"{spec.name} {metric} ({unit}): what one answer adds to it is not known without answers; give --board with a whole run of "
            f"{spec.name}{way}. --accuracy and --discordance are for shares (%) only"
        )
    if unit != "%" and (accuracy is not None or discordance is not None):
        raise UsageError(
            f"{spec.name} {metric} ({unit}): --accuracy and --discordance are for shares (%) only; give --board with a whole run"
        )
    rows = samples or spec.rows or _embedded(spec)
    if rows is None:
        raise UsageError(f"{spec.name}: how many samples it has is not known; give --samples")
    return supposed(rows, unit=unit, accuracy=50.0 if accuracy is None else accuracy, discordance=discordance)


def _embedded(spec: "TaskSpec") -> int | None:
    """How many documents a task brings along; None where its data are elsewhere."""
    if spec.data != "embedded":
        return None
    from harness.evaluation.generate import load_tasks

    return len(load_tasks([spec])[0][spec.name].eval_docs)


def tell_skipped(skipped: Sequence[tuple[Path, str]]) -> None:
    """Name the files that could not be read."""
    from support.markdown import line

    for path, why in skipped:
        tell(line(f"skipped {path}: {why}"))


def tolerance_of(given: str) -> tuple[str, float]:
    """A --tolerance as given: TASK.METRIC and X."""
    name, _, value = given.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--tolerance {given!r}: must be TASK.METRIC=NUMBER") from None
