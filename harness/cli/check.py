"""`harness check`: the regression gate."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from harness.cli.options import ANY
from harness.cli.outputs import check_target
from harness.cli.setting_options import OptionGroup, with_settings
from harness.cli.shown import show
from support.errors import FAILED, OK, REGRESSED, UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Which results are compared, what is tolerated, and where the result goes."""

    baseline: Path
    """The board to compare with, or the JSON file of one run."""
    board: Path | None = None
    """The board (or run) with the new results; default with --model: the baseline."""
    name: str | None = None
    """Compare the model of this name alone, which it has on both sides; default: each of the baseline's names."""
    model: str | None = None
    """The model of the new results; default: the baseline's names."""
    baseline_model: str | None = None
    """The model of the baseline, if it has another name."""
    tolerance: tuple[str, ...] = ()
    """TASK.METRIC=X: fail if it is worse by more than X (in its unit), significant or not; repeatable."""
    require_better: tuple[str, ...] = ()
    """TASK or TASK.METRIC that must be significantly better; repeatable."""
    partial: bool = False
    """Include runs with --limit or on partial data."""
    junit: Path | None = None
    """Write the result as JUnit XML to this file."""
    comment: Path | None = None
    """Write a markdown comment with the flipped samples to this file."""
    as_json: bool = False
    """Print JSON on stdout."""

    def check(self) -> None:
        """UsageError for options that contradict each other."""
        if (self.model is None) != (self.baseline_model is None):
            raise UsageError(
                "--model and --baseline-model go together: the new results' model and the one it is held against"
            )
        if self.name is not None and self.model is not None:
            raise UsageError("--name is for a model of one name on both sides, --model and --baseline-model for two")
        if self.name is not None and self.board is None:
            raise UsageError(f"--name {self.name!r} would be compared with itself: give --board, with the new results")
        if ANY in self.require_better:
            raise UsageError("--require-better: name the TASK or TASK.METRIC that must be better")
        check_target("--junit", self.junit)
        check_target("--comment", self.comment)

    def tolerances(self) -> dict[str, float]:
        """TASK.METRIC -> the tolerated change, in the metric's unit."""
        found: dict[str, float] = {}
        for given in self.tolerance:
            name, _, value = given.partition("=")
            if name in found:
                raise UsageError(f"--tolerance: {name} is given twice")
            try:
                found[name] = float(value)
            except ValueError:
                raise UsageError(f"--tolerance {given!r}: must be TASK.METRIC=NUMBER") from None
        return found


CHECK = OptionGroup(kind=CheckOptions, names={"as_json": "json"}, environment=False)


@with_settings(config="check", asked=CHECK)
def check_command(*, asked: CheckOptions) -> int:
    """Fail (exit 3) where a score is worse than the baseline.

    Significantly worse, worse than tolerated, or not better as claimed.
    """
    from harness.evaluation.check_boards import check_boards
    from leaderboards.gate.ci_output import publish
    from leaderboards.gate.gate import GateSettings
    from leaderboards.gate.result import render, to_json

    asked.check()
    models = (asked.baseline_model, asked.model) if asked.baseline_model and asked.model else None
    if asked.name is not None:
        models = asked.name, asked.name
    result = check_boards(
        asked.baseline,
        asked.board,
        GateSettings(tolerances=asked.tolerances(), require_better=asked.require_better, models=models),
        partial=asked.partial,
    )
    for text in publish(result, os.environ, junit=asked.junit, comment=asked.comment):
        log.info(text, extra={"is_order": True})  # the runner reads both streams; stdout is the result's
    show(render(result), json=json.dumps(to_json(result), allow_nan=False) if asked.as_json else None)
    return OK if result.passed else REGRESSED if result.failed else FAILED
