"""A forward pass with faster kernels computes what it does without them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from harness.engine.cpu_kernels import FEWEST_ROWS, FastOnCPU

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def kernels(module: nn.Module, given: torch.Tensor) -> tuple[torch.Tensor, set[str]]:
    """The output under FastOnCPU, and the names of what computed it."""
    with profile(activities=[ProfilerActivity.CPU]) as seen, FastOnCPU():
        output = module(given)
    return output, {event.key for event in seen.key_averages()}


@needs_onednn
@pytest.mark.parametrize("bias", (True, False))
def test_a_linear_layer_is_multiplied_by_onednn(bias: bool) -> None:
    layer, given = nn.Linear(24, 16, bias=bias), torch.randn(2, FEWEST_ROWS, 24).transpose(0, 1)
    with torch.inference_mode():
        output, names = kernels(layer, given)
        assert "mkldnn::_linear_pointwise" in names
        torch.testing.assert_close(output, layer(given))


def test_few_rows_other_dtypes_and_gradients_are_left_to_torch() -> None:
    layer = nn.Linear(24, 16)
    with torch.inference_mode():
        assert "mkldnn::_linear_pointwise" not in kernels(layer, torch.randn(FEWEST_ROWS - 1, 24))[1]
        assert "mkldnn::_linear_pointwise" not in kernels(layer.double(), torch.randn(64, 24).double())[1]
    layer = nn.Linear(24, 16)
    output, _ = kernels(layer, torch.randn(64, 24))
    output.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("bias", (True, False))
def test_patches_of_the_kernels_size_are_rows_of_a_matrix(bias: bool) -> None:
    layer, given = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4), bias=bias), torch.randn(9, 3, 2, 4, 4)
    with torch.inference_mode():
        output, names = kernels(layer, given)
        assert "aten::conv3d" not in names
        assert output.shape == layer(given).shape
        torch.testing.assert_close(output, layer(given))


@pytest.mark.parametrize("settings", ({"padding": 1}, {"padding": "same"}, {"groups": 3}))
def test_another_convolution_stays_one(settings: dict[str, Any]) -> None:
    layer, given = nn.Conv3d(3, 6, (1, 3, 3), **settings), torch.randn(2, 3, 1, 3, 3)
    with torch.inference_mode():
        output, names = kernels(layer, given)
        assert "aten::conv3d" in names
        torch.testing.assert_close(output, layer(given))
    with FastOnCPU(), torch.inference_mode():
        kernel = torch.randn(4, 3, 2, 2, 2)
        padded = functional.conv3d(torch.ones(2, 3, 2, 2, 2), kernel, None, 1, 1)  # padding by position
    assert padded.shape == (2, 4, 3, 3, 3)
