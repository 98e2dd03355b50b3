"""DPO and related losses through TRL. The reference is the model with its adapters off, or before it was trained.

By default rows are packed: images and prompts are read once for all answers (`trainers.packed.trainer`). `plain_trl`
uses TRL's own trainer, which gives the same gradients. mDPO and POVID's losses have no packed form. Without packed rows
full fine-tuning holds a second copy of the model as its reference.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from trl import DPOConfig, DPOTrainer

from support.errors import TrainingError
from trainers.data.chat import stops_of
from trainers.data.collators import PairCollator
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs, PromptSampling
from trainers.losses.ddpo import SegmentWeights
from trainers.losses.functions import GAMMA
from trainers.losses.mdpo import AREA, CroppedPairs, ImageDPOTrainer
from trainers.losses.povid import NoisedPairs, PovidTrainer
from trainers.packed.trainer import PackedDPOTrainer
from trainers.training.checked_trainer import CheckedTrainer, check_answers_differ, check_texts
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import Job
from trainers.training.loop import RunCallback, run
from trainers.training.model import add_adapters, load_model, load_processor, load_weights
from trainers.training.picture_check import check_pictures
from trainers.training.prompt_lengths import check_lengths
from trainers.training.trl_arguments import common_arguments


class PackedTrainer(CheckedTrainer, PackedDPOTrainer):
    """Packed rows."""


class PackedSegmentTrainer(CheckedTrainer, SegmentWeights, PackedDPOTrainer):
    """Packed rows, with more weight on changed tokens."""


class PlainTrainer(CheckedTrainer, PromptSampling, DPOTrainer):
    """TRL's own rows."""


class PlainSegmentTrainer(CheckedTrainer, PromptSampling, SegmentWeights, DPOTrainer):
    """TRL's own rows, with more weight on changed tokens."""


class CropTrainer(CheckedTrainer, PromptSampling, ImageDPOTrainer):
    """TRL's rows, and the chosen answer with a crop."""


class NoiseTrainer(CheckedTrainer, PromptSampling, PovidTrainer):
    """TRL's rows, and an answer to a noised picture."""


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the DPO arm, first to last."""
    return run(job, "dpo", _make_trainer)


def _make_trainer(
    job: Job, pairs: Sequence[Preference], held_out: Sequence[Preference], callback: RunCallback
) -> CheckedTrainer:
    training = job.recipe.training
    settings = {name: getattr(training, name) for name in ("beta", "smoothing", "sft_weight")}
    arguments = DPOConfig(**training.loss_spec.trl_arguments(**settings), **common_arguments(job, len(pairs)))
    processor = load_processor(job)
    check_texts([*pairs, *held_out], processor)
    check_pictures([*pairs, *held_out], processor)
    model, processor = load_model(job)
    check_answers_differ(pairs, processor, stops_of(model, processor), training.max_length)
    model, peft_config = add_adapters(model, training, job.recipe.seed)
    given: dict[str, Any] = {"model": model, "processing_class": processor, "peft_config": peft_config}
    given |= {"args": arguments, "callbacks": [callback]}
    if training.loss_spec.reads == "changed tokens":
        given["gamma"] = training.gamma or GAMMA
    if training.packed:
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # all processes have to ask the reference equally often
            check_lengths([*pairs, *held_out], processor, training.max_length)
        trainer = _make_packed(job, pairs, held_out, given)
    else:
        check_lengths([*pairs, *held_out], processor, training.max_length)
        if training.lora is None:
            given["ref_model"] = load_weights(job)
        trainer = _make_unpacked(job, pairs, held_out, given)
    trainer.prepare([*pairs, *held_out], training.lora)
    return trainer


def _make_packed(
    job: Job, pairs: Sequence[Preference], held_out: Sequence[Preference], given: dict[str, Any]
) -> CheckedTrainer:
    training = job.recipe.training
    kind = PackedSegmentTrainer if training.loss_spec.reads == "changed tokens" else PackedTrainer
    if training.features_room_mib is not None:
        given["features_room"] = training.features_room_mib << 20
    try:
        given |= {"train_dataset": Pairs(pairs), "eval_dataset": Pairs(held_out) if held_out else None}
        return kind(**given, group_pairs=training.group_pairs, reference_folder=job.reference)
    except TrainingError as error:
        raise TrainingError(f"{error}; or set plain_trl = true in [training]") from None


def _make_unpacked(
    job: Job, pairs: Sequence[Preference], held_out: Sequence[Preference], given: dict[str, Any]
) -> CheckedTrainer:
    training, seed = job.recipe.training, job.recipe.seed
    kind: type[Any]
    dataset: Callable[[Sequence[Preference]], Pairs] = Pairs
    match training.loss_spec.reads:
        case "noised image":
            kind, dataset = NoiseTrainer, partial(NoisedPairs, seed=seed)
            given |= {"variant": training.loss, "noise": training.noise}
        case "crop":
            kind, dataset = CropTrainer, partial(CroppedPairs, seed=seed, area=training.crop_area or AREA)
            given["anchor"] = training.anchor or 0.0
        case "changed tokens":
            kind = PlainSegmentTrainer
        case "pair":
            kind = PlainTrainer
    if training.loss_spec.packed:
        processor = given["processing_class"]
        given["data_collator"] = PairCollator(processor, training.max_length, stops_of(given["model"], processor))
    made: CheckedTrainer = kind(
        **given, train_dataset=dataset(pairs), eval_dataset=dataset(held_out) if held_out else None
    )
    return made
