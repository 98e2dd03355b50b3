"""Packed training against TRL's own: the same loss, the same gradients, less work."""

import copy
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer

from harness.models.load import register
from support.errors import TrainingError
from tests.trainers.one_answer import picture
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs, PromptSampler, fill
from trainers.packed import attention, collator
from trainers.packed import trainer as packed
from trainers.packed.attention import Group, pack
from trainers.packed.collator import CutError
from trainers.packed.trainer import FAMILIES, PackedDPOTrainer
from trainers.packed.vision_cache import digest

register()
LORA = LoraConfig(
    r=4,
    lora_alpha=8,
    target_modules=r".*(language|text)_model.*\.(q_proj|v_proj|o_proj|gate_proj|down_proj)|.*\.h\.\d+\..*(c_attn|attn\.c_proj|w1|w2)",
)
TALK = "the image shows a red circle and two dogs on the table near a blue car , yes no one"


def preferences(groups: Sequence[int] = (6, 1, 3), seed: int = 0, images: int = 1) -> list[Preference]:
    """Rows of 4, 2 or 3 answers, of which all pairs are taken, first over later; every row with another image size."""
    chance = random.Random(seed)
    answers_of = {6: 4, 3: 3, 1: 2}
    found = []
    for row, pairs in enumerate(groups):
        answers = [" ".join(chance.choices(TALK.split(), k=chance.randint(2, 9))) for _ in range(answers_of[pairs])]
        shown = tuple(
            picture(100 * seed + 10 * row + image, ((56, 56), (84, 56), (28, 84))[(row + image) % 3])
            for image in range(images)
        )
        prompt = " ".join(chance.choices(TALK.split(), k=chance.randint(3, 8)))
        found += [
            Preference(
                id=f"{row}/{a}-{b}", prompt=prompt, images=shown, chosen=answers[a], rejected=answers[b], row=row
            )
            for a in range(len(answers))
            for b in range(a + 1, len(answers))
        ]
    return found


def arguments(out: Path, **changes: Any) -> DPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "dataloader_pin_memory": False,
    }
    return DPOConfig(**{**settings, **changes})


def trainer(
    kind: Any, folder: Path, pairs: list[Preference], out: Path, options: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """A trainer whose adapters already say something, so that policy and reference differ."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    made = kind(
        model=model,
        args=arguments(out, **changes),
        train_dataset=Pairs(pairs),
        processing_class=AutoProcessor.from_pretrained(folder),
        **{"peft_config": copy.deepcopy(LORA), **(options or {})},
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)
    made.model.train()
    if made.args.gradient_checkpointing:  # as `train` does
        made.model.gradient_checkpointing_enable(made.args.gradient_checkpointing_kwargs)
    return made


def loss_and_gradients(made: Any) -> tuple[float, dict[str, torch.Tensor], dict[str, list[float]]]:
    """Of all its pairs as one batch."""
    if isinstance(made, PackedDPOTrainer):
        made.add_references()
    pairs = made.train_dataset
    batch = made._prepare_inputs(made.data_collator([pairs[index] for index in range(len(pairs))]))
    loss = made.compute_loss(made.model, batch)
    loss.backward()
    gradients = {name: value.grad for name, value in made.model.named_parameters() if value.grad is not None}
    return loss.item(), gradients, dict(made._metrics["train"])


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of two gradients, relative to the largest entry."""
    assert one.keys() == other.keys()
    assert one
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 1e-4
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


CORE = ("llava", "qwen2_vl", "qwen2_5_vl")
ALL = [
    family if family in CORE else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
    if family != "qwen"
] + ["qwen"]


def compared(
    folder: Path, pairs: list[Preference], out: Path, options: dict[str, Any] | None = None, **changes: Any
) -> list[Any]:
    """(loss, gradients, metrics) of all pairs in one batch: TRL's, and ours."""
    return [
        loss_and_gradients(trainer(kind, folder, pairs, out, options, **changes))
        for kind in (DPOTrainer, PackedDPOTrainer)
    ]


def assert_alike(stock: Any, ours: Any) -> None:
    assert ours[0] == pytest.approx(stock[0], rel=1e-5)
    assert difference(stock[1], ours[1]) < 1e-5
    assert ours[2].keys() == stock[2].keys()
    for name in stock[2]:
        assert ours[2][name] == pytest.approx(stock[2][name], rel=1e-4, abs=1e-5), name


# The same as TRL's


@pytest.mark.parametrize("family", ALL)
def test_loss_gradients_and_metrics_are_trls(family: str, checkpoint: Any, tmp_path: Path) -> None:
    """Prompts of 6, 1 and 3 pairs, each with an image of its own size."""
    stock, ours = compared(checkpoint(family), preferences(), tmp_path)
    assert abs(stock[0] - math.log(2)) > 1e-3  # policy and reference differ
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
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("tests.trainers.test_packed", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
pairs = tests.preferences((6, 3, 3))
made = tests.trainer(tests.PackedDPOTrainer, Path(sys.argv[2]), pairs, Path(sys.argv[3]), per_device_train_batch_size=2)
made.train()
if made.accelerator.is_main_process:
    assert made.accelerator.num_processes == 2
    Path(sys.argv[3], "losses.json").write_text(json.dumps([line["loss"] for line in made.state.log_history if "loss" in line]))
"""


@pytest.mark.slow
def test_two_processes_train_as_one_of_twice_the_batch(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("llava")
    (tmp_path / "rank.py").write_text(RANK)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(tmp_path / "rank.py"),
    ]
    subprocess.run([*command, __file__, str(folder), str(tmp_path)], env=environment, check=True)
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
    from trl.trainer import utils

    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    made.add_references()
    original, scored = utils._ChunkedLogProbFunction, []

    class Counted:
        @staticmethod
        def apply(hidden: Any, *rest: Any) -> Any:
            scored.append(len(hidden))
            return original.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counted)
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


# Features of images that are kept


def tower_passes(made: Any) -> list[int]:
    """Grows by the images (tiles, patches) of each pass through the encoder."""
    seen: list[int] = []

    def noted(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        seen.append(len(args[0] if args else kwargs["pixel_values"]))

    made.backbone.get_encoder(modality="image").register_forward_hook(noted, with_kwargs=True)
    return seen


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


# The attention


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Any) -> torch.Tensor:
    """By a mask of the row's length squared."""
    allowed = torch.zeros(query.shape[2], key.shape[2], dtype=torch.bool)
    first = 0
    for (queries, seen), keys in zip(row.lengths, row.keys.split([seen for _, seen in row.lengths]), strict=True):
        for number in range(queries):
            allowed[first + number, keys[: seen - queries + number + 1]] = True
        first += queries
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2)


ROW = pack([Group(prompt=[1] * 7, answers=[[2] * 3, [3] * 5, [4]]), Group(prompt=[5], answers=[[6] * 2, [7] * 2])])


def test_segments_attend_as_a_dense_mask_would_have_them() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, ROW.input_ids.shape[1], 16) for heads in (4, 2, 2))
    argument = attention.attention_argument(ROW.keys, ROW.lengths)
    found, _ = attention.shared_prefix_attention(torch.nn.Identity(), query, key, value, None, shared_prefix=argument)
    torch.testing.assert_close(found, dense(query, key, value, ROW))


def test_places_that_nobody_asks_for_see_nothing() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, ROW.input_ids.shape[1], 16) for heads in (4, 2, 2))
    lengths = [(asked, seen) for asked, (_, seen) in zip(ROW.answers, ROW.lengths, strict=True)]
    argument = attention.attention_argument(ROW.keys, lengths, ROW.scored)
    found, _ = attention.shared_prefix_attention(torch.nn.Identity(), query, key, value, None, shared_prefix=argument)
    torch.testing.assert_close(found[:, ROW.scored], dense(query, key, value, ROW)[:, ROW.scored])
    rest = sorted(set(range(ROW.input_ids.shape[1])) - set(ROW.scored.tolist()))
    assert rest
    assert not found[:, rest].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on GPUs alone")
def test_the_kernel_attends_alike() -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, ROW.input_ids.shape[1], 64, device="cuda").bfloat16() for heads in (4, 2, 2)
    )
    argument = attention.attention_argument(ROW.keys.cuda(), ROW.lengths)
    found, _ = attention.shared_prefix_attention(torch.nn.Identity(), query, key, value, None, shared_prefix=argument)
    expected = dense(query.float().cpu(), key.float().cpu(), value.float().cpu(), ROW)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)


def test_a_sliding_window_is_refused_rather_than_ignored() -> None:
    query = torch.randn(1, 1, ROW.input_ids.shape[1], 4)
    argument = attention.attention_argument(ROW.keys, ROW.lengths)
    with pytest.raises(TrainingError, match="sliding_window"):
        attention.shared_prefix_attention(
            torch.nn.Identity(), query, query, query, None, shared_prefix=argument, sliding_window=2
        )


def test_the_model_still_generates_and_scores_unpacked(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("qwen2_vl"), preferences((1,)), tmp_path)
    plain = trainer(DPOTrainer, checkpoint("qwen2_vl"), preferences((1,)), tmp_path)
    batch = plain.data_collator([plain.train_dataset[0]])
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    ours, theirs = made.model.eval(), plain.model.eval()
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits)
    settings = {"max_new_tokens": 5, "do_sample": False}
    assert ours.generate(**inputs, **settings).tolist() == theirs.generate(**inputs, **settings).tolist()


# The reference


def asked(made: Any) -> list[int]:
    """How many pairs the reference is asked about, batch by batch, when it is time."""
    original, found = made.compute_ref_log_probs, []

    def counted(model: Any, inputs: Any) -> Any:
        found.append(len(inputs["input_ids"]) // 2)
        return original(model, inputs)

    made.compute_ref_log_probs = counted
    made.add_references()
    return found


def test_the_reference_is_asked_once_and_remembered(checkpoint: Any, tmp_path: Path) -> None:
    first = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    assert asked(first) == [6, 4]  # whole prompts
    again = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    assert asked(again) == []
    assert again.train_dataset.reference == first.train_dataset.reference
    more = trainer(PackedDPOTrainer, checkpoint("llava"), [*preferences(), *preferences((3,), seed=7)], tmp_path)
    assert asked(more) == [3]


def test_a_killed_reference_pass_is_gone_on_with(checkpoint: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killer(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path, {"progress": killer}).add_references()
    [file] = (tmp_path / "reference").glob("*/*.jsonl")
    with file.open("a") as torn:
        torn.write('{"id": "half a li')
    assert asked(trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)) == [4]


def test_other_weights_or_another_max_length_make_another_reference(checkpoint: Any, tmp_path: Path) -> None:
    trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path).add_references()
    assert asked(trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path, max_length=64)) == [1]
    changed = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    with torch.no_grad():
        changed.backbone.language_model.norm.weight[0] += 0.01
    assert asked(changed) == [1]


def test_adapters_make_no_other_reference(checkpoint: Any, tmp_path: Path) -> None:
    one = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    before = packed.digest_of_reference(one.model)
    with torch.no_grad():
        for name, parameter in one.model.named_parameters():
            if "lora_" in name:
                parameter.add_(1)
    assert packed.digest_of_reference(one.model) == before
    assert packed.digest_of_reference(one.model) == packed.digest_of_reference(_unadapted(checkpoint("llava")))


def _unadapted(folder: Path) -> Any:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.get_base_model = lambda: model
    return model


def test_a_reference_that_is_no_number_is_named(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    with torch.no_grad():
        made.backbone.language_model.norm.weight[0] = torch.nan
    with pytest.raises(TrainingError, match=r"pair '0/0-1' log-probabilities \[nan, nan\]"):
        made.add_references()


# Refusals


@pytest.mark.parametrize("workers", (0, 1))
def test_pairs_that_would_lose_their_answer_are_all_named_before_training(
    workers: int, checkpoint: Any, tmp_path: Path
) -> None:
    pairs = preferences((3, 1, 1))
    pairs[3:5] = [replace(pair, prompt="the table near a car " * 8) for pair in pairs[3:5]]
    made = trainer(
        PackedDPOTrainer, checkpoint("llava"), pairs, tmp_path, max_length=48, dataloader_num_workers=workers
    )
    with pytest.raises(CutError, match=r"max_length = 48 in 2 pairs, .*: '1/0-1', '2/0-1'; raise max_length") as error:
        made.train()
    assert error.value.ids == ("1/0-1", "2/0-1")
    assert made.state.global_step == 0
    assert (
        asked(trainer(PackedDPOTrainer, checkpoint("llava"), pairs[:3], tmp_path, max_length=48)) == []
    )  # those that fit are paid for


def test_a_pair_that_is_there_twice_is_named_twice(checkpoint: Any, tmp_path: Path) -> None:
    pairs = [replace(pair, prompt="the table near a car " * 8) for pair in preferences((1,))]
    pairs.append(replace(pairs[0], id="again"))
    made = trainer(PackedDPOTrainer, checkpoint("llava"), pairs, tmp_path, max_length=48)
    with pytest.raises(CutError) as error:
        made.add_references()
    assert error.value.ids == ("0/0-1", "again")


def test_a_family_that_is_not_known_to_train_alike_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"type 'gemma3' are not known .*known: llava, "):
        trainer(PackedDPOTrainer, checkpoint("gemma3"), preferences((1,)), tmp_path)


def test_a_model_without_adapters_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint("llava"), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    with pytest.raises(TrainingError, match="needs adapters"):
        PackedDPOTrainer(
            model=model, args=arguments(tmp_path), train_dataset=Pairs(preferences((1,))), processing_class=processor
        )


# Batches


def chunks(order: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (order[start : start + size] for start in range(0, len(order), size))


SIZES = random.Random(0).choices((3, 4, 5, 6), weights=(1, 1, 4, 6), k=300)
PROMPT_OF = [prompt for prompt, size in enumerate(SIZES) for _ in range(size)]


@pytest.mark.parametrize("lengths", (None, [1 + index % 97 for index in range(len(PROMPT_OF))]))
def test_every_pair_is_trained_on_once_an_epoch_beside_the_others_of_its_prompt(lengths: list[int] | None) -> None:
    """Thirty pairs can be had of prompts of five and of six, which is what four answers give."""
    sampler = PromptSampler(PROMPT_OF, batch_size=30, seed=0, lengths=lengths)
    order = list(sampler)
    assert sorted(order) == list(range(len(PROMPT_OF)))
    divided = sum(len({PROMPT_OF[index] for index in batch}) for batch in chunks(order, 30)) - len(SIZES)
    assert divided <= 3


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = PromptSampler(PROMPT_OF, batch_size=12, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_ranks_train_on_prompts_of_like_length() -> None:
    chance = random.Random(0)
    length_of = [chance.randint(100, 2000) for _ in SIZES]

    def means(lengths: list[int] | None) -> list[float]:
        order = list(PromptSampler(PROMPT_OF, batch_size=12, seed=0, lengths=lengths, ranks=4))
        return [float(np.mean([length_of[PROMPT_OF[index]] for index in batch])) for batch in chunks(order, 12)]

    def spread(of: list[float]) -> float:
        return float(np.mean([max(step) - min(step) for step in chunks(of, 4) if len(step) == 4]))

    sorted_out = means([length_of[prompt] for prompt in PROMPT_OF])
    assert spread(sorted_out) < spread(means(None)) / 2
    assert abs(np.corrcoef(range(len(sorted_out)), sorted_out)[0, 1]) < 0.5  # and not from long to short


def test_a_prompt_of_more_pairs_than_a_batch_is_divided() -> None:
    assert fill([[0, 1, 2, 3, 4], [5]], 2) == [[0, 1], [2, 3], [4, 5]]
    assert fill([[0, 1, 2], [3, 4, 5], [6]], 4) == [[0, 1, 2, 6], [3, 4, 5]]
    assert fill([[0, 1, 2], [3, 4, 5], [6, 7, 8]], 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


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
