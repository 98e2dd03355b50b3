"""Commands under `harness models` and `harness tasks`: what has a name here."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import DATA, LEDGER, MODEL, DataOptions, Json, LedgerPath, ModelOptions
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import OK

if TYPE_CHECKING:
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
    from harness.models.spec import MODELS
    from support.markdown import MISSING
    from support.tables import Table

    if as_json:
        listed = [asdict(spec) | {"here": cached(spec)} for spec in MODELS.values()]
        print(json.dumps({"models": listed}, default=str))
        return OK
    rows = []
    for spec in MODELS.values():
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
        str, typer.Option(help="With --model: official, bare, a protocol's name, a TOML file, or system:TEXT.")
    ] = "official",
    as_json: Json = False,
    *,
    data: DataOptions,
) -> int:
    """Print all that is known of one task."""
    from support.markdown import line
    from tasks.registry import registry

    spec = registry().task(name)
    data.check([spec])
    facts = _facts_of(spec)
    if model is not None:
        facts |= _facts_of_asking(spec, model, protocol)
    if samples:
        facts |= _facts_of_samples(spec, samples, data.paths, model, protocol)
    if as_json:
        print(json.dumps(facts))
        return OK
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
    return OK


def _facts_of_asking(task: "TaskSpec", model: str, choice: str) -> dict[str, Any]:
    """How a task is asked of a model: the protocol, its sources, and each wording in the model's chat template."""
    from harness.evaluation.protocol import as_asked, asked_by
    from harness.evaluation.shown_prompt import form_of, outlines, writer_of
    from harness.models.spec import find

    spec = as_asked(find(model), choice)
    asking = asked_by(choice, task, spec)
    write = writer_of(spec, asking.system)
    prompts = {which: write(text) for which, text in outlines(asking, task).items()}
    limit = {} if asking.max_new_tokens is None else {"max_new_tokens": asking.max_new_tokens}
    sources = [each.source for each in asking.wordings if each.source]
    pictures = "padded to a square with the mean colour" if spec.pad_pictures else "as the checkpoint's files say"
    return {
        "model": model,
        "protocol": asking.fact,
        "sources": sources,
        "prompts": prompts,
        "prompts are": form_of(spec),
        "pictures": pictures,
        **limit,
    }


def _facts_of_samples(
    task: "TaskSpec", count: int, data: "dict[str, str]", model: str | None, choice: str
) -> dict[str, Any]:
    """Documents of a task, in its own text, or exactly as a model gets them."""
    from harness.evaluation.generate import documents

    if model is None:
        own = "the task's own text; --model M prints the exact text that a model gets"
        return {"sample prompts are": own, "samples": documents(task, count, data)}
    from harness.evaluation.protocol import as_asked, asked_by
    from harness.evaluation.shown_prompt import form_of, writer_of
    from harness.models.spec import find

    spec = as_asked(find(model), choice)
    asking = asked_by(choice, task, spec)
    write = writer_of(spec, asking.system)
    found = documents(task, count, data, put=lambda doc, own: write(asking.put(doc, own)))
    return {"sample prompts are": f"what {model} gets: {form_of(spec)}", "samples": found}


def _marks_of(spec: "TaskSpec") -> tuple[str, str]:
    """Whether it needs a judge, and whether its data may change on the hub."""
    return "judge" if spec.judged else "", "" if spec.pinned else f"not pinned ({spec.revision})"


def _facts_of(spec: "TaskSpec") -> dict[str, Any]:
    from dataclasses import asdict

    facts = asdict(spec)
    facts["path"], facts["pinned"] = spec.path.name, spec.pinned
    facts["columns"], facts["published"] = list(spec.columns), [asdict(row) for row in spec.published]
    return facts
