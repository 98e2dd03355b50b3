"""Which parameter of a request a server refuses, told by a body of any form.

    refused_parameter(error, sent)      # "temperature"; None: the refusal names none that could be left out

OpenAI names it in `param`, FastAPI (vLLM, SGLang) in `loc`; others have a sentence alone, some in words of their own:
Gemini `Unknown name "seed": Cannot find field`, Ollama `"gemma3" does not support thinking`, Anthropic `temperature:
Extra inputs are not permitted`, Azure `Unrecognized request argument supplied: reasoning_effort`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tasks.judges.capabilities import LIMITS
from tasks.judges.failures import PermanentError

SYSTEM: Final = "system"
"""Stands for the role of a system message."""
DETAIL: Final = "detail"
"""Stands for that of an image."""
BY_VALUE: Final = ("temperature", "top_p")
"""Of these a model may refuse one value and take another (MM-Vet's tries go up to 1.5)."""
_FIRST: Final = ("temperature", "top_p", "seed", "stop", "top_logprobs", "logprobs", *LIMITS)
_FIXED: Final = ("model", "messages", "stream")
_PARTS: Final = ("content", "image_url", "role", "prompt", "input", "detail")
"""Of messages."""
_OTHER_WORDS: Final = {
    "reasoning_effort": r"reasoning[_. ]?effort|\breasoning\b|\bthinking(?:[_ ]?(?:config|level|budget))?\b",
    "response_format": r"response[_ ]?format|json[_ ]?schema|\bjson mode|response_?mime_?type|response_?schema"
    r"|structured[_ ]outputs?|guided",
    "top_p": r"(?<!\w)top_?p(?!\w)",
    SYSTEM: r"(?:system|developer)[_ ](?:role|message|prompt|instruction)s?|role\W+(?:system|developer)"
    r"|['\"`](?:system|developer)['\"`]|roles must alternate",
    DETAIL: r"(?<!\w)detail(?!\w)",
}
_NOT_KNOWN: Final = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|forbidden|not allowed"
    r"|deprecated|invalid (parameter|argument|field)|instead|not (a )?valid|not available|not enabled"
    r"|cannot find field",
    re.IGNORECASE,
)
_OF_A_PARAMETER: Final = re.compile(
    rf"{_NOT_KNOWN.pattern}|param|support|must|should|only|between|range|invalid|default|positive|unmarshal|both"
    "|\u53c2\u6570|\u4e0d\u652f\u6301",  # "parameter", "not supported"
    re.IGNORECASE,
)
_TOO_MUCH: Final = re.compile(
    r"too (large|long|high|big|many)|maximum context|context length|at most|exceed", re.IGNORECASE
)
_BEYOND_CONTEXT: Final = re.compile(
    r"(maximum )?context (length|window|size)|max_(model_len|position|context)|n_ctx"
    r"|max_(output_|completion_)?tokens\W.{0,60}(too (large|high|big)|less than|at most|maximum|exceed|range|between)"
    r"|range of max_(output_|completion_)?tokens"
    r"|supports at most [\d,]+ (completion|output) tokens",
    re.IGNORECASE,
)
_OF_ALL_VALUES: Final = re.compile(
    r"only (the default|1\b)|unsupported[_ ]parameter|deprecated|not permitted|extra_forbidden"
    r"|un(known|recogni[sz]ed) (name|field|param|request|arg)|not (supported|available|enabled) (with|for|by|on) ",
    re.IGNORECASE,
)
_NOT_BOTH: Final = re.compile(r"\bboth\b|\btogether\b|only one\b|mutually exclusive", re.IGNORECASE)
_LIMIT_WANTED: Final = re.compile(
    r"max_(completion_)?tokens\W+(field )?(is )?(a )?(required|missing)"
    r"|(required|missing)\W[^.]{0,40}max_(completion_)?tokens",
    re.IGNORECASE,
)
_LIMIT_REACHED: Final = re.compile(
    r"(max_tokens|output limit|token limit)[^.]{0,40} (was|were|been|is) reached|could not (be )?finish"
    r"|max_(output_|completion_)?tokens\W.{0,60}(below|minimum|at least|(?<!n't be )(?<!not be )greater than|>=)",
    re.IGNORECASE,
)
_IN_TEXT: Final = re.compile(r"['\"]loc['\"]:\s*([(\[][^)\]]*[)\]]|['\"][^'\"]*)")
"""Where FastAPI's list stands as text in a sentence (vLLM), which repeats parts of the request."""
_DEVELOPER: Final = re.compile(r"(use|try)\W+[^.]{0,20}developer|developer\W+[^.]{0,20}instead", re.IGNORECASE)


def refused_parameter(refused: PermanentError, sent: Mapping[str, Any]) -> str | None:
    """The parameter of a request that a refusal names, in a field or in its sentence; `SYSTEM` for the role of a system
    message, `DETAIL` for that of an image; None if it names none that may be left out or has another name."""
    if not refused.refused:
        return None
    fields = {part for value in _find_fields(_parse(refused.body)) for part in re.split(r"[.\[\]]+", str(value)[:200])}
    if not fields & {*sent, *_PARTS}:
        fields = set()  # Cerebras's param is a kind of error
    words = _words_of(refused)
    fields |= {part for value in _IN_TEXT.findall(words) for part in re.findall(r"\w+", value)}
    named = [name for name in _names_in(sent) if _is_named(name, fields, refused.why if name == DETAIL else words)]
    # A limit that is too high for the model is no parameter that it does not know.
    found = [
        name
        for name in named
        if not (name in LIMITS or name in (SYSTEM, DETAIL))
        or (_NOT_KNOWN.search(words) and not _TOO_MUCH.search(words))
        or (name == SYSTEM and "roles must alternate" in words)
    ]
    if found[:2] == list(BY_VALUE) and _NOT_BOTH.search(words):
        return found[1]  # a protocol's temperature decides more
    return found[0] if found else None


def is_of_all_values(refused: PermanentError) -> bool:
    """Whether a parameter is refused whatever its value is."""
    return bool(_OF_ALL_VALUES.search(_words_of(refused))) and not _NOT_BOTH.search(_words_of(refused))


def wants_limit(refused: PermanentError, sent: Mapping[str, Any]) -> bool:
    """Whether a request without a limit of tokens is refused for that."""
    return not sent.keys() & {*LIMITS} and bool(_LIMIT_WANTED.search(_words_of(refused)))


def is_of_limit(refused: PermanentError) -> bool:
    """Whether a limit of tokens was spent before there was any reply, or is lower than the server takes."""
    return refused.refused and bool(_LIMIT_REACHED.search(_words_of(refused)))


def is_beyond_context(refused: PermanentError) -> bool:
    """Whether a refusal says that prompt and limit together are more than the model's context, or the limit alone is
    more than its replies may have."""
    return refused.refused and bool(_BEYOND_CONTEXT.search(_words_of(refused)))


def wants_developer(why: str) -> bool:
    """Whether a refusal asks for a developer's message in place of a system message."""
    return bool(_DEVELOPER.search(why))


def _words_of(refused: PermanentError) -> str:
    return f"{refused.why} {refused.body}"[:2000]


def _names_in(sent: Mapping[str, Any]) -> list[str]:
    """What of a request a refusal may be of."""
    names = [name for name in _FIRST if name in sent]
    names += [name for name in sent if name not in (*_FIRST, *_FIXED)]
    messages = [each for each in sent.get("messages", ()) if isinstance(each, Mapping)]
    parts = [part for each in messages if isinstance(each.get("content"), list) for part in each["content"]]
    if any(DETAIL in part.get("image_url", {}) for part in parts):
        names.append(DETAIL)
    if any(each.get("role") in ("system", "developer") for each in messages):
        names.append(SYSTEM)
    return names


def _is_named(name: str, fields: set[str], words: str) -> bool:
    pattern = _OTHER_WORDS.get(name, rf"(?<!\w){re.escape(name)}(?!\w)")
    in_words = (
        re.search(pattern, words, re.IGNORECASE | re.ASCII) is not None and _OF_A_PARAMETER.search(words) is not None
    )
    if not fields:
        return in_words
    return name in fields or (name == SYSTEM and "role" in fields and in_words)


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
            if key == "param" and isinstance(value, str) and value.lower() not in ("", "none", "null"):  # LiteLLM
                yield value
            elif key == "loc" and isinstance(value, list):
                yield from value
            elif key != "input":  # the request itself
                yield from _find_fields(value, depth - 1)
