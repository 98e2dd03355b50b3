"""How a server is asked to choose tokens: what a task and the user want, as the program behind the address takes it.

    decoding = decoding_of(request.args[1], settings, system=None)      # SettingError for what no server can do
    settings_sent(decoding, settings, model, takes, facts)              # {"max_tokens": 16, "temperature": 0.0, ...}
    check_settings(settings, given, model, takes, facts)                # SettingError for what would not act

What a request leaves open, a server of open weights takes from the checkpoint's generation_config.json: one answer to
every seed, or a penalty in greedy decoding. So all of it is sent where it is known what the server takes.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from harness.engine.chat_template import SWITCHES
from harness.models.chat_settings import SAMPLED_ONLY, ServedModelSettings
from harness.models.server_facts import NEUTRAL, ServerFacts
from support.errors import SettingError
from tasks.judges.capabilities import LIMITS, OVERRIDE, UNKNOWN, Capabilities
from tasks.judges.parameters import NOT_SETTABLE
from tasks.judges.protocol import Sampling
from tasks.judges.requests import NAMED_BY_COMPLETION_TOKENS, limit_of

DEFAULT_TOKENS: Final = 256
"""Limit of an answer, for tasks that set none."""
MOST_STOPS: Final = 4
"""Stop sequences that a server takes; the answer is cut at all of them here."""
PENALTIES: Final = ("repetition_penalty", "presence_penalty", "frequency_penalty")
OF_SAMPLING: Final = ("top_p", "top_k", "min_p", *PENALTIES)
THINKING: Final = "enable_thinking"
OF_REQUESTS: Final = ("temperature", *OF_SAMPLING, "seed", "detail", THINKING, "reasoning_effort")
"""Settings that a request gives to the server."""
_OF_EVERY_SERVER: Final = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "detail", "reasoning_effort"),
)
"""Of OpenAI's own: another server takes them, or refuses them."""
_LIMITS: Final = ("max_gen_toks", "max_new_tokens")
_OF_TASKS: Final = ("until", *_LIMITS, "do_sample", "temperature", "seed", *OF_SAMPLING)
_DO_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences", "guidance_scale", "typical_p"), (1,)),
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (0,)),
    **dict.fromkeys(("diversity_penalty", "penalty_alpha", "epsilon_cutoff", "eta_cutoff"), (0,)),
}
"""Settings of transformers' generation that chat completions lack, and the values with which they do nothing."""
_IDLE: Final = ("length_penalty", "early_stopping", "use_cache", "cache_implementation", "pad_token_id")
"""The same, whatever their value: of beams, and of how a machine computes."""


@dataclass(frozen=True, kw_only=True)
class Decoding(Sampling):
    """What is asked of decoding; None: nothing is asked."""

    until: tuple[str, ...] = ()
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


def decoding_of(given: Mapping[str, Any], own: ServedModelSettings, *, system: str | None, model: str) -> Decoding:
    """What a task's `generation_kwargs` and the user's settings, which go first, ask for. SettingError for a setting
    that a server of chat completions has not."""
    for name, value in given.items():
        if name not in _OF_TASKS and value not in (None, [], {}, *_DO_NOTHING.get(name, (value,) * (name in _IDLE))):
            told = f"{name} = {value!r} in the task's generation_kwargs"
            known = ", ".join(_OF_TASKS)
            raise SettingError(f"{model}: {told}: a server of chat completions has no such setting; it has {known}")
    until = given.get("until") or ()
    until = tuple(end for end in ([until] if isinstance(until, str) else until) if end)
    limit = own.max_new_tokens or next((given[name] for name in _LIMITS if name in given), DEFAULT_TOKENS)
    chosen: dict[str, Any] = {"temperature": 0.0}
    if given.get("do_sample"):
        temperature = given.get("temperature")
        chosen = {"temperature": 1.0 if temperature is None else temperature}
        chosen |= {name: _unless_off(name, given.get(name)) for name in SAMPLED_ONLY}
    chosen |= {name: given.get(name) for name in PENALTIES}
    if own.temperature is not None:
        chosen |= {"temperature": own.temperature, **{name: getattr(own, name) for name in SAMPLED_ONLY}}
    chosen |= {name: value for name in PENALTIES if (value := getattr(own, name)) is not None}
    return Decoding(
        system=system, max_tokens=limit + own.thinking_tokens, until=until, seed=given.get("seed"), **chosen
    )


def _unless_off(name: str, value: Any) -> Any:
    """None for a value that switches a setting off."""
    return None if name == "top_k" and value is not None and value <= 0 else value


def settings_sent(
    decoding: Decoding, own: ServedModelSettings, model: str, takes: Capabilities, facts: ServerFacts
) -> dict[str, Any]:
    """The part of a request that decides how tokens are chosen, as the ledger names it; `Parameters` leaves out what
    the model does not take. SettingError for what a task asks for in vain."""
    settings: dict[str, Any] = limit_of(model, decoding.max_tokens or DEFAULT_TOKENS)
    if takes.temperature is not None or not model.startswith(NAMED_BY_COMPLETION_TOKENS):
        stops = list(decoding.until[:MOST_STOPS]) or None
        settings |= {"temperature": decoding.temperature, **_fill(decoding, model, takes, facts), "stop": stops}
    settings["seed"] = own.seed if decoding.seed is None else decoding.seed
    settings["reasoning_effort"] = own.reasoning_effort
    if own.enable_thinking is not None:
        settings["chat_template_kwargs"] = {facts.switch or THINKING: own.enable_thinking}
    if facts.lacks_first_token:
        settings["add_special_tokens"] = True
    return {name: value for name, value in settings.items() if value is not None}


def _fill(decoding: Decoding, model: str, takes: Capabilities, facts: ServerFacts) -> dict[str, Any]:
    """Settings of sampling by the server's names, with those that do nothing where nothing was asked for."""
    fills: Mapping[str, float] = facts.program.fills
    if not fills and takes.family == UNKNOWN and decoding.temperature:
        fills = {"top_p": NEUTRAL["top_p"]}  # every server takes it
    found: dict[str, Any] = {}
    for name in OF_SAMPLING:
        asked = getattr(decoding, name)
        if asked is not None and asked != NEUTRAL[name] and takes.temperature is not None:
            _check_acts(name, facts.program.names.get(name, name), asked, model, takes)
        elif asked is not None and name not in fills and name not in _OF_EVERY_SERVER:
            continue
        value = fills.get(name) if asked is None else asked
        if value is not None:
            found[facts.program.names.get(name, name)] = value
    return found | ({"n": fills["n"]} if "n" in fills else {})


def sampling_in_words(sent: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values of what decides in a request how tokens are chosen."""
    flat = {name: value for name, value in sent.items() if name not in (*LIMITS, "stop", "chat_template_kwargs")}
    return tuple((name, _write(value)) for name, value in (flat | sent.get("chat_template_kwargs", {})).items())


def is_left_out(name: str, words: str) -> bool:
    """Whether a parameter was not sent, by what the ledger says of how a call was asked; in words of earlier versions,
    too."""
    return any(re.fullmatch(rf"{name}(?: \S+)?: {NOT_SETTABLE}|without {name}", part) for part in words.split(", "))


def left_to_server(takes: Capabilities, facts: ServerFacts, sent: Mapping[str, str]) -> tuple[str, ...]:
    """The settings of sampling that act on what was sent and are the server's own, where these are not known."""
    if takes.family.startswith("openai"):
        return ()
    acting = PENALTIES if sent.get("temperature") == "0" else ("temperature", *OF_SAMPLING)
    return tuple(name for name in acting if facts.program.names.get(name, name) not in sent)


def parameters_of(settings: ServedModelSettings, given: Collection[str], facts: ServerFacts) -> dict[str, str]:
    """Parameters of a request that the user set, each with how."""
    names = {"enable_thinking": "chat_template_kwargs", **facts.program.names}
    own = [name for name in OF_REQUESTS if name in given and getattr(settings, name) is not None]
    found = {names.get(name, name): f"{name} = {getattr(settings, name)}" for name in own}
    limit = settings.max_new_tokens if "max_new_tokens" in given else None
    return found | ({} if limit is None else dict.fromkeys(LIMITS, f"max_new_tokens = {limit}"))


def check_settings(
    settings: ServedModelSettings, given: Collection[str], model: str, takes: Capabilities, facts: ServerFacts
) -> None:
    """SettingError for a setting that would not act on this model behind this server; `given` names those that were
    set."""
    names = {THINKING: "chat_template_kwargs", **facts.program.names}
    for name in OF_REQUESTS:
        value = getattr(settings, name)
        if name in given and value is not None:
            _check_acts(name, names.get(name, name), value, model, takes)
    if settings.enable_thinking is not None and facts.switch == "":
        told = f"{THINKING} = {settings.enable_thinking}"
        switches = " or ".join(SWITCHES)
        raise SettingError(f"{model}: {told}: would not act: its chat template has no such switch ({switches})")


def _check_acts(name: str, parameter: str, value: Any, model: str, takes: Capabilities) -> None:
    """SettingError for a setting that is known not to act; or that a server may pass over in silence, where it is not
    known which one it is."""
    acts = takes.setting(parameter, value)
    if acts or (acts is None and name in _OF_EVERY_SERVER):
        return
    if acts is None:
        hint = f"a family of models in the file of {OVERRIDE} says what your server takes"
        raise SettingError(f"{model}: {name} = {value}: may not act: it is not known what takes it there; {hint}")
    what = "none" if takes.setting(parameter, 1) is False else "another value"
    raise SettingError(f"{name} = {value}: would not act: {model} takes {what} ({takes.family})")


def given_settings(settings: ServedModelSettings) -> set[str]:
    """Names of the settings that are not at their defaults."""
    return {each.name for each in fields(settings) if getattr(settings, each.name) != each.default}


def _write(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
