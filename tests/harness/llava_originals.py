"""Tiny LLaVAs in the layout of the original code, random, written by the converter's mapping read backwards."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

WORDS = ["USER", "ASSISTANT", "what", "is", "it", "<0x0A"]
TEXT = "USER: <image>\nwhat is it ASSISTANT:"
CHAT = (
    "<s>A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers "
    "to the user's questions. USER: <image>\nwhat is it ASSISTANT:"
)


def pieces() -> list[tuple[str, int]]:
    """Llama's in small: three special ones, all bytes, letters, and what merges letters to words."""
    letters = ["▁", ">", *sorted(set("".join(WORDS)))]
    grown = [word[:end] for word in WORDS for end in range(2, len(word) + 1)]
    marked = ["▁" + word[:end] for word in WORDS for end in range(1, len(word) + 1)]
    names = list(dict.fromkeys([*letters, *grown, *marked]))
    spelled = [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    return [("<unk>", 2), ("<s>", 3), ("</s>", 3), *spelled, *((name, 1) for name in names)]


VOCAB = len(pieces())
SIZES: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 20_000.0}
SIZES_OF_CLIP: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SIZES_OF_CLIP |= {"num_attention_heads": 2, "image_size": 20, "patch_size": 10}


def sentencepiece(kind: int = 2) -> bytes:
    """The file that sentencepiece would write: messages of (field, wire type, value)."""

    def block(field: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([field << 3 | 2, len(content)]) + content

    def piece(name: str, kind: int) -> bytes:
        return block(1, block(1, name.encode()) + bytes([2 << 3 | 5, 0, 0, 0, 0, 3 << 3, kind]))

    return b"".join(piece(*each) for each in pieces()) + block(2, bytes([3 << 3, kind]))


def build(linear: bool) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(**SIZES_OF_CLIP, projection_dim=16)
    text = LlamaConfig(vocab_size=-(-(VOCAB + 2) // 64) * 64, **SIZES)
    activation = "linear" if linear else "gelu"
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=VOCAB, projector_hidden_act=activation
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.05 if parameter.ndim == 1 else 0.15))
            if linear and "linear_2" in name:
                parameter.copy_(torch.eye(48) if parameter.ndim == 2 else torch.zeros(48))
    return model


SETTINGS = SIZES | {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "vocab_size": VOCAB}
SETTINGS |= {"mm_vision_tower": "somebody/clip-tiny", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
SETTINGS |= {"image_aspect_ratio": "pad", "tie_word_embeddings": False, "use_cache": False}


def original_weights(model: Any, linear: bool = False, tower: bool = False) -> dict[str, Tensor]:
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.vision_tower."):
            if tower:
                found["model.vision_tower.vision_tower.vision_model" + name.removeprefix("model.vision_tower")] = tensor
            continue
        if name.startswith("model.multi_modal_projector."):
            _, _, layer, kind = name.split(".")
            if linear and layer == "linear_1":
                found[f"model.mm_projector.{kind}"] = tensor
            elif not linear:
                found[f"model.mm_projector.{'0' if layer == 'linear_1' else '2'}.{kind}"] = tensor
            continue
        rows = VOCAB if "embed_tokens" in name or "lm_head" in name else None
        found[name.replace("model.language_model.", "model.")] = tensor[:rows].clone()
    return found


def write_bins(folder: Path, weights: dict[str, Tensor]) -> None:
    names = list(weights)
    cut = len(names) // 2
    shards = {"pytorch_model-00001-of-00002.bin": names[:cut], "pytorch_model-00002-of-00002.bin": names[cut:]}
    for file, held in shards.items():
        torch.save({name: weights[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def write_source(folder: Path, weights: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    # Files of that time hold the angles' frequencies too.
    write_bins(folder, weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)})
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    (folder / "tokenizer.model").write_bytes(sentencepiece())
    return folder


def tower_of(model: Any) -> Any:
    from transformers import CLIPVisionModel

    tower = CLIPVisionModel(model.config.vision_config)
    tower.load_state_dict(model.model.vision_tower.state_dict())
    return tower


def opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, dtype="auto", use_safetensors=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    return model.eval(), AutoProcessor.from_pretrained(folder)


def picture(seed: int = 1) -> Image.Image:
    pixels = torch.randint(0, 256, (31, 44, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@torch.no_grad()
def logits(model: Any, processor: Any, seed: int = 1) -> Tensor:
    """(tokens, old vocabulary) after an image and text."""
    inputs = processor(images=picture(seed), text=TEXT, return_tensors="pt")
    assert (inputs["input_ids"] == VOCAB).sum() == 4  # patches of 10 in 20 x 20 pixels
    found: Tensor = model(**inputs).logits[0, :, :VOCAB]
    return found


def assert_same(converted: Path, reference: Any) -> None:
    model, processor = opened(converted)
    got, expected = logits(model, processor), logits(reference, processor)
    assert (got - expected).abs().max() < 1e-5
    assert (got - logits(model, processor, seed=2)).abs().max() > 1e-2  # else equality says nothing of the picture


def adapter(folder: Path, model: Any, rslora: bool = False) -> tuple[Path, Any]:
    """A PEFT adapter of the language model alone, and the whole model with it."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    language = LlamaForCausalLM(model.config.text_config)
    language.model.load_state_dict(model.model.language_model.state_dict())
    language.lm_head.load_state_dict(model.lm_head.state_dict())
    wrapped = get_peft_model(
        language, LoraConfig(r=3, lora_alpha=5, use_rslora=rslora, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    wrapped.save_pretrained(folder)
    whole = copy.deepcopy(model)
    whole.model.language_model = wrapped.base_model.model.model
    return folder, whole.eval()
