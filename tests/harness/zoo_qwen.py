"""Families with Qwen's tokenizer and template."""

from pathlib import Path
from typing import Any

import transformers as hf

from tests.harness.zoo_parts import (
    CHATML,
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    PATCH,
    SIDE,
    byte_level,
    images,
    settings,
    square,
    steps,
    text_config,
    vision_config,
    with_tokens,
    write,
    write_json,
)


def _qwen_tokenizer() -> Any:
    marks = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    return byte_level(marks, CHATML)


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    of = tokenizer.convert_tokens_to_ids
    return settings(
        image_token_id=of("<|image_pad|>"),
        video_token_id=of("<|video_pad|>"),
        vision_start_token_id=of("<|vision_start|>"),
        vision_end_token_id=of("<|vision_end|>"),
    )


def _qwen_template(system: str) -> str:
    """`system` is what stands before a conversation without a system message."""
    return (
        "{% if messages[0]['role'] != 'system' %}{{ '" + system.replace("\n", "\\n") + "' }}{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
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
        text_config=text_config(tokenizer, rope_scaling=dict(MROPE), rope_theta=1000000.0),
        vision_config=settings(embed_dim=32, hidden_size=64, depth=2, num_heads=2, mlp_ratio=2, patch_size=PATCH),
        **_qwen_ids(tokenizer),
    )
    write(
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
        text_config=text_config(tokenizer, rope_scaling=dict(MROPE), rope_theta=1000000.0),
        vision_config=settings(
            hidden_size=32,
            out_hidden_size=64,
            depth=2,
            num_heads=2,
            intermediate_size=64,
            patch_size=PATCH,
            window_size=4 * PATCH,
            fullatt_block_indexes=[1],
        ),
        **_qwen_ids(tokenizer),
    )
    write(
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
        text_config=text_config(tokenizer, head_dim=16, rope_parameters=rope),
        vision_config=settings(
            hidden_size=32,
            out_hidden_size=64,
            depth=3,
            num_heads=2,
            intermediate_size=64,
            patch_size=PATCH,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        **_qwen_ids(tokenizer),
    )
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": 9 * SIDE * SIDE}
    write(
        folder,
        hf.Qwen3VLForConditionalGeneration(config),
        tokenizer,
        _qwen_images("Qwen3VLProcessor", HALF, HALF, size=size),
        {"processor_class": "Qwen3VLProcessor"},
        _qwen_template(""),
        _qwen_generation(tokenizer, top_k=20, top_p=0.8, temperature=0.7),
    )
    video = _qwen_images("Qwen3VLProcessor", HALF, HALF, size=size, video_processor_type="Qwen3VLVideoProcessor")
    write_json(
        folder / "video_preprocessor_config.json", {k: v for k, v in video.items() if k != "image_processor_type"}
    )


def internvl(folder: Path) -> None:
    """OpenGVLab/InternVL3-1B-hf: up to six tiles and an overview, four tokens each."""
    named = settings(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    tokenizer = byte_level(["<|im_start|>", *named.values()], CHATML)
    tokenizer = with_tokens(tokenizer, named)
    config = hf.InternVLConfig(
        vision_config=vision_config(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH], attention_bias=True),
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(SIDE // PATCH // 2) ** 2,
        tie_word_embeddings=False,
    )
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normal = settings(
        image_mean=mean, image_std=std, size=square(), **steps("resize", "rescale", "normalize", "convert_rgb")
    )
    write(
        folder,
        hf.InternVLForConditionalGeneration(config),
        tokenizer,
        images("GotOcr2ImageProcessor", "", crop_to_patches=False, min_patches=1, max_patches=6, **normal),
        {"processor_class": "InternVLProcessor", "image_seq_length": (SIDE // PATCH // 2) ** 2},
        template,
    )
    video = {"processor_class": "InternVLProcessor", "video_processor_type": "InternVLVideoProcessor"}
    write_json(folder / "video_preprocessor_config.json", video | normal)
