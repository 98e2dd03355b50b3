"""What sharing saves: our engine, lm-eval's own `hf-multimodal`, and the bare forward passes that no engine does
without.

60 yes/no questions about 10 images, on random weights of real shapes scaled down so that vision and reading the prompt
dominate (336 pixels in patches of 14: 576 image tokens). CPU seconds on one thread, the best of a few repetitions that
take turns.
"""

import contextlib
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

NEW_TOKENS = 16
BATCHES = (1, 6, 12)
"""Of hf-multimodal."""
SIZES = (1, 2, 5, 10)
"""Images of a bare pass."""
TURNS = 2
TARGETS = {"vs_batch1": (8.0, "at least"), "vs_best": (4.0, "at least"), "vs_floor": (1.3, "at most")}

THINGS = (
    "dog",
    "red circle",
    "man riding a horse",
    "blue car on the left of the table",
    "green ball",
    "picture of two people",
)
QUESTIONS = tuple(f"Is there a {thing} in the image? Please answer yes or no." for thing in THINGS)


def image(index: int) -> Image.Image:
    """480 x 360, colours and noise of its own."""
    random = np.random.default_rng(index)
    colours = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(
        (480, 360), Image.Resampling.BICUBIC
    )
    return Image.fromarray((np.asarray(colours) * 0.8 + random.integers(0, 51, (360, 480, 3))).astype(np.uint8))


# Models


def llava(folder: Path, tiny: Path) -> None:
    """CLIP's and Llama's shapes, scaled down: 6 layers of 192 over 336 pixels, 4 layers of 384."""
    config = _config("llava", tiny)
    config.image_seq_length = 576
    _set(config.vision_config, hidden_size=192, num_hidden_layers=6, num_attention_heads=4, intermediate_size=768)
    _set(config.vision_config, image_size=336, patch_size=14)
    _set(
        config.text_config,
        hidden_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=64,
    )
    _set(config.text_config, intermediate_size=1024)
    images = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    _write(config, folder, tiny, {"preprocessor_config.json": images, "processor_config.json": {"patch_size": 14}})


def qwen2vl(folder: Path, tiny: Path) -> None:
    """Qwen2-VL's shapes, scaled down: 6 layers of 192 over 480 x 360 pixels, 4 layers of 384."""
    config = _config("qwen2_vl", tiny)
    _set(config.vision_config, embed_dim=192, hidden_size=384, depth=6, num_heads=4, mlp_ratio=4, patch_size=14)
    _set(config.text_config, hidden_size=384, num_attention_heads=6, num_key_value_heads=3, head_dim=64)
    _set(config.text_config, num_hidden_layers=4, layer_types=["full_attention"] * 4, intermediate_size=1024)
    config.text_config.rope_parameters["mrope_section"] = [12, 10, 10]
    images = {"patch_size": 14, "min_pixels": 56 * 56, "max_pixels": 672 * 672}
    _write(config, folder, tiny, {"preprocessor_config.json": images})


def _config(family: str, tiny: Path) -> Any:
    from transformers import AutoConfig

    from tests.harness.zoo import FAMILIES

    FAMILIES[family](tiny)
    return AutoConfig.from_pretrained(tiny)


def _set(config: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(config, name, value)


def _write(config: Any, folder: Path, tiny: Path, changes: dict[str, dict[str, Any]]) -> None:
    """The tiny checkpoint's files with these settings changed, and wide random weights that answer in yeses and
    noes."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with torch.no_grad():
        for parameter in model.parameters():  # wide enough that images and questions show in answers
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
        words = model.get_output_embeddings().weight
        for pair in (("Yes", "No"), ("yes", "no")):
            one, other = (tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][-1] for word in pair)
            words[one] *= 10
            words[other] = -words[one]  # one of the two is likely whatever was read
    model.generation_config = GenerationConfig.from_pretrained(tiny)
    folder.mkdir()
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(folder)
    for name, settings in changes.items():
        kept = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(kept | settings), encoding="utf-8")


# The three sides

ONE: dict[str, Any] = {"use_cache": True, "logits_to_keep": 1}


def requests(lm: Any, images: int = 10) -> list[Any]:
    """All questions about so many images, each image an object of its own run."""
    from lm_eval.api.instance import Instance

    settings = {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    prompts = [lm.apply_chat_template([{"role": "user", "content": f"<image>{question}"}]) for question in QUESTIONS]
    return [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(prompt, dict(settings), {"visual": [shown]}),
            idx=0,
            metadata=("mme", at, 1),
        )
        for at in range(images)
        for shown in [image(at)]
        for prompt in prompts
    ]


@contextlib.contextmanager
def timed(spent: dict[str, float], part: str) -> Iterator[None]:
    """Adds CPU seconds."""
    started = time.process_time()
    yield
    spent[part] = spent.get(part, 0.0) + time.process_time() - started


def alike(count: int, rows: Sequence[Sequence[int]]) -> int:
    """How many tokens the rows begin with in common, at most `count`."""
    return next((at for at in range(count) if len({row[at] for row in rows}) > 1), count)


@dataclass(frozen=True)
class Floor:
    """The model's bare forward passes, everything prepared beforehand: inputs, positions, batches, rows of the
    cache."""

    model: Any
    processor: Any
    asked: Sequence[Any]

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """CPU seconds of each part in its best batch."""
        prompts = [request.args[0] for request in self.asked[: len(QUESTIONS)]]
        shown = [request.args[2]["visual"][0] for request in self.asked[:: len(QUESTIONS)]]
        read = [
            [dict(self.processor(images=one, text=prompt, return_tensors="pt")) for prompt in prompts] for one in shown
        ]
        rows = [one["input_ids"][0].tolist() for one in read[0]]
        begin = alike(min(map(len, rows)) - 1, rows)
        best = {"vision": np.inf, "prefixes": np.inf, "questions": np.inf}
        for size in SIZES:
            spent: dict[str, float] = {}
            for batch in (read[start : start + size] for start in range(0, len(read), size)):
                first = [rows[0] for rows in batch]
                pixels = {
                    name: torch.cat([row[name] for row in first])
                    for name in ("pixel_values", "image_grid_thw")
                    if name in first[0]
                }
                beginning = {name: part[..., :begin] for name, part in self._given(first).items()}
                with timed(spent, "vision"):
                    features = self.model.base_model.get_image_features(**pixels, return_dict=True)
                with timed(spent, "prefixes"):
                    cache = self.model(**beginning, **ONE, mm_encoder_outputs={"image": features}).past_key_values
                # All questions of one length together: no padding.
                for length in sorted({row["input_ids"].shape[1] for row in batch[0]}):
                    chosen = [
                        (at, row)
                        for at, rows in enumerate(batch)
                        for row in rows
                        if row["input_ids"].shape[1] == length
                    ]
                    forked = copy.deepcopy(cache)
                    forked.batch_select_indices(torch.tensor([at for at, _ in chosen]))
                    rest = {name: part[..., begin:] for name, part in self._given([row for _, row in chosen]).items()}
                    with timed(spent, "questions"):
                        self.model(**rest, **ONE, past_key_values=forked)
            best = {name: min(value, spent[name]) for name, value in best.items()}
        return best

    def _given(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Ids and positions of rows of one length."""
        ids = torch.cat([row["input_ids"] for row in rows])
        positions = torch.arange(ids.shape[1])[None].expand(len(ids), -1)
        if hasattr(self.model.base_model, "get_rope_index"):
            types, grids = (torch.cat([row[name] for row in rows]) for name in ("mm_token_type_ids", "image_grid_thw"))
            three, _ = self.model.base_model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grids)
            positions = torch.cat([positions[None], three])
        return {"input_ids": ids, "position_ids": positions}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """CPU seconds of several threads count those that wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", (llava, qwen2vl))
def test_bench_engine(
    family: Callable[[Path, Path], None],
    benchmark: Any,
    figures: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lm_eval.models.hf_vlms import HFMultimodalLM

    from harness.engine.jobs import Hints
    from harness.engine.lm import SharedImageLM
    from harness.models.load import register

    register()
    family(tmp_path / "model", tmp_path / "tiny")
    settings: dict[str, Any] = {"pretrained": str(tmp_path / "model"), "dtype": "float32", "device": "cpu"}
    hints = {"mme": Hints(decided=lambda text: len(text) >= 4)}  # MME's official parse reads no further
    ours, theirs = SharedImageLM(**settings), HFMultimodalLM(**settings)
    prompts = [request.args[0] for request in requests(theirs)]
    assert prompts == [request.args[0] for request in requests(ours)]
    floor = Floor(theirs.model, theirs.processor, requests(theirs))
    spent: dict[str, list[float]] = {}

    def turn(name: str, lm: Any) -> list[str]:
        took: dict[str, float] = {}
        asked = requests(lm)
        with timed(took, name):
            answers: list[str] = lm.generate_until(asked, disable_tqdm=True)
        spent.setdefault(name, []).append(took[name])
        return answers

    def our_turn(name: str) -> list[str]:
        ours.forget()
        ours.clock.seconds.clear()
        return turn(name, ours)

    def measure() -> tuple[list[str], list[str], list[str]]:
        whole = our_turn("ours, in full")  # the warm-up, too
        ours.hints = hints
        for _ in range(TURNS):
            for part, took in floor.measure().items():
                spent.setdefault(part, []).append(took)
            for batch in BATCHES:
                theirs.batch_size_per_gpu = batch
                expected = turn(f"hf-multimodal at {batch}", theirs)
                short = our_turn("ours")
        return expected, whole, short

    with one_thread():
        expected, whole, short = benchmark.pedantic(measure, rounds=1)
    best = {name: min(times) for name, times in spent.items()}
    assert len(set(expected)) > 30  # else equality says little
    equal = [
        mine == full and full.startswith(cut) and full[:4].lower() == cut[:4].lower()
        for full, mine, cut in zip(expected, whole, short, strict=True)
    ]
    batches = [best[f"hf-multimodal at {batch}"] for batch in BATCHES]
    bare = best["vision"] + best["prefixes"] + best["questions"]
    found = {
        "vs_batch1": batches[0] / best["ours"],
        "vs_best": min(batches) / best["ours"],
        "vs_floor": best["ours"] / bare,
    }
    figures.update({f"engine.{family.__name__}.{name}": value for name, value in found.items()})
    figures[f"engine.{family.__name__}.equal_answers"] = sum(equal) / len(equal)
    with capsys.disabled():
        print(f"\n{family.__name__}: CPU seconds", ", ".join(f"{name} {value:.2f}" for name, value in best.items()))
        print("  ours by stage (wall):", ", ".join(f"{name} {value:.2f}" for name, value in ours.clock.seconds.items()))
        for name, value in found.items():
            target, sense = TARGETS[name]
            met = value >= target if sense == "at least" else value <= target
            print(f"  {name} {value:.2f} ({sense} {target}: {'met' if met else 'missed'})")
        print(f"  equal answers {sum(equal)}/{len(equal)}, {len(set(expected))} distinct")
    assert all(equal)
