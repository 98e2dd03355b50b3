"""A limit of money for one judge, shared by all processes and repetitions of a command that use one ledger.

    budget = Budget(store, claims, "gpt-4o at https://...", limit=5.0)
    budget.reserve(0.01)            # False: wait for calls on their way; BudgetSpent: no more
    budget.settle(0.01, 0.008)
    budget.end()                    # the command is through: the next one begins anew

What is spent counts from the first call of a command until one ends as it should, so that a command which is killed or
fails, and is given again, goes on with what is left. Calls that were on their way when their process was killed count
as paid, since they may be.
"""

from datetime import UTC, datetime
from typing import Final
from uuid import uuid4
from weakref import WeakSet

from support.errors import BudgetSpent
from support.sqlite import Store
from tasks.judges.claims import Claims

TABLES: Final = {
    "budgets": "run TEXT PRIMARY KEY, scope TEXT NOT NULL, begun TEXT NOT NULL, spent REAL NOT NULL, "
    "ended INTEGER NOT NULL DEFAULT 0",
    "reserved": "holder TEXT NOT NULL, run TEXT NOT NULL, amount REAL NOT NULL, PRIMARY KEY (holder, run)",
}
NEGLIGIBLE: Final = 1e-9
"""US dollars that sums of rounded numbers may be off."""
_opened: "WeakSet[Budget]" = WeakSet()


class Budget:
    """See the module's docstring. `limit` is in US dollars, `model` stands in messages."""

    def __init__(self, store: Store, claims: Claims, model: str, scope: str, limit: float) -> None:
        self.store, self.claims, self.model, self.scope, self.limit = store, claims, model, scope, limit
        self._is_begun = False
        self.run, self.begun = self._find()
        _opened.add(self)

    def begin(self) -> None:
        """Join the run that is on, or begin one."""
        if self._is_begun:
            return
        with self.store.writing():
            self.run, self.begun = self._find()
            values = (self.run, self.scope, self.begun)
            self.store.run("INSERT OR IGNORE INTO budgets (run, scope, begun, spent) VALUES (?, ?, ?, 0)", *values)
            self._reserve(0.0)
        self._is_begun = True

    def _find(self) -> tuple[str, str]:
        """The run that is on and when it was begun, or those of a new one."""
        found = self.store.run("SELECT run, begun FROM budgets WHERE scope = ? AND NOT ended", self.scope)
        return found[0] if found else (uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def spent(self) -> float:
        """US dollars, with what batches on their way will take."""
        row = self.store.run(
            "SELECT spent + (SELECT TOTAL(estimate) FROM batches WHERE run = ?1) FROM budgets WHERE run = ?1", self.run
        )
        return float(row[0][0]) if row else 0.0

    def reserve(self, cost: float, what: str = "the next call") -> bool:
        """Set so much aside for what is to be sent; False where that must wait for calls on their way, which may cost
        less than what is set aside for them. BudgetSpent where it would pass the limit in any case."""
        self.begin()
        with self.store.writing():
            self._charge_the_dead()
            spent = self.spent
            if spent + cost > self.limit + NEGLIGIBLE:
                raise BudgetSpent(f"{self.model}: {self.in_words(spent)}, {what} could pass it")
            ((reserved,),) = self.store.run("SELECT TOTAL(amount) FROM reserved WHERE run = ?", self.run)
            if spent + reserved + cost > self.limit + NEGLIGIBLE:
                return False
            self._reserve(cost)
            return True

    def settle(self, reserved: float) -> None:
        """Set no longer aside what a call was to cost; what it did cost is booked by the ledger."""
        values = (reserved, self.claims.holder, self.run)
        self.store.run("UPDATE reserved SET amount = MAX(0, amount - ?) WHERE holder = ? AND run = ?", *values)

    def in_words(self, spent: float) -> str:
        """How much is spent, and since when."""
        since = self.begun[:16].replace("T", " ")
        return f"${spent:.4f} of ${self.limit:.4f} is spent since {since} UTC"

    def end(self) -> None:
        """The command has ended as it should: unless another process is still at it, the next begins anew."""
        if not self._is_begun and not self.store.run("SELECT 1 FROM budgets WHERE run = ?", self.run):
            return  # nothing was asked, and no run was on
        with self.store.writing():
            self.store.run("DELETE FROM reserved WHERE holder = ? AND run = ?", self.claims.holder, self.run)
            self._charge_the_dead()
            if not self.store.run("SELECT 1 FROM reserved WHERE run = ?", self.run):
                self.store.run("UPDATE budgets SET ended = 1 WHERE run = ?", self.run)

    def _reserve(self, cost: float) -> None:
        self.claims.show_life()
        self.store.run(
            "INSERT INTO reserved VALUES (?, ?, ?) ON CONFLICT (holder, run) DO UPDATE SET amount = amount + ?3",
            *(self.claims.holder, self.run, cost),
        )

    def _charge_the_dead(self) -> None:
        """Charge what processes that are gone had set aside: their calls may have been paid for."""
        for holder, amount in self.store.run("SELECT holder, amount FROM reserved WHERE run = ?", self.run):
            if not self.claims.is_live(holder):
                self.store.run("UPDATE budgets SET spent = spent + ? WHERE run = ?", amount, self.run)
                self.store.run("DELETE FROM reserved WHERE holder = ? AND run = ?", holder, self.run)


def end_budgets() -> None:
    """The command of this process has ended as it should."""
    for budget in list(_opened):
        budget.end()
