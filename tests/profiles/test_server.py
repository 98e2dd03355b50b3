"""The profiles themselves: what each takes, refuses and counts, as plain HTTP."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.profiles.apis import KEY
from tests.profiles.server import PROFILES, ProfileServer

MESSAGES = [{"role": "user", "content": "Is there a dog?"}]


def post(
    profiles: ProfileServer, name: str, asked: Mapping[str, Any], path: int = 0, key: str = KEY
) -> tuple[int, Any]:
    """Status and body of a call as the profile's users make it."""
    address, _, query = profiles.url(name, path).partition("?")
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}", "api-key": key}
    data = json.dumps({"model": profiles.model(name), "messages": MESSAGES, **asked}).encode()
    request = Request(f"{address}/chat/completions{query and '?' + query}", data=data, headers=headers)
    try:
        with urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_each_answers_and_counts_its_tokens(profiles: ProfileServer, name: str) -> None:
    limit = "max_tokens" if name in ("azure-chat", "ollama") else "max_completion_tokens"
    for path in range(len(profiles.profiles[name].paths)):
        status, answer = post(profiles, name, {limit: 900}, path)
        assert status == 200
        choice, usage, thoughts = answer["choices"][0], answer["usage"], profiles.profiles[name].thoughts
        assert choice["message"]["content"].endswith("Yes")
        assert choice["finish_reason"] == "stop"
        assert usage["total_tokens"] - usage["prompt_tokens"] > thoughts
        assert usage["completion_tokens"] > (0 if name == "gemini" else thoughts)
    assert [call.status for call in profiles.calls(name)] == [200] * len(profiles.profiles[name].paths)


@pytest.mark.parametrize("name", sorted(name for name, kind in PROFILES.items() if kind().key_header))
def test_a_wrong_key_is_refused(profiles: ProfileServer, name: str) -> None:
    status, answer = post(profiles, name, {}, key="sk-wrong")
    assert status == 401
    assert "key" in json.dumps(answer)


@pytest.mark.parametrize(
    ("name", "asked", "status", "place"),
    (
        ("openai-reasoning", {"temperature": 0}, 400, "'param': 'temperature', 'code': 'unsupported_value'"),
        ("openai-reasoning", {"max_tokens": 9}, 400, "'param': 'max_tokens', 'code': 'unsupported_parameter'"),
        ("openai-reasoning", {"stop": ["x"], "max_completion_tokens": 99}, 400, "'param': 'stop'"),
        ("openai-reasoning", {"max_completion_tokens": 3}, 400, "output limit was reached"),
        ("openai-chat", {"top_k": 5}, 400, "'param': 'top_k', 'code': 'unknown_parameter'"),
        ("openai-chat", {"model": "gpt-9"}, 404, "'code': 'model_not_found'"),
        ("azure-chat", {"max_completion_tokens": 9}, 400, "Unrecognized request argument"),
        ("gemini", {"seed": 0}, 400, "[{'error': {'code': 400, 'message': 'Invalid JSON payload"),
        ("anthropic", {"temperature": 0}, 400, "'code': 'invalid_request_error', 'message': 'max_tokens: Field"),
        ("vllm", {"temperature": 3}, 400, "'type': 'BadRequestError', 'param': 'temperature', 'code': 400"),
        ("vllm", {"max_tokens": 16380}, 400, "'param': 'input_tokens'"),
        ("vllm", {"made_up": 1}, 200, "'finish_reason': 'stop'"),
        ("sglang", {"top_p": 0}, 400, "{'object': 'error', 'message': 'top_p must"),
        ("ollama", {"model": "x"}, 404, "'type': 'not_found_error', 'param': None, 'code': None"),
        ("ollama", {"max_completion_tokens": 3}, 200, "'finish_reason': 'stop'"),
        ("llama.cpp", {"model": "x"}, 200, "'timings'"),
    ),
)
def test_what_is_refused_and_what_is_ignored(
    profiles: ProfileServer, name: str, asked: dict[str, Any], status: int, place: str
) -> None:
    found, answer = post(profiles, name, asked)
    assert (found, place in str(answer)) == (status, True)


@pytest.mark.parametrize("name", sorted(name for name, kind in PROFILES.items() if kind().thoughts))
def test_thoughts_take_the_tokens_of_a_limit_first(profiles: ProfileServer, name: str) -> None:
    limit = "max_tokens" if name == "ollama" else "max_completion_tokens"
    _, answer = post(profiles, name, {limit: 20})
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert "Yes" not in (choice["message"].get("content") or "")
    _, answer = post(profiles, name, {limit: 20 + profiles.profiles[name].thoughts})
    assert answer["choices"][0]["message"]["content"].endswith("Yes")
