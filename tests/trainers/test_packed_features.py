"""Image features that packed training keeps: each image is encoded once, and never answered for another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from tests.trainers.tiny_trainers import ALL, CORE, assert_alike, compared, preferences, tower_passes, trainer
from trainers.data.rows import Preference
from trainers.packed.trainer import PackedDPOTrainer
from trainers.packed.vision_cache import digest


def with_an_image_again(pairs: list[Preference]) -> list[Preference]:
    """And its first image beside another prompt."""
    return [*pairs, replace(pairs[0], id="again", prompt="on the table", row=99)]


def weights(made: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in made.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("checkpointing", (pytest.param(False, marks=pytest.mark.slow), True))
@pytest.mark.parametrize("family", ALL)
def test_the_reference_encodes_every_image_once_and_training_none(
    family: str, checkpointing: bool, checkpoint: Any, tmp_path: Path
) -> None:
    """Batches of training hold other images together than those of the reference do, filled up otherwise."""
    pairs = with_an_image_again(preferences())
    settings: dict[str, Any] = {"num_train_epochs": 2, "gradient_checkpointing": checkpointing}
    made = trainer(PackedDPOTrainer, checkpoint(family), pairs, tmp_path, **settings)
    seen = tower_passes(made)
    made.add_references()
    assert len(seen) == len(made.features)
    if family in (*CORE, "llava_next", "llava_onevision", "qwen"):  # the others know tiles alone
        assert len(seen) == 3
    else:
        assert len(seen) >= 3
    seen.clear()
    made.train()
    assert made.state.global_step == 6
    assert seen == []


def test_a_reference_that_is_remembered_leaves_encoding_to_the_first_epoch(checkpoint: Any, tmp_path: Path) -> None:
    trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path).add_references()
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path, num_train_epochs=3)
    seen = tower_passes(made)
    made.train()
    assert seen == [1, 1, 1]


@pytest.mark.parametrize("family", ("llava", pytest.param("qwen2_vl", marks=pytest.mark.slow)))
def test_what_there_is_no_room_for_is_encoded_again_to_the_same_weights(
    family: str, checkpoint: Any, tmp_path: Path
) -> None:

    def trained(room: int) -> tuple[Any, int]:
        options = {"features_room": room}
        made = trainer(
            PackedDPOTrainer, checkpoint(family), preferences(), tmp_path / str(room), options, num_train_epochs=2
        )
        seen = tower_passes(made)
        made.train()
        assert made.features.used <= room
        return made, len(seen)

    everything, passes = trained(2 << 30)
    assert (len(everything.features), passes) == (3, 3)
    for room, kept in ((everything.features.used - 1, (1, 2)), (1, (0,))):
        less, passes = trained(room)
        assert len(less.features) in kept
        assert passes > 3
        assert all(torch.equal(weights(everything)[name], value) for name, value in weights(less).items())


def test_what_was_not_asked_for_longest_is_dropped(checkpoint: Any, tmp_path: Path) -> None:
    features = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path).features
    made = tower_passes(features)
    size = features.backbone.config.vision_config.image_size
    one, two, three = torch.randn(3, 1, 3, size, size)
    features(pixel_values=one)
    features.room = 2 * features.used
    for asked, passes in ((two, 2), (one, 2), (three, 3), (one, 3), (two, 4), (three, 5)):
        features(pixel_values=asked)
        assert len(made) == passes
    features.clear()
    assert (len(features), features.used) == (0, 0)


def test_pixels_changed_on_their_way_are_never_answered_from_what_is_kept(checkpoint: Any, tmp_path: Path) -> None:
    losses = []
    for room in (2 << 30, 0):
        made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path, {"features_room": room})
        made.add_references()
        batch = made._prepare_inputs(made.data_collator([made.train_dataset[index] for index in range(10)]))
        passes = tower_passes(made)
        clean = made.compute_loss(made.model, batch).item()
        assert len(passes) == (0 if room else 1)
        batch["pixel_values"][1] += 0.5 * torch.randn(
            batch["pixel_values"][1].shape, generator=torch.Generator().manual_seed(0)
        )
        losses.append(made.compute_loss(made.model, batch).item())
        assert losses[-1] != pytest.approx(clean, rel=1e-4)
        assert passes == ([1] if room else [3, 3])  # the one that was changed
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_same_patches_on_another_grid_are_another_image() -> None:
    patches = torch.randn(24, 8)
    wide, high = ({"pixel_values": patches, "image_grid_thw": torch.tensor([grid])} for grid in ([1, 4, 6], [1, 6, 4]))
    assert digest(wide, "") != digest(high, "")
    assert digest(wide, "") == digest({name: value.clone() for name, value in wide.items()}, "")
    assert digest(wide, "") != digest({**wide, "pixel_values": patches.bfloat16()}, "")


def test_features_of_another_precision_are_other_features(checkpoint: Any, tmp_path: Path) -> None:
    features = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path).features
    size = features.backbone.config.vision_config.image_size
    pixels = torch.randn(2, 3, size, size)
    exact = features(pixel_values=pixels).pooler_output
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = features(pixel_values=pixels).pooler_output
    assert [part.dtype for part in (*exact, *rounded)] == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert len(features) == 4


def test_features_that_chance_takes_part_in_are_not_kept(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    for module in made.backbone.vision_tower.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    made.add_references()
    assert len(made.features) == 0


def test_more_than_features_is_asked_of_the_encoder_itself(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    size = made.backbone.config.vision_config.image_size
    found = made.backbone.get_image_features(pixel_values=torch.randn(1, 3, size, size), output_attentions=True)
    assert found.last_hidden_state is not None
    assert len(made.features) == 0


@pytest.mark.parametrize(
    "lora",
    (
        pytest.param({"target_modules": ["q_proj", "v_proj"]}, id="adapters in the encoder"),
        pytest.param({"target_modules": ["down_proj", "linear_1"]}, id="adapters in the projector"),
        pytest.param(
            {"target_modules": ["down_proj"], "modules_to_save": ["multi_modal_projector"]}, id="a projector of its own"
        ),
    ),
)
def test_where_encoder_or_projector_learn_nothing_is_kept(
    lora: dict[str, Any], checkpoint: Any, tmp_path: Path
) -> None:
    options = {"peft_config": LoraConfig(r=2, **lora)}
    assert trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path, options).features is None
    stock, ours = compared(checkpoint("llava"), preferences((3, 1)), tmp_path, options)
    assert any("vision_tower" in name or "multi_modal_projector" in name for name in ours[1])
    assert_alike(stock, ours)
