"""What is converted computes what the original computed. Originals are tiny, random, and written by the mapping read
backwards."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.models import convert_llava
from harness.models.convert_llava import convert
from harness.models.load import load
from harness.models.spec import find
from tests.harness.llava_originals import (
    CHAT,
    TEXT,
    VOCAB,
    adapter,
    assert_same,
    build,
    logits,
    opened,
    original_weights,
    picture,
    pieces,
    tower_of,
    write_source,
)
from tests.harness.lm_requests import ask


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
    source = write_source(tmp_path / "in", original_weights(model, linear=True))
    convert(source, tmp_path / "out", vision=tmp_path / "clip")
    assert_same(tmp_path / "out", model)


def test_the_sources_own_vision_tower_wins(model: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.model.vision_tower.parameters():
            parameter.zero_()
    tower_of(other).save_pretrained(tmp_path / "clip")
    source = write_source(tmp_path / "in", original_weights(model, tower=True))
    convert(source, tmp_path / "out", vision=tmp_path / "clip")
    assert_same(tmp_path / "out", model)


@pytest.mark.parametrize("feature", ("patch", "cls_patch"))
def test_layer_and_features_of_the_tower_are_the_configurations(
    feature: str, model: Any, vision: Path, tmp_path: Path
) -> None:
    settings = {"mm_vision_select_layer": -1, "mm_vision_select_feature": feature}
    folder = write_source(tmp_path / "in", original_weights(model), **settings)
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
    embeddings = converted.get_input_embeddings(), model.get_input_embeddings()
    for new, old in (embeddings, (converted.lm_head, model.lm_head)):
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
    ids = processor.tokenizer.convert_tokens_to_ids(["<im_patch>", "<image>", "<pad>"])
    assert ids == [VOCAB, VOCAB + 1, VOCAB + 2]
    mean = weights["lm_head.weight"][: VOCAB + 1].mean(0)
    torch.testing.assert_close(converted.lm_head.weight[VOCAB], torch.full((48,), 7.0))
    new = converted.lm_head.weight[VOCAB + 1 :]
    torch.testing.assert_close(new, mean.expand(len(new), -1))


def test_text_becomes_the_ids_sentencepiece_gives_it(vision: Path, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", vision=vision)
    tokenizer = opened(tmp_path / "out")[1].tokenizer
    names = tokenizer.convert_ids_to_tokens(tokenizer(TEXT + " é")["input_ids"])
    # "▁" after <image>: the original code tokenized the text on its two sides separately.
    start = ["<s>", "▁USER", "<0x3A>", "▁", "<image>", "▁", "<0x0A>"]
    assert names == [*start, "what", "▁is", "▁it", "▁ASSISTANT", "<0x3A>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.tokenize("<0x0A>") == ["▁<0x0A", ">"]  # what spells a byte's piece is no byte
    assert tokenizer.decode(tokenizer("what  is\nit é", add_special_tokens=False)["input_ids"]) == "what  is\nit é"
    assert tokenizer.padding_side == "left"


def test_a_tokenizer_json_is_taken_as_it_is(model: Any, vision: Path, source: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    (source / "tokenizer.model").unlink()
    vocabulary = {name: number for number, (name, _) in enumerate(pieces())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
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
    written = {"role": "user", "content": "<image>\nwhat is it"}
    assert processor.apply_chat_template([written], add_generation_prompt=True) == CHAT
    answer = {"role": "assistant", "content": [{"type": "text", "text": "it"}]}
    talk = [question, answer, {"role": "user", "content": "is it"}]
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == f"{CHAT} it</s>USER: is it ASSISTANT:"
    instructed = processor.apply_chat_template([{"role": "system", "content": "what"}, question])
    assert instructed == "<s>what USER: <image>\nwhat is it "


def test_the_harness_loads_it_and_prompts_begin_with_one_start(vision: Path, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", vision=vision)
    lm = load(find(str(tmp_path / "out")))
    assert lm.sharing.shares_images
    prompt = lm.apply_chat_template([{"role": "user", "content": "<image>what is it"}])
    assert prompt == CHAT
    assert lm.tokenizer(prompt, add_special_tokens=False)["input_ids"].count(1) == 1
    assert len(lm.generate_until(ask(lm, ([picture()], "what is it")), disable_tqdm=True)) == 1


def test_images_are_padded_where_the_original_padded_them(
    model: Any, vision: Path, source: Path, tmp_path: Path
) -> None:
    convert(source, tmp_path / "padded", vision=vision)
    square = write_source(tmp_path / "in", original_weights(model), image_aspect_ratio=None)
    convert(square, tmp_path / "cut", vision=vision)
    wide = Image.new("RGB", (60, 20), (255, 0, 0))
    padded, cut = (
        opened(tmp_path / name)[1](images=wide, text=TEXT, return_tensors="pt")["pixel_values"][0]
        for name in ("padded", "cut")
    )
    assert padded.shape == cut.shape == (3, 20, 20)
    assert padded[:, 0, :].abs().max() < 0.02  # CLIP's mean colour
    torch.testing.assert_close(padded[:, 10, 10], cut[:, 0, 0])
