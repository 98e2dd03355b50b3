"""What commands with a judge print: the plan of --dry-run, and the line of an exit code for lost samples."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.options import money, say
from harness.cli.shown import show
from support.errors import LOSSY, OK

if TYPE_CHECKING:
    from harness.evaluation.judge_cost import JudgePlan
    from harness.evaluation.score_files import Score
    from leaderboards.board.entry import Entry

log = logging.getLogger(__name__)


def print_judge_plans(plans: "Sequence[JudgePlan]") -> None:
    """Print what --dry-run says of judging."""
    from support.tables import Table

    rows = [
        [
            p.task,
            p.model,
            *map(str, (p.calls, p.kept, p.prompt_tokens, p.completion_tokens)),
            money(p.price),
        ]
        for p in plans
    ]
    notes = ["nothing was asked (--dry-run); second questions and retries are not included"]
    if any(p.price is None for p in plans):
        what = "in US dollars for a million tokens of prompts and replies"
        notes.insert(0, f"unknown price: --judge-price IN,OUT tells it, {what}")
    head = ["task", "judge", "calls", "in the ledger", "prompt tokens", "reply tokens", "price"]
    show([Table(head, rows), *notes])


def exit_code_of(results: "Sequence[Entry | Score]", max_failed: float) -> int:
    """LOSSY if a task lost more than this share of its samples: failed, unscored, or with an answer that no rule could
    read; else OK. A line for each task and model that lost some says why."""
    from harness.evaluation.lost import lost_in_words, share_lost

    models = [getattr(result, "model", "") for result in results]
    code, told = OK, set()
    for model, result in zip(models, results, strict=True):
        name = f"{model}: {result.task}" if len(set(models)) > 1 else result.task
        if name in told or not (line := lost_in_words(result)):
            continue
        told.add(name)
        if share_lost(result) > max_failed:
            code = say(f"{name}: {line}", LOSSY)
        elif result.failed + result.unscored:  # a few answers that no rule can read are usual, and the board shows them
            log.warning(f"{name}: {line}")
    return code
