"""Which extra of this distribution brings a package that is not installed.

A light install has what boards, scores of answer files, comparisons, gates and pages need; models and judges come with
`vlm-harness[eval]`, training with `vlm-harness[train]`.
"""

import importlib.util
from typing import Final

_MODULES: Final = {
    "eval": (
        *("torch", "transformers", "peft", "accelerate", "lm_eval", "datasets", "pyarrow", "huggingface_hub", "openai"),
        *("genai_prices", "pandas", "scipy", "nltk", "pattern", "matplotlib", "safetensors", "tokenizers", "httpx"),
        *("httpx2", "sklearn", "tqdm"),
    ),
    "train": ("trl", "imagehash", "submitit"),
    "spacy": ("spacy",),
    "ray": ("ray",),
    "qlora": ("bitsandbytes",),
    "track": ("wandb", "trackio", "tensorboard", "mlflow"),
    "deepspeed": ("deepspeed",),
}
"""Extra -> the modules it brings, by the names they are imported by; tests hold it to pyproject.toml."""


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported."""
    return importlib.util.find_spec(module) is not None


def extra_of(module: str | None) -> str | None:
    """The extra that brings a module of any depth; None where no extra does."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in _MODULES.items() if top in modules), None)


def describe_missing(error: ModuleNotFoundError, *, training: bool = False) -> str | None:
    """What a light install lacks, and the command that brings it; None for a module that no extra has.

    `training`: the extra for training, which brings the one for models, too.
    """
    extra = extra_of(error.name)
    if extra is None:
        return None
    install = f"pip install 'vlm-harness[{'train' if training else extra}]'"
    return f"this needs {error.name}, which is not installed: {install}"
