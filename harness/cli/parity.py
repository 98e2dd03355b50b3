"""`harness parity`: shared decoding against exact decoding."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.evaluate import COMPUTING
from harness.cli.missing import tell_forecast
from harness.cli.options import DATA, JUDGE, MODEL, DataOptions, DryRun, Json, JudgeOptions, ModelOptions
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from harness.engine.config import EngineConfig
from harness.serving.engine_host import served_engine
from support.errors import OK, Need

log = logging.getLogger(__name__)


@with_settings(
    models=MODEL.but("url", "key", "version"),
    judge=JUDGE.but("batch", "settings", "repeats"),
    data=DATA,
    engine=COMPUTING,
)
def parity_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model, as for `harness eval --model`.")],
    task: Annotated[str, typer.Argument(help="A task's name.")],
    limit: Annotated[int, typer.Option(min=1, help="Number of documents that are answered both ways.")] = 200,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    models: ModelOptions,
    judge: JudgeOptions,
    data: DataOptions,
    engine: EngineConfig,
) -> int:
    """Compare shared decoding with exact decoding of one model: answers, logits, scores.

    With --engine, answers of vLLM or SGLang are compared.
    """
    from dataclasses import asdict

    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.parity import parity, render
    from harness.evaluation.preflight import look_at_run
    from harness.models.fetch import fetch
    from harness.runs.forecast import forecast_of_scoring, tasks_without_data
    from harness.runs.scoring_cost import cost_of_model
    from support.stages import Stages
    from tasks.registry import registry

    spec_of_task = registry().task(task)
    judge.check(context, spec_of_task.judged)
    data.check([spec_of_task])
    needs: list[Need] = []
    specs = models.find_all(context, [model], needs)
    rater = judge.make(asked=False, lacking=needs) if spec_of_task.judged else None
    settings = EvalSettings(data=data.paths, partial_data=data.partial, limit=limit)
    with Stages():
        ready = look_at_run(
            [spec_of_task], rater, settings, models=specs, more=needs, server=served_engine(engine, specs)
        )
    if dry_run:
        missing = tasks_without_data([spec_of_task], ready)
        costs = [cost_of_model(spec, [spec_of_task], rater, settings, Path(), missing=missing) for spec in specs] * 2
        steps = ["answer by shared decoding", "answer by exact decoding", "compare"]
        return tell_forecast(forecast_of_scoring(f"parity of {model} on {task}", steps, costs, ready), as_json)
    ready.require()
    spec = fetch(specs[0])
    rater = None if rater is None else judge.ready(rater)
    found = parity(spec, spec_of_task, limit, judge=rater, data=data.paths, partial_data=data.partial, engine=engine)
    show(render(found), json=json.dumps(asdict(found)) if as_json else None)
    return OK
