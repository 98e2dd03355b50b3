"""Loads the model to train, and configures its LoRA adapters."""

import importlib.util
import re
from typing import Any

import torch
from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from support.errors import TrainingError, first_few
from support.processes import local_rank
from trainers.config.training import Training
from trainers.training.adapters import PARTS, start_from_weights
from trainers.training.job import Job
from trainers.training.read_base import CompleteModel, read_processor, reading

CONNECTORS = ("attn_pool.", "merger.", "deepstack_merger_list.")
"""Parts of vision towers that connect them to the language model; trained even if the tower is not."""

MATRICES = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, Conv1D)
"""Modules that peft can put an adapter on."""

VISION_MODULES = "vision_tower|visual|vision_model|vision_encoder|image_tower|multi_modal_projector|connector"
"""Names of vision towers, and of modules between these and the language model, as a regular expression."""


def in_bf16(job: Job) -> bool:
    """True if this run computes in bfloat16."""
    wanted = job.recipe.training.precision
    if wanted == "auto":
        return torch.cuda.is_available() and job.dtype != "float32"
    return wanted == "bf16"


def weights_dtype(job: Job) -> torch.dtype:
    """Type of the loaded weights: that of the computation, but single precision if all weights are trained."""
    return torch.bfloat16 if in_bf16(job) and job.recipe.training.lora is not None else torch.float32


def load_model(job: Job) -> tuple[Any, Any]:
    """Model and processor of the job's base, safetensors only; TrainingError."""
    training = job.recipe.training
    model = load_weights(job)
    if training.lora is None:
        if not training.train_vision:
            freeze_vision(model)
    else:
        check_targets(model, training, job.base_name or job.base)
    return model, load_processor(job)


def load_processor(job: Job) -> Any:
    """The processor of the job's base alone, which takes no time; TrainingError."""
    return read_processor(job.base, job.base_name or job.base, job.chat_template, remote_code=job.remote_code)


def load_weights(job: Job) -> Any:
    """The base, quantized if the recipe says so; safetensors only. ModelError."""
    training = job.recipe.training
    given: dict[str, Any] = {"dtype": weights_dtype(job), "use_safetensors": True}
    if training.quantization is not None:
        given |= _four_bits()
    with reading(job.base_name or job.base, job.base, "weights", remote_code=job.remote_code):
        return CompleteModel.from_pretrained(job.base, trust_remote_code=job.remote_code, **given)


def _four_bits() -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError("quantization = '4bit' needs bitsandbytes: pip install 'vlm-harness[qlora]'")
    from transformers import BitsAndBytesConfig

    # The vision tower is not quantized: it is small, and its features are used as they are.
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,  # FSDP2 shards no whole numbers
        llm_int8_skip_modules=[r"(.*\.)?lm_head", rf"(.*\.)?({VISION_MODULES})"],
    )
    placed = {"": local_rank()} if torch.cuda.is_available() else {"": "cpu"}
    return {"quantization_config": config, "device_map": placed}


def freeze_vision(model: Any) -> None:
    """Freeze the vision tower, but not a connector within it; TrainingError for a model that names no tower."""
    tower = model.get_encoder(modality="image")
    if tower is model or tower is model.base_model:
        raise TrainingError(
            f"models of type {model.config.model_type!r} name no vision tower to be left as it is; "
            "set train_vision = true"
        )
    for name, parameter in tower.named_parameters():
        parameter.requires_grad = name.startswith(CONNECTORS)


def check_targets(model: Any, training: Training, base: str) -> None:
    """TrainingError for adapters on nothing, on a head, or on a vision tower that is not to be trained (and back)."""
    assert training.lora is not None
    targets = training.lora.targets
    modules = dict(model.named_modules())
    matched = [name for name in modules if name and re.fullmatch(targets, name)]
    if not matched:
        linear = (name for name, module in modules.items() if isinstance(module, torch.nn.Linear))
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise TrainingError(f"lora targets {targets!r} match no module of {base}; its matrices: {known}")
    said = f"lora targets {targets!r} reach"
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    ends = {head, embedding} if head is not None and head.weight is embedding.weight else {head}
    heads = [name for name in matched if modules[name] in ends]
    if heads:
        tied = ", which is tied to the other end: merged, it would be another model" if embedding in ends else ""
        raise TrainingError(f"{said} {first_few(heads)} of {base}{tied}; leave the ends of the model out of them")
    if others := [name for name in matched if not isinstance(modules[name], MATRICES)]:
        kinds = ", ".join(sorted({type(modules[name]).__name__ for name in others}))
        raise TrainingError(
            f"{said} {len(others)} modules of {base} that are no matrices ({kinds}): {first_few(others)}; "
            r"end them with the names of matrices (such as '\.(q_proj|v_proj)')"
        )
    inside = _names_in_tower(model)
    seen = [name for name in matched if name in inside]
    if seen and not training.train_vision:
        raise TrainingError(
            f"{said} {len(seen)} modules of the vision tower of {base}: {first_few(seen)}; begin them with the "
            "language model's name (such as '.*language_model.*'), or set train_vision = true"
        )
    if training.train_vision and not seen:
        raise TrainingError(f"train_vision = true, and {said} no module of the vision tower of {base}; leave one out")


def _names_in_tower(model: Any) -> set[str]:
    """Names of the modules of the vision tower but for a connector within it; none for a model that names no tower."""
    tower = model.get_encoder(modality="image")
    if tower is model or tower is model.base_model:
        return set()
    inner = {module for name, module in tower.named_modules() if not f"{name}.".startswith(CONNECTORS)}
    return {name for name, module in model.named_modules() if module in inner}


def add_adapters(model: Any, training: Training, seed: int) -> tuple[Any, LoraConfig | None]:
    """The model, and the adapters that TRL has to add; None if there are none, or the model has them (`PARTS`)."""
    if training.lora is None:
        return model, None
    config = LoraConfig(
        r=training.lora.r,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=training.lora.targets,
        use_rslora=training.lora.rslora,
        use_dora=training.lora.dora,
        init_lora_weights=True if training.lora.init == "default" else training.lora.init,
        task_type="CAUSAL_LM",
    )
    return (start_from_weights(model, config, seed), None) if training.lora.init in PARTS else (model, config)
