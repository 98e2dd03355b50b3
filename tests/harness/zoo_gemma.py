"""Google's families."""

from pathlib import Path

import transformers as hf

from tests.harness.zoo_parts import (
    PATCH,
    SIDE,
    SIGLIP,
    images,
    sentencepiece_like,
    settings,
    square,
    steps,
    text_config,
    vision_config,
    with_tokens,
    write,
)

GEMMA: dict[str, str] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def paligemma(folder: Path) -> None:
    """google/paligemma-3b-mix-224: image and question see each other in both directions. No chat template, no prompt
    without an image."""
    places = [f"<loc{place:04}>" for place in range(1024)] + [f"<seg{code:03}>" for code in range(128)]
    tokenizer = sentencepiece_like(["<image>"], GEMMA, bos=False, prefix=False)
    tokenizer.add_tokens(places)
    text = text_config(tokenizer, num_key_value_heads=1, head_dim=16)
    config = hf.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision_config()},
        text_config={"model_type": "gemma", **text},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=text["vocab_size"],
        projection_dim=64,
        hidden_size=64,
    )
    write(
        folder,
        hf.PaliGemmaForConditionalGeneration(config),
        tokenizer,
        images(
            "SiglipImageProcessor",
            "resize rescale normalize",
            SIGLIP,
            image_seq_length=(SIDE // PATCH) ** 2,
            size=square(),
        ),
        {"processor_class": "PaliGemmaProcessor"},
    )


def gemma3(folder: Path) -> None:
    """google/gemma-3-4b-it: an image's tokens see each other in both directions; most layers see a window only."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = sentencepiece_like(["<start_of_turn>", "<end_of_turn>", *named.values()], GEMMA, prefix=False)
    tokenizer = with_tokens(tokenizer, named)
    of = tokenizer.convert_tokens_to_ids
    layers = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = hf.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision_config()},
        text_config=text_config(
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
    write(
        folder,
        hf.Gemma3ForConditionalGeneration(config),
        tokenizer,
        images(
            "Gemma3ImageProcessor",
            "resize rescale normalize",
            SIGLIP,
            image_seq_length=4,
            size=square(),
            do_convert_rgb=None,
            do_pan_and_scan=None,
            pan_and_scan_max_num_crops=None,
            pan_and_scan_min_crop_size=None,
            pan_and_scan_min_ratio_to_activate=None,
        ),
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        _gemma_template("<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
        {"eos_token_id": of(["<eos>", "<end_of_turn>"]), "do_sample": True, "top_k": 64, "top_p": 0.95},
    )


def _gemma_template(start: str, end: str, image: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '" + start + "' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
        "{% for part in message['content'] %}"
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
    tokenizer = with_tokens(tokenizer, named)
    of = tokenizer.convert_tokens_to_ids
    config = hf.Gemma4Config(
        text_config=text_config(
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
        vision_config=settings(
            **{k: v for k, v in vision_config(patch_size=4).items() if k != "image_size"},
            num_key_value_heads=2,
            head_dim=16,
            pooling_kernel_size=3,
            position_embedding_size=640,
        ),
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
    normal = settings(
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        do_normalize=False,
        **steps("resize", "rescale", "convert_rgb"),
        **sizes,
    )
    images = {"image_processor_type": "Gemma4ImageProcessor", **normal}
    write(
        folder,
        hf.Gemma4ForConditionalGeneration(config),
        tokenizer,
        images,
        settings(
            processor_class="Gemma4Processor",
            image_seq_length=70,
            image_processor=images,
            video_processor={"video_processor_type": "Gemma4VideoProcessor", **normal, "num_frames": 32},
            feature_extractor={"feature_extractor_type": "Gemma4AudioFeatureExtractor", "sampling_rate": 16000},
        ),
        _gemma_template("<|turn>", "<turn|>", "<|image|>"),
        {"eos_token_id": of(["<eos>", "<turn|>"]), "do_sample": True, "top_k": 64, "top_p": 0.95, "temperature": 1.0},
    )
    (folder / "preprocessor_config.json").unlink()  # this one keeps everything in processor_config.json
