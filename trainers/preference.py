"""What DPO and its SFT control share around TRL: model, adapters, schedule, checkpoints that are whole or not there.

A checkpoint folder counts once it holds `checkpoint.json`, written after everything else. A run goes on from the last one that counts.
Steps hold `batch_size` pairs on any number of processes: what they do not have in memory at once is accumulated.
"""

import importlib.util
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed import barrier, broadcast_object_list, is_initialized
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers import AutoModelForImageTextToText, AutoProcessor, PrinterCallback, TrainerCallback

from trainers.adapters import PARTS, TRAINABLE, begun, save_plain, start_of
from trainers.errors import BadInput, StageError
from trainers.job import Job
from trainers.packed_data import FILLING, CutError, Pairs, PromptSampler
from trainers.recipe import Checkpoint, Lora, Training
from trainers.rows import Preference
from trainers.vlfeedback.store import write_whole

NOTE = "checkpoint.json"
STOPPED = "stopped.json"
"""Of a run that was ended before its last step, on purpose."""
LEFT_OUT = "left_out.json"
"""Pairs that `max_length` leaves no answer of."""

STANDING = ("image_token", "video_token")
"""Attributes of processors: what stands for a picture in a text."""
CONNECTORS = ("attn_pool.", "merger.", "deepstack_merger_list.")
"""What some vision towers hold of the way into the language model; trained where the tower is not, as a connector outside of it is."""


SEEING = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower", "multi_modal_projector", "connector")
"""What models call their vision towers, and the way from there into the language model."""


class TrainingError(BadInput):
    """Settings that do not go together with the model, the machine or the data; one line."""


# ---- batches and steps


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def shares(training: Training, count: int) -> tuple[int, int]:
    """(pairs a process has at once, batches it accumulates), so that `count` processes make steps of `batch_size` pairs; TrainingError."""
    size, at_once = training.batch_size, training.per_device_batch_size
    if size % count:
        raise TrainingError(f"batch_size = {size} can't be shared by {count} processes; possible: {_listed(_divisors(size))}")
    share = size // count
    if at_once is None:
        return share, 1
    if share % at_once:
        possible = _listed(_divisors(share))
        raise TrainingError(
            f"batch_size = {size} on {count} processes is {share} pairs each, which per_device_batch_size = {at_once} does not divide; "
            f"possible: {possible}"
        )
    return at_once, share // at_once


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def total_steps(rows: int, training: Training) -> int:
    """Optimizer steps of the whole run."""
    return math.ceil(math.ceil(rows / training.batch_size) * training.epochs)


def save_steps(steps: int, checkpoints: int) -> list[int]:
    """After which steps a checkpoint is written: evenly spaced, the last at the end."""
    count = min(checkpoints, steps)
    return [round(steps * (index + 1) / count) for index in range(count)]


def saved_at(steps: int, training: Training) -> list[int]:
    """After which steps a run of so many saves."""
    if training.save_steps is None:
        return save_steps(steps, training.checkpoints)
    return [*range(training.save_steps, steps, training.save_steps), steps]


def find_checkpoints(out: Path, arm: str) -> list[Checkpoint]:
    """The whole checkpoints of a folder, first to last."""
    notes = sorted(out.glob(f"checkpoint-*/{NOTE}"))
    found = [Checkpoint(path=note.parent, step=int(note.parent.name.removeprefix("checkpoint-")), arm=arm) for note in notes]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


# ---- the model


def in_bf16(job: Job) -> bool:
    """Whether this run computes in bfloat16."""
    assert job.recipe.training is not None
    wanted = job.recipe.training.precision
    if wanted == "auto":
        return torch.cuda.is_available() and job.dtype != "float32"
    return wanted == "bf16"


def stored_as(job: Job) -> torch.dtype:
    """What the weights are held in: as they are computed in, but in single precision where they are trained themselves."""
    assert job.recipe.training is not None
    return torch.bfloat16 if in_bf16(job) and job.recipe.training.lora is not None else torch.float32


def load_model(job: Job) -> tuple[Any, Any]:
    """Model and processor of the job's base, safetensors only; TrainingError."""
    training = job.recipe.training
    assert training is not None
    model = load_weights(job)
    if training.lora is None:
        if not training.train_vision:
            freeze_vision(model)
    elif not any(re.fullmatch(training.lora.targets, name) for name, _ in model.named_modules()):
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        known = ", ".join(sorted(linear))
        raise TrainingError(f"lora targets {training.lora.targets!r} match no module of {job.base_name or job.base}; its matrices: {known}")
    return model, AutoProcessor.from_pretrained(job.base)


def load_weights(job: Job) -> Any:
    """The base as it is, quantized where the recipe wants it so."""
    training = job.recipe.training
    assert training is not None
    given = {"dtype": stored_as(job), "use_safetensors": True}
    if training.quantization is not None:
        given |= _four_bits()
    return AutoModelForImageTextToText.from_pretrained(job.base, **given)


def _four_bits() -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError("quantization = '4bit' needs the package bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    # The vision tower stays whole: it is small, and what it says is used as it is.
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[r"(.*\.)?lm_head", rf"(.*\.)?({'|'.join(SEEING)})"],
    )
    placed = {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else {"": "cpu"}
    return {"quantization_config": config, "device_map": placed}


def freeze_vision(model: Any) -> None:
    """Take the vision tower out of training, without the connector that some towers hold; TrainingError where none is known."""
    tower = model.get_encoder(modality="image")
    if tower is model or tower is model.base_model:
        raise TrainingError(f"models of type {model.config.model_type!r} name no vision tower to be left as it is; set train_vision = true")
    for name, parameter in tower.named_parameters():
        parameter.requires_grad = name.startswith(CONNECTORS)


def adapted(model: Any, training: Training, seed: int) -> tuple[Any, LoraConfig | None]:
    """The model, and the adapters that a TRL trainer is to put into it; those that change the weights are in it already."""
    if training.lora is None:
        return model, None
    config = LoraConfig(
        r=training.lora.r,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=training.lora.targets,
        use_rslora=training.lora.rslora,
        use_dora=training.lora.dora,
        init_lora_weights=True if training.lora.init == "default" else training.lora.init,
        task_type="CAUSAL_LM",
    )
    return (begun(model, config, seed), None) if training.lora.init in PARTS else (model, config)


# ---- the run


def common_arguments(job: Job, training: Training, rows: int) -> dict[str, Any]:
    """Trainer arguments that all arms share. TRL's defaults (bf16, gradient checkpointing, 1024 tokens) are traps on small models."""
    on_gpu = torch.cuda.is_available()
    at_once, accumulated = shares(training, processes())
    bf16 = in_bf16(job)
    evaluates = training.eval_steps is not None and bool(job.held_out)
    if training.eval_steps is not None and not evaluates:
        job.tell(f"eval_steps = {training.eval_steps}: no pair is held out, so nothing is evaluated")
    reporting = [name for name in training.report_to if importlib.util.find_spec(name) is not None]  # which are not here is said before
    return {
        "output_dir": str(job.out),
        "run_name": job.recipe.name,
        "per_device_train_batch_size": at_once,
        "per_device_eval_batch_size": at_once,
        "gradient_accumulation_steps": accumulated,
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup_steps or math.ceil(training.warmup_ratio * total_steps(rows, training)),
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "max_grad_norm": training.max_grad_norm,
        "seed": job.recipe.seed,
        "data_seed": job.recipe.seed,
        "logging_steps": training.log_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": reporting or "none",
        "train_sampling_strategy": "group_by_length" if training.group_by_length else "random",
        "eval_strategy": "steps" if evaluates else "no",
        **({"eval_steps": training.eval_steps} if evaluates else {}),
        "save_strategy": "no",
        "use_cpu": not on_gpu,
        "bf16": bf16,
        **({"tf32": True} if on_gpu and bf16 else {}),
        "gradient_checkpointing": training.gradient_checkpointing,
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if training.gradient_checkpointing else {}),
        "max_length": training.max_length,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "dataloader_num_workers": training.workers,
        "disable_tqdm": True,
        "log_level": "error",
    }


def check_texts(pairs: Sequence[Preference], processor: Any) -> None:
    """TrainingError for pairs whose texts hold what stands for a picture in this model: it would be counted as one."""
    found = (getattr(processor, name, None) for name in STANDING)
    standing = {str(getattr(token, "content", token)) for token in found if token}
    held = [
        (pair.id, token) for pair in pairs for token in standing if any(token in text for text in (pair.prompt, pair.chosen, pair.rejected))
    ]
    if held:
        ids = list(dict.fromkeys(id for id, _ in held))
        named = ", ".join(map(repr, ids[:5])) + (" ..." if len(ids) > 5 else "")
        tokens = ", ".join(map(repr, sorted({token for _, token in held})))
        raise TrainingError(
            f"{len(ids):,} of {len(pairs):,} pairs have {tokens} written in prompt or answer, which is what stands for a picture in this "
            f"model: {named}; take it out of their texts, or leave them out of the data"
        )


def check_lengths(pairs: Sequence[Preference], processor: Any, max_length: int | None, done: Callable[[int, int], None]) -> None:
    """CutError for pairs that `max_length` leaves no answer of, every prompt with its images being read once."""
    if max_length is None:
        return
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    lengths: dict[int, int] = {}
    prompts = len({pair.row for pair in pairs})
    for pair in pairs:
        if pair.row in lengths:
            continue
        images = [picture.open().convert("RGB") for picture in pair.images]
        messages = prepare_multimodal_messages([{"role": "user", "content": pair.prompt}], images=images)
        text = apply_chat_template({"prompt": messages}, processor)["prompt"]
        try:
            read = processor(text=[text], **({"images": [images]} if images else {}), add_special_tokens=False, return_tensors="pt")
        except ValueError as error:
            said = " ".join(str(error).split())
            raise TrainingError(f"pair {pair.id!r}: {type(processor).__name__} can't read it: {said}; leave it out") from error
        lengths[pair.row] = int(read["input_ids"].shape[1])
        done(len(lengths), prompts)
    places = [place for place, pair in enumerate(pairs) if lengths[pair.row] >= max_length]
    if places:
        raise CutError([pairs[place].id for place in places], places, max_length)


@dataclass(frozen=True)
class Named:
    """A collator whose batches know their pairs, under "ids". What fills a step up is left out; alone, it is read and has no id."""

    collate: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The collator's own, and the ids."""
        pairs = [example for example in examples if FILLING not in example]
        alone = [{name: value for name, value in example.items() if name != FILLING} for example in examples[:1]]
        ids = [example["id"] for example in pairs]
        batch = {**self.collate(pairs or alone), "ids": ids}
        return batch if pairs or "labels" not in batch else {**batch, "labels": torch.full_like(batch["labels"], -100)}


class Filled(Sampler[int]):
    """An order of `count` pairs, filled up to whole steps of `size` by places behind the last: no process repeats a pair in their stead."""

    def __init__(self, order: Sampler[int], count: int, size: int) -> None:
        self.order, self.count, self.size = order, count, size

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self.order.set_epoch(epoch)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return math.ceil(self.count / self.size) * self.size

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from range(self.count, len(self))


class ByLength:
    """Before a TRL trainer in a class's bases: batches of pairs of like length where `train_sampling_strategy` asks for them."""

    args: Any
    accelerator: Any
    train_dataset: Pairs

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        pairs = self.train_dataset.preferences
        return PromptSampler(
            range(len(pairs)),
            batch_size=self.args.train_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=[len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs],
            ranks=self.accelerator.num_processes,
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a batch weighs within its step, which takes the mean of all its batches' means."""

    pairs: float
    """Times the batch's mean over pairs: the step's mean over pairs."""
    tokens: float
    """The same of means over the chosen answers' tokens."""
    short: bool
    """Whether the step lacks pairs."""
    beside: float
    """Of all batches that are trained on at the same time, among those times that have any pair; 0: this one has none."""


def shared(step: Sequence[Sequence[tuple[int, int]]], size: int, process: int) -> list[Share]:
    """The shares of a process's batches: (pairs, chosen answers' tokens) by process and batch; `size` pairs are a whole step."""
    pairs, tokens = (sum(batch[which] for batches in step for batch in batches) for which in (0, 1))
    parts = len(step) * len(step[0])
    at_once = [sum(batch[0] for batch in batches) for batches in zip(*step, strict=True)]
    times = sum(count > 0 for count in at_once)
    return [
        Share(
            pairs=own * parts / pairs,
            tokens=said * parts / max(tokens, 1),
            short=pairs < size,
            beside=count * times / pairs,
        )
        for (own, said), count in zip(step[process], at_once, strict=True)
    ]


class Guarded:
    """Before a TRL trainer in a class's bases: a loss that is no number ends the run, with the batch kept; adapters are saved plain.

    A step's pairs weigh the same, and in its `sft` term its tokens, however they are shared out; so do those that an epoch's last step has.
    FloatingPointError. The batch lies in `not-a-number/`: tensors as the model was given them, and the pairs' ids, texts and images.
    """

    args: Any
    state: Any
    accelerator: Any
    train_dataset: Pairs
    data_collator: Any
    model: Any
    pairs: Mapping[str, Preference]
    part: tuple[Lora, Mapping[str, torch.Tensor]] | None
    """Adapters that began as parts of the weights, and their start."""
    loss_types: Sequence[str] = ()
    loss_weights: Sequence[float] = ()
    _metrics: Mapping[str, Mapping[str, list[Any]]]

    def guard(self, pairs: Sequence[Preference], lora: Lora | None) -> None:
        """Have batches know which of these pairs they hold, and adapters saved so that they load anywhere; before training."""
        self.pairs = {pair.id: pair for pair in pairs}
        self.data_collator = Named(self.data_collator)
        self.part = (lora, start_of(self.model)) if lora is not None and lora.init in PARTS else None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own; each batch of several knows its share of the step."""
        batches, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        if self._parts == 1:
            return batches, items
        mine = torch.stack([_size(batch, "sft" in self.loss_types) for batch in batches])
        step = self.accelerator.gather(mine[None]).tolist()
        shares = shared(step, self.args.train_batch_size * self._parts, self.accelerator.process_index)
        return [{**batch, "share": share} for batch, share in zip(batches, shares, strict=True)], items

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's own."""
        given = {name: value for name, value in inputs.items() if name not in ("ids", "share")}
        share: Share | None = inputs.get("share")
        with self._weighed(share), self._told_of_pairs(share, len(inputs["ids"])):
            found = super().compute_loss(model, given, *args, **kwargs)  # type: ignore[misc]
        loss = found[0] if isinstance(found, tuple) else found
        if not bool(torch.isfinite(loss.detach()).all()):
            folder = self._keep(inputs, float(loss.detach()))
            raise FloatingPointError(f"the loss is {float(loss.detach())} in step {self.state.global_step + 1}; its batch is in {folder}")
        # TRL's supervised trainer divides by the tokens of the step itself.
        if share is None or "labels" in inputs:
            return found
        return (share.pairs * loss, *found[1:]) if isinstance(found, tuple) else share.pairs * loss

    @property
    def _parts(self) -> int:
        """How many batches are one step: what the trainer takes the mean of."""
        return int(self.accelerator.num_processes * self.args.gradient_accumulation_steps)

    @contextmanager
    def _weighed(self, share: Share | None) -> Iterator[None]:
        """The loss's `sft` term, a mean over tokens, is weighed by tokens where the whole loss will be weighed by pairs."""
        before = self.loss_weights
        if share is not None and share.pairs:
            by_tokens = share.tokens / share.pairs
            terms = zip(self.loss_types, before, strict=True)
            self.loss_weights = [by_tokens * weight if term == "sft" else weight for term, weight in terms]
        try:
            yield
        finally:
            self.loss_weights = before

    @contextmanager
    def _told_of_pairs(self, share: Share | None, rows: int) -> Iterator[None]:
        """The figures of a step that lacks pairs are of those that it has."""
        if share is None or not share.short:
            yield
            return
        told = self._metrics["train"]
        before = {name: len(values) for name, values in told.items()}
        with _uneven(self.accelerator, rows, self.args.train_batch_size, share.beside):
            yield
        if not share.beside:
            for name, values in told.items():
                del values[before[name] :]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        order = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        count, size = len(self.train_dataset), self.args.train_batch_size * self._parts
        if self._parts == 1 or count % size == 0:
            return order
        if isinstance(order, RandomSampler):
            from accelerate.data_loader import SeedableRandomSampler

            # What accelerate puts in its place, so that the order is that of any other number of processes.
            order = SeedableRandomSampler(order.data_source, generator=order.generator, data_seed=self.args.data_seed)
        return Filled(order, count, size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # The trainer's own opens every picture for its length where training is grouped by length.
        return SequentialSampler(eval_dataset)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: what TRL could say is said by the run's own."""

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """The trainer's own."""
        given = {name: value for name, value in inputs.items() if name != "ids"}
        return super().compute_ref_log_probs(model, given)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if self.part is not None and self.args.should_save:
            save_plain(Path(output_dir or self.args.output_dir), self.part[1], self.part[0])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        super()._load_from_checkpoint(str(folder if self.part is None else folder / TRAINABLE), model)  # type: ignore[misc]

    def _keep(self, inputs: Mapping[str, Any], loss: float) -> Path:
        folder = Path(self.args.output_dir) / "not-a-number" / f"step-{self.state.global_step + 1}-process-{os.environ.get('RANK', '0')}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_tensors("", inputs), folder / "batch.safetensors")
        told = [_told(self.pairs[id]) for id in inputs.get("ids", ())]
        write_whole(folder / "pairs.json", json.dumps({"loss": str(loss), "pairs": told}, indent=1))
        return folder


def _size(batch: Mapping[str, Any], says: bool) -> torch.Tensor:
    """How many pairs a batch has and, where `says`, tokens of chosen answers."""
    asked = batch["attention_mask"] if not says else batch["completion_mask"]
    said = asked[: len(asked) // 2].sum() if says and batch["ids"] else asked.new_zeros(())
    return torch.stack([said.new_tensor(len(batch["ids"])), said])


@contextmanager
def _uneven(accelerator: Any, rows: int, room: int, weight: float) -> Iterator[None]:
    """Figures are gathered from processes that have fewer than `room` pairs, each another number; those of pairs come times `weight`."""
    gather, gather_for_metrics = accelerator.gather, accelerator.gather_for_metrics

    def of_pairs(values: Any) -> Any:
        if values.ndim != 1:
            return gather(values)
        found = gather(torch.nn.functional.pad(values[:rows].float(), (0, room - rows), value=math.nan))
        there = found[~found.isnan()]
        return weight * there if len(there) else values

    # accelerate's own leaves out the figures of the last processes, taking them for pairs that are there twice.
    accelerator.gather, accelerator.gather_for_metrics = of_pairs, lambda total: gather(total if rows else torch.zeros_like(total))
    try:
        yield
    finally:
        accelerator.gather, accelerator.gather_for_metrics = gather, gather_for_metrics


def _told(pair: Preference) -> dict[str, Any]:
    said = {"id": pair.id, "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    return {**said, "images": [picture.name for picture in pair.images]}


def _tensors(name: str, value: Any) -> dict[str, torch.Tensor]:
    """All tensors within, by dotted names, each with storage of its own."""
    if isinstance(value, torch.Tensor):
        return {name: value.detach().cpu().clone().contiguous()}
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, torch.Tensor] = {}
    for key, inner in value.items():
        found |= _tensors(f"{name}.{key}" if name else str(key), inner)
    return found


class Progress(TrainerCallback):
    """Saves at the wanted steps, marks what is whole, reports steps, keeps the log as JSON lines, sees that something is learnt."""

    def __init__(self, job: Job, arm: str, wanted: Sequence[int], left_out: int = 0) -> None:
        self.job, self.arm, self.wanted, self.left_out = job, arm, frozenset(wanted), left_out
        self.before: list[float] = []
        self.started = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Remember what is to change."""
        self.before, self.started = _sums(model), state.global_step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Have the order be the epoch's: loaders of several processes that go on within an epoch do not tell their sampler which it is."""
        order = train_dataloader.batch_sampler
        while (inner := getattr(order, "batch_sampler", getattr(order, "sampler", None))) is not None:
            order = inner
        order.set_epoch(int(state.epoch + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
        """Ask for a checkpoint where one is wanted."""
        self.job.progress(state.global_step, state.max_steps)
        # A gradient can be no number where the loss is one: the next step's loss would tell, after the checkpoint.
        if state.global_step in self.wanted and not all(map(math.isfinite, _sums(model))):
            raise FloatingPointError(f"step {state.global_step} left weights that are no numbers; no checkpoint is made of them")
        # The first step of a warm-up has no learning rate.
        if self.before and state.global_step == self.started + 2 and _sums(model) == self.before:
            raise StageError(
                f"no weight has changed after {state.global_step} steps: policy and reference are one model; see the learning rate"
            )
        control.should_save = state.global_step in self.wanted
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """The trainer's own figures; a loss that is no number ends the run."""
        if logs and "loss" in logs and not math.isfinite(float(logs["loss"])):
            raise FloatingPointError(f"loss is {logs['loss']} at step {state.global_step}; see {self.job.out}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The run's own summary is the log's last line."""
        self._write_log(state)

    def _write_log(self, state: Any) -> None:
        if is_main():
            write_whole(self.job.out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in state.log_history))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Only now is the folder a checkpoint."""
        self._write_log(state)
        if is_initialized():
            barrier()  # every process has written its part
        go_on = [True]
        if is_main():
            go_on = [self._noted(state)]
        if is_initialized():
            broadcast_object_list(go_on, src=0)
        control.should_training_stop = control.should_training_stop or not go_on[0]
        return control

    def _noted(self, state: Any) -> bool:
        note = {"base": self.job.base_name, "step": state.global_step, "steps": state.max_steps, "recipe": self.job.recipe.digest}
        note |= {"left out": self.left_out} if self.left_out else {}
        assert self.job.recipe.training is not None
        note |= {"order": order} if (order := _order(self.job.recipe.training)) else {}
        folder = self.job.out / f"checkpoint-{state.global_step}"
        write_whole(folder / NOTE, json.dumps({**note, **self.job.note}))
        if self.job.recipe.training.keep is not None:
            for old in find_checkpoints(self.job.out, self.arm)[: -self.job.recipe.training.keep]:
                (old.path / NOTE).unlink()  # first: half a checkpoint counts for nothing
                shutil.rmtree(old.path)
        go_on = self.job.saved(Checkpoint(path=folder, step=state.global_step, arm=self.arm))
        if not go_on:
            write_whole(self.job.out / STOPPED, json.dumps({"step": state.global_step, "steps": state.max_steps}))
        return go_on


def _sums(model: Any) -> list[float]:
    # ZeRO-3 leaves nothing of a parameter in its place.
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel())
    return [float(parameter.detach().double().abs().sum()) for parameter in trained]


MakeTrainer = Callable[[Sequence[Preference], Sequence[Preference], Progress], Any]
"""Of the pairs to train on, those held out, and what watches."""


def run(job: Job, arm: str, make_trainer: MakeTrainer) -> list[Checkpoint]:
    """Train to the end from wherever the folder stands; does nothing where it is already there."""
    training = job.recipe.training
    assert training is not None
    gone = _left_out(job.out)
    while True:
        pairs, held_out = ([pair for pair in side if pair.id not in gone] for side in (job.preferences, job.held_out))
        if not pairs:
            raise TrainingError("there is no pair to train on")
        wanted = saved_at(total_steps(len(pairs), training), training)
        found = find_checkpoints(job.out, arm)
        if (job.out / STOPPED).exists() or (found and found[-1].step == wanted[-1]):
            return found
        if found:
            _check_order(found[-1], training)
        if is_main():
            for torn in job.out.glob("checkpoint-*"):
                if not (torn / NOTE).exists():
                    shutil.rmtree(torn)
        try:
            trainer = make_trainer(pairs, held_out, Progress(job, arm, wanted, len(gone)))
            trainer.remove_callback(PrinterCallback)  # its lines go to stdout, which is for results; `Progress` keeps them in log.jsonl
            trainer.train(resume_from_checkpoint=str(found[-1].path) if found else None)
        except CutError as error:
            gone |= _leave_out(job, gone, error)
            continue
        return find_checkpoints(job.out, arm)


def _order(training: Training) -> dict[str, int]:
    """What the order of the pairs hangs on where they are grouped: each process's batches are."""
    if not (training.group_pairs or training.group_by_length):
        return {}
    return {"processes": processes(), "pairs at once": shares(training, processes())[0]}


def _check_order(last: Checkpoint, training: Training) -> None:
    """TrainingError where going on would meet some pairs twice and others never."""
    held, here = json.loads((last.path / NOTE).read_text(encoding="utf-8")).get("order"), _order(training)
    if held is not None and held != here:
        grouped = "group_pairs" if training.group_pairs else "group_by_length"
        raise TrainingError(
            f"{last.path} was trained on {held['processes']} processes, and this would be {here['processes']}: {grouped} orders the pairs "
            f"for each number of them another way; go on with {held['processes']}"
        )


def _left_out(out: Path) -> frozenset[str]:
    path = out / LEFT_OUT
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["ids"]) if path.exists() else frozenset()


def _leave_out(job: Job, gone: frozenset[str], error: CutError) -> frozenset[str]:
    """Have these pairs left out of the run, where the recipe wants it so."""
    training = job.recipe.training
    assert training is not None
    if training.too_long == "refuse":
        raise TrainingError(f"{error}, by too_long = 'drop'") from None
    job.tell(f"left out: {len(error.ids)} pairs whose prompt and images fill max_length = {training.max_length}; see {job.out / LEFT_OUT}")
    if is_main():
        write_whole(job.out / LEFT_OUT, json.dumps({"max_length": training.max_length, "ids": sorted(gone | set(error.ids))}, indent=1))
    return frozenset(error.ids)


class Answers(Pairs):
    """The chosen answers alone, in TRL's columns for supervised training."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.preferences[index]
        return {
            "images": [picture.open().convert("RGB") for picture in pair.images],
            "prompt": [{"role": "user", "content": pair.prompt}],
            "completion": [{"role": "assistant", "content": pair.chosen}],
            "id": pair.id,
        }
