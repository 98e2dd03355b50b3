"""`harness parity`: shared decoding against exact decoding."""

import json
import logging
from typing import Annotated

import typer

from harness.cli.options import DATA, JUDGE, MODEL, DataOptions, Json, JudgeOptions, ModelOptions
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import OK

log = logging.getLogger(__name__)


@with_settings(models=MODEL.but("url", "key", "version"), judge=JUDGE.but("batch", "settings", "repeats"), data=DATA)
def parity_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model, as for `harness eval --model`.")],
    task: Annotated[str, typer.Argument(help="A task's name.")],
    samples: Annotated[int, typer.Option(min=1, help="Documents that are answered both ways.")] = 200,
    as_json: Json = False,
    *,
    models: ModelOptions,
    judge: JudgeOptions,
    data: DataOptions,
) -> int:
    """Compare shared decoding with exact decoding of one model: answers, logits, scores."""
    from dataclasses import asdict

    from harness.evaluation.parity import parity, render
    from harness.models.fetch import fetch
    from tasks.registry import registry

    spec_of_task = registry().task(task)
    judge.check(context, spec_of_task.judged)
    data.check([spec_of_task])
    spec = fetch(models.find(context, model))
    rater = judge.make() if spec_of_task.judged else None
    found = parity(spec, spec_of_task, samples, judge=rater, data=data.paths, partial_data=data.partial)
    show(render(found), json=json.dumps(asdict(found)) if as_json else None)
    return OK
