"""Commands under `harness models` and `harness tasks`: what has a name here."""

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.options import DATA, LEDGER, MODEL, DataOptions, Json, LedgerPath, ModelOptions
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import OK, UsageError

if TYPE_CHECKING:
    from harness.engine.config import EngineConfig
    from harness.evaluation.protocol import Asking
    from harness.models.spec import ModelSpec
    from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

models_app = typer.Typer(invoke_without_command=True, help="List the models that have a name here, or try one.")
tasks_app = typer.Typer(invoke_without_command=True, help="List the tasks, or show one.")


@models_app.callback()
def models_command(context: typer.Context, as_json: Json = False) -> int:
    """List the models that have a name here."""
    if context.invoked_subcommand is not None:
        return OK
    from dataclasses import asdict

    from harness.models.fetch import cached
    from harness.models.spec import named_models
    from support.markdown import MISSING
    from support.tables import Table

    if as_json:
        listed = [asdict(spec) | {"here": cached(spec)} for spec in named_models().values()]
        print(json.dumps({"models": listed}, default=str))
        return OK
    rows = []
    for spec in named_models().values():
        hub = "embedded" if Path(spec.pretrained).is_dir() else spec.pretrained
        here = "server" if spec.backend == "openai" else "yes" if cached(spec) else ""
        size = MISSING if spec.gigabytes is None else f"{spec.gigabytes:g}"
        rows.append([spec.name, hub, spec.licence, size, spec.image_tokens, here, spec.description])
    found = Table(["model", "hub id", "licence", "GB", "image tokens", "here", "what it is"], rows)
    show([found, "A folder with weights or a LoRA adapter, a hub id, or openai:ID behind a server is a model too."])
    return OK


@models_app.command("check")
@with_settings(models=MODEL)
def models_check_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, as for `harness eval --model`.")],
    ledger: LedgerPath = LEDGER,
    as_json: Json = False,
    *,
    models: ModelOptions,
) -> int:
    """Load a model, ask it about a photograph and a drawn scene, and print what it takes and what it was shown.

    First it says what the download, and the conversion of .bin files, take of the disk.
    """
    from dataclasses import asdict

    from harness.evaluation.model_check import check_model, render
    from harness.models.fetch import fetch
    from harness.models.readiness import look_at_disk

    spec = models.find(context, name)
    use = look_at_disk(spec)
    if use is not None:
        log.info(f"{spec.name}: {use.words()}")
    checked = check_model(fetch(spec), ledger)
    disk = {} if use is None else {"disk": asdict(use)}
    print(json.dumps(asdict(checked) | disk) if as_json else render(checked))
    return OK


@models_app.command("convert-llava")
def models_convert_llava_command(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint in the original LLaVA layout, such as LLaVA-RLHF's sft_model.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write, which transformers loads; for --model-path.")],
    vision: Annotated[Path, typer.Option(help="The CLIP vision tower that its config names, as a folder.")],
    lora: Annotated[
        Path | None, typer.Option(help="A LoRA adapter to merge, such as LLaVA-RLHF's rlhf_lora_adapter_model.")
    ] = None,
) -> int:
    """Rewrite an original LLaVA checkpoint, with an adapter merged, in transformers' layout. No code of it is run."""
    from harness.models.convert_llava import convert

    convert(source, out, vision=vision, lora=lora)
    log.info(f"{out}: written")
    return OK


@tasks_app.callback()
def tasks_command(context: typer.Context, as_json: Json = False) -> int:
    """List the tasks and suites."""
    if context.invoked_subcommand is not None:
        return OK
    from support.markdown import cell
    from support.tables import Table
    from tasks.registry import registry

    known = registry()
    if as_json:
        suites = {group.name: group.tasks for group in known.groups.values()}
        print(json.dumps({"tasks": [_facts_of(spec) for spec in known.tasks.values()], "suites": suites}))
        return OK
    rows = [[t.name, t.version, t.headline, *_marks_of(t), t.description] for t in known.tasks.values()]
    groups = [cell(f"suite {group.name}: {', '.join(group.tasks)}") for group in known.groups.values()]
    show([Table(["task", "version", "headline", "judged", "data", "what it asks"], rows), *groups])
    return OK


@tasks_app.command("show")
@with_settings(data=DATA.but("partial"))
def tasks_show_command(
    name: Annotated[str, typer.Argument(help="A task's name.")],
    samples: Annotated[
        int,
        typer.Option(min=0, help="Also print this many documents: in the task's own text, or as --model gets them."),
    ] = 0,
    model: Annotated[
        str | None, typer.Option(help="Also print the exact text that this model gets, with special tokens.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="With --model: official (default), bare, a name, a TOML file, or system:TEXT.")
    ] = None,
    prompt_suffix: Annotated[
        list[str] | None, typer.Option(help="With --model: TEXT or TASK=TEXT behind the question; repeatable.")
    ] = None,
    thinking: Annotated[
        Literal["on", "off"] | None, typer.Option(help="With --model: whether it thinks before it answers.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="With --model: a Jinja file, in place of its own chat template.")
    ] = None,
    as_json: Json = False,
    *,
    data: DataOptions,
) -> int:
    """Print all that is known of one task."""
    from tasks.registry import registry

    spec = registry().task(name)
    data.check([spec])
    facts = _facts_of(spec)
    given = {"protocol": protocol, "prompt-suffix": prompt_suffix, "thinking": thinking, "chat-template": chat_template}
    if model is not None:
        shown = _find_asked(spec, model, protocol, prompt_suffix or (), thinking, chat_template)
        facts |= _facts_of_asking(spec, shown)
        if samples:
            facts |= _facts_of_samples(spec, samples, data.paths, shown)
    elif idle := next((name for name, value in given.items() if value), None):
        raise UsageError(f"--{idle}: would not act without --model")
    elif samples:
        from harness.evaluation.generate import documents

        own = "the task's own text; --model M prints the exact text that a model gets"
        facts |= {"sample prompts are": own, "samples": documents(spec, samples, data.paths)}
    if as_json:
        print(json.dumps(facts))
        return OK
    _print_facts(facts)
    return OK


@tasks_app.command("new")
def tasks_new_command(
    name: Annotated[str, typer.Argument(help="What the task is called.")],
    kind: Annotated[str, typer.Option("--type", help="yes-no, multiple-choice, open or caption.")],
    table: Annotated[
        Path,
        typer.Option("--data", help="A table with columns image, question, answer: csv, tsv, jsonl, json or parquet."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for NAME.yaml, then given as --include-path.")] = Path(),
    rule: Annotated[
        str | None,
        typer.Option(help="Of open: exact, contains, regex, vqa-accuracy or judge; of caption: contains or judge."),
    ] = None,
    rubric: Annotated[str | None, typer.Option(help="With --rule judge: how it grades from 0 to 10.")] = None,
) -> int:
    """Write the YAML file of a task from a table; it needs no code. Each row and picture is looked at."""
    from harness.evaluation.new_task import make_task
    from tasks.benchmarks.task_from_table import NewTask

    made = make_task(NewTask(name=name, kind=kind, table=table, rule=rule, rubric=rubric), out)
    log.info(f"{made.path}: written, {made.documents} questions about {made.pictures} pictures")
    log.info(f"next: harness eval --include-path {shlex.quote(str(out))} --tasks {name} --model MODEL")
    return OK


def _print_facts(facts: dict[str, Any]) -> None:
    from support.markdown import line

    facts["metrics"] = {
        name: f"{metric['unit']}, {'higher' if metric['higher_is_better'] else 'lower'} is better"
        for name, metric in facts["metrics"].items()
    }
    for key, value in facts.items():
        if key == "prompts":
            print(f"{key}:", *(f"  {name}: {str(text)!r}" for name, text in value.items()), sep="\n")
        elif isinstance(value, dict):
            print(f"{key}:", *(f"  {name}: {line(str(text))}" for name, text in value.items()), sep="\n")
        elif key in ("published", "samples"):
            print(f"{key}:")
            for row in value:
                texts = {name: repr(text) if name == "prompt" else line(str(text)) for name, text in row.items()}
                print("  - " + "\n    ".join(f"{name}: {text}" for name, text in texts.items()))
        else:
            print(f"{key}: {line(str(value))}")


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Whose prompts are shown, and how it is asked."""

    spec: "ModelSpec"
    asking: "Asking"
    engine: "EngineConfig"


def _find_asked(
    task: "TaskSpec",
    model: str,
    protocol: str | None,
    suffixes: Sequence[str],
    thinking: Literal["on", "off"] | None,
    template: Path | None,
) -> _Shown:
    """As `harness eval` with the same options asks."""
    from harness.cli.evaluate import read_suffixes
    from harness.engine.config import EngineConfig
    from harness.evaluation.eval_settings import EvalSettings, asking_of, check_asking
    from harness.evaluation.protocol import OFFICIAL, as_asked
    from harness.models.spec import find

    suffix, by_task = read_suffixes(suffixes)
    settings = EvalSettings(protocol=protocol or OFFICIAL)
    engine = EngineConfig(suffix=suffix, suffixes=by_task, thinking=thinking, chat_template=template)
    check_asking(settings.protocol, engine, [task])
    spec = as_asked(find(model), settings.protocol)
    return _Shown(spec=spec, asking=asking_of(task, spec, settings, engine), engine=engine)


def _facts_of_asking(task: "TaskSpec", shown: _Shown) -> dict[str, Any]:
    """How a task is asked of a model: the protocol, its sources, and each wording in the model's chat template."""
    from harness.evaluation.shown_prompt import form_of, outlines, writer_of

    asking = shown.asking
    write = writer_of(shown.spec, asking.system, shown.engine)
    prompts = {which: write(text) for which, text in outlines(asking, task).items()}
    more = {
        "max_new_tokens": asking.max_new_tokens,
        "prompt suffix": asking.suffix or None,
        "thinking": shown.engine.thinking,
    }
    return {
        "model": shown.spec.name,
        "protocol": asking.fact,
        "sources": [each.source for each in asking.wordings if each.source],
        "prompts": prompts,
        "prompts are": form_of(shown.spec),
        "pictures": "padded to a square with the mean colour"
        if shown.spec.pad_pictures
        else "as the checkpoint's files say",
        **{name: value for name, value in more.items() if value is not None},
    }


def _facts_of_samples(task: "TaskSpec", count: int, data: "dict[str, str]", shown: _Shown) -> dict[str, Any]:
    """Documents of a task, exactly as a model gets them."""
    from harness.evaluation.generate import documents
    from harness.evaluation.shown_prompt import form_of, writer_of

    write = writer_of(shown.spec, shown.asking.system, shown.engine)
    found = documents(task, count, data, put=lambda doc, own: write(shown.asking.put(doc, own)))
    return {"sample prompts are": f"what {shown.spec.name} gets: {form_of(shown.spec)}", "samples": found}


def _marks_of(spec: "TaskSpec") -> tuple[str, str]:
    """Whether it needs a judge, and whether its data may change on the hub."""
    return "judge" if spec.judged else "", "" if spec.pinned else f"not pinned ({spec.revision})"


def _facts_of(spec: "TaskSpec") -> dict[str, Any]:
    from dataclasses import asdict

    facts = asdict(spec)
    facts["path"], facts["pinned"] = spec.path.name, spec.pinned
    facts["table"] = None if spec.table is None else str(spec.table)
    facts["columns"], facts["published"] = list(spec.columns), [asdict(row) for row in spec.published]
    return facts
