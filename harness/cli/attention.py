"""`harness attention`: how much of its attention a model gives to the image, before and after training."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.missing import tell_forecast
from harness.cli.next_steps import after_attention
from harness.cli.options import DATA, MODEL, DataOptions, DryRun, ModelOptions
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import OK, UsageError

log = logging.getLogger(__name__)


@with_settings(models=MODEL.but("url", "key", "version"), data=DATA.but("partial"))
def attention_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A local model, as for `harness eval --model`.")],
    against: Annotated[str | None, typer.Option(help="A tuned model to compare with it, image by image.")] = None,
    task: Annotated[
        str, typer.Option(help="Task with the questions; CHAIR tasks tell true from hallucinated objects.")
    ] = "scenes_chair",
    limit: Annotated[int, typer.Option(min=1, help="Number of documents.")] = 50,
    out: Annotated[Path, typer.Option(help="Folder for the table, its plot and the answers.")] = Path("runs/attention"),
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON on stdout.")] = False,
    *,
    models: ModelOptions,
    data: DataOptions,
) -> int:
    """Measure a model's attention to the image.

    The share of attention on image positions for each generated token: over all object words, over grounded and
    hallucinated ones, and by layer.
    """
    if as_json and not dry_run:
        raise UsageError("--json is for --dry-run: the report of a measurement is a table and a plot")
    from dataclasses import replace

    from harness.evaluation.attention import attention_share
    from harness.evaluation.attention_report import write
    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run
    from harness.evaluation.protocol import OFFICIAL, as_asked
    from harness.models.adapter_host import AdapterHost
    from harness.models.fetch import fetch
    from harness.runs.forecast import forecast_of_scoring, tasks_without_data
    from harness.runs.scoring_cost import cost_of_model
    from support.stages import Stages
    from tasks.registry import registry

    spec_of_task, host, found = registry().task(task), AdapterHost(), []
    data.check([spec_of_task])
    names = (model,) if against is None else (model, against)
    needs = needs_of_output("--out", out)
    specs = models.find_all(context, [model], needs)
    specs += replace(models, path=None, base=None).find_all(context, [against] if against is not None else [], needs)
    with Stages():
        settings = EvalSettings(data=data.paths, limit=limit)
        look: dict[str, Any] = {"models": specs, "more": needs, "judged": False}
        ready = look_at_run([spec_of_task], None, settings, **look)
        if dry_run:
            missing = tasks_without_data([spec_of_task], ready)
            costs = [cost_of_model(spec, [spec_of_task], None, settings, out, missing=missing) for spec in specs]
            steps = [f"{name}: answer, and measure the attention" for name in names]
            return tell_forecast(forecast_of_scoring(f"attention on {task}", steps, costs, ready, out=out), as_json)
        ready.require()
        for name, spec in zip(names, list(map(fetch, specs)), strict=True):
            lm = host.load(as_asked(spec, OFFICIAL))
            found.append(attention_share(lm, spec_of_task, limit, name=name, data=data.paths))
    show(write(out, found[0], found[1] if against is not None else None))
    log.info(f"plot: {out / 'attention.png'}")
    after_attention(out, names, task)
    return OK
