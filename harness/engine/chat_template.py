"""The template that a question is put into before a model reads it, and where it came from."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from support.bounded import call_bounded
from support.errors import ModelError, SettingError, one_line

SWITCHES: Final = ("enable_thinking", "thinking")
"""Arguments of chat templates that say whether a model thinks before it answers: Qwen's, GLM's, Gemma's and others';
DeepSeek's and Granite's."""
_GENERATION: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Transformers' own tags, which mark what a model has written."""
FACT: Final = "chat template"
"""In provenance: the template's digest, or how the model is asked without one."""
PLAIN: Final = "none: plain text"
PICTURES: Final = "pictures"
"""In provenance: how pictures are prepared, where that is not what the checkpoint's files say."""
PADDED: Final = "padded to a square with the mean colour"


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

    @property
    def switch(self) -> str | None:
        """The argument that says whether the model thinks; None: it has none."""
        return find_switch(self.text)

    def with_thinking(self, on: bool) -> str | None:
        """The text, with this switch set."""
        if self.text is None or self.switch is None:
            return self.text
        # The line's end is the block's: transformers trims it, so that the text begins as it did.
        return "{%- set " + f"{self.switch} = {str(on).lower()}" + " %}\n" + self.text

    def facts(self) -> dict[str, str]:
        """For entries."""
        return {FACT: self.digest, f"{FACT} from": self.source}


def find_switch(template: str | None) -> str | None:
    """The argument by which a template has a model think, or not; None: it has none."""
    if template is None:
        return None
    from jinja2 import Environment, TemplateError, meta

    syntax = Environment(extensions=["jinja2.ext.loopcontrols"])  # templates are read here, not rendered
    try:
        read = meta.find_undeclared_variables(syntax.parse(_GENERATION.sub("", template)))
    except TemplateError:
        return None
    return next((name for name in SWITCHES if name in read), None)


def check_switch(template: ChatTemplate, thinking: str | None, model: str) -> None:
    """SettingError where a template has no switch for this."""
    if thinking is not None and template.switch is None:
        told = f"thinking = {thinking}: would not act: its chat template has no such switch"
        raise SettingError(f"{model}: {told} ({' or '.join(SWITCHES)})")


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
