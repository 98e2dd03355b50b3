"""The part of a recipe that says how models are asked when they are scored."""

from typing import Annotated, Literal

from pydantic import Field

from trainers.config.data import Section


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
