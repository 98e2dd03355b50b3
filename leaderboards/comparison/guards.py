"""What guards a metric: what must not become worse while the metric improves, so that a model which says less, or
nothing, is not called better. Which these are is told by the tasks (`Guards`), and tested with each verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from leaderboards.board.sample import Sample
from leaderboards.statistics.guard_test import GuardTest, is_beyond
from leaderboards.statistics.resampling import CountsMetric, Record

Count = Callable[[Mapping[str, Record], Sample], Record | None]
"""The records of one repeat of a judge, and their sample -> what a guard counts of the answer; None: nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Guard:
    """One guard of one metric."""

    name: str
    what: str
    """What is said of it if it is worse: "coverage fell"."""
    unit: str
    metric: CountsMetric
    higher_is_better: bool
    count: Count
    share: float = 0.0
    """How far it may move the wrong way, as a share of the base's value."""
    points: float = 0.0
    """The same, in its unit."""

    def compare_values(self, base: Mapping[str, float], other: Mapping[str, float]) -> GuardTest | None:
        """What became of the guard by two scores' values alone, where there are no samples to test; None: not known."""
        if self.name not in base or self.name not in other:
            return None
        old, new = base[self.name], other[self.name]
        allowed = self.points + self.share * abs(old)
        beyond = is_beyond(old, new, allowed, higher_is_better=self.higher_is_better)
        facts = {"name": self.name, "what": self.what, "unit": self.unit}
        return GuardTest(**facts, base=old, other=new, allowed=allowed, p=0.0 if beyond else 1.0)

    def may_be_worse(self, base: Mapping[str, float], other: Mapping[str, float]) -> bool:
        """Whether it may be worse by two scores' values; if these are not known, it may."""
        found = self.compare_values(base, other)
        return found is None or found.worse

    def log(self, log: Mapping[str, Sample]) -> dict[str, Sample]:
        """A log with the guard's records alone, under its name, and what pairs two logs."""
        return {id: self._count_sample(sample) for id, sample in log.items()}

    def _count_sample(self, sample: Sample) -> Sample:
        repeats = tuple(replace(one, records=self._records(one.records, sample)) for one in sample.repeats)
        return Sample(  # `replace` would take ten times as long
            run=sample.run,
            task=sample.task,
            id=sample.id,
            image=sample.image,
            image_digest=sample.image_digest,
            prompt="",
            answer=None,
            reply=None,
            records=self._records(sample.records, sample),
            repeats=repeats,
        )

    def _records(self, records: Mapping[str, Record], sample: Sample) -> dict[str, Record]:
        record = self.count(records, sample)
        return {} if record is None else {self.name: record}


Guards = Callable[[str, str], Sequence[Guard]]
"""Task and metric name -> the metric's guards."""


def unguarded(task: str, metric: str) -> Sequence[Guard]:
    """No guards: of a metric that nothing is known of."""
    return ()
