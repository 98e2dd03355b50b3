"""The template that a question is put into before a model reads it, and where it came from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from support.bounded import call_bounded
from support.errors import ModelError, one_line

FACT: Final = "chat template"
"""In provenance: the template's digest, or how the model is asked without one."""
PLAIN: Final = "none: plain text"


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A Jinja template of a conversation."""

    text: str | None
    """None: a question is asked as plain text, for families that know no conversation."""
    source: str
    """The file it was found in, or who gave it."""
    own: bool = True
    """Whether it is the model's own: from the folder of its weights, or the one of its whole family."""
    asks_only: bool = False
    """Whether it writes questions for our engine alone: servers have other ways, and nothing can be trained by it."""

    @property
    def whole(self) -> str | None:
        """The text that others can use, too: servers, and training."""
        return None if self.asks_only else self.text

    @property
    def digest(self) -> str:
        """sha256 of the text, 16 hex digits."""
        return PLAIN if self.text is None else hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()[:16]

    def facts(self) -> dict[str, str]:
        """For entries."""
        return {FACT: self.digest, f"{FACT} from": self.source}


def check_template(template: ChatTemplate, processor: Any, model: str) -> None:
    """ModelError for a template that can't be read, or writes the same text with a picture and without one."""
    question = {"type": "text", "text": "Is there a dog?"}

    def ask(*parts: Mapping[str, Any]) -> Any:
        return processor.apply_chat_template([{"role": "user", "content": list(parts)}], add_generation_prompt=True)

    try:  # a template is a program of whoever wrote it
        texts = call_bounded(lambda: [ask(question), ask({"type": "image"}, question)])
    except RuntimeError as error:
        raise ModelError(
            f"{model}: the chat template of {template.source} can't ask about a picture: {one_line(error)[:300]}"
        ) from None
    if texts[0] == texts[1]:
        raise ModelError(f"{model}: the chat template of {template.source} leaves the picture out of the prompt")
