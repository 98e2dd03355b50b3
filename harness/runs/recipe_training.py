"""Training by a recipe that reads its data: what must be installed, on how many processes, and the training itself."""

import importlib.util
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import Need, UsageError
from support.files import atomic_write_text
from support.parsing import parse_json
from support.processes import rank

if TYPE_CHECKING:
    from harness.models.spec import ModelSpec
    from trainers.cluster.launch import Layout
    from trainers.config.data import Data, PreferenceFile
    from trainers.config.recipe import PreferenceRecipe
    from trainers.data.read_preferences import FoundPairs
    from trainers.training.checkpoints import Checkpoint

log = logging.getLogger(__name__)

ON_CPUS: Final = "ACCELERATE_USE_CPU"
GPUS_PER_NODE: Final = 8
"""GPUs of each node of a Slurm job with several nodes, as in the launcher of VLFeedback's authors."""


def check_packages(recipe: "PreferenceRecipe", folder: Path) -> None:
    """UsageError if training lacks a package; logs each package of `report_to` that is not installed."""
    training = recipe.training

    def is_missing(name: str) -> bool:
        return importlib.util.find_spec(name) is None

    if training.quantization is not None and is_missing("bitsandbytes"):
        raise UsageError(
            f"quantization = {training.quantization!r} needs bitsandbytes: pip install 'vlm-harness[qlora]'"
        )
    for name in filter(is_missing, training.report_to):
        missing = f"report_to = {name!r}: not installed (pip install 'vlm-harness[track]')"
        log.info(f"{missing}; the log goes to {folder / 'log.jsonl'} without it")


def with_short_warm_up(recipe: "PreferenceRecipe", pairs: int) -> "PreferenceRecipe":
    """The recipe for a run on so many pairs: where that is shorter than the warm-up, with one that leaves a step."""
    from trainers.training.checkpoints import total_steps

    training = recipe.training
    most = max(0, total_steps(pairs, training) - 1)
    if training.warmup_steps <= most:
        return recipe
    words = "warmup_steps = %d in place of %d: with --limit the run has %d steps"
    log.info(words, most, training.warmup_steps, most + 1)
    return recipe.model_copy(update={"training": training.model_copy(update={"warmup_steps": most})})


def most_pairs(data: "Data") -> int:
    """The most pairs that can be built: each two answers to each instruction."""
    answers = min(data.answers, len(data.pool))
    return data.instructions * answers * (answers - 1) // 2


def check_steps(recipe: "PreferenceRecipe", pairs: int) -> None:
    """TrainingError where no step of a run on so many pairs would have a learning rate."""
    from trainers.training.checkpoints import total_steps
    from trainers.training.trl_arguments import find_warm_up

    if pairs:
        find_warm_up(recipe.training, total_steps(pairs, recipe.training))


def on_cpus() -> bool:
    """Whether the user wants processes on CPUs where there is no GPU, by accelerate's own variable."""
    return os.environ.get(ON_CPUS, "").lower() in ("1", "true", "yes", "on")


def find_layout(
    recipe: "PreferenceRecipe",
    gpus: int | None,
    mode: str,
    *,
    as_job: bool = False,
    lacking: list[Need] | None = None,
) -> "Layout":
    """How many processes train, and on how many nodes; by default one for each GPU of this machine.

    UsageError, TrainingError or LaunchError if the batch or the GPUs can't be divided so, or the mode is unknown.
    `lacking` gets the GPUs that this machine has not; without it, that is a UsageError too.
    """
    import torch

    from trainers.cluster.launch import Layout
    from trainers.training.trl_arguments import split_batch

    local = torch.cuda.device_count()
    count = gpus or max(1, local)
    nodes, short = 1, None
    if as_job and count > GPUS_PER_NODE:
        if count % GPUS_PER_NODE:
            raise UsageError(f"--gpus {count}: a job of several nodes has a multiple of {GPUS_PER_NODE}")
        nodes = count // GPUS_PER_NODE
    elif not as_job and count > max(1, local) and not (local == 0 and on_cpus()):
        short = UsageError(
            f"--gpus {count}: this machine has {local or 'none'}; ask a cluster by --slurm"
            f" (without GPUs, {ON_CPUS}=true trains on CPUs)"
        )
    split_batch(recipe.training, count)
    known: Any = mode  # Layout checks it
    layout = Layout(processes=count // nodes, nodes=nodes, mode=known, cpu=not as_job and not local and short is None)
    if short is not None and lacking is None:
        raise short
    if short is not None and lacking is not None:
        lacking.append(Need.of(short))
    return layout


def train_recipe(
    recipe: "PreferenceRecipe",
    dataset: "PreferenceFile",
    folder: Path,
    *,
    remote_code: bool = False,
    adapters_base: str | None = None,
) -> "list[Checkpoint]":
    """Train, or continue, in this process or as one of several; the checkpoints. `remote_code`: the base's own code may
    run; `adapters_base`: what it goes on, where it is an adapter, whatever its files say."""
    from harness.models.fetch import fetch
    from harness.models.load import register
    from harness.models.spec import find
    from harness.runs.run_folder import claim, hold_run_folder, keep_own_scoring
    from support.stages import Stages
    from trainers.data.image_hashes import IMAGE_FACTS, shared_cache
    from trainers.data.read_preferences import read_preferences
    from trainers.training.job import Job, trainer

    register()
    with hold_run_folder(folder), Stages():
        recipe = keep_own_scoring(folder, recipe)
        claim(folder, recipe)
        spec = fetch(find(recipe.base, remote_code=remote_code, base=adapters_base))
        spec, name = merge_adapter(spec, recipe.base, folder)
        base = base_to_train(spec, name)
        with shared_cache(folder / IMAGE_FACTS) as cache:
            found = read_preferences(dataset, cache, chosen_alone=recipe.trainer == "sft")
        log.info(found.summary())
        _record_data(folder, found)
        job = Job(
            recipe=recipe,
            out=folder,
            **base,
            preferences=found.train,
            held_out=found.held_out,
            bad_rows=found.bad_rows,
            note={"data": found.digest},
        )
        return trainer(recipe.trainer)(job)


def base_to_train(spec: "ModelSpec", name: str) -> dict[str, Any]:
    """What a Job says of the model to start from, whose files are here. ModelError or TrainingError if it can't be read
    for training."""
    from harness.models.chat_templates import chat_template_of
    from trainers.training.read_base import check_base

    template, folder = chat_template_of(replace(spec, as_authors=True)).whole, str(spec.local_folder)
    check_base(folder, name, template, remote_code=spec.remote_code)
    on_hub = not Path(spec.pretrained).is_dir()
    hub = {"base_hub_id": spec.pretrained, "base_revision": spec.revision} if on_hub else {}
    more = {"dtype": spec.dtype, "chat_template": template, "remote_code": spec.remote_code}
    return {"base_name": name, "base": folder, **more, **hub}


def check_data(recipe: "PreferenceRecipe", dataset: "PreferenceFile") -> None:
    """Read the data that are on this machine as training will; InputError for what it would refuse."""
    from trainers.data.read_preferences import is_local, read_preferences

    if is_local(dataset.read):
        log.info(read_preferences(dataset, chosen_alone=recipe.trainer == "sft").summary())
    else:
        log.info(f"{dataset.read}: on the hub, and read when training starts")


def merge_adapter(spec: "ModelSpec", name: str, folder: Path) -> "tuple[ModelSpec, str]":
    """The base with an adapter merged into a copy in the run folder, and the name by which it is found again."""
    if spec.backend != "transformers":
        raise UsageError(f"{name} is behind a server, and can't be trained")
    if spec.adapter is None:
        return spec, name
    from harness.models.chat_templates import chat_template_of
    from trainers.training.adapters import merge
    from trainers.training.base_note import MERGED

    template = chat_template_of(replace(spec, as_authors=True)).whole
    merged = merge(spec.local_folder, spec.adapter, folder / MERGED, template, remote_code=spec.remote_code)
    return replace(spec, pretrained=str(merged), folder=merged, adapter=None, base=None), merged.as_posix()


def _record_data(folder: Path, found: "FoundPairs") -> None:
    """Write which data the run trains on; UsageError if it began with other data."""
    path = folder / "data.json"
    if path.exists():
        try:
            before = parse_json(path.read_text(encoding="utf-8"))
            pairs, held = before["pairs"], before["digest"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{path}: can't be read, and says with which data the run began; choose another --out"
            ) from None
        if held != found.digest:
            raise UsageError(
                f"{folder}: the run began with other data ({pairs} pairs, digest {held}, now {found.digest})"
            )
    elif rank() == 0:
        counts = {"pairs": len(found.train), "held_out": len(found.held_out), "dropped": found.dropped}
        told = {"digest": found.digest, **counts, "read": found.read}
        told |= {"left_out": found.left_out} if found.left_out else {}
        atomic_write_text(path, json.dumps(told, indent=1))
