"""The marks that stand for a picture in a text: "<image>" and what other families write for it.

marks_in("<image>\nIs there a dog?")             # ["<image>"]
take_mark("Picture 1: <img>a.jpg</img>\nIs it?")  # "Is it?"
"""

import re
from typing import Final

_NAMED: Final = r"<\|?(?:image|img|picture)(?:[ _-]?(?:placeholder|pad|token|soft_token|here|context|\d+))?(?:\|| ?/)?>"
_WRAPPED: Final = "|".join(
    (
        r"\(?<image>\./</image>\)?|<image></image>",  # MiniCPM-V
        r"<image>(?:<image>|<imagehere>)</image>",  # InternLM-XComposer
        r"\[<img_plh>\]",  # Emu
        r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>",  # Qwen2-VL and later
        r"<\|begin_of_image\|>(?:<\|image\|>)*<\|end_of_image\|>",  # GLM-4V
        r"<\|media_start\|>image<\|media_content\|>(?:<\|media_pad\|>)+<\|media_end\|>",  # Kimi-VL
        r"<fake_token_around_image>(?:<image>)+<fake_token_around_image>",  # Idefics
        r"<im_start>(?:<image>|(?:<im_patch>)+)<im_end>|(?:<im_patch>)+",  # LLaVA, with start and end tokens
        r"<fim_prefix><\|img\|><fim_suffix>",  # Aria
        r"<start_of_image>(?:(?:<image_soft_token>)+<end_of_image>)?",  # Gemma
        r"(?:\[IMG\](?:\[IMG_BREAK\])?)+\[IMG_END\]|\[IMG\](?!.*\[/IMG\])",  # Pixtral; not a forum's [IMG]...[/IMG]
    )
)
_TAGGED: Final = (  # Qwen-VL, MiniGPT-4, InternVL
    r"(?:picture \d+:\s*)?<img>(?:\s*<(?:imagehere|image)>\s*|(?:<img_?(?:context|pad)>)+|(?!\s)[^<>\n]*)</img>"
)
MARK: Final = re.compile(f"{_WRAPPED}|{_TAGGED}|{_NAMED}", re.IGNORECASE)
"""What stands for a picture in the prompts of some family."""


def marks_in(text: str) -> list[str]:
    """The marks in a text, in order; one that is written as several tokens is one mark."""
    return [match[0] for match in MARK.finditer(text)]


def take_mark(text: str) -> str:
    """The text without the one mark at its start or its end, and unchanged if it has none.

    ValueError where a mark stands between words, or there are several.
    """
    found = list(MARK.finditer(text))
    if not found:
        return text
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} places of pictures ({', '.join(match[0] for match in found[:3])}) for one picture"
        )
    before, after = text[: found[0].start()], text[found[0].end() :]
    if before.strip() and after.strip():
        raise ValueError(f"the place of its picture ({found[0][0]}) is between words; it must be first")
    return (before + after).strip()
