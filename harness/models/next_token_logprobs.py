"""How likely an answer is to begin with each of a task's choices, from what a server says of its first token.

    body |= ASKED                               # in the request of the answer itself: no second call
    told = told_in(body)                        # what the reply says of its first token, for the ledger
    weigh(told, ("yes", "no"), "Yes.")          # Weighed(choices={"yes": -0.1, "no": -2.4})

The figures are those of a local model (`harness.engine.greedy_decoding`): the log of the summed probabilities of a
choice's first tokens, in any case, with and without a space before it, of the model's own distribution. A server lists
the likeliest tokens alone. Where those that it leaves out could change which choice is the likeliest, there is no
figure: a choice that is not listed is never taken for an impossible one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import exp, isfinite, log
from typing import Any, Final

from tasks.judges.replies import REASONING, take_first_choice
from tasks.thoughts import OF_A_THOUGHT

LISTED: Final = 20
"""Tokens that are asked for; OpenAI's limit, and what vLLM allows unless it is told otherwise."""
ASKED: Final[Mapping[str, Any]] = {"logprobs": True, "top_logprobs": LISTED}
NOT_ASKED: Final = "kept from a call that did not ask for log-probabilities"
REFUSED: Final = "the server takes no request for log-probabilities"
NOT_GIVEN: Final = "the server gives no log-probabilities"
OF_ANOTHER: Final = "the log-probabilities are not those of the answer's first token"
DIGITS: Final = 6
SLACK: Final = 0.001
"""By how much rounding may bring a logarithm of a probability above 0."""
MISSING, FIRST, LIKELIEST = "no log-probabilities", "first token", "likeliest"
"""Fields of what the ledger keeps."""
_SPACES: Final = str.maketrans({"\u2581": " ", "\u0120": " "})
"""A space before a word, as SentencePiece and byte-level tokenizers write it; some servers pass that on."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """Log-probabilities by choice; empty, with the reason, where they can't be had."""

    choices: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""


def told_in(body: Any, *, asked: bool) -> dict[str, Any]:
    """What a reply's body says of its first token; `asked`: whether the request, as it was sent, wanted that."""
    choice = take_first_choice(body, None)
    if any(choice["message"].get(name) for name in REASONING):
        return {MISSING: OF_A_THOUGHT}
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, Mapping) else None
    first = content[0] if isinstance(content, list) and content else None
    listed = first.get("top_logprobs") if isinstance(first, Mapping) else None
    found = [read for one in listed if (read := _read(one))] if isinstance(listed, list) else []
    chosen = _read(first)
    if chosen is None:
        return {MISSING: NOT_GIVEN if asked else REFUSED}
    return {FIRST: chosen[0], LIKELIEST: found or [chosen]}


def _read(token: Any) -> tuple[str, float] | None:
    """A token's text and log-probability; None for what is neither."""
    if not isinstance(token, Mapping) or not isinstance(text := token.get("token"), str):
        return None
    likely = token.get("logprob")
    if isinstance(likely, bool) or not isinstance(likely, int | float) or not isfinite(likely) or likely > SLACK:
        return None
    return text, round(likely, DIGITS)


def weigh(told: Mapping[str, Any], choices: Sequence[str], answer: str) -> Weighed:
    """The log-probability that an answer begins as each choice, for those that are listed."""
    if LIKELIEST not in told:
        return Weighed(missing=str(told.get(MISSING, NOT_ASKED)))
    begun = told[FIRST].translate(_SPACES).strip()
    if "\ufffd" not in begun and answer.strip() and not answer.lstrip().startswith(begun):
        return Weighed(missing=OF_ANOTHER)
    listed = [(text.translate(_SPACES), likely) for text, likely in told[LIKELIEST]]
    least = min(likely for _, likely in listed)
    known, most = {}, {}
    for choice in choices:
        forms = _forms(choice)
        own = [exp(likely) for text, likely in listed if text in forms]
        most[choice] = sum(own) + max(0, len(forms) - len(own)) * exp(least)
        if sum(own):
            known[choice] = round(log(sum(own)), DIGITS)
    best = max(known, key=lambda choice: known[choice], default=None)
    if best is None or any(most[choice] > exp(known[best]) for choice in choices if choice != best):
        return Weighed(missing=f"the choices are not among the {len(listed)} likeliest tokens")
    return Weighed(choices=known)


def _forms(choice: str) -> set[str]:
    """The first tokens of a choice, as `GreedyDecoder.first_tokens` takes them."""
    words = (choice,) if len(choice) == 1 else (choice, choice.lower(), choice.upper(), choice.capitalize())
    return {space + word for space, word in product(("", " "), words)}
