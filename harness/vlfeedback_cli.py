"""Commands under `harness vlfeedback`: preference data from instructions to pairs."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.options import (
    LEDGER,
    LOSSY,
    OK,
    DryRun,
    Json,
    JudgeBatch,
    JudgeBudget,
    JudgeName,
    JudgeSet,
    JudgeUrl,
    LedgerPath,
    Seed,
    judge_of,
    print_plans,
    say,
)

vlfeedback_app = typer.Typer(no_args_is_help=True, help="Preference data in VLFeedback's form.")


@vlfeedback_app.command("annotate")
def annotate_command(
    folder: Annotated[Path, typer.Argument(help="A run's data folder: instructions.jsonl, answers.jsonl, images/.")],
    judge: JudgeName = "exact",
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_batch: JudgeBatch = False,
    judge_set: JudgeSet = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Have a judge rate the answers in a folder on helpfulness, visual faithfulness and ethics; goes on where it was left."""
    from harness.judging import plan_ratings
    from tasks.openai_judge import OpenAIJudge
    from trainers.vlfeedback.annotation import annotate_folder, ratings_file, read_folder

    read_folder(folder)
    rater = judge_of(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    if dry_run:
        return print_plans([plan_ratings(rater, folder, seed or 0)] if isinstance(rater, OpenAIJudge) else [], as_json=as_json)
    from harness.progress import Stages

    with Stages() as stages:
        failed = annotate_folder(folder, rater, seed=seed or 0, done=partial(stages.report, "rate"))
    path = ratings_file(folder, rater.model)
    print(json.dumps({"ratings": path.as_posix(), "failed": failed}) if as_json else f"ratings: {path}")
    return OK if not failed else say(f"{failed} calls gave no reply; the same command asks again", LOSSY)
