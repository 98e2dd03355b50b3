"""`harness models check`: asks a new model about a photograph and a drawn scene, and shows what it was given.

print(render(check_model(fetch(find("llava-1.5-7b")))))
"""

import os
import resource
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.evaluation.protocol import OFFICIAL, as_asked, conversation_of
from harness.models.load import load
from harness.models.spec import ModelSpec
from support.images import decode
from support.markdown import line

if TYPE_CHECKING:
    from PIL.Image import Image

TOKENS = 48
"""New tokens at most."""
MOST_OF_MEMORY = 0.9
"""A model that takes a greater share has little room for prompts longer than those asked."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about one image."""

    image: str
    prompt: str
    """As the model gets it; repeated image tokens are written once with their number."""
    prompt_tokens: int | None
    """None for a served model."""
    image_spans: list[tuple[int, int]]
    """First and last position of each run of image tokens."""
    answer: str
    answer_tokens: int | None
    seconds: float
    """Of the second of two equal requests; the first warms up."""


@dataclass(frozen=True, kw_only=True)
class ModelCheck:
    """What was measured of a model."""

    name: str
    model: str
    """Class and weights."""
    parameters: int | None
    dtype: str
    device: str
    load_seconds: float
    loaded_megabytes: float
    """Memory taken once it was loaded: of the GPU, or without one of this process."""
    peak_megabytes: float
    """The most of it taken until the end."""
    total_megabytes: float
    """What it can have of the GPU, beside what others take; without a GPU, what this machine has."""
    shared: str
    """What questions about one image share, in words."""
    asked: list[Asked]


def _make_questions() -> "dict[str, tuple[Image, str]]":
    """A photograph (scikit-learn's: a temple and a lake, CC BY, China) and a drawn scene, each with its question."""
    from importlib.resources import files

    from tasks.scenes.world import render as draw
    from tasks.scenes.world import scenes

    photograph = decode(files("sklearn.datasets.images").joinpath("china.jpg").read_bytes()).convert("RGB")
    scene = next(iter(scenes("test")))
    return {
        "photograph": (photograph, "What is in this picture?"),
        "drawn scene": (draw(scene), "Is there a red circle in the image?"),
    }


def check_model(spec: ModelSpec, ledger: Path | None = None) -> ModelCheck:
    """Load `spec`, ask each question twice, as its authors do, and measure the second time. ModelError,
    MissingWeights."""
    from lm_eval.api.instance import Instance

    started = time.monotonic()
    system = conversation_of(OFFICIAL, spec).system
    lm: Any = load(as_asked(replace(spec, fresh=True), OFFICIAL), ledger=ledger)
    loaded, taken = time.monotonic() - started, _measure_memory(lm)
    asked = []
    for name, (image, question) in _make_questions().items():
        before = [{"role": "system", "content": system}] if system else []
        context = lm.apply_chat_template([*before, {"role": "user", "content": f"<image>{question}"}])
        settings = {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
        request = Instance("generate_until", {}, (context, settings, {"visual": [image]}), 0, ("check", 0, 1))
        lm.generate_until([request], disable_tqdm=True)
        is_local = spec.backend == "transformers"
        if is_local:
            lm.forget()  # else the second answer comes from the caches
        started = time.monotonic()
        (answer,) = lm.generate_until([request], disable_tqdm=True)
        seconds = time.monotonic() - started
        ids: list[int] = lm.tokens(context, [image]) if is_local else []
        answer_ids = lm.tokenizer(str(answer), add_special_tokens=False)["input_ids"] if is_local else []
        asked.append(
            Asked(
                image=f"{name}, {image.width} x {image.height}",
                prompt=_shorten_prompt(ids, lm) if is_local else context,
                prompt_tokens=len(ids) if is_local else None,
                image_spans=_find_image_spans(ids, lm.layout.image_ids) if is_local else [],
                answer=str(answer),
                answer_tokens=len(answer_ids) if is_local else None,
                seconds=seconds,
            )
        )
    return ModelCheck(name=spec.name, load_seconds=loaded, asked=asked, loaded_megabytes=taken, **_describe(spec, lm))


def _measure_memory(lm: Any) -> float:
    """MB that are taken now: of the GPU that a model is on, else by this process."""
    import torch

    device = getattr(lm, "device", None)
    if device is not None and device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _measure_gpu(device: Any) -> float:
    """MB of a GPU that this process has, or could have."""
    import torch

    return (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) / 2**20


def describe_fit(checked: ModelCheck) -> str:
    """Whether a model fits the memory that was measured, in words."""
    taken, peak, total = (
        size / 1024 for size in (checked.loaded_megabytes, checked.peak_megabytes, checked.total_megabytes)
    )
    room = total - peak
    how = "fits" if peak <= MOST_OF_MEMORY * total else "fits barely (--batch-size auto)"
    return (
        f"{how}: {taken:.2f} GiB of memory after loading, {peak:.2f} GiB at most while answering one question at a "
        f"time, of {total:.1f} GiB; {room:.1f} GiB are left for more at once"
    )


def _describe(spec: ModelSpec, lm: Any) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    if spec.backend == "openai":
        told = lm.provenance()
        return {
            "model": f"{told['served'] or told['asked']} at {told['server']}",
            "parameters": None,
            "dtype": "",
            "device": "a server",
            "peak_megabytes": peak,
            "total_megabytes": total,
            "shared": "what the server shares",
        }
    import torch

    adapter = f" with {spec.adapter}" if spec.adapter else ""
    on_gpu = lm.device.type == "cuda"
    return {
        "model": f"{type(lm.model).__name__} from {spec.pretrained}{adapter}",
        "parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(lm.device) if on_gpu else f"cpu ({torch.get_num_threads()} threads)",
        "peak_megabytes": torch.cuda.max_memory_allocated(lm.device) / 2**20 if on_gpu else peak,
        "total_megabytes": _measure_gpu(lm.device) if on_gpu else total,
        "shared": str(lm.sharing),
    }


def _find_image_spans(ids: Sequence[int], image_ids: Collection[int]) -> list[tuple[int, int]]:
    """First and last position of each run of image tokens."""
    found, at = [], 0
    for inside, run in groupby(ids, key=lambda token: token in image_ids):
        length = len(list(run))
        if inside:
            found.append((at, at + length - 1))
        at += length
    return found


def _shorten_prompt(ids: Sequence[int], lm: Any) -> str:
    """The prompt's text; more than three equal image tokens in a row are written once with their number."""
    parts = []
    for token, run in groupby(ids, key=lambda token: token if token in lm.layout.image_ids else None):
        found = list(run)
        if token is None:
            parts.append(lm.tokenizer.decode(found, skip_special_tokens=False))
        else:
            text = lm.tokenizer.decode([token], skip_special_tokens=False)
            parts.append(f"{text} x {len(found)}" if len(found) > 3 else text * len(found))
    return "".join(parts)


def render(checked: ModelCheck) -> str:
    """What `harness models check` prints."""
    size = "" if checked.parameters is None else f", {checked.parameters / 1e6:,.1f} M parameters, {checked.dtype}"
    text = (
        f"{line(checked.name)}: {line(checked.model)}{size}, on {checked.device}\n"
        f"loaded in {checked.load_seconds:.1f} s; shares: {checked.shared}"
    )
    text += "" if checked.parameters is None else f"\n{describe_fit(checked)}"
    for one in checked.asked:
        tokens = "" if one.prompt_tokens is None else f"{one.prompt_tokens} tokens"
        where = ", ".join(f"{first} to {last} ({last - first + 1})" for first, last in one.image_spans)
        rate = f", {one.answer_tokens / one.seconds:.1f} tokens/s" if one.answer_tokens else ""
        text += f"\n\n{one.image}\n  prompt: {line(one.prompt)}"
        text += f"\n  {tokens}; image tokens at {where or 'no position of their own'}" if tokens else ""
        text += f"\n  answer: {line(one.answer) or '(empty)'}\n  {one.seconds:.2f} s{rate}"
    return text
