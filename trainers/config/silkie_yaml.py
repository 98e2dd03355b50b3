"""Reads the training configuration of VLFeedback's authors (their example.yaml, or one like it) as a recipe.

    found = read_config(Path("example.yaml"))
    found.recipe                      # a Recipe: what `harness train` runs
    found.lines                       # every key, what it says, and what it becomes here

The keys are those of run_dpo.py and its launcher (vlf-silkie/VLFeedback): some of transformers' training arguments, and
its own. Unknown keys are refused, and so are values that are not supported here: no key is ignored silently.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.errors import RecipeError, did_you_mean
from support.parsing import parse_yaml
from trainers.config.recipe import PreferenceRecipe, parse_as

AUTHORS_GPUS = 16
"""What example.yaml was run on: 2 pairs a GPU x 8 accumulated x 16 GPUs = 256 pairs a step, which the paper reports."""


@dataclass(frozen=True, kw_only=True)
class ConfigLine:
    """What becomes of one key."""

    key: str
    value: str
    """As given; "" if it is not given and the default of run_dpo.py applies."""
    becomes: str
    """The recipe's key and value, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration as a recipe."""

    recipe: PreferenceRecipe
    lines: tuple[ConfigLine, ...]


SAME_NAMES = """learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm warmup_ratio warmup_steps
    eval_steps save_steps gradient_checkpointing beta"""
TRAINING = {
    **{name: name for name in SAME_NAMES.split()},
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "per_device_batch_size",
    "lr_scheduler_type": "scheduler",
    "logging_steps": "log_steps",
    "save_total_limit": "keep",
    "model_max_length": "max_length",
    "dataloader_num_workers": "workers",
}
"""Keys of [training] by those of the authors."""

LORA = {"lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout"}

TRANSLATED = """model_name_or_path run_name seed gradient_accumulation_steps bf16 use_lora lora_target_modules q_lora
    fix_vit report_to evaluation_strategy"""
"""Keys that have code of their own below."""

NOT_NEEDED = {
    "output_dir": "the run folder is --working",
    "per_device_eval_batch_size": "pairs held out are scored as many at once as are trained on",
    "tf32": "on with bf16 on a GPU that has it",
    "logging_first_step": "the first step is always logged",
    "remove_unused_columns": "columns are never removed",
    "cache_dir": "HF_HOME says where downloads lie",
    "lazy_preprocess": "pictures are always opened late",
    "ddp_find_unused_parameters": "the trainer knows",
}

ONLY: dict[str, tuple[Any, ...]] = {
    "save_strategy": ("steps",),
    "logging_strategy": ("steps",),
    "lora_bias": ("none",),
    "lora_weight_path": ("", None),
    "generate_during_eval": (False,),
    "fp16": (False,),
    "deepspeed": (None, ""),
    "optim": ("adamw_torch", "adamw_torch_fused"),
}
"""Keys of which only these values are supported."""

DEFAULTS: dict[str, Any] = {
    "model_name_or_path": "Qwen/Qwen-VL-Chat",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3,
    "learning_rate": "5e-5",
    "lr_scheduler_type": "linear",
    "logging_steps": 500,
    "save_steps": 500,
    "model_max_length": 8192,
    "beta": 0.1,
    "use_lora": False,
    "fix_vit": True,
    "lora_r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": ["c_attn", "attn.c_proj", "w1", "w2"],
    "seed": 42,
}
"""Defaults of run_dpo.py and its transformers (4.32) that differ from a recipe's."""

KNOWN = (*TRAINING, *LORA, *TRANSLATED.split(), *NOT_NEEDED, *ONLY)

_LORA_KEYS = (*LORA, "lora_target_modules", "q_lora", "lora_bias", "lora_weight_path")


def read_config(path: Path, *, read: str = "public", images: str | None = None) -> Config:
    """A file's recipe; `read` and `images` as in [dataset], which the authors' script has fixed. RecipeError."""
    try:
        return _translate(_read_yaml(path), path.stem, {"read": read} | ({} if images is None else {"images": images}))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _translate(given: Mapping[str, Any], name: str, dataset: Mapping[str, str]) -> Config:
    for key in given:
        if key not in KNOWN:
            raise RecipeError(f"unknown key {key!r}{did_you_mean(key, sorted(KNOWN))}")
    for key, possible in ONLY.items():
        if key in given and given[key] not in possible:
            raise RecipeError(f"{key} = {given[key]!r}: only {' or '.join(map(repr, possible))} can be had here")
    values = {**DEFAULTS, **given}
    training, becomes = _translate_training(values, given)
    names = {
        "name": re.sub(r"[^\w.-]+", "-", str(values.get("run_name") or name)).strip("-._")[:80],
        "base": str(values["model_name_or_path"]),
    }
    fields = {**names, "trainer": "dpo", "seed": values["seed"], "dataset": dataset, "training": training}
    recipe = parse_as(PreferenceRecipe, fields)
    becomes |= {
        "model_name_or_path": f"base = {recipe.base!r}",
        "run_name": f"name = {recipe.name!r}",
        "seed": f"seed = {recipe.seed}",
    }
    becomes |= {key: f"not needed: {why}" for key, why in NOT_NEEDED.items()} | dict.fromkeys(ONLY, "the same here")
    defaults = (key for key in DEFAULTS if key not in given and ("lora" in training or key not in _LORA_KEYS))
    shown = {key: _show(value) for key, value in given.items()} | dict.fromkeys(defaults, "")
    lines = (ConfigLine(key=key, value=value, becomes=becomes[key]) for key, value in shown.items())
    return Config(recipe=recipe, lines=tuple(lines))


def _translate_training(values: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of [training], and for each of the authors' keys what becomes of it."""
    found: dict[str, Any] = {ours: values[key] for key, ours in TRAINING.items() if values.get(key) is not None}
    becomes = {key: f"training.{ours} = {_show(values.get(key))}" for key, ours in TRAINING.items()}
    sizes = "per_device_train_batch_size", "gradient_accumulation_steps"
    at_once, accumulated = (_read_count(key, values[key]) for key in sizes)
    found["batch_size"] = at_once * accumulated * AUTHORS_GPUS
    becomes["gradient_accumulation_steps"] = (
        f"training.batch_size = {found['batch_size']}: {at_once} x {accumulated} x {AUTHORS_GPUS} GPUs, the authors'; "
        "kept on any number of GPUs by accumulating so much more or less"
    )
    if "max_length" in found:
        found["too_long"] = "drop"
        becomes["model_max_length"] += (
            "; what it leaves no answer of is left out, where the script cuts prompt and pictures from the front"
        )
    found["precision"] = "bf16" if _read_flag("bf16", values.get("bf16", False)) else "fp32"
    becomes["bf16"] = f"training.precision = {found['precision']!r}"
    strategy = values.get("evaluation_strategy", "no")
    # YAML reads a bare `no` as false.
    if strategy not in ("steps", "no", False):
        raise RecipeError(f"evaluation_strategy = {strategy!r}: known: steps, no")
    if strategy != "steps":
        found.pop("eval_steps", None)
    elif "eval_steps" not in found:
        found["eval_steps"] = found["log_steps"]
    evaluated = "not needed: nothing is evaluated in training"
    if strategy == "steps":
        evaluated = f"training.eval_steps = {found['eval_steps']}"
    becomes |= {"evaluation_strategy": evaluated, "eval_steps": evaluated}
    names = _read_names("report_to", values.get("report_to") or ())
    found["report_to"] = [name for name in names if name not in ("none", "all")]
    becomes["report_to"] = f"training.report_to = {_show(found['report_to'])}; the log also stands in log.jsonl"
    trains_tower = not _read_flag("fix_vit", values["fix_vit"])
    if not _read_flag("use_lora", values["use_lora"]):
        if orphan := next((key for key in _LORA_KEYS if given.get(key)), None):
            raise RecipeError(f"{orphan} = {given[orphan]!r} needs use_lora: true")
        found["train_vision"] = trains_tower
        becomes["use_lora"] = "no [training.lora]: all weights are trained"
        becomes["fix_vit"] = f"training.train_vision = {_show(trains_tower)}"
        return found, becomes
    names = _read_names("lora_target_modules", values["lora_target_modules"])
    targets = rf".*\.({'|'.join(map(re.escape, names))})"
    found["lora"] = {**{ours: values[key] for key, ours in LORA.items()}, "targets": targets}
    becomes |= {key: f"training.lora.{ours} = {_show(values[key])}" for key, ours in LORA.items()}
    becomes |= {"use_lora": "[training.lora]", "lora_target_modules": f"training.lora.targets = {targets!r}"}
    becomes["lora_dropout"] += "; DPO switches it off, there as here"
    becomes["fix_vit"] = "not needed: with adapters, their targets say what is trained"
    if _read_flag("q_lora", values.get("q_lora", False)):
        found["quantization"] = "4bit"
    becomes["q_lora"] = f"training.quantization = {_show(found.get('quantization'))}"
    return found, becomes


class _Loader(yaml.SafeLoader):
    """Allows a key to be given twice if both values are the same, as bf16 in example.yaml."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key, value = self.construct_object(key_node, deep=True), self.construct_object(value_node, deep=True)
            if key in seen and seen[key] != value:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} is given as {seen[key]!r} and as {value!r}", key_node.start_mark
                )
            seen[key] = value
        return seen


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = parse_yaml(path.read_bytes(), _Loader)
    except ValueError as error:
        raise RecipeError(f"not YAML: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise RecipeError("must hold keys and values, one a line")
    return found


def _read_flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{key} = {value!r}: must be true or false")
    return value


def _read_count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"{key} = {value!r}: must be a whole number above 0")
    return value


def _read_names(key: str, value: Any) -> list[str]:
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{key} = {value!r}: must be a name, or a list of names")
    return list(names)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "nothing"
    return "nothing" if value is None else str(value)
