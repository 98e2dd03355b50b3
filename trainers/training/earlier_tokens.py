"""Runs begun by a version whose answers had other tokens are not continued: each half would learn others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from support.errors import TrainingError
from trainers.data.chat import TOKENS_VERSION
from trainers.data.collators import PairCollator
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs
from trainers.training.checkpoints import NOTE, TOKENS, read_note
from trainers.training.llava_15 import CHAT_TEMPLATE as LLAVA_15
from trainers.training.llava_15 import is_without_sentence

LOOKED_AT: Final = 16
"""Pairs on which the tokens of both versions are compared."""


def check_begun_alike(out: Path, pairs: Sequence[Preference], processor: Any, stops: frozenset[int]) -> None:
    """TrainingError if a run's folder, or the run that this is the control of, has checkpoints of other tokens."""
    noted = [path.parent for folder in (out, out.parent) for path in sorted(folder.glob(f"checkpoint-*/{NOTE}"))]
    if other := [folder for folder in noted if processor.chat_template == LLAVA_15 and is_without_sentence(folder)]:
        raise TrainingError(
            f"{other[-1]} was trained by an earlier version, which asked LLaVA-1.5 without its system sentence and cut "
            f"its pictures; begin anew with another --out, or remove {other[-1].parent}"
        )
    earlier = [folder for folder in noted if read_note(folder).get(TOKENS) != TOKENS_VERSION]
    if not earlier:
        return
    changed = next((pair for pair in pairs[:LOOKED_AT] if _has_other_tokens(pair, processor, stops)), None)
    if changed is not None:
        raise TrainingError(
            f"{earlier[-1]} was trained by an earlier version, whose answers had other tokens and another end "
            f"(as those of pair {changed.id!r}); begin anew with another --out, or remove {earlier[-1].parent}"
        )


def _has_other_tokens(pair: Preference, processor: Any, stops: frozenset[int]) -> bool:
    """True if TRL, which made the tokens before, gives a pair other rows."""
    examples = [Pairs([pair])[0]]
    before = DataCollatorForVisionPreference(processor=processor)([dict(example) for example in examples])
    now = PairCollator(processor, None, stops)(examples)
    return not all(torch.equal(before[name], now[name]) for name in ("input_ids", "completion_mask"))
