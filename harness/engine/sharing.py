"""How much work questions share.

prefix      features of an image once, beginnings of prompts once
features    features of an image once
answers     each question through the processor and transformers' own generation; the same question once
"""

from dataclasses import dataclass, field
from typing import Final

from harness.engine.config import Level
from leaderboards.board.entry import SHARES_NOTHING

_WORDS: Final[dict[Level, str]] = {
    "prefix": "answers, image features, prefix",
    "features": "answers, image features",
    "answers": "answers",
}


@dataclass
class Sharing:
    """What questions share, at the moment."""

    level: Level
    exact: bool
    """Nothing is shared, whatever the level."""
    reasons: list[str] = field(default_factory=list)
    """Why less is shared than was asked for."""
    checked: bool = False

    @property
    def shares_images(self) -> bool:
        """True if an image's features are computed once."""
        return not self.exact and self.level != "answers"

    def fall_back(self, level: Level, reason: str) -> None:
        """Share less from here on."""
        self.level = level
        self.reasons.append(reason)

    def __str__(self) -> str:
        if self.exact:
            return SHARES_NOTHING
        return _WORDS[self.level] + (f" ({'; '.join(self.reasons)})" if self.reasons else "")
