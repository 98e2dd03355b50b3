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

from support.errors import JudgeDown, one_line
from tasks.judges.failures import NoReply, PermanentError, TransientError, Usage, failure_of, is_of_request, sentence_of
from tasks.thoughts import MARKS, NEVER_ENDED, ONLY_THOUGHTS, PHRASES, Pairs, without_thoughts


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
    told: str = ""
    """As in the ledger's `Call`."""
    reasoning: str = ""
    """Its thoughts, where they came beside the text."""
    end_told: bool = True
    """Whether the server says how it ended; else its count of tokens, below the limit or at it, tells that."""


class LimitSpent(PermanentError):
    """The tokens that a model may write were spent on its thoughts, before its answer or verdict was whole."""

    def __init__(self, why: str, usage: Usage | None = None) -> None:
        super().__init__(why, usage, hopeless=True)  # a model that does so each time is not asked on and on


class OnlyThoughts(PermanentError):
    """A reply came whose answer did not begin, or whose thoughts did not end."""


NOT_SAID: Final = "not said"
"""Stands for a model's name that the server does not give."""
ENDED: Final = frozenset(
    (
        *("stop", "stopped", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn", "end_of_turn", "end"),
        *("complete", "completed", "finish", "finished", "done", "normal"),
    )
)
"""Finish reasons of a reply that ended by itself: OpenAI's; those of TGI, Together, Anthropic, Cohere, Bedrock, Baidu
and others, which gateways pass on."""
LIMITED: Final = frozenset(
    (
        *("length", "max_tokens", "max_output_tokens", "max_new_tokens", "max_length", "model_length", "error_limit"),
        "model_context_window_exceeded",
    )
)
FILTERED: Final = frozenset(
    (
        *("content_filter", "content_filtered", "safety", "image_safety", "prohibited_content", "blocklist", "spii"),
        *("recitation", "sensitive", "guardrail_intervened", "error_toxic", "refusal"),
    )
)
BROKEN_OFF: Final = frozenset(
    (
        *("", "null", "error", "abort", "aborted", "cancelled", "canceled", "user_cancel", "timeout"),
        *("network_error", "insufficient_system_resource", "load", "unload"),
    )
)
"""Finish reasons that may be others next time."""
OTHER_NAMES: Final = ("native_finish_reason", "finishReason", "stop_reason", "done_reason")
"""Where a choice without a `finish_reason` may say how it ended: OpenRouter, Google, Anthropic and vLLM, Ollama."""
KNOWN: Final = ENDED | LIMITED | FILTERED | BROKEN_OFF - {""}
ERROR_WORDS: Final = ("message", "msg", "detail", "errors", "error_msg", "error_code", "code", "base_resp")
"""Fields of a body of status 200 that tell an error beside no choices: vLLM's and FastChat's, FastAPI's, Zhipu's,
Baidu's, MiniMax's."""
REASONING: Final = (
    *("reasoning_content", "reasoning", "reasoning_details", "reasoning_text"),
    *("thinking", "thinking_blocks"),
)
"""Fields beside the reply that hold thoughts: vLLM, SGLang, DeepSeek; OpenRouter, Ollama, newer vLLM; LiteLLM."""
THOUGHT_TEXTS: Final = ("text", "thinking", "summary", "content", "reasoning")
"""Fields of one part of such thoughts that hold words: OpenRouter's, Anthropic's, OpenAI's, Mistral's."""
MOST_REASONING: Final = 200_000
"""Characters of the thoughts that are kept of one reply."""
NOTHING_IN_LIMIT: Final = "no answer within the limit of tokens"
CUT_BY_THOUGHTS: Final = "its thoughts took tokens of its answer, which was cut"
MOST_TOKENS: Final = 2**24
"""No reply has more: such a count is none."""


def read_answer(body: Any, *, limit: int | None = None, room: int = 0, own: Pairs = ()) -> Reply:
    """The answer of a model that is scored, which may be empty, but not where it has thoughts. `limit`: the tokens that
    it could have, `room` those of them that are for thoughts, `own` marks of thoughts that its template names."""
    reply, content, thought = _read(body, limit)
    answer = without_thoughts(reply.text, own=own)
    thinks = _has_thoughts(body, thought, answer, reply, own)
    if reply.limited and thinks and not room:  # a limit is of the answer alone
        whole = NEVER_ENDED if answer is None else CUT_BY_THOUGHTS if answer.strip() else NOTHING_IN_LIMIT
        raise LimitSpent(whole, reply.usage)
    if answer is None:
        raise OnlyThoughts(NEVER_ENDED, reply.usage, hopeless=True)
    if not answer.strip():
        if reply.limited:  # the same again would cost the same again
            raise OnlyThoughts(NOTHING_IN_LIMIT, reply.usage, hopeless=True)
        if thought or answer != reply.text:
            raise OnlyThoughts(ONLY_THOUGHTS + thought, reply.usage, hopeless=True)
        if content is None:  # null is no answer, an empty one is
            raise TransientError("no content", answered=True, usage=reply.usage)
    return reply


def read_verdict(body: Any, *, cut_is_whole: bool = False, limit: int | None = None, room: int = 0) -> Reply:
    """A judge's reply. `cut_is_whole`: the protocol's limit is so short that it ends replies which are whole; `limit`
    and `room` as for answers."""
    reply, _, thought = _read(body, limit)
    verdict = without_thoughts(reply.text)
    if reply.limited and not (verdict or "").strip():
        spent = limit if limit is not None else reply.usage[1] if reply.usage else None
        raise LimitSpent(f"the judge spent all {spent or 'its'} tokens before its verdict", reply.usage)
    if verdict is None:
        raise PermanentError("the judge's thoughts never ended", reply.usage, hopeless=True)
    if not verdict.strip():
        if thought or verdict != reply.text:
            raise PermanentError("no verdict beside the judge's thoughts" + thought, reply.usage, hopeless=True)
        raise TransientError("no content", answered=True, usage=reply.usage)
    if reply.limited and not room and _has_thoughts(body, thought, verdict, reply):
        raise LimitSpent("the judge's thoughts took tokens of its verdict, which was cut", reply.usage)
    if reply.limited and not cut_is_whole:
        raise PermanentError("the judge's reply was cut at the limit of tokens", reply.usage)
    return reply


def _has_thoughts(body: Any, thought: str, words: str | None, reply: Reply, own: Pairs = ()) -> bool:
    """Whether tokens of a reply went into thoughts: beside its words or among them, or counted without being sent."""
    marked = words != reply.text and any(mark in reply.text for marks in (*MARKS, *own, *PHRASES) for mark in marks)
    if thought or words is None or marked:
        return True
    usage = body.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    for counts in (details, usage):  # OpenAI's, SGLang's
        if isinstance(counts, Mapping) and (_count(counts.get("reasoning_tokens")) or 0) > 0:
            return True
    told = _count(usage.get("completion_tokens")) if isinstance(usage, Mapping) else None
    return told is not None and reply.usage is not None and reply.usage[1] > told  # in the total alone


def _read(body: Any, limit: int | None) -> tuple[Reply, str | None, str]:
    """The reply in a body, its content as it came (None: there is none), and where thoughts stand beside it, in words
    (empty: nowhere)."""
    if not isinstance(body, Mapping):
        raise TransientError("a body that is no completion")
    usage = usage_of(body)
    _raise_error_in(body, usage)
    choice = take_first_choice(body, usage)
    _raise_error_in(choice, usage)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise TransientError("no message in the choice", answered=True, usage=usage)
    if message.get("refusal"):
        raise PermanentError("refusal", usage)
    finish = _find_finish(choice)
    limited = _ended_by_limit(finish, usage) if finish is not None else _is_limit_spent(usage, limit)
    if message.get("tool_calls") or message.get("function_call"):
        raise PermanentError("a call of tools", usage)
    content, in_parts = _read_text(message.get("content"), usage)
    beside = next((name for name in REASONING if message.get(name)), "content" if in_parts else "")
    reply = Reply(
        text=clean(content or ""),
        limited=limited,
        usage=usage,
        served=served_of(body) or NOT_SAID,
        reasoning=_read_reasoning(message),
        end_told=finish is not None,
    )
    return reply, content, f" (in {beside})" * bool(beside)


def _read_reasoning(message: Mapping[str, Any]) -> str:
    """The thoughts that stand beside a reply's words; empty where there are none, or none that can be read."""
    found = next((message[name] for name in REASONING if message.get(name)), None)
    content = message.get("content")
    if found is None and isinstance(content, list):
        found = [part for part in content if isinstance(part, Mapping) and _is_thought(part)]
    return clean("\n\n".join(_texts_in(found, depth=0)))[:MOST_REASONING]


def _texts_in(thoughts: Any, *, depth: int) -> list[str]:
    """The words of thoughts: a text, or parts that hold them."""
    if isinstance(thoughts, str):
        return [text] if (text := thoughts.strip()) else []
    if depth > 3:
        return []
    if isinstance(thoughts, Mapping):
        thoughts = [thoughts[name] for name in THOUGHT_TEXTS if thoughts.get(name)][:1]
    parts = thoughts if isinstance(thoughts, list) else []
    return [text for part in parts for text in _texts_in(part, depth=depth + 1)]


def _is_thought(part: Mapping[str, Any]) -> bool:
    """Whether a part of a content is a thought: Gemini's mark, or its type."""
    kind = str(part.get("type", "text"))
    return part.get("thought") is True or "think" in kind or "reason" in kind


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The tokens a call cost; None if the server did not say, or gives what can't be counted."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    prompt, completion, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or completion is None:
        return None
    return prompt, max(completion, (total or 0) - prompt)  # Gemini and Grok count thoughts in the total alone


def answer_tokens(body: Mapping[str, Any]) -> int | None:
    """The tokens of a reply without its thoughts; None if the server does not count them apart."""
    usage, counted = body.get("usage"), usage_of(body)
    if not isinstance(usage, Mapping) or counted is None:
        return None
    told = _count(usage.get("completion_tokens")) or 0
    if counted[1] > told:  # thoughts are in the total alone
        return told
    for counts in (usage.get("completion_tokens_details"), usage):
        thoughts = _count(counts.get("reasoning_tokens")) if isinstance(counts, Mapping) else None
        if thoughts is not None and thoughts <= told:
            return told - thoughts
    return None


def cached_of(body: Mapping[str, Any]) -> int:
    """The tokens of a prompt that the server had read before, which it sells cheaper; 0 if it did not say."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return 0
    details = usage.get("prompt_tokens_details")
    found = details.get("cached_tokens") if isinstance(details, Mapping) else None
    names = ("prompt_cache_hit_tokens", "cached_tokens")  # DeepSeek's, Moonshot's
    return next((count for count in map(_count, (found, *map(usage.get, names))) if count is not None), 0)


def served_of(body: Mapping[str, Any]) -> str:
    """The model that has answered, as the server says; empty if it did not."""
    named = body.get("model")
    return one_line(clean(named))[:200] if isinstance(named, str) else ""


def _count(value: Any) -> int | None:
    """A number of tokens, or None for what can't be one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS else None


def _raise_error_in(found: Mapping[str, Any], usage: Usage | None) -> None:
    """Servers that pass calls on tell failures in a body of status 200, too."""
    if error := found.get("error"):
        _raise_failure(error, found.get("model"), usage)


def _raise_failure(error: Any, model: Any, usage: Usage | None) -> None:
    """Raise what an error in a body of status 200 means: by its code, where that is a status, else by its words."""
    code = str(error.get("code")) if isinstance(error, Mapping) else ""
    said = f"{sentence_of(error)} {error.get('type') if isinstance(error, Mapping) else ''}"
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 400 if is_of_request(said) else 502
    name = model if isinstance(model, str) else "the model"
    if status == 502 and isinstance(down := failure_of(name, 400, error, {}), JudgeDown):
        raise down  # an empty account, a key that is refused
    failure = failure_of(name[:100], status, {"error": error}, {})
    if isinstance(failure, NoReply):
        failure.usage = usage
    raise failure


def take_first_choice(body: Mapping[str, Any], usage: Usage | None) -> Mapping[str, Any]:
    """The choice of index 0, which need not be the first; where none has it, the first. A body that has words in place
    of choices is an error's."""
    choices = body.get("choices")
    found = choices if isinstance(choices, Sequence) and not isinstance(choices, str) else []
    readable = [choice for choice in found if isinstance(choice, Mapping)]
    if not readable:
        if not choices and sentence_of(said := {name: body[name] for name in ERROR_WORDS if name in body}):
            _raise_failure(said, body.get("model"), usage)
        raise TransientError("no choices", usage=usage)
    return next((choice for choice in readable if choice.get("index") in (0, "0")), readable[0])


def _find_finish(choice: Mapping[str, Any]) -> Any:
    """How a choice says that it ended: its finish reason (SGLang's own has a type), or what stands in its place; None
    where it has no such field."""
    finish = choice.get("finish_reason", None if "finish_reason" in choice else NOT_SAID)
    if isinstance(finish, Mapping):
        return finish.get("type", "")
    if isinstance(finish, str) and finish not in ("", NOT_SAID):
        return finish
    others = [value for name in OTHER_NAMES if isinstance(value := choice.get(name), str)]
    known = next((value for value in others if _spell_plainly(value) in KNOWN), None)
    return known or (None if finish == NOT_SAID else "" if finish is None else finish)


def _is_limit_spent(usage: Usage | None, limit: int | None) -> bool:
    """Whether a reply whose server does not say how it ended has all the tokens it could have; raises where that can't
    be told."""
    if usage is None or limit is None or not usage[1]:
        raise PermanentError("no finish_reason: whether the reply is whole is not known", usage, refused=True)
    return usage[1] >= limit


def _spell_plainly(finish: Any) -> str:
    """A finish reason as the sets above spell it."""
    return finish.strip().lower().replace("-", "_").removeprefix("finish_reason_") if isinstance(finish, str) else ""


def _ended_by_limit(finish: Any, usage: Usage | None) -> bool:
    """Whether a reply ended by the limit of tokens rather than by itself; raises where it ended otherwise."""
    reason = _spell_plainly(finish).partition(":")[0]  # Gemini: "content_filter: SAFETY"
    if reason in ENDED or reason in LIMITED:
        return reason in LIMITED
    if reason in FILTERED:
        raise PermanentError("content filter", usage)
    if reason in BROKEN_OFF:
        words = f"finish_reason {finish or None}: the reply did not end"[:200]
        raise TransientError(words, answered=True, usage=usage)
    raise PermanentError(f"finish_reason {one_line(clean(reason))[:60]}", usage)


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
        is_thought = isinstance(part, Mapping) and _is_thought(part)
        if kind in ("text", "output_text") and isinstance(text, str) and not is_thought:
            texts.append(text)
        thought = thought or is_thought
    return "".join(texts) if texts else None, thought


_CONTROL: Final = re.compile("\x1b\\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_FENCE: Final = re.compile(r"(`{3,}|~{3,})[ \t]*(?:\w+[ \t]*)?\n")


def clean(text: str) -> str:
    """A text without control characters and colours of a terminal; half a surrogate pair is written out (\\ud83d)."""
    return _CONTROL.sub("", text).encode("utf-8", "backslashreplace").decode("utf-8")


def without_fence(text: str) -> str:
    """What is in a Markdown fence, where all of a text stands in one; else the text."""
    whole = text.strip()
    begun = _FENCE.match(whole)
    if begun is None or not whole[begun.end() :].endswith(begun[1]):
        return text
    return whole[begun.end() : -len(begun[1])].rstrip(" \t").removesuffix("\n")
