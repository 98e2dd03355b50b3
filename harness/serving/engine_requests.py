"""One question to a server of vLLM or SGLang, as tokens are asked for and come back: no chat template of the server's,
no text of its own.

    body = protocol_of("vllm").body(question, "llava", [part])    # bytes of JSON
    protocol_of("vllm").read(reply)                               # Reply(tokens=[3869, 2], limited=False, ...)

vLLM is asked by chat completions with a template that writes a prompt as it is (`RENDERED`), so that pictures can come
with it; SGLang by its own /generate. Every setting of sampling is sent: what a request leaves open, a server takes from
the checkpoint's generation_config.json.
"""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from PIL.Image import Image

from harness.models.served_sampling import OF_SAMPLING, Decoding
from harness.models.server_facts import NEUTRAL
from support.errors import ServerError

RENDERED: Final = "{{ messages[0]['content'] }}"
"""The chat template of a server that gets whole prompts."""
_PICTURE: Final = "\x00picture\x00"
"""Where a part of a body stands that was written before; no JSON has it, for NUL is escaped there."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt, and how its answer is asked for."""

    prompt: str
    """With the model's own placeholders for pictures."""
    digests: tuple[str, ...]
    """Of its pictures."""
    pictures: Sequence[Image]
    pads: bool
    """Whether they are padded to a square before they are sent."""
    adds_tokens: bool
    """Whether the tokenizer's own first token goes before the prompt."""
    decoding: Decoding
    stops: tuple[str, ...]
    ends: tuple[int, ...]
    """Tokens that end an answer."""
    choices: tuple[int, ...]
    """Tokens whose log-probability as the first one is wanted."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The tokens of an answer."""

    tokens: list[int]
    limited: bool
    """Whether the limit of tokens ended it."""
    likely: Mapping[int, float] = field(default_factory=dict)
    """Log-probability of tokens as the first one."""
    prompt: list[int] | None = None
    """The prompt's tokens, where the server tells them."""


class Vllm:
    """vLLM's chat completions."""

    path = "/v1/chat/completions"
    misses = "Cache miss for image"
    """What a refusal says where a picture was named that the server has not, or not any more."""

    def __init__(self, *, sends_template: bool = False) -> None:
        self.more = {"chat_template": RENDERED} if sends_template else {}
        """For a server that was not started with our template."""

    def part(self, digest: str, image: Image | None, adapted: str) -> bytes:
        """A picture in a body; without its content where the server has it. `adapted` tells apart what different
        vision encoders make of it."""
        url = None if image is None else {"url": f"data:image/png;base64,{_png(image)}"}
        return json.dumps({"type": "image_url", "image_url": url, "uuid": f"{digest}{adapted}"}).encode()

    def body(self, question: Question, model: str, parts: Sequence[bytes]) -> bytes:
        """A request; `parts` are its pictures."""
        content: list[Any] = [{"type": "text", "text": question.prompt}, *[_PICTURE] * len(parts)]
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "add_special_tokens": question.adds_tokens,
            "return_token_ids": True,
            "max_tokens": question.decoding.max_tokens,
            "stop": list(question.stops),
            "stop_token_ids": list(question.ends),
            "n": 1,
            **_sampling(question.decoding),
            **self.more,
        }
        if question.choices:
            wanted: dict[str, Any] = {"logprobs": True, "logprob_token_ids": list(question.choices)}
            asked |= wanted | {"return_tokens_as_token_ids": True}
        return _with_parts(asked, parts)

    def read(self, body: Any) -> Reply:
        """ServerError for what is no reply."""
        try:
            choice = body["choices"][0]
            likely = {}
            if choice.get("logprobs"):
                listed = choice["logprobs"]["content"][0]["top_logprobs"]
                likely = {int(one["token"].removeprefix("token_id:")): float(one["logprob"]) for one in listed}
            return Reply(
                tokens=[int(token) for token in choice["token_ids"]],
                limited=choice["finish_reason"] == "length",
                likely=_finite(likely),
                prompt=body.get("prompt_token_ids"),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"a reply without token ids ({type(error).__name__}: {error}): is it vLLM?") from None


class Sglang:
    """SGLang's own /generate."""

    path = "/generate"
    misses = ""

    def part(self, digest: str, image: Image | None, adapted: str) -> bytes:
        """A picture in a body."""
        assert image is not None
        return json.dumps(_png(image)).encode()

    def body(self, question: Question, model: str, parts: Sequence[bytes]) -> bytes:
        """A request; `parts` are its pictures."""
        decoding = question.decoding
        sampling: dict[str, Any] = {
            "max_new_tokens": decoding.max_tokens,
            "stop": list(question.stops),
            "stop_token_ids": list(question.ends),
            **_sampling(decoding),
        }
        seed = sampling.pop("seed", None)
        asked: dict[str, Any] = {
            "text": question.prompt,
            "sampling_params": sampling | ({} if seed is None else {"sampling_seed": seed}),
        }
        if parts:
            asked["image_data"] = [_PICTURE] * len(parts)
        if question.choices:
            asked |= {"return_logprob": True, "token_ids_logprob": list(question.choices)}
        return _with_parts(asked, parts)

    def read(self, body: Any) -> Reply:
        """ServerError for what is no reply."""
        try:
            told = body["meta_info"]
            listed = (told.get("output_token_ids_logprobs") or [[]])[0]
            return Reply(
                tokens=[int(token) for token in body["output_ids"]],
                limited=(told.get("finish_reason") or {}).get("type") == "length",
                likely=_finite({int(token): float(likely) for likely, token, *_ in listed}),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"a reply without token ids ({type(error).__name__}: {error}): is it SGLang?") from None


def protocol_of(engine: str, *, sends_template: bool = False) -> Vllm | Sglang:
    """How an engine is asked; `sends_template`: its server was not started with our template."""
    return Vllm(sends_template=sends_template) if engine == "vllm" else Sglang()


def _sampling(decoding: Decoding) -> dict[str, Any]:
    """Settings of sampling, all of them; a seed only where it acts."""
    asked = {name: getattr(decoding, name) for name in OF_SAMPLING}
    found = {name: NEUTRAL[name] if value is None else value for name, value in asked.items()}
    seed = {"seed": decoding.seed} if decoding.temperature and decoding.seed is not None else {}
    return {"temperature": decoding.temperature, **found, **seed}


def _with_parts(asked: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    """The JSON of a body, with parts that are JSON already: to write a picture anew for each question takes longer than
    all else."""
    pieces = re.split(rb'"\\u0000picture\\u0000"', json.dumps(asked).encode())
    return b"".join(piece for pair in zip(pieces, (*parts, b""), strict=True) for piece in pair)


def _png(image: Image) -> str:
    """A picture's content, without loss."""
    data = io.BytesIO()
    image.convert("RGB").save(data, "PNG", compress_level=1)
    return base64.b64encode(data.getvalue()).decode()


def _finite(likely: Mapping[int, float]) -> dict[int, float]:
    return {token: value for token, value in likely.items() if isfinite(value)}
