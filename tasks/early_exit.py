"""When an answer is decided, and what its first token alone would say.

Two things that a task may tell a model's engine, next to its official parser:

    decided(doc)        # -> the rule that says of the words so far that no further word can change what is read, or None
    next_token(doc)     # -> the answers whose likelihood as a next token is compared, and the true one, or None

A rule must be total in one direction: once it says yes, every longer answer is read the same way.
"""

from collections.abc import Mapping
from typing import Any

from tasks.metric import mean_of

YES_NO = ("yes", "no")

next_token_accuracy = mean_of("correct", scale=100)
"""% of documents whose true answer is the likeliest next token among the ones compared."""


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
