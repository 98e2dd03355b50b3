"""POVID's second stage in training, against an arithmetic of its own, one answer at a time: each row of paper against
code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from support.errors import DataError, TrainingError
from tests.trainers import tiny_trainers
from tests.trainers.one_answer import read
from tests.trainers.tiny_trainers import loss_of, small_pair, without_adapters
from trainers.config.training import Noise
from trainers.data.rows import Preference
from trainers.losses.noise import noise_seed, noised, noised_pixels
from trainers.losses.povid import NoisedCollator, NoisedPairs, PovidTrainer, Variant

PAIRS = [
    small_pair("a", 0, "a red circle", "two dogs ."),
    small_pair("b", 1, "the car near a table is blue", "no"),
]


def trainer(folder: Path, out: Path, variant: Variant, noise: Noise | None = None, **changes: Any) -> Any:
    options = {"variant": variant, "noise": noise or Noise()}
    settings = {"per_device_train_batch_size": 2, "beta": 0.2, **changes}
    return tiny_trainers.trainer(PovidTrainer, folder, NoisedPairs(PAIRS, seed=3), out, options, **settings)


class OneByOne:
    """The same loss from its definition: no batch, no padding, no log-probabilities by anybody else's code."""

    def __init__(self, made: Any, noise: Noise, epoch: int = 0) -> None:
        self.model, self.processor, self.noise, self.epoch = made.model, made.processing_class, noise, epoch

    def read(self, pair: Preference, answer: str, noisy: bool, reference: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities [length, vocabulary], the answer's tokens)."""
        images = [picture.open().convert("RGB") for picture in pair.images]
        seed, process = noise_seed(3, pair.row, self.epoch), self.processor.image_processor
        how: dict[str, Any] = {"step": self.noise.step, "overflow": self.noise.overflow}
        if noisy and self.noise.place == "before":
            images = [noised(images[0], seed=seed, **how)]

        def change(inputs: dict[str, Any]) -> None:
            if noisy and self.noise.place == "after":
                drawn = torch.Generator().manual_seed(seed)
                how.update(mean=process.image_mean, std=process.image_std, generator=drawn)
                inputs["pixel_values"] = noised_pixels(inputs["pixel_values"][0], **how)[None]

        return read(self.model, self.processor, images, pair.prompt, answer, reference=reference, change=change)

    def said(self, pair: Preference, answer: str, reference: bool) -> float:
        scores, tokens = self.read(pair, answer, False, reference)
        return float(scores[range(len(tokens)), tokens].sum())

    def ratio(self, pair: Preference, answer: str) -> float:
        return self.said(pair, answer, False) - self.said(pair, answer, True)

    def own(self, pair: Preference, reference: bool) -> torch.Tensor:
        return self.read(pair, pair.chosen, True, reference)[0].argmax(-1)

    def scored(self, pair: Preference, own: torch.Tensor, noisy: bool, reference: bool) -> float:
        scores = self.read(pair, pair.chosen, noisy, reference)[0]
        return float(scores[range(len(own)), own].sum())

    def code(self, beta: float) -> float:
        """Mean of two sigmoids; own answers scored beside the clean image, each model its own."""
        losses = []
        for pair in PAIRS:
            chosen, rejected = self.ratio(pair, pair.chosen), self.ratio(pair, pair.rejected)
            policy, reference = (self.scored(pair, self.own(pair, side), False, side) for side in (False, True))
            own = policy - reference
            losses += [-logsigmoid(torch.tensor(beta * (chosen - other))).item() for other in (rejected, own)]
        return float(np.mean(losses))

    def paper(self, alpha: float, beta_text: float, beta_image: float) -> float:
        """One sigmoid of a sum; the policy's answer scored beside the noised image, by both models."""
        losses = []
        for pair in PAIRS:
            tokens = self.own(pair, False)
            own = self.scored(pair, tokens, True, False) - self.scored(pair, tokens, True, True)
            against = beta_text * self.ratio(pair, pair.rejected) + beta_image * own
            losses.append(-logsigmoid(torch.tensor(alpha * self.ratio(pair, pair.chosen) - against)).item())
        return float(np.mean(losses))


@pytest.mark.parametrize("family", ("llava", "qwen2_vl"))
@pytest.mark.parametrize("overflow", ("clamp", "wrap"))
def test_the_codes_loss_is_the_mean_of_two_sigmoids_beside_the_clean_image(
    family: str, overflow: Any, checkpoint: Any, tmp_path: Path
) -> None:
    noise = Noise(overflow=overflow)
    made = trainer(checkpoint(family), tmp_path, "povid-code", noise)
    assert loss_of(made).item() == pytest.approx(OneByOne(made, noise).code(0.2), rel=1e-5)


@pytest.mark.parametrize(
    "noise", (Noise(place="before"), Noise(place="after"), Noise(alpha=0.7, beta_image=0.4)), ids=str
)
def test_the_papers_loss_is_one_sigmoid_with_three_coefficients(noise: Noise, checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint("llava"), tmp_path, "povid-paper", noise)
    expected = OneByOne(made, noise).paper(noise.alpha or 0.2, 0.2, noise.beta_image or 0.2)
    assert loss_of(made).item() == pytest.approx(expected, rel=1e-5)


def test_paper_and_code_and_kinds_of_noise_are_not_the_same(checkpoint: Any, tmp_path: Path) -> None:
    settings: list[tuple[Variant, Noise]] = [
        ("povid-code", Noise()),
        ("povid-paper", Noise()),
        ("povid-code", Noise(overflow="wrap")),
        ("povid-code", Noise(place="after")),
        ("povid-code", Noise(step=100)),
    ]
    losses = [loss_of(trainer(checkpoint("llava"), tmp_path, variant, noise)).item() for variant, noise in settings]
    assert len({round(loss, 6) for loss in losses}) == len(settings)


@pytest.mark.parametrize("variant", ("povid-code", "povid-paper"))
def test_policy_and_reference_alike_lose_ln_2(variant: Variant, checkpoint: Any, tmp_path: Path) -> None:
    made = without_adapters(trainer(checkpoint("llava"), tmp_path, variant))
    assert loss_of(made).item() == pytest.approx(np.log(2), abs=1e-5)


def test_only_the_paper_learns_from_the_noised_image(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code looks for a token in it; the paper scores it there, and gradients flow."""
    graphs: dict[str, list[bool]] = {}
    for variant in ("povid-code", "povid-paper"):
        made = trainer(checkpoint("llava"), tmp_path, variant)
        graphs[variant] = []
        made.model.get_base_model().lm_head.register_forward_hook(
            lambda module, given, out, kept=graphs[variant]: kept.append(out.requires_grad)
        )
        loss_of(made).backward()
    assert graphs["povid-code"] == [False, True, False, False]  # noisy, clean, and both of the reference
    assert graphs["povid-paper"] == [True, True, False, False]


def test_logged_rewards_are_those_of_the_written_pair(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint("llava"), tmp_path, "povid-code")
    loss_of(made)
    alone = OneByOne(made, Noise())
    margins = [0.2 * (alone.ratio(pair, pair.chosen) - alone.ratio(pair, pair.rejected)) for pair in PAIRS]
    [logged] = made._metrics["train"]["rewards/margins"]
    assert logged == pytest.approx(float(np.mean(margins)), rel=1e-4)
    assert 0 < made._metrics["train"]["misled"][0] <= 1


def test_noise_is_fresh_every_epoch_and_the_same_again(checkpoint: Any, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    class Watched(NoisedCollator):
        def __call__(self, examples: Any) -> Any:
            seen[-1].extend(example["noise"] for example in sorted(examples, key=lambda example: str(example["id"])))
            return super().__call__(examples)

    for _ in range(2):
        made = trainer(checkpoint("llava"), tmp_path, "povid-code", num_train_epochs=2)
        made.data_collator = Watched(processor=made.processing_class, noise=Noise())
        seen.append([])
        made.train()
    assert seen[0] == seen[1] == [noise_seed(3, row, epoch) for epoch in (0, 1) for row in (0, 1)]


def test_pairs_without_a_picture_are_named() -> None:
    with pytest.raises(TrainingError, match=r"noise pictures, and 1 pairs have none: 'blind'; leave them out"):
        NoisedPairs([*PAIRS, replace(PAIRS[0], id="blind", images=())], seed=0)


def test_noise_after_the_resize_is_refused_for_rows_of_patches(checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="noise such pictures before the resize"):
        loss_of(trainer(checkpoint("qwen2_vl"), tmp_path, "povid-code", Noise(place="after")))
