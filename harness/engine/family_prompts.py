"""How questions are put to families whose repositories hold no chat template: as their authors document it.

authors_prompt("fuyu", {"<unk>"})       # a FamilyPrompt; None for families that are asked in plain words
obey_prompt(model, tokenizer)           # what ends an answer, and what may never stand in one
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlparse

_SAID: Final = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
)
_IMAGES: Final = "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
_TEXTS: Final = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"


@dataclass(frozen=True, kw_only=True)
class FamilyPrompt:
    """A family's prompt."""

    template: str
    """Jinja, as a chat template; our engine hands the images that it marks to the family's processor."""
    source: str
    """Where the authors document it."""
    needs: str = ""
    """A token that the tokenizers have of checkpoints that know the prompt; "" if all of the family do."""
    stop: str = ""
    """A token that ends an answer, beside the end of text."""
    never: tuple[str, ...] = ()
    """Tokens that may not be written ("bad words")."""


_PROMPTS: Final = {
    # prompts = ["User:", image, "And who is that?<end_of_utterance>", "\nAssistant:"], eos_token_id=exit_condition
    "idefics": FamilyPrompt(
        template=(
            "{% for message in messages %}{{ '' if loop.first else '\n' }}{{ message['role'] | capitalize }}:"
            "{% if message['content'][0]['type'] == 'text' %}{{ ' ' }}{% endif %}" + _SAID + "<end_of_utterance>"
            "{% endfor %}{% if add_generation_prompt %}{{ '\nAssistant:' }}{% endif %}"
        ),
        source="model card of HuggingFaceM4/idefics-9b-instruct",
        needs="<end_of_utterance>",
        stop="<end_of_utterance>",
        never=("<image>", "<fake_token_around_image>"),
    ),
    # text_prompt = "What color is the bus?\n"
    "fuyu": FamilyPrompt(
        template="{% for message in messages %}" + _IMAGES + _TEXTS + "{{ '\n' }}{% endfor %}",
        source="model card of adept/fuyu-8b",
    ),
    # "answer {lang} {question}\n", the one task of the mix models that has a question; the processor breaks the line
    "paligemma": FamilyPrompt(
        template="{% for message in messages %}" + _IMAGES + "answer en " + _TEXTS + "{% endfor %}",
        source="ai.google.dev/gemma/docs/paligemma/prompt-system-instructions",
    ),
}


def authors_prompt(model_type: Any, tokens: Collection[str]) -> FamilyPrompt | None:
    """The prompt of a family, for a checkpoint whose tokenizer has these added tokens."""
    found = _PROMPTS.get(model_type) if isinstance(model_type, str) else None
    return found if found is not None and (not found.needs or found.needs in tokens) else None


def is_address(text: str) -> bool:
    """Whether IDEFICS's processor takes a piece of a prompt for an image's address."""
    try:
        found = urlparse(text.strip(" "))
    except ValueError:
        return True  # and would raise, or worse
    return " " not in text.strip(" ") and bool(found.scheme and found.netloc)


def obey_prompt(model: Any, tokenizer: Any) -> None:
    """Let the model's answers end, and lack, what its family's prompt says."""
    found = authors_prompt(model.config.model_type, tokenizer.get_added_vocab())
    if found is None:
        return
    config = model.generation_config
    if found.stop:
        named = config.eos_token_id
        ends = [*(named if isinstance(named, list) else [named]), tokenizer.convert_tokens_to_ids(found.stop)]
        config.eos_token_id = [token for token in dict.fromkeys(ends) if token is not None]
    if found.never:
        config.bad_words_ids = [[tokenizer.convert_tokens_to_ids(token)] for token in found.never]
