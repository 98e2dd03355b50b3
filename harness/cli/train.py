"""`harness train`: a recipe, or the configuration of VLFeedback's authors, to checkpoints; here, on several GPUs, or as
a job of Slurm.

The run folder holds all of it. The same command finishes a run that was killed, on as many GPUs as it is then given: a
step has the recipe's `batch_size` pairs on any number of them.
"""

import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import DryRun, Json, Seed, print_plan
from harness.cli.setting_options import with_settings
from harness.cli.train_options import LAUNCH, LaunchOptions, by_plain_trl, changed
from support.errors import OK, UsageError
from support.processes import end_with_parent, is_launched, rank

if TYPE_CHECKING:
    from harness.models.spec import ModelSpec
    from trainers.cluster.launch import Layout
    from trainers.config.data import PreferenceFile
    from trainers.config.recipe import AnyRecipe, PreferenceRecipe, PretrainingRecipe
    from trainers.config.silkie_yaml import Config
    from trainers.data.read_preferences import FoundPairs
    from trainers.training.checkpoints import Checkpoint

log = logging.getLogger(__name__)

GPUS_A_NODE = 8
"""Of a job, where `--gpus` asks for more than one node has; the authors' launcher has it so."""


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


@with_settings(launch=LAUNCH)
def train_command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name or the path of a TOML file.")] = None,
    config: ConfigFile = None,
    out: RunFolder = None,
    base: Base = None,
    data: Annotated[
        str | None, typer.Option(help="Other data to read: a file or folder, public, or hub:OWNER/NAME.")
    ] = None,
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
    from trainers.config.recipe import PretrainingRecipe

    found, understood = _recipe(
        recipe, config, plain_trl=launch.plain_trl, base=base, data=data, images=images, limit=limit, seed=seed
    )
    folder = out or Path("runs") / (found.name if seed is None else f"{found.name}-seed{seed}")
    launched = is_launched()
    if launched:
        end_with_parent()
    if isinstance(found, PretrainingRecipe):
        return _pretrain(found, folder, dry_run=dry_run, as_json=as_json)
    if found.dataset is None:
        raise UsageError(
            f"recipe {found.name!r} trains on preferences that are built first: run `harness train-then-eval {recipe}`"
        )
    if understood is not None and dry_run:
        print(mapping(understood))
    elif understood is not None and not launched:
        log.info(mapping(understood))
    layout = layout_of(found, launch.gpus, launch.mode, as_job=launch.slurm is not None)
    if not launched:
        check_packages(found, folder)
    if dry_run:
        print_plan(f"{found.name}: {found.trainer} on {found.base}", plan(found, found.dataset, layout), folder)
        _print_launch(context, folder, layout, launch.slurm)
        return OK
    if not launched and (launch.slurm is not None or needs_launch(layout)):
        return _launch(context, folder, layout, launch.slurm)
    check_world()
    checkpoints = train(found, found.dataset, folder)
    if rank() == 0:
        _print(checkpoints, as_json)
    return OK


def train_arm_command(folder: Annotated[Path, typer.Argument()]) -> int:
    """What each process of `harness train-then-eval --gpus N` runs."""
    end_with_parent()
    from harness.runs.training_worker import train_arm

    train_arm(folder)
    return OK


def _recipe(
    recipe: str | None, config: Path | None, *, plain_trl: bool, **changes: Any
) -> "tuple[AnyRecipe, Config | None]":
    """The recipe with what the options change, and the configuration it was read from."""
    from trainers.config.recipe import PretrainingRecipe, find_recipe

    if (recipe is None) == (config is None):
        raise UsageError("give either a recipe or --config, a configuration of VLFeedback's authors")
    understood = None
    if recipe is not None:
        found: AnyRecipe = find_recipe(recipe)
    elif config is not None:
        from trainers.config.silkie_yaml import read_config

        understood = read_config(config)
        found = understood.recipe
    top = {name: changes[name] for name in ("base", "seed") if changes[name] is not None}
    names = {"data": "read", "images": "images", "limit": "limit"}
    of_data = {ours: changes[name] for name, ours in names.items() if changes[name] is not None}
    if of_data and found.dataset is None:
        raise UsageError(
            f"recipe {found.name!r} reads no data: --data, --images and --limit are for recipes that have a [dataset]"
        )
    if isinstance(found, PretrainingRecipe) and "base" in top:
        raise UsageError(f"recipe {found.name!r} starts from nothing: --base is for recipes that train a model")
    if found.dataset is not None and of_data:
        top["dataset"] = found.dataset.model_dump(exclude_unset=True) | of_data
    with_options = changed(found, top, f"recipe {found.name!r}, with what the options change")
    return by_plain_trl(with_options) if plain_trl else with_options, understood


def needs_launch(layout: "Layout") -> bool:
    """Whether training is for processes that a launcher starts."""
    return layout.world > 1 or layout.mode != "ddp"


def check_packages(recipe: "PreferenceRecipe", folder: Path) -> None:
    """Before anything is done: UsageError where training lacks a package, a line where its log goes to one place
    less."""
    training = recipe.training

    def lacks(name: str) -> bool:
        return importlib.util.find_spec(name) is None

    if training.quantization is not None and lacks("bitsandbytes"):
        raise UsageError(
            f"quantization = {training.quantization!r} needs bitsandbytes: pip install 'vlm-harness[qlora]'"
        )
    for name in filter(lacks, training.report_to):
        path = folder / "log.jsonl"
        log.info(
            f"report_to = {name!r}: not installed (pip install 'vlm-harness[track]'); the log goes to {path} without it"
        )


def layout_of(recipe: "PreferenceRecipe", gpus: int | None, mode: str, *, as_job: bool = False) -> "Layout":
    """How many processes, and where. UsageError, TrainingError and LaunchError for what can't be shared out so."""
    import torch

    from trainers.cluster.launch import Layout
    from trainers.training.trl_arguments import split_batch

    here = torch.cuda.device_count()
    count = gpus or max(1, here)
    nodes = 1
    if as_job and count > GPUS_A_NODE:
        if count % GPUS_A_NODE:
            raise UsageError(f"--gpus {count}: a job of several nodes has a multiple of {GPUS_A_NODE}")
        nodes = count // GPUS_A_NODE
    elif not as_job and here and count > here:
        raise UsageError(f"--gpus {count}: this machine has {here}; ask a cluster by --slurm")
    split_batch(recipe.training, count)
    # `mode` is checked there.
    return Layout(processes=count // nodes, nodes=nodes, mode=mode, cpu=not as_job and not here)  # type: ignore[arg-type]


def plan(recipe: "PreferenceRecipe", dataset: "PreferenceFile", layout: "Layout") -> list[str]:
    """What would be done, a line a stage."""
    from trainers.training.trl_arguments import split_batch

    training = recipe.training
    at_once, accumulated = split_batch(training, layout.world)
    adapters = "all weights" if training.lora is None else f"LoRA r {training.lora.r}"
    what = (
        "the best answer of each row"
        if dataset.take == "best"
        else f"pairs by rule {dataset.rule!r}, where they are not pairs already"
    )
    batch = f"batches of {training.batch_size} ({layout.world} processes x {at_once} pairs x {accumulated} accumulated)"
    pace = f"{training.epochs:g} epochs, learning rate {training.learning_rate:g}"
    loss = "" if recipe.trainer == "sft" else f", loss {training.loss!r}, beta {training.beta:g}"
    saves = f"every {training.save_steps} steps" if training.save_steps else f"{training.checkpoints} times"
    return [
        f"read {dataset.read}: {what}; {dataset.test_share:.1%} of prompts held out",
        f"{recipe.trainer} on {recipe.base}, {adapters}: {batch}, {pace}{loss}",
        f"save {saves}" + (f", the last {training.keep} stay" if training.keep else ""),
    ]


def mapping(config: "Config") -> str:
    """What became of every key of the authors' configuration, a line each; a key without a value was not given."""
    keys, values = (max(len(getattr(line, name)) for line in config.lines) for name in ("key", "value"))
    return "\n".join(f"{line.key:{keys}}  {line.value:{values}}  {line.becomes}" for line in config.lines)


def train(recipe: "PreferenceRecipe", dataset: "PreferenceFile", folder: Path) -> "list[Checkpoint]":
    """Train, or go on with, a recipe that reads its data, in this process or as one of several."""
    from harness.models.fetch import fetch
    from harness.models.load import register
    from harness.models.spec import find
    from harness.runs.run_folder import claim, hold_run_folder
    from support.stages import Stages
    from trainers.data.image_hashes import IMAGE_FACTS, shared_cache
    from trainers.data.read_preferences import read_preferences
    from trainers.training.job import Job, trainer

    register()
    with hold_run_folder(folder), Stages():
        claim(folder, recipe)
        spec, name = _whole(fetch(find(recipe.base)), recipe.base, folder)
        with shared_cache(folder / IMAGE_FACTS) as cache:
            found = read_preferences(dataset, cache)
        log.info(found.summary())
        _same_data(folder, found)
        job = Job(
            recipe=recipe,
            out=folder,
            base_name=name,
            base=str(spec.folder or spec.pretrained),
            dtype=spec.dtype,
            preferences=found.train,
            held_out=found.held_out,
            note={"data": found.digest},
        )
        return trainer(recipe.trainer)(job)


def _whole(spec: "ModelSpec", name: str, folder: Path) -> "tuple[ModelSpec, str]":
    """The base with full weights, and the name under which it is found again: an adapter is merged into the run
    folder."""
    if spec.backend != "transformers":
        raise UsageError(f"{name} is behind a server, and can't be trained")
    if spec.adapter is None:
        return spec, name
    from trainers.training.adapters import merge

    merged = merge(spec.folder or spec.pretrained, spec.adapter, folder / "base")
    return replace(spec, pretrained=str(merged), folder=merged, adapter=None), merged.as_posix()


def _same_data(folder: Path, found: "FoundPairs") -> None:
    """A run goes on only with the data it began with."""
    from support.files import atomic_write_text

    path = folder / "data.json"
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["digest"] != found.digest:
            raise UsageError(
                f"{folder}: the run began with other data "
                f"({held['pairs']} pairs, digest {held['digest']}, now {found.digest})"
            )
    elif rank() == 0:
        about = {
            "digest": found.digest,
            "pairs": len(found.train),
            "held_out": len(found.held_out),
            "dropped": found.dropped,
        }
        atomic_write_text(path, json.dumps({**about, "read": found.read}, indent=1))


def _command(context: typer.Context) -> list[str]:
    from trainers.cluster.launch import beside_python

    return [str(beside_python("harness")), *(context.obj or [])]


def _launch(context: typer.Context, folder: Path, layout: "Layout", slurm: Sequence[str] | None) -> int:
    """Start the processes and wait for them, or hand them to the cluster."""
    from trainers.cluster.launch import launch, send
    from trainers.cluster.slurm import resources

    if slurm is None:
        log.info(f"{layout.world} processes; their log is in {folder / 'launch'}")
        return launch(_command(context), folder, layout)
    job = send(_command(context), folder, layout, wanted=resources(slurm))
    log.info(f"job {job.id} ({job.state()}); it prints into {job.log}")
    return OK


def _print_launch(context: typer.Context, folder: Path, layout: "Layout", slurm: Sequence[str] | None) -> None:
    if slurm is None and not needs_launch(layout):
        return
    from trainers.cluster.launch import plan_of
    from trainers.cluster.slurm import resources

    given: Mapping[str, Any] = {} if slurm is None else {"wanted": resources(slurm), "cluster": "slurm"}
    print(plan_of([part for part in _command(context) if part != "--dry-run"], folder, layout, **given))


def send_whole(context: typer.Context, folder: Path, layout: "Layout", slurm: Sequence[str], *, dry_run: bool) -> int:
    """Hand the whole command to the cluster as one job of one node, on which it starts the processes of `layout`
    itself."""
    from trainers.cluster.launch import Layout, plan_of, send
    from trainers.cluster.slurm import resources

    wanted = resources(slurm)
    if layout.nodes > 1:
        raise UsageError(
            f"--gpus {layout.world}: a job that scores, too, is of one node, with {GPUS_A_NODE} at most; "
            "train by `harness train`, which takes several, and score by `harness watch`"
        )
    if wanted.gres is None and wanted.gpus not in (1, layout.processes):
        raise UsageError(f"--slurm gpus={wanted.gpus}: --gpus says {layout.processes}; leave it out")
    wanted = replace(wanted, gpus=1, gres=wanted.gres or f"gpu:{layout.processes}")
    if dry_run:
        print(
            plan_of(
                [part for part in _command(context) if part != "--dry-run"],
                folder,
                Layout(),
                wanted=wanted,
                cluster="slurm",
            )
        )
        return OK
    job = send(_command(context), folder, Layout(), wanted=wanted)
    log.info(f"job {job.id} ({job.state()}); it prints into {job.log}")
    return OK


def _pretrain(recipe: "PretrainingRecipe", folder: Path, *, dry_run: bool, as_json: bool) -> int:
    """Embedded models, from nothing."""
    if dry_run:
        from harness.runs.plan import pretraining_steps

        print_plan(f"{recipe.name}: {recipe.trainer}", pretraining_steps(recipe), folder)
        return OK
    from support.stages import Stages
    from trainers.training.job import PretrainingJob, trainer

    with Stages():
        checkpoints = trainer(recipe.trainer)(PretrainingJob(recipe=recipe, out=folder))
    _print(checkpoints, as_json)
    return OK


def _print(checkpoints: "Sequence[Checkpoint]", as_json: bool) -> None:
    lines = [checkpoint.path.as_posix() for checkpoint in checkpoints]
    print(json.dumps({"checkpoints": lines}) if as_json else "\n".join(lines))
