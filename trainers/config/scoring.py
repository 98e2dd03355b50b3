"""The part of a recipe that says how models are asked when they are scored, and by what."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from support.secrets import redact, remember, remember_address
from trainers.config.data import UNLESS_NONE, Section

REACHED: Final = ("engine_set", "engine_url")
"""Keys that say how a server is started or found: a run may go on with others. Scores record what changes answers."""
_SECRET: Final = re.compile(r"key|token$|password|secret", re.IGNORECASE)
_UNLESS_EMPTY: Final = Field(exclude_if=lambda value: not value)


def _write_flags(given: Any) -> Any:
    """A server's flags as text: TOML has true and numbers, too."""
    if not isinstance(given, dict):
        return given
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


class ScoringSettings(Section):
    """How the base and the checkpoints are asked, by settings that `harness eval` has options for."""

    protocol: str | None = None
    """Whose wording questions have: official, bare, a protocol's name, or a TOML file; None: official."""
    prompt_suffix: str | None = None
    """Text put after every question of all tasks."""
    prompt_suffixes: dict[str, str] = Field(default_factory=dict)
    """Task -> text put after its questions, in place of that of all."""
    thinking: Literal["on", "off"] | None = None
    """Whether models think before they answer, where their chat template has this switch."""
    thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of thoughts, on top of the limit of an answer; None: 4096."""
    engine: Annotated[
        Literal["vllm", "sglang", "auto"] | None,
        BeforeValidator(lambda value: None if value == "own" else value),
        UNLESS_NONE,
    ] = None
    """What computes the answers: own, vllm, sglang, or auto (vLLM on a GPU if it can); None: own."""
    engine_set: Annotated[dict[str, str], BeforeValidator(_write_flags), _UNLESS_EMPTY] = Field(default_factory=dict)
    """Flags of the engine's server, such as max-model-len = 8192."""
    engine_url: Annotated[tuple[str, ...], _UNLESS_EMPTY] = ()
    """With vllm: servers that run, in place of one for this run."""
    dtype: Annotated[Literal["float32", "bfloat16", "float16"] | None, UNLESS_NONE] = None
    """What the models compute in when they are scored; None: as stored, on a GPU in half precision."""

    @model_serializer(mode="wrap", when_used="json")
    def _without_secrets(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files hold no password: nothing that reads them starts the server."""
        found: dict[str, Any] = write(self)
        remember(*(value for name, value in self.engine_set.items() if _SECRET.search(name)))
        remember_address(" ".join(self.engine_url))
        told: dict[str, Any] = {"engine_set": {name: redact(value) for name, value in self.engine_set.items()}}
        told |= {"engine_url": [redact(url) for url in self.engine_url]}
        return found | {name: value for name, value in told.items() if name in found}
