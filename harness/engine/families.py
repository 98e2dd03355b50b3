"""What is known of model families, by model type."""

from typing import Final

PLACES_IMAGES_ITSELF: Final = frozenset({"instructblip", "fuyu"})
"""The processor puts an image's placeholder in by itself."""

COUNTS_IMAGES: Final = frozenset({"llava_onevision"})
"""The processor cuts several images into tiles otherwise than one: prompts with several run without sharing."""

INTERLEAVED: Final = frozenset({"idefics"})
"""The processor takes images between pieces of text."""

READS_BOTH_WAYS: Final = frozenset({"paligemma"})
"""A prompt's tokens see what follows them."""

NO_CONVERSATION: Final = frozenset(
    {
        *("instructblip", "instructblipvideo", "idefics", "fuyu", "paligemma", "blip", "blip-2", "git", "kosmos-2"),
        *("kosmos-2.5", "pix2struct", "florence2", "vision-encoder-decoder", "udop"),
    }
)
"""Published without a chat template, all of them: the question is asked as their authors document it
(family_prompts.py), else as plain text."""

VERIFIED: Final = frozenset(
    {
        *("llava", "llava_next", "llava_onevision", "qwen", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"),
        *("idefics3", "smolvlm", "paligemma", "gemma3", "gemma4"),
    }
)
"""Our tests show that answers are the same with sharing and without."""
