"""The regression gate for boards on disk: new results compared with a baseline."""

from dataclasses import replace
from pathlib import Path

from harness.evaluation.find_boards import known_as, log_skipped, metric_of, tell_unknown_tasks
from harness.evaluation.guards import guards_of
from harness.evaluation.rescore import rescore
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.result import GateResult
from leaderboards.gate.source import source
from support.errors import UsageError, did_you_mean


def check_boards(
    baseline: Path, board: Path | None = None, settings: GateSettings | None = None, *, partial: bool = False
) -> GateResult:
    """Compare the scores of `board` (or of the baseline's own board) with those of `baseline`.

    UsageError if a side would be compared with itself, or has no model of the name that the settings give it.
    """
    settings = settings or GateSettings()
    models = settings.models
    old, new = source(baseline, partial=partial), source(board or baseline, partial=partial)
    log_skipped(new.skipped)
    tell_unknown_tasks((*old.entries, *new.entries))
    if board is None and models is None:
        raise UsageError("--baseline would be compared with itself: give --board, or --model and --baseline-model")
    if models is not None:
        if board is None and models[0] == models[1]:
            raise UsageError(
                f"--model and --baseline-model are both {models[1]!r}, which would be compared with itself"
            )
        options = ("--name", "--name") if models[0] == models[1] else ("--baseline-model", "--model")
        found = []
        for option, name, side in zip(options, models, (old, new), strict=True):
            known = list(dict.fromkeys(entry.model for entry in side.entries))
            found.append(known_as(name, known) or name)
            # A file that could not be read may hold the named model.
            if known and found[-1] not in known and not side.skipped:
                raise UsageError(f"{option} {name!r}: no such model{did_you_mean(name, known)}")
        settings = replace(settings, models=(found[0], found[1]))
    return check(old, new, metrics=metric_of, guards=guards_of, settings=settings, rescore=rescore)
