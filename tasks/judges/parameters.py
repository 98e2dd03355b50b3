"""Which parameters of a request a model takes: known from its name, or learnt, once for a run, from its refusals.

    parameters = Parameters("openai/gpt-5-mini")
    parameters.fit({"max_tokens": 9, "temperature": 0.0})       # {"max_completion_tokens": 9}
    parameters.in_words({"max_tokens": 9, "temperature": 0.0})  # "without temperature, max_completion_tokens"

What names a reply in the ledger is the request as the protocol has it, so a reply is found whatever was learnt.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tasks.judges.failures import NoReply, PermanentError
from tasks.judges.replies import LimitSpent

log = logging.getLogger(__name__)

THINKING_MODELS: Final = ("o1", "o3", "o4", "gpt-5")
"""Models whose names begin like this, behind a router's prefix or not, take no sampling and count their thoughts."""
ROOM: Final = 4096
"""Tokens for a judge's thoughts, on top of a protocol's limit, which means the verdict alone."""
LIMITS: Final = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""The two names of the limit of a reply."""
MAY_BE_LEFT_OUT: Final = ("temperature", "top_p", "seed", "stop")
BY_VALUE: Final = ("temperature", "top_p")
"""Of these a model may refuse one value and take another (MM-Vet's tries go up to 1.5)."""
_NOT_KNOWN: Final = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|forbidden|not allowed"
    r"|deprecated|invalid (parameter|argument|field)|instead|not (a )?valid|not available",
    re.IGNORECASE,
)
_OF_A_PARAMETER: Final = re.compile(
    rf"{_NOT_KNOWN.pattern}|param|support|must|should|only|between|range|invalid|default|positive|deprecated",
    re.IGNORECASE,
)
_TOO_MUCH: Final = re.compile(
    r"too (large|long|high|big|many)|maximum context|context length|at most|exceed", re.IGNORECASE
)


def thinks(model: str) -> bool:
    """Whether a model is known by its name to think before it answers."""
    return model.rpartition("/")[2].startswith(THINKING_MODELS)


class Parameters:
    """See the module's docstring. `room`: whether limits are of the verdict alone: thoughts need more tokens."""

    def __init__(self, model: str, *, room: bool = False) -> None:
        self.model = model
        self.left_out: set[str] = {"temperature", "top_p", "stop"} if thinks(model) else set()
        self.refused_values: set[tuple[str, float]] = set()
        self.renamed: dict[str, str] = {"max_tokens": "max_completion_tokens"} if thinks(model) else {}
        self.makes_room = room
        self.room = ROOM if room and thinks(model) else 0

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as this model takes it."""
        fitted = {self.renamed.get(name, name): value for name, value in body.items() if not self._drops(name, value)}
        return {name: value + self.room if name in LIMITS and self.room else value for name, value in fitted.items()}

    def in_words(self, body: Mapping[str, Any]) -> str:
        """How what is sent differs from this request; empty if it does not."""
        fitted = self.fit(body)
        missing = [name for name, value in body.items() if self._drops(name, value)]
        limits = [name for name in fitted if name in LIMITS and fitted.get(name) != body.get(name)]
        more = [name + f" + {self.room}" * (self.room > 0) for name in limits]
        return ", ".join([*(f"without {name}" for name in missing), *more])

    def learn(self, failure: NoReply, sent: Mapping[str, Any]) -> None:
        """Take from a failure how to ask this model, which is told once; the next `fit` shows whether that helps."""
        if isinstance(failure, LimitSpent) and self.makes_room and not self.room and LIMITS.keys() & sent.keys():
            self.room = ROOM
            log.warning("%s: %s; asked with %d tokens more for its thoughts", self.model, failure.why, ROOM)
        elif isinstance(failure, PermanentError) and (name := refused_parameter(failure, sent)) is not None:
            self._learn_name(name, sent[name], failure.why)

    def _drops(self, name: str, value: Any) -> bool:
        return name in self.left_out or (name in BY_VALUE and (name, value) in self.refused_values)

    def _learn_name(self, name: str, value: Any, why: str) -> None:
        if self._drops(name, value) or name in self.renamed:
            return  # another call has learnt it meanwhile
        if name in BY_VALUE:
            self.refused_values.add((name, value))
            log.info("%s: asked without %s %s: %s", self.model, name, value, why)
        elif name not in LIMITS:
            self.left_out.add(name)
            log.info("%s: asked without %s: %s", self.model, name, why)
        elif name not in self.renamed.values():  # else the model takes neither
            self.renamed[name] = LIMITS[name]
            log.info("%s: asked with %s in place of %s: %s", self.model, LIMITS[name], name, why)


def refused_parameter(refused: PermanentError, sent: Mapping[str, Any]) -> str | None:
    """The parameter of a request that a refusal names, in a field or in its sentence; None if it names none that may be
    left out or has another name."""
    if not refused.refused:
        return None
    fields = [str(value) for value in _find_fields(_parse(refused.body))]
    words = f"{refused.why} {refused.body}"[:2000]
    for name in (*MAY_BE_LEFT_OUT, *LIMITS):
        in_words = re.search(rf"(?<!\w){name}(?!\w)", words) and _OF_A_PARAMETER.search(words)
        named = name in fields if fields else in_words is not None
        # A limit that is too high for the model is no parameter that it does not know.
        unknown = name not in LIMITS or (_NOT_KNOWN.search(words) and not _TOO_MUCH.search(words))
        if named and name in sent and unknown:
            return name
    return None


def _parse(body: Any) -> Any:
    try:
        return json.loads(body) if isinstance(body, str) else body
    except (ValueError, RecursionError):
        return None


def _find_fields(error: Any, depth: int = 6) -> Iterator[Any]:
    """What a refusal gives as the field that is meant: OpenAI's `param`, FastAPI's `loc`."""
    if isinstance(error, list) and depth:
        for one in error[:20]:
            yield from _find_fields(one, depth - 1)
    elif isinstance(error, Mapping) and depth:
        for key, value in error.items():
            if key == "param" and isinstance(value, str) and value:
                yield value
            elif key == "loc" and isinstance(value, list):
                yield from value
            elif key != "input":  # the request itself
                yield from _find_fields(value, depth - 1)
