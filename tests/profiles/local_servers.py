"""Servers that people run themselves: what each refuses, ignores and counts, and how it says so (see `apis.py`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.profiles.apis import Body, Profile, Refusal, Spoken


@dataclass(kw_only=True)
class Vllm(Profile):
    """vLLM: unknown names are ignored, known ones checked; a context that prompt and limit must fit into together."""

    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    key_header: str = ""
    context: int = 16384
    """Tokens of prompt and reply together."""

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        kind = {400: "BadRequestError", 404: "NotFoundError"}[status]
        return status, {"error": {"message": message, "type": kind, "param": param, "code": status}}

    def refusals(self, body: Body) -> Iterator[Refusal]:
        if body.get("model") != self.model:
            yield self.error(f"The model `{body.get('model')}` is not here.", param="model", status=404)
        for name, lowest, highest in (("temperature", 0, 2), ("top_p", 1e-9, 1), ("min_p", 0, 1)):
            if not lowest <= body.get(name, highest) <= highest:
                words = f"{name} is outside of [{lowest}, {highest}], got {body[name]}."
                yield self.error(f"{words} (parameter={name}, value={body[name]})", param=name)
        for name in ("max_tokens", "seed", "top_k"):
            if not isinstance(body.get(name, 0), int):
                entry = {"type": "int_type", "loc": f"body.{name}", "msg": "a whole number is wanted", "input": "x"}
                status, found = self.error(f"1 validation error:\n  {entry}", param=f"body.{name}")
                yield status, {"error": found["error"] | {"type": "Bad Request"}}
        if (limit := self.limit_of(body)) is not None and limit > self.context:
            words = f"max_tokens={limit} cannot be greater than max_model_len={self.context}"
            yield self.error(f"{words} (parameter=max_tokens, value={limit})", param="max_tokens")

    def too_long(self, prompt_tokens: int, limit: int) -> Refusal:
        """A prompt that leaves no room for the limit."""
        words = (
            f"The maximum context length here is {self.context} tokens; {limit} output tokens were asked for and the"
        )
        words += f" prompt has at least {prompt_tokens} input tokens. (parameter=input_tokens, value={prompt_tokens})"
        return self.error(words, param="input_tokens")

    def usage(self, prompt_tokens: int, spoken: Spoken) -> Mapping[str, Any]:
        written = spoken.thoughts + spoken.tokens + (spoken.finish == "stop")  # the end of the reply counts
        counts = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + written}
        return counts | {"completion_tokens": written, "prompt_tokens_details": None}

    def message(self, spoken: Spoken, event: str) -> dict[str, Any]:
        more = {"annotations": None, "audio": None, "function_call": None, "reasoning": None}
        return more | super().message(spoken, event)

    def completion(self, prompt: str, prompt_tokens: int, body: Body, event: str = "") -> dict[str, Any]:
        found = super().completion(prompt, prompt_tokens, body, event)
        choice = found["choices"][0]
        choice |= {"stop_reason": None, "token_ids": None}
        if body.get("logprobs"):
            token = {"token": (choice["message"]["content"] or "")[:3], "logprob": -0.1, "bytes": None}
            choice["logprobs"] = {"content": [token | {"top_logprobs": [token]}]}
        if "content" in choice["message"] and choice["message"]["content"] and not self.thoughts_in:
            choice["message"]["content"] = " " + choice["message"]["content"]  # its detokenizer continues the prompt
        return found | {"service_tier": None, "prompt_logprobs": None, "kv_transfer_params": None}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        """It has no filter: a proxy in front of it may."""
        return 403, {"error": {"message": "Blocked: content_filter", "type": "guardrail", "code": "content_filter"}}


@dataclass(kw_only=True)
class VllmThinking(Vllm):
    """vLLM with a thinking model and a parser of its thoughts, which stand beside the content."""

    model: str = "Qwen/Qwen3-VL-8B-Thinking"
    thoughts: int = 300
    thoughts_in: str = "reasoning"

    def message(self, spoken: Spoken, event: str) -> dict[str, Any]:
        message = super().message(spoken, event)
        if spoken.finish == "length" and not spoken.tokens:
            message["content"] = None  # all that was written are thoughts
        return message


@dataclass(kw_only=True)
class VllmInTags(VllmThinking):
    """The same without a parser: the thoughts are a part of the content, in tags."""

    thoughts_in: str = "content"

    def message(self, spoken: Spoken, event: str) -> dict[str, Any]:
        return Vllm.message(self, spoken, event)


@dataclass(kw_only=True)
class Sglang(Profile):
    """SGLang: an error without a frame, and thoughts counted beside the rest."""

    model: str = "zai-org/GLM-4.6V-Flash"
    key_header: str = ""
    thoughts: int = 128
    thoughts_in: str = "reasoning_content"

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        kind = {400: "BadRequestError", 404: "NotFoundError"}[status]
        return status, {"object": "error", "message": message, "type": kind, "param": param, "code": status}

    def refusals(self, body: Body) -> Iterator[Refusal]:
        # It answers for whatever model it has; a temperature below 0 or a top_p of 0 is none.
        if body.get("temperature", 0) < 0:
            yield self.error(f"temperature must be non-negative, got {body['temperature']}.")
        if not 0 < body.get("top_p", 1) <= 1:
            yield self.error(f"top_p must be in (0, 1], got {body['top_p']}.")

    def usage(self, prompt_tokens: int, spoken: Spoken) -> Mapping[str, Any]:
        written = spoken.thoughts + spoken.tokens + (spoken.finish == "stop")
        counts = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + written}
        return counts | {
            "completion_tokens": written,
            "prompt_tokens_details": None,
            "reasoning_tokens": spoken.thoughts,
        }

    def completion(self, prompt: str, prompt_tokens: int, body: Body, event: str = "") -> dict[str, Any]:
        found = super().completion(prompt, prompt_tokens, body, event)
        found["choices"][0] |= {"matched_stop": 151645 if found["choices"][0]["finish_reason"] == "stop" else None}
        found["choices"][0]["message"] |= {"tool_calls": None}
        del found["system_fingerprint"]
        return found | {"metadata": {"weight_version": "default"}}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        body["choices"][0] |= {"finish_reason": {"type": "abort", "message": "Aborted by the scheduler"}}
        return 200, body


@dataclass(kw_only=True)
class Ollama(Profile):
    """Ollama: it ignores what it does not know, `max_completion_tokens` among it, and cuts prompts in silence."""

    model: str = "qwen3-vl:8b"
    key_header: str = ""
    thoughts: int = 100
    thoughts_in: str = "reasoning"
    context: int = 4096
    """Tokens of a prompt; what is before them is cut off."""

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        kind = {400: "invalid_request_error", 404: "not_found_error"}[status]
        return status, {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def refusals(self, body: Body) -> Iterator[Refusal]:
        if body.get("model") != self.model:
            yield self.error(f'model "{body.get("model")}" not found, try pulling it first', status=404)

    def limit_of(self, body: Body) -> int | None:
        found = body.get("max_tokens")
        return None if found is None else int(found)

    def usage(self, prompt_tokens: int, spoken: Spoken) -> Mapping[str, Any]:
        counts = {
            "prompt_tokens": min(prompt_tokens, self.context),
            "completion_tokens": spoken.thoughts + spoken.tokens,
        }
        return counts | {"total_tokens": sum(counts.values())}

    def completion(self, prompt: str, prompt_tokens: int, body: Body, event: str = "") -> dict[str, Any]:
        found = super().completion(prompt, prompt_tokens, body, event)
        message = found["choices"][0]["message"]
        message.pop("refusal")
        message["content"] = message["content"] or ""
        return found | {"system_fingerprint": "fp_ollama"}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        """It has no filter: its runner may die."""
        return 500, {"error": {"message": "llama runner process has terminated", "type": "api_error", "code": None}}


@dataclass(kw_only=True)
class LlamaCpp(Profile):
    """llama.cpp's server: any name of a model will do; a prompt beyond its context has an error of its own kind."""

    model: str = "Qwen3-VL-4B-Thinking-Q4_K_M.gguf"
    served: str | None = "/models/Qwen3-VL-4B-Thinking-Q4_K_M.gguf"
    key_header: str = ""
    thoughts: int = 64
    thoughts_in: str = "reasoning_content"
    context: int = 8192

    def error(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> Refusal:
        return status, {"error": {"code": status, "message": message, "type": "invalid_request_error"}}

    def refusals(self, body: Body) -> Iterator[Refusal]:
        if body.get("logprobs") and body.get("stream"):
            yield self.error("logprobs is not supported with stream")

    def too_long(self, prompt_tokens: int, limit: int) -> Refusal:
        """A prompt beyond the context; a limit beyond it ends where the context does."""
        words = f"request ({prompt_tokens} tokens) exceeds the available context size ({self.context} tokens)"
        kind = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt_tokens, "n_ctx": self.context}
        return 400, {"error": {"code": 400, "message": words} | kind}

    def completion(self, prompt: str, prompt_tokens: int, body: Body, event: str = "") -> dict[str, Any]:
        found = super().completion(prompt, prompt_tokens, body, event)
        found["choices"][0]["message"].pop("refusal")
        found["choices"][0].pop("logprobs")
        found["usage"] = {name: value for name, value in found["usage"].items() if not name.endswith("_details")}
        return found | {"system_fingerprint": "b7300-1a2b3c4", "timings": {"prompt_n": prompt_tokens, "predicted_n": 9}}

    def filtered(self, body: dict[str, Any], event: str) -> Refusal:
        return self.error("Failed to process the picture", status=500)
