"""Prompts as people read them: the words of the turns, without what a chat template puts around them.

without_template("<s><image><user>is there a dog?<assistant>")     # "is there a dog?"
without_template("USER: <image>\\nIs there a dog? ASSISTANT:")      # "Is there a dog?"
"""

import re
from typing import Final

from support.image_marks import MARK

_ROLE: Final = r"(?:system|user|human|assistant|model|ai|gpt)"
_TOKEN: Final = re.compile(
    "|".join(
        (
            rf"<\|(?:im_start|start_header_id|start|header_start)\|>[ \t]*{_ROLE}?",  # ChatML, Llama 3 and 4
            rf"<start_of_turn>[ \t]*{_ROLE}?",  # Gemma
            r"</?s>|<bos>|<eos>|<end_of_turn>|<end_of_utterance>|\[/?INST\]|<</?SYS>>",
            rf"</?{_ROLE}>",
            r"<\|[A-Za-z0-9_/. -]{1,40}\|>",
            r"<｜[^｜<>]{1,40}｜>",  # DeepSeek writes its tokens with full-width bars
        )
    ),
    re.IGNORECASE,
)
_TURN: Final = re.compile(r"\b(?:SYSTEM|USER|HUMAN|ASSISTANT):")
_ENDS: Final = re.compile(r"^(?:user|human|system):|(?:^|(?<=\s))(?:assistant|model|gpt|ai):$", re.IGNORECASE)


def without_template(prompt: str) -> str:
    """The prompt's words; the prompt itself where nothing would be left."""
    text = _TURN.sub("\n", _TOKEN.sub("\n", MARK.sub("\n", prompt))).strip()
    lines = [line.strip() for line in _ENDS.sub("", text).splitlines()]
    return "\n".join(line for line in lines if line) or prompt
