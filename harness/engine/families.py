"""What is known of model families: which ones the test suite has shown to answer the same with sharing."""

from typing import Final

BY_ITSELF: Final = frozenset({"instructblip", "fuyu"})
"""Model types whose processor puts an image's placeholder in by itself."""

TOGETHER: Final = frozenset({"llava_onevision"})
"""Model types whose processor looks at how many images a prompt has: prompts with several are asked plainly."""

INTERLEAVED: Final = frozenset({"idefics"})
"""Model types whose processor takes images between pieces of text."""

VERIFIED: Final = frozenset(
    {
        *("llava", "llava_next", "llava_onevision", "qwen", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"),
        *("idefics3", "smolvlm", "paligemma", "gemma3", "gemma4"),
    }
)
"""Model types whose equality with the plain way our tests show."""
