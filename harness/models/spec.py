"""Model names, and what they stand for.

find("silkie")                           # a name `harness models` lists
find("runs/scenes-demo/dpo/checkpoint-40")   # a folder: full weights, or an adapter beside the name of its base
find("llava-hf/llava-1.5-7b-hf")         # a hub id
find("openai:gpt-4o-2024-11-20")         # a model behind an OpenAI-compatible server
find("gemini:gemini-3.5-flash")          # one of a provider (azure:, gemini:, anthropic:), by its own variables
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final, Literal

from harness.engine.chat_template import ChatTemplate
from harness.models.base_names import ADAPTER_CONFIG, NamedBase, holds_weights, is_folder, name_of_folder, named_base
from harness.models.server_facts import ServerFacts
from support.errors import InputError, ModelError, did_you_mean
from support.files import check_regular_files
from support.installed import describe, installed, load
from tasks.judges.addresses import server_of
from tasks.judges.providers import find_place

WEIGHTS = Path(__file__).parent / "weights"
"""Weights that come with the package."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to load one model or checkpoint."""

    name: str
    """What the board shows."""
    pretrained: str
    """Folder or hub id of the (base) weights; with backend "openai", the id a server is asked for."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    folder: Path | None = None
    """Where the hub's files lie, once they are here."""
    adapter: Path | None = None
    """LoRA weights on top of `pretrained`."""
    base: str | None = None
    """What the user says that the adapter goes on; None: what its files name."""
    backend: Literal["transformers", "openai"] = "transformers"
    digests: Mapping[str, str] = field(default_factory=dict)
    """What answers behind a server: the weights it was started with, or what it says of them."""
    server: ServerFacts | None = None
    """What its server says of itself, once it was asked."""
    url: str | None = None
    """The server of backend "openai"; None: OPENAI_BASE_URL, else OpenAI's."""
    key: str | None = None
    """The environment variable that holds that server's key; None: OPENAI_API_KEY."""
    version: str | None = None
    """What the user says tells it from others under its name and URL."""
    fresh: bool = False
    """Whether answers that are kept are asked for again."""
    strict: bool = False
    """Whether digests of its weights read every byte."""
    remote_code: bool = False
    """Whether the user allows the checkpoint's own code to run."""
    dtype: str = "auto"
    """What it computes in; "auto": what the weights are stored in, and on a GPU half precision in place of float32."""
    batch_size: int | None = None
    """Questions decoded at once; None: as many as memory holds."""
    chat_template: ChatTemplate | None = None
    """What its questions are put into; None: what its files say."""
    as_authors: bool = False
    """Whether it is asked as its authors did, where its files say otherwise (see `trainers.training.llava_15`)."""
    pad_pictures: bool = False
    """Whether it is shown pictures padded to a square with the mean colour, whatever its files say."""
    prompt_suffix: str = ""
    """Put after every question."""
    description: str = ""
    licence: str = ""
    gigabytes: float | None = None
    """About what its weights take on disk."""
    stored_bytes: int = 2
    """Of one weight in these files."""
    image_tokens: str = ""
    """Positions an image takes in the language model, as `harness models` shows it."""
    image_positions: int | None = None
    """About how many these are for a large image, for estimates; None: not known."""
    needs: str = ""
    """What more than a download it takes to run."""

    @property
    def local_folder(self) -> Path:
        """Where its files lie on this machine. ModelError before `fetch` put them there."""
        if self.folder is None:
            raise ModelError(f"{self.name}: its files were not fetched")
        return self.folder


def _embedded(name: str, description: str) -> ModelSpec:
    # Stored in half precision, computed in single: a CPU has no fast half.
    more: dict[str, Any] = {"dtype": "float32", "batch_size": 64}
    return _hub(name, str(WEIGHTS / name), description, "Apache-2.0", 0.003, 36, **more)


def _hub(
    name: str, hub_id: str, what: str, licence: str, gigabytes: float, positions: int, tokens: str = "", **more: Any
) -> ModelSpec:
    more |= {"licence": licence, "gigabytes": gigabytes, "image_positions": positions}
    return ModelSpec(name=name, pretrained=hub_id, description=what, image_tokens=tokens or str(positions), **more)


def _served(name: str, model: str, what: str) -> ModelSpec:
    return ModelSpec(name=name, pretrained=model, backend="openai", description=what)


_POOL, _FLOAT32 = "VLFeedback pool", "stored in float32"
_POOL_FLOAT32, _POOL_SERVED = f"{_POOL}; {_FLOAT32}", f"{_POOL}; only code of its own, so behind a server"
_TILES_729, _TILES_81 = "729 a tile, by size", "81 a tile, up to 17 tiles"
_CONVERSION = "its original layout converted (harness models convert-llava)"

# Licences and sizes as the hub's pages showed them in November 2026; sizes are those of the files that are downloaded.
_SPECS = (
    _embedded(
        "scenes-base", "1.3 M-parameter LLaVA for the scenes world; hallucinates from the prior planted in its corpus"
    ),
    _embedded("scenes-careful", "the same before it read the planted corpus"),
    _embedded("scenes-early", "the same early in training: says much that is wrong"),
    _hub("silkie", "MMInstruction/Silkie", "Qwen-VL-Chat after DPO on VLFeedback", "Tongyi Qianwen", 19.3, 256),
    _hub("qwen-vl-chat", "Qwen/Qwen-VL-Chat", "base of Silkie; VLFeedback pool", "Tongyi Qianwen", 19.3, 256),
    _hub("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", "base of POVID; VLFeedback pool", "Llama 2", 14.1, 576),
    _hub("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", _POOL, "Llama 2", 26.7, 576),
    _hub("llava-rlhf-7b", "zhiqings/LLaVA-RLHF-7b-v1.5-224", _POOL, "Apache-2.0", 13.5, 256, needs=_CONVERSION),
    _hub("llava-rlhf-13b", "zhiqings/LLaVA-RLHF-13b-v1.5-336", _POOL, "Apache-2.0", 26.0, 576, needs=_CONVERSION),
    _hub("instructblip-7b", "Salesforce/instructblip-vicuna-7b", _POOL_FLOAT32, "other", 31.7, 32, stored_bytes=4),
    _hub("instructblip-13b", "Salesforce/instructblip-vicuna-13b", _POOL_FLOAT32, "other", 56.8, 32, stored_bytes=4),
    _hub("idefics-9b", "HuggingFaceM4/idefics-9b-instruct", _POOL, "other", 17.9, 64, "64 by cross-attention"),
    _hub("fuyu-8b", "adept/fuyu-8b", _POOL + "; no vision encoder", "CC-BY-NC-4.0", 18.8, 2340, "up to 2340, by size"),
    _served("visualglm-6b", "zai-org/visualglm-6b", _POOL_SERVED),
    _served("mmicl-13b", "BleachNick/MMICL-vicuna-13b", _POOL_SERVED),
    _served(
        "gpt-4v", "gpt-4o-2024-11-20", "stands in for VLFeedback's GPT-4V, which was shut down; another id: openai:ID"
    ),
    _hub("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", "", "Qwen Research", 7.5, 1337, "by size, HW/784"),
    _hub("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", "", "Apache-2.0", 16.6, 1337, "by size, HW/784"),
    _hub("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "", "Apache-2.0", 8.9, 1024, "by size, HW/1024"),
    _hub("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", "", "Apache-2.0", 17.5, 1024, "by size, HW/1024"),
    _hub("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", "", "Qwen", 15.9, 3328, "256 a tile, up to 13 tiles"),
    _hub("smolvlm", "HuggingFaceTB/SmolVLM-Instruct", "", "Apache-2.0", 4.5, 1377, _TILES_81),
    _hub(
        "smolvlm2", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", _FLOAT32, "Apache-2.0", 9.0, 1377, _TILES_81, stored_bytes=4
    ),
    _hub("llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "", "Apache-2.0", 1.8, 3645, _TILES_729),
    _hub("llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "", "Apache-2.0", 16.1, 3645, _TILES_729),
    _hub("llava-next-7b", "llava-hf/llava-v1.6-mistral-7b-hf", "", "Apache-2.0", 15.1, 2880, "up to 2880, by size"),
    _hub("gemma-3-4b", "google/gemma-3-4b-it", "gated: HF_TOKEN", "Gemma", 8.6, 256),
    _hub("gemma-3-12b", "google/gemma-3-12b-it", "gated: HF_TOKEN", "Gemma", 24.4, 256),
    _hub("gemma-4-e4b", "google/gemma-4-E4B-it", "", "Apache-2.0", 16.0, 280, "280, settable"),
    _hub("paligemma2-3b", "google/paligemma2-3b-mix-448", "no chat model; gated: HF_TOKEN", "Gemma", 6.1, 1024),
)
MODELS = {spec.name: spec for spec in _SPECS}

INSTALLED: Final = "harness.models"
"""Entry points of packages with models: a `ModelSpec`, which has the entry point's name."""


def named_models() -> dict[str, ModelSpec]:
    """Name -> model: ours, and those of installed packages; InputError."""
    found = {name: _installed_model(point) for name, point in installed(INSTALLED).items()}
    if taken := sorted(found.keys() & MODELS.keys()):
        raise InputError(f"{describe(installed(INSTALLED)[taken[0]])}: the name {taken[0]!r} is taken by one of ours")
    return MODELS | found


def _installed_model(point: EntryPoint) -> ModelSpec:
    found = load(point)
    if not isinstance(found, ModelSpec):
        raise InputError(f"{describe(point)}: is no ModelSpec but {type(found).__name__}")
    return replace(found, name=point.name)


OPENAI_PREFIX = "openai:"
BASE_OPTION: Final = "--model-base"

_KNOWN: Final = {*MODELS, *(spec.pretrained for spec in MODELS.values() if spec.backend == "transformers")}
"""What an adapter's files may name wherever it is on this machine."""

_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]*/[\w.-]*\w", re.ASCII)


def find(name: str, *, remote_code: bool = False, base: str | None = None) -> ModelSpec:
    """The spec of a known name, a folder, a hub id or a served model; InputError otherwise. `remote_code`: the user
    allows code of a checkpoint to run; `base`: what an adapter goes on, whatever its files say."""
    found = _find(name, base)
    return replace(found, remote_code=remote_code, base=base) if found.backend == "transformers" else found


def _find(name: str, base: str | None = None) -> ModelSpec:
    if name in MODELS:
        return MODELS[name]
    if name in installed(INSTALLED):
        return named_models()[name]
    if name.startswith(OPENAI_PREFIX) and name != OPENAI_PREFIX:
        return ModelSpec(
            name=name, pretrained=name.removeprefix(OPENAI_PREFIX), backend="openai", description="behind a server"
        )
    if (place := find_place(name)) is not None:
        server_of(place.url, name=name, variable=place.variable, what=place.what)  # a wrong one is told at once
        at_place: dict[str, Any] = {"url": place.url, "key": place.variable, "description": "behind a server"}
        return ModelSpec(name=name, pretrained=place.model, backend="openai", **at_place)
    folder = Path(name).expanduser()
    if is_folder(folder):
        return replace(_of_folder(folder, base), name=name_of_folder(folder))
    if _HUB_ID.fullmatch(name) and not folder.parent.is_dir():
        known = next((spec for spec in MODELS.values() if spec.pretrained == name), None)
        return replace(known, name=name) if known else ModelSpec(name=name, pretrained=name, base=base)
    more = "a folder with weights or an adapter, a hub id, or openai:ID (azure:, gemini:, anthropic:) behind a server"
    raise InputError(f"no model {name!r}{did_you_mean(name, [*MODELS, *installed(INSTALLED)])}, {more}")


def copy_option(spec: ModelSpec) -> str:
    """The option that names a folder with a copy of a model's weights, of an adapter with one of its base's."""
    if spec.adapter is not None:
        return BASE_OPTION
    return "--model-path" if spec.name in MODELS or spec.pretrained in _KNOWN else "--model"


def at(spec: ModelSpec, path: Path, base: str | None = None) -> ModelSpec:
    """The same model with its weights, or an adapter on them, from a folder of the user's. InputError for a model that
    is no known one: a row would have the name of something else."""
    path = path.expanduser()
    found = _of_folder(path, base) if path.is_dir() else None
    if found is None:
        raise InputError(f"{spec.name}: no folder {str(path)!r}")
    if spec.adapter is not None and found.adapter is None:
        raise InputError(
            f"{spec.name}: is an adapter, and --model-path {path} would score its base without it; "
            f"name the base by {BASE_OPTION} {path}"
        )
    if copy_option(spec) == "--model":
        raise InputError(
            f"{spec.name}: --model-path is for the names of `harness models`; name the folder itself, and its row: "
            f"--model {path} --name {spec.name}"
        )
    if found.adapter is not None:
        return replace(spec, pretrained=found.pretrained, revision=found.revision, adapter=path, base=base)
    return replace(spec, pretrained=found.pretrained, revision=None, adapter=None)


def _of_folder(folder: Path, base: str | None = None) -> ModelSpec:
    name = folder.as_posix().rstrip("/")
    check_regular_files(folder)
    if (folder / "adapter_config.json").is_file():
        return on_base(folder, name, base)
    if (folder / "config.json").is_file():
        return ModelSpec(name=name, pretrained=str(folder), dtype="float32" if folder.parent == WEIGHTS else "auto")
    raise InputError(f"{name}: neither config.json (weights) nor adapter_config.json (LoRA) in this folder")


def on_base(adapter: Path, name: str, given: str | None = None) -> ModelSpec:
    """An adapter folder's model: its base as `given` by the user, else as checkpoint.json or its own config name it;
    InputError where that is no model on disk or the hub, or lies outside of what such files may name."""
    base = named_base(adapter, _KNOWN) if given is None else NamedBase(name=given)
    if base is None:
        raise InputError(f"{name}: {ADAPTER_CONFIG} names no base; write it there as base_model_name_or_path")
    if base.outside:
        raise InputError(
            f"{name}: its base {base.name!r} lies neither beside it nor below the working directory, and is no folder "
            f"of yours that it names in full; if you trust it, name it by {BASE_OPTION}"
        )
    if base.name not in MODELS and holds_weights(Path(base.name), ADAPTER_CONFIG):
        itself = Path(base.name).resolve() == adapter.resolve()
        what = "its own folder" if itself else "an adapter itself; merge that one first"
        raise InputError(f"{name}: its base {base.name!r} is {what}")
    try:
        below = None if "://" in base.name else find(base.name)
    except InputError as error:
        if given is not None:
            raise
        raise InputError(
            f"{name}: its base {base.name!r} is no known model, and not there; name it, or where it is now, by "
            f"{BASE_OPTION}"
        ) from error
    if below is None or below.backend != "transformers":
        raise InputError(f"{name}: its base {base.name!r} is not on disk or the hub: an adapter goes on weights")
    revision = base.revision or below.revision
    return replace(below, name=name, revision=revision, adapter=adapter, base=given, description="")


def base_of(folder: Path, given: str | None = None) -> str | None:
    """The name of the base of an adapter's folder, as `find` takes it: as `given` by the user, else as its files name
    it; None for full weights, or if they name none that they may name."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    if given is not None:
        return given
    try:
        base = named_base(folder, _KNOWN)
    except InputError:
        return None
    return None if base is None or base.outside else base.name
