"""Packed rows with weights that are sharded over processes by FSDP2.

Weights are sharded before the reference is asked, so that no process holds a whole model on its device: the reference's
pass is then one forward pass on each process at the same time, as a step is. Parts between pixels and language model
that are not trained stay whole on every process. They are small, a process that finds its images' features kept runs
none of them, and one whose batch has no image needs none: sharded, each would wait for the others for ever.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from support.errors import TrainingError
from trainers.data.rows import Preference
from trainers.packed.vision_cache import modules_before_text


def is_sharded(model: Any) -> bool:
    """True if FSDP2 has sharded the weights."""
    return isinstance(model, FSDPModule)


def shard_weights(model: Any, backbone: Any, accelerator: Any, pairs: Sequence[Preference]) -> Any:
    """The model, sharded as accelerate does at the start of training; TrainingError."""
    plugin = accelerator.state.fsdp_plugin
    before_text = modules_before_text(backbone)
    frozen = [part for part in before_text if not any(value.requires_grad for value in part.parameters())]
    trained = any(value.requires_grad for part in before_text for value in part.parameters())
    if trained and len({bool(pair.images) for pair in pairs}) > 1:
        raise TrainingError(
            "some pairs have pictures and others none, and the vision tower is trained and sharded: processes would "
            "wait for each other; train on pairs with pictures, or with --mode ddp"
        )
    for part in frozen:
        part.to(accelerator.device)
    plugin.ignored_modules = frozen
    prepare_sharding(accelerator, model)
    return fsdp2_prepare_model(accelerator, model)


def reshard(model: Any) -> None:
    """After a forward pass without a backward one: the optimizer must not be given the weights gathered for it."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def pad_rounds(batches: Sequence[list[int]], process: int, processes: int) -> tuple[list[list[int]], int]:
    """(a process's batches, how many of them count): all processes get as many, the last ones again where needed."""
    own = list(batches[process::processes])
    rounds = -(-len(batches) // processes)
    return own + list(batches[:1]) * (rounds - len(own)), len(own)


def prepare_sharding(accelerator: Any, model: Any) -> None:
    """Have FSDP2 shard the layers that this model has, and return log-probabilities and sum gradients in float32.

    Accelerate refuses models that name layers of another of their forms (LLaVA: of CLIP's text encoder), and would
    round both to the precision of the computation: a log-probability of -200 by up to 0.5.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    there = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = sorted(there & set(whole_model(model)._no_split_modules or ()))
    policy = plugin.mixed_precision_policy
    if isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32, output_dtype=None
        )


def whole_model(model: Any) -> Any:
    """The model without the wrapper of its adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
