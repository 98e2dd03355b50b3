"""What is converted computes what the original computed. Originals are tiny, random, and written by the mapping read
backwards."""

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.models import convert_llava
from harness.models.convert_llava import convert
from harness.models.load import load
from harness.models.spec import find
from support.errors import ModelError

WORDS = ["USER", "ASSISTANT", "what", "is", "it", "<0x0A"]
TEXT = "USER: <image>\nwhat is it ASSISTANT:"
CHAT = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers "
    "to the user's questions. USER: <image>\nwhat is it ASSISTANT:"
)


def pieces() -> list[tuple[str, int]]:
    """Llama's in small: three special ones, all bytes, letters, and what merges letters to words."""
    letters = ["▁", ">", *sorted(set("".join(WORDS)))]
    grown = [word[:end] for word in WORDS for end in range(2, len(word) + 1)]
    marked = ["▁" + word[:end] for word in WORDS for end in range(1, len(word) + 1)]
    names = list(dict.fromkeys([*letters, *grown, *marked]))
    return [
        ("<unk>", 2),
        ("<s>", 3),
        ("</s>", 3),
        *((f"<0x{byte:02X}>", 6) for byte in range(256)),
        *((name, 1) for name in names),
    ]


VOCAB = len(pieces())


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
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=20,
        patch_size=10,
        projection_dim=16,
    )
    text = LlamaConfig(
        vocab_size=-(-(VOCAB + 2) // 64) * 64,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_theta=20_000.0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCAB,
        projector_hidden_act="linear" if linear else "gelu",
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.05 if parameter.ndim == 1 else 0.15))
            if linear and "linear_2" in name:
                parameter.copy_(torch.eye(48) if parameter.ndim == 2 else torch.zeros(48))
    return model


SETTINGS: dict[str, Any] = {
    "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20_000.0,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "mm_vision_tower": "somebody/clip-tiny",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
    "use_cache": False,
}


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


@pytest.fixture(scope="module")
def model() -> Any:
    return build(linear=False)


@pytest.fixture(scope="module")
def vision(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tower_of(model).save_pretrained(folder)
    return folder


@pytest.fixture
def source(model: Any, tmp_path: Path) -> Path:
    return write_source(tmp_path / "sft_model", original_weights(model))


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


def test_bin_shards_give_the_same_logits(
    model: Any, vision: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_llava, "SHARD", 40_000)
    convert(source, tmp_path / "out", vision=vision)
    assert_same(tmp_path / "out", model)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) > 2
    assert not list((tmp_path / "out").glob("*.bin"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sft_model"]


def test_safetensors_and_a_whole_clip_give_the_same_logits(model: Any, source: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    for path in source.glob("pytorch_model*"):
        path.unlink()
    save_file(original_weights(model), source / "model.safetensors")
    text = CLIPTextConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=model.config.vision_config, projection_dim=16))
    clip.vision_model.load_state_dict(model.model.vision_tower.state_dict())
    clip.config.save_pretrained(tmp_path / "clip")
    torch.save(clip.state_dict(), tmp_path / "clip" / "pytorch_model.bin")
    convert(source, tmp_path / "out", vision=tmp_path / "clip")
    assert_same(tmp_path / "out", model)


def test_a_linear_projector_gives_the_same_logits(vision: Path, tmp_path: Path) -> None:
    model = build(linear=True)
    tower_of(model).save_pretrained(tmp_path / "clip")
    convert(
        write_source(tmp_path / "in", original_weights(model, linear=True)), tmp_path / "out", vision=tmp_path / "clip"
    )
    assert_same(tmp_path / "out", model)


def test_the_sources_own_vision_tower_wins(model: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.model.vision_tower.parameters():
            parameter.zero_()
    tower_of(other).save_pretrained(tmp_path / "clip")
    convert(
        write_source(tmp_path / "in", original_weights(model, tower=True)), tmp_path / "out", vision=tmp_path / "clip"
    )
    assert_same(tmp_path / "out", model)


@pytest.mark.parametrize("feature", ("patch", "cls_patch"))
def test_layer_and_features_of_the_tower_are_the_configurations(
    feature: str, model: Any, vision: Path, tmp_path: Path
) -> None:
    folder = write_source(
        tmp_path / "in", original_weights(model), mm_vision_select_layer=-1, mm_vision_select_feature=feature
    )
    convert(folder, tmp_path / "out", vision=vision)
    converted, processor = opened(tmp_path / "out")
    assert converted.config.vision_feature_layer == -1
    assert converted.config.image_seq_length == (4 if feature == "patch" else 5)
    inputs = processor(images=picture(), text=TEXT, return_tensors="pt")
    assert (inputs["input_ids"] == VOCAB).sum() == converted.config.image_seq_length
    converted(**inputs)


@pytest.mark.parametrize("rslora", (False, True))
@pytest.mark.parametrize("file", ("adapter_model.bin", "adapter_model.safetensors"))
def test_a_merged_adapter_gives_pefts_logits(
    rslora: bool, file: str, model: Any, vision: Path, source: Path, tmp_path: Path
) -> None:
    folder, wrapped = adapter(tmp_path / "lora", model, rslora)
    if file.endswith("bin"):
        from safetensors.torch import load_file

        torch.save(load_file(folder / "adapter_model.safetensors"), folder / file)
        (folder / "adapter_model.safetensors").unlink()
    convert(source, tmp_path / "out", vision=vision, lora=folder)
    assert_same(tmp_path / "out", wrapped)
    _, processor = opened(tmp_path / "out")
    assert (logits(wrapped, processor) - logits(model, processor)).abs().max() > 1e-2


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


def test_types_of_weights_stay(model: Any, vision: Path, tmp_path: Path) -> None:
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in original_weights(model).items()}
    convert(write_source(tmp_path / "in", weights), tmp_path / "out", vision=vision)
    from safetensors.torch import load_file

    stored = load_file(next((tmp_path / "out").glob("*.safetensors")))
    assert {tensor.dtype for name, tensor in stored.items() if "vision_tower" in name} == {torch.float32}
    assert {tensor.dtype for name, tensor in stored.items() if "vision_tower" not in name} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert opened(tmp_path / "out")[0].dtype == torch.bfloat16


def test_weights_that_share_memory_are_written_apart(model: Any, vision: Path, tmp_path: Path) -> None:
    weights = original_weights(model)
    pair = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight")
    shared = torch.cat([weights[name] for name in pair])
    weights |= zip(pair, shared.split(len(shared) // 2), strict=True)
    weights["model.norm.weight"] = torch.stack([weights["model.norm.weight"]] * 2, dim=1)[:, 0]
    convert(write_source(tmp_path / "in", weights), tmp_path / "out", vision=vision)
    assert_same(tmp_path / "out", model)


def test_new_tokens_and_the_rows_that_fill_up_are_the_mean_of_the_old(
    model: Any, vision: Path, source: Path, tmp_path: Path
) -> None:
    convert(source, tmp_path / "out", vision=vision)
    converted, processor = opened(tmp_path / "out")
    assert processor.tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [VOCAB, VOCAB + 1]
    assert (converted.config.image_token_id, converted.config.text_config.pad_token_id) == (VOCAB, VOCAB + 1)
    assert converted.generation_config.pad_token_id == VOCAB + 1
    for new, old in (
        (converted.get_input_embeddings(), model.get_input_embeddings()),
        (converted.lm_head, model.lm_head),
    ):
        assert len(new.weight) % 64 == 0
        assert len(new.weight) >= VOCAB + 2
        torch.testing.assert_close(new.weight[:VOCAB], old.weight[:VOCAB])
        torch.testing.assert_close(new.weight[VOCAB:], old.weight[:VOCAB].mean(0).expand(len(new.weight) - VOCAB, -1))


def test_tokens_added_before_keep_their_ids_and_spare_rows_are_taken(model: Any, vision: Path, tmp_path: Path) -> None:
    weights = original_weights(model)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.full((3, 48), 7.0)])
    folder = write_source(tmp_path / "in", weights)
    (folder / "added_tokens.json").write_text(json.dumps({"<im_patch>": VOCAB}))
    convert(folder, tmp_path / "out", vision=vision)
    converted, processor = opened(tmp_path / "out")
    assert processor.tokenizer.convert_tokens_to_ids(["<im_patch>", "<image>", "<pad>"]) == [
        VOCAB,
        VOCAB + 1,
        VOCAB + 2,
    ]
    mean = weights["lm_head.weight"][: VOCAB + 1].mean(0)
    torch.testing.assert_close(converted.lm_head.weight[VOCAB], torch.full((48,), 7.0))
    torch.testing.assert_close(
        converted.lm_head.weight[VOCAB + 1 :], mean.expand(len(converted.lm_head.weight) - VOCAB - 1, -1)
    )


def test_text_becomes_the_ids_sentencepiece_gives_it(vision: Path, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", vision=vision)
    tokenizer = opened(tmp_path / "out")[1].tokenizer
    names = tokenizer.convert_ids_to_tokens(tokenizer(TEXT + " é")["input_ids"])
    start = [
        "<s>",
        "▁USER",
        "<0x3A>",
        "▁",
        "<image>",
        "▁",
        "<0x0A>",
    ]  # "▁" after <image>: the original code tokenized both sides apart
    assert names == [*start, "what", "▁is", "▁it", "▁ASSISTANT", "<0x3A>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.tokenize("<0x0A>") == ["▁<0x0A", ">"]  # what spells a byte's piece is no byte
    assert tokenizer.decode(tokenizer("what  is\nit é", add_special_tokens=False)["input_ids"]) == "what  is\nit é"
    assert tokenizer.padding_side == "left"


def test_a_tokenizer_json_is_taken_as_it_is(model: Any, vision: Path, source: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    (source / "tokenizer.model").unlink()
    tokenizer = Tokenizer(
        models.WordLevel({name: number for number, (name, _) in enumerate(pieces())}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.save(str(source / "tokenizer.json"))
    convert(source, tmp_path / "out", vision=vision)
    assert_same(tmp_path / "out", model)
    ours = opened(tmp_path / "out")[1].tokenizer
    assert ours("what is it")["input_ids"] == tokenizer.encode("what is it").ids


def test_the_chat_template_is_vicunas(vision: Path, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", vision=vision)
    processor = opened(tmp_path / "out")[1]
    question = {"role": "user", "content": [{"type": "text", "text": "what is it"}, {"type": "image"}]}
    assert processor.apply_chat_template([question], add_generation_prompt=True) == CHAT
    assert (
        processor.apply_chat_template([{"role": "user", "content": "<image>\nwhat is it"}], add_generation_prompt=True)
        == CHAT
    )
    talk = [
        question,
        {"role": "assistant", "content": [{"type": "text", "text": "it"}]},
        {"role": "user", "content": "is it"},
    ]
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == f"{CHAT} it</s>USER: is it ASSISTANT:"
    assert (
        processor.apply_chat_template([{"role": "system", "content": "what"}, question])
        == "<s>what USER: <image>\nwhat is it "
    )


def test_the_harness_loads_it_and_prompts_begin_with_one_start(vision: Path, source: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    convert(source, tmp_path / "out", vision=vision)
    lm = load(find(str(tmp_path / "out")))
    assert lm.sharing.shares_images
    prompt = lm.apply_chat_template([{"role": "user", "content": "<image>what is it"}])
    assert prompt == CHAT
    assert lm.tokenizer(prompt, add_special_tokens=False)["input_ids"].count(1) == 1
    arguments = (prompt, {"until": [], "max_gen_toks": 4, "do_sample": False}, {"visual": [picture()]})
    assert len(lm.generate_until([Instance("generate_until", {}, arguments, 0)], disable_tqdm=True)) == 1


def test_images_are_padded_where_the_original_padded_them(
    model: Any, vision: Path, source: Path, tmp_path: Path
) -> None:
    convert(source, tmp_path / "padded", vision=vision)
    convert(
        write_source(tmp_path / "in", original_weights(model), image_aspect_ratio=None), tmp_path / "cut", vision=vision
    )
    wide = Image.new("RGB", (60, 20), (255, 0, 0))
    padded, cut = (
        opened(tmp_path / name)[1](images=wide, text=TEXT, return_tensors="pt")["pixel_values"][0]
        for name in ("padded", "cut")
    )
    assert padded.shape == cut.shape == (3, 20, 20)
    assert padded[:, 0, :].abs().max() < 0.02  # CLIP's mean colour
    torch.testing.assert_close(padded[:, 10, 10], cut[:, 0, 0])


def change_config(**settings: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(SETTINGS | settings))


def change_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        weights: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.bin")):
            weights |= torch.load(path, weights_only=True)
        change(weights)
        write_bins(folder, weights)

    return apply


def overwrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "config that is no JSON": (overwrite("config.json", b"{"), "config.json"),
    "another model": (change_config(model_type="llava_mpt"), "'llava_mpt'"),
    "another class": (change_config(architectures=["LlavaMistralForCausalLM"]), "LlavaMistralForCausalLM"),
    "transformers' layout": (change_config(text_config={}), "original layout"),
    "unknown feature": (change_config(mm_vision_select_feature="cls"), "'cls'; known: 'patch', 'cls_patch'"),
    "tiles": (change_config(image_aspect_ratio="anyres"), "'anyres'"),
    "image marks": (change_config(mm_use_im_start_end=True), "mm_use_im_start_end is True"),
    "quantized": (change_config(quantization_config={"bits": 4}), "quantization_config"),
    "no layer": (change_config(mm_vision_select_layer=None), "mm_vision_select_layer is None"),
    "another tower": (change_config(mm_vision_tower="openai/clip-vit-large-patch14-336"), "20 pixels"),
    "impossible size": (change_config(hidden_size="wide"), "hidden_size"),
    "other sizes": (change_config(intermediate_size=80), "(64, 48), not (80, 48)"),
    "too many layers": (change_config(num_hidden_layers=3), "missing weights"),
    "left over": (
        change_weights(lambda weights: weights.update({"model.image_newline": torch.ones(48)})),
        "model.image_newline",
    ),
    "deep projector": (
        change_weights(lambda weights: weights.update({"model.mm_projector.4.weight": torch.ones(1)})),
        "mm_projector.4",
    ),
    "two projectors": (
        change_weights(lambda weights: weights.update({"model.mm_projector.weight": torch.ones(48, 32)})),
        "mm_projector",
    ),
    "half a projector": (change_weights(lambda weights: weights.pop("model.mm_projector.2.weight")), "linear_2.weight"),
    "no embedding": (change_weights(lambda weights: weights.pop("model.embed_tokens.weight")), "0 rows"),
    "no head": (change_weights(lambda weights: weights.pop("lm_head.weight")), "lm_head.weight"),
    "whole numbers": (
        change_weights(lambda weights: weights.update({"model.norm.weight": torch.ones(48, dtype=torch.int8)})),
        "int8",
    ),
    "no shard": (
        lambda folder: (folder / "pytorch_model-00002-of-00002.bin").unlink(),
        "pytorch_model-00002-of-00002.bin",
    ),
    "a torn shard": (
        lambda folder: os.truncate(folder / "pytorch_model-00001-of-00002.bin", 5000),
        "pytorch_model-00001-of-00002.bin",
    ),
    "an empty shard": (overwrite("pytorch_model-00001-of-00002.bin", b""), "pytorch_model-00001-of-00002.bin"),
    "the same shard twice": (
        lambda folder: (folder / "pytorch_model-00001-of-00002.bin").write_bytes(
            (folder / "pytorch_model-00002-of-00002.bin").read_bytes()
        ),
        "is there twice",
    ),
    "no index": (lambda folder: (folder / "pytorch_model.bin.index.json").unlink(), "no weights"),
    "an index to elsewhere": (
        overwrite("pytorch_model.bin.index.json", b'{"weight_map": {"a": "../b.bin"}}'),
        "index.json",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.model").unlink(),
        "neither tokenizer.model nor tokenizer.json",
    ),
    "a tokenizer that is none": (overwrite("tokenizer.model", b"version https://git-lfs"), "tokenizer.model"),
    "a torn tokenizer": (overwrite("tokenizer.model", sentencepiece()[:-3]), "tokenizer.model"),
    "a unigram tokenizer": (overwrite("tokenizer.model", sentencepiece(kind=1)), "type 1"),
    "added tokens with a gap": (overwrite("added_tokens.json", json.dumps({"<x>": VOCAB + 1}).encode()), "'<x>'"),
    "added tokens without ids": (overwrite("added_tokens.json", b'{"<x>": "y", "<z>": null}'), "added_tokens.json"),
    "a list": (
        lambda folder: torch.save([torch.ones(1)], folder / "pytorch_model-00001-of-00002.bin"),
        "no dict of tensors",
    ),
    "numbers for names": (
        lambda folder: torch.save({1: torch.ones(1)}, folder / "pytorch_model-00001-of-00002.bin"),
        "no dict of tensors",
    ),
    "an old file": (
        lambda folder: torch.save(
            {}, folder / "pytorch_model-00001-of-00002.bin", _use_new_zipfile_serialization=False
        ),
        "pytorch_model-00001-of-00002.bin: can't be read",
    ),
    "more tokens than rows": (
        overwrite("added_tokens.json", json.dumps({"<x>": VOCAB}).encode()),
        f"{VOCAB + 1} tokens",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_source_is_one_line_and_leaves_nothing(
    case: str, source: Path, vision: Path, tmp_path: Path
) -> None:
    change, message = BROKEN[case]
    change(source)
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out", vision=vision)
    assert message in str(caught.value)
    assert str(source) in str(caught.value) or str(vision) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sft_model"]


def change_lora(**settings: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return apply


def change_parts(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")

    return apply


def rename(old: str, new: str, only: str = "") -> Callable[[Path], object]:
    return change_parts(
        lambda held: {name.replace(old, new) if only in name else name: part for name, part in held.items()}
    )


def rank_zero(held: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (part[:0] if "lora_A" in name else part[:, :0]).contiguous() for name, part in held.items()}


BROKEN_LORA: dict[str, tuple[Callable[[Path], object], str]] = {
    "names of another model": (rename(".layers.", ".blocks."), "fits no weight"),
    "one name too many": (rename("layers.0", "layers.9", only="layers.0.mlp"), "layers.9"),
    "a bias": (rename("lora_A.weight", "bias"), "fits no weight"),
    "half of it": (
        change_parts(lambda held: {name: part for name, part in held.items() if "lora_A" in name}),
        "do not make",
    ),
    "nothing in it": (change_parts(lambda held: {}), "without weights"),
    "of rank 0": (change_parts(rank_zero), "do not make"),
    "on another shape": (rename("q_proj", "k_proj"), "k_proj"),
    "dora": (change_lora(use_dora=True), "use_dora is True"),
    "other kinds": (change_lora(peft_type="IA3"), "'IA3'; known: 'LORA'"),
    "a base that was changed": (change_lora(init_lora_weights="pissa"), "'pissa'"),
    "a factor a layer": (change_lora(alpha_pattern={"q_proj": 2}), "alpha_pattern"),
    "no factor": (change_lora(lora_alpha=None), "lora_alpha is None"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no weights"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
}


@pytest.mark.parametrize("case", BROKEN_LORA)
def test_an_adapter_that_does_not_fit_is_one_line(
    case: str, model: Any, source: Path, vision: Path, tmp_path: Path
) -> None:
    change, message = BROKEN_LORA[case]
    folder, _ = adapter(tmp_path / "lora", model)
    change(folder)
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out", vision=vision, lora=folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ("source", "vision", "lora"))
def test_a_pickle_that_would_run_something_is_refused(
    where: str, model: Any, source: Path, vision: Path, tmp_path: Path
) -> None:
    folder, _ = adapter(tmp_path / "lora", model)
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_bytes((vision / "config.json").read_bytes())
    torch.save(tower_of(model).state_dict(), clip / "pytorch_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")
    victim = {
        "source": source / "pytorch_model-00002-of-00002.bin",
        "vision": clip / "pytorch_model.bin",
        "lora": folder / "adapter_model.bin",
    }
    torch.save({"x": Evil(tmp_path / "ran")}, victim[where])
    with pytest.raises(ModelError, match="refused") as caught:
        convert(source, tmp_path / "out", vision=clip, lora=folder)
    assert str(victim[where]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to switch the check off
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_a_tower_that_does_not_fit_is_one_line(model: Any, source: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 20,
        "patch_size": 10,
    }
    CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ModelError, match=r"narrow: .*linear_1.weight is .* \(48, 32\), not \(48, 16\)"):
        convert(source, tmp_path / "out", vision=tmp_path / "narrow")
    SiglipVisionConfig().save_pretrained(tmp_path / "siglip")
    with pytest.raises(ModelError, match="model_type is 'siglip_vision_model'"):
        convert(source, tmp_path / "out", vision=tmp_path / "siglip")
    model.config.vision_config.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="bare: no weights"):
        convert(source, tmp_path / "out", vision=tmp_path / "bare")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(source: Path, vision: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="there already"):
        convert(source, tmp_path / "out", vision=vision)
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(
    source: Path, vision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_llava, "save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        convert(source, tmp_path / "out", vision=vision)
    assert [path.name for path in tmp_path.iterdir()] == ["sft_model"]


def test_a_kill_leaves_no_half_folder_and_the_next_try_succeeds(
    model: Any, source: Path, vision: Path, tmp_path: Path
) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from harness.models import convert_llava
write, convert_llava.SHARD, written = convert_llava.save_file, 40_000, []
def save(tensors, path, **settings):
    write(tensors, path, **settings)
    written.append(path)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert_llava.save_file = save
convert_llava.convert(Path({str(source)!r}), Path({str(tmp_path / "out")!r}), vision=Path({str(vision)!r}))
"""
    assert subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*/all/*.safetensors"))  # it was in the middle of it
    convert(source, tmp_path / "out", vision=vision)
    assert_same(tmp_path / "out", model)
