"""Layers of a vision encoder that nothing reads compute next to nothing, and change nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from harness.engine.unread_layers import skip_unread_layers
from harness.models.torchvision_shim import allow_missing_torchvision
from tests.harness.zoo import FAMILIES

allow_missing_torchvision()


@pytest.mark.parametrize(("read", "unread"), ((-2, 1), (-1, 0), ([-2, -1], 0), (1, 1), ([0, -3], 1)))
def test_features_stay_as_they_are(read: Any, unread: int, tmp_path: Path) -> None:
    FAMILIES["llava"](tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    layers = model.base_model.vision_tower.encoder.layers
    assert len(layers) == 2
    size = model.config.vision_config.image_size
    given = {"pixel_values": torch.randn(1, 3, size, size), "return_dict": True}
    if isinstance(read, list):
        wide = torch.nn.Linear(len(read) * model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
        model.base_model.multi_modal_projector.linear_1 = wide
    model.config.vision_feature_layer = read
    with torch.inference_mode():
        expected = model.base_model.get_image_features(**given).pooler_output
        assert skip_unread_layers(model) == unread
        patches: list[int] = []
        for layer in layers:
            layer.register_forward_hook(lambda layer, args, output: patches.append(args[0].shape[1]))
        found = model.base_model.get_image_features(**given).pooler_output
    assert torch.equal(torch.stack(list(found)), torch.stack(list(expected)))
    assert patches[2 - unread :] == [1] * unread
    assert min(patches[: 2 - unread], default=2) > 1


def test_models_that_read_their_last_layer_stay_as_they_are(tmp_path: Path) -> None:
    FAMILIES["qwen2_vl"](tmp_path)
    assert skip_unread_layers(AutoModelForImageTextToText.from_pretrained(tmp_path)) == 0
