"""Tiny random checkpoints of real architectures: a folder each, with the files, settings, templates and quirks of its
big namesake.

    FAMILIES["qwen2_5_vl"](folder)
    AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

Weights are random and wide: another image, another question, another answer. Nothing is built from processors, so no
family needs torchvision to be written. Every image side is a multiple of a 7-pixel patch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as hf

from tests.harness.zoo_gemma import gemma3, gemma4, paligemma
from tests.harness.zoo_parts import (
    CHATML,
    CLIP,
    HALF,
    IMAGES_FIRST,
    LLAMA,
    PATCH,
    SIDE,
    SIGLIP,
    TEXTS,
    byte_level,
    images,
    sentencepiece_like,
    settings,
    square,
    steps,
    text_config,
    vision_config,
    with_tokens,
    wordpieces,
    write,
    write_json,
)
from tests.harness.zoo_qwen import internvl, qwen2_5_vl, qwen2_vl, qwen3_vl


def llava(folder: Path) -> None:
    """llava-hf/llava-1.5-7b-hf."""
    tokenizer = sentencepiece_like(["<image>"], {"pad_token": "<pad>", **LLAMA})
    config = hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **vision_config()},
        text_config={"model_type": "llama", **text_config(tokenizer)},
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
    write(
        folder,
        hf.LlavaForConditionalGeneration(config),
        tokenizer,
        images(
            "CLIPImageProcessor",
            "resize center_crop rescale normalize convert_rgb",
            CLIP,
            size={"shortest_edge": SIDE},
            crop_size=square(),
        ),
        settings(
            processor_class="LlavaProcessor",
            image_token="<image>",
            num_additional_image_tokens=1,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
        ),
        template,
        legacy=True,
    )


def llava_next(folder: Path) -> None:
    """llava-hf/llava-v1.6-mistral-7b-hf: an overview and up to four tiles."""
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
    tokenizer = sentencepiece_like(["<image>"], {"pad_token": "<pad>", **LLAMA})
    config = hf.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **vision_config()},
        text_config={"model_type": "mistral", **text_config(tokenizer, sliding_window=None)},
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
    write(
        folder,
        hf.LlavaNextForConditionalGeneration(config),
        tokenizer,
        images(
            "LlavaNextImageProcessor",
            "resize center_crop rescale normalize convert_rgb pad",
            CLIP,
            aspect_ratio_setting="anyres",
            size={"shortest_edge": SIDE},
            crop_size=square(),
            image_grid_pinpoints=pinpoints,
        ),
        settings(
            processor_class="LlavaNextProcessor",
            image_token="<image>",
            num_additional_image_tokens=1,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
        ),
        template,
    )


def llava_onevision(folder: Path) -> None:
    """llava-hf/llava-onevision-qwen2-7b-ov-hf: tiles up to 4 x 4, pooled down when there are more than nine of them."""
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in range(1, 5) for columns in range(1, 5)]
    tokenizer = byte_level(["<|im_start|>", "<image>", "<video>"], CHATML)
    config = hf.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision_config()},
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
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
    normal = settings(
        image_mean=HALF, image_std=HALF, size=square(), **steps("resize", "rescale", "normalize", "convert_rgb")
    )
    write(
        folder,
        hf.LlavaOnevisionForConditionalGeneration(config),
        tokenizer,
        images("LlavaOnevisionImageProcessor", "", image_grid_pinpoints=pinpoints, do_pad=True, **normal),
        settings(
            processor_class="LlavaOnevisionProcessor",
            image_token="<image>",
            video_token="<video>",
            num_image_tokens=(SIDE // PATCH) ** 2,
            vision_aspect_ratio="anyres_max_9",
            vision_feature_select_strategy="full",
        ),
        template,
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1},
    )
    video = {"processor_class": "LlavaOnevisionProcessor", "video_processor_type": "LlavaOnevisionVideoProcessor"}
    write_json(folder / "video_preprocessor_config.json", video | normal)


def instructblip(folder: Path) -> None:
    """Salesforce/instructblip-vicuna-7b: the question also goes through the Q-Former. No chat template."""
    tokenizer = sentencepiece_like(["<image>"], {"pad_token": "[PAD]", **LLAMA})
    question = wordpieces()
    config = hf.InstructBlipConfig(
        vision_config=vision_config(),
        qformer_config=settings(
            vocab_size=len(question), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        ),
        text_config={"model_type": "llama", **text_config(tokenizer)},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    write(
        folder,
        hf.InstructBlipForConditionalGeneration(config),
        tokenizer,
        images("BlipImageProcessor", "resize rescale normalize convert_rgb", CLIP, size=square()),
        {"processor_class": "InstructBlipProcessor", "num_query_tokens": 4},
    )
    question.save_pretrained(folder / "qformer_tokenizer")


def idefics(folder: Path) -> None:
    """HuggingFaceM4/idefics-9b-instruct: text attends across to resampled images. No chat template."""
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = sentencepiece_like(specials, {"pad_token": "<unk>", **LLAMA})
    text = text_config(tokenizer, size=len(tokenizer) - len(specials), num_hidden_layers=4)
    del text["num_key_value_heads"]
    config = hf.IdeficsConfig(
        **text,
        additional_vocab_size=len(specials),
        cross_layer_interval=2,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={"embed_dim": 32, **{k: v for k, v in vision_config().items() if k != "hidden_size"}},
        perceiver_config=settings(
            use_resampler=True,
            resampler_n_latents=6,
            resampler_depth=2,
            resampler_n_heads=2,
            resampler_head_dim=16,
            qk_layer_norms_perceiver=True,
        ),
    )
    write(
        folder,
        hf.IdeficsForVisionText2Text(config),
        tokenizer,
        images("IdeficsImageProcessor", "", CLIP, image_size=SIDE),
        {"processor_class": "IdeficsProcessor", "image_size": SIDE},
    )


def fuyu(folder: Path) -> None:
    """adept/fuyu-8b: no encoder, patches are projected; rows of any length. No chat template."""
    marks = [f"<0x{byte:02X}>" for byte in range(5)]
    named = {"pad_token": "<unk>", "bos_token": "<s>", "eos_token": "|ENDOFTEXT|"}
    tokenizer = sentencepiece_like([], named, ["|SPEAKER|", "|NEWLINE|", *marks], bos=False)
    text = text_config(
        tokenizer, model_type="persimmon", qk_layernorm=True, partial_rotary_factor=0.5, rope_theta=25000.0
    )
    del text["num_key_value_heads"]
    config = hf.FuyuConfig(
        text_config=text,
        image_size=6 * PATCH,
        patch_size=PATCH,
        image_token_id=tokenizer.convert_tokens_to_ids("|SPEAKER|"),
    )
    write(
        folder,
        hf.FuyuForCausalLM(config),
        tokenizer,
        images(
            "FuyuImageProcessor",
            "resize rescale normalize pad",
            (0.5, 0.5),
            size=square(6 * PATCH),
            patch_size=square(PATCH),
            padding_mode="constant",
            padding_value=1.0,
        ),
        {"processor_class": "FuyuProcessor"},
    )


def _idefics3(folder: Path, kind: str, tokenizer: Any, start: str, generation: dict[str, Any] | None = None) -> None:
    config_class, model_class = getattr(hf, f"{kind}Config"), getattr(hf, f"{kind}ForConditionalGeneration")
    config = config_class(
        vision_config=vision_config(),
        text_config={"model_type": "llama", **text_config(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    template = (
        start + "{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}:{% else %}{{ ': ' }}{% endif %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>{% endif %}"
        "{% endfor %}"
        "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    write(
        folder,
        model_class(config),
        tokenizer,
        images(
            f"{kind}ImageProcessor",
            "resize rescale normalize convert_rgb pad image_splitting",
            SIGLIP,
            size={"longest_edge": 2 * SIDE},
            max_image_size={"longest_edge": SIDE},
        ),
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
    named = settings(
        fake_image_token="<fake_token_around_image>", image_token="<image>", global_image_token="<global-img>"
    )
    named["end_of_utterance_token"] = "<end_of_utterance>"
    starts = settings(
        bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer = with_tokens(byte_level([*named.values(), *places], starts), named)
    _idefics3(folder, "SmolVLM", tokenizer, "<|im_start|>")
    video = settings(
        video_processor_type="SmolVLMVideoProcessor", processor_class="SmolVLMProcessor", fps=1, num_frames=64
    )
    write_json(folder / "video_preprocessor_config.json", video)


_FAMILIES = (
    *(llava, llava_next, llava_onevision, instructblip, idefics, fuyu, qwen2_vl, qwen2_5_vl, qwen3_vl, internvl),
    *(idefics3, smolvlm, paligemma, gemma3, gemma4),
)
FAMILIES: dict[str, Callable[[Path], None]] = {family.__name__: family for family in _FAMILIES}
