"""What is read of a server's reply: one gate for models that are scored and for judges, single calls and batches.

    reply = read_answer(body)       # of a model that is scored: ended by itself, or by the limit of tokens
    reply = read_verdict(body)      # of a judge: ended by itself
    reply.text, reply.usage

`body` is any JSON. What is no reply is a TransientError (worth another try) or a PermanentError, whose words say why,
with what it cost where the server says so; an error that ends the run (an empty account) is JudgeDown. Nothing else is
raised, and nothing else is kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from support.errors import one_line
from tasks.judges.failures import NoReply, PermanentError, TransientError, Usage, failure_of
from tasks.thoughts import NEVER_ENDED, ONLY_THOUGHTS, without_thoughts


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, as it may be kept."""

    text: str
    """All of it, thoughts in tags included; without control characters."""
    limited: bool
    """Whether the limit of tokens ended it."""
    usage: Usage | None
    """None: the server does not count."""
    served: str
    """The model that has answered, as the server says."""


class LimitSpent(PermanentError):
    """All tokens that a judge may write were spent before its verdict."""


NOT_SAID: Final = "not said"
"""Stands for a model's name that the server does not give."""
ENDED: Final = frozenset(("stop", "eos", "eos_token", "stop_sequence", "end_turn", "end_of_turn", "completed"))
"""Finish reasons of a reply that ended by itself: OpenAI's, and those of servers that pass on their engine's."""
LIMITED: Final = frozenset(("length", "max_tokens", "max_output_tokens", "max_length", "model_length"))
FILTERED: Final = frozenset(("content_filter", "safety", "prohibited_content", "blocklist", "recitation", "spii"))
BROKEN_OFF: Final = frozenset(("", "error", "abort", "aborted", "cancelled", "canceled", "timeout"))
"""Finish reasons that may be others next time."""
REASONING: Final = (
    *("reasoning_content", "reasoning", "reasoning_details", "reasoning_text"),
    *("thinking", "thinking_blocks"),
)
"""Fields beside the reply that hold thoughts: vLLM, SGLang, DeepSeek; OpenRouter, Ollama, newer vLLM; LiteLLM."""
MOST_TOKENS: Final = 2**40
"""No reply has more: such a count is none."""


def read_answer(body: Any) -> Reply:
    """The answer of a model that is scored, which may be empty, but not where it has thoughts."""
    reply, content, thought = _read(body)
    answer = without_thoughts(reply.text)
    if answer is None:
        raise PermanentError(NEVER_ENDED, reply.usage)
    if not answer.strip():
        if reply.limited:  # the same again would cost the same again
            raise PermanentError("no answer within the limit of tokens", reply.usage)
        if thought or answer != reply.text:
            raise PermanentError(ONLY_THOUGHTS + thought, reply.usage)
        if content is None:  # null is no answer, an empty one is
            raise TransientError("no content", usage=reply.usage)
    return reply


def read_verdict(body: Any, *, cut_is_whole: bool = False, limit: int | None = None) -> Reply:
    """A judge's reply. `cut_is_whole`: the protocol's limit is so short that it ends replies which are whole."""
    reply, _, thought = _read(body)
    verdict = without_thoughts(reply.text)
    if reply.limited and not (verdict or "").strip():
        spent = limit if limit is not None else reply.usage[1] if reply.usage else None
        words = f"the judge spent all {spent or 'its'} tokens before its verdict"
        raise LimitSpent(words, reply.usage, refused=True)  # a judge that does so each time is not asked on and on
    if verdict is None:
        raise PermanentError("the judge's thoughts never ended", reply.usage)
    if not verdict.strip():
        if thought or verdict != reply.text:
            raise PermanentError("no verdict beside the judge's thoughts" + thought, reply.usage)
        raise TransientError("no content", usage=reply.usage)
    if reply.limited and not cut_is_whole:
        raise PermanentError("the judge's reply was cut at the limit of tokens", reply.usage)
    return reply


def _read(body: Any) -> tuple[Reply, str | None, str]:
    """The reply in a body, its content as it came (None: there is none), and where thoughts stand beside it, in words
    (empty: nowhere)."""
    if not isinstance(body, Mapping):
        raise TransientError("a body that is no completion")
    usage = usage_of(body)
    _raise_error_in(body, usage)
    choice = _take_first_choice(body.get("choices"), usage)
    _raise_error_in(choice, usage)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise TransientError("no message in the choice", usage=usage)
    if message.get("refusal"):
        raise PermanentError("refusal", usage)
    limited = _ended_by_limit(choice.get("finish_reason"), usage)
    if message.get("tool_calls") or message.get("function_call"):
        raise PermanentError("a call of tools", usage)
    content, in_parts = _read_text(message.get("content"), usage)
    beside = next((name for name in REASONING if message.get(name)), "content" if in_parts else "")
    named = body.get("model")
    served = one_line(_clean(named))[:200] if isinstance(named, str) else ""
    reply = Reply(text=_clean(content or ""), limited=limited, usage=usage, served=served or NOT_SAID)
    return reply, content, f" (in {beside})" * bool(beside)


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The tokens a call cost; None if the server did not say, or gives what can't be counted."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (
        count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < MOST_TOKENS else None
        for count in counts
    )
    return None if prompt is None or completion is None else (prompt, completion)


def _raise_error_in(found: Mapping[str, Any], usage: Usage | None) -> None:
    """Servers that pass calls on tell failures in a body of status 200, too."""
    error = found.get("error")
    if not error:
        return
    code = str(error.get("code")) if isinstance(error, Mapping) else ""
    status = int(code) if code.isdecimal() and 400 <= int(code[:4]) < 600 else 502
    failure = failure_of(str(found.get("model", "the model"))[:100], status, {"error": error}, {})
    if isinstance(failure, NoReply):
        failure.usage = usage
    raise failure


def _take_first_choice(choices: Any, usage: Usage | None) -> Mapping[str, Any]:
    """The choice of index 0, which need not be the first; where none has it, the first."""
    found = choices if isinstance(choices, Sequence) and not isinstance(choices, str) else []
    readable = [choice for choice in found if isinstance(choice, Mapping)]
    if not readable:
        raise TransientError("no choices", usage=usage)
    return next((choice for choice in readable if choice.get("index") == 0), readable[0])


def _ended_by_limit(finish: Any, usage: Usage | None) -> bool:
    """Whether a reply ended by the limit of tokens rather than by itself; raises where it ended otherwise."""
    reason = finish.lower() if isinstance(finish, str) else ""
    if reason in ENDED or reason in LIMITED:
        return reason in LIMITED
    if reason in FILTERED:
        raise PermanentError("content filter", usage)
    if reason in BROKEN_OFF:
        raise TransientError(f"finish_reason {finish!r}: the reply did not end"[:200], usage=usage)
    raise PermanentError(f"finish_reason {one_line(_clean(reason))[:60]}", usage)


def _read_text(content: Any, usage: Usage | None) -> tuple[str | None, bool]:
    """The text of a content: itself, or its parts of type text; and whether there are parts that are thoughts."""
    if content is None or isinstance(content, str):
        return content, False
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        raise PermanentError(f"content must be text or a list of parts, not {type(content).__name__}", usage)
    texts: list[str] = []
    thought = False
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, Mapping):
            text = text.get("value")
        if kind == "refusal":
            raise PermanentError("refusal", usage)
        is_thought = isinstance(part, Mapping) and part.get("thought") is True
        if kind in ("text", "output_text") and isinstance(text, str) and not is_thought:
            texts.append(text)
        thought = thought or is_thought or "think" in str(kind) or "reason" in str(kind)
    return "".join(texts) if texts else None, thought


_CONTROL: Final = re.compile("\x1b\\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})[ \t]*\w*[ \t]*\n(.*?)\n?[ \t]*\1\s*", re.DOTALL)


def _clean(text: str) -> str:
    """A text without control characters and colours of a terminal; half a surrogate pair is written out (\\ud83d)."""
    return _CONTROL.sub("", text).encode("utf-8", "backslashreplace").decode("utf-8")


def without_fence(text: str) -> str:
    """What is in a Markdown fence, where all of a text stands in one; else the text."""
    fenced = _FENCE.fullmatch(text)
    return fenced[2] if fenced else text
