"""Packed training against TRL's own: the same loss, the same gradients, less work."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from trl import DPOTrainer

from support.errors import TrainingError
from tests.trainers import two_packed
from tests.trainers.tiny_trainers import (
    ALL,
    assert_alike,
    compared,
    difference,
    loss_and_gradients,
    preferences,
    tower_passes,
    trainer,
)
from trainers.data.torch_dataset import Pairs
from trainers.packed import collator, head
from trainers.packed import trainer as packed
from trainers.packed.attention import Group, pack
from trainers.packed.trainer import PackedDPOTrainer


@pytest.mark.parametrize("family", ALL)
def test_loss_gradients_and_metrics_are_trls(family: str, checkpoint: Any, tmp_path: Path) -> None:
    """Prompts of 6, 1 and 3 pairs, each with an image of its own size."""
    stock, ours = compared(checkpoint(family), preferences(), tmp_path)
    assert abs(stock[0] - math.log(2)) > 1e-4  # policy and reference differ
    assert_alike(stock, ours)


@pytest.mark.parametrize("family", ALL[:-1])
def test_pairs_that_share_no_prompt_are_packed_each_alone(family: str, checkpoint: Any, tmp_path: Path) -> None:
    assert_alike(*compared(checkpoint(family), preferences((1, 1, 1), seed=3), tmp_path))


@pytest.mark.parametrize(
    "changes",
    (
        pytest.param({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}, id="mpo"),
        pytest.param({"loss_type": ["ipo"], "use_weighting": True}, id="weighted ipo"),
        pytest.param({"ld_alpha": 0.5}, id="length-desensitized"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointed"),
        pytest.param(
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, id="reentrant"
        ),
        pytest.param({"max_length": 45}, id="answers cut"),
    ),
)
def test_trls_settings_mean_the_same(changes: dict[str, Any], checkpoint: Any, tmp_path: Path) -> None:
    assert_alike(*compared(checkpoint("llava"), preferences((3, 1)), tmp_path, **changes))


@pytest.mark.parametrize("family", ("llava", "qwen2_vl"))
@pytest.mark.parametrize("images", (0, 2))
def test_prompts_with_no_image_or_several(family: str, images: int, checkpoint: Any, tmp_path: Path) -> None:
    assert_alike(*compared(checkpoint(family), preferences((3, 1), images=images), tmp_path))


def test_prompts_with_and_without_images_in_one_batch(checkpoint: Any, tmp_path: Path) -> None:
    blind = [replace(pair, images=(), row=pair.row + 10) for pair in preferences((3,), seed=1)]
    assert_alike(*compared(checkpoint("qwen2_5_vl"), [*preferences((3, 1)), *blind], tmp_path))


def test_an_encoder_that_is_trained_gets_its_gradients(checkpoint: Any, tmp_path: Path) -> None:
    everywhere = {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])}
    stock, ours = compared(checkpoint("llava"), preferences((3, 1)), tmp_path, everywhere)
    assert any("vision_tower" in name for name in ours[1])
    assert_alike(stock, ours)


def test_a_run_logs_trls_losses_step_by_step(checkpoint: Any, tmp_path: Path) -> None:
    logs = []
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "num_train_epochs": 2}
    for kind in (DPOTrainer, PackedDPOTrainer):
        made = trainer(kind, checkpoint("llava"), preferences((6, 3, 3), seed=5), tmp_path, **settings)
        made.train()
        logs.append([line["loss"] for line in made.state.log_history if "loss" in line])
    assert len(logs[0]) == 4
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    assert logs[0][-1] != pytest.approx(logs[0][0], rel=1e-2)


RANK = """
import json, sys
from pathlib import Path
from tests.trainers.tiny_trainers import PackedDPOTrainer, preferences, trainer
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
made = trainer(PackedDPOTrainer, folder, preferences((6, 3, 3)), out, per_device_train_batch_size=2)
made.train()
if made.accelerator.is_main_process:
    assert made.accelerator.num_processes == 2
    losses = [line["loss"] for line in made.state.log_history if "loss" in line]
    (out / "losses.json").write_text(json.dumps(losses))
"""


@pytest.mark.slow
@pytest.mark.parametrize("full", (False, True), ids=("adapters", "full"))
def test_sharded_weights_train_as_whole_ones(full: bool, checkpoint: Any, tmp_path: Path) -> None:
    """By FSDP2, as accelerate does it, over two processes: reference, losses, gradients of three steps, checkpoint."""
    folder, kind = checkpoint("llava"), "full" if full else "adapters"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(Path(two_packed.__file__)), str(folder), str(tmp_path / "sharded"), kind]
    subprocess.run([*command, *script], env=environment, check=True)
    alone = two_packed.make(folder, tmp_path / "alone", full, per_device_train_batch_size=4)
    alone.train()
    found = json.loads((tmp_path / "sharded" / "found.json").read_text())
    assert found["losses"] == pytest.approx([line["loss"] for line in alone.state.log_history if "loss" in line], 1e-5)
    assert found["sharded"] > 30
    # What is between pixels and text is on every process, unless it is trained.
    assert bool(found["whole"]) is not full
    assert all("vision_tower" in name or "multi_modal_projector" in name for name in found["whole"])
    weights = "model.safetensors" if full else "adapter_model.safetensors"
    ours, theirs = (load_file(tmp_path / each / "checkpoint-3" / weights) for each in ("sharded", "alone"))
    assert ours.keys() == theirs.keys()
    # Gradients of keys' biases are zero but for rounding, of which Adam makes steps.
    kept = [name for name in ours if "k_proj.bias" not in name]
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in kept) < 1e-4


@pytest.mark.slow
def test_two_processes_train_as_one_of_twice_the_batch(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("llava")
    (tmp_path / "rank.py").write_text(RANK)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(tmp_path / "rank.py"), str(folder), str(tmp_path)], env=environment, check=True)
    alone = trainer(PackedDPOTrainer, folder, preferences((6, 3, 3)), tmp_path / "alone", per_device_train_batch_size=4)
    alone.train()
    losses = [line["loss"] for line in alone.state.log_history if "loss" in line]
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses, rel=1e-3)
    assert len(list((tmp_path / "reference").glob("*/*.jsonl"))) == 2


def test_half_precision_stays_near_single_precision(checkpoint: Any, tmp_path: Path) -> None:
    made = [
        trainer(PackedDPOTrainer, checkpoint("llava"), preferences((3, 1)), tmp_path / name)
        for name in ("exact", "rounded")
    ]
    made[1].model.to(torch.bfloat16)
    exact, rounded = map(loss_and_gradients, made)
    assert rounded[0] == pytest.approx(exact[0], rel=0.05)
    assert 0 < difference(exact[1], rounded[1]) < 0.2


# What would go unnoticed otherwise


def everything_before(lengths: list[tuple[int, int]]) -> torch.Tensor:
    return torch.cat([torch.arange(end) for end in np.cumsum([queries for queries, _ in lengths])])


def plainly_causal(groups: Sequence[Group]) -> Any:
    row = pack(groups)
    ends = np.cumsum([queries for queries, _ in row.lengths]).tolist()
    return replace(
        row,
        keys=everything_before(row.lengths),
        lengths=[(q, end) for (q, _), end in zip(row.lengths, ends, strict=True)],
    )


def positions_run_on(groups: Sequence[Group]) -> Any:
    row = pack(groups)
    return replace(row, positions=torch.cat([torch.arange(size) for size in row.sizes]))


@pytest.mark.parametrize("mutant", (plainly_causal, positions_run_on))
def test_answers_that_see_each_other_or_stand_elsewhere_are_found_out(
    mutant: Any, checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = loss_and_gradients(trainer(DPOTrainer, checkpoint("llava"), preferences((3, 1)), tmp_path))
    monkeypatch.setattr(collator, "pack", mutant)
    ours = loss_and_gradients(trainer(PackedDPOTrainer, checkpoint("llava"), preferences((3, 1)), tmp_path))
    assert difference(stock[1], ours[1]) > 1e-3


def test_image_tokens_at_places_of_text_are_found_out(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = loss_and_gradients(trainer(DPOTrainer, checkpoint("qwen2_vl"), preferences((3, 1)), tmp_path))
    monkeypatch.setattr(packed, "positions", lambda backbone, row, grids: row["positions"][None])
    ours = loss_and_gradients(trainer(PackedDPOTrainer, checkpoint("qwen2_vl"), preferences((3, 1)), tmp_path))
    assert difference(stock[1], ours[1]) > 1e-3


# Less work


def test_four_answers_of_six_pairs_are_read_once_with_their_prompt() -> None:
    row = pack([Group(prompt=[1] * 100, answers=[[2] * 10] * 4)])
    assert row.input_ids.shape == (1, 99 + 4 * 10)
    assert row.targets.shape == (1, 40)
    assert row.lengths == [(109, 109), (10, 109), (10, 109), (10, 109)]
    assert row.answers == [10] * 4


def test_an_image_goes_through_its_frozen_encoder_once_and_without_a_graph(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(
        PackedDPOTrainer,
        checkpoint("llava"),
        preferences(),
        tmp_path,
        {"features_room": 0},
        gradient_checkpointing=True,
    )
    made.add_references()
    seen: list[tuple[int, bool]] = []
    made.backbone.vision_tower.register_forward_hook(
        lambda _, args, out: seen.append((len(args[0]), out.last_hidden_state.requires_grad))
    )
    loss_and_gradients(made)
    assert seen == [(3, False)]


def test_only_answer_tokens_are_scored(checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    made.add_references()
    original, scored = head._Scores, list[int]()

    class Counted:
        @staticmethod
        def apply(hidden: Any, *rest: Any) -> Any:
            scored.append(len(hidden))
            return original.apply(hidden, *rest)

    monkeypatch.setattr(head, "_Scores", Counted)
    loss_and_gradients(made)
    batch = made.data_collator([made.train_dataset[index] for index in range(10)])
    assert scored == [batch["packed"]["targets"].numel()]
    assert scored[0] < batch["completion_mask"].sum() / 2


def test_the_last_layer_is_computed_where_it_is_scored(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    made.add_references()
    seen: list[int] = []
    for layer in made.backbone.language_model.layers:
        layer.mlp.down_proj.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    row = made.data_collator([made.train_dataset[index] for index in range(10)])["packed"]
    loss_and_gradients(made)
    assert seen == [row["input_ids"].shape[1]] * (len(seen) - 1) + [len(row["scored"])]
    assert len(seen) > 1
    assert seen[-1] < seen[0]


def test_the_last_layer_is_not_computed_twice_for_checkpointing(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path, gradient_checkpointing=True)
    made.add_references()
    layers = made.backbone.language_model.layers
    seen: list[int] = []
    for number, layer in enumerate(layers):
        layer.self_attn.q_proj.register_forward_hook(lambda module, args, out, number=number: seen.append(number))
    loss_and_gradients(made)
    last = len(layers) - 1
    assert sorted(seen) == [number for number in range(last) for _ in range(2)] + [last]


# Refusals


def test_a_family_that_is_not_known_to_train_alike_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"type 'gemma3' are not known .*known: llava, "):
        trainer(PackedDPOTrainer, checkpoint("gemma3"), preferences((1,)), tmp_path)


@pytest.mark.parametrize("family", ("llava", "qwen2_vl"))
def test_full_fine_tuning_is_trls_without_its_second_model(family: str, checkpoint: Any, tmp_path: Path) -> None:
    """All weights are trained, head and embedding too, and nothing between pixels and text stays as it is."""
    made = [
        trainer(kind, checkpoint(family), preferences((3, 1)), tmp_path / kind.__name__, full=True)
        for kind in (DPOTrainer, PackedDPOTrainer)
    ]
    stock, ours = map(loss_and_gradients, made)
    assert made[1].ref_model is None
    assert made[1].features is None
    assert any("lm_head" in name or "embed_tokens" in name for name in ours[1])
    assert abs(stock[0] - math.log(2)) > 1e-4
    assert_alike(stock, ours)


def test_the_model_still_generates_and_scores_unpacked(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("qwen2_vl"), preferences((1,)), tmp_path)
    plain = trainer(DPOTrainer, checkpoint("qwen2_vl"), preferences((1,)), tmp_path)
    batch = plain.data_collator([plain.train_dataset[0]])
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    ours, theirs = made.model.eval(), plain.model.eval()
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits)
    settings = {"max_new_tokens": 5, "do_sample": False}
    assert ours.generate(**inputs, **settings).tolist() == theirs.generate(**inputs, **settings).tolist()


def test_a_run_killed_in_its_second_epoch_ends_with_the_same_weights(checkpoint: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 5,
        "num_train_epochs": 2,
        "train_sampling_strategy": "group_by_length",
        "per_device_train_batch_size": 6,
    }
    pairs = preferences((6, 3, 3, 6, 1, 3), seed=2)
    options = {"group_pairs": True, "reference_folder": tmp_path / "reference"}
    whole = trainer(PackedDPOTrainer, checkpoint("llava"), pairs, tmp_path / "whole", options, **settings)
    whole.train()
    assert whole.state.global_step == 8
    again = trainer(PackedDPOTrainer, checkpoint("llava"), pairs, tmp_path / "again", options, **settings)
    passes = tower_passes(again)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert 0 < sum(passes) < 6  # it had nothing kept, and not all was asked for
    wanted = dict(whole.model.named_parameters())
    assert all(torch.equal(wanted[name], value) for name, value in again.model.named_parameters())


def test_pairs_held_out_are_scored_too(checkpoint: Any, tmp_path: Path) -> None:
    held_out = Pairs(preferences((3,), seed=9))
    figures = [
        trainer(kind, checkpoint("llava"), preferences((1,)), tmp_path, {"eval_dataset": held_out}).evaluate()
        for kind in (DPOTrainer, PackedDPOTrainer)
    ]
    assert figures[1]["eval_loss"] == pytest.approx(figures[0]["eval_loss"], rel=1e-5)
    assert figures[1]["eval_rewards/margins"] == pytest.approx(figures[0]["eval_rewards/margins"], rel=1e-4)
