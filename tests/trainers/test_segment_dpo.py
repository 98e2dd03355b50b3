"""DDPO in training, packed and not: the loss against answers that are read one at a time."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor
from trl import DPOTrainer

from tests.trainers import tiny_trainers
from tests.trainers.one_answer import read, said
from tests.trainers.tiny_trainers import difference, loss_of, small_pair
from tests.trainers.training_runs import assert_killed_run_ends_alike, job_of, logged
from trainers.data.torch_dataset import Pairs
from trainers.losses import functions
from trainers.losses.ddpo import SegmentWeights, token_weights
from trainers.packed.trainer import PackedDPOTrainer
from trainers.training import dpo
from trainers.training.job import Job

BETA = 0.5
SHOWS = "the image shows a "
PAIRS = [
    small_pair("a", 0, f"{SHOWS}red circle and two dogs on the table", f"{SHOWS}blue car near two dogs on the table"),
    small_pair("b", 1, "yes the car is blue", "no"),
    small_pair("c", 1, "yes the car is blue", "yes the car is a dog"),
]


class Plain(SegmentWeights, DPOTrainer):
    """Unpacked."""


class Packed(SegmentWeights, PackedDPOTrainer):
    """Packed."""


def trainer(kind: Any, folder: Path, out: Path, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    settings = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3, "beta": BETA, **changes}
    options = {"eval_dataset": Pairs(PAIRS), **(options or {})}
    return tiny_trainers.trainer(kind, folder, PAIRS, out, options, **settings)


def alone(made: Any, gamma: float) -> tuple[float, dict[str, float]]:
    """(loss, mean rewards) by the pure functions, of answers that are read one at a time."""
    ratios: dict[str, list[torch.Tensor]] = {"chosen": [], "rejected": []}
    for pair in PAIRS:
        images = [shown.open().convert("RGB") for shown in pair.images]
        sides = {"chosen": pair.chosen, "rejected": pair.rejected}
        both = [read(made.model, made.processing_class, images, pair.prompt, said)[1] for said in sides.values()]
        same = [-1] * 3  # what the prompt ends with
        changed = functions.changed_tokens([*same, *both[0].tolist()], [*same, *both[1].tolist()])
        for name, differs in zip(sides, changed, strict=True):
            policy, reference = (
                functions.segment_log_probs(found, torch.ones(len(found)), tensor(differs[3:]), gamma)
                for found in said(made, images, pair.prompt, sides[name])
            )
            ratios[name].append(policy - reference)
    whole = {name: torch.stack(values) for name, values in ratios.items()}
    rewards = {name: BETA * values.mean().item() for name, values in whole.items()}
    return functions.dpo(**whole, beta=BETA).mean().item(), rewards


# Weights


def test_weights_follow_the_changed_tokens_of_each_pair_and_add_up_to_one() -> None:
    """Prompt 7 8 9; then 1 2 3 4 5 6 against 1 2 4 5 6, whose first two are alike with the prompt before them; padding
    is 0."""
    input_ids = tensor([[7, 8, 9, 1, 2, 3, 4, 5, 6, 0], [7, 8, 9, 1, 2, 4, 5, 6, 0, 0]])
    asked = tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1, 0, 0]]).bool()
    chosen, rejected = token_weights(input_ids, asked, gamma=5.0)
    assert (10 * chosen).tolist() == pytest.approx([0, 0, 1, 1, 5, 1, 1, 1, 0])
    assert (5 * rejected).tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 1, 0, 0])


def test_an_answer_without_a_token_weighs_nothing() -> None:
    ids = torch.tensor([[7, 8, 9, 0, 0], [7, 8, 9, 4, 5]])
    asked = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    assert token_weights(ids, asked, 5.0).tolist() == [[0, 0, 0, 0], [0, 0, 0.5, 0.5]]


def test_weights_make_trls_sum_the_segments_log_probability() -> None:
    input_ids = tensor([[9, 1, 2, 3, 4], [9, 5, 2, 3, 4], [9, 1, 6, 7, 0], [9, 8, 2, 3, 4]])
    asked = tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]).bool()
    log_probs = -torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) * asked[:, 1:]
    changed = torch.ones(4, 4, dtype=torch.bool)
    changed[1, 1:] = changed[3, 1:] = False  # the second pair's 2 3 4
    wanted = functions.segment_log_probs(log_probs, asked[:, 1:].float(), changed, gamma=3.0)
    torch.testing.assert_close((log_probs * token_weights(input_ids, asked, gamma=3.0)).sum(-1), wanted)


# The loss


@pytest.mark.parametrize("family", ("llava", "qwen2_vl"))
@pytest.mark.parametrize("kind", (Plain, Packed), ids=("plain", "packed"))
def test_the_loss_is_dpo_of_segment_log_probabilities_read_one_at_a_time(
    kind: Any, family: str, checkpoint: Any, tmp_path: Path
) -> None:
    made = trainer(kind, checkpoint(family), tmp_path)
    loss, rewards = alone(made, 5.0)
    assert abs(loss - alone(made, 1.0)[0]) > 1e-4  # the weights matter
    assert loss_of(made).item() == pytest.approx(loss, rel=1e-5)
    for name, reward in rewards.items():
        assert made._metrics["train"][f"rewards/{name}"] == [pytest.approx(reward, rel=1e-3, abs=1e-5)]


def test_full_fine_tuning_weighs_its_reference_too(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(Plain, checkpoint("llava"), tmp_path, full=True)
    assert loss_of(made).item() == pytest.approx(alone(made, 5.0)[0], rel=1e-5)


def test_kept_references_belong_to_one_gamma(checkpoint: Any, tmp_path: Path) -> None:
    """Both runs keep what the reference says in one folder."""
    for gamma in (5.0, 2.0):
        made = trainer(Packed, checkpoint("llava"), tmp_path, options={"gamma": gamma})
        assert loss_of(made).item() == pytest.approx(alone(made, gamma)[0], rel=1e-5)
    unweighed = trainer(PackedDPOTrainer, checkpoint("llava"), tmp_path)
    stock = trainer(DPOTrainer, checkpoint("llava"), tmp_path / "stock")
    assert loss_of(unweighed).item() == pytest.approx(loss_of(stock).item(), rel=1e-5)


def test_adapters_alone_get_gradients_and_the_same_ones_packed_or_not(checkpoint: Any, tmp_path: Path) -> None:
    found = []
    for kind in (Plain, Packed):
        made = trainer(kind, checkpoint("qwen2_vl"), tmp_path)
        loss_of(made).backward()
        found.append({n: value.grad for n, value in made.model.named_parameters() if value.grad is not None})
        assert all("lora_" in name for name, grad in found[-1].items() if grad.any())
    assert difference(found[0], found[1]) < 1e-5


@pytest.mark.parametrize("kind", (Plain, Packed), ids=("plain", "packed"))
def test_two_epochs_lower_the_loss(kind: Any, checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(kind, checkpoint("llava"), tmp_path, num_train_epochs=2, learning_rate=1e-2)
    before = made.evaluate()["eval_loss"]
    assert before == pytest.approx(alone(made, 5.0)[0], rel=1e-5)
    made.train()
    assert made.evaluate()["eval_loss"] < before


# By a recipe


def job(out: Path, **changes: Any) -> Job:
    said = "a red ring. a {} the background is gray."
    answers: dict[str, Any] = {"chosen": said.format("blue circle."), "rejected": said.format("green square.")}
    pairs = [
        replace(pair, id=f"{pair.id}{row}", prompt="describe the image in detail.", row=row, **answers)
        for row, pair in enumerate(PAIRS * 2)
    ]
    settings = {"loss": "ddpo", "beta": BETA, "sft_weight": 0.0, "batch_size": 2, "log_steps": 1, "warmup_steps": 0}
    return job_of(pairs, out, **{**settings, "checkpoints": 4, **changes})


def test_packed_and_plain_runs_log_the_same_and_score_held_out_pairs(tmp_path: Path) -> None:
    for name, changes in (("packed", {"group_pairs": True}), ("plain", {"plain_trl": True})):
        steps = {"batch_size": 4, "epochs": 4.0, "learning_rate": 1e-3, "checkpoints": 1, "eval_steps": 1}
        whole = job(tmp_path / name, gamma=3.0, **steps, **changes)
        dpo.train(replace(whole, held_out=whole.preferences[4:], preferences=whole.preferences[:4]))
    for name in ("loss", "rewards/margins", "eval_loss", "eval_logps/chosen"):
        packed, plain = logged(tmp_path / "packed", name), logged(tmp_path / "plain", name)
        assert len(packed) == 4
        assert packed == pytest.approx(plain, rel=1e-3, abs=1e-5)
    assert logged(tmp_path / "packed", "eval_loss")[-1] < math.log(2) - 0.1


@pytest.mark.parametrize("plain", (False, True), ids=("packed", "plain"))
def test_a_killed_run_ends_with_the_same_weights(plain: bool, tmp_path: Path) -> None:
    assert_killed_run_ends_alike(lambda name: job(tmp_path / name, epochs=2.0, save_steps=4, plain_trl=plain))
