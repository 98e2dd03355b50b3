"""mDPO in training: what is cropped, and the loss against answers read one at a time."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.errors import TrainingError
from tests.trainers import tiny_trainers
from tests.trainers.one_answer import picture, said
from tests.trainers.tiny_trainers import loss_of, small_pair, without_adapters
from tests.trainers.training_runs import assert_killed_run_ends_alike, job_of
from trainers.losses import functions
from trainers.losses.mdpo import CroppedCollator, CroppedPairs, ImageDPOTrainer, cropped
from trainers.training import dpo
from trainers.training.job import Job

SEED, BETA = 3, 0.2
PAIRS = [
    small_pair("a", 0, "a red circle", "two dogs ."),
    small_pair("b", 1, "the car near a table is blue", "no"),
    small_pair("c", 1, "yes", "a table"),
]


def trainer(folder: Path, out: Path, anchor: float = 0.0, **changes: Any) -> Any:
    options = {"anchor": anchor, "eval_dataset": CroppedPairs(PAIRS, SEED)}
    settings = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3, "beta": BETA, **changes}
    return tiny_trainers.trainer(ImageDPOTrainer, folder, CroppedPairs(PAIRS, SEED), out, options, **settings)


def alone(made: Any, anchor: float = 0.0, epoch: int = 0) -> tuple[float, dict[str, float]]:
    """(loss, mean log-ratios) by the pure function, of answers that are read one at a time."""
    ratios: dict[str, list[torch.Tensor]] = {"chosen": [], "rejected": [], "chosen_elsewhere": []}
    for pair in PAIRS:
        images = [shown.open().convert("RGB") for shown in pair.images]
        crops = [cropped(image, seed=f"crop/{SEED}/{pair.id}/{epoch}/{place}") for place, image in enumerate(images)]
        for name, answer, beside in (
            ("chosen", pair.chosen, images),
            ("rejected", pair.rejected, images),
            ("chosen_elsewhere", pair.chosen, crops),
        ):
            policy, reference = said(made, beside, pair.prompt, answer)
            ratios[name].append((policy - reference).sum())
    whole = {name: torch.stack(values) for name, values in ratios.items()}
    loss = functions.mdpo(**whole, beta=BETA, anchor=anchor).mean().item()
    return loss, {name: values.mean().item() for name, values in whole.items()}


# Crops


def test_a_crop_is_a_piece_of_one_to_twenty_percent_at_the_pictures_own_size() -> None:
    """Each pixel says where it stands, so that the piece's extent can be read off."""
    width, height = 400, 300
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    whole = Image.fromarray(np.stack([across, down, 0 * across], axis=-1).round().astype(np.uint8))
    shares = []
    for index in range(200):
        piece = np.asarray(cropped(whole, seed=str(index)), dtype=float)
        assert piece.shape == (height, width, 3)
        shares.append(np.ptp(piece[..., 0]) * np.ptp(piece[..., 1]) / 255**2)
    assert min(shares) < 0.03
    assert max(shares) > 0.17
    assert all(0.005 < share < 0.21 for share in shares)


def test_a_crop_depends_on_its_seed_alone() -> None:
    whole = picture(5, (40, 60)).open()
    assert cropped(whole, seed="a").tobytes() == cropped(whole, seed="a").tobytes()
    assert cropped(whole, seed="a").tobytes() != cropped(whole, seed="b").tobytes()


@pytest.mark.parametrize("size", ((1, 1), (300, 2), (2, 300)))
def test_the_thinnest_pictures_are_cropped_within_their_edges(size: tuple[int, int]) -> None:
    whole = Image.new("RGB", size, (7, 8, 9))
    for index in range(20):
        piece = cropped(whole, seed=str(index))
        assert (piece.size, piece.getpixel((0, 0))) == (size, (7, 8, 9))


def test_each_pair_and_epoch_has_a_crop_of_its_own_and_held_out_pairs_the_same_ones() -> None:
    pairs = CroppedPairs(PAIRS, SEED)
    shown: set[bytes] = set()
    for epoch in (0, 1):
        pairs.epoch = epoch
        shown |= {pairs[index]["elsewhere"][0].tobytes() for index in range(3)}
    assert len(shown) == 6
    assert CroppedPairs(PAIRS, SEED)[2]["elsewhere"][0].tobytes() in shown
    assert CroppedPairs(PAIRS, SEED + 1)[2]["elsewhere"][0].tobytes() not in shown


def test_pairs_without_a_picture_are_named() -> None:
    with pytest.raises(TrainingError, match=r"1 pairs have none: 'blind'; leave them out of the data"):
        CroppedPairs([*PAIRS, replace(PAIRS[0], id="blind", images=())], SEED)


# The loss


ALL = (
    "llava",
    "qwen2_vl",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("llava_next", "internvl", "idefics3", "qwen")),
)


@pytest.mark.parametrize("family", ALL)
def test_the_loss_is_mdpos_of_answers_read_one_at_a_time(family: str, checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint(family), tmp_path)
    loss, ratios = alone(made)
    assert loss_of(made).item() == pytest.approx(loss, rel=1e-5)
    assert abs(ratios["chosen"] - ratios["chosen_elsewhere"]) > 1e-4  # the picture matters
    for name, ratio in ratios.items():
        assert made._metrics["train"][f"rewards/{name}"] == [pytest.approx(BETA * ratio, rel=1e-3, abs=1e-5)]


def test_the_anchor_holds_the_chosen_reward_above_itself(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint("llava"), tmp_path, anchor=0.7)
    anchored, free = alone(made, anchor=0.7)[0], alone(made)[0]
    assert anchored > free + 0.1
    assert loss_of(made).item() == pytest.approx(anchored, rel=1e-5)


def test_policy_and_reference_alike_lose_three_times_ln_2(checkpoint: Any, tmp_path: Path) -> None:
    made = without_adapters(trainer(checkpoint("llava"), tmp_path))
    assert loss_of(made).item() == pytest.approx(3 * math.log(2), abs=1e-5)


def test_full_fine_tuning_has_a_reference_of_its_own(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint("llava"), tmp_path, full=True)
    assert loss_of(made).item() == pytest.approx(alone(made)[0], rel=1e-5)


def test_adapters_alone_get_gradients(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint("qwen2_vl"), tmp_path)
    loss_of(made).backward()
    moved = {name for name, value in made.model.named_parameters() if value.grad is not None and bool(value.grad.any())}
    assert moved
    assert all("lora_" in name for name in moved)


def test_two_epochs_lower_the_loss_on_the_same_crops(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(checkpoint("llava"), tmp_path, num_train_epochs=2, learning_rate=1e-2)
    before = made.evaluate()
    made.train()
    after = made.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert before["eval_rewards/chosen_elsewhere"] != after["eval_rewards/chosen_elsewhere"]


def test_crops_are_fresh_every_epoch_and_the_same_again(checkpoint: Any, tmp_path: Path) -> None:
    seen: list[list[bytes]] = []

    class Watched(CroppedCollator):
        def __call__(self, examples: Any) -> Any:
            seen[-1].extend(
                example["elsewhere"][0].tobytes()
                for example in sorted(examples, key=lambda example: str(example["id"]))
            )
            return super().__call__(examples)

    for _ in range(2):
        made = trainer(checkpoint("llava"), tmp_path, num_train_epochs=2)
        made.data_collator = Watched(processor=made.processing_class)
        seen.append([])
        made.train()
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 6


# By a recipe


def job(out: Path, **changes: Any) -> Job:
    texts: dict[str, Any] = {"prompt": "describe the image in detail."}
    texts |= {"chosen": "a red ring.", "rejected": "a blue ball."}
    pairs = [replace(pair, id=f"{pair.id}{row}", row=row, **texts) for row, pair in enumerate(PAIRS * 2)]
    settings = {"loss": "mdpo", "sft_weight": 0.0, "batch_size": 2, "checkpoints": 1, "log_steps": 1, "warmup_steps": 0}
    return job_of(pairs, out, **{**settings, **changes})


def test_a_run_killed_in_its_second_epoch_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Whose crops are not the first one's."""
    assert_killed_run_ends_alike(lambda name: job(tmp_path / name, epochs=2.0, save_steps=4))


def test_held_out_pairs_are_scored_beside_crops_that_stay(tmp_path: Path) -> None:
    whole = job(tmp_path, eval_steps=2, epochs=2.0, learning_rate=1e-12, crop_area=(0.05, 0.1), anchor=0.5)
    dpo.train(replace(whole, held_out=whole.preferences[4:], preferences=whole.preferences[:4]))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scored = [line["eval_logps/chosen_elsewhere"] for line in lines if "eval_logps/chosen_elsewhere" in line]
    assert len(scored) == 2
    assert scored[0] == pytest.approx(scored[1], rel=1e-6)
    functions = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert functions == [pytest.approx(2 * math.log(2) + math.log1p(math.exp(0.5)), abs=1e-4)] * 2
