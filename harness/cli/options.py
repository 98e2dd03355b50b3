"""What commands share: options, exit codes, the user's own mistakes, plans in print."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from support.errors import OK, RecipeError, UsageError
from support.processes import rank

if TYPE_CHECKING:
    from harness.evaluation.judge_cost import JudgePlan
    from harness.models.spec import ModelSpec
    from tasks.judges.protocol import Judge
    from trainers.config.recipe import AnyRecipe, PreferenceRecipe, R


LEDGER = Path("runs") / "ledger.sqlite"

REQUIRE_BETTER = "--require-better"
ANY = "any"
"""What a `--require-better` without a name stands for: one metric of the panel is better, and none is worse."""


def _at_least_one(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"--limit {value}: must be at least 1")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Random seed; what it decides is recorded.")]
Limit = Annotated[
    int | None,
    typer.Option(
        callback=_at_least_one, help="At most this many documents a task (and instructions); marks results partial."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
JudgeName = Annotated[
    str,
    typer.Option(
        "--judge", help="Who rates judged tasks: exact (scene graphs), or a model of an OpenAI-compatible server."
    ),
]
JudgeUrl = Annotated[str | None, typer.Option(help="The judge's server; default: OPENAI_BASE_URL, else OpenAI's.")]
LedgerPath = Annotated[Path, typer.Option("--ledger", help="The file that keeps every judge reply paid for.")]
JudgeBatch = Annotated[
    bool, typer.Option("--judge-batch", help="Ask through OpenAI's Batch API: half the price, within a day.")
]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE of the judge: detail, image_side, seed, timeout, attempts, concurrency, requests_per_minute, ..."
    ),
]
JudgeRepeats = Annotated[int, typer.Option(min=1, help="Ask the judge so often; scores are the mean.")]
JudgeBudget = Annotated[
    float | None, typer.Option(min=0, help="US dollars; stop before the next judge call could pass it.")
]
DataPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="TASK=PATH: the benchmark's data from a local table (parquet, jsonl, tsv) or folder instead of the hub.",
    ),
]
PartialData = Annotated[
    bool, typer.Option("--partial-data", help="Score local data of which rows are missing; results say so.")
]
ModelPath = Annotated[
    Path | None, typer.Option(help="A folder with the model's weights, or an adapter, instead of the hub.")
]
ModelUrl = Annotated[
    str | None, typer.Option(help="The server of a model that is behind one; default: OPENAI_BASE_URL, else OpenAI's.")
]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the checkpoint's own code run, with all your rights.")
]
PlainTrl = Annotated[
    bool, typer.Option("--plain-trl", help="By TRL's own DPO trainer, not the one that reads images and prompts once.")
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=1, help="How many to train on in all; default: those of this machine.")
]
Mode = Annotated[str, typer.Option("--mode", help="What each GPU holds: ddp, zero2, zero3 or fsdp2.")]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", help="NAME=VALUE of sbatch (partition, time, ...), repeatable: do it as a job."),
]
MaxFailed = Annotated[float, typer.Option(min=0, max=1, help="Exit 4 above this share of failed or unscored samples.")]


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `any` after each `--require-better` that no name follows: typer has no options whose value
    may be left out."""
    given = list(arguments)
    found: list[str] = []
    for place, word in enumerate(given):
        found.append(word)
        if word == REQUIRE_BETTER and (place + 1 == len(given) or given[place + 1].startswith("-")):
            found.append(ANY)
    return found


def say(what: object, code: int) -> int:
    """Print one line on stderr, and give the exit code back."""
    if str(what):
        print(f"harness: {what}", file=sys.stderr)
    return code


def tell(line: str) -> None:
    """A line on stderr; from one process only, where several run."""
    if rank() == 0:
        print(line, file=sys.stderr)


def judge_of(
    name: str,
    url: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    *,
    batch: bool = False,
    given: list[str] | None = None,
) -> "Judge":
    """The judge the options name; warns of one that will be shut down."""
    from datetime import date

    from harness.evaluation.make_judge import judge_settings, make_judge
    from tasks.judges.prices import retired

    warning = retired(name, date.today())
    if warning:
        tell(f"warning: {warning}")
    return make_judge(name, url=url, ledger=ledger, budget=budget, batch=batch, settings=judge_settings(given or []))


def model_of(name: str, path: Path | None, url: str | None, remote_code: bool) -> "ModelSpec":
    """The model the options name."""
    from dataclasses import replace

    from harness.models.spec import at, find

    spec = find(name)
    if path is not None:
        spec = at(spec, path)
    if url is not None and spec.backend != "openai":
        raise UsageError(f"--model-url: {name} runs here, not behind a server; name a served one as openai:ID")
    return replace(spec, url=url or spec.url, remote_code=remote_code)


def by_plain_trl(recipe: "AnyRecipe") -> "PreferenceRecipe":
    """The recipe with TRL's own trainer; UsageError where it has no DPO to do, or settings that this trainer lacks."""
    from trainers.config.recipe import PretrainingRecipe

    if isinstance(recipe, PretrainingRecipe) or recipe.trainer != "dpo":
        raise UsageError(f"recipe {recipe.name!r} trains by {recipe.trainer!r}: --plain-trl is for dpo")
    training = recipe.training.model_dump(exclude_unset=True) | {"plain_trl": True}
    return changed(recipe, {"training": training}, f"--plain-trl: recipe {recipe.name!r}")


def changed(recipe: "R", changes: Mapping[str, Any], what: str) -> "R":
    """The recipe with other top-level values; UsageError, with `what` changed it, for values that it can't have."""
    from trainers.config.recipe import parse_as

    try:
        return parse_as(type(recipe), recipe.model_dump(exclude_unset=True) | dict(changes))
    except RecipeError as error:
        raise UsageError(f"{what}: {error}") from None


def data_paths(given: list[str] | None, tasks: list[str]) -> dict[str, str]:
    """Task -> path, of `--data TASK=PATH` options."""
    paths = {}
    for text in given or []:
        task, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--data {text!r}: must be TASK=PATH")
        if task not in tasks:
            raise UsageError(f"--data {text!r}: {task!r} is not among the tasks asked for: {', '.join(tasks)}")
        paths[task] = path
    return paths


def print_plan(title: str, steps: list[str], out: Path) -> None:
    """What --dry-run says of a run."""
    print(title)
    for number, step in enumerate(steps, start=1):
        print(f"{number:3}. {step}")
    print(f"into {out}; nothing was done (--dry-run)")


def print_plans(plans: "Sequence[JudgePlan]", as_json: bool = False) -> int:
    """What --dry-run says of judging."""
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
            str(p.calls),
            str(p.kept),
            str(p.prompt_tokens),
            str(p.completion_tokens),
            money(p.price),
        ]
        for p in plans
    ]
    print(table(["task", "judge", "calls", "in the ledger", "prompt tokens", "reply tokens", "price"], rows))
    print("nothing was asked (--dry-run); second questions and retries are not in it")
    return OK


def money(amount: float | None) -> str:
    """US dollars in print; "unknown" is never 0."""
    return "unknown" if amount is None else f"${amount:.4f}"
