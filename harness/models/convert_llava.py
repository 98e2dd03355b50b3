"""LLaVA checkpoints in the layout of the original code (LLaVA-1.5, LLaVA-RLHF), rewritten so that transformers loads
them.

    convert(Path("LLaVA-RLHF-7b-v1.5-224/sft_model"), Path("llava-rlhf-7b"), vision=Path("clip-vit-large-patch14"),
            lora=Path("LLaVA-RLHF-7b-v1.5-224/rlhf_lora_adapter_model"))

Nothing is unpickled but tensors, and no code of the checkpoint is run. Weights pass through one by one: memory holds
one written shard.
"""

import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from harness.models.llama_tokenizer import llama_tokenizer
from harness.models.vision_names import full_name
from harness.models.weight_files import read_json, read_tensors, weight_files, write_index
from support.errors import ModelError, one_line
from trainers.training.llava_15 import CHAT_TEMPLATE

SHARD = 2 << 30
"""Bytes of weights a written file holds, at least (the last one: at most)."""

# The first that fits. A linear projector becomes the first layer of two, the second the identity.
_PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.mm_projector.", "model.multi_modal_projector.linear_1."),
    ("model.", "model.language_model."),
)
_EMBEDDING, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
_SECOND = [f"model.multi_modal_projector.linear_2.{part}" for part in ("weight", "bias")]
_BUFFERS = (".rotary_emb.inv_freq", ".position_ids")  # old files hold these constants; models compute them now
_TOWERS = {"clip-vit-large-patch14": 224, "clip-vit-large-patch14-336": 336}
_TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "max_position_embeddings", "rope_theta", "rope_scaling", "rms_norm_eps"),
    *("attention_bias", "mlp_bias", "initializer_range", "tie_word_embeddings"),
)
# What a configuration may say; the first is what it means where it says nothing.
_SETTINGS: dict[str, list[Any]] = {
    "mm_vision_select_feature": ["patch", "cls_patch"],
    "image_aspect_ratio": [None, "square", "pad"],
    "mm_use_im_start_end": [False, None],
    "quantization_config": [None],
}
_LORA: dict[str, list[Any]] = {
    "peft_type": ["LORA"],
    "bias": ["none"],
    "init_lora_weights": [True, False, None, "gaussian"],  # others have changed the base
    **{key: [None, False, {}, []] for key in ("use_dora", "use_qalora", "fan_in_fan_out")},
    **{key: [None, False, {}, []] for key in ("alpha_pattern", "layer_replication", "alora_invocation_tokens")},
}


def convert(source: Path, out: Path, *, vision: Path, lora: Path | None = None) -> None:
    """Write the LLaVA of `source` to the new folder `out` for transformers: weights, configuration, processor.

    source: original layout, .bin or .safetensors. vision: the CLIP that its `mm_vision_tower` names; what the source
    has of it wins. lora: a PEFT adapter for the source's names, merged in single precision. Types of weights stay. The
    tokenizer gets `<image>` and `<pad>`; rows of new tokens, and those that fill the vocabulary up to a multiple of 64,
    are the mean of the old ones. ModelError where something is missing, unknown or left over; `out` is then not
    there, nor after a kill, which may leave a hidden folder beside it.
    """
    if out.exists():
        raise ModelError(f"{out}: exists already; name a new folder")
    settings, (tokenizer, known), names = _read_settings(source), llama_tokenizer(source), _read_shapes(source)
    found = {_target(name): tensor for name, tensor in names.items()}
    rows, linear = len(found.get(_EMBEDDING, ())), "model.mm_projector.weight" in names
    if known > rows:
        raise ModelError(f"{source}: {known} tokens, but {rows} rows of model.embed_tokens.weight")
    config = _make_config(source, settings, vision, tokenizer, found[_EMBEDDING], linear)
    with torch.device("meta"):  # names and shapes only
        wanted = LlavaForConditionalGeneration(config).state_dict()
    for name in ([_HEAD] if config.tie_word_embeddings else []) + (_SECOND if linear else []):
        del wanted[name]
    tower = {_target(name, tower=True): tensor for name, tensor in _read_shapes(vision).items()}
    tower = {name: tensor for name, tensor in tower.items() if name in wanted.keys() - found.keys()}
    _check_weights(f"{source} with {vision}", names, found | tower, wanted, rows)
    changes = _read_adapter(lora, found | tower) if lora else {}

    def original() -> Iterator[tuple[str, Tensor]]:
        yield from ((_target(name), tensor) for name, tensor in _read_weights(source))
        if linear:
            identity = torch.eye(config.text_config.hidden_size, dtype=found[_EMBEDDING].dtype)
            yield from zip(_SECOND, (identity, torch.zeros_like(identity[0])), strict=True)
        for name, tensor in _read_weights(vision):
            if (target := _target(name, tower=True)) in tower:
                yield target, tensor

    def converted() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in original():
            if name in changes:
                a, b, scale = changes[name]
                tensor = (tensor.float() + scale * (b.float() @ a.float())).to(tensor.dtype)
            if name in (_EMBEDDING, _HEAD):
                mean = tensor[:known].float().mean(0).to(tensor.dtype)
                tensor = torch.cat([tensor, mean.expand(config.text_config.vocab_size - len(tensor), -1)])
                tensor[known : len(tokenizer)] = mean  # the source may have had rows to spare
            yield name, tensor

    parts = [config, GenerationConfig(**_special_ids(tokenizer)), _make_processor(config, settings, tokenizer)]
    _save(out, converted(), parts)


def _special_ids(tokenizer: Any) -> dict[str, int]:
    return {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}


def _save(out: Path, weights: Iterable[tuple[str, Tensor]], parts: list[Any]) -> None:
    """Write all of a checkpoint beside `out`, then rename it. ModelError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / "all"
        folder.mkdir()
        try:
            _write_shards(folder, weights)
            for part in parts:
                part.save_pretrained(folder)
            folder.rename(out)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{out}: can't be written: {error}") from None


def _read_settings(source: Path) -> dict[str, Any]:
    """The source's config.json; ModelError for a value that can't be converted."""
    settings = read_json(source / "config.json")
    kind, classes = settings.get("model_type"), settings.get("architectures") or "LlavaLlamaForCausalLM"
    if kind not in ("llava", "llava_llama") or "LlavaLlamaForCausalLM" not in str(classes) or "text_config" in settings:
        raise ModelError(
            f"{source}/config.json: {kind!r} ({classes}) is no LlavaLlamaForCausalLM in the original layout"
        )
    _check_known(source / "config.json", settings, _SETTINGS)
    if not isinstance(layer := settings.get("mm_vision_select_layer"), int):
        raise ModelError(f"{source}/config.json: mm_vision_select_layer is {layer!r}, no integer")
    return settings


def _check_known(path: Path, settings: dict[str, Any], known: dict[str, list[Any]]) -> None:
    for key, values in known.items():
        if (value := settings.get(key, values[0])) not in values:
            raise ModelError(f"{path}: {key} is {value!r}; known: {', '.join(map(repr, values))}")


def _make_config(
    source: Path, settings: dict[str, Any], vision: Path, tokenizer: Any, embedding: Tensor, linear: bool
) -> Any:
    if (kind := read_json(vision / "config.json").get("model_type")) not in ("clip", "clip_vision_model"):
        raise ModelError(f"{vision}/config.json: model_type is {kind!r}; known: 'clip', 'clip_vision_model'")
    full = settings.get("mm_vision_select_feature") == "cls_patch"
    try:
        tower = CLIPVisionConfig.from_pretrained(vision)
        text = LlamaConfig(
            **{key: settings[key] for key in _TEXT if key in settings},
            vocab_size=64 * math.ceil(max(len(tokenizer), len(embedding)) / 64),
            **_special_ids(tokenizer),
        )
        config = LlavaConfig(
            text_config=text,
            vision_config=tower,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=(tower.image_size // tower.patch_size) ** 2 + full,
            projector_hidden_act="linear" if linear else "gelu",
            vision_feature_layer=settings["mm_vision_select_layer"],
            vision_feature_select_strategy="full" if full else "default",
            architectures=["LlavaForConditionalGeneration"],
            dtype=embedding.dtype,
        )
    except (OSError, TypeError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{source}/config.json, {vision}/config.json: {one_line(error)}") from None
    name = str(settings.get("mm_vision_tower"))
    if _TOWERS.get(name.rstrip("/").split("/")[-1], tower.image_size) != tower.image_size:
        raise ModelError(
            f"{vision}/config.json: images of {tower.image_size} pixels, but the model was made for {name}"
        )
    return config


def _make_processor(config: Any, settings: dict[str, Any], tokenizer: Any) -> Any:
    side = config.vision_config.image_size
    pad = settings.get("image_aspect_ratio") == "pad"  # to a square; without it, a square is cut out of the middle
    square = {"height": side, "width": side}
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil(size={"shortest_edge": side}, crop_size=square, do_pad=pad),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _target(name: str, tower: bool = False) -> str:
    """What transformers calls a weight of the original layout, or (tower) of a CLIP."""
    if tower:
        return "model.vision_tower." + name.removeprefix("vision_model.")
    return next((new + name.removeprefix(old) for old, new in _PREFIXES if name.startswith(old)), name)


def _read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in weight_files(folder):
        yield from ((name, tensor) for name, tensor in read_tensors(path) if not name.endswith(_BUFFERS))


def _read_shapes(folder: Path) -> dict[str, Tensor]:
    """A folder's weights as tensors without data, by name. ModelError."""
    found: dict[str, Tensor] = {}
    for name, tensor in _read_weights(folder):
        if name in found:
            raise ModelError(f"{folder}: {name} is stored twice")
        found[name] = tensor.to("meta")
    return found


def _name_first(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return f"{first} and {len(rest)} more" if rest else first


def _check_weights(
    where: str, names: Iterable[str], found: dict[str, Tensor], wanted: dict[str, Tensor], rows: int
) -> None:
    """ModelError unless every wanted weight is found, with its shape, and no other."""
    if extra := {name for name in names if _target(name) not in wanted}:
        raise ModelError(f"{where}: weights that LLaVA-1.5 has no place for: {_name_first(extra)}")
    if missing := wanted.keys() - found.keys():
        raise ModelError(f"{where}: missing weights (as transformers calls them): {_name_first(missing)}")
    for name, tensor in found.items():
        shape = (rows, *wanted[name].shape[1:]) if name in (_EMBEDDING, _HEAD) else tuple(wanted[name].shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ModelError(f"{where}: {name} is {tensor.dtype} {tuple(tensor.shape)}, not {shape} as configured")


def _read_adapter(lora: Path, base: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """For each adapted weight: A [r, in], B [out, r] and the factor of B A. ModelError."""
    config, pairs = read_json(lora / "adapter_config.json"), dict[str, dict[str, Tensor]]()
    _check_known(lora / "adapter_config.json", config, _LORA)
    if not isinstance(alpha := config.get("lora_alpha"), int | float):
        raise ModelError(f"{lora}/adapter_config.json: lora_alpha is {alpha!r}, no number")
    for path in weight_files(lora):
        for name, tensor in read_tensors(path):
            match = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)\.weight", name)
            if not match or (target := _target(f"{match[1]}.weight")) not in base:
                raise ModelError(f"{path}: {name} fits no weight of the model")
            pairs.setdefault(target, {})[match[2]] = tensor
    if not pairs:
        raise ModelError(f"{lora}: an adapter without weights")
    changes = {}
    for target, pair in pairs.items():
        a, b, shape = pair.get("A", torch.empty(0)), pair.get("B", torch.empty(0)), tuple(base[target].shape)
        rank = len(a)
        if not rank or len(shape) != 2 or (tuple(b.shape), tuple(a.shape)) != ((shape[0], rank), (rank, *shape[1:])):
            raise ModelError(f"{lora}: B {tuple(b.shape)} and A {tuple(a.shape)} do not make {target} {shape}")
        changes[target] = a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return changes


def _write_shards(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Write files of SHARD bytes and their index, under the names that servers read, too."""
    held: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    size = total = 0

    def flush() -> None:
        name = f"model-{len(set(files.values())) + 1:05}.safetensors"
        save_file(held, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(held, name))
        held.clear()

    for name, tensor in weights:
        # safetensors takes no views of shared memory
        held[full_name(name)] = tensor.clone(memory_format=torch.contiguous_format)
        size, total = size + tensor.nbytes, total + tensor.nbytes
        if size >= SHARD:
            flush()
            size = 0
    if held:
        flush()
    write_index(folder, dict(sorted(files.items())), total)
