"""The part of a recipe that says how to train."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from trainers.config.data import Section
from trainers.config.losses import LOSS_SETTINGS, LossSpec, find_loss, losses_taking


class Lora(Section):
    """Low-rank adapters (peft)."""

    r: Annotated[int, Field(gt=0)]
    alpha: Annotated[int, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """DPO switches it off, as for Silkie, so that policy and reference are the same model at the start."""
    targets: str
    """Regular expression over module names; one that reaches into the vision tower needs train_vision."""
    rslora: bool = False
    """Scaled by alpha / sqrt(r) in place of alpha / r."""
    dora: bool = False
    """Direction and magnitude of the weights are trained separately."""
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
    """How adapters are initialised; pissa and olora take parts of the weights, and are saved at twice the rank."""

    @field_validator("targets")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value


class Noise(Section):
    """POVID's second stage: the noise put on pictures, and the weights of the loss."""

    step: Annotated[int, Field(ge=0, lt=1000)] = 500
    """Of the diffusion schedule."""
    overflow: Literal["clamp", "wrap"] = "clamp"
    """Values that leave a byte's range are cut off, or taken modulo 256, as POVID's release does."""
    place: Literal["before", "after"] = "before"
    """Noise before the picture is resized, as in the release, or after."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """povid-paper: weight of the chosen answer's log-ratio; None: beta. The paper reports none of its three."""
    beta_image: Annotated[float, Field(gt=0)] | None = None
    """povid-paper: weight of the log-ratio of the answer to the noised picture; None: beta."""


Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
"""Those of transformers that need no more than the steps of the run and its warm-up; polynomial: power 1, to 1e-7."""


class Training(Section):
    """Loss, optimizer and schedule, for DPO and for its SFT control."""

    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Pairs an optimizer step, over all processes."""
    per_device_batch_size: Annotated[int, Field(gt=0)] | None = None
    """Pairs a process has in memory at once; gradients are accumulated up to `batch_size`. None: all of its share."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The same as a share of all steps."""
    scheduler: Scheduler = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients of a larger norm are scaled down to it."""
    loss: str = "dpo"
    """One of trainers/config/losses.py."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """cdpo, robust: share of pairs taken to be swapped."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the negative log-likelihood of the chosen answer beside the DPO loss."""
    gamma: Annotated[float, Field(gt=0)] | None = None
    """ddpo: weight of a token in which the two answers differ; None: 5, as RLHF-V, whose beta is 0.5."""
    anchor: float | None = None
    """mdpo: lower bound of the chosen answer's reward; None: 0, as the authors."""
    crop_area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    """mdpo: least and greatest share of the picture's area in a crop; None: 0.01 and 0.2, as the authors."""
    noise: Noise = Noise()
    max_length: Annotated[int, Field(gt=0)] | None = None
    """Answers are cut after this many tokens of prompt, images and answer; None: never."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What to do with pairs whose prompt alone fills `max_length`."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """"auto": bf16 on a GPU, except for a base that computes in single precision."""
    gradient_checkpointing: bool = False
    """A quarter to a third more time, several times less memory."""
    activation_offload: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Activations wait for the backward pass in the CPU's memory: less memory of the GPU, for more time."""
    quantization: Literal["4bit"] | None = None
    """The frozen base in four bits (NF4, bitsandbytes): QLoRA."""
    checkpoints: Annotated[int, Field(gt=0)] = 1
    """How many checkpoints are saved and scored, evenly spaced, the last at the end."""
    save_steps: Annotated[int, Field(gt=0)] | None = None
    """In place of `checkpoints`: save every so many steps, and at the end."""
    score_checkpoints: Annotated[int, Field(gt=0)] | None = None
    """How many of the saved checkpoints train-then-eval and watch score, evenly spaced, the last always; None: all."""
    keep: Annotated[int, Field(gt=0)] | None = None
    """Only this many of the last checkpoints are kept; None: all."""
    log_steps: Annotated[int, Field(gt=0)] = 5
    eval_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps between two evaluations on the pairs that [dataset] holds out; None: never. [data] holds none out."""
    report_to: tuple[Literal["wandb", "trackio", "mlflow", "tensorboard"], ...] = ()
    """Where the log goes besides log.jsonl."""
    group_pairs: bool = False
    """All pairs of a prompt in one batch: much less computation, but less varied batches."""
    group_by_length: bool = False
    """Pairs of similar length (characters) in one batch: less padding, but another order."""
    plain_trl: bool = False
    """TRL's own DPO trainer in place of packed rows."""
    features_room_mib: Annotated[int, Field(ge=0)] | None = None
    """MiB of CPU memory a process for the image features of a frozen vision tower; 0: none are kept; None: 2048."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that open pictures ahead of training; 0: the training process opens them."""
    train_vision: bool = False
    """The vision tower is trained too; with adapters, `targets` must reach into it, and may not otherwise."""
    lora: Lora | None = None
    """None: all weights but those of the vision tower are trained."""

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, value: str) -> str:
        return find_loss(value).name

    @property
    def loss_spec(self) -> LossSpec:
        """The entry of the loss."""
        return find_loss(self.loss)

    @property
    def packed(self) -> bool:
        """True if DPO reads each image and each prompt once, in packed rows."""
        return not self.plain_trl and self.loss_spec.packed

    @model_validator(mode="after")
    def _check_weights(self) -> "Training":
        if self.lora is None:
            if self.quantization:
                raise ValueError("quantization = '4bit' is for training adapters: give [training.lora]")
            return self
        if self.lora.init in ("pissa", "olora"):
            if self.quantization:
                raise ValueError(
                    f"init = {self.lora.init!r} changes the weights, which quantization = '4bit' has fixed"
                )
            if self.lora.dora:
                raise ValueError(
                    f"init = {self.lora.init!r} does not go with dora: its start could not be taken out again"
                )
        return self

    @model_validator(mode="after")
    def _check_packing(self) -> "Training":
        if not self.packed:
            unpacked = "plain_trl" if self.plain_trl else f"loss = {self.loss!r}"
            for name in ("group_pairs", "features_room_mib"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is for packed rows, which {unpacked} does not have; leave it out")
        elif self.lora is None and self.features_room_mib is not None:
            raise ValueError(
                "features_room_mib is for adapters: full fine-tuning trains what is behind the vision tower, "
                "so that no features stay as they are; leave it out"
            )
        if self.plain_trl and not self.loss_spec.packed:
            raise ValueError(
                f"plain_trl is TRL's own trainer in place of packed rows, and loss = {self.loss!r} has neither; "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> "Training":
        if self.scheduler == "polynomial" and self.learning_rate <= 1e-7:
            raise ValueError(
                "scheduler = 'polynomial' goes down to 1e-7, "
                f"and learning_rate = {self.learning_rate:g} is not above it"
            )
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("has both warmup_steps and warmup_ratio; give one")
        if self.too_long == "drop" and self.max_length is None:
            raise ValueError("too_long = 'drop' leaves out what max_length leaves no answer of; give max_length")
        return self

    @model_validator(mode="after")
    def _check_loss_settings(self) -> "Training":
        taken = self.loss_spec.settings
        for name in LOSS_SETTINGS:
            table: BaseModel = self
            *within, key = name.split(".")
            for part in within:
                table = getattr(table, part)
            value = getattr(table, key)
            if name not in taken and value != type(table).model_fields[key].default:
                raise ValueError(f"{name} = {value!r} is for {losses_taking(name)}, not {self.loss!r}")
        if self.loss_spec.needs_smoothing and not self.smoothing:
            raise ValueError(
                f"loss = {self.loss!r} with smoothing = 0 is dpo; give the share of pairs taken to be swapped"
            )
        if self.crop_area is not None and self.crop_area[0] > self.crop_area[1]:
            raise ValueError(f"crop_area = {list(self.crop_area)}: the least share comes first")
        return self


class Stage(Section):
    """One stage of pretraining."""

    steps: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Images a step."""
    learning_rate: Annotated[float, Field(gt=0)]


class Pretraining(Section):
    """The three stages of the embedded models' pretraining."""

    see: Stage
    speak: Stage
    believe: Stage
    early_step: Annotated[int, Field(gt=0)]
    """Step of `speak` whose weights become scenes-early."""

    @property
    def stages(self) -> tuple[Stage, Stage, Stage]:
        """In their order."""
        return self.see, self.speak, self.believe
