"""The command line; the one place that turns errors into exit codes.

0 ok, 1 the run failed, 2 the command was wrong, 3 the regression gate failed, 4 finished, but too many samples failed or stayed unscored.
Heavy libraries are imported inside the commands.
"""

import json
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.models.share_out import Relieved, rank, size

if TYPE_CHECKING:
    from harness.evaluate import Evaluation
    from harness.judging import Plan
    from harness.models.spec import ModelSpec
    from harness.score import Score
    from leaderboards.entry import Entry
    from tasks.judge import Judge
    from tasks.ledger import Ledger
    from tasks.registry import TaskSpec

OK, FAILED, USAGE, REGRESSED, LOSSY, INTERRUPTED = 0, 1, 2, 3, 4, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Build preference data for vision-language models, train on it, and prove the model got better.",
)
tasks_app = typer.Typer(invoke_without_command=True, help="List the tasks, or show one.")
app.add_typer(tasks_app, name="tasks")
judge_app = typer.Typer(no_args_is_help=True, help="What judges said and cost.")
app.add_typer(judge_app, name="judge")
models_app = typer.Typer(invoke_without_command=True, help="List the models that have a name here, or try one.")
app.add_typer(models_app, name="models")
vlfeedback_app = typer.Typer(no_args_is_help=True, help="Preference data in VLFeedback's form.")
app.add_typer(vlfeedback_app, name="vlfeedback")

LEDGER = Path("runs") / "ledger.sqlite"
ANSWERS = Path("runs") / "answers.sqlite"

EXACT = "nothing (exact)"
"""What an entry says was shared where `--exact` was given."""

COUNTED = {"from the store": "from earlier runs", "cut": "cut once decided", "out of memory": "times out of memory"}


class UsageError(Exception):
    """The user's own mistake: one line, exit code 2."""


def _at_least_one(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"--limit {value}: must be at least 1")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]
Seed = Annotated[int | None, typer.Option(help="Random seed; what it decides is recorded.")]
Limit = Annotated[
    int | None, typer.Option(callback=_at_least_one, help="At most this many documents a task (and instructions); marks results partial.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
JudgeName = Annotated[
    str, typer.Option("--judge", help="Who rates judged tasks: exact (scene graphs), or a model of an OpenAI-compatible server.")
]
JudgeUrl = Annotated[str | None, typer.Option(help="The judge's server; default: OPENAI_BASE_URL, else OpenAI's.")]
LedgerPath = Annotated[Path, typer.Option("--ledger", help="The file that keeps every judge reply paid for.")]
JudgeBatch = Annotated[bool, typer.Option("--judge-batch", help="Ask through OpenAI's Batch API: half the price, within a day.")]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE of the judge: detail, image_side, seed, timeout, attempts, concurrency, requests_per_minute, ..."),
]
JudgeRepeats = Annotated[int, typer.Option(min=1, help="Ask the judge so often; scores are the mean.")]
JudgeBudget = Annotated[float | None, typer.Option(min=0, help="US dollars; stop before the next judge call could pass it.")]
DataPaths = Annotated[
    list[str] | None,
    typer.Option("--data", help="TASK=PATH: the benchmark's data from a local table (parquet, jsonl, tsv) or folder instead of the hub."),
]
PartialData = Annotated[bool, typer.Option("--partial-data", help="Score local data of which rows are missing; results say so.")]
ModelPath = Annotated[Path | None, typer.Option(help="A folder with the model's weights, or an adapter, instead of the hub.")]
ModelUrl = Annotated[str | None, typer.Option(help="The server of a model that is behind one; default: OPENAI_BASE_URL, else OpenAI's.")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Let the checkpoint's own code run, with all your rights.")]
MaxFailed = Annotated[float, typer.Option(min=0, max=1, help="Exit 4 above this share of failed or unscored samples.")]


def main() -> None:
    """Entry point of `harness`."""
    _quiet()
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(arguments, prog_name="harness", standalone_mode=False, obj=given)
    except UsageError as error:
        return _say(error, USAGE)
    except Relieved:  # another process has the answers now, and does the rest
        return OK
    except Exception as error:
        if (code := _code_of(error)) is None:
            raise
        return _say(_line(error) + _resume(error, given), code)
    return result if isinstance(result, int) else OK


def _say(what: object, code: int) -> int:
    if str(what):
        print(f"harness: {what}", file=sys.stderr)
    return code


def _line(error: Exception) -> str:
    shown = getattr(error, "format_message", None)  # click's errors
    return str(shown() if shown else error)


def _resume(error: Exception, given: list[str]) -> str:
    """Where a judge, or the user, ended the run: the command that goes on from there."""
    from tasks.openai_judge import BudgetSpent, JudgeDown

    if isinstance(error, (JudgeDown, BudgetSpent)):
        return f"\nharness: all replies so far are kept; go on with: harness {shlex.join(given)}"
    if isinstance(error, typer.Abort) and given[:1] in (["eval"], ["train-then-eval"], ["vlfeedback"]):
        return f"stopped; what was done is kept; go on with: harness {shlex.join(given)}"
    return ""


def _code_of(error: Exception) -> int | None:
    """The exit code of a known error; None for a mistake in the code, which keeps its traceback."""
    from harness.judge_reports import RatingsError
    from harness.judging import BadSetting, NoServer
    from harness.models.answer_store import StoreError
    from harness.models.spec import MissingWeights, ModelError, UnknownModel
    from tasks.hub import DataError
    from tasks.judge import JudgeError
    from tasks.ledger import LedgerError
    from tasks.official import LayoutError
    from tasks.prices import PriceError
    from tasks.registry import RegistryError, UnknownName
    from tasks.wording import WordingError
    from trainers.recipe import RecipeError
    from trainers.vlfeedback.annotation import FolderError

    if isinstance(
        error,
        (UnknownModel, MissingWeights, UnknownName, RecipeError, LayoutError, BadSetting, NoServer, PriceError, RatingsError, FolderError),
    ):
        return USAGE
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if hasattr(error, "format_message"):  # typer's usage errors share no public base class
        return USAGE
    known = (ModelError, StoreError, RegistryError, JudgeError, DataError, WordingError, LedgerError, OSError, FloatingPointError)
    # The last two are named, not imported: their modules import torch.
    if isinstance(error, known) or type(error).__name__ in ("RunError", "ConversionError"):
        return FAILED
    return None


def _quiet() -> None:
    """Libraries' bars and chatter are not ours to show; telemetry is off."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about libraries
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle threads that spin cost the busy ones on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _judge(
    name: str,
    url: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    *,
    batch: bool = False,
    given: list[str] | None = None,
) -> "Judge":
    from datetime import date

    from harness.judging import make_judge, settings_of
    from tasks.prices import retired

    warning = retired(name, date.today())
    if warning:
        _tell(f"warning: {warning}")
    return make_judge(name, url=url, ledger=ledger, budget=budget, batch=batch, **settings_of(given or []))


@app.command("eval")
def eval_command(
    context: typer.Context,
    model: Annotated[
        list[str], typer.Option(help="A name of `harness models`, a folder with weights or an adapter, a hub id, or openai:ID; repeatable.")
    ],
    model_path: ModelPath = None,
    model_url: ModelUrl = None,
    trust_remote_code: RemoteCode = False,
    tasks: Annotated[list[str] | None, typer.Option(help="Tasks or suites; repeat the option or separate by commas.")] = None,
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
        bool, typer.Option("--official-prompts", help="Ask the judge in the benchmark authors' own words, fetched from their repository.")
    ] = False,
    batch_size: Annotated[str | None, typer.Option(help='Questions decoded at once; "auto": as many as memory holds.')] = None,
    model_set: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of how it is loaded: dtype, load_in_4bit, parallelize, device, compile, ..."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Share nothing between questions and ask one at a time.")] = False,
    full_answers: Annotated[
        bool, typer.Option("--full-answers", help="Let answers go on after nothing more can change what is read from them.")
    ] = False,
    prompt_suffix: Annotated[str | None, typer.Option(help="Text put after every question; recorded.")] = None,
    features: Annotated[Path | None, typer.Option(help="A folder that keeps image features over runs.")] = None,
    answers: Annotated[Path, typer.Option(help="The file that keeps every answer of a local model.")] = ANSWERS,
    strict: Annotated[bool, typer.Option("--strict", help="Digest every byte of the weights, not samples of each tensor.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask the model again, whatever is kept.")] = False,
    serve: Annotated[str | None, typer.Option(help="vllm: start `vllm serve` on the weights for this run and ask it.")] = None,
    max_failed: MaxFailed = 0.05,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Score models or checkpoints on tasks. Adapters of one base are scored one after the other on the base in memory."""
    from contextlib import nullcontext
    from dataclasses import replace

    from leaderboards.board import Board
    from leaderboards.entry import to_json
    from leaderboards.report import leaderboard
    from tasks.registry import registry

    if len(model) > 1 and model_path is not None:
        raise UsageError("--model-path is for one model; name folders by --model")
    if len(model) > 1 and size() > 1:
        raise UsageError("several processes score one model a call: name one --model under torchrun")
    specs = [_model(name, model_path, model_url, trust_remote_code) for name in model]
    chosen = registry().expand([name for given in tasks or ["scenes"] for name in given.split(",") if name])
    rater = _judge(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    paths = _data_paths(data, [task.name for task in chosen])
    calibration = _calibration(judge_calibration)
    if dry_run:
        named = ", ".join(f"{spec.name} ({spec.pretrained})" for spec in specs)
        _print_plan(f"score {named}", [f"{task.name}: {task.description}" for task in chosen], out)
        return _print_price(rater, [task for task in chosen if task.judged], paths, limit)
    from harness.evaluate import evaluate, on_board, settings_in_words
    from harness.models.fetch import fetch
    from harness.models.resident import Resident
    from harness.models.serve import served
    from harness.progress import Stages

    if serve not in (None, "vllm"):
        raise UsageError(f"--serve {serve!r}: known: vllm")
    engine = _engine(batch_size, exact=exact, suffix=prompt_suffix, features=features, answers=None if fresh else answers)
    settings = _model_settings(model_set or [])
    engine |= settings
    board, resident = Board(out / "board"), Resident()
    names = [Path(name).as_posix() if Path(name).is_dir() else spec.name for name, spec in zip(model, specs, strict=True)]
    asked_so = {
        "full answers": "yes" if full_answers else "",
        "prompt suffix": prompt_suffix or "",
        "model settings": settings_in_words(settings),
        **({"shared": EXACT} if exact else {}),
    }
    for name, found in zip(names, specs, strict=True):
        spec = replace(fetch(found, _tell), strict=strict)
        if not fresh and on_board(board, spec, name, chosen, rater, limit, paths, official_prompts, asked_so):
            _tell(f"{name}: already on the board in {out / 'board'}, nothing to do")
            continue
        _tell(f"{name}: scoring on {', '.join(task.name for task in chosen)}")
        with Stages() as stages, served(spec, tell=_tell) if serve else nullcontext(spec) as asked:
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
                progress=partial(stages.report, f"score {name}"),
            )
        board.add(evaluation.entries, evaluation.samples)
        for line in _where_time_went(evaluation):
            _tell(line)
        if evaluation.lost:
            _tell(f"what failed is asked again by: harness {shlex.join(context.obj or [])}")
    entries = [entry for entry in board.standing(partial=True) if entry.model in names and entry.task in {task.name for task in chosen}]
    print(json.dumps({"entries": [to_json(entry) for entry in entries]}) if as_json else leaderboard(entries))
    return _lossy(entries, max_failed)


def _model(name: str, path: Path | None, url: str | None, remote_code: bool) -> "ModelSpec":
    from dataclasses import replace

    from harness.models.spec import at, find

    spec = find(name)
    if path is not None:
        spec = at(spec, path)
    if url is not None and spec.backend != "openai":
        raise UsageError(f"--model-url: {name} runs here, not behind a server; name a served one as openai:ID")
    return replace(spec, url=url or spec.url, remote_code=remote_code)


def _engine(batch_size: str | None, *, exact: bool, suffix: str | None, features: Path | None, answers: Path | None) -> dict[str, Any]:
    """Settings of our own LM that were given."""
    if batch_size is not None and batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size) > 0):
        raise UsageError(f'--batch-size {batch_size!r}: must be a number of questions, or "auto"')
    given: dict[str, Any] = {"batch_size": batch_size, "suffix": suffix, "features": features, "exact": exact or None, "answers": answers}
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
    if not isinstance(found, dict) or set(found) != {"judge calibration"} or not isinstance(found["judge calibration"], str):
        raise UsageError(f"--judge-calibration {path}: must be what `harness judge calibrate --json` prints")
    return found


def _data_paths(given: list[str] | None, tasks: list[str]) -> dict[str, str]:
    paths = {}
    for text in given or []:
        task, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--data {text!r}: must be TASK=PATH")
        if task not in tasks:
            raise UsageError(f"--data {text!r}: {task!r} is not among the tasks asked for: {', '.join(tasks)}")
        paths[task] = path
    return paths


def _lossy(results: "Sequence[Entry | Score]", max_failed: float) -> int:
    worst = max(results, key=lambda result: (result.failed + result.unscored) / max(1, result.samples))
    lost = worst.failed + worst.unscored
    if lost > max_failed * worst.samples:
        return _say(f"{worst.task}: {worst.failed} of {worst.samples} samples failed and {worst.unscored} stayed unscored", LOSSY)
    return OK


@app.command("score")
def score_command(
    task: Annotated[str, typer.Argument(help="A task's name.")],
    path: Annotated[Path, typer.Argument(help="Answers in the benchmark's own layout (file or folder), or our sample log (.parquet).")],
    references: Annotated[
        Path | None, typer.Option(help="Folder with the published files the score needs beside the answers (annotations, questions).")
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

    from harness.score import plan_of, score
    from tasks.judge import use_judge
    from tasks.registry import registry

    # A suite of tasks that read the same files (llava_bench) will do for its first.
    chosen = registry().expand([task])
    if len({spec.answers for spec in chosen}) > 1:
        raise UsageError(f"{task!r} is a suite: name one of its tasks: {', '.join(spec.name for spec in chosen)}")
    spec = chosen[0]
    rater = _judge(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set) if judge is not None else None
    if dry_run:
        plans = [plan_of(spec, path, references, rater)] if rater is not None and spec.judged else []
        return _print_plans([found for found in plans if found is not None], as_json=as_json)
    with use_judge(rater) if rater is not None else nullcontext():
        result = score(spec, path, references, judge_repeats)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        for warning in result.warnings:
            _tell(f"warning: {warning}")
        print(_score_table(spec, result))
    return _lossy([result], max_failed)


def _score_table(spec: "TaskSpec", result: "Score") -> str:
    """The scores, beside what others reported."""
    from leaderboards.report import MISSING, cell, number, table

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


@app.command("train-then-eval")
def train_then_eval_command(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/RECIPE (runs/RECIPE-seedN with --seed).")] = None,
    judge: Annotated[str | None, typer.Option(help="Another judge than the recipe's.")] = None,
    limit: Limit = None,
    seed: Seed = None,
    max_failed: MaxFailed = 0.05,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Score the base, build preference data, train, score every checkpoint, give the verdict. Finishes an interrupted run."""
    from trainers.recipe import find_recipe

    found = find_recipe(recipe, **({} if seed is None else {"seed": seed}))
    folder = out or Path("runs") / (found.name if seed is None else f"{found.name}-seed{seed}")
    rater = _judge(judge or (found.data.judge if found.data else "exact"))
    if dry_run:
        from harness.plan import steps_of

        _print_plan(f"{found.name}: {found.trainer} on {found.base}", steps_of(found, limit), folder)
        return OK
    from harness.progress import Stages
    from harness.run_report import to_json, write_report
    from harness.train_then_eval import train_then_eval

    with Stages() as stages:
        outcome = train_then_eval(found, folder, rater, limit=limit, tell=stages.tell, report=stages.report)
        report = write_report(outcome)
    print(to_json(outcome) if as_json else report)
    _tell(f"report: {folder / 'report.md'}")
    return OK if outcome.lost <= max_failed else _say(f"{outcome.lost:.0%} of a task's samples failed or stayed unscored", LOSSY)


@app.command("parity")
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

    from harness.models.fetch import fetch
    from harness.parity import parity, render
    from tasks.registry import registry

    asked = registry().task(task)
    spec = fetch(_model(model, model_path, None, trust_remote_code), _tell)
    rater = _judge(judge, judge_url, ledger, judge_budget) if asked.judged else None
    found = parity(spec, asked, samples, judge=rater, data=_data_paths(data, [task]), partial_data=partial_data)
    print(json.dumps(asdict(found)) if as_json else render(found))
    return OK


@app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def lm_eval_command(context: typer.Context) -> int:
    """Run lm-eval's own command line, with our LM as `--model vlm-harness`."""
    from harness.lm_eval_cli import main as lm_eval

    return lm_eval(context.args)


@app.command("train")
def train_command(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/RECIPE.")] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Pretrain embedded models from nothing. (Preference training is part of train-then-eval.)"""
    from trainers.recipe import find_recipe

    found = find_recipe(recipe, **({} if seed is None else {"seed": seed}))
    if found.pretraining is None:
        raise UsageError(f"recipe {found.name!r} trains on preferences that are built first: run `harness train-then-eval {recipe}`")
    folder = out or Path("runs") / found.name
    if dry_run:
        from harness.plan import steps_of

        _print_plan(f"{found.name}: {found.trainer}", steps_of(found, None), folder)
        return OK
    from harness.progress import Stages
    from trainers.job import Job, trainer

    with Stages() as stages:
        job = Job(recipe=found, out=folder, progress=lambda done, total: stages.report(f"train {found.name}", done, total))
        checkpoints = trainer(found.trainer)(job)
    lines = [checkpoint.path.as_posix() for checkpoint in checkpoints]
    print(json.dumps({"checkpoints": lines}) if as_json else "\n".join(lines))
    return OK


@app.command("leaderboard")
def leaderboard_command(
    folders: Annotated[list[Path] | None, typer.Argument(help="Boards, or folders that hold some; default: runs.")] = None,
    headline: Annotated[bool, typer.Option("--headline", help="Only the metric each task ranks by.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Also runs with --limit.")] = False,
    as_json: Json = False,
) -> int:
    """Print the board as markdown."""
    from leaderboards.board import newest
    from leaderboards.entry import to_json
    from leaderboards.report import leaderboard

    entries = newest([entry for board in _boards(folders or [Path("runs")]) for entry in _standing(board, partial)])
    print(json.dumps({"entries": [to_json(entry) for entry in entries]}) if as_json else leaderboard(entries, only_headline=headline))
    return OK


def _standing(board: Any, partial: bool) -> "list[Entry]":
    entries: list[Entry] = board.standing(partial=partial)
    for path, why in board.skipped:
        _tell(f"skipped {path}: {why}")
    return entries


def _boards(folders: list[Path]) -> list[Any]:
    from leaderboards.board import Board

    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder {str(folder)!r}; give a board (runs/NAME/board) or a folder that holds some")
    found = [path for folder in folders for path in ([folder] if folder.name == "board" else sorted(folder.glob("**/board")))]
    return [Board(path) for path in found or folders]


@app.command("check")
def check_command(
    baseline: Annotated[Path, typer.Option(help="The board to hold against.")],
    board: Annotated[Path | None, typer.Option(help="The board with the new results; default: the baseline's own.")] = None,
    model: Annotated[str | None, typer.Option(help="The new results' model; default: the baseline's names.")] = None,
    baseline_model: Annotated[str | None, typer.Option(help="The baseline's model, where it is named otherwise.")] = None,
    tolerance: Annotated[
        list[str] | None, typer.Option(help="TASK.METRIC=X: fail on a drop of more than X (metric's unit), significant or not.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Fail (exit 3) where a score is significantly worse than the baseline, or worse than tolerated."""
    from dataclasses import asdict

    from leaderboards.regression import check, render
    from tasks.registry import UnknownName, registry

    if (model is None) != (baseline_model is None):
        raise UsageError("--model and --baseline-model go together: the new results' model and the one it is held against")
    old, new = _boards([baseline])[0], _boards([board or baseline])[0]

    def metric(task: str, name: str) -> Any:
        try:
            return registry().metric(task, name)
        except UnknownName:
            return None

    result = check(
        _standing(old, False),
        _standing(new, False),
        samples=(old.samples, new.samples),
        metrics=metric,
        tolerances=dict(_tolerance(given) for given in tolerance or []),
        models=(baseline_model, model) if model is not None and baseline_model is not None else None,
    )
    if as_json:
        worse = [{"baseline": asdict(r.baseline), "current": asdict(r.current), "why": r.reason} for r in result.regressions]
        print(json.dumps({"passed": result.passed, "compared": result.compared, "regressions": worse, "errors": list(result.errors)}))
    else:
        print(render(result))
    return OK if result.passed else REGRESSED if result.regressions else FAILED


def _tolerance(given: str) -> tuple[str, float]:
    name, _, value = given.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--tolerance {given!r}: must be TASK.METRIC=NUMBER") from None


@models_app.callback()
def models_command(context: typer.Context, as_json: Json = False) -> int:
    """List the models that have a name here."""
    if context.invoked_subcommand is not None:
        return OK
    from dataclasses import asdict

    from harness.models.fetch import cached
    from harness.models.spec import MODELS
    from leaderboards.report import MISSING, cell, table

    if as_json:
        listed = [asdict(spec) | {"here": cached(spec)} for spec in MODELS.values()]
        print(json.dumps({"models": listed}, default=str))
        return OK
    rows = []
    for spec in MODELS.values():
        hub = "embedded" if Path(spec.pretrained).is_dir() else spec.pretrained
        here = "server" if spec.backend == "openai" else "yes" if cached(spec) else ""
        size = MISSING if spec.gigabytes is None else f"{spec.gigabytes:g}"
        rows.append([cell(text) for text in (spec.name, hub, spec.licence, size, spec.image_tokens, here, spec.description)])
    print(table(["model", "hub id", "licence", "GB", "image tokens", "here", "what it is"], rows))
    print("\nA folder with weights or a LoRA adapter, a hub id, or openai:ID behind a server is a model too.")
    return OK


@models_app.command("check")
def models_check_command(
    name: Annotated[str, typer.Argument(help="A model, as for `harness eval --model`.")],
    model_path: ModelPath = None,
    model_url: ModelUrl = None,
    trust_remote_code: RemoteCode = False,
    ledger: LedgerPath = LEDGER,
    as_json: Json = False,
) -> int:
    """Load a model, ask it about a photograph and a drawn scene, and say what it was shown and how fast it was."""
    from dataclasses import asdict

    from harness.check_model import check_model, render
    from harness.models.fetch import fetch

    checked = check_model(fetch(_model(name, model_path, model_url, trust_remote_code), _tell), ledger)
    print(json.dumps(asdict(checked)) if as_json else render(checked))
    return OK


@models_app.command("convert-llava")
def models_convert_llava_command(
    source: Annotated[Path, typer.Argument(help="A checkpoint in the original LLaVA layout, such as LLaVA-RLHF's sft_model.")],
    out: Annotated[Path, typer.Argument(help="The folder to write, which transformers loads; for --model-path.")],
    vision: Annotated[Path, typer.Option(help="The CLIP vision tower that its config names, as a folder.")],
    lora: Annotated[Path | None, typer.Option(help="A LoRA adapter to merge, such as LLaVA-RLHF's rlhf_lora_adapter_model.")] = None,
) -> int:
    """Rewrite an original LLaVA checkpoint, with an adapter merged, in transformers' layout. No code of it is run."""
    from harness.models.convert_llava import convert

    convert(source, out, vision=vision, lora=lora)
    _tell(f"{out}: written")
    return OK


@tasks_app.callback()
def tasks_command(context: typer.Context, as_json: Json = False) -> int:
    """List the tasks and suites."""
    if context.invoked_subcommand is not None:
        return OK
    from leaderboards.report import cell, table
    from tasks.registry import registry

    known = registry()
    if as_json:
        print(
            json.dumps(
                {"tasks": [_task(spec) for spec in known.tasks.values()], "suites": {g.name: g.tasks for g in known.groups.values()}}
            )
        )
        return OK
    rows = [[cell(t.name), t.version, cell(t.headline), "judge" if t.judged else "", cell(t.description)] for t in known.tasks.values()]
    print(table(["task", "version", "headline", "judged", "what it asks"], rows))
    for group in known.groups.values():
        print(f"\nsuite {group.name}: {', '.join(group.tasks)}")
    return OK


@tasks_app.command("show")
def tasks_show_command(
    name: Annotated[str, typer.Argument(help="A task's name.")],
    samples: Annotated[int, typer.Option(min=0, help="Also this many documents, as a model will see them.")] = 0,
    data: DataPaths = None,
    as_json: Json = False,
) -> int:
    """Print all that is known of one task."""
    from leaderboards.report import line
    from tasks.registry import registry

    spec = registry().task(name)
    facts = _task(spec)
    if samples:
        from harness.evaluate import documents

        facts["samples"] = documents(spec, samples, _data_paths(data, [name]))
    if as_json:
        print(json.dumps(facts))
        return OK
    for key, value in facts.items():
        if key == "metrics":
            value = {metric: f"{m['unit']}, {'higher' if m['higher_is_better'] else 'lower'} is better" for metric, m in value.items()}
        if isinstance(value, dict):
            print(f"{key}:")
            for inner, text in value.items():
                print(f"  {inner}: {line(str(text))}")
        elif key in ("published", "samples"):
            print(f"{key}:")
            for row in value:
                print("  - " + "\n    ".join(f"{inner}: {line(str(text))}" for inner, text in row.items()))
        else:
            print(f"{key}: {line(str(value))}")
    return OK


def _task(spec: Any) -> dict[str, Any]:
    from dataclasses import asdict

    facts = asdict(spec)
    facts["path"] = spec.path.name
    facts["columns"], facts["published"] = list(spec.columns), [asdict(row) for row in spec.published]
    return facts


def _tell(line: str) -> None:
    if rank() == 0:
        print(line, file=sys.stderr)


def _print_price(judge: "Judge", tasks: "list[TaskSpec]", paths: dict[str, str], limit: int | None) -> int:
    """What the judge will cost, for answers of a usual length: those of the model aren't there yet."""
    from harness.judging import plan, supposed_answers
    from tasks.openai_judge import OpenAIJudge

    if not isinstance(judge, OpenAIJudge):
        return OK
    from harness.evaluate import load_tasks

    plans = []
    for task in tasks:
        docs = list(load_tasks([task], data=paths, partial_data=True)[0][task.name].eval_docs)[:limit]
        plans.append(plan(judge, task, docs, supposed_answers(len(docs))))
    return _print_plans(plans)


def _print_plans(plans: "Sequence[Plan]", as_json: bool = False) -> int:
    from dataclasses import asdict

    from leaderboards.report import cell, table

    if as_json:
        print(json.dumps({"judging": [asdict(found) for found in plans]}))
        return OK
    if not plans:
        print("nothing is to be judged")
        return OK
    rows = [
        [cell(p.task), cell(p.model), str(p.calls), str(p.kept), str(p.prompt_tokens), str(p.completion_tokens), _money(p.price)]
        for p in plans
    ]
    print(table(["task", "judge", "calls", "in the ledger", "prompt tokens", "reply tokens", "price"], rows))
    print("nothing was asked (--dry-run); second questions and retries are not in it")
    return OK


def _money(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:.4f}"


@judge_app.command("ledger")
def judge_ledger_command(ledger: LedgerPath = LEDGER, as_json: Json = False) -> int:
    """Show what judges were paid for: calls, tokens and money by task and model."""
    from dataclasses import asdict

    from leaderboards.report import cell, table

    totals = _ledger(ledger).summary()
    if as_json:
        print(json.dumps({"ledger": [asdict(total) for total in totals]}))
        return OK
    rows = [
        [cell(t.task), cell(t.model), str(t.calls), str(t.losses), str(t.prompt_tokens), str(t.completion_tokens), _money(t.price)]
        for t in totals
    ]
    print(
        table(["task", "judge", "replies", "paid without reply", "prompt tokens", "reply tokens", "money"], rows) if rows else "No calls."
    )
    return OK


@judge_app.command("export")
def judge_export_command(file: Annotated[Path, typer.Argument(help="JSON lines, a reply each.")], ledger: LedgerPath = LEDGER) -> int:
    """Write all replies of a ledger to a file, to share them or pin them in a repository."""
    count = _ledger(ledger).export(file)
    _tell(f"{count} replies in {file}")
    return OK


@judge_app.command("import")
def judge_import_command(file: Annotated[Path, typer.Argument(help="What `export` wrote.")], ledger: LedgerPath = LEDGER) -> int:
    """Take over the replies that somebody exported."""
    from tasks.ledger import Ledger

    new, same, differ = Ledger(ledger).import_from(file)
    _tell(f"{new} new, {same} there already, {differ} with another reply here, which stays")
    return OK


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
    rater = _judge(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    if dry_run:
        return _print_plans([plan_ratings(rater, folder, seed or 0)] if isinstance(rater, OpenAIJudge) else [], as_json=as_json)
    from harness.progress import Stages

    with Stages() as stages:
        failed = annotate_folder(folder, rater, seed=seed or 0, done=partial(stages.report, "rate"))
    path = ratings_file(folder, rater.model)
    print(json.dumps({"ratings": path.as_posix(), "failed": failed}) if as_json else f"ratings: {path}")
    return OK if not failed else _say(f"{failed} calls gave no reply; the same command asks again", LOSSY)


@judge_app.command("agree")
def judge_agree_command(
    first: Annotated[Path, typer.Argument(help="Ratings: CSV or JSON lines with id and rating, a sample log, VLFeedback's rows.")],
    second: Annotated[Path, typer.Argument(help="Ratings of the same ids by somebody else, a person or a judge.")],
    as_json: Json = False,
) -> int:
    """How two raters agree, with intervals; what moves each of them; where they differ most."""
    from harness.judge_reports import read_ratings, report

    print(report(read_ratings(first), read_ratings(second), (first.stem, second.stem), as_json=as_json))
    return OK


@judge_app.command("calibrate")
def judge_calibrate_command(
    published: Annotated[Path, typer.Argument(help="Published ratings, such as VLFeedback's rows.")],
    new: Annotated[Path, typer.Argument(help="The new judge's ratings of the same ids.")],
    as_json: Json = False,
) -> int:
    """Say in a sentence how a new judge stands to published ratings, for the entries of that judge."""
    from harness.judge_reports import calibration, read_ratings

    found = calibration(read_ratings(published), read_ratings(new), (published.stem, new.stem))
    print(json.dumps(found) if as_json else "\n".join(found.values()))
    return OK


def _ledger(path: Path) -> "Ledger":
    from tasks.ledger import Ledger

    if not path.is_file():
        raise UsageError(f"no ledger {str(path)!r}; name it with --ledger")
    return Ledger(path)


def _print_plan(title: str, steps: list[str], out: Path) -> None:
    print(title)
    for number, step in enumerate(steps, start=1):
        print(f"{number:3}. {step}")
    print(f"into {out}; nothing was done (--dry-run)")
