"""Checks before and during training: pairs that can't be trained on, losses that are not finite, uneven steps."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import RandomSampler, SequentialSampler

from support.errors import TrainingError, first_few
from support.files import atomic_write_text
from support.processes import rank
from trainers.config.training import Lora
from trainers.data.chat import Chat
from trainers.data.image_places import parts_of, user_message
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs
from trainers.packed.sharding import prepare_sharding
from trainers.training.adapters import PARTS, save_plain, start_of
from trainers.training.checkpoints import TRAINABLE
from trainers.training.picture_check import MarkedTexts
from trainers.training.prompt_lengths import measure_prompt
from trainers.training.step_weights import (
    BatchWeight,
    IdCollator,
    PaddedSampler,
    count_pairs_and_tokens,
    uneven_gathering,
    weigh_batches,
)

PLACEHOLDERS = ("image_token", "video_token")
"""Processors' attributes for the tokens that represent pictures in a text."""
_OF_PICTURES = re.compile(r"im(?:g|age)|video|vision", re.IGNORECASE)
"""In the names of special tokens that have to do with pictures."""


def check_texts(pairs: Sequence[Preference], processor: Any) -> None:
    """MarkedTexts for pairs whose texts contain the model's token for a picture, which would count as a picture;
    TrainingError for pairs whose pictures its chat template would move away from the words that they stand among."""
    found = (getattr(processor, name, None) for name in PLACEHOLDERS)
    placeholders = {str(getattr(token, "content", token)) for token in found if token}
    tokenizer = processor.tokenizer
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    placeholders |= {token for token in (*special, *tokenizer.all_special_tokens) if _OF_PICTURES.search(token)}
    held = [
        (pair.id, token)
        for pair in pairs
        for token in placeholders
        if any(token in text for text in (pair.prompt, pair.chosen, pair.rejected))
    ]
    if held:
        ids = list(dict.fromkeys(id for id, _ in held))
        raise MarkedTexts(ids, len(pairs), sorted({token for _, token in held}))
    among = [pair.id for pair in pairs if len(set(pair.places)) > 1 or 0 < min(pair.places or [0]) < len(pair.prompt)]
    if among and not _keeps_places(processor):
        raise TrainingError(
            f"{len(among):,} of {len(pairs):,} pairs have pictures among the words of their prompt, and this model's "
            f"chat template puts all pictures in front: {first_few(among)}; leave them out, or take another model"
        )


def _keeps_places(processor: Any) -> bool:
    """Whether the chat template writes a picture where it stands between two texts."""
    first, second = "before the picture", "behind the picture"
    parts = parts_of(first + second, [len(first)])
    told = Chat(processor).prompt([{"role": "user", "content": parts}], [Image.new("RGB", (8, 8))])
    between = told.partition(first)[2].partition(second)
    return bool(between[1] and between[0].strip())


def check_answers_differ(
    pairs: Sequence[Preference], processor: Any, stops: frozenset[int], max_length: int | None
) -> None:
    """TrainingError if the two answers of every pair are the same tokens, which teach no preference."""
    chat = Chat(processor, stops)
    for pair in pairs:
        shown = [Image.new("RGB", (8, 8))] * len(pair.images)
        turn = chat.read([user_message(pair)], shown, [pair.chosen, pair.rejected])
        room = None if max_length is None else max_length - measure_prompt(pair, processor)
        chosen, rejected = (answer[:room] for answer in turn.answers)
        if chosen != rejected or (room is not None and room <= 0):  # the latter are named by `CutError`
            return
    cut = "" if max_length is None else f" once cut at max_length = {max_length}; raise it"
    raise TrainingError(f"both answers of each of the {len(pairs):,} pairs are the same tokens{cut}: nothing to learn")


class CheckedTrainer:
    """A mixin for TRL trainers: FloatingPointError for a loss that is not finite, and equal weights for a step's pairs.

    Weights are equal on any number of processes, and in an epoch's last step, which may have fewer pairs; in the `sft`
    term all tokens weigh the same. The batch of a loss that is not finite is written to `not-a-number/` (the tensors,
    and the pairs' ids, texts and images). Adapters are saved so that they load on the unchanged base.
    """

    args: Any
    state: Any
    accelerator: Any
    train_dataset: Pairs
    data_collator: Any
    model: Any
    pairs: Mapping[str, Preference]
    part: tuple[Lora, Mapping[str, torch.Tensor]] | None
    """Settings and start of adapters that were initialised with parts of the weights."""
    loss_types: Sequence[str] = ()
    loss_weights: Sequence[float] = ()
    _metrics: Mapping[str, Mapping[str, list[Any]]]

    def prepare(self, pairs: Sequence[Preference], lora: Lora | None) -> None:
        """Call this before training, with all pairs that may be in batches."""
        prepare_sharding(self.accelerator, self.model)
        self.pairs = {pair.id: pair for pair in pairs}
        self.data_collator = IdCollator(self.data_collator)
        self.part = (lora, start_of(self.model)) if lora is not None and lora.init in PARTS else None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, each with its weight if a step has several batches."""
        batches, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        if self._parts == 1:
            return batches, items
        mine = torch.stack([count_pairs_and_tokens(batch, "sft" in self.loss_types) for batch in batches])
        step = self.accelerator.gather(mine[None]).tolist()
        weights = weigh_batches(step, self.args.train_batch_size * self._parts, self.accelerator.process_index)
        return [{**batch, "weight": weight} for batch, weight in zip(batches, weights, strict=True)], items

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's own."""
        given = {name: value for name, value in inputs.items() if name not in ("ids", "weight")}
        weight: BatchWeight | None = inputs.get("weight")
        with self._weigh_sft_term(weight), self._gather_figures(weight, len(inputs["ids"])):
            found = super().compute_loss(model, given, *args, **kwargs)  # type: ignore[misc]
        loss = found[0] if isinstance(found, tuple) else found
        if not bool(torch.isfinite(loss.detach()).all()):
            folder = self._write_batch(inputs, float(loss.detach()))
            step = self.state.global_step + 1
            raise FloatingPointError(f"the loss is {float(loss.detach())} in step {step}; its batch is in {folder}")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise TrainingError(
                "no answer depends on what is trained: no weight would change; "
                "let the targets of [training.lora] name modules that have a part in the answers"
            )
        # TRL's supervised trainer itself divides by the step's tokens.
        if weight is None or "labels" in inputs:
            return found
        return (weight.pairs * loss, *found[1:]) if isinstance(found, tuple) else weight.pairs * loss

    @property
    def _parts(self) -> int:
        """Batches of a step, over all processes."""
        return int(self.accelerator.num_processes * self.args.gradient_accumulation_steps)

    @contextmanager
    def _weigh_sft_term(self, weight: BatchWeight | None) -> Iterator[None]:
        """Inside, weigh the `sft` term so that it is a mean over tokens once the loss is multiplied by `pairs`."""
        before = self.loss_weights
        if weight is not None and weight.pairs:
            terms = zip(self.loss_types, before, strict=True)
            by_tokens = weight.tokens / weight.pairs
            self.loss_weights = [by_tokens * factor if term == "sft" else factor for term, factor in terms]
        try:
            yield
        finally:
            self.loss_weights = before

    @contextmanager
    def _gather_figures(self, weight: BatchWeight | None, rows: int) -> Iterator[None]:
        """Inside, log figures of an incomplete step for the pairs it has."""
        if weight is None or not weight.incomplete:
            yield
            return
        logged = self._metrics["train"]
        before = {name: len(values) for name, values in logged.items()}
        with uneven_gathering(self.accelerator, rows, self.args.train_batch_size, weight.concurrent):
            yield
        if not weight.concurrent:
            for name, values in logged.items():
                del values[before[name] :]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        order = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        count, size = len(self.train_dataset), self.args.train_batch_size * self._parts
        if self._parts == 1 or count % size == 0:
            return order
        if isinstance(order, RandomSampler):
            from accelerate.data_loader import SeedableRandomSampler

            # accelerate uses this one, so the order is the same on any number of processes.
            order = SeedableRandomSampler(order.data_source, generator=order.generator, data_seed=self.args.data_seed)
        return PaddedSampler(order, count, size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # With group_by_length the trainer's own would open every picture to measure its length.
        return SequentialSampler(eval_dataset)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the run has a model card of its own."""

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
        trainable = folder if self.part is None else folder / TRAINABLE
        super()._load_from_checkpoint(str(trainable), model)  # type: ignore[misc]

    def _write_batch(self, inputs: Mapping[str, Any], loss: float) -> Path:
        folder = Path(self.args.output_dir) / "not-a-number" / f"step-{self.state.global_step + 1}-process-{rank()}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_flatten_tensors("", inputs), folder / "batch.safetensors")
        names = "id", "prompt", "chosen", "rejected"
        pairs = [
            {name: getattr(pair, name) for name in names} | {"images": [picture.name for picture in pair.images]}
            for pair in (self.pairs[id] for id in inputs.get("ids", ()))
        ]
        atomic_write_text(folder / "pairs.json", json.dumps({"loss": str(loss), "pairs": pairs}, indent=1))
        return folder


def _flatten_tensors(name: str, value: Any) -> dict[str, torch.Tensor]:
    """All tensors within, by dotted names, each with its own storage."""
    if isinstance(value, torch.Tensor):
        return {name: value.detach().cpu().clone().contiguous()}
    parts = value.items() if isinstance(value, Mapping) else ()
    prefix = f"{name}." if name else ""
    return {path: part for key, inner in parts for path, part in _flatten_tensors(f"{prefix}{key}", inner).items()}
