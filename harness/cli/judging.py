"""What commands with a judge print: the plan of --dry-run, and the line of an exit code for lost samples."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.options import money, say
from support.errors import LOSSY, OK

if TYPE_CHECKING:
    from harness.evaluation.judge_cost import JudgePlan
    from harness.evaluation.score_files import Score
    from leaderboards.board.entry import Entry


def print_judge_plans(plans: "Sequence[JudgePlan]", as_json: bool = False) -> int:
    """Print what --dry-run says of judging."""
    from dataclasses import asdict

    from support.markdown import cell, table

    if as_json:
        print(json.dumps({"judging": [asdict(found) for found in plans]}))
        return OK
    if not plans:
        print("nothing is to be judged")
        return OK
    rows = [
        [
            cell(p.task),
            cell(p.model),
            *map(str, (p.calls, p.kept, p.prompt_tokens, p.completion_tokens)),
            money(p.price),
        ]
        for p in plans
    ]
    print(table(["task", "judge", "calls", "in the ledger", "prompt tokens", "reply tokens", "price"], rows))
    print("nothing was asked (--dry-run); second questions and retries are not included")
    return OK


def exit_code_of(results: "Sequence[Entry | Score]", max_failed: float) -> int:
    """LOSSY, with a line, if the task with most lost samples lost more than this share; else OK."""
    worst = max(results, key=lambda result: (result.failed + result.unscored) / max(1, result.samples))
    if worst.failed + worst.unscored <= max_failed * worst.samples:
        return OK
    lost = f"{worst.failed} of {worst.samples} samples failed and {worst.unscored} stayed unscored"
    return say(f"{worst.task}: {lost}", LOSSY)
