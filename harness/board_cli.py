"""`harness leaderboard`, `harness compare`, `harness check`: what boards say, without a model and without torch."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.options import FAILED, OK, REGRESSED, Json, UsageError, tell

if TYPE_CHECKING:
    from leaderboards.board import Board
    from leaderboards.compare import Loader
    from leaderboards.entry import Entry
    from leaderboards.published import Reference
    from leaderboards.verdict import CountsMetric

Folders = Annotated[list[Path] | None, typer.Argument(help="Boards, or folders that hold some; default: runs.")]
Partial = Annotated[bool, typer.Option("--partial", help="Also runs with --limit.")]


def leaderboard_command(
    folders: Folders = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric each task ranks by.")] = False,
    partial: Partial = False,
    base: Annotated[str | None, typer.Option(help="The model the others are held against, on the same questions.")] = None,
    ranks: Annotated[bool, typer.Option("--ranks", help="The ranks each model can have, ties included (reads the sample logs).")] = False,
    published: Annotated[bool, typer.Option("--published", help="Also what others reported of these tasks, apart.")] = False,
    replaced: Annotated[bool, typer.Option("--replaced", help="Also rows of models that have other weights by now, marked.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write it as one page: charts, curves, flips with pictures.")] = None,
    pictures: Annotated[bool, typer.Option(help="With small pictures of what was asked about, in the page.")] = True,
    form: Annotated[Literal["markdown", "csv"], typer.Option("--format", help="markdown or csv; for JSON, --json.")] = "markdown",
    output: Annotated[
        Literal["lm-eval", "hub"] | None,
        typer.Option(help="Write each model's results as lm-eval does, or for the hub, to --out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of --output.")] = Path("runs/exported"),
    as_json: Json = False,
) -> int:
    """Print the board: a row a model, with intervals, ranks and the difference to a base; or write it as a page, or for others."""
    from leaderboards.board import newest
    from leaderboards.compare import standing
    from leaderboards.published import beside as reported
    from leaderboards.report import leaderboard, to_csv, to_json

    boards = boards_of(folders or [Path("runs")])
    entries = newest([entry for board in boards for entry in standing_of(board, partial, replaced)])
    if output is not None:
        for path in exported(entries, output, out):
            print(path)
        return OK
    if html is not None:
        from harness.board_page import board_page
        from leaderboards.page import write_page

        found = standing(entries, samples=loader_of(boards), metrics=metric_of, base=base)
        names = dict.fromkeys(str(folder) for folder in folders or [Path("runs")])
        title = f"Leaderboard: {', '.join(names)}"
        text = board_page(boards, entries, title=title, base=base, samples=loader_of(boards), standing=found, pictures=pictures, tell=tell)
        write_page(html, text)
        tell(f"page: {html} ({len(text) / 1e6:.1f} MB)")
        return OK
    beside: dict[str, Any] = {"only_headline": headline}
    if base is not None or ranks:
        found = standing(entries, samples=loader_of(boards), metrics=metric_of, base=base, only_headline=headline)
        beside |= {"verdicts": found.verdicts, "ranks": found.ranks if ranks else {}}
        for note in found.notes:
            tell(f"note: {note}")
    if as_json:
        print(to_json(entries, **beside))
    elif form == "csv":
        print(to_csv(entries, **beside), end="")
    else:
        print(leaderboard(entries, base=base, **beside))
        if published and (text := reported(entries, references(), only_headline=headline)):
            print(f"\n{text}")
    return OK


def compare_command(
    before: Annotated[str, typer.Argument(help="A model on the boards, or a board or a run's JSON file that holds one.")],
    after: Annotated[str, typer.Argument(help="Likewise.")],
    board: Annotated[list[Path] | None, typer.Option("--board", help="Boards, or folders that hold some; default: runs.")] = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric each task ranks by.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind of flip and task.")] = 3,
    partial: Partial = False,
    as_json: Json = False,
) -> int:
    """What changed from one model to another: scores, format or ability, and which answers were fixed or broken."""
    from leaderboards.compare import compare_runs, to_json, to_markdown
    from leaderboards.regression import source
    from leaderboards.report import known

    boards = boards_of(board or [Path("runs")]) if board or Path("runs").is_dir() else []
    entries, samples = [entry for one in boards for entry in standing_of(one, partial)], loader_of(boards)
    models = list(dict.fromkeys(entry.model for entry in entries))

    def side(name: str) -> "tuple[Sequence[Entry], Loader]":
        if name in models:
            return [entry for entry in entries if entry.model == name], samples
        if Path(name).exists():
            found = source(Path(name), partial=partial)
            tell_skipped(found.skipped)
            return found.entries, found.samples
        raise UsageError(f"no model {name!r} on the boards, and no such file; {known(name, models)}")

    (old, old_samples), (new, new_samples) = side(before), side(after)
    found = compare_runs(old, new, samples=(old_samples, new_samples), metrics=metric_of, only_headline=headline)
    print(json.dumps(to_json(found), allow_nan=False) if as_json else to_markdown(found, shown=examples))
    return OK


def check_command(
    baseline: Annotated[Path, typer.Option(help="The board to hold against, or the JSON file of one run.")],
    board: Annotated[Path | None, typer.Option(help="The board (or run) with the new results; with --model: the same.")] = None,
    model: Annotated[str | None, typer.Option(help="The new results' model; default: the baseline's names.")] = None,
    baseline_model: Annotated[str | None, typer.Option(help="The baseline's model, where it is named otherwise.")] = None,
    tolerance: Annotated[
        list[str] | None, typer.Option(help="TASK.METRIC=X: fail on a drop of more than X (metric's unit), significant or not.")
    ] = None,
    require_better: Annotated[
        list[str] | None, typer.Option(help="TASK or TASK.METRIC that must be significantly better, or the gate fails.")
    ] = None,
    partial: Partial = False,
    junit: Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")] = None,
    comment: Annotated[Path | None, typer.Option(help="Write a markdown comment that lists the flipped samples.")] = None,
    as_json: Json = False,
) -> int:
    """Fail (exit 3) where a score is significantly worse than the baseline, worse than tolerated, or not better as claimed."""
    from leaderboards.ci import publish
    from leaderboards.regression import check, render, source, to_json

    if (model is None) != (baseline_model is None):
        raise UsageError("--model and --baseline-model go together: the new results' model and the one it is held against")
    tolerances = dict(tolerance_of(given) for given in tolerance or [])
    old, new = source(baseline, partial=partial), source(board or baseline, partial=partial)
    tell_skipped(new.skipped)
    if board is None and model is None:
        raise UsageError(
            "--baseline alone would be held against itself: name the new results by --board, or by --model and --baseline-model"
        )
    result = check(
        old.entries,
        new.entries,
        samples=(old.samples, new.samples),
        metrics=metric_of,
        tolerances=tolerances,
        require_better=require_better or (),
        models=(baseline_model, model) if model is not None and baseline_model is not None else None,
        skipped=list(dict.fromkeys([*old.skipped, *new.skipped])),  # a torn file may hold the number that fell
    )
    for text in publish(result, os.environ, junit=junit, comment=comment):
        tell(text)  # the runner reads both streams; stdout is the result's
    print(json.dumps(to_json(result), allow_nan=False) if as_json else render(result))
    return OK if result.passed else REGRESSED if result.regressions or result.unmet else FAILED


def metric_of(task: str, name: str) -> "CountsMetric | None":
    """The metric of a task; None where there is none of that name here."""
    from tasks.registry import UnknownName, registry

    try:
        return registry().metric(task, name)
    except UnknownName:
        return None


def references() -> "list[Reference]":
    """What papers report, and what the tasks' YAMLs say that others did."""
    from leaderboards.published import Reference, published
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
    """The boards in some folders; one that holds none is taken for a board itself."""
    from leaderboards.board import Board

    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder {str(folder)!r}; give a board (runs/NAME/board) or a folder that holds some")
    found = [path for folder in folders for path in ([folder] if folder.name == "board" else sorted(folder.glob("**/board")))]
    return [Board(path) for path in found or folders]


def standing_of(board: "Board", partial: bool, replaced: bool = False) -> "list[Entry]":
    """The board's numbers; what could not be read, and what has other weights by now, is told."""
    entries = board.standing(partial=partial, replaced=replaced)
    tell_skipped(board.skipped)
    if board.replaced and not replaced:
        models = list(dict.fromkeys(entry.model for entry in board.replaced))
        tell(f"left out, since these names have other weights by now: {', '.join(models)} (--replaced shows them)")
    return entries


def exported(entries: "Sequence[Entry]", form: str, out: Path) -> list[Path]:
    """Write each model's entries for others; the files."""
    import yaml

    from leaderboards.exchange import hub_results, model_index, sanitized, write_lm_eval

    written: list[Path] = []
    for model in dict.fromkeys(entry.model for entry in entries):
        own = [entry for entry in entries if entry.model == model]
        if form == "lm-eval":
            written.append(write_lm_eval(out, own))
            continue
        found = hub_results(own)
        texts = dict(found.files)
        texts["model-index.yaml"] = yaml.safe_dump(model_index(model, own), sort_keys=False, allow_unicode=True)
        for name, text in texts.items():
            path = out / sanitized(model) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
        for line in found.left_out:
            tell(f"{model}: left out: {line}")
    return written


def import_command(
    files: Annotated[list[Path], typer.Argument(help="results_*.json of lm-eval or lmms-eval.")],
    out: Annotated[Path, typer.Option(help="The run folder whose board gets them.")] = Path("runs/imported"),
    model: Annotated[str | None, typer.Option(help="What the board shall call the model, where the file does not say.")] = None,
    created: Annotated[str | None, typer.Option(help="When it ran (ISO 8601, UTC), where the file does not say.")] = None,
) -> int:
    """Put results of lm-eval or lmms-eval on a board, marked as imported; they share no column with measured ones."""
    from leaderboards.board import Board
    from leaderboards.exchange import read_results

    board = Board(out / "board")
    for file in files:
        found = read_results(file, model=model, created=created)
        board.add(found.entries, [])
        tell(f"{file}: {len(found.entries)} numbers of {found.entries[0].model}, into {board.folder}")
        for line in found.left_out:
            tell(f"{file}: left out: {line}")
    return OK


def power_command(
    task: Annotated[str, typer.Argument(help="A task's name.")],
    metric: Annotated[str | None, typer.Option(help="Another metric than the headline one.")] = None,
    board: Annotated[list[Path] | None, typer.Option("--board", help="Boards, or folders that hold some; default: runs.")] = None,
    model: Annotated[str | None, typer.Option(help="Whose answers tell how much they vary; default: the two scored last.")] = None,
    against: Annotated[str | None, typer.Option(help="The model it is held against.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Also a run of so many samples.")] = None,
    difference: Annotated[float | None, typer.Option(help="Also what a claim of this difference needs, in the metric's unit.")] = None,
    accuracy: Annotated[float, typer.Option(help="Without logs: suppose this accuracy, in %.")] = 50.0,
    discordance: Annotated[float | None, typer.Option(help="Without logs: on how many % of questions just one of two is right.")] = None,
    as_json: Json = False,
) -> int:
    """Which difference a run can see (80% power, 5% two-sided), and how many samples a claim needs."""
    from dataclasses import asdict

    from leaderboards.power import of_board, render, supposed
    from tasks.registry import registry

    spec = registry().task(task)
    name = metric or spec.headline
    counts = registry().metric(task, name)
    found = None
    for one in boards_of(board or [Path("runs")]) if board or Path("runs").is_dir() else []:
        found = found or of_board(one, task, name, counts, model=model, against=against)
    if found is None:
        if model is not None or against is not None:
            places = ", ".join(map(str, board or [Path("runs")]))
            raise UsageError(f"no board under {places} holds {model or against!r} on {task}")
        rows = samples or spec.rows
        if rows is None:
            raise UsageError(f"{task}: how many samples it has is not known; give --samples")
        found = supposed(rows, unit=spec.all_metrics[name].unit, accuracy=accuracy, discordance=discordance)
    if as_json:
        print(json.dumps(asdict(found) | {"detectable": found.detectable(samples) if samples else found.detectable()}))
    else:
        print(render(found, samples=samples, difference=difference))
    return OK


def tell_skipped(skipped: Sequence[tuple[Path, str]]) -> None:
    """Name the files that could not be read."""
    for path, why in skipped:
        tell(f"skipped {path}: {why}")


def tolerance_of(given: str) -> tuple[str, float]:
    """A --tolerance as given: TASK.METRIC and X."""
    name, _, value = given.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--tolerance {given!r}: must be TASK.METRIC=NUMBER") from None
