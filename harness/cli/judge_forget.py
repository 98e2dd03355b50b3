"""`harness judge forget`: replies of a ledger that are to be asked for again."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import LEDGER, DryRun, Json, LedgerPath, money
from harness.cli.shown import show
from support.errors import OK, UnknownName, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.judges.forgetting import Forgotten

log = logging.getLogger(__name__)


def forget_command(
    judge: Annotated[list[str] | None, typer.Option(help="Only replies of this judge; repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only replies about this task; repeatable.")] = None,
    unreadable: Annotated[
        bool, typer.Option("--unreadable", help="Only replies in which no rating or verdict can be read.")
    ] = False,
    older_than: Annotated[float | None, typer.Option(min=0, help="Only replies of more than so many days ago.")] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Only the reply whose key begins so, as `ledger --failures` shows it.")
    ] = None,
    ledger: LedgerPath = LEDGER,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Have replies asked for again: those that all given options name.

    What they cost stays in the ledger. Other processes may use the ledger meanwhile.
    """
    from harness.evaluation.read_replies import is_unreadable
    from tasks.judges.forgetting import Wanted, forget, select
    from tasks.judges.ledger import Ledger

    if not (judge or task or unreadable or older_than is not None or key):
        raise UsageError("name what to forget: --judge, --task, --unreadable, --older-than DAYS, --key")
    if not ledger.is_file():
        raise UsageError(f"no ledger {str(ledger)!r}; name it with --ledger")
    found = Ledger(ledger)
    there = [*((total.task, total.model) for total in found.summary()), *found.failures()]
    _check_known("judge in this ledger", judge, (model for _, model in there))
    _check_known("task in this ledger", task, (label for label, _ in there))
    before = None if older_than is None else (datetime.now(UTC) - timedelta(days=older_than)).isoformat()
    wanted = Wanted(
        judges=frozenset(judge or ()),
        tasks=frozenset(task or ()),
        before=before,
        keys=tuple(key or ()),
        is_unreadable=is_unreadable if unreadable else None,
    )
    chosen = select(found, wanted)
    if not dry_run:
        chosen = forget(found, chosen)
    _print(chosen, dry_run, as_json)
    return OK


def _check_known(what: str, names: list[str] | None, known: "Iterable[str]") -> None:
    there = dict.fromkeys(known)
    for name in names or ():
        if name not in there:
            raise UnknownName(what, name, there)


def _print(chosen: "Sequence[Forgotten]", dry_run: bool, as_json: bool) -> None:
    from support.markdown import cell, table

    groups: dict[tuple[str, str], list[Forgotten]] = {}
    for one in chosen:
        groups.setdefault((one.task, one.model), []).append(one)
    sums = {group: _add(one.price for one in own) for group, own in groups.items()}
    rows = [[cell(of), cell(judge), str(len(own)), money(sums[of, judge])] for (of, judge), own in groups.items()]
    listed = [
        {"task": of, "judge": judge, "replies": len(own), "price": sums[of, judge], "keys": [one.key for one in own]}
        for (of, judge), own in groups.items()
    ]
    facts = {"forgotten": listed, "replies": len(chosen), "dry run": dry_run}
    text = table(["task", "judge", "replies", "paid for them"], rows) if rows else "No such replies."
    show(text, json=json.dumps(facts) if as_json else None)
    log.info(f"{len(chosen)} replies {'would be' if dry_run else 'are'} asked for again, when they are next needed")


def _add(prices: "Iterable[float | None]") -> float | None:
    every = list(prices)
    known = [price for price in every if price is not None]
    return sum(known) if len(known) == len(every) else None
