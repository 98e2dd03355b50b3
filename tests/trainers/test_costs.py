"""What a step takes on paper is what it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tests.trainers.tiny_trainers import loss_and_gradients, preferences, trainer
from trainers.packed.costs import MODELS, Row, Shape, packed_flops, paper_table, weight_bytes
from trainers.packed.trainer import PackedDPOTrainer

ALSO = {
    torch.ops.aten.addmm_: lambda total, left, right, **_: 2 * left[0] * left[1] * right[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""Operations that torch's counter does not know."""
ALL = LoraConfig(r=4, target_modules=r".*language_model.*_proj")


@pytest.mark.parametrize("checkpointing", (False, True))
@pytest.mark.parametrize("full", (False, True))
def test_the_operations_are_those_of_a_step(full: bool, checkpointing: bool, checkpoint: Any, tmp_path: Path) -> None:
    options = {} if full else {"peft_config": ALL}
    made = trainer(
        PackedDPOTrainer,
        checkpoint("llava"),
        preferences((6,)),
        tmp_path,
        options,
        full=full,
        gradient_checkpointing=checkpointing,
    )
    made.add_references()
    for parameter in made.backbone.vision_tower.parameters():
        parameter.requires_grad_(False)
    text = made.model.config.text_config
    shape = Shape(
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        key_heads=text.num_key_value_heads,
        head_width=text.head_dim,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
    )
    packed = made.data_collator(list(made.train_dataset))["packed"]
    asked, _ = packed["lengths"][0]
    row = Row(prompt=asked - packed["answers"][0] + 1, answers=packed["answers"])
    assert row.tokens == packed["input_ids"].shape[1]
    assert row.met == sum(queries * keys for queries, keys in packed["lengths"])
    with FlopCounterMode(display=False, custom_mapping=ALSO) as counter:
        loss_and_gradients(made)
    by_part = counter.get_flop_counts()
    outside = sum(
        sum(found.values())
        for name, found in by_part.items()
        if name.endswith(("vision_tower", "multi_modal_projector"))
    )
    done = counter.get_total_flops() - outside
    expected = packed_flops(shape, row, 0 if full else 4, checkpointing=checkpointing)
    assert done == pytest.approx(expected, rel=0.04)  # a frozen first layer needs no gradient by its input


def test_weights_are_as_many_as_the_models_are_called() -> None:
    for name, shape in MODELS.items():
        assert shape.weights / 1e9 == pytest.approx(float(name.rpartition("-")[2][:-1]), rel=0.1)
    big = MODELS["Qwen2.5-VL-72B"]
    assert weight_bytes(big, 64, processes=8) == weight_bytes(big, 64) / 8
    assert weight_bytes(big, 64, four_bits=True) < 0.35 * weight_bytes(big, 64)


def test_the_docs_have_the_table() -> None:
    written = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "\n".join(paper_table()) in written
