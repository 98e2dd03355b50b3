"""The first thing to run on a new model: one photograph, one drawn scene, and what the model was really shown.

checked = check_model(fetch(find("llava-1.5-7b")))
print(render(checked))
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.load import load
from harness.models.spec import ModelSpec
from support.markdown import line

if TYPE_CHECKING:
    from PIL.Image import Image

TOKENS = 48
"""New tokens at most."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about one image."""

    image: str
    prompt: str
    """As the model gets it, a run of one image token written once with its length."""
    prompt_tokens: int | None
    """None where a server keeps that to itself."""
    image_spans: list[tuple[int, int]]
    """First and last position of each run of image tokens."""
    answer: str
    answer_tokens: int | None
    seconds: float
    """From image to answer, the second time it was asked."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was seen of a model."""

    name: str
    model: str
    """Class and weights."""
    parameters: int | None
    dtype: str
    device: str
    load_seconds: float
    peak_megabytes: float
    """Of this process; on a GPU, of its memory."""
    shared: str
    """What questions about one image share."""
    asked: list[Asked]


def pictures() -> "dict[str, tuple[Image, str]]":
    """A photograph (scikit-learn's: a temple and a lake, CC BY, China) and a drawn scene, each with its question."""
    from importlib.resources import files

    from PIL import Image

    from tasks.scenes.world import render as draw
    from tasks.scenes.world import scenes

    with files("sklearn.datasets.images").joinpath("china.jpg").open("rb") as file:
        photograph = Image.open(file).convert("RGB")
    scene = next(iter(scenes("test")))
    return {
        "photograph": (photograph, "What is in this picture?"),
        "drawn scene": (draw(scene), "Is there a red circle in the image?"),
    }


def check_model(spec: ModelSpec, ledger: Path | None = None) -> Checked:
    """Load `spec`, ask it twice (the first time warms up), and report. ModelError, MissingWeights."""
    from lm_eval.api.instance import Instance

    started = time.monotonic()
    lm: Any = load(spec, ledger=ledger)
    loaded = time.monotonic() - started
    asked = []
    for name, (image, question) in pictures().items():
        context = lm.apply_chat_template([{"role": "user", "content": f"<image>{question}"}])
        settings = {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
        request = Instance("generate_until", {}, (context, settings, {"visual": [image]}), 0, ("check", 0, 1))
        lm.generate_until([request], disable_tqdm=True)
        forget(lm)
        started = time.monotonic()
        (answer,) = lm.generate_until([request], disable_tqdm=True)
        seconds = time.monotonic() - started
        ids: list[int] | None = lm.tokens(context, [image]) if spec.backend == "transformers" else None
        asked.append(
            Asked(
                image=f"{name}, {image.width} x {image.height}",
                prompt=context if ids is None else shortened(ids, lm),
                prompt_tokens=None if ids is None else len(ids),
                image_spans=[] if ids is None else spans(ids, image_ids(lm)),
                answer=str(answer),
                answer_tokens=None
                if ids is None
                else len(lm.tokenizer(str(answer), add_special_tokens=False)["input_ids"]),
                seconds=seconds,
            )
        )
    return Checked(name=spec.name, load_seconds=loaded, asked=asked, **_facts(spec, lm))


def forget(lm: Any) -> None:
    """Drop what a model keeps of images and answers, so that the next question is asked in earnest."""
    if hasattr(lm, "forget"):
        lm.forget()


def _facts(spec: ModelSpec, lm: Any) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if spec.backend == "openai":
        told = lm.provenance()
        return {
            "model": f"{told['served'] or told['asked']} at {told['server']}",
            "parameters": None,
            "dtype": "",
            "device": "a server",
            "peak_megabytes": peak,
            "shared": "what the server shares",
        }
    import torch

    on_gpu = lm.device.type == "cuda"
    return {
        "model": f"{type(lm.model).__name__} from {spec.pretrained}"
        + (f" with {spec.adapter}" if spec.adapter else ""),
        "parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu ({torch.get_num_threads()} threads)",
        "peak_megabytes": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak,
        "shared": str(lm.sharing),
    }


def image_ids(lm: Any) -> set[int]:
    """Ids that fill an image's positions."""
    return {token for token in (*getattr(lm.processor, "image_token_ids", ()), lm.image_token_id) if token is not None}


def spans(ids: Sequence[int], fill: set[int]) -> list[tuple[int, int]]:
    """Runs of image tokens, first and last position."""
    found, at = [], 0
    for inside, run in groupby(ids, key=lambda token: token in fill):
        length = len(list(run))
        if inside:
            found.append((at, at + length - 1))
        at += length
    return found


def shortened(ids: Sequence[int], lm: Any) -> str:
    """The prompt's text with a run of more than three of one image token written once."""
    fill, parts = image_ids(lm), []
    for token, run in groupby(ids, key=lambda token: token if token in fill else None):
        found = list(run)
        text = lm.tokenizer.decode([token] if token is not None else found, skip_special_tokens=False)
        parts.append(
            f"{text} x {len(found)}"
            if token is not None and len(found) > 3
            else text * len(found)
            if token is not None
            else text
        )
    return "".join(parts)


def render(checked: Checked) -> str:
    """For people."""
    size = "" if checked.parameters is None else f", {checked.parameters / 1e6:,.1f} M parameters, {checked.dtype}"
    text = (
        f"{line(checked.name)}: {line(checked.model)}{size}, on {checked.device}\n"
        f"loaded in {checked.load_seconds:.1f} s, peak memory {checked.peak_megabytes:,.0f} MB; "
        f"shares: {checked.shared}"
    )
    for one in checked.asked:
        tokens = "" if one.prompt_tokens is None else f"{one.prompt_tokens} tokens"
        where = ", ".join(f"{first} to {last} ({last - first + 1})" for first, last in one.image_spans)
        rate = f", {one.answer_tokens / one.seconds:.1f} tokens/s" if one.answer_tokens else ""
        text += f"\n\n{one.image}\n  prompt: {line(one.prompt)}"
        text += f"\n  {tokens}; image tokens at {where or 'no position of their own'}" if tokens else ""
        text += f"\n  answer: {line(one.answer) or '(empty)'}\n  {one.seconds:.2f} s{rate}"
    return text
