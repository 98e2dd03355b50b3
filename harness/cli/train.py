"""`harness train`: a recipe, or a configuration of VLFeedback's authors, to checkpoints; here, on several GPUs, or as a
Slurm job.

The same command continues a run that was interrupted, on any number of GPUs: a step has the recipe's `batch_size` pairs
on any number of processes.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.missing import collect, tell_forecast
from harness.cli.next_steps import after_training
from harness.cli.options import DryRun, Json, Seed, say
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import with_settings
from harness.cli.train_options import (
    LAUNCH,
    LaunchOptions,
    change_recipe,
    dataset_changes,
    run_folder_of,
    use_plain_trl,
)
from harness.runs.recipe_training import GPUS_PER_NODE, check_packages, find_layout, train_recipe
from support.errors import LOSSY, OK, Need, NotReady, UsageError
from support.processes import end_with_parent, is_launched, rank

if TYPE_CHECKING:
    from harness.evaluation.preflight import Readiness
    from trainers.cluster.launch import Layout
    from trainers.cluster.slurm import Resources
    from trainers.config.data import PreferenceFile
    from trainers.config.recipe import AnyRecipe, PreferenceRecipe, PretrainingRecipe
    from trainers.config.silkie_yaml import Config
    from trainers.training.checkpoints import Checkpoint

log = logging.getLogger(__name__)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A configuration of VLFeedback's authors (example.yaml), instead of a recipe."),
]
RunFolder = Annotated[
    Path | None,
    typer.Option("--out", "--working", "-d", help="Run folder; default: runs/RECIPE (runs/RECIPE-seedN with --seed)."),
]
Base = Annotated[
    str | None,
    typer.Option(help="Another model to start from: a name, a folder, a hub id, or a checkpoint, which is merged."),
]
AdaptersBase = Annotated[
    str | None,
    typer.Option(help="Model that it goes on, where it is a checkpoint with an adapter, in place of what that names."),
]
TrainData = Annotated[
    str | None, typer.Option(help="Other data to train on: a file or folder, public, or hub:OWNER/NAME.")
]


@with_settings(launch=LAUNCH)
def train_command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name or the path of a TOML file.")] = None,
    config: ConfigFile = None,
    out: RunFolder = None,
    base: Base = None,
    model_base: AdaptersBase = None,
    train_data: TrainData = None,
    data: Annotated[str | None, typer.Option(hidden=True)] = None,
    images: Annotated[str | None, typer.Option(help="Folder or zip of their images.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use at most this many rows of them, from the front.")
    ] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    launch: LaunchOptions,
) -> int:
    """Train on preferences that exist, or pretrain embedded models.

    After an interruption the same command continues.
    """
    from trainers.cluster.launch import check_world
    from trainers.cluster.slurm import resources
    from trainers.config.recipe import PretrainingRecipe

    changes = {"base": base, "data": _find_train_data(train_data, data), "images": images, "limit": limit, "seed": seed}
    found, authors = _find_recipe(recipe, config, changes, launch.plain_trl, fetch=not dry_run)
    folder = run_folder_of(out, found.name, seed)
    launched = is_launched()
    if launched:
        end_with_parent()
    if isinstance(found, PretrainingRecipe):
        return _pretrain(found, folder, dry_run=dry_run, as_json=as_json)
    if found.dataset is None:
        raise UsageError(
            f"recipe {found.name!r} trains on preferences that are built first: run `harness train-then-eval {recipe}`"
        )
    if authors is not None and not launched:
        _tell_mapping(authors, print if dry_run and not as_json else log.info)
    wanted = None if launch.slurm is None else resources(launch.slurm)
    needs = needs_of_output("--out", folder)
    layout = find_layout(found, launch.gpus, launch.mode, as_job=wanted is not None, lacking=needs)
    if not launched:
        collect(needs, partial(check_packages, found, folder))
        ready = _look(found, found.dataset, model_base, needs)
        if dry_run:
            return _tell_training(context, found, folder, (layout, wanted), ready, as_json)
        ready.require()
    if not launched and (wanted is not None or layout.needs_launch):
        return _launch(context, folder, layout, wanted)
    check_world()
    allowed: dict[str, Any] = {"remote_code": launch.trust_remote_code, "adapters_base": model_base}
    checkpoints = train_recipe(found, found.dataset, folder, **allowed)
    return _report(checkpoints, found, folder, as_json) if rank() == 0 else OK


def _find_train_data(train_data: str | None, data: str | None) -> str | None:
    """The data of --train-data, or of --data where these can be no benchmark's; UsageError."""
    if data is None:
        return train_data
    from tasks.registry import registry

    if train_data is not None:
        raise UsageError(f"--data {data!r}: --train-data names the data to train on already")
    if data.partition("=")[0] in registry().tasks:
        raise UsageError(f"--data {data!r}: train scores no task; data to train on are named by --train-data")
    if not is_launched():
        log.warning("--data is read as --train-data: elsewhere --data names the data of benchmarks")
    return data


def _report(checkpoints: "Sequence[Checkpoint]", recipe: "PreferenceRecipe", folder: Path, as_json: bool) -> int:
    """Print the checkpoints; LOSSY, with the reason, where training has changed nothing."""
    from harness.runs.training_alarms import find_idle_training

    _print_checkpoints(checkpoints, as_json)
    after_training(folder, recipe.base, [checkpoint.path for checkpoint in checkpoints], recipe.tasks)
    idle = find_idle_training(folder)
    return OK if idle is None else say(idle.words, LOSSY)


def train_arm_command(folder: Annotated[Path, typer.Argument()]) -> int:
    """The training process that `harness train-then-eval --gpus N` starts N times."""
    end_with_parent()
    from harness.runs.training_worker import train_arm

    train_arm(folder)
    return OK


def _find_recipe(
    recipe: str | None, config: Path | None, changes: dict[str, Any], plain_trl: bool, *, fetch: bool
) -> "tuple[AnyRecipe, Config | None]":
    """The recipe with what the options change, and the authors' configuration if it was read from one."""
    from trainers.config.recipe import PretrainingRecipe, find_recipe

    authors = None
    if recipe is not None and config is None:
        found: AnyRecipe = find_recipe(recipe)
    elif config is not None and recipe is None:
        from trainers.config.silkie_yaml import read_config

        authors = read_config(config)
        found = authors.recipe
    else:
        raise UsageError("give either a recipe or --config, a configuration of VLFeedback's authors")
    given = {name: value for name, value in changes.items() if value is not None}
    top: dict[str, Any] = {name: given[name] for name in ("base", "seed") if name in given}
    dataset: dict[str, Any] = {name: given[name] for name in ("data", "images", "limit") if name in given}
    if isinstance(found, PretrainingRecipe) and "base" in top:
        raise UsageError(f"recipe {found.name!r} starts from nothing: --base is for recipes that train a model")
    top |= dataset_changes(found, dataset, fetch)
    with_options = change_recipe(found, top, f"recipe {found.name!r}, with what the options change")
    return use_plain_trl(with_options) if plain_trl else with_options, authors


def _look(
    recipe: "PreferenceRecipe", dataset: "PreferenceFile", adapters_base: str | None, needs: list[Need]
) -> "Readiness":
    """What training lacks: its base, its data, room on the disks, and what `needs` holds already."""
    from harness.runs.needs import look_at_training

    return look_at_training(recipe, dataset, adapters_base=adapters_base, more=needs)


def _tell_training(
    context: typer.Context,
    recipe: "PreferenceRecipe",
    folder: Path,
    launched_as: "tuple[Layout, Resources | None]",
    ready: "Readiness",
    as_json: bool,
) -> int:
    """Print what --dry-run says, after a look at data that are here."""
    from harness.runs.forecast import Forecast
    from harness.runs.plan import training_steps
    from harness.runs.recipe_training import check_data

    layout, wanted = launched_as
    dataset, needs = recipe.dataset, list(ready.needs)
    assert dataset is not None
    if not any(need.what.startswith(("preference data", "pictures")) for need in needs):
        collect(needs, lambda: check_data(recipe, dataset))
    steps = training_steps(recipe, dataset, layout.world)
    found = Forecast(
        title=f"{recipe.name}: {recipe.trainer} on {recipe.base}",
        steps=steps,
        ready=replace(ready, needs=tuple(needs)),
        out=folder,
    )
    shown = wanted is not None or layout.needs_launch
    return tell_forecast(found, as_json, _describe_launch(context, folder, layout, wanted) if shown else "")


def _tell_mapping(config: "Config", tell: Callable[[str], object]) -> None:
    """Tell what each key of the authors' configuration becomes, one line each; a key without a value was not given."""
    keys, values = (max(len(getattr(line, name)) for line in config.lines) for name in ("key", "value"))
    tell("\n".join(f"{line.key:{keys}}  {line.value:{values}}  {line.becomes}" for line in config.lines))


def _this_command(context: typer.Context) -> list[str]:
    """The command that is running, for other processes: without --dry-run."""
    from trainers.cluster.launch import beside_python

    return [str(beside_python("harness")), *(word for word in context.obj or [] if word != "--dry-run")]


def _launch(context: typer.Context, folder: Path, layout: "Layout", wanted: "Resources | None") -> int:
    """Start the processes and wait for them, or submit them as a job."""
    from trainers.cluster.launch import launch

    if wanted is not None:
        return _submit(context, folder, layout, wanted)
    log.info(f"{layout.world} processes; their log is in {folder / 'launch'}")
    return launch(_this_command(context), folder, layout)


def _submit(context: typer.Context, folder: Path, layout: "Layout", wanted: "Resources") -> int:
    from trainers.cluster.launch import send

    job = send(_this_command(context), folder, layout, wanted=wanted)
    log.info(f"job {job.id} ({job.state()}); it prints into {job.log}")
    return OK


def _describe_launch(context: typer.Context, folder: Path, layout: "Layout | None", wanted: "Resources | None") -> str:
    from trainers.cluster.launch import Layout, plan_of

    cluster: Any = None if wanted is None else "slurm"
    return plan_of(_this_command(context), folder, layout or Layout(), wanted=wanted, cluster=cluster)


def submit_command(context: typer.Context, folder: Path, layout: "Layout", slurm: Sequence[str]) -> int:
    """Submit the whole command as a job of one node, in which it starts the processes of `layout` itself."""
    from trainers.cluster.launch import Layout

    return _submit(context, folder, Layout(), _resources_of_job(layout, slurm))


def describe_job(context: typer.Context, folder: Path, layout: "Layout", slurm: Sequence[str]) -> str:
    """That job, as --dry-run shows it."""
    return _describe_launch(context, folder, None, _resources_of_job(layout, slurm))


def _resources_of_job(layout: "Layout", slurm: Sequence[str]) -> "Resources":
    """What one node's job asks for, with a GPU for each process."""
    from trainers.cluster.slurm import resources

    wanted = resources(slurm)
    if layout.nodes > 1:
        raise UsageError(
            f"--gpus {layout.world}: a job that scores, too, is of one node, with {GPUS_PER_NODE} at most; "
            "train by `harness train`, which takes several, and score by `harness watch`"
        )
    if wanted.gres is None and wanted.gpus not in (1, layout.processes):
        raise UsageError(f"--slurm gpus={wanted.gpus}: --gpus says {layout.processes}; leave it out")
    return replace(wanted, gpus=1, gres=wanted.gres or f"gpu:{layout.processes}")


def _pretrain(recipe: "PretrainingRecipe", folder: Path, *, dry_run: bool, as_json: bool) -> int:
    """Train embedded models from random weights."""
    needs = needs_of_output("--out", folder)
    if dry_run:
        from harness.evaluation.preflight import Readiness
        from harness.models.readiness import NOTHING
        from harness.runs.forecast import Forecast
        from harness.runs.plan import pretraining_steps

        ready = Readiness(needs=tuple(needs), disk=NOTHING)
        title, steps = f"{recipe.name}: {recipe.trainer}", pretraining_steps(recipe)
        return tell_forecast(Forecast(title=title, steps=steps, ready=ready, out=folder), as_json)
    if needs:
        raise NotReady(needs)
    from support.stages import Stages
    from trainers.training.job import PretrainingJob, trainer

    with Stages():
        checkpoints = trainer(recipe.trainer)(PretrainingJob(recipe=recipe, out=folder))
    _print_checkpoints(checkpoints, as_json)
    after_training(folder, None, [checkpoint.path for checkpoint in checkpoints], ["scenes"])
    return OK


def _print_checkpoints(checkpoints: "Sequence[Checkpoint]", as_json: bool) -> None:
    lines = [checkpoint.path.as_posix() for checkpoint in checkpoints]
    print(json.dumps({"checkpoints": lines}) if as_json else "\n".join(lines))
