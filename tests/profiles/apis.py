"""APIs that are paid for: what each refuses, ignores and counts, and how it says so.

A profile is made of what its API does with a request. `refusal` gives the status and body of one that is refused, or
None; `completion` the body of a reply; `filtered` what comes for a prompt that a filter stops. Sentences are our own,
fields and their nesting those of the API.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.profiles.model import say, tokens_of

Body = Mapping[str, Any]
Refusal = tuple[int, Any]
KEY: Final = "sk-profile-key"
"""What those that want a key take."""
EVENTS: Final = ("filter", "filtered reply", "refusal", "null", "empty", "thoughts only", "cut")
"""What may befall a question in place of its reply."""
OPENAI_NAMES: Final = frozenset(
    (
        *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n"),
        *("logprobs", "top_logprobs", "response_format", "reasoning_effort", "stream", "user", "frequency_penalty"),
        *("presence_penalty", "logit_bias", "verbosity", "service_tier", "store", "metadata"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What the model wrote for one question, within its limit of tokens."""

    content: str | None
    thoughts: int
    """Tokens."""
    tokens: int
    """Of the content."""
    finish: str


@dataclass(kw_only=True)
class Profile:
    """OpenAI's chat models, and what the others have in common with them."""

    model: str = "gpt-4o-2024-11-20"
    """What users name."""
    served: str | None = None
    """What the reply names; not given: the same."""
    paths: tuple[str, ...] = ("/v1",)
    """What stands before /chat/completions."""
    key_header: str = "authorization"
    """Where a key is wanted; empty: nowhere."""
    query: str = ""
    """What an address of it ends with."""
    thoughts: int = 0
    """Tokens that it thinks before each answer."""
    thoughts_in: str = ""
    """The field of a message with the thoughts, or "content", where they stand in tags; empty: nowhere."""
    known: frozenset[str] = field(default=OPENAI_NAMES)
    fenced: bool = False
    """Whether JSON comes in a Markdown fence: `response_format` is ignored."""

    # --- What is refused.

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        """The body of a refusal."""
        kind = "invalid_request_error"
        return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def no_key(self) -> Refusal:
        """A call without the key, or with a wrong one."""
        return self.error("No right API key came with this call.", code="invalid_api_key", status=401)

    def refusal(self, body: Body) -> Refusal | None:
        """Why a request is not taken; None: it is."""
        return next(self.refusals(body), None)

    def refusals(self, body: Body) -> Iterator[Refusal]:
        if body.get("model") != self.model:
            yield self.error(f"There is no model `{body.get('model')}`.", code="model_not_found", status=404)
        for name in body.keys() - self.known:
            yield self.error(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if "max_tokens" in body and "max_completion_tokens" in body:
            yield self.error(
                "Give either 'max_tokens' or 'max_completion_tokens'.", code="invalid_parameter_combination"
            )
        if not 0 <= body.get("temperature", 1) <= 2:
            words = (
                f"Invalid 'temperature': decimal above maximum value; expected at most 2, got {body['temperature']}."
            )
            yield self.error(words, param="temperature", code="decimal_above_max_value")
        if len(body.get("stop") or ()) > 4:
            yield self.error("Invalid 'stop': array too long.", param="stop", code="array_above_max_length")

    # --- What is answered.

    def limit_of(self, body: Body) -> int | None:
        """Tokens that a reply may have, thoughts included."""
        found = body.get("max_completion_tokens", body.get("max_tokens"))
        return None if found is None else int(found)

    def speak(self, prompt: str, body: Body, event: str = "") -> Spoken:
        """What the model writes, up to the limit or a stop sequence. The end of a reply takes a token, too."""
        limit, said = self.limit_of(body), say(prompt, fenced=self.fenced)
        limit = 1 << 20 if limit is None else limit
        for stop in [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or ():
            said = said.split(stop)[0]
        thoughts = min(self.thoughts, limit)
        written = tokens_of("" if event in ("thoughts only", "empty", "null") else said)
        room = min(limit - thoughts, 2 if event == "cut" else limit)
        kept = "".join(written[:room])
        content = None if event in ("null", "thoughts only") else kept
        finish = "length" if (len(written) >= room and limit < 1 << 20) or event == "cut" else "stop"
        return Spoken(content=content, thoughts=thoughts, tokens=min(len(written), room), finish=finish)

    def usage(self, prompt_tokens: int, spoken: Spoken) -> Mapping[str, Any]:
        """Tokens, as the API counts them."""
        details = {
            "reasoning_tokens": spoken.thoughts,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": spoken.thoughts + spoken.tokens,
            "total_tokens": prompt_tokens + spoken.thoughts + spoken.tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": details,
        }

    def message(self, spoken: Spoken, event: str) -> dict[str, Any]:
        """The assistant's turn."""
        refused = event == "refusal"
        thinking = "Let me look: one could say Rating: 1, or No, or 0.1, yet it is not so."
        message = {"role": "assistant", "content": None if refused else spoken.content}
        message["refusal"] = "I can't help with that." if refused else None
        if spoken.thoughts and self.thoughts_in == "content" and spoken.content is not None:
            whole = spoken.thoughts == self.thoughts
            message["content"] = f"<think>{thinking}</think>\n\n{spoken.content}" if whole else f"<think>{thinking[:9]}"
        elif self.thoughts_in and (spoken.thoughts or event == "thoughts only"):
            message[self.thoughts_in] = thinking
        return message

    def completion(self, prompt: str, prompt_tokens: int, body: Body, event: str = "") -> dict[str, Any]:
        """The body of a reply."""
        spoken = self.speak(prompt, body, event)
        choice = {"index": 0, "message": self.message(spoken, event), "finish_reason": spoken.finish, "logprobs": None}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000}
        head |= {"model": self.served or self.model, "choices": [choice]}
        return head | {"usage": self.usage(prompt_tokens, spoken), "system_fingerprint": "fp_1"}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        """What comes in place of a reply that a filter stops: of the prompt, or of what was written."""
        if event == "filter":
            return self.error("Your prompt was flagged.", param="prompt", code="content_policy_violation")
        body["choices"][0] |= {"finish_reason": "content_filter"}
        body["choices"][0]["message"]["content"] = ""
        return 200, body


@dataclass(kw_only=True)
class OpenAIReasoning(Profile):
    """OpenAI's reasoning models: no sampling, another name of the limit, thoughts that count."""

    model: str = "gpt-5.4-mini"
    served: str | None = "gpt-5.4-mini-2026-03-17"
    thoughts: int = 192

    def refusals(self, body: Body) -> Iterator[Refusal]:
        yield from super().refusals(body)
        for name in (
            "top_p",
            "stop",
            "logprobs",
            "top_logprobs",
            "frequency_penalty",
            "presence_penalty",
            "logit_bias",
        ):
            if body.get(name) is not None:
                words = f"Unsupported parameter: '{name}' is not supported with this model."
                yield self.error(words, param=name, code="unsupported_parameter")
        if "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' with this model."
            yield self.error(words, param="max_tokens", code="unsupported_parameter")
        if body.get("temperature", 1) != 1:
            words = (
                f"Unsupported value: 'temperature' can't be {body['temperature']}. Only the default (1) is supported."
            )
            yield self.error(words, param="temperature", code="unsupported_value")
        if (self.limit_of(body) or 1 << 20) < 16:
            yield self.error("The message could not be finished: max_tokens or model output limit was reached.")


@dataclass(kw_only=True)
class Azure(OpenAIReasoning):
    """A deployment whose name says nothing of its model; here a reasoning one."""

    model: str = "judge-prod"
    served: str | None = "gpt-5.4-mini-2026-03-17"
    paths: tuple[str, ...] = ("/openai/deployments/judge-prod", "/openai/v1")
    key_header: str = "api-key"
    query: str = "?api-version=2024-10-21"
    FILTERS = ("hate", "self_harm", "sexual", "violence")

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        if status == 404:
            return 404, {"error": {"code": "DeploymentNotFound", "message": message}}
        if status == 401:
            return 401, {"error": {"code": "401", "message": message}}
        return super().error(message, param=param, code=code, status=status)

    def completion(self, prompt: str, prompt_tokens: int, body: Body, event: str = "") -> dict[str, Any]:
        found = super().completion(prompt, prompt_tokens, body, event)
        found["choices"][0]["content_filter_results"] = self._results("")
        return found | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": self._results("")}]}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        if event == "filter":
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": self._results("violence")}
            error = {"message": "The prompt met a policy of content management.", "type": None, "param": "prompt"}
            return 400, {"error": error | {"code": "content_filter", "status": 400, "innererror": inner}}
        status, found = super().filtered(body, event)
        found["choices"][0]["content_filter_results"] = self._results("violence")
        del found["choices"][0]["message"]["content"]
        return status, found

    def _results(self, filtered: str) -> dict[str, Any]:
        return {n: {"filtered": n == filtered, "severity": "medium" if n == filtered else "safe"} for n in self.FILTERS}


@dataclass(kw_only=True)
class AzureChat(Azure):
    """A deployment of a chat model under an older version of the API, which knows one name of the limit."""

    model: str = "chat-prod"
    served: str | None = "gpt-4o-2024-11-20"
    paths: tuple[str, ...] = ("/openai/deployments/chat-prod",)
    query: str = "?api-version=2024-06-01"
    thoughts: int = 0

    def refusals(self, body: Body) -> Iterator[Refusal]:
        yield from Profile.refusals(self, body)
        if "max_completion_tokens" in body:
            yield self.error("Unrecognized request argument supplied: max_completion_tokens")


@dataclass(kw_only=True)
class Gemini(Profile):
    """Google's endpoint for OpenAI's clients: unknown names are refused, thoughts count for the limit, and are in the
    total alone."""

    model: str = "gemini-3.5-flash"
    paths: tuple[str, ...] = ("/v1beta/openai",)
    thoughts: int = 256
    known: frozenset[str] = OPENAI_NAMES - {"seed", "logit_bias", "logprobs", "top_logprobs", "metadata", "store"}

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND"}
        error = {"code": status, "message": message, "status": names[status]}
        if param is not None:
            kind, violations = "type.googleapis.com/google.rpc.BadRequest", [{"description": message}]
            error["details"] = [{"@type": kind, "fieldViolations": violations}]
        return status, [{"error": error}]

    def refusals(self, body: Body) -> Iterator[Refusal]:
        if unknown := sorted(body.keys() - self.known):
            words = "\n".join(f'Invalid JSON payload: unknown name "{name}": no such field.' for name in unknown)
            yield self.error(words, param=unknown[0])
        yield from super().refusals(body)

    def usage(self, prompt_tokens: int, spoken: Spoken) -> Mapping[str, Any]:
        total = prompt_tokens + spoken.thoughts + spoken.tokens
        return {"prompt_tokens": prompt_tokens, "completion_tokens": spoken.tokens, "total_tokens": total}

    def message(self, spoken: Spoken, event: str) -> dict[str, Any]:
        message = super().message(spoken, event)
        return {name: value for name, value in message.items() if value not in (None, "")}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        body["choices"][0] |= {"finish_reason": "PROHIBITED_CONTENT" if event == "filter" else "content_filter: SAFETY"}
        body["choices"][0]["message"] = {"role": "assistant"}
        return 200, body


@dataclass(kw_only=True)
class Anthropic(Profile):
    """Anthropic's endpoint for OpenAI's clients: much is ignored; no sampling for its newest models; a limit is
    wanted."""

    model: str = "claude-opus-4-8"
    known: frozenset[str] = OPENAI_NAMES
    fenced: bool = True

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        names = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
        error = {"code": names[status], "message": message, "type": names[status], "param": None}
        return status, {"error": error}

    def refusals(self, body: Body) -> Iterator[Refusal]:
        for name in body.keys() - self.known:
            yield self.error(f"{name}: Extra inputs are not permitted")
        if body.get("model") != self.model:
            yield self.error(f"model: {body.get('model')}", status=404)
        if "max_tokens" not in body and "max_completion_tokens" not in body:
            yield self.error("max_tokens: Field required")
        for name in ("temperature", "top_p"):
            if name in body:
                yield self.error(f"`{name}` is deprecated for this model.")

    def usage(self, prompt_tokens: int, spoken: Spoken) -> Mapping[str, Any]:
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": spoken.tokens}
        return counts | {"total_tokens": prompt_tokens + spoken.tokens}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        if event == "filter":
            return self.error("Output blocked by content filtering policy")
        body["choices"][0] |= {"finish_reason": "refusal"}
        body["choices"][0]["message"]["content"] = ""
        return 200, body
