"""Qwen-VL: equal to the official implementation where its results are at hand, and a good transformers citizen
everywhere."""

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from harness.models.qwen_vl.config import QwenVLConfig
from harness.models.qwen_vl.image_processor import QwenVLImageProcessor
from harness.models.qwen_vl.model import QwenVLForConditionalGeneration
from harness.models.qwen_vl.processor import QwenVLProcessor
from harness.models.qwen_vl.tokenizer import SPECIAL, QwenVLTokenizer
from tests.harness.qwen_vl_checkpoint import END, OFFICIAL, RANKS, START, config, write

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "qwen_vl"
golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="needs the official implementation's results, which are not in the repository"
)


@pytest.fixture(scope="session")
def official_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint with the files of Qwen/Qwen-VL-Chat (without its code)."""
    folder = tmp_path_factory.mktemp("models") / "qwen-vl"
    write(folder)
    return folder


@pytest.fixture(scope="session")
def model(official_layout: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(official_layout, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def processor(official_layout: Path) -> Any:
    return AutoProcessor.from_pretrained(official_layout)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 448, 448, generator=torch.Generator().manual_seed(0))


def span(inside: int = START + 2) -> list[int]:
    return [START, *[inside] * 256, START + 1]


class TestGolden:
    @golden
    def test_pixels_features_and_logits(self) -> None:
        expected = np.load(GOLDEN / "expected.npz")
        model = AutoModelForImageTextToText.from_pretrained(GOLDEN, dtype=torch.float32).eval()
        assert isinstance(model, QwenVLForConditionalGeneration)
        images = [Image.open(GOLDEN / f"image_{n}.png") for n in range(3)]
        pixels = torch.from_numpy(expected["pixel_values"])
        made = AutoProcessor.from_pretrained(GOLDEN).image_processor(images, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(made, pixels, atol=1e-5, rtol=0)
        shown = {"text": [], "one_image": [0], "two_images": [1, 2], "batch": [0, 1]}
        with torch.no_grad():
            features = model.get_image_features(pixels).pooler_output
            torch.testing.assert_close(features, torch.from_numpy(expected["visual_features"]), atol=1e-4, rtol=0)
            for length, cases in ((2048, shown), (128, {name: shown[name] for name in ("one_image", "two_images")})):
                model.config.seq_length = length
                for name, which in cases.items():
                    ids = torch.from_numpy(expected[f"{name}.input_ids"])
                    logits = model(ids, pixel_values=pixels[which] if which else None).logits[:, -32:]
                    key = f"{name}.logits_last32" if length == 2048 else f"seq_length_128.{name}.logits_last32"
                    torch.testing.assert_close(logits, torch.from_numpy(expected[key]), atol=1e-4, rtol=0)

    @golden
    @pytest.mark.parametrize("cached", (True, False))
    def test_greedy_continuation(self, cached: bool) -> None:
        expected = np.load(GOLDEN / "expected.npz")
        model = QwenVLForConditionalGeneration.from_pretrained(GOLDEN, dtype=torch.float32).eval()
        ids, pixels = torch.from_numpy(expected["one_image.input_ids"]), torch.from_numpy(expected["pixel_values"][:1])
        written = model.generate(ids, pixel_values=pixels, max_new_tokens=12, do_sample=False, use_cache=cached)
        assert written[0, -12:].tolist() == expected["one_image.greedy12"].tolist()

    @golden
    def test_token_ids_and_chats(self, tmp_path: Path) -> None:
        expected = json.loads((GOLDEN / "tokenizer_expected.json").read_text())
        fresh = QwenVLTokenizer.from_pretrained(GOLDEN)
        fresh.save_pretrained(tmp_path)
        for tokenizer in (fresh, AutoTokenizer.from_pretrained(GOLDEN), QwenVLTokenizer.from_pretrained(tmp_path)):
            assert len(tokenizer) == expected["vocab_size"]
            assert (tokenizer.eod_id, tokenizer.img_start_id, tokenizer.img_end_id, tokenizer.img_pad_id) == tuple(
                expected["special"][name] for name in ("eod", "img_start", "img_end", "img_pad")
            )
            for case in expected["cases"]:
                assert tokenizer(case["text"])["input_ids"] == case["ids"]
                assert tokenizer.decode(case["ids"]) == case["decoded"]
            for chat in expected["chats"]:
                turns = [{"role": "system", "content": chat["system"]}]
                for question, answer in chat["history"]:
                    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                turns += [{"role": "user", "content": chat["query"]}]
                assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == chat["raw"]
                assert tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == chat["ids"]


class TestTokenizer:
    @settings(max_examples=400, deadline=None)
    @given(
        st.one_of(
            st.text(),
            st.text(alphabet="aeht  catinsm\n\t.'SsrR12éç图中猫"),
            st.lists(
                st.sampled_from([*SPECIAL[:3], "<|extra_7|>", "<box>", "</box>", " the", "cat", "\n", "it's", "é"])
            ).map("".join),
        )
    )
    def test_ids_are_tiktokens(self, text: str) -> None:
        tokenizer = cached_tokenizer()
        text = "".join(char for char in text if not 0xD800 <= ord(char) < 0xE000)
        expected = OFFICIAL.encode(unicodedata.normalize("NFC", text), allowed_special="all", disallowed_special=())
        assert tokenizer(text)["input_ids"] == expected
        assert tokenizer.decode(expected) == OFFICIAL.decode(expected)

    def test_paths_of_images_are_their_bytes(self, processor: Any) -> None:
        text = "Picture 1: <img>dir/猫.png</img>\nPicture 2: <img></img>\n"
        ids = processor.tokenizer(text)["input_ids"]
        first = ids.index(START)
        path = list("dir/猫.png".encode())
        assert ids[first : first + 258] == [START, *path, *[START + 2] * (256 - len(path)), START + 1]
        assert ids.count(START + 2) == 512 - len(path)
        assert processor.tokenizer.decode(ids) == text

    def test_paths_survive_batches_padding_and_tensors(self, processor: Any) -> None:
        texts = ["<img>a.png</img> cat", "what?", "<img>b/long name.png</img><img>c</img>"]
        alone = [processor.tokenizer(text)["input_ids"] for text in texts]
        batch = processor.tokenizer(texts, padding=True, return_tensors="pt")
        for row, mask, ids in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), alone, strict=True):
            assert row[-len(ids) :] == ids
            assert sum(mask) == len(ids)
        assert processor.tokenizer(texts[0], return_tensors="pt")["input_ids"].tolist() == alone[:1]

    def test_each_row_of_a_batch_has_its_own_paths(self, processor: Any) -> None:
        tokenizer = processor.tokenizer
        pads = "<img>" + "<imgpad>" * 256 + "</img>"
        texts = ["<img>a.png</img> cat", pads + "<img>b.png</img>", "what?"]
        pairs = ["<img>c.png</img>", "the", "<img>d.png</img>"]
        together = tokenizer(texts, pairs)["input_ids"]
        assert together == [tokenizer(text, pair)["input_ids"] for text, pair in zip(texts, pairs, strict=True)]
        assert together[0] == tokenizer(texts[0])["input_ids"] + tokenizer(pairs[0])["input_ids"]
        assert together[1][1:257] == [START + 2] * 256
        assert bytes(together[1][259:264]) == b"b.png"

    def test_the_auto_classes_find_it_by_its_original_name(self, official_layout: Path) -> None:
        assert type(AutoTokenizer.from_pretrained(official_layout)) is QwenVLTokenizer
        assert QwenVLImageProcessor.from_pretrained(official_layout).size["height"] == 448

    def test_a_path_too_long_is_named(self, processor: Any) -> None:
        with pytest.raises(ValueError, match=r"takes 300 bytes; 256 have room"):
            processor.tokenizer("<img>" + "x" * 300 + "</img>")

    def test_a_broken_file_of_ranks_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "qwen.tiktoken").write_text("AA== 0\nnonsense\n")
        with pytest.raises(ValueError, match=r"qwen\.tiktoken: line 2 is no base64 token"):
            QwenVLTokenizer.from_pretrained(tmp_path)


_TOKENIZERS: list[Any] = []


def cached_tokenizer() -> Any:
    """Hypothesis takes no session fixture."""
    if not _TOKENIZERS:
        import tempfile

        from harness.models.qwen_vl.tokenizer import from_ranks

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "qwen.tiktoken"
            path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items()))
            _TOKENIZERS.append(QwenVLTokenizer(tokenizer_object=from_ranks(path)))
    return _TOKENIZERS[0]


class TestProcessor:
    def test_images_stand_in_chatml(self, processor: Any) -> None:
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "compare"}]}
        prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
        assert prompt == (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "Picture 1: <img><imgpad></img>\n"
            "Picture 2: <img><imgpad></img>\ncompare<|im_end|>\n<|im_start|>assistant\n"
        )
        images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
        inputs = processor(images=images, text=prompt, return_tensors="pt")
        assert inputs["pixel_values"].shape == (2, 3, 448, 448)
        ids = inputs["input_ids"][0].tolist()
        assert ids.count(START + 2) == 512
        assert ids == processor.tokenizer(prompt.replace("<imgpad>", ""))["input_ids"]

    def test_transparency_is_dropped(self) -> None:
        picture = Image.new("RGBA", (448, 448), (10, 200, 30, 0))
        opaque = Image.new("RGB", (448, 448), (10, 200, 30))
        process = QwenVLImageProcessor()
        assert np.array_equal(process(picture)["pixel_values"][0], process(opaque)["pixel_values"][0])

    def test_saved_and_loaded(self, processor: Any, tmp_path: Path) -> None:
        processor.save_pretrained(tmp_path)
        again = AutoProcessor.from_pretrained(tmp_path)
        assert isinstance(again, QwenVLProcessor)
        assert (
            again.tokenizer("<img>a</img> the cat")["input_ids"]
            == processor.tokenizer("<img>a</img> the cat")["input_ids"]
        )
        assert again.chat_template == processor.chat_template


class TestModel:
    def test_what_stands_inside_a_span_does_not_matter(self, model: Any, pixels: torch.Tensor) -> None:
        with torch.no_grad():
            one = model(torch.tensor([[5, *span(), 7, *span(), 9]]), pixel_values=pixels[:2]).logits
            other = model(torch.tensor([[5, *span(START), 7, *span(65), 9]]), pixel_values=pixels[:2]).logits
            swapped = model(torch.tensor([[5, *span(), 7, *span(), 9]]), pixel_values=pixels[[1, 0]]).logits
        torch.testing.assert_close(one, other)
        assert (one - swapped).abs().max() > 1e-2

    def test_as_many_images_as_spans(self, model: Any, pixels: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"1 whole image spans .* for 2 images"):
            model(torch.tensor([[5, *span(), 7]]), pixel_values=pixels[:2])
        with pytest.raises(ValueError, match=r"0 whole image spans .* for 1 images"):
            model(torch.tensor([[5, *span()[:200]]]), pixel_values=pixels[:1])

    @pytest.mark.parametrize("seq_length", (2048, 128))
    def test_cached_generation_equals_uncached(
        self, model: Any, pixels: torch.Tensor, seq_length: int, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(model.config, "seq_length", seq_length)
        ids = torch.tensor([[5, *span(), 7, 40, 41]])
        written = [
            model.generate(
                ids, pixel_values=pixels[:1], max_new_tokens=10, do_sample=False, use_cache=cache, eos_token_id=None
            )[0].tolist()
            for cache in (True, False)
        ]
        assert written[0] == written[1]
        assert len(written[0]) == ids.shape[1] + 10

    @pytest.mark.parametrize("seq_length", (2048, 128))
    def test_left_padded_batches_equal_single_rows(
        self, model: Any, pixels: torch.Tensor, seq_length: int, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(model.config, "seq_length", seq_length)
        rows = [[5, *span(), 7], [*span(), 7, *span(), 8, 9, 10, 11], list(range(30, 60))]
        images = [pixels[:1], pixels[1:3], None]
        length = max(map(len, rows))
        ids = torch.tensor([[END] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        with torch.no_grad():
            batch = model(ids, attention_mask=mask, pixel_values=pixels).logits
            for row, image, logits in zip(rows, images, batch, strict=True):
                single = model(torch.tensor([row]), pixel_values=image).logits[0]
                torch.testing.assert_close(logits[-len(row) :], single, atol=2e-4, rtol=1e-4)
        together = model.generate(
            ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=6, do_sample=False, eos_token_id=None
        )
        for row, image, written in zip(rows, images, together.tolist(), strict=True):
            single = model.generate(
                torch.tensor([row]), pixel_values=image, max_new_tokens=6, do_sample=False, eos_token_id=None
            )
            assert written[-6:] == single[0, -6:].tolist()

    def test_beyond_its_training_length_a_row_goes_its_own_way(self, model: Any, monkeypatch: Any) -> None:
        ids = torch.arange(30, 230)[None]
        with torch.no_grad():
            plain = model(ids).logits
            monkeypatch.setattr(model.config, "seq_length", 64)
            stretched = model(ids).logits
            monkeypatch.setattr(model.config, "use_dynamic_ntk", False)
            monkeypatch.setattr(model.config, "use_logn_attn", False)
            torch.testing.assert_close(model(ids).logits, plain)
        assert (plain - stretched).abs().max() > 1e-3

    def test_sdpa_equals_eager(self, official_layout: Path, model: Any, pixels: torch.Tensor) -> None:
        eager = QwenVLForConditionalGeneration.from_pretrained(
            official_layout, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        ids = torch.tensor([[5, *span(), 7, 40]])
        with torch.no_grad():
            out = eager(ids, pixel_values=pixels[:1], output_attentions=True, output_hidden_states=True)
            torch.testing.assert_close(out.logits, model(ids, pixel_values=pixels[:1]).logits, atol=1e-4, rtol=1e-4)
        assert out.attentions[0].shape == (1, 2, ids.shape[1], ids.shape[1])
        assert len(out.hidden_states) == 3

    def test_gradient_checkpointing_gives_the_same_gradients(self, official_layout: Path, pixels: torch.Tensor) -> None:
        ids = torch.tensor([[5, *span(), 7, 40, 41, 42]])
        grads = []
        for checkpointing in (False, True):
            model = QwenVLForConditionalGeneration.from_pretrained(official_layout, dtype=torch.float32).train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                assert all(
                    layer.gradient_checkpointing
                    for layer in (*model.transformer.h, *model.transformer.visual.transformer.resblocks)
                )
            model(ids, pixel_values=pixels[:1], labels=ids, use_cache=False).loss.backward()
            grads.append(
                {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
            )
        assert grads[0].keys() == grads[1].keys()
        assert any("visual" in name for name in grads[0])
        for name, grad in grads[0].items():
            torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-4)

    def test_embeddings_that_hold_the_image(self, model: Any, pixels: torch.Tensor) -> None:
        ids = torch.tensor([[5, *span(), 7, 40]])
        with torch.no_grad():
            embeddings = model.get_input_embeddings()(ids).clone()
            embeddings[0, 2:258] = model.get_image_features(pixels[:1]).pooler_output[0]
            given = model(inputs_embeds=embeddings).logits
            torch.testing.assert_close(given, model(ids, pixel_values=pixels[:1]).logits)
        with pytest.raises(ValueError, match="images have no place in inputs_embeds"):
            model(inputs_embeds=embeddings, pixel_values=pixels[:1])

    def test_a_chat_checkpoint_stops_at_the_end_of_a_turn(self, model: Any) -> None:
        assert model.generation_config.eos_token_id == [END, END + 2, END + 1]

    def test_saved_and_loaded(self, official_layout: Path, model: Any, pixels: torch.Tensor, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        AutoProcessor.from_pretrained(official_layout).save_pretrained(tmp_path)
        assert (
            load_file(tmp_path / "model.safetensors").keys() == load_file(official_layout / "model.safetensors").keys()
        )
        again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
        ids = torch.tensor([[5, *span(), 7]])
        with torch.no_grad():
            assert torch.equal(again(ids, pixel_values=pixels[:1]).logits, model(ids, pixel_values=pixels[:1]).logits)
        assert again.generation_config.eos_token_id == model.generation_config.eos_token_id

    @golden
    def test_a_config_full_of_old_keys_is_saved_and_loaded(self, tmp_path: Path) -> None:
        model = QwenVLForConditionalGeneration.from_pretrained(GOLDEN)
        model.save_pretrained(tmp_path)
        again = QwenVLForConditionalGeneration.from_pretrained(tmp_path)
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )

    def test_sharded_bins_are_read_without_running_what_is_in_them(self, official_layout: Path, tmp_path: Path) -> None:
        weights = load_file(official_layout / "model.safetensors")
        names = list(weights)
        for name in ("config.json", "generation_config.json"):
            (tmp_path / name).write_bytes((official_layout / name).read_bytes())
        where: dict[str, str] = {}
        for n, part in enumerate((names[::2], names[1::2]), 1):
            file = f"pytorch_model-{n:05}-of-00002.bin"
            torch.save({name: weights[name] for name in part}, tmp_path / file)
            where |= dict.fromkeys(part, file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        model = QwenVLForConditionalGeneration.from_pretrained(tmp_path)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        trap = tmp_path / "sprung"
        torch.save({names[0]: Trap(str(trap))}, tmp_path / "pytorch_model-00001-of-00002.bin")
        with pytest.raises(Exception, match=r"(?i)weights.only|unpickl|unsupported"):
            QwenVLForConditionalGeneration.from_pretrained(tmp_path)
        assert not trap.exists()

    def test_a_text_only_qwen_is_no_qwen_vl(self) -> None:
        with pytest.raises(ValueError, match="visual output_dim 4096 must be hidden_size 128"):
            QwenVLConfig(**config(visual=None))

    def test_a_checkpoint_without_eyes_is_refused(self, official_layout: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(
            json.dumps({name: value for name, value in config().items() if name != "visual"})
        )
        with pytest.raises(ValueError, match="a Qwen of text alone"):
            QwenVLConfig.from_pretrained(tmp_path)
        QwenVLConfig().save_pretrained(tmp_path)
        assert QwenVLConfig.from_pretrained(tmp_path).visual["layers"] == 48

    def test_weights_may_stay_on_the_disk(
        self, official_layout: Path, model: Any, pixels: torch.Tensor, tmp_path: Path
    ) -> None:
        ids = torch.tensor([[5, *span(), 7]])
        parts = ("transformer.wte", "transformer.drop", "transformer.h", "transformer.ln_f", "lm_head")
        where = dict.fromkeys(parts, "cpu") | {"transformer.visual": "disk"}
        offloaded = QwenVLForConditionalGeneration.from_pretrained(
            official_layout, dtype=torch.float32, device_map=where, offload_folder=tmp_path
        )
        with torch.no_grad():
            torch.testing.assert_close(
                offloaded(ids, pixel_values=pixels[:1]).logits, model(ids, pixel_values=pixels[:1]).logits
            )


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


class TestAdapters:
    TARGETS = ("c_attn", "attn.c_proj", "w1", "w2")

    def test_silkies_targets_are_found_and_a_round_trip_changes_no_logit(
        self, official_layout: Path, pixels: torch.Tensor, tmp_path: Path
    ) -> None:
        base = QwenVLForConditionalGeneration.from_pretrained(official_layout, dtype=torch.float32)
        ids = torch.tensor([[5, *span(), 7]])
        with torch.no_grad():
            plain = base(ids, pixel_values=pixels[:1]).logits
        settings = LoraConfig(
            r=4, lora_alpha=16, target_modules=list(self.TARGETS), init_lora_weights=False, task_type="CAUSAL_LM"
        )
        tuned = get_peft_model(base, settings).eval()
        adapted = {
            name.split("transformer.h.0.")[1]
            for name, _ in tuned.named_modules()
            if name.endswith("lora_A") and ".h.0." in name
        }
        assert adapted == {"attn.c_attn.lora_A", "attn.c_proj.lora_A", "mlp.w1.lora_A", "mlp.w2.lora_A"}
        assert not any("visual" in name for name, _ in tuned.named_parameters() if "lora" in name)
        with torch.no_grad():
            changed = tuned(ids, pixel_values=pixels[:1]).logits
        assert (changed - plain).abs().max() > 1e-2
        tuned.save_pretrained(tmp_path)
        fresh = QwenVLForConditionalGeneration.from_pretrained(official_layout, dtype=torch.float32)
        again = PeftModel.from_pretrained(fresh, tmp_path).eval()
        with torch.no_grad():
            assert torch.equal(again(ids, pixel_values=pixels[:1]).logits, changed)
            with again.disable_adapter():
                assert torch.equal(again(ids, pixel_values=pixels[:1]).logits, plain)
