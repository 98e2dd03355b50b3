"""How a local model is loaded and asked: every setting of our engine, in one dataclass.

    engine = EngineConfig(dtype="float32", batch_size="auto")
    engine = config_from({"load_in_4bit": "true"}, "--model-set")    # values as text or as TOML gives them
    load(find("llava-1.5-7b"), engine)

Each field says what else depends on it: the key under which answers are kept, and the words an entry records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any, Final, Literal, get_args

from leaderboards.board.entry import SHARES_NOTHING
from support.errors import SettingError, did_you_mean
from support.settings import converted, settings_of

Level = Literal["prefix", "features", "answers"]
Engine = Literal["own", "vllm", "sglang", "auto"]

AUTO_BATCH_SIZE: Final = 64
"""Questions decoded at once to begin with where the batch size is "auto"; halved when memory runs out."""

SAMPLED_AT_ONCE: Final = 8
"""Answers sampled at once where no batch size is given: what is sampled depends on it."""

_NEED_PARALLELIZE: Final = ("max_memory_per_gpu", "max_cpu_memory", "offload_folder", "device_map")
_NOT_BOTH: Final = (("load_in_4bit", "load_in_8bit"), ("image_string", "image_token_id"))
_INERT: Final = (
    *("architectures", "model_type", "name_or_path", "id2label", "label2id", "problem_type", "return_dict"),
    *("transformers_version", "output_attentions", "output_hidden_states", "use_cache"),
)
"""Fields of a config.json that say what a checkpoint is, or that decoding sets itself."""
_ATTENTION: Final = (
    *("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4"),
    *("paged|eager", "paged|sdpa", "paged|flash_attention_2", "paged|flash_attention_3", "paged|flash_attention_4"),
)
"""What transformers computes attention by; a name with "/" is a kernel of the hub."""
_NEED_SERVER: Final = ("engine_set", "gpus", "engine_url")
_ON_SERVER: Final = frozenset(
    {
        *("dtype", "batch_size", "suffix", "suffixes", "chat_template", "max_new_tokens", "repetition_penalty"),
        *("thinking", "thinking_tokens", "answers", "max_images", "min_pixels", "max_pixels", "interleave"),
        *("image_string", "image_token_id", "engine", *_NEED_SERVER),
    }
)
"""Settings that act on vLLM and SGLang, too."""
_NEED_4BIT: Final = ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What depends on a setting beside the engine itself."""

    in_cache_key: bool = True
    """It changes answers, and the key under which they are kept says it in no other way."""
    recorded: bool = True
    """Entries name it among their "model settings"."""
    loads: bool = False
    """It is an argument of lm-eval's and transformers' loading."""


def _use(**uses: bool) -> dict[str, _Use]:
    return {"use": _Use(**uses)}


_CHANGES: Final = _use()
_LOADS: Final = _use(loads=True)
_COSTS: Final = _use(in_cache_key=False, recorded=False)
"""A setting of speed and memory alone."""
_ELSEWHERE: Final = _use(recorded=False)
"""Recorded, but under a word of its own."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of SharedImageLM. SettingError for a value that can't be, or one that would not act."""

    engine: Engine = field(default="own", metadata=_ELSEWHERE)
    """What computes the answers: own, or a server of vllm or sglang for this run; auto: vLLM on a GPU if it can."""
    engine_set: Mapping[str, str] = field(default_factory=dict, metadata=_use(in_cache_key=False, recorded=False))
    """NAME=VALUE: any flag of vLLM's or SGLang's server, such as max-model-len=8192."""
    gpus: int | None = field(default=None, metadata=_COSTS)
    """With vllm or sglang: GPUs that get a copy of the model each."""
    engine_url: tuple[str, ...] = field(default=(), metadata=_COSTS)
    """With vllm: a server that runs, in place of one for this run; repeatable: they share the images."""
    dtype: str | None = field(default=None, metadata=_LOADS)
    """What the model computes in: float32, bfloat16, float16; by default as stored, on a GPU in half precision."""
    device: str | None = field(default=None, metadata=_use(in_cache_key=False, loads=True))
    """Where the model runs: cuda, cuda:1, cpu; by default a GPU if there is one."""
    batch_size: int | str | None = field(default=None, metadata=_COSTS)
    """Questions decoded at once; by default ("auto") as many as memory holds, at most 64."""
    suffix: str | None = field(default=None, metadata=_ELSEWHERE)
    """Text put after every question; recorded."""
    suffixes: Mapping[str, str] = field(default_factory=dict, metadata=_use(in_cache_key=False, recorded=False))
    """Task -> text put after its questions, in place of that of all; recorded."""
    chat_template: Path | None = field(default=None, metadata=_use(in_cache_key=False, recorded=False))
    """A file with the chat template to ask by, in place of the checkpoint's; recorded."""
    max_new_tokens: int | None = field(default=None, metadata=_use(in_cache_key=False))
    """Longest answer in tokens, in place of what each task says."""
    repetition_penalty: float | None = field(default=None, metadata=_CHANGES)
    """Divides the logits of tokens that were there before, in place of what each task says; 1 does nothing."""
    thinking: Literal["on", "off"] | None = field(default=None, metadata=_use(in_cache_key=False))
    """Whether the model thinks before it answers, where its chat template has this switch."""
    thinking_tokens: int | None = field(default=None, metadata=_use(in_cache_key=False))
    """Most tokens of thoughts, on top of the limit of an answer; by default 4096."""
    exact: bool = field(default=False, metadata=_ELSEWHERE)
    """Share nothing between questions and ask one at a time."""
    share: Level = field(default="prefix", metadata=_CHANGES)
    """What questions about one image share at most: "prefix" (beginnings of prompts too), "features" or "answers"."""
    answers: Path | None = field(default=None, metadata=_COSTS)
    """The file that keeps every answer of a local model; None: none is kept."""
    features: Path | None = field(default=None, metadata=_COSTS)
    """A folder that keeps image features over runs."""
    kept_bytes: int = field(default=2 << 30, metadata=_COSTS)
    """Bytes of image features held in memory."""
    workers: int | None = field(default=None, metadata=_COSTS)
    """Processes that decode images ahead of the model; by default none on a CPU, up to 8 beside a GPU."""
    compile: bool = field(default=False, metadata=_CHANGES)
    """Have torch compile the forward pass."""
    attn_implementation: str | None = field(default=None, metadata=_LOADS)
    """How attention is computed: eager, sdpa, flash_attention_2; by default transformers' choice."""
    load_in_4bit: bool = field(default=False, metadata=_LOADS)
    """Quantize the weights to 4 bits while they are loaded (bitsandbytes)."""
    load_in_8bit: bool = field(default=False, metadata=_LOADS)
    """Quantize the weights to 8 bits while they are loaded (bitsandbytes)."""
    bnb_4bit_compute_dtype: str | None = field(default=None, metadata=_LOADS)
    """With load_in_4bit: what is computed in."""
    bnb_4bit_quant_type: str | None = field(default=None, metadata=_LOADS)
    """With load_in_4bit: fp4 or nf4."""
    bnb_4bit_use_double_quant: bool = field(default=False, metadata=_LOADS)
    """With load_in_4bit: quantize the scales, too."""
    parallelize: bool = field(default=False, metadata=_LOADS)
    """Split the layers over all GPUs."""
    max_memory_per_gpu: int | str | None = field(default=None, metadata=_LOADS)
    """With parallelize: most memory used of each GPU, such as 20GB."""
    max_cpu_memory: int | str | None = field(default=None, metadata=_LOADS)
    """With parallelize: most main memory used."""
    offload_folder: str | None = field(default=None, metadata=_LOADS)
    """With parallelize: where layers are kept that fit nowhere else."""
    device_map: str | None = field(default=None, metadata=_LOADS)
    """With parallelize: how layers are placed; by default auto."""
    max_images: int | None = field(default=None, metadata=_LOADS)
    """Most images of one question; by default 999."""
    min_pixels: int | None = field(default=None, metadata=_LOADS)
    """Smaller images are enlarged to this many pixels, by processors that know it."""
    max_pixels: int | None = field(default=None, metadata=_LOADS)
    """Larger images are reduced to this many pixels, by processors that know it."""
    interleave: bool = field(default=True, metadata=_LOADS)
    """Leave images in the chat template where the question has them; false: before the text."""
    image_string: str | None = field(default=None, metadata=_LOADS)
    """What stands for an image in a prompt; by default what the checkpoint says."""
    image_token_id: int | None = field(default=None, metadata=_LOADS)
    """The same as a token's id."""
    overrides: Mapping[str, Any] = field(default_factory=dict, metadata=_LOADS)
    """Fields of the checkpoint's config.json to replace; a name that it lacks is refused when the model is loaded."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", _checked_batch_size(self.batch_size))
        self._check_engine()
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < inf:
            raise SettingError(f"repetition_penalty = {self.repetition_penalty}: must be above 0; 1 does nothing")
        if self.thinking_tokens is not None and self.thinking_tokens < 0:
            raise SettingError(f"thinking_tokens = {self.thinking_tokens}: must be at least 0")
        if self.thinking == "off" and self.thinking_tokens:
            raise SettingError(f"thinking_tokens = {self.thinking_tokens}: would not act with thinking = off")
        if self.thinking not in (None, "on", "off"):
            raise SettingError(f"thinking = {self.thinking!r}: must be on or off")
        if (kind := self.attn_implementation) is not None and kind not in _ATTENTION and "/" not in kind:
            raise SettingError(f"attn_implementation = {kind!r}: unknown{did_you_mean(kind, _ATTENTION[:6])}")
        for others, needed in ((_NEED_PARALLELIZE, "parallelize"), (_NEED_4BIT, "load_in_4bit")):
            if (idle := [name for name in others if getattr(self, name)]) and not getattr(self, needed):
                raise SettingError(f"{idle[0]} = {getattr(self, idle[0])!r}: would not act without {needed}")
        for first, idle_name in _NOT_BOTH:
            if getattr(self, first) and getattr(self, idle_name):
                raise SettingError(f"{idle_name} = {getattr(self, idle_name)}: would not act beside {first}")

    @property
    def is_served(self) -> bool:
        """Whether a server of another engine computes the answers."""
        return self.engine in ("vllm", "sglang")

    def idle_on_server(self) -> dict[str, Any]:
        """The settings that were given and would not act on vLLM or SGLang."""
        return {name: value for name, value in self.given().items() if name not in _ON_SERVER}

    def _check_engine(self) -> None:
        if self.engine not in (known := get_args(Engine)):
            raise SettingError(f"engine = {self.engine!r}: must be one of {', '.join(known)}")
        if self.engine == "own" and (idle := [name for name in _NEED_SERVER if getattr(self, name)]):
            raise SettingError(f"{idle[0]} = {getattr(self, idle[0])!r}: would not act without engine = vllm or sglang")
        if self.is_served and (given := self.idle_on_server()):
            name, value = next(iter(given.items()))
            raise SettingError(f"{name} = {value!r}: would not act with engine = {self.engine}")
        if self.engine_url:
            if idle := [name for name in ("engine_set", "gpus") if getattr(self, name)]:
                raise SettingError(f"{idle[0]} = {getattr(self, idle[0])!r}: would not act beside engine_url")
            if self.engine != "vllm":
                raise SettingError(f"engine_url = {self.engine_url[0]}: would not act without engine = vllm")
            if self.dtype is None:
                raise SettingError("engine_url: needs dtype = what its servers compute in, which they do not tell")
        if self.gpus is not None and self.gpus < 1:
            raise SettingError(f"gpus = {self.gpus}: must be at least 1")

    def given(self) -> dict[str, Any]:
        """Settings that are not at their default, by name; `overrides` one by one."""
        return self._given()

    def cache_facts(self) -> dict[str, str]:
        """What can change an answer, as text: part of the key under which answers are kept."""
        return {name: str(value) for name, value in self._given("in_cache_key").items() if value != ""}

    def loading_arguments(self) -> dict[str, Any]:
        """Arguments of lm-eval's LM and of transformers' `from_pretrained`."""
        return self._given("loads")

    def recorded(self) -> dict[str, str]:
        """What an entry records of settings that were given, in its own words."""
        words = ", ".join(f"{name}={value}" for name, value in sorted(self._given("recorded").items()))
        found = {"model settings": words, "prompt suffix": self.suffix or "", "shared": SHARES_NOTHING * self.exact}
        return {name: value for name, value in found.items() if value}

    def check_overrides(self, model: str, config: Any) -> None:
        """SettingError for an override that the checkpoint's configuration has no field for."""
        for name, value in self.overrides.items():
            if name in _INERT or name.startswith("_"):
                raise SettingError(f"{model}: {name} = {value!r}: would not act: it changes no answer")
            if not hasattr(config, name) or callable(getattr(config, name)):
                known = [each.name for each in fields(EngineConfig) if each.name != "overrides"]
                raise SettingError(f"{model}: unknown model setting {name!r}{did_you_mean(name, known)}")

    def _given(self, use: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if use is not None and not getattr(each.metadata["use"], use):
                continue
            if each.name == "overrides":
                found |= value
            elif each.name in ("suffixes", "engine_set"):
                found |= {each.name: value} if value else {}
            elif value != each.default:
                found[each.name] = value
        return found


def config_from(given: Mapping[str, Any], where: str) -> EngineConfig:
    """The settings with these values, text or TOML's; `where` they were given stands in the SettingError.

    A name that is no setting of ours becomes one of `overrides`, which loading checks.
    """
    known = {setting.name: setting for setting in settings_of(EngineConfig) if setting.name != "overrides"}
    own = {
        name: converted(value, known[name].type, f"{where}: {name}") for name, value in given.items() if name in known
    }
    return EngineConfig(**own, overrides={name: value for name, value in given.items() if name not in known})


def _checked_batch_size(value: int | str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not str(value).isdecimal() or int(value) < 1:
        raise SettingError(f'batch_size = {value!r}: must be a number of questions, or "auto"')
    return int(value)
