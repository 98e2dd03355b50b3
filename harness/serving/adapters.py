"""What a server must be ready for to serve LoRA adapters."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.models.base_names import ADAPTER_CONFIG
from harness.models.weight_files import read_json, read_tensors, weight_files
from support.errors import HarnessError, ServerError

INSTEAD: Final = "score it without --serve, or merge it into its base"
_USUAL: Final = 8
"""PEFT's rank where none is written down."""
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be told of."""
_TEXT: Final = re.compile(r"(^|\.)(language_model|text_model|lm_head)(\.|$)|^(model\.)?(layers|embed_tokens)(\.|$)")
"""Modules of a language model; an adapter's others are in the vision encoder, or between the two."""
_ACCEPTED: Final[dict[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),  # others have changed the base
    "bias": ("none", None),
    **dict.fromkeys(
        """rank_pattern alpha_pattern modules_to_save use_dora layer_replication trainable_token_indices lora_bias
        alora_invocation_tokens fan_in_fan_out use_qalora target_parameters""".split(),
        (None, False, {}, []),
    ),
}
"""Settings of an adapter with the values that vLLM applies as they are meant; it passes over some of the others."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """What the adapters on one base need; nothing for none."""

    rank: int = 0
    vision: bool = False
    """Whether one adapts modules outside of the language model."""

    def __or__(self, other: "Adapters") -> "Adapters":
        return Adapters(rank=max(self.rank, other.rank), vision=self.vision or other.vision)

    def cover(self, other: "Adapters") -> bool:
        """Whether a server that is ready for these is so for those, too."""
        return self | other == self

    def words(self) -> list[str]:
        """vLLM's flags. ServerError for a rank that is too large."""
        if not self.rank:
            return []
        if self.rank > RANKS[-1]:
            raise ServerError(f"an adapter of rank {self.rank}: vLLM takes up to {RANKS[-1]}; {INSTEAD}")
        largest = next(rank for rank in RANKS if rank >= self.rank)
        vision = ["--enable-tower-connector-lora"] if self.vision else []
        return ["--enable-lora", f"--max-lora-rank={largest}", *vision]


def needs_of(folders: Iterable[Path]) -> Adapters:
    """What these adapter folders need together; others among them need nothing. ServerError for an adapter that vLLM
    would not apply as it is meant."""
    needs = Adapters()
    for folder in folders:
        if (folder / ADAPTER_CONFIG).is_file():
            needs |= _needs_of(folder)
    return needs


def needs_of_usable(folders: Iterable[Path]) -> Adapters:
    """The same without those that can't be served: each says so in its turn."""
    needs = Adapters()
    for folder in folders:
        with suppress(HarnessError):
            needs |= needs_of([folder])
    return needs


def _needs_of(folder: Path) -> Adapters:
    config = read_json(folder / ADAPTER_CONFIG)
    for name, accepted in _ACCEPTED.items():
        if name in config and config[name] not in accepted:
            raise ServerError(f"{folder}: vLLM serves no adapter with {name} {config[name]!r}; {INSTEAD}")
    if isinstance(rank := config.get("r", _USUAL), bool) or not isinstance(rank, int) or rank < 1:
        raise ServerError(f"{folder}/{ADAPTER_CONFIG}: r is {rank!r}, no rank")
    names = [name for path in weight_files(folder) for name, _ in read_tensors(path)]
    modules = {re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", name) for name in names}
    return Adapters(rank=rank, vision=not all(_TEXT.search(module) for module in modules))
