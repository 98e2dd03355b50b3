"""From a ModelSpec to an lm-eval LM."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.response_cache import ResponseCache
from harness.models.fetch import fetch
from harness.models.provenance import digest_of_files, digest_of_model, environment
from harness.models.spec import ModelSpec
from support.errors import ModelError
from support.processes import device_of, rank

NO_DIFFERENCE = ("answers", "hints", "features", "identity", "batch_size", "workers", "kept_bytes", "device")
"""Settings that make no other answer (the device's kind is told apart by the environment)."""

LIBRARY_NOISE = ("lm_eval", "transformers", "httpx", "httpx2", "datasets")

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from harness.engine.response_cache import ModelCache


def register() -> None:
    """Make transformers know what it lacks: our architectures, and processors where torchvision isn't installed."""
    import harness.models.qwen_vl  # noqa: F401
    from harness.models.torchvision_shim import allow_missing_torchvision

    allow_missing_torchvision()


def quiet() -> None:
    """Libraries say only what went wrong."""
    for library in LIBRARY_NOISE:
        logging.getLogger(library).setLevel(logging.ERROR)


def cache_of(spec: ModelSpec, engine: Mapping[str, Any]) -> "ModelCache | None":
    """Where answers of this very model are kept, in the file that the setting `answers` names."""
    path = engine.get("answers")
    return None if path is None else ResponseCache(path).of(facts_of(spec, engine))


def facts_of(spec: ModelSpec, engine: Mapping[str, Any]) -> dict[str, str]:
    """All of a model, its files, its settings and this machine that can change an answer."""
    assert spec.folder is not None
    folders = [spec.folder, *([spec.adapter] if spec.adapter is not None else [])]
    small = sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path.suffix in (".json", ".jinja", ".txt", ".tiktoken", ".model")
    )
    facts = digest_of_model(spec) | {
        "files": digest_of_files([path for path in small if path.name != "checkpoint.json"])
    }
    versions = {
        name: value for name, value in environment().items() if name in ("torch", "transformers", "pillow", "device")
    }
    own = {name: str(value) for name, value in engine.items() if value and name not in NO_DIFFERENCE}
    return {**facts, **versions, **own} | ({"generation": str(dict(spec.generation))} if spec.generation else {})


def load(
    spec: ModelSpec,
    progress: Callable[[int, int], None] | None = None,
    ledger: Path | None = None,
    engine: Mapping[str, Any] | None = None,
) -> "LM":
    """The model of `spec`, ready to generate. Safetensors only; no code from the checkpoint is run unless the spec
    allows it.

    `progress` hears (answered, asked); `ledger` keeps what a served model said; `engine` holds settings of
    SharedImageLM, `answers` a path. MissingWeights, ModelError.
    """
    quiet()
    if spec.backend == "openai":
        from harness.models.chat_model import OpenAIVisionLM

        identity = json.dumps(spec.digests, sort_keys=True) if spec.digests else None
        return OpenAIVisionLM(spec.pretrained, url=spec.url, identity=identity, ledger=ledger, progress=progress)
    import torch
    from safetensors import SafetensorError

    from harness.engine.lm import SharedImageLM

    register()
    spec = fetch(spec)
    assert spec.folder is not None
    settings: dict[str, Any] = {
        "dtype": spec.dtype,
        "device": device_of("cuda" if torch.cuda.is_available() else "cpu"),
        "batch_size": spec.batch_size,
        "suffix": spec.prompt_suffix,
        **(engine or {}),
    }
    settings["answers"] = cache_of(spec, settings)
    if settings.get("features") is not None:
        settings["identity"] = json.dumps(facts_of(spec, settings), sort_keys=True)
    try:
        lm = SharedImageLM(
            pretrained=str(spec.folder),
            peft=str(spec.adapter) if spec.adapter else None,
            use_safetensors=True,
            trust_remote_code=spec.remote_code,
            progress=progress if rank() == 0 else None,
            **settings,
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{spec.name}: can't be loaded: {' '.join(str(error).split())}") from error
    lm.hf.generation_config.update(**spec.generation)
    return lm
