"""`harness eval`, `harness score` and `harness parity`."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    LEDGER,
    DataPaths,
    DryRun,
    Json,
    JudgeBatch,
    JudgeBudget,
    JudgeName,
    JudgeRepeats,
    JudgeSet,
    JudgeUrl,
    LedgerPath,
    Limit,
    MaxFailed,
    ModelPath,
    ModelUrl,
    PartialData,
    RemoteCode,
    Seed,
    data_paths,
    judge_of,
    model_of,
    print_plan,
    print_plans,
    say,
    tell,
)
from support.errors import LOSSY, OK, UsageError
from support.processes import world_size

if TYPE_CHECKING:
    from harness.evaluation.entries import Evaluation
    from harness.evaluation.score_files import Score
    from leaderboards.board.entry import Entry
    from tasks.judges.protocol import Judge
    from tasks.registry import TaskSpec


ANSWERS = Path("runs") / "answers.sqlite"

COUNTED = {"from the store": "from earlier runs", "cut": "cut once decided", "out of memory": "times out of memory"}


def eval_command(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(
            help="A name of `harness models`, a folder with weights or an adapter, a hub id, or openai:ID; repeatable."
        ),
    ],
    model_path: ModelPath = None,
    model_url: ModelUrl = None,
    trust_remote_code: RemoteCode = False,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Tasks or suites; repeat the option or separate by commas.")
    ] = None,
    judge: JudgeName = "exact",
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_batch: JudgeBatch = False,
    judge_set: JudgeSet = None,
    judge_repeats: JudgeRepeats = 1,
    judge_calibration: Annotated[
        Path | None, typer.Option(help="What `harness judge calibrate --json` printed of this judge; entries carry it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder; its board/ gets the result.")] = Path("runs/eval"),
    limit: Limit = None,
    seed: Seed = None,
    data: DataPaths = None,
    partial_data: PartialData = False,
    official_prompts: Annotated[
        bool,
        typer.Option(
            "--official-prompts",
            help="Ask the judge in the benchmark authors' own words, fetched from their repository.",
        ),
    ] = False,
    batch_size: Annotated[
        str | None, typer.Option(help='Questions decoded at once; "auto": as many as memory holds.')
    ] = None,
    model_set: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of how it is loaded: dtype, load_in_4bit, parallelize, device, compile, ..."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Share nothing between questions and ask one at a time.")
    ] = False,
    full_answers: Annotated[
        bool,
        typer.Option("--full-answers", help="Let answers go on after nothing more can change what is read from them."),
    ] = False,
    prompt_suffix: Annotated[str | None, typer.Option(help="Text put after every question; recorded.")] = None,
    features: Annotated[Path | None, typer.Option(help="A folder that keeps image features over runs.")] = None,
    answers: Annotated[Path, typer.Option(help="The file that keeps every answer of a local model.")] = ANSWERS,
    strict: Annotated[
        bool, typer.Option("--strict", help="Digest every byte of the weights, not samples of each tensor.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask the model again, whatever is kept.")] = False,
    serve: Annotated[
        str | None,
        typer.Option(
            help="vllm, sglang, or a command with {model} {host} {port} {name}: serve the weights for this run."
        ),
    ] = None,
    max_failed: MaxFailed = 0.05,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Score models or checkpoints on tasks. Adapters of one base are scored one after the other on the base in
    memory."""
    from contextlib import nullcontext
    from dataclasses import replace

    from leaderboards.board.board import Board
    from leaderboards.board.entry import to_json
    from leaderboards.views.markdown_report import leaderboard
    from tasks.registry import registry

    if len(model) > 1 and model_path is not None:
        raise UsageError("--model-path is for one model; name folders by --model")
    if len(model) > 1 and world_size() > 1:
        raise UsageError("several processes score one model a call: name one --model under torchrun")
    specs = [model_of(name, model_path, model_url, trust_remote_code) for name in model]
    chosen = registry().expand([name for given in tasks or ["scenes"] for name in given.split(",") if name])
    rater = judge_of(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    paths = data_paths(data, [task.name for task in chosen])
    calibration = _calibration(judge_calibration)
    if dry_run:
        named = ", ".join(f"{spec.name} ({spec.pretrained})" for spec in specs)
        print_plan(f"score {named}", [f"{task.name}: {task.description}" for task in chosen], out)
        return _print_price(rater, [task for task in chosen if task.judged], paths, limit, judge_repeats)
    from harness.engine.config import config_from
    from harness.evaluation.eval_settings import on_board
    from harness.evaluation.evaluate import evaluate
    from harness.models.adapter_host import AdapterHost
    from harness.models.fetch import fetch
    from harness.serving.model_server import served
    from harness.serving.settings import ServerSettings
    from support.console import Stages

    server = None if serve is None else ServerSettings(command=serve)
    given = _engine(
        batch_size, exact=exact, suffix=prompt_suffix, features=features, answers=None if fresh else answers
    )
    engine = config_from(given | _model_settings(model_set or []), "--model-set")
    board, resident = Board(out / "board"), AdapterHost(tell=tell)
    names = [
        Path(name).as_posix() if Path(name).is_dir() else spec.name for name, spec in zip(model, specs, strict=True)
    ]
    asked_so = {
        "full answers": "yes" if full_answers else "",
        "prompt suffix": "",
        "model settings": "",
        **engine.recorded(),
    }
    for name, found in zip(names, specs, strict=True):
        spec = replace(fetch(found, tell), strict=strict)
        if not fresh and on_board(
            board, spec, name, chosen, rater, limit, paths, official_prompts, asked_so, judge_repeats
        ):
            tell(f"{name}: already on the board in {out / 'board'}, nothing to do")
            continue
        tell(f"{name}: scoring on {', '.join(task.name for task in chosen)}")
        with Stages(), served(spec, server) if server else nullcontext(spec) as asked:
            evaluation = evaluate(
                asked,
                chosen,
                rater,
                limit=limit,
                seed=seed or 0,
                name=name,
                data=paths,
                partial_data=partial_data,
                official_prompts=official_prompts,
                judge_repeats=judge_repeats,
                calibration=calibration,
                ledger=ledger,
                engine=engine,
                resident=resident,
                full_answers=full_answers,
            )
        board.add(evaluation.entries, evaluation.samples)
        for line in _where_time_went(evaluation):
            tell(line)
        if evaluation.lost:
            tell(f"what failed is asked again by: harness {shlex.join(context.obj or [])}")
    entries = [
        entry
        for entry in board.current(partial=True)
        if entry.model in names and entry.task in {task.name for task in chosen}
    ]
    print(json.dumps({"entries": [to_json(entry) for entry in entries]}) if as_json else leaderboard(entries))
    return _lossy(entries, max_failed)


def _engine(
    batch_size: str | None, *, exact: bool, suffix: str | None, features: Path | None, answers: Path | None
) -> dict[str, Any]:
    """Settings of our own LM that were given."""
    if batch_size is not None and batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size) > 0):
        raise UsageError(f'--batch-size {batch_size!r}: must be a number of questions, or "auto"')
    given: dict[str, Any] = {
        "batch_size": batch_size,
        "suffix": suffix,
        "features": features,
        "exact": exact or None,
        "answers": answers,
    }
    return {name: value for name, value in given.items() if value is not None}


def _model_settings(given: list[str]) -> dict[str, Any]:
    """Arguments of our LM, or of transformers' loading, as they were given: true, 4 and 0.5 are no text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--model-set {text!r}: must be NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


def _where_time_went(evaluation: "Evaluation") -> list[str]:
    """What was shared and what it cost, for people."""
    counts, seconds = evaluation.counts, sum(evaluation.seconds.values())
    lines = [f"shared: {evaluation.shared}"] if evaluation.shared else []
    if counts.get("asked"):
        parts = [f"{counts['asked']} questions", f"{counts.get('answered', 0)} answered by the model"]
        parts += [f"{counts[name]} {what}" for name, what in COUNTED.items() if counts.get(name)]
        lines.append(f"{', '.join(parts)}; {counts['asked'] / seconds:.1f} a second")
    spent = sorted(evaluation.seconds.items(), key=lambda item: -item[1])
    return [*lines, "time: " + ", ".join(f"{stage} {took:.1f} s" for stage, took in spent if took >= 0.05)]


def _calibration(path: Path | None) -> dict[str, str]:
    """What a file of `harness judge calibrate --json` says, to be put on entries."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--judge-calibration {path}: {error}") from None
    if (
        not isinstance(found, dict)
        or set(found) != {"judge calibration"}
        or not isinstance(found["judge calibration"], str)
    ):
        raise UsageError(f"--judge-calibration {path}: must be what `harness judge calibrate --json` prints")
    return found


def _lossy(results: "Sequence[Entry | Score]", max_failed: float) -> int:
    worst = max(results, key=lambda result: (result.failed + result.unscored) / max(1, result.samples))
    lost = worst.failed + worst.unscored
    if lost > max_failed * worst.samples:
        return say(
            f"{worst.task}: {worst.failed} of {worst.samples} samples failed and {worst.unscored} stayed unscored",
            LOSSY,
        )
    return OK


def score_command(
    task: Annotated[str, typer.Argument(help="A task's name.")],
    path: Annotated[
        Path,
        typer.Argument(help="Answers in the benchmark's own layout (file or folder), or our sample log (.parquet)."),
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the published files the score needs beside the answers (annotations, questions)."
        ),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Have answers that nobody judged rated by this judge.")] = None,
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_batch: JudgeBatch = False,
    judge_set: JudgeSet = None,
    judge_repeats: JudgeRepeats = 1,
    dry_run: DryRun = False,
    max_failed: MaxFailed = 0.05,
    as_json: Json = False,
) -> int:
    """Print the official scores of answers made elsewhere. No model is asked; a judge only where --judge names one."""
    from contextlib import nullcontext
    from dataclasses import asdict

    from harness.evaluation.score_files import plan_of, score
    from tasks.judges.protocol import use_judge
    from tasks.registry import registry

    # A suite of tasks that read the same files (llava_bench) will do for its first.
    chosen = registry().expand([task])
    if len({spec.answers for spec in chosen}) > 1:
        raise UsageError(f"{task!r} is a suite: name one of its tasks: {', '.join(spec.name for spec in chosen)}")
    spec = chosen[0]
    rater = (
        judge_of(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
        if judge is not None
        else None
    )
    if dry_run:
        plans = [plan_of(spec, path, references, rater, judge_repeats)] if rater is not None and spec.judged else []
        return print_plans([found for found in plans if found is not None], as_json=as_json)
    with use_judge(rater) if rater is not None else nullcontext():
        result = score(spec, path, references, judge_repeats)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        for warning in result.warnings:
            tell(f"warning: {warning}")
        print(_score_table(spec, result))
    return _lossy([result], max_failed)


def _score_table(spec: "TaskSpec", result: "Score") -> str:
    """The scores, beside what others reported."""
    from support.markdown import MISSING, cell, number, table

    units = {name: metric.unit for name, metric in spec.metrics.items()}
    headers = ["metric", "unit", "score", *(f"{cell(row.model)} ({cell(row.source)})" for row in spec.published)]
    rows = [
        [
            cell(name),
            cell(units.get(name, "")),
            _exact(value),
            *(number(row.scores.get(name), units.get(name, "")) for row in spec.published),
        ]
        for name, value in result.metrics.items()
        if value is not None
    ]
    counts = f"{result.samples} samples, {result.failed} failed, {result.unscored} unscored, {result.unparsed} unparsed"
    return f"{spec.name} {spec.version}: {counts}\n\n{table(headers, rows) if rows else MISSING}"


def _exact(value: float) -> str:
    """All digits that say something: official scores are compared to the last one."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def parity_command(
    model: Annotated[str, typer.Argument(help="A model, as for `harness eval --model`.")],
    task: Annotated[str, typer.Argument(help="A task's name.")],
    samples: Annotated[int, typer.Option(min=1, help="Documents answered both ways.")] = 200,
    model_path: ModelPath = None,
    trust_remote_code: RemoteCode = False,
    judge: JudgeName = "exact",
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    data: DataPaths = None,
    partial_data: PartialData = False,
    as_json: Json = False,
) -> int:
    """Hold a model's shared way of answering against the exact one: answers, logits, scores."""
    from dataclasses import asdict

    from harness.evaluation.parity import parity, render
    from harness.models.fetch import fetch
    from tasks.registry import registry

    asked = registry().task(task)
    spec = fetch(model_of(model, model_path, None, trust_remote_code), tell)
    rater = judge_of(judge, judge_url, ledger, judge_budget) if asked.judged else None
    found = parity(spec, asked, samples, judge=rater, data=data_paths(data, [task]), partial_data=partial_data)
    print(json.dumps(asdict(found)) if as_json else render(found))
    return OK


def _print_price(
    judge: "Judge", tasks: "list[TaskSpec]", paths: dict[str, str], limit: int | None, repeats: int
) -> int:
    """What asking the judge so often will cost, for answers of a usual length: those of the model aren't there yet."""
    from harness.evaluation.judge_cost import plan, supposed_answers
    from tasks.judges.openai import OpenAIJudge

    if not isinstance(judge, OpenAIJudge):
        return OK
    from harness.evaluation.generate import load_tasks

    plans = []
    for task in tasks:
        docs = list(load_tasks([task], data=paths, partial_data=True)[0][task.name].eval_docs)[:limit]
        plans.append(plan(judge, task, docs, supposed_answers(len(docs)), repeats))
    return print_plans(plans)
