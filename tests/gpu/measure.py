"""What `make bench` measures on CPUs, on a GPU: the ratios of docs/performance.md, in one script of under 8 minutes.

    PYTHONPATH=. python tests/gpu/measure.py --out gpu.json     # needs a GPU of 40 GB; nothing else
    PYTHONPATH=. python tests/gpu/measure.py --cpu              # the same at a size of toys, whether it runs

Random weights of LLaVA's shape (24 layers of 2,048 behind CLIP's 24 of 1,024; about 2 billion) in bfloat16. Seconds are
medians of turns that alternate, after a warm-up each, with the GPU waited for. A part that fails is told at the end,
with exit code 1; the others are measured.
"""

import argparse
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.bench import test_bench_dpo as dpo
from tests.bench import test_bench_engine as engine


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    device: str
    dtype: torch.dtype
    layers: int
    width: int
    eye_layers: int
    eye_width: int
    vocabulary: int
    turns: int
    tokens: int
    """Of answers that are generated."""


GPU = Size(
    device="cuda",
    dtype=torch.bfloat16,
    layers=24,
    width=2048,
    eye_layers=24,
    eye_width=1024,
    vocabulary=151936,
    turns=5,
    tokens=64,
)
CPU = Size(
    device="cpu",
    dtype=torch.float32,
    layers=2,
    width=64,
    eye_layers=2,
    eye_width=32,
    vocabulary=4096,
    turns=1,
    tokens=4,
)


def build(folder: Path, size: Size) -> None:
    """A checkpoint of this size, whose answers are yes or no."""
    config = engine._config("llava", folder.with_name("tiny"))
    config.image_seq_length = dpo.IMAGE
    engine._set(
        config.vision_config,
        hidden_size=size.eye_width,
        num_hidden_layers=size.eye_layers,
        num_attention_heads=size.eye_width // 16 if size.eye_width < 64 else size.eye_width // 64,
        intermediate_size=4 * size.eye_width,
        image_size=336,
        patch_size=14,
    )
    heads = max(size.width // 128, 2)
    engine._set(
        config.text_config,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=size.width // heads,
        intermediate_size=size.width * 11 // 4,
        vocab_size=size.vocabulary,
    )
    config.dtype = size.dtype
    with torch.device(size.device):
        torch.set_default_dtype(size.dtype)
        try:
            engine._write(
                config,
                folder,
                folder.with_name("tiny"),
                {
                    "preprocessor_config.json": {
                        "size": {"shortest_edge": 336},
                        "crop_size": {"height": 336, "width": 336},
                    },
                    "processor_config.json": {"patch_size": 14},
                },
            )
        finally:
            torch.set_default_dtype(torch.float32)


@contextmanager
def clock(size: Size, spent: dict[str, list[float]], name: str) -> Iterator[None]:
    """Adds wall seconds, the GPU waited for."""
    wait(size)
    started = time.perf_counter()
    yield
    wait(size)
    spent.setdefault(name, []).append(time.perf_counter() - started)


def wait(size: Size) -> None:
    if size.device == "cuda":
        torch.cuda.synchronize()


def peak(size: Size, work: Callable[[], Any]) -> float:
    """MiB that are allocated at once at most, above what was there before; 0 on CPUs."""
    if size.device != "cuda":
        work()
        return 0.0
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    wait(size)
    return float(torch.cuda.max_memory_allocated() - before) / 2**20


def side(kind: Any, folder: Path, size: Size, answers: int, out: Path) -> dpo.Side:
    """A trainer with its batch, on the device, with gradient checkpointing."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig

    from trainers.data.chat import stops_of
    from trainers.data.collators import PairCollator
    from trainers.data.torch_dataset import Pairs
    from trainers.packed.trainer import PackedDPOTrainer

    cpu = size.device == "cpu"
    settings = DPOConfig(
        output_dir=str(out),
        use_cpu=cpu,
        bf16=not cpu,
        max_length=None,
        report_to="none",
        remove_unused_columns=False,
        gradient_checkpointing=True,
        per_device_train_batch_size=6,
    )
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=size.dtype).to(size.device)
    processor = AutoProcessor.from_pretrained(folder)
    same = PairCollator(processor, None, stops_of(model, processor))
    given = {} if kind is PackedDPOTrainer else {"data_collator": same}
    data = Pairs(dpo.pairs(answers))
    torch.manual_seed(0)
    made = kind(
        model=model,
        args=settings,
        train_dataset=data,
        processing_class=processor,
        peft_config=copy.deepcopy(dpo.LORA),
        **given,
    )
    made.model.to(size.device).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:  # policy and reference differ
                parameter.copy_(torch.randn(parameter.shape) * 0.02)
    made.model.gradient_checkpointing_enable(settings.gradient_checkpointing_kwargs)
    if kind is PackedDPOTrainer:
        made.add_references()
    batch = made._prepare_inputs(made.data_collator([made.train_dataset[index] for index in range(len(data))]))
    return dpo.Side(made, batch)


def measure_dpo(folder: Path, size: Size, out: Path) -> dict[str, float]:
    """Packed DPO against TRL's: seconds a step, memory, and how far the losses are apart."""
    from trl import DPOTrainer

    from trainers.packed.trainer import PackedDPOTrainer

    figures: dict[str, float] = {}
    for name, answers in (("pair", 2), ("group", 4)):
        sides = {kind.__name__: side(kind, folder, size, answers, out) for kind in (DPOTrainer, PackedDPOTrainer)}
        losses = {kind: one.learn()[0] for kind, one in sides.items()}
        spent: dict[str, list[float]] = {}
        for _ in range(size.turns):
            for kind, one in sides.items():
                with clock(size, spent, kind):
                    one.learn()
        taken = {kind: statistics.median(seconds) for kind, seconds in spent.items()}
        memory = {kind: peak(size, one.learn) for kind, one in sides.items()}
        figures[f"dpo.{name}.step_seconds"] = taken["PackedDPOTrainer"]
        figures[f"dpo.{name}.vs_trl"] = taken["DPOTrainer"] / taken["PackedDPOTrainer"]
        if memory["DPOTrainer"]:
            figures[f"dpo.{name}.memory_vs_trl"] = memory["PackedDPOTrainer"] / memory["DPOTrainer"]
        figures[f"dpo.{name}.loss_difference"] = abs(losses["DPOTrainer"] - losses["PackedDPOTrainer"])
        del sides
        gc.collect()
    return figures


def measure_engine(folder: Path, size: Size, out: Path) -> dict[str, float]:
    """60 questions about 10 images: ours with early stops and in full, lm-eval's `hf-multimodal` in batches of 12."""
    from lm_eval.models.hf_vlms import HFMultimodalLM

    from harness.engine.jobs import Hints
    from harness.engine.lm import SharedImageLM
    from harness.models.load import register

    register()
    engine.NEW_TOKENS = size.tokens
    settings: dict[str, Any] = {
        "pretrained": str(folder),
        "dtype": str(size.dtype).split(".")[1],
        "device": size.device,
    }
    ours, theirs = SharedImageLM(**settings), HFMultimodalLM(**settings)
    theirs.batch_size_per_gpu = 12
    spent: dict[str, list[float]] = {}
    answers: dict[str, list[str]] = {}
    early = {"mme": Hints(decided=lambda text: len(text) >= 4)}

    def ask(name: str, lm: Any) -> None:
        asked = engine.requests(lm)
        if lm is ours:
            ours.forget()
            ours.hints = early if name == "early stops" else {}
        with clock(size, spent, name):
            answers[name] = lm.generate_until(asked, disable_tqdm=True)

    for _ in range(size.turns + 1):  # the first is the warm-up
        for name, lm in (("hf-multimodal", theirs), ("in full", ours), ("early stops", ours)):
            ask(name, lm)
    taken = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
    equal = [one == other for one, other in zip(answers["in full"], answers["hf-multimodal"], strict=True)]
    return {
        "engine.seconds": taken["early stops"],
        "engine.vs_hf": taken["hf-multimodal"] / taken["early stops"],
        "generate.seconds": taken["in full"],
        "generate.vs_hf": taken["hf-multimodal"] / taken["in full"],
        "generate.equal_answers": sum(equal) / len(equal),
    }


def main() -> int:
    """Print the figures; 1 if a part failed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="at a size of toys, on CPUs")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        print("there is no GPU; --cpu runs the same at a size of toys", file=sys.stderr)
        return 2
    size, figures, failed = CPU if given.cpu else GPU, dict[str, float](), []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        build(model, size)
        for measure in (measure_dpo, measure_engine):
            try:
                figures |= measure(model, size, Path(folder) / "out")
            except Exception:  # the others are measured nevertheless
                traceback.print_exc()
                failed.append(measure.__name__)
            gc.collect()
            if size.device == "cuda":
                torch.cuda.empty_cache()
    figures["seconds"] = time.perf_counter() - started
    device = torch.cuda.get_device_name() if size.device == "cuda" else "CPU, a size of toys"
    print(f"# {device}")
    print("\n".join(f"{name:28} {value:.4g}" for name, value in figures.items()))
    if given.out:
        given.out.write_text(json.dumps({"device": device, **figures}, indent=1) + "\n", encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
