"""Replies of a ledger that are to be asked for again.

    chosen = select(ledger, Wanted(tasks=frozenset({"mmhal"})))
    forget(ledger, chosen)                  # those that were still there; the next run asks these again

A forgotten reply stays in the ledger under a key that nothing asks for, so that the money adds up. What was paid for
and can't be read as a reply at all (`paid_bodies`) is dropped; what it cost is booked already.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tasks.judges.ledger import Ledger, is_replaced


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which replies: those that fit all that is given."""

    judges: frozenset[str] = frozenset()
    """Empty: of any."""
    tasks: frozenset[str] = frozenset()
    before: str | None = None
    """ISO 8601, UTC: made earlier than this."""
    keys: tuple[str, ...] = ()
    """Beginnings of keys; empty: any."""
    is_unreadable: Callable[[str, str], bool] | None = None
    """Whether a reply about a task holds nothing that can be read; None: readable ones, too."""

    def fits(self, key: str, task: str, model: str, created: str) -> bool:
        """Whether a reply is meant, but for its words."""
        return (
            (not self.judges or model in self.judges)
            and (not self.tasks or task in self.tasks)
            and (self.before is None or created < self.before)
            and (not self.keys or key.startswith(self.keys))
        )


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """A reply that is asked for again."""

    key: str
    task: str
    model: str
    price: float | None
    """In US dollars; None: not known. What could not be read at all counts as 0 here: it is booked as a loss."""


def select(ledger: Ledger, wanted: Wanted) -> list[Forgotten]:
    """The replies that are meant."""
    return [*_select_replies(ledger, wanted), *_select_bodies(ledger, wanted)]


def _select_replies(ledger: Ledger, wanted: Wanted) -> Iterator[Forgotten]:
    for call in ledger.calls():
        if is_replaced(call.key) or not wanted.fits(call.key, call.task, call.model, call.created):
            continue
        if wanted.is_unreadable is None or wanted.is_unreadable(call.task, call.reply):
            yield Forgotten(key=call.key, task=call.task, model=call.model, price=call.price)


def _select_bodies(ledger: Ledger, wanted: Wanted) -> Iterator[Forgotten]:
    for one in ledger.failed():
        if one.body is not None and wanted.fits(one.key, one.task, one.model, one.created):
            yield Forgotten(key=one.key, task=one.task, model=one.model, price=0.0)


def forget(ledger: Ledger, chosen: Sequence[Forgotten]) -> list[Forgotten]:
    """Have these asked for again; those that were still there."""
    return [one for one in chosen if ledger.forget(one.key)]
