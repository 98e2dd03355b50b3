"""What a checkpoint's generation_config.json says of decoding: it decides nothing, here or behind a server.

    left_out = keep_token_ids(model)         # {"repetition_penalty": 1.05}: what would have changed greedy answers

The tokens that begin, end and fill a text count. All else is the task's and the user's to say.
"""

from collections.abc import Mapping
from typing import Any, Final

FILE: Final = "generation_config.json"
FACT: Final = "generation settings not used"
"""In provenance: those of the checkpoint that would have changed its answers."""
TOKEN_IDS: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
NO_OP_VALUES: Final[Mapping[str, tuple[Any, ...]]] = {
    "num_beams": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "sequence_bias": (None, {}),
    "guidance_scale": (None, 1, 1.0),
    "prompt_lookup_num_tokens": (None,),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
}
"""Generation settings that our greedy decoding lacks, and the values with which they do nothing."""
_OF_GREEDY: Final = {**NO_OP_VALUES, **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (None, 1))}


def find_acting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a generation_config.json that would change greedy answers."""
    return {name: config[name] for name, no_op in _OF_GREEDY.items() if config.get(name) not in no_op}


def keep_token_ids(model: Any) -> dict[str, Any]:
    """Have a model's `generate`, and that of its parts, know token ids alone; what would have changed its greedy
    answers."""
    from transformers import GenerationConfig

    left_out = find_acting(vars(model.generation_config))
    for part in model.modules():
        if (config := getattr(part, "generation_config", None)) is not None:
            part.generation_config = GenerationConfig(**{name: getattr(config, name) for name in TOKEN_IDS})
    return left_out


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as entries record them."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())[:500]
