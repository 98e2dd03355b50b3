"""Whether a guard held: a number that must not become worse while another one improves (recall beside CHAIR).

A guard is worse if it moved the wrong way by more than is allowed, and a one-sided test on the same questions, at the
5% level, says that this was not by chance. The test is the verdict's own: images are swapped, and since a swap of all
of them turns the difference around, the one-sided p-value is half of the two-sided one. It is not adjusted: a guard
that fails by mistake withholds a "better", and never grants one.
"""

import math
from dataclasses import dataclass

from leaderboards.statistics.significance import ALPHA
from support.markdown import number


def is_beyond(base: float, other: float, allowed: float, *, higher_is_better: bool) -> bool:
    """True if a number moved the wrong way by more than is allowed; by exactly that much is allowed."""
    fall = base - other if higher_is_better else other - base
    return fall > allowed and not math.isclose(fall, allowed, rel_tol=1e-9, abs_tol=1e-9)


@dataclass(frozen=True, kw_only=True)
class GuardTest:
    """What became of one guard."""

    name: str
    what: str
    """What is said of it if it is worse: "coverage fell"."""
    unit: str
    base: float | None
    other: float | None
    """None: the other side has none of it, which counts as worse."""
    allowed: float
    """How far it may move the wrong way, in `unit`."""
    p: float
    """One-sided; 1.0 where it did not move beyond what is allowed, 0.0 where it did and there is nothing to test."""

    @property
    def worse(self) -> bool:
        """True if it moved the wrong way by more than is allowed, and not by chance."""
        return self.p <= ALPHA

    @property
    def words(self) -> str:
        """What happened, with both values."""
        return f"{self.what} from {number(self.base, self.unit)} to {number(self.other, self.unit)}"
