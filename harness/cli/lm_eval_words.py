"""Command lines in lm-eval's words, as `harness eval` has them.

    as_ours(["--model", "hf", "--model_args", "pretrained=X,dtype=float16", "--gen_kwargs", "max_gen_toks=64"])
    # ["--model", "X", "--model-set", "dtype=float16", "--max-new-tokens", "64"]

What only has another name there is an alias in `panels.ALIASES`. UsageError for words that would not act here.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from harness.cli.setting_options import parse_pairs
from support.errors import SettingError, UsageError

LOCAL: Final = ("hf", "huggingface", "hf-auto", "hf-multimodal", "vlm-harness")
"""lm-eval's classes for weights that are run in the process, as ours are without being named."""
SERVED: Final = {"vllm": "vllm", "vllm-vlm": "vllm", "sglang": "sglang"}
"""Its classes that start a server of their own -> ours for `--serve`."""
BEHIND_A_SERVER: Final = ("local-chat-completions", "openai-chat-completions")
_GREEDY: Final = {"do_sample": ("false",), "temperature": ("0", "0.0"), "top_p": ("1", "1.0"), "num_beams": ("1",)}
"""Settings of decoding -> their values that say what is done anyway."""
_LIMITS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens")
_YES: Final = ("", "true", "1", "yes")


def as_ours(words: Sequence[str]) -> list[str]:
    """The arguments of `harness eval`, of arguments that may have words of lm-eval's among them."""
    found: list[str] = []
    model_args: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        name = _SHORT.get(name, name[:2] + name[2:].replace("-", "_"))
        if name == "--model_args":
            values = [value] if equals else [rest.pop(0)] if rest else []
            while rest and "=" in rest[0] and not rest[0].startswith("-"):
                values.append(rest.pop(0))
            model_args |= _read_arguments(name, values)
        elif name in _TRANSLATED:
            takes_next = not equals and rest and (name not in _MAY_STAND_ALONE or not rest[0].startswith("-"))
            if not equals and not takes_next and name not in _MAY_STAND_ALONE:
                raise UsageError(f"Option {name!r} requires an argument.")
            found += _TRANSLATED[name](rest.pop(0) if takes_next else value)
        elif name == "--log_samples":
            continue  # every sample is kept beside each score
        else:
            found.append(word)
    return _with_model(found, model_args) if model_args else found


def _with_model(words: list[str], given: dict[str, str]) -> list[str]:
    """The words with the model that `--model_args` says, in place of lm-eval's class of models."""
    words, classes = _take_option(words, ("--model", "-M"))
    kind = classes[0] if classes else ""
    if kind in BEHIND_A_SERVER and "model" in given:
        name, url = given.pop("model"), given.pop("base_url", "").removesuffix("/chat/completions")
        _refuse(given, f"--model {kind}")
        return [*words, "--model", f"openai:{name}", *(["--model-url", url] if url else [])]
    if "pretrained" not in given:
        raise UsageError("--model_args: lacks pretrained=MODEL; an engine setting alone is --model-set NAME=VALUE")
    name, adapter = given.pop("pretrained"), given.pop("peft", None)
    if classes and kind not in (*LOCAL, *SERVED, name):
        raise UsageError(f"--model {kind}: --model_args names another model, pretrained={name}; name one of them")
    more = ["--model", name] if adapter is None else ["--model", adapter, "--model-base", name]
    if given.pop("trust_remote_code", "false").lower() in _YES:
        more.append("--trust-remote-code")
    if kind in SERVED:
        more += ["--serve", SERVED[kind]]
        settings = [("--serve-set", f"{key.replace('_', '-')}={value}") for key, value in given.items()]
    else:
        if "revision" in given:
            raise UsageError(f"--model_args revision={given['revision']}: fetch that revision and name its folder")
        settings = [("--model-set", f"{key}={value}") for key, value in given.items()]
    return [*words, *more, *(word for pair in settings for word in pair)]


def _read_arguments(option: str, values: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE or a JSON object, as lm-eval reads them."""
    found: dict[str, str] = {}
    for text in values:
        if text.lstrip().startswith("{"):
            try:
                read = json.loads(text)
            except ValueError as error:
                raise SettingError(f"{option} {text!r}: not JSON: {error}") from None
            found |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in read.items()}
        else:
            found |= parse_pairs([part for part in text.split(",") if part], option)
    if not found:
        raise UsageError(f"Option {option!r} requires an argument.")
    return found


def _take_option(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without an option, and its values."""
    kept: list[str] = []
    values: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in names and rest:
            values.append(rest.pop(0))
        elif word.partition("=")[0] in names and "=" in word:
            values.append(word.partition("=")[2])
        else:
            kept.append(word)
    return kept, values


def _as_decoding(text: str) -> Iterator[str]:
    for name, value in _read_arguments("--gen_kwargs", [text]).items():
        if name in _LIMITS:
            yield from ("--max-new-tokens", value)
        elif name == "repetition_penalty":
            yield from ("--repetition-penalty", value)
        elif value.lower() not in _GREEDY.get(name, ()):
            known = "max_gen_toks and repetition_penalty can be set"
            raise UsageError(f"--gen_kwargs {name}={value}: would not act: answers are decoded greedily; {known}")


def _as_examples(text: str) -> list[str]:
    if text != "0":
        raise UsageError(f"--num_fewshot {text}: would not act: tasks are asked without examples")
    return []


def _as_template(text: str) -> list[str]:
    if text.lower() not in _YES:
        raise UsageError(f"--apply_chat_template {text}: name a file with the template by --chat-template")
    return []  # a checkpoint's own is always applied


def _as_system(text: str) -> list[str]:
    return ["--protocol", f"system:{text}"]


def _refuse(given: Mapping[str, str], what: str) -> None:
    for name, value in given.items():
        raise UsageError(f"--model_args {name}={value}: would not act with {what}")


_TRANSLATED: Final[Mapping[str, Callable[[str], "Iterator[str] | list[str]"]]] = {
    "--gen_kwargs": _as_decoding,
    "--num_fewshot": _as_examples,
    "--apply_chat_template": _as_template,
    "--system_instruction": _as_system,
}
_MAY_STAND_ALONE: Final = ("--apply_chat_template",)
_SHORT: Final = {"-a": "--model_args"}
