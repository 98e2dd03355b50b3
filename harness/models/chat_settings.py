"""How a model behind a server is asked for its answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from support.errors import SettingError, did_you_mean
from support.settings import made, settings_of
from tasks.judges.settings import ImageSettings


@dataclass(frozen=True, kw_only=True)
class ServedModelSettings(ImageSettings):
    """How a model behind a server is asked for its answers."""

    prompt_suffix: str = ""
    """Text put after every question; recorded."""
    max_new_tokens: int | None = None
    """Longest answer in tokens, in place of what each task says."""
    thinking_tokens: int = 0
    """Tokens on top of any limit, for models whose thoughts count."""
    temperature: float | None = None
    """Sampling temperature, in place of what each task says."""
    top_p: float | None = None
    """Probability mass that is sampled from; needs a temperature above 0."""
    top_k: int | None = None
    """How many of the likeliest tokens are sampled from; needs a temperature above 0."""
    min_p: float | None = None
    """Least probability of a sampled token, as a share of the likeliest one's; needs a temperature above 0."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens that were there before; 1 does nothing."""
    presence_penalty: float | None = None
    """Taken off the logits of tokens that the answer has."""
    frequency_penalty: float | None = None
    """The same for each time that the answer has them."""
    enable_thinking: bool | None = None
    """Whether the model thinks before it answers, where its chat template has this switch."""
    reasoning_effort: str | None = None
    """How much it thinks, as its server calls that: none, minimal, low, medium, high."""

    def __post_init__(self) -> None:
        super().__post_init__()
        idle = [name for name in SAMPLED_ONLY if getattr(self, name) is not None and not self.temperature]
        if idle:
            value = getattr(self, idle[0])
            raise SettingError(f"{idle[0]} = {value}: would not act without a temperature above 0")

    def thinking_in_words(self) -> str:
        """What was asked of the model's thoughts; empty: nothing."""
        switch = {True: "on", False: "off", None: "as the model does by itself"}[self.enable_thinking]
        room = f", {self.thinking_tokens} tokens on top of each limit" if self.thinking_tokens else ""
        return f"{switch}{room}" if room or self.enable_thinking is not None else ""


SAMPLED_ONLY: Final = ("top_p", "top_k", "min_p")
"""Settings that act on sampled answers alone."""
OTHER_NAMES: Final = {"suffix": "prompt_suffix", "thinking": "enable_thinking"}
_OTHER_VALUES: Final[Mapping[str, Any]] = {"on": True, "off": False}
"""Of `thinking`."""
_OF_NO_MATTER: Final = ("answers", "hints", "suffixes")
"""Engine settings that may be given for any model: the ledger keeps the answers of a served one, and whoever asks puts
the suffixes of tasks."""


def acts_on_served(name: str) -> bool:
    """True if this engine setting may be given for a model behind a server."""
    known = [setting.name for setting in settings_of(ServedModelSettings)]
    return name in _OF_NO_MATTER or OTHER_NAMES.get(name, name) in known


def served_settings(model: str, given: Mapping[str, Any]) -> ServedModelSettings:
    """The settings of a model behind a server, from those of the engine that were given. SettingError for one that
    would not act."""
    known = [setting.name for setting in settings_of(ServedModelSettings)]
    values = {OTHER_NAMES.get(name, name): value for name, value in given.items() if name not in _OF_NO_MATTER}
    if "thinking" in given:
        values["enable_thinking"] = _OTHER_VALUES.get(given["thinking"], given["thinking"])
    for name, value in values.items():
        if name not in known:
            raise SettingError(
                f"{model}: {name} = {value!r} would not act: the model is behind a server{did_you_mean(name, known)}"
            )
    return made(ServedModelSettings, values, model)
