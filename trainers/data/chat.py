"""A prompt and its answers as the model reads and writes them: text by the chat template, tokens as they are generated.

    chat = Chat(processor, stops_of(model, processor))
    turn = chat.read(messages, images=[picture], answers=["A dog runs."])
    turn.prompt                  # "USER: <image>\\nWhat is here? ASSISTANT:", what the model is asked
    turn.answers                 # [[319, 11203, 6057, 29889, 2]]: " A dog runs." behind it, and the token that stops

An answer's tokens are those it has behind the prompt: alone, many tokenizers would begin it with one more space. It
ends with the first token of the template that stops generation, or with the end-of-text token where a template writes
none (LLaVA-1.5's on the hub); what a template writes behind that is never generated, and not trained on.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import TemplateError
from trl.data_utils import prepare_multimodal_messages

from support.errors import TrainingError, one_line
from tasks.thoughts import closing_of, marks_in

TOKENS_VERSION: Final = 2
"""Of the rule above; runs begun by another rule (1: TRL's) are not continued by this one."""
TAIL: Final = 48
"""Characters of the prompt's end that are cut into tokens together with an answer."""
NEUTRAL: Final = ("\n", "\n:", ".")
"""In place of a prompt's end that an answer's beginning would merge with."""
_MARK: Final = "ANSWER-5a1c"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A prompt as text, and the tokens of each answer to it, with the one that ends it."""

    prompt: str
    answers: list[list[int]]


@dataclass(frozen=True)
class Chat:
    """The chat of one processor. `stops`: tokens that end generation; none given: the tokenizer's special tokens."""

    processor: Any
    stops: frozenset[int] = frozenset()

    def read(self, prompt: Sequence[Mapping[str, Any]], images: Sequence[Any], answers: Sequence[str]) -> Turn:
        """The prompt with its images, and the answers; TrainingError for a template that writes no answer."""
        asked = prepare_multimodal_messages([dict(message) for message in prompt], images=list(images))
        text = self._render(asked, add_generation_prompt=True)
        head, mark, tail = self._render([*asked, _make_answer(_MARK)]).partition(_MARK)
        if not mark:
            raise TrainingError(f"the chat template of {type(self.processor).__name__} writes no assistant's answer")
        # Where the prompt alone ends otherwise than within a chat, an answer is generated right behind it.
        lead = head.removeprefix(text) if head.startswith(text) else self._end_thought(text)
        found = []
        for answer in answers:
            whole = self._render([*asked, _make_answer(answer)])
            # Some templates strip an answer; one that rewrites what is before it leaves the answer as it is given.
            within = whole.startswith(head) and whole.endswith(tail) and len(whole) >= len(head) + len(tail)
            found.append(
                self._cut_into_tokens(text, lead, whole[len(head) : len(whole) - len(tail)] if within else answer, tail)
            )
        return Turn(prompt=text, answers=found)

    def prompt(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Any]) -> str:
        """What the model is asked, as text."""
        asked = prepare_multimodal_messages([dict(message) for message in messages], images=list(images))
        return self._render(asked, add_generation_prompt=True)

    def _render(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        try:
            text: str = self.processor.apply_chat_template(messages, tokenize=False, **settings)
        except (ValueError, TypeError, TemplateError) as error:
            kind = type(self.processor).__name__
            raise TrainingError(f"{kind} can't write a prompt and its answer as a chat: {one_line(error)}") from error
        return text

    def _cut_into_tokens(self, prompt: str, lead: str, answer: str, tail: str) -> list[int]:
        tokenizer = self.processor.tokenizer
        before, end = self._find_end(tail)
        # Tokens of an answer without a text would be those of the template's space.
        text = f"{lead}{answer}{before}" if answer or before else ""
        return [*tokens_behind(tokenizer, prompt[-TAIL:], text), end]

    def _find_end(self, tail: str) -> tuple[str, int]:
        """What the template writes between an answer and its end, and the token that ends it."""
        places = [(tail.index(name), id) for name, id in self._ends.items() if name in tail]
        if places:
            place, end = min(places)
            return tail[:place], end
        return tail.strip(), self._last_end

    def _end_thought(self, prompt: str) -> str:
        """The end of the thought that a prompt opens, which stays empty: answers are trained on without thoughts, and
        none is to be learnt as one. Nothing where the prompt opens none."""
        template = getattr(self.processor, "chat_template", None)
        closing = closing_of(prompt, own=marks_in(template if isinstance(template, str) else None))
        return closing and f"\n{closing}\n\n" if prompt.endswith("\n") else closing

    @property
    def _last_end(self) -> int:
        own = self.processor.tokenizer.eos_token_id
        return int(own) if own is not None and (own in self.stops or not self.stops) else min(self.stops)

    def holds_special_token(self, text: str) -> bool:
        """True if a text has one of the tokenizer's special tokens written in it."""
        return any(name in text for name in self._specials)

    @functools.cached_property
    def _specials(self) -> dict[str, int]:
        tokenizer = self.processor.tokenizer
        marked = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        return self._map_by_text({*marked, *tokenizer.all_special_ids})

    @functools.cached_property
    def _ends(self) -> dict[str, int]:
        """The tokens that end an answer, by their text."""
        return self._map_by_text(self.stops) if self.stops else self._specials

    def _map_by_text(self, ids: Collection[int]) -> dict[str, int]:
        return dict(zip(self.processor.tokenizer.convert_ids_to_tokens(list(ids)), ids, strict=True))


def _make_answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def tokens_behind(tokenizer: Any, before: str, text: str) -> list[int]:
    """The tokens of a text where it stands, behind `before`, whose own tokens stay as they are."""
    for lead in (before, *NEUTRAL):
        alone, both = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (lead, lead + text))
        if both[: len(alone)] == alone:
            return list(both[len(alone) :])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def stops_of(model: Any, processor: Any) -> frozenset[int]:
    """The tokens that end a model's answers: those of its generation settings, and the end of its tokenizer's texts."""
    named = model.generation_config.eos_token_id
    found = {*(named if isinstance(named, list) else [named]), processor.tokenizer.eos_token_id}
    return frozenset(found - {None})
