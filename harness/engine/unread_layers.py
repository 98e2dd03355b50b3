"""Layers of a vision encoder behind the one whose output is read, as in LLaVA: nothing is computed there.

skip_unread_layers(model)
"""

from typing import Any

from torch import nn


def skip_unread_layers(model: nn.Module) -> int:
    """Give the layers that nothing reads one patch to compute in place of all; how many there are."""
    base: Any = getattr(model, "base_model", model)
    config, tower = base.config, getattr(base, "vision_tower", None)
    read = getattr(config, "vision_feature_layer", None)
    layers = getattr(getattr(tower, "encoder", None), "layers", None)
    if read is None or not isinstance(layers, nn.ModuleList):
        return 0
    # The first hidden state is what the first layer is given: that layer must be given it.
    last = max(at % (len(layers) + 1) for at in ([read] if isinstance(read, int) else read))
    unread = layers[max(last, 1) :]
    for layer in unread:
        layer.register_forward_pre_hook(_give_one_patch)
    return len(unread)


def _give_one_patch(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0][:, :1], *args[1:])
