"""POVID's second stage: DPO against the data's rejected answer, and against the model's own answer to a noised picture.

    trainer = PovidTrainer(variant="povid-code", noise=Noise(), model=model, args=DPOConfig(...),
                           train_dataset=NoisedPairs(pairs, seed=0), ...)

The second answer is made in training: the chosen answer is read with the noised picture, and the likeliest token at
each of its positions is taken. Paper and released code score it differently; see `trainers.losses.functions`. Logged
rewards are those of the data's pair.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from trl.trainer.utils import use_adapter

from trainers.config.training import Noise
from trainers.data.chat import stops_of
from trainers.data.collators import TEXTS, PairCollator
from trainers.losses.functions import (
    answer_log_probs,
    povid_code,
    povid_code_ratio,
    povid_paper,
    povid_paper_ratio,
    seen_through_noise,
)
from trainers.losses.noise import noise_seed, noised, noised_pixels
from trainers.losses.seeded_pairs import SeededDPOTrainer, SeededPairs

Variant = Literal["povid-paper", "povid-code"]


class NoisedPairs(SeededPairs):
    """Pairs with the seed of their noise, under "noise": new every epoch."""

    what = "POVID's losses noise pictures"

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "noise": noise_seed(self.seed, self.preferences[index].row, self.epoch)}


@dataclass(frozen=True, kw_only=True)
class NoisedCollator:
    """TRL's rows of pairs and, under "noised", the images of the chosen half with noise."""

    processor: Any
    noise: Noise
    max_length: int | None = None
    stops: frozenset[int] = frozenset()

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """DataError for noise after the resize where the model takes images as rows of patches."""
        plain = PairCollator(self.processor, self.max_length, self.stops)
        batch = dict(plain([dict(example) for example in examples]))
        clean = {name: batch[name] for name in batch if name not in NOT_IMAGES}
        return {**batch, "noised": self._add_noise(examples, clean)}

    def _add_noise(self, examples: Sequence[Mapping[str, Any]], clean: Mapping[str, Any]) -> dict[str, Any]:
        process = self.processor.image_processor
        settings: dict[str, Any] = {"step": self.noise.step, "overflow": self.noise.overflow}
        if self.noise.place == "before":
            images = [
                [noised(image, seed=own["noise"] + place, **settings) for place, image in enumerate(own["images"])]
                for own in examples
            ]
            made = process(images, return_tensors="pt")
            return {name: made[name] for name in clean}
        # Rows of pairs repeat the images: with the chosen, then with the rejected answers.
        half = {name: value[: len(value) // 2] for name, value in clean.items()}
        seeds = [own["noise"] + place for own in examples for place in range(len(own["images"]))]
        settings |= {"mean": process.image_mean, "std": process.image_std}
        pixels = [
            noised_pixels(one, generator=torch.Generator().manual_seed(seed), **settings)
            for one, seed in zip(half["pixel_values"], seeds, strict=True)
        ]
        return {**half, "pixel_values": torch.stack(pixels)}


NOT_IMAGES = (*TEXTS, "completion_mask")


class PovidTrainer(SeededDPOTrainer):
    """TRL's trainer with one of POVID's losses; its other arguments are TRL's.

    Policy and reference each read three rows a pair at every step: chosen, rejected, chosen with noise. `rewards/own`
    is the reward of the answer to the noised picture, `misled` the share of its tokens that differ from the chosen's.
    """

    def __init__(self, *, variant: Variant, noise: Noise, processing_class: Any, args: Any, **given: Any) -> None:
        stops = stops_of(given["model"], processing_class)
        collator = NoisedCollator(processor=processing_class, noise=noise, max_length=args.max_length, stops=stops)
        super().__init__(args=args, processing_class=processing_class, data_collator=collator, **given)
        self.variant, self.noise = variant, noise

    def mean_loss(self, model: Any, inputs: Any) -> Tensor:
        """The mean over the batch's pairs."""
        pairs = len(inputs["input_ids"]) // 2
        clean_rows = {name: value for name, value in inputs.items() if name not in ("completion_mask", "noised")}
        noisy_rows = {name: value[:pairs] for name, value in clean_rows.items() if name in TEXTS} | inputs["noised"]
        asked = inputs["completion_mask"][:, 1:]
        start = int(asked.any(dim=0).nonzero()[0])
        mask, tokens = asked[:, start:], inputs["input_ids"][:, 1 + start :]

        def read(by: Any, rows: Mapping[str, Any]) -> Tensor:
            """Logits that predict `tokens` [rows, length, vocabulary]."""
            logits: Tensor = by(**rows, use_cache=False, logits_to_keep=tokens.shape[1] + 1).logits
            return logits[:, :-1].float()

        # The released code takes only the likeliest tokens from this pass, and that choice has no gradient.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.variant == "povid-paper"):
            noisy = read(model, noisy_rows)
        clean = read(model, clean_rows)
        with torch.no_grad(), self._reference() as reference:
            reference_clean, reference_noisy = read(reference, clean_rows), read(reference, noisy_rows)
        logps, reference_logps = answer_log_probs(clean, tokens, mask), answer_log_probs(reference_clean, tokens, mask)
        chosen, rejected = (logps - reference_logps).chunk(2)
        if self.variant == "povid-paper":
            own = povid_paper_ratio(noisy=noisy, reference_noisy=reference_noisy, mask=mask[:pairs])
            weights = {"alpha": self.noise.alpha or self.beta, "beta_image": self.noise.beta_image or self.beta}
            losses = povid_paper(chosen=chosen, rejected=rejected, own=own, beta_text=self.beta, **weights)
        else:
            references = {"reference_clean": reference_clean[:pairs], "reference_noisy": reference_noisy}
            own = povid_code_ratio(clean=clean[:pairs], noisy=noisy, mask=mask[:pairs], **references)
            losses = povid_code(chosen=chosen, rejected=rejected, own=own, beta=self.beta)
        misled = ((seen_through_noise(noisy) != tokens[:pairs]) & mask[:pairs].bool()).sum(-1) / mask[:pairs].sum(-1)
        self.log_pairs(chosen, rejected, logps.chunk(2), {"rewards/own": self.beta * own, "misled": misled})
        return losses.mean()

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        if self.ref_model is not None:
            yield self.ref_model
            return
        unwrapped = self.accelerator.unwrap_model(self.model)
        with use_adapter(unwrapped, adapter_name="ref" if "ref" in unwrapped.peft_config else None):
            yield self.model
