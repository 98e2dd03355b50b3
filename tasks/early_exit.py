"""When an answer is decided, and what its first token alone would say.

A task may give a model's engine two functions, next to its official parser:

    decided(doc)        # a rule: answer so far -> True if no further word can change what the parser reads; or None
    next_token(doc)     # (answers whose likelihoods as next token are compared, the true one); or None

Once a rule says True of an answer, it must say True of every longer one, and the parser must read all of them alike.
A server follows no rule: where a part of an answer is all that the parser ever reads, the task says so by `reads`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.metric import mean_of

YES_NO = ("yes", "no")

next_token_accuracy = mean_of("correct", scale=100)
"""% of documents whose true answer is the likeliest next token among the ones compared."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The part of an answer that decides, whatever comes after it: one of the two."""

    characters: int | None = None
    """Its first so many characters."""
    before: str | None = None
    """All before this text first comes."""

    def part_of(self, answer: str) -> str:
        """That part."""
        return answer[: self.characters] if self.before is None else answer.partition(self.before)[0]


def yes_no(doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """Yes and no, where the document asks for one of them."""
    truth = str(doc["answer"]).strip().lower()
    return (YES_NO, truth) if truth in YES_NO else None


def next_token_record(image: str, choices: Mapping[str, float], truth: str) -> dict[str, Any]:
    """What is counted: `choices` are log-probabilities; one that the tokenizer can't begin with never wins."""
    likeliest = max(choices, key=lambda name: choices[name])
    return {
        "image": image,
        "correct": likeliest == truth,
        "truth": truth,
        "logprobs": {name: round(p, 4) for name, p in choices.items()},
    }
