"""Commands under `harness models` and `harness tasks`: what has a name here."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import (
    LEDGER,
    DataPaths,
    Json,
    LedgerPath,
    ModelPath,
    ModelUrl,
    RemoteCode,
    data_paths,
    model_of,
    tell,
)
from support.errors import OK

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
    from support.markdown import MISSING, cell, table

    if as_json:
        listed = [asdict(spec) | {"here": cached(spec)} for spec in MODELS.values()]
        print(json.dumps({"models": listed}, default=str))
        return OK
    rows = []
    for spec in MODELS.values():
        hub = "embedded" if Path(spec.pretrained).is_dir() else spec.pretrained
        here = "server" if spec.backend == "openai" else "yes" if cached(spec) else ""
        size = MISSING if spec.gigabytes is None else f"{spec.gigabytes:g}"
        rows.append(
            [cell(text) for text in (spec.name, hub, spec.licence, size, spec.image_tokens, here, spec.description)]
        )
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

    from harness.evaluation.model_check import check_model, render
    from harness.models.fetch import fetch

    checked = check_model(fetch(model_of(name, model_path, model_url, trust_remote_code), tell), ledger)
    print(json.dumps(asdict(checked)) if as_json else render(checked))
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
    tell(f"{out}: written")
    return OK


@tasks_app.callback()
def tasks_command(context: typer.Context, as_json: Json = False) -> int:
    """List the tasks and suites."""
    if context.invoked_subcommand is not None:
        return OK
    from support.markdown import cell, table
    from tasks.registry import registry

    known = registry()
    if as_json:
        print(
            json.dumps(
                {
                    "tasks": [_task(spec) for spec in known.tasks.values()],
                    "suites": {g.name: g.tasks for g in known.groups.values()},
                }
            )
        )
        return OK
    rows = [
        [cell(t.name), t.version, cell(t.headline), "judge" if t.judged else "", cell(t.description)]
        for t in known.tasks.values()
    ]
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
    from support.markdown import line
    from tasks.registry import registry

    spec = registry().task(name)
    facts = _task(spec)
    if samples:
        from harness.evaluation.generate import documents

        facts["samples"] = documents(spec, samples, data_paths(data, [name]))
    if as_json:
        print(json.dumps(facts))
        return OK
    for key, value in facts.items():
        if key == "metrics":
            value = {
                metric: f"{m['unit']}, {'higher' if m['higher_is_better'] else 'lower'} is better"
                for metric, m in value.items()
            }
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
