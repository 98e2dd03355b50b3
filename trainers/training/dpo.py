"""DPO and its kin through TRL: the reference is the same model with its adapters off, or the base once more where all
weights are trained.

By default images and prompts are read once for all answers to them (`trainers.packed.trainer`); `plain_trl` takes TRL's
own trainer, which trains alike. Full fine-tuning, mDPO and the POVID losses have no packed form.
"""

from collections.abc import Sequence
from typing import Any

from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import Job


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the DPO arm, first to last."""
    from trl import DPOConfig, DPOTrainer

    from support.errors import TrainingError
    from trainers.data.torch_dataset import Pairs
    from trainers.losses.ddpo import Segments
    from trainers.losses.functions import GAMMA
    from trainers.losses.mdpo import AREA, CroppedPairs, ImageDPOTrainer
    from trainers.losses.povid import NoisedPairs, PovidTrainer, Variant
    from trainers.losses.trl import trl_arguments
    from trainers.packed.trainer import PackedDPOTrainer
    from trainers.training.checked_trainer import CheckedTrainer, check_lengths, check_texts
    from trainers.training.loop import Progress, run
    from trainers.training.model import adapted, load_model, load_weights
    from trainers.training.step_weights import ByLength
    from trainers.training.trl_arguments import common_arguments

    class Packed(CheckedTrainer, PackedDPOTrainer):
        """Packed rows."""

    class Plain(CheckedTrainer, ByLength, DPOTrainer):
        """TRL's own."""

    class PackedSegments(CheckedTrainer, Segments, PackedDPOTrainer):
        """Packed rows, whose changed tokens count more."""

    class PlainSegments(CheckedTrainer, ByLength, Segments, DPOTrainer):
        """TRL's own, whose changed tokens count more."""

    class Cropped(CheckedTrainer, ByLength, ImageDPOTrainer):
        """With the chosen answer beside a crop."""

    class Povid(CheckedTrainer, ByLength, PovidTrainer):
        """With an answer to a noised picture."""

    training = job.recipe.training
    assert training is not None
    povid: Variant | None = training.loss if training.loss in ("povid-paper", "povid-code") else None

    def make_trainer(pairs: Sequence[Preference], held_out: Sequence[Preference], progress: Progress) -> Any:
        packed = training.lora is not None and not training.plain_trl and training.loss != "mdpo" and povid is None
        in_trl = "dpo" if training.loss in ("ddpo", "mdpo") or povid else training.loss
        loss = trl_arguments(in_trl, beta=training.beta, smoothing=training.smoothing, sft_weight=training.sft_weight)
        arguments = DPOConfig(**loss, **common_arguments(job, training, len(pairs)))
        model, processor = load_model(job)
        check_texts([*pairs, *held_out], processor)
        model, peft_config = adapted(model, training, job.recipe.seed)
        given: dict[str, Any] = {
            "model": model,
            "args": arguments,
            "processing_class": processor,
            "peft_config": peft_config,
            "callbacks": [progress],
        }
        segments = training.loss == "ddpo"
        if segments:
            given["gamma"] = training.gamma or GAMMA
        room: dict[str, Any] = (
            {} if training.features_room_mib is None else {"features_room": training.features_room_mib << 20}
        )
        if packed:
            try:
                trainer: Any = (PackedSegments if segments else Packed)(
                    **given,
                    train_dataset=Pairs(pairs),
                    eval_dataset=Pairs(held_out) if held_out else None,
                    group_pairs=training.group_pairs,
                    **room,
                    progress=job.referring,
                )
            except TrainingError as error:
                raise TrainingError(f"{error}; or set plain_trl = true in [training]") from None
        else:
            check_lengths([*pairs, *held_out], processor, training.max_length, job.referring)
            if training.lora is None:
                given["ref_model"] = load_weights(job)
            if povid:
                noised = [NoisedPairs(side, job.recipe.seed) for side in (pairs, held_out)]
                trainer = Povid(
                    **given,
                    train_dataset=noised[0],
                    eval_dataset=noised[1] if held_out else None,
                    variant=povid,
                    noise=training.noise,
                )
            elif training.loss == "mdpo":
                cropped = [
                    CroppedPairs(side, job.recipe.seed, training.crop_area or AREA) for side in (pairs, held_out)
                ]
                trainer = Cropped(
                    **given,
                    train_dataset=cropped[0],
                    eval_dataset=cropped[1] if held_out else None,
                    anchor=training.anchor or 0.0,
                )
            else:
                trainer = (PlainSegments if segments else Plain)(
                    **given, train_dataset=Pairs(pairs), eval_dataset=Pairs(held_out) if held_out else None
                )
        trainer.guard([*pairs, *held_out], training.lora)
        return trainer

    return run(job, "dpo", make_trainer)
