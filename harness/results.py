"""What the functions of the Python interface return: tables for pandas, and markdown for notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.board.entry import Entry, to_json
from leaderboards.board.sample import Sample
from support.errors import UnknownName
from support.markdown import cell, table

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.evaluation.score_files import Score
    from harness.runs.outcome import Outcome
    from leaderboards.comparison.compare import Comparison
    from leaderboards.gate.result import GateResult


def _frame(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(list(rows))


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The scores of one model."""

    model: str
    """Its name on boards."""
    entries: Sequence[Entry]
    """One for each task and metric."""
    samples: Sequence[Sample] = ()
    """What was asked and answered; empty if the board had the scores already."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where time went: images, vision, prefill, decode, judge, other."""

    def __getitem__(self, metric: str) -> float | None:
        """The value of "task.metric", or of a task's headline metric."""
        values = {f"{entry.task}.{entry.metric}": entry.value for entry in self.entries}
        values |= {entry.task: entry.value for entry in self.entries if entry.headline}
        if metric not in values:
            raise UnknownName("metric", metric, values)
        return values[metric]

    def to_pandas(self) -> "DataFrame":
        """One row for each task and metric: value, interval, unit, counts, provenance."""
        return _frame([to_json(entry) for entry in self.entries])

    def samples_to_pandas(self) -> "DataFrame":
        """One row for each question: prompt, answer, the judge's reply, records by metric."""
        return _frame([asdict(sample) for sample in self.samples])

    def _repr_markdown_(self) -> str:
        from leaderboards.views.markdown_report import leaderboard

        return leaderboard(list(self.entries))


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """The official scores of answers made elsewhere."""

    score: "Score"

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Metric -> value in the task's units; None if the answers hold nothing that it counts."""
        return self.score.metrics

    def to_pandas(self) -> "DataFrame":
        """One row for each metric."""
        facts = {name: value for name, value in asdict(self.score).items() if name not in ("metrics", "warnings")}
        return _frame([{**facts, "metric": name, "value": value} for name, value in self.metrics.items()])

    def _repr_markdown_(self) -> str:
        from support.markdown import number

        rows = [[cell(name), number(value, "")] for name, value in self.metrics.items()]
        return f"{cell(self.score.task)} {self.score.version}\n\n{table(['metric', 'score'], rows)}"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run of training and scoring."""

    outcome: "Outcome"
    report: str
    """The report as markdown; it is also in the run folder, with plots."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.outcome.out

    @property
    def best(self) -> str | None:
        """Path of the best checkpoint by the tasks' headline metrics; None if none is ranked."""
        return self.outcome.selection.model

    def to_pandas(self) -> "DataFrame":
        """One row for each model, task and metric."""
        return _frame([to_json(entry) for entry in self.outcome.entries])

    def _repr_markdown_(self) -> str:
        return self.report


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """What changed from one model to another."""

    comparison: "Comparison"

    def to_pandas(self) -> "DataFrame":
        """One row for each metric: both values and the verdict."""
        from leaderboards.comparison.compare import to_json

        return _frame(to_json(self.comparison)["changes"])

    def flips_to_pandas(self) -> "DataFrame":
        """One row for each answer that was fixed or broken."""
        from leaderboards.comparison.compare import to_json

        return _frame(to_json(self.comparison)["flips"])

    def _repr_markdown_(self) -> str:
        from leaderboards.comparison.compare import to_markdown

        return to_markdown(self.comparison)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What the regression gate found."""

    gate: "GateResult"

    @property
    def passed(self) -> bool:
        """True if everything was compared, nothing became worse, and every claim holds."""
        return self.gate.passed

    def to_pandas(self) -> "DataFrame":
        """One row for each compared metric."""
        from leaderboards.gate.result import to_json

        return _frame(to_json(self.gate)["checked"])

    def _repr_markdown_(self) -> str:
        from leaderboards.gate.result import render

        return render(self.gate)
