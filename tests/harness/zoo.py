"""Tiny random checkpoints of real architectures: a folder each, with the files, settings, templates and quirks of its
big namesake.

    FAMILIES["qwen2_5_vl"](folder)
    AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

Weights are random and wide: another image, another question, another answer. Nothing is built from processors, so no
family needs torchvision to be written. Every image side is a multiple of a 7-pixel patch.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "Is there a red circle in the image? Please answer yes or no. Yes, there is a red circle. No, there is not. yes no Yes No",
    "What is the color of the car? The car is blue. red green yellow white black. What is on the left of the table?",
    "Please describe this image in detail. The image shows a man riding a horse on the beach, and a dog behind them.",
    "USER: ASSISTANT: User: Assistant: user assistant model system You are a helpful assistant. [INST] [/INST]",
    "How many people are in the picture? one two three 0 1 2 3 4 5 6 7 8 9 . , ? ! : ; row col img global",
)
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]
SIDE, PATCH = 28, 7
"""Of one tile, in pixels: 16 patches."""


# Tokenizers


def sentencepiece_like(
    specials: Sequence[str], named: dict[str, str], words: Sequence[str] = (), bos: bool = True, prefix: bool = True
) -> Any:
    """As Llama's and Gemma's: byte fallback, "▁" for a space (and, with `prefix`, before the text), `bos` before what
    is encoded.

    `words` are tokens without being special: "▁" stands before the first of them too.
    """
    unk = "<unk>"
    first = [*dict.fromkeys([*named.values(), unk])]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=[], show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    learned = json.loads(trained.to_str())["model"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*first, *bytes_, *words, *pieces]))}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True, ignore_merges=bool(words))
    )
    if words:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, words))), "isolated")
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    tail = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    return _finished(tokenizer, first, specials, named | {"unk_token": unk}, bos)


def byte_level(specials: Sequence[str], named: dict[str, str], bos: bool = False) -> Any:
    """As GPT-2's, Qwen's and Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=440, initial_alphabet=alphabet, show_progress=False)
    )
    return _finished(tokenizer, list(dict.fromkeys(named.values())), specials, named, bos)


def wordpieces() -> Any:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=[*named.values()], show_progress=False)
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="[DEC]", model_max_length=512, **named)


def _finished(
    tokenizer: Tokenizer, first: Sequence[str], specials: Sequence[str], named: dict[str, str], bos: bool
) -> Any:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*first, *specials)])
    if bos:
        start = named["bos_token"]
        known = [(start, tokenizer.token_to_id(start))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A", f"{start} $A {start} $B", known)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **named,
    )


# Checkpoints


def _write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    images: dict[str, Any],
    processor: dict[str, Any],
    template: str | None = None,
    generation: dict[str, Any] | None = None,
    legacy: bool = False,
) -> None:
    """All files of a checkpoint; `legacy`: the template in JSON, as repositories of 2024 have it."""
    folder.mkdir(parents=True, exist_ok=True)
    _widen(model)
    model.generation_config = hf.GenerationConfig(
        **{
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **(generation or {}),
        }
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name = processor["processor_class"]
    _json(folder / "preprocessor_config.json", {"processor_class": name, **images})
    _json(folder / "processor_config.json", processor)
    if template and legacy:
        _json(folder / "chat_template.json", {"chat_template": template})
    elif template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _widen(model: Any, seed: int = 0) -> None:
    """Matrices that neither shrink nor drown what passes through them, so that inputs show in outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha" in name:  # IDEFICS's gates are shut before training
                parameter.fill_(1.5)
            elif parameter.ndim >= 2:
                # A Gemma writes with the matrix it reads with, and would repeat its last word for ever if that were as
                # wide.
                width = 0.4 if "embed_tokens" in name and "gemma" in model.config.model_type else 1.5
                parameter.normal_(0, width / parameter[0].numel() ** 0.5, generator=generator)
    model.eval()


def _text(tokenizer: Any, size: int | None = None, **changes: Any) -> dict[str, Any]:
    """A language model's settings."""
    return {
        "vocab_size": size or len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    }


def _vision(**changes: Any) -> dict[str, Any]:
    """An image encoder's settings."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        **changes,
    }


def _square(side: int = SIDE) -> dict[str, int]:
    return {"height": side, "width": side}


LLAMA: dict[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML: dict[str, str] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

IMAGES_FIRST = "{% for part in message['content'] if part['type'] == 'image' %}"
TEXTS = "{% for part in message['content'] if part['type'] == 'text' %}"


def llava(folder: Path) -> None:
    """llava-hf/llava-1.5-7b-hf."""
    tokenizer = sentencepiece_like(["<image>"], {"pad_token": "<pad>", **LLAMA})
    config = hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **_vision()},
        text_config={"model_type": "llama", **_text(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    template = (
        "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() }}: {% endif %}"
        + IMAGES_FIRST
        + "{{ '<image>\n' }}{% endfor %}"
        + TEXTS
        + "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    _write(
        folder,
        hf.LlavaForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": SIDE},
            "crop_size": _square(),
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            **_steps("resize", "center_crop", "rescale", "normalize", "convert_rgb"),
        },
        {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
        },
        template,
        legacy=True,
    )


def _steps(*names: str) -> dict[str, bool]:
    return {f"do_{name}": True for name in names}


def llava_next(folder: Path) -> None:
    """llava-hf/llava-v1.6-mistral-7b-hf: an overview and up to four tiles."""
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
    tokenizer = sentencepiece_like(["<image>"], {"pad_token": "<pad>", **LLAMA})
    config = hf.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **_vision()},
        text_config={"model_type": "mistral", **_text(tokenizer, sliding_window=None)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
        + IMAGES_FIRST
        + "{{ '<image>\n' }}{% endfor %}"
        + TEXTS
        + "{{ part['text'] }}{% endfor %}{{ ' [/INST]' }}{% else %}"
        + TEXTS
        + "{{ ' ' + part['text'] + '</s>' }}{% endfor %}{% endif %}{% endfor %}"
    )
    _write(
        folder,
        hf.LlavaNextForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "LlavaNextImageProcessor",
            "aspect_ratio_setting": "anyres",
            "size": {"shortest_edge": SIDE},
            "crop_size": _square(),
            "image_grid_pinpoints": pinpoints,
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            **_steps("resize", "center_crop", "rescale", "normalize", "convert_rgb", "pad"),
        },
        {
            "processor_class": "LlavaNextProcessor",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
        },
        template,
    )


def llava_onevision(folder: Path) -> None:
    """llava-hf/llava-onevision-qwen2-7b-ov-hf: tiles up to 4 x 4, pooled down when there are more than nine of them."""
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in range(1, 5) for columns in range(1, 5)]
    tokenizer = byte_level(["<|im_start|>", "<image>", "<video>"], CHATML)
    config = hf.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_vision()},
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
    )
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] + ' ' }}"
        + IMAGES_FIRST
        + "<image>{% endfor %}"
        + TEXTS
        + "{{ '\n' + part['text'] }}{% endfor %}<|im_end|>{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    normal = {
        "image_mean": HALF,
        "image_std": HALF,
        "size": _square(),
        **_steps("resize", "rescale", "normalize", "convert_rgb"),
    }
    _write(
        folder,
        hf.LlavaOnevisionForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "image_grid_pinpoints": pinpoints,
            "do_pad": True,
            **normal,
        },
        {
            "processor_class": "LlavaOnevisionProcessor",
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": (SIDE // PATCH) ** 2,
            "vision_aspect_ratio": "anyres_max_9",
            "vision_feature_select_strategy": "full",
        },
        template,
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1},
    )
    video = {"processor_class": "LlavaOnevisionProcessor", "video_processor_type": "LlavaOnevisionVideoProcessor"}
    _json(folder / "video_preprocessor_config.json", video | normal)


def instructblip(folder: Path) -> None:
    """Salesforce/instructblip-vicuna-7b: the question also goes through the Q-Former. No chat template."""
    tokenizer = sentencepiece_like(["<image>"], {"pad_token": "[PAD]", **LLAMA})
    question = wordpieces()
    config = hf.InstructBlipConfig(
        vision_config=_vision(),
        qformer_config={
            "vocab_size": len(question),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        text_config={"model_type": "llama", **_text(tokenizer)},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    _write(
        folder,
        hf.InstructBlipForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "BlipImageProcessor",
            "size": _square(),
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            **_steps("resize", "rescale", "normalize", "convert_rgb"),
        },
        {"processor_class": "InstructBlipProcessor", "num_query_tokens": 4},
    )
    question.save_pretrained(folder / "qformer_tokenizer")


def idefics(folder: Path) -> None:
    """HuggingFaceM4/idefics-9b-instruct: text attends across to resampled images. No chat template."""
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = sentencepiece_like(specials, {"pad_token": "<unk>", **LLAMA})
    text = _text(tokenizer, size=len(tokenizer) - len(specials), num_hidden_layers=4)
    del text["num_key_value_heads"]
    config = hf.IdeficsConfig(
        **text,
        additional_vocab_size=len(specials),
        cross_layer_interval=2,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={"embed_dim": 32, **{k: v for k, v in _vision().items() if k != "hidden_size"}},
        perceiver_config={
            "use_resampler": True,
            "resampler_n_latents": 6,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "qk_layer_norms_perceiver": True,
        },
    )
    _write(
        folder,
        hf.IdeficsForVisionText2Text(config),
        tokenizer,
        {
            "image_processor_type": "IdeficsImageProcessor",
            "image_size": SIDE,
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
        },
        {"processor_class": "IdeficsProcessor", "image_size": SIDE},
    )


def fuyu(folder: Path) -> None:
    """adept/fuyu-8b: no encoder, patches are projected; rows of any length. No chat template."""
    marks = [f"<0x{byte:02X}>" for byte in range(5)]
    named = {"pad_token": "<unk>", "bos_token": "<s>", "eos_token": "|ENDOFTEXT|"}
    tokenizer = sentencepiece_like([], named, ["|SPEAKER|", "|NEWLINE|", *marks], bos=False)
    text = _text(tokenizer, model_type="persimmon", qk_layernorm=True, partial_rotary_factor=0.5, rope_theta=25000.0)
    del text["num_key_value_heads"]
    config = hf.FuyuConfig(
        text_config=text,
        image_size=6 * PATCH,
        patch_size=PATCH,
        image_token_id=tokenizer.convert_tokens_to_ids("|SPEAKER|"),
    )
    _write(
        folder,
        hf.FuyuForCausalLM(config),
        tokenizer,
        {
            "image_processor_type": "FuyuImageProcessor",
            "size": _square(6 * PATCH),
            "patch_size": _square(PATCH),
            "image_mean": 0.5,
            "image_std": 0.5,
            "padding_mode": "constant",
            "padding_value": 1.0,
            **_steps("resize", "rescale", "normalize", "pad"),
        },
        {"processor_class": "FuyuProcessor"},
    )


def _qwen_tokenizer() -> Any:
    marks = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    return byte_level(marks, CHATML)


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    of = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": of("<|image_pad|>"),
        "video_token_id": of("<|video_pad|>"),
        "vision_start_token_id": of("<|vision_start|>"),
        "vision_end_token_id": of("<|vision_end|>"),
    }


def _qwen_template(system: str) -> str:
    """`system` is what stands before a conversation without a system message."""
    return (
        "{% if messages[0]['role'] != 'system' %}{{ '" + system.replace("\n", "\\n") + "' }}{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
MROPE: dict[str, Any] = {"type": "mrope", "mrope_section": [4, 2, 2]}


def _qwen_generation(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return {
        "bos_token_id": end[1],
        "eos_token_id": end,
        "do_sample": True,
        "top_k": 1,
        "top_p": 0.001,
        "temperature": 0.01,
        **changes,
    }


def _qwen_images(processor: str, mean: list[float], std: list[float], **changes: Any) -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
        "patch_size": PATCH,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": mean,
        "image_std": std,
        **changes,
    }


def qwen2_vl(folder: Path) -> None:
    """Qwen/Qwen2-VL-7B-Instruct: 4 to 36 tokens an image, by its size."""
    tokenizer = _qwen_tokenizer()
    config = hf.Qwen2VLConfig(
        text_config=_text(tokenizer, rope_scaling=dict(MROPE), rope_theta=1000000.0),
        vision_config={
            "embed_dim": 32,
            "hidden_size": 64,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
        },
        **_qwen_ids(tokenizer),
    )
    _write(
        folder,
        hf.Qwen2VLForConditionalGeneration(config),
        tokenizer,
        _qwen_images("Qwen2VLProcessor", CLIP_MEAN, CLIP_STD, min_pixels=SIDE * SIDE, max_pixels=9 * SIDE * SIDE),
        {"processor_class": "Qwen2VLProcessor"},
        _qwen_template(HELPFUL),
        _qwen_generation(tokenizer),
        legacy=True,
    )


def qwen2_5_vl(folder: Path) -> None:
    """Qwen/Qwen2.5-VL-7B-Instruct: the same, seen through windows, and answers penalised for repeating the prompt."""
    tokenizer = _qwen_tokenizer()
    config = hf.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_scaling=dict(MROPE), rope_theta=1000000.0),
        vision_config={
            "hidden_size": 32,
            "out_hidden_size": 64,
            "depth": 2,
            "num_heads": 2,
            "intermediate_size": 64,
            "patch_size": PATCH,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
        },
        **_qwen_ids(tokenizer),
    )
    _write(
        folder,
        hf.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer,
        _qwen_images("Qwen2_5_VLProcessor", CLIP_MEAN, CLIP_STD, min_pixels=SIDE * SIDE, max_pixels=9 * SIDE * SIDE),
        {"processor_class": "Qwen2_5_VLProcessor"},
        _qwen_template(HELPFUL),
        _qwen_generation(tokenizer, repetition_penalty=1.05),
        legacy=True,
    )


def qwen3_vl(folder: Path) -> None:
    """Qwen/Qwen3-VL-4B-Instruct: features of several encoder layers are added in the first layers of the language
    model."""
    tokenizer = _qwen_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 5000000.0}
    config = hf.Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=16, rope_parameters=rope),
        vision_config={
            "hidden_size": 32,
            "out_hidden_size": 64,
            "depth": 3,
            "num_heads": 2,
            "intermediate_size": 64,
            "patch_size": PATCH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **_qwen_ids(tokenizer),
    )
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": 9 * SIDE * SIDE}
    _write(
        folder,
        hf.Qwen3VLForConditionalGeneration(config),
        tokenizer,
        _qwen_images("Qwen3VLProcessor", HALF, HALF, size=size),
        {"processor_class": "Qwen3VLProcessor"},
        _qwen_template(""),
        _qwen_generation(tokenizer, top_k=20, top_p=0.8, temperature=0.7),
    )
    video = _qwen_images("Qwen3VLProcessor", HALF, HALF, size=size, video_processor_type="Qwen3VLVideoProcessor")
    _json(folder / "video_preprocessor_config.json", {k: v for k, v in video.items() if k != "image_processor_type"})


def internvl(folder: Path) -> None:
    """OpenGVLab/InternVL3-1B-hf: up to six tiles and an overview, four tokens each."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_level(["<|im_start|>", *named.values()], CHATML)
    tokenizer = _named(tokenizer, named)
    config = hf.InternVLConfig(
        vision_config=_vision(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH], attention_bias=True),
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(SIDE // PATCH // 2) ** 2,
        tie_word_embeddings=False,
    )
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normal = {
        "image_mean": mean,
        "image_std": std,
        "size": _square(),
        **_steps("resize", "rescale", "normalize", "convert_rgb"),
    }
    _write(
        folder,
        hf.InternVLForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            "crop_to_patches": False,
            "min_patches": 1,
            "max_patches": 6,
            **normal,
        },
        {"processor_class": "InternVLProcessor", "image_seq_length": (SIDE // PATCH // 2) ** 2},
        template,
    )
    video = {"processor_class": "InternVLProcessor", "video_processor_type": "InternVLVideoProcessor"}
    _json(folder / "video_preprocessor_config.json", video | normal)


def _named(tokenizer: Any, named: dict[str, str]) -> Any:
    """The tokenizer with these as attributes, as its processor wants them."""
    kept = {
        key: getattr(tokenizer, key)
        for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        if getattr(tokenizer, key)
    }
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens=named,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **kept,
    )


def _idefics3(folder: Path, kind: str, tokenizer: Any, start: str, generation: dict[str, Any] | None = None) -> None:
    config_class, model_class = getattr(hf, f"{kind}Config"), getattr(hf, f"{kind}ForConditionalGeneration")
    config = config_class(
        vision_config=_vision(),
        text_config={"model_type": "llama", **_text(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    template = (
        start + "{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}:{% else %}{{ ': ' }}{% endif %}{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}"
        "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    _write(
        folder,
        model_class(config),
        tokenizer,
        {
            "image_processor_type": f"{kind}ImageProcessor",
            "size": {"longest_edge": 2 * SIDE},
            "max_image_size": {"longest_edge": SIDE},
            "image_mean": HALF,
            "image_std": HALF,
            **_steps("resize", "rescale", "normalize", "convert_rgb", "pad", "image_splitting"),
        },
        {"processor_class": f"{kind}Processor", "image_seq_len": (SIDE // PATCH // 2) ** 2},
        template,
        generation,
    )


def idefics3(folder: Path) -> None:
    """HuggingFaceM4/Idefics3-8B-Llama3: tiles in rows and columns; tokenizer and template both begin with the start
    token."""
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_right_pad_id|>"}
    tokenizer = byte_level(specials, named, bos=True)
    ends = tokenizer.convert_tokens_to_ids(["<end_of_utterance>", "<|end_of_text|>"])
    _idefics3(folder, "Idefics3", tokenizer, "<|begin_of_text|>", {"eos_token_id": ends})


def smolvlm(folder: Path) -> None:
    """HuggingFaceTB/SmolVLM2-2.2B-Instruct: the same with another tokenizer, and a slot for videos."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
    }
    named["end_of_utterance_token"] = "<end_of_utterance>"
    starts = {
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    tokenizer = _named(byte_level([*named.values(), *places], starts), named)
    _idefics3(folder, "SmolVLM", tokenizer, "<|im_start|>")
    video = {
        "video_processor_type": "SmolVLMVideoProcessor",
        "processor_class": "SmolVLMProcessor",
        "fps": 1,
        "num_frames": 64,
    }
    _json(folder / "video_preprocessor_config.json", video)


GEMMA: dict[str, str] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def paligemma(folder: Path) -> None:
    """google/paligemma-3b-mix-224: image and question see each other in both directions. No chat template, no prompt
    without an image."""
    places = [f"<loc{place:04}>" for place in range(1024)] + [f"<seg{code:03}>" for code in range(128)]
    tokenizer = sentencepiece_like(["<image>"], GEMMA, bos=False, prefix=False)
    tokenizer.add_tokens(places)
    text = _text(tokenizer, num_key_value_heads=1, head_dim=16)
    config = hf.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_vision()},
        text_config={"model_type": "gemma", **text},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=text["vocab_size"],
        projection_dim=64,
        hidden_size=64,
    )
    _write(
        folder,
        hf.PaliGemmaForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "SiglipImageProcessor",
            "image_seq_length": (SIDE // PATCH) ** 2,
            "size": _square(),
            "image_mean": HALF,
            "image_std": HALF,
            **_steps("resize", "rescale", "normalize"),
        },
        {"processor_class": "PaliGemmaProcessor"},
    )


def gemma3(folder: Path) -> None:
    """google/gemma-3-4b-it: an image's tokens see each other in both directions; most layers see a window only."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = sentencepiece_like(["<start_of_turn>", "<end_of_turn>", *named.values()], GEMMA, prefix=False)
    tokenizer = _named(tokenizer, named)
    of = tokenizer.convert_tokens_to_ids
    layers = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = hf.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_vision()},
        text_config=_text(
            tokenizer,
            num_hidden_layers=4,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=layers,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        mm_tokens_per_image=4,
        boi_token_index=of("<start_of_image>"),
        eoi_token_index=of("<end_of_image>"),
        image_token_index=of("<image_soft_token>"),
    )
    _write(
        folder,
        hf.Gemma3ForConditionalGeneration(config),
        tokenizer,
        {
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": 4,
            "size": _square(),
            "image_mean": HALF,
            "image_std": HALF,
            "do_convert_rgb": None,
            "do_pan_and_scan": None,
            "pan_and_scan_max_num_crops": None,
            "pan_and_scan_min_crop_size": None,
            "pan_and_scan_min_ratio_to_activate": None,
            **_steps("resize", "rescale", "normalize"),
        },
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        _gemma_template("<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
        {"eos_token_id": of(["<eos>", "<end_of_turn>"]), "do_sample": True, "top_k": 64, "top_p": 0.95},
    )


def _gemma_template(start: str, end: str, image: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '" + start + "' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}"
        + image
        + "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
        "{% endfor %}{% endif %}{{ '" + end + "\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + start + "model\n' }}{% endif %}"
    )


def gemma4(folder: Path) -> None:
    """google/gemma-4-E2B-it without hearing, and seeing images in both directions as its big sisters do.

    As many tokens as fit an image's shape, a small embedding a layer, and last layers that read keys and values of
    earlier ones.
    """
    named = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"}
    named |= {"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"}
    tokenizer = sentencepiece_like(["<|turn>", "<turn|>", *named.values(), "<|video|>"], GEMMA, prefix=False)
    tokenizer = _named(tokenizer, named)
    of = tokenizer.convert_tokens_to_ids
    config = hf.Gemma4Config(
        text_config=_text(
            tokenizer,
            num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2,
            head_dim=16,
            global_head_dim=32,
            sliding_window=32,
            num_kv_shared_layers=2,
            vocab_size_per_layer_input=len(tokenizer),
            hidden_size_per_layer_input=8,
            use_bidirectional_attention="vision",
            final_logit_softcapping=30.0,
        ),
        vision_config={
            **{k: v for k, v in _vision(patch_size=4).items() if k != "image_size"},
            "num_key_value_heads": 2,
            "head_dim": 16,
            "pooling_kernel_size": 3,
            "position_embedding_size": 640,
        },
        audio_config=None,
        boi_token_id=of("<|image>"),
        eoi_token_id=of("<image|>"),
        image_token_id=of("<|image|>"),
        video_token_id=of("<|video|>"),
        boa_token_id=of("<|audio>"),
        eoa_token_index=of("<audio|>"),
        audio_token_id=of("<|audio|>"),
    )
    sizes = {"patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70}
    normal = {
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
        "do_normalize": False,
        **_steps("resize", "rescale", "convert_rgb"),
        **sizes,
    }
    images = {"image_processor_type": "Gemma4ImageProcessor", **normal}
    _write(
        folder,
        hf.Gemma4ForConditionalGeneration(config),
        tokenizer,
        images,
        {
            "processor_class": "Gemma4Processor",
            "image_seq_length": 70,
            "image_processor": images,
            "video_processor": {"video_processor_type": "Gemma4VideoProcessor", **normal, "num_frames": 32},
            "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor", "sampling_rate": 16000},
        },
        _gemma_template("<|turn>", "<turn|>", "<|image|>"),
        {"eos_token_id": of(["<eos>", "<turn|>"]), "do_sample": True, "top_k": 64, "top_p": 0.95, "temperature": 1.0},
    )
    (folder / "preprocessor_config.json").unlink()  # this one keeps everything in processor_config.json


FAMILIES: dict[str, Callable[[Path], None]] = {
    family.__name__: family
    for family in (
        llava,
        llava_next,
        llava_onevision,
        instructblip,
        idefics,
        fuyu,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        idefics3,
        smolvlm,
        paligemma,
        gemma3,
        gemma4,
    )
}
