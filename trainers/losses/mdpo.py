"""mDPO in training: DPO on answers, DPO on pictures, and an anchor (2406.11839).

    trainer = ImageDPOTrainer(model=model, args=DPOConfig(...), train_dataset=CroppedPairs(pairs, seed=0), ...)

The chosen answer is read a second time with a crop of 1 to 20% of the picture's area, enlarged to the picture's size.
The authors crop the model's input; here the picture is cropped before processing, which works for all model families.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trainers.data.chat import stops_of
from trainers.data.collators import PairCollator
from trainers.data.rows import Preference
from trainers.losses.functions import mdpo
from trainers.losses.seeded_pairs import SeededDPOTrainer, SeededPairs

AREA = (0.01, 0.2)
"""Least and greatest share of the picture's area in a crop: `crop_images` of luka-group/mDPO's Bunny model, ec316ce."""
SHAPES = (3 / 4, 4 / 3)
"""Least and greatest width / height of a crop: as torchvision's RandomResizedCrop, which the authors use."""


def cropped(image: Image.Image, *, seed: str, area: tuple[float, float] = AREA) -> Image.Image:
    """A random crop of the picture, enlarged to its size; crops longer than the picture are cut at its edge."""
    chance = random.Random(seed)
    wanted = chance.uniform(*area) * image.width * image.height
    shape = math.exp(chance.uniform(*map(math.log, SHAPES)))
    width = min(image.width, max(1, round(math.sqrt(wanted * shape))))
    height = min(image.height, max(1, round(math.sqrt(wanted / shape))))
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))


class CroppedPairs(SeededPairs):
    """Pairs with crops of their pictures under "elsewhere", new ones every epoch."""

    what = "loss = 'mdpo' crops pictures"

    def __init__(self, preferences: Sequence[Preference], seed: int, area: tuple[float, float] = AREA) -> None:
        super().__init__(preferences, seed)
        self.area = area

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = super().__getitem__(index)
        seed = f"crop/{self.seed}/{found['id']}/{self.epoch}"
        images = enumerate(found["images"])
        return found | {
            "elsewhere": [cropped(image, seed=f"{seed}/{place}", area=self.area) for place, image in images]
        }


@dataclass(frozen=True, kw_only=True)
class CroppedCollator:
    """Rows of pairs (all chosen, then all rejected answers), then the chosen answers again with the crops."""

    processor: Any
    max_length: int | None = None
    stops: frozenset[int] = frozenset()

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Every tensor is extended along its first axis: texts' rows; pictures' images, tiles or patches."""
        plain = PairCollator(self.processor, self.max_length, self.stops)
        own = [{name: value for name, value in example.items() if name != "elsewhere"} for example in examples]
        crops = [{**alone, "images": example["elsewhere"]} for alone, example in zip(own, examples, strict=True)]
        batch, spoilt = (plain([dict(example) for example in side]) for side in (own, crops))
        # Rows of pairs repeat the pictures, so the first half of every tensor belongs to the chosen answers.
        return {name: torch.cat([value, spoilt[name][: len(value) // 2]]) for name, value in batch.items()}


class ImageDPOTrainer(SeededDPOTrainer):
    """TRL's trainer with mDPO's loss; its other arguments are TRL's. `anchor`: the paper's delta, 0 in its release.

    Policy and reference each read three rows a pair at every step. `rewards/chosen_elsewhere` is the chosen answer's
    reward with the crop, `rewards/accuracies_elsewhere` how often that is the lower one.
    """

    def __init__(self, *, processing_class: Any, args: Any, anchor: float = 0.0, **given: Any) -> None:
        stops = stops_of(given["model"], processing_class)
        collator = CroppedCollator(processor=processing_class, max_length=args.max_length, stops=stops)
        super().__init__(args=args, processing_class=processing_class, data_collator=collator, **given)
        self.anchor = anchor

    def mean_loss(self, model: Any, inputs: Any) -> Tensor:
        """The mean over the batch's pairs."""
        rows = {name: value for name, value in inputs.items() if name != "completion_mask"}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        logps = model(**rows, use_cache=False, labels=labels, fused_lm_head=True).log_probs.sum(dim=1)
        reference = self.model if self.ref_model is None else self.ref_model
        reference_logps = torch.cat(self.compute_ref_log_probs(reference, inputs))
        chosen, rejected, elsewhere = (logps - reference_logps).chunk(3)
        figures = {
            "rewards/chosen_elsewhere": self.beta * elsewhere,
            "rewards/margins_elsewhere": self.beta * (chosen - elsewhere),
            "rewards/accuracies_elsewhere": (chosen > elsewhere).float(),
            "logps/chosen_elsewhere": logps.chunk(3)[2],
        }
        self.log_pairs(chosen, rejected, logps.chunk(3), figures)
        losses = mdpo(chosen=chosen, rejected=rejected, chosen_elsewhere=elsewhere, beta=self.beta, anchor=self.anchor)
        return losses.mean()
