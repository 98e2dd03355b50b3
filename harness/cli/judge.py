"""Commands under `harness judge`: what judges said and cost, and how they agree."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.board_options import RUNS, Boards
from harness.cli.judge_bench import bench_command
from harness.cli.judge_families import families_command
from harness.cli.judge_forget import forget_command
from harness.cli.options import LEDGER, Json, LedgerPath, money
from harness.cli.shown import show
from support.errors import OK, UnknownName, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.judges.ledger import Ledger, Total

log = logging.getLogger(__name__)

judge_app = typer.Typer(no_args_is_help=True, help="Show what judges replied and cost, and how good they are.")
judge_app.command("bench")(bench_command)
judge_app.command("families")(families_command)
judge_app.command("forget")(forget_command)


@judge_app.command("ledger")
def judge_ledger_command(
    ledger: LedgerPath = LEDGER,
    failures: Annotated[
        bool, typer.Option("--failures", help="Show which questions have no reply: by task, judge and reason.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Show what judges were paid for: calls, tokens and money by task, judge and the model that has answered."""
    found = _open_ledger(ledger)
    return _print_failures(found, as_json) if failures else _print_totals(found, as_json)


def _print_failures(ledger: "Ledger", as_json: bool) -> int:
    """The questions without a reply by task, judge and reason, with one of each."""
    from support.tables import Table
    from tasks.judges.failures import without_secrets
    from tasks.judges.reasons import list_reasons

    failed = {one.key: one for one in ledger.failed()}
    by_judge: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in failed.values():
        by_judge.setdefault((one.task, one.model), []).append((one.key, one.reason))
    rows: list[dict[str, Any]] = []
    for (task, judge), lost in by_judge.items():
        for kind in list_reasons(lost):
            first = next(one for one in failed.values() if one.key.startswith(kind.example))
            answer = without_secrets((first.body or b"")[:2000].decode("utf-8", "replace"))
            example = {"key": first.key, "created": first.created, "answer": answer}
            rows.append({"task": task, "judge": judge, "reason": kind.reason, "count": kind.count, "example": example})
    if as_json:
        print(json.dumps({"failures": rows}))
        return OK
    shown = [
        [str(row[name]) for name in ("task", "judge", "reason", "count")] + [_write_example(row["example"])]
        for row in rows
    ]
    found = Table(["task", "judge", "reason", "questions", "one of them"], shown)
    show([found if rows else "No failures."])
    return OK


def _write_example(example: "Mapping[str, str]") -> str:
    """The beginning of a question's key, when it was asked, and what came where that is kept."""
    text = f"{example['key'][:12]}, {example['created']}"
    return f"{text}: {example['answer']}" if example["answer"] else text


def _print_totals(found: "Ledger", as_json: bool) -> int:
    from dataclasses import asdict

    from support.markdown import cell
    from support.tables import Table
    from tasks.judges.reasons import grouped

    totals, failures = found.summary(by_served=True), found.failures()
    if as_json:
        lost = [
            {"task": task, "model": model, "reasons": dict(Counter(why))} for (task, model), why in failures.items()
        ]
        print(json.dumps({"ledger": [asdict(total) for total in totals], "without reply": lost}))
        return OK
    rows = [
        [
            t.task,
            t.model,
            t.served,
            *map(str, (t.calls, t.losses)),
            _write_tokens(t.prompt_tokens, t) + f" ({t.cached_tokens} cached)" * bool(t.cached_tokens),
            _write_tokens(t.completion_tokens, t),
            money(t.price),
            str(t.estimated),
        ]
        for t in totals
    ]
    counts = ["replies", "paid without reply", "prompt tokens", "reply tokens", "money", "of them estimated"]
    lines = [
        cell(f"{len(reasons)} questions of {task or 'no task'} have no reply of {model}: {grouped(reasons)}")
        for (task, model), reasons in failures.items()
    ]
    show([Table(["task", "judge", "answered by", *counts], rows) if rows else "No calls.", *lines])
    return OK


@judge_app.command("export")
def judge_export_command(
    file: Annotated[Path, typer.Argument(help="File to write: JSON lines, one reply each.")],
    ledger: LedgerPath = LEDGER,
) -> int:
    """Write all replies of a ledger to a file, to share them or to keep them in a repository."""
    count = _open_ledger(ledger).export(file)
    log.info(f"{count} replies in {file}")
    return OK


@judge_app.command("import")
def judge_import_command(
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote.")], ledger: LedgerPath = LEDGER
) -> int:
    """Add exported replies to a ledger; replies that are there already stay."""
    from tasks.judges.ledger import Ledger

    new, same, differ = Ledger(ledger).import_from(file)
    log.info(f"{new} new, {same} there already, {differ} with another reply here, which stays")
    return OK


@judge_app.command("agree")
def judge_agree_command(
    first: Annotated[
        Path, typer.Argument(help="Ratings: CSV or JSON lines with id and rating, a sample log, VLFeedback's rows.")
    ],
    second: Annotated[Path, typer.Argument(help="Ratings of the same ids by another person or judge.")],
    as_json: Json = False,
) -> int:
    """Measure how two raters agree, what influences each of them, and where they differ most."""
    from harness.evaluation.rater_agreement import read_ratings, report

    text = report(read_ratings(first), read_ratings(second), (first.stem, second.stem), as_json=as_json)
    show(text, json=text if as_json else None)
    return OK


@judge_app.command("labels")
def judge_labels_command(
    out: Annotated[Path, typer.Argument(help="CSV to write, whose column `rating` people fill in.")],
    board: Boards = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this judged task; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only answers of this model; repeatable.")] = None,
    images: Annotated[int, typer.Option(min=1, help="How many images of each task, drawn at random.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    partial: Annotated[bool, typer.Option("--partial", help="Include runs with --limit or on partial data.")] = False,
) -> int:
    """Write answers on a board to a file for people to rate, without the judge's ratings and the models' names.

    Filled in, it corrects scores for the judge's errors: `harness leaderboard --human-labels FILE`, and `compare`.
    """
    from harness.evaluation.find_boards import entries_of_boards, find_boards, loader_of
    from harness.evaluation.human_labels import judged_logs, write_template

    if out.exists():
        raise UsageError(f"{str(out)!r} is there already; people may have filled it in: give another name")
    boards = find_boards(board or [RUNS])
    entries = entries_of_boards(boards, partial)
    for asked, known in ((task, [e.task for e in entries if e.judge is not None]), (model, [e.model for e in entries])):
        for name in asked or ():
            if name not in known:
                what = "model" if asked is model else "judged task"
                raise UnknownName(f"{what} on these boards", name, dict.fromkeys(known))
    chosen = [e for e in entries if (not task or e.task in task) and (not model or e.model in model)]
    logs = judged_logs(chosen, loader_of(boards))
    if not logs:
        raise UsageError("no judged task with a sample log on these boards: there is nothing to label")
    rows, drawn = write_template(out, logs, images=images, seed=seed)
    log.info(f"{rows} answers about {drawn} images in {out}: fill in the column `rating`, change no other")
    return OK


@judge_app.command("calibrate")
def judge_calibrate_command(
    published: Annotated[Path, typer.Argument(help="Published ratings, such as VLFeedback's rows.")],
    new: Annotated[Path, typer.Argument(help="The new judge's ratings of the same ids.")],
    as_json: Json = False,
) -> int:
    """Compare a new judge with published ratings, in one sentence for the entries of that judge."""
    from harness.evaluation.rater_agreement import calibration, read_ratings

    found = calibration(read_ratings(published), read_ratings(new), (published.stem, new.stem))
    print(json.dumps(found) if as_json else "\n".join(found.values()))
    return OK


def _write_tokens(tokens: int, total: "Total") -> str:
    """A sum of tokens, and whether some calls are in none."""
    if not total.uncounted:
        return str(tokens)
    return "unknown" if total.uncounted == total.calls + total.losses else f"{tokens} + unknown"


def _open_ledger(path: Path) -> "Ledger":
    from tasks.judges.ledger import Ledger

    if not path.is_file():
        raise UsageError(f"no ledger {str(path)!r}; name it with --ledger")
    return Ledger(path)
