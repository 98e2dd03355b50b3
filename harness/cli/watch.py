"""`harness watch DIR`: every checkpoint of a training run onto a board as soon as it is written, from another process
or on another GPU."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    LEDGER,
    DataPaths,
    Json,
    JudgeBudget,
    JudgeName,
    JudgeSet,
    JudgeUrl,
    LedgerPath,
    Limit,
    PartialData,
    Seed,
    data_paths,
    judge_of,
    say,
)
from support.errors import FAILED, OK


def watch_command(
    folder: Annotated[
        Path, typer.Argument(help="The training's output folder: a run of ours, or of transformers' Trainer or TRL.")
    ],
    tasks: Annotated[
        list[str] | None, typer.Option(help="Tasks or suites; repeat the option or separate by commas.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for board/, watch.md and watch.png; default: the training's own.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Held against this model; default: the one the adapters lie on.")
    ] = None,
    judge: JudgeName = "exact",
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_set: JudgeSet = None,
    limit: Limit = None,
    seed: Seed = None,
    data: DataPaths = None,
    partial_data: PartialData = False,
    once: Annotated[bool, typer.Option("--once", help="Score what is there now, and end: for cron.")] = False,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End with the training, once its last checkpoint is scored.")
    ] = False,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 30.0,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds for which another trainer's checkpoint must be left alone.")
    ] = 10.0,
    attempts: Annotated[int, typer.Option(min=1, help="How often a checkpoint is tried before it is given up.")] = 3,
    as_json: Json = False,
) -> int:
    """Score each checkpoint of a training run as soon as it is completely written. Interrupted, the same command goes
    on."""
    from harness.models.adapter_host import AdapterHost
    from harness.models.fetch import fetch
    from harness.models.load import register
    from harness.models.spec import find
    from harness.runs.report import write_watch_report
    from harness.runs.scoring_queue import Scoring
    from harness.runs.watch import Watched, watch
    from leaderboards.board.board import Board
    from support.console import Stages
    from tasks.registry import registry
    from trainers.training.checkpoints import QuietPeriod, base_of, find_complete_checkpoints

    chosen = registry().expand([name for given in tasks or ["scenes"] for name in given.split(",") if name])
    paths = data_paths(data, [task.name for task in chosen])
    rater = judge_of(judge, judge_url, ledger, judge_budget, given=judge_set)
    place = out or folder
    register()
    if base is not None:
        find(base)  # a base that is not known is the command's mistake
    find_complete_checkpoints(folder, QuietPeriod(settle))  # a folder that is not there is the command's mistake
    with Stages() as stages:
        scoring = Scoring(
            board=Board(place / "board"),
            tasks=chosen,
            judge=rater,
            state=place / "watch",
            limit=limit,
            seed=seed or 0,
            data=paths,
            partial_data=partial_data,
            tell=stages.tell,
            report=stages.report,
            resident=AdapterHost(tell=stages.tell),
        )
        against = [base] if base is not None else []
        unscored: dict[str, str] = {}

        def show(watched: Watched) -> str:
            """Bring the report up to date; the base is scored beside the first checkpoint, and holds up none if it
            can't be."""
            if not against and watched.found and (name := base_of(watched.found[0])) is not None:
                against.append(name)
            for name in against if watched.found else []:
                try:
                    scoring.score(fetch(find(name), stages.tell), name)
                    unscored.pop(name, None)
                except Exception as error:  # a watcher outlives this, too: it is tried again beside the next checkpoint
                    scoring.resident.drop()
                    unscored[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    stages.tell(f"{name}: the base is not scored ({unscored[name]})")
            return write_watch_report(folder, place, watched, next(iter(against), None), chosen, unscored)

        watched = watch(
            folder, scoring, once=once, until_done=until_done, poll=poll, settle=settle, attempts=attempts, shown=show
        )
        report = show(watched)
    print(json.dumps(watched.to_json()) if as_json else report)
    if watched.failed:
        return say(f"{len(watched.failed)} checkpoints are not scored", FAILED)
    return say(f"the base is not scored: {', '.join(unscored)}", FAILED) if unscored else OK
