"""DPO and its kin through TRL: the reference is the same model with its adapters off, or the base once more where all weights are trained.

By default images and prompts are read once for all answers to them (`trainers.packed`); `plain_trl` takes TRL's own trainer, which trains
alike. Full fine-tuning, mDPO and the POVID losses have no packed form.
"""

from collections.abc import Sequence
from typing import Any

from trainers.job import Job
from trainers.recipe import Checkpoint
from trainers.rows import Preference


def train(job: Job) -> list[Checkpoint]:
    """The checkpoints of the DPO arm, first to last."""
    from trl import DPOConfig, DPOTrainer

    from trainers.image_dpo import AREA, CroppedPairs, ImageDPOTrainer
    from trainers.losses import GAMMA, trl_arguments
    from trainers.packed import PackedDPOTrainer
    from trainers.packed_attention import PackedError
    from trainers.packed_data import Pairs
    from trainers.povid_dpo import NoisedPairs, PovidTrainer, Variant
    from trainers.preference import (
        ByLength,
        Guarded,
        Progress,
        adapted,
        check_lengths,
        check_texts,
        common_arguments,
        load_model,
        load_weights,
        run,
    )
    from trainers.segment_dpo import Segments

    class Packed(Guarded, PackedDPOTrainer):
        """Packed rows."""

    class Plain(Guarded, ByLength, DPOTrainer):
        """TRL's own."""

    class PackedSegments(Guarded, Segments, PackedDPOTrainer):
        """Packed rows, whose changed tokens count more."""

    class PlainSegments(Guarded, ByLength, Segments, DPOTrainer):
        """TRL's own, whose changed tokens count more."""

    class Cropped(Guarded, ByLength, ImageDPOTrainer):
        """With the chosen answer beside a crop."""

    class Povid(Guarded, ByLength, PovidTrainer):
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
        room: dict[str, Any] = {} if training.features_room_mib is None else {"features_room": training.features_room_mib << 20}
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
            except PackedError as error:
                raise PackedError(f"{error}; or set plain_trl = true in [training]") from None
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
                cropped = [CroppedPairs(side, job.recipe.seed, training.crop_area or AREA) for side in (pairs, held_out)]
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
