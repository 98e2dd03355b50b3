"""From a ModelSpec to an lm-eval LM."""

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.chat_template import PADDED, PICTURES, check_switch
from harness.engine.config import EngineConfig
from harness.engine.response_cache import ResponseCache
from harness.models.chat_templates import chat_template_of, pads_pictures
from harness.models.configuration import identity_of, only_files_of_earlier_digests
from harness.models.fetch import SMALL, fetch
from harness.models.file_digests import digest_of_files
from harness.models.light_imports import light_imports
from harness.models.place import check_place
from harness.models.provenance import device_name, digest_of_model, environment
from harness.models.spec import ModelSpec
from harness.models.stored_dtype import default_dtype, stored_dtype
from support.errors import ModelError
from support.processes import device_of
from support.progress import doing

log = logging.getLogger(__name__)

LIBRARY_NOISE = ("lm_eval", "transformers", "httpx", "httpx2", "datasets")

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from harness.engine.jobs import TaskHints
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


def cache_of(spec: ModelSpec, engine: EngineConfig) -> "ModelCache | None":
    """Where answers of this very model are kept, in the file that the setting `answers` names."""
    if engine.answers is None or spec.fresh:
        return None
    earlier = facts_of(spec, engine) if only_files_of_earlier_digests(spec) else None
    return ResponseCache(engine.answers).of(identity_when_asked(spec, engine), earlier)


def identity_when_asked(spec: ModelSpec, engine: EngineConfig) -> dict[str, str]:
    """All of a model, its settings and this machine that can change an answer."""
    return identity_of(spec) | _facts_of_asking(spec, engine)


def facts_of(spec: ModelSpec, engine: EngineConfig) -> dict[str, str]:
    """The same as earlier versions told it: by all small files beside the weights, whether they decide anything or not.
    What they kept is found by it."""
    folders = [spec.local_folder, *([spec.adapter] if spec.adapter is not None else [])]
    small = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in SMALL)
    files = {"files": digest_of_files([path for path in small if path.name != "checkpoint.json"])}
    return digest_of_model(spec) | files | _facts_of_asking(spec, engine)


def _facts_of_asking(spec: ModelSpec, engine: EngineConfig) -> dict[str, str]:
    facts = {name: environment()[name] for name in ("torch", "transformers", "pillow", "device")}
    if str(engine.device).startswith("cpu"):  # on a machine that has a GPU
        facts["device"] = device_name("cpu")
    return facts | for_model(engine, spec).cache_facts() | _facts_of_pictures(spec, engine)


def _facts_of_pictures(spec: ModelSpec, engine: EngineConfig) -> dict[str, str]:
    try:
        padded = pads_pictures(spec, chat_template_of(spec, engine))
    except ModelError:  # it is refused when it is asked
        return {}
    return {PICTURES: PADDED} if padded else {}


def for_model(engine: EngineConfig, spec: ModelSpec) -> EngineConfig:
    """The settings, with the model's own where nothing was given."""
    suffix = spec.prompt_suffix if engine.suffix is None else engine.suffix
    batch_size = engine.batch_size or spec.batch_size
    dtype = engine.dtype or (default_dtype(spec, engine.device) if spec.backend == "transformers" else spec.dtype)
    return replace(engine, dtype=dtype, suffix=suffix, batch_size=batch_size)


def _filling(adapter: Path | None) -> AbstractContextManager[None]:
    """Inside, an adapter that leaves a place without a weight is a ModelError."""
    if adapter is None:
        return nullcontext()  # peft takes half a second to import
    from trainers.training.adapters import filling_every_place

    return filling_every_place(adapter)


def load(
    spec: ModelSpec, engine: EngineConfig | None = None, *, hints: "TaskHints | None" = None, ledger: Path | None = None
) -> "LM":
    """The model of `spec`, ready to generate. Safetensors only; no code from the checkpoint is run unless the spec
    allows it.

    `hints` says what tasks let the engine leave out; `ledger` keeps what a served model said. MissingWeights,
    ModelError; SettingError for a setting that would not act.
    """
    quiet()
    engine = engine or EngineConfig()
    stage = f"answers of {spec.name}"
    if spec.backend == "openai":
        from harness.models.chat_model import OpenAIVisionLM
        from harness.models.chat_settings import OTHER_NAMES, served_settings

        own = {"suffix": spec.prompt_suffix} if spec.prompt_suffix else {}
        settings = served_settings(spec.name, own | engine.given())
        names = [OTHER_NAMES.get(name, name) for name in engine.given()]
        more: dict[str, Any] = {"hints": hints, "given": names}
        served = OpenAIVisionLM.of(spec, ledger=ledger, settings=settings, stage=stage, **more)
        served.pads = spec.pad_pictures
        return served
    check_place(engine)
    import torch

    with light_imports(compiled=engine.compile):
        from harness.engine.lm import SharedImageLM
        from trainers.training.foreign_code import tell_unused_code
        from trainers.training.read_base import reading

        register()
    spec = fetch(spec)
    engine, template = for_model(engine, spec), chat_template_of(spec, engine)
    check_switch(template, engine.thinking, spec.name)
    if engine.device is None:
        engine = replace(engine, device=device_of("cuda" if torch.cuda.is_available() else "cpu"))
    if engine.dtype != spec.dtype and (stored := stored_dtype(spec)) == "float32":
        log.info("%s: stored in %s, computed in %s; dtype=float32 computes as stored", spec.name, stored, engine.dtype)
    identity = json.dumps(identity_when_asked(spec, engine), sort_keys=True) if engine.features is not None else None
    given: dict[str, Any] = {"hints": hints, "cache": cache_of(spec, engine), "identity": identity, "stage": stage}
    given |= {"template": template, "pad": pads_pictures(spec, template)}
    given |= {"peft": str(spec.adapter) if spec.adapter else None, "trust_remote_code": spec.remote_code}
    with (
        doing(f"loading the weights of {spec.name}"),
        reading(spec.name, str(spec.local_folder), remote_code=spec.remote_code),
        _filling(spec.adapter),
    ):
        lm = SharedImageLM(str(spec.local_folder), engine, use_safetensors=True, **given)
    tell_unused_code(spec.local_folder, spec.name, spec.remote_code)
    return lm
