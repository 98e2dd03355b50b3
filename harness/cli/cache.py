"""`harness cache`: what is kept on disk between runs, and what takes it away."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.cli.board_options import RUNS
from harness.cli.options import DryRun, Json, say, split_names
from harness.cli.shown import show
from support.errors import FAILED, OK, UsageError, did_you_mean

if TYPE_CHECKING:
    from harness.models.kept_on_disk import Kept

cache_app = typer.Typer(
    invoke_without_command=True, help="Show what is kept on disk between runs, or take some of it away."
)

DAY: Final = 86400.0
Runs = Annotated[Path, typer.Option("--runs", help="Folder below which stores of answers and ledgers are looked for.")]


@cache_app.callback()
def cache_command(context: typer.Context, runs: Runs = RUNS, as_json: Json = False) -> int:
    """Show what is kept on disk between runs.

    Answers, judges' replies, features and keys of pictures, data, weights, logs of servers.
    All but judges' replies can be made or fetched again.
    """
    if context.invoked_subcommand is not None:
        return OK
    from harness.models.kept_on_disk import find_kept

    _check_runs(runs)
    kept = find_kept(runs)
    if as_json:
        print(json.dumps({"kept": [_facts_of(one) for one in kept]}))
        return OK
    _show(kept)
    return OK


@cache_app.command("prune")
def cache_prune_command(
    kinds: Annotated[
        list[str],
        typer.Argument(help="What to remove: answers, replies, features, pictures, data, converted, weights, logs."),
    ],
    older_than: Annotated[float, typer.Option(min=0, help="Only what was not used for this many days.")] = 0.0,
    runs: Runs = RUNS,
    paid: Annotated[
        bool, typer.Option("--paid", help="Also judges' replies, which are paid for again when they are needed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before anything is removed.")] = False,
    dry_run: DryRun = False,
) -> int:
    """Remove what is kept on disk, after asking.

    What a process of this machine has open stays, and is named; exit 1 then.
    """
    from harness.models.disk_use import describe_size
    from harness.models.kept_on_disk import KINDS, REPLIES, find_kept, holder_of, remove

    _check_runs(runs)
    wanted = split_names(kinds)
    for name in wanted:
        if name not in KINDS:
            raise UsageError(f"cache prune {name!r}: no such kind{did_you_mean(name, KINDS)}")
    if REPLIES in wanted and not paid:
        raise UsageError("cache prune replies: judges' replies were paid for; say --paid to remove them all the same")
    if paid and REPLIES not in wanted:
        raise UsageError("--paid has no effect: it is for replies")
    chosen = [one for one in find_kept(runs) if one.kind in wanted and _age_of(one) >= older_than]
    held = {one.path: holder for one in chosen if (holder := holder_of(one.path))}
    chosen = [one for one in chosen if one.path not in held]
    if chosen:
        _show(chosen)
    told = "; ".join(f"{path} is open in process {holder} and stays" for path, holder in held.items())
    if dry_run or not chosen:
        print("nothing was removed (--dry-run)" if chosen else "nothing to remove")
        return say(told, FAILED) if held else OK
    size = describe_size(sum(one.size for one in chosen))
    if not yes and not _is_agreed(f"Remove these {len(chosen)}, {size}?"):
        print("nothing was removed")
        return OK
    for one in chosen:
        if holder := holder_of(one.path):  # which came while the question was on the screen
            told = "; ".join(filter(None, [told, f"{one.path} is open in process {holder} and stays"]))
        else:
            remove(one)
            print(f"removed {one.path}")
    return say(told, FAILED) if told else OK


def _check_runs(runs: Path) -> None:
    """UsageError for a --runs that is no folder; the usual one may not be there yet."""
    if not runs.is_dir() and (runs.exists() or runs != RUNS):
        what = f"{str(runs)!r} is a file" if runs.is_file() else f"no folder {str(runs)!r}"
        raise UsageError(f"--runs: {what}; give a folder with runs")


def _is_agreed(question: str) -> bool:
    """Whether the user says so; UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError("cache prune: nobody can be asked here; say --yes, or --dry-run to see what would go")
    try:
        return bool(typer.confirm(question, default=False, err=True))
    except typer.Abort:  # by Ctrl-D
        return False


def _age_of(kept: "Kept") -> float:
    """Days since it was last used."""
    return max(0.0, time.time() - kept.used) / DAY


def _facts_of(kept: "Kept") -> dict[str, Any]:
    used = datetime.fromtimestamp(kept.used, UTC).isoformat(timespec="seconds")
    return {"kind": kept.kind, "what": kept.what, "path": str(kept.path), "bytes": kept.size, "used": used} | {
        "paid": kept.paid
    }


def _show(kept: "list[Kept]") -> None:
    from harness.models.disk_use import describe_size
    from support.tables import Table

    rows = [
        [one.kind, one.what, describe_size(one.size), f"{_age_of(one):.0f}", "paid" if one.paid else "", str(one.path)]
        for one in sorted(kept, key=lambda one: -one.size)
    ]
    total = f"{describe_size(sum(one.size for one in kept))} in all"
    show(
        [Table(["kind", "what it is", "size", "days unused", "", "where"], rows), total] if rows else "nothing is kept"
    )
