"""`harness attention`: how much of its attention a model spends on the picture, before and after training."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DataPaths, ModelPath, RemoteCode, data_paths, model_of, tell
from support.errors import OK


def attention_command(
    model: Annotated[str, typer.Argument(help="A model that runs here, as for `harness eval --model`.")],
    against: Annotated[
        str | None, typer.Option(help="A tuned one, such as a checkpoint, held against it image by image.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="Whose questions; CHAIR tasks tell true words from hallucinated ones.")
    ] = "scenes_chair",
    limit: Annotated[int, typer.Option(min=1, help="Documents.")] = 50,
    out: Annotated[Path, typer.Option(help="Folder for the table, its plot, and every answer with its shares.")] = Path(
        "runs/attention"
    ),
    model_path: ModelPath = None,
    trust_remote_code: RemoteCode = False,
    data: DataPaths = None,
) -> int:
    """Share of attention on image positions per generated token: over all, grounded and hallucinated object words, and
    by layer."""
    from harness.evaluation.attention import attention_share, write
    from harness.models.adapter_host import AdapterHost
    from harness.models.fetch import fetch
    from support.console import Stages
    from tasks.registry import registry

    asked, resident, found = registry().task(task), AdapterHost(), []
    paths = data_paths(data, [task])
    with Stages() as stages:
        names = (model,) if against is None else (model, against)
        # All are looked for before the first is read, which takes long.
        specs = [
            fetch(model_of(name, model_path if name == model else None, None, trust_remote_code), tell)
            for name in names
        ]
        for name, spec in zip(names, specs, strict=True):
            lm = resident.load(spec)
            found.append(
                attention_share(
                    lm,
                    asked,
                    limit,
                    name=name,
                    data=paths,
                    progress=lambda done, total, name=name: stages.report(f"read {name}", done, total),
                )
            )
    print(write(out, found[0], found[1] if against is not None else None))
    tell(f"plot: {out / 'attention.png'}")
    return OK
