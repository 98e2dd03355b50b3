"""How fast packed DPO is against TRL's own trainer, and how near to the work that no trainer does without.

The same pairs, weights and precision in one run: random weights of LLaVA's shape scaled down (576 image tokens of 336
pixels, prompts of 60 tokens, answers of 80), float32, one thread. A step is loss and backward pass; batches are
collated beforehand. Sides take turns; figures are medians of CPU seconds, ratios medians of the turns' ratios. Loss and
gradients of both trainers are compared on the timed batches.

The *floor* is the model's bare forward and backward pass over every distinct token once: the image once, the prompt
once, each answer once, gradients of the adapters alone. The reference's one pass before training is timed beside the
steps, not in them. It also encodes the images and keeps their features: a step of the packed trainer runs no encoder,
as all do that find their images' features kept.
"""

import contextlib
import copy
import gc
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from torch import Tensor

from support.images import ImageRef
from trainers.data.rows import Preference

IMAGE, PROMPT, ANSWER = 576, 60, 80
"""Tokens."""
WORDS = 79
"""Each is a token; the one that ends an answer comes on top."""
LORA = LoraConfig(r=16, lora_alpha=32, target_modules=r".*language_model.*_proj")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch to be trained on, and how well that has to go."""

    name: str
    answers: int = 2
    """To one prompt; all pairs of them are the batch."""
    checkpointing: bool = False
    vocabulary: int = 2048
    turns: int = 4
    parts: bool = False
    """Whether TRL is also timed with one part at a time of what is saved."""
    times: float
    """As fast as TRL, at least."""
    share: float | None = None
    """Of TRL's activation memory, at most; None: not measured."""


CASES = (
    Case(name="group", answers=4, turns=2, times=10),
    Case(name="pair", parts=True, times=3, share=0.5),
    Case(name="pair_gc", checkpointing=True, parts=True, times=3, share=0.5),
    Case(name="vocab32k", vocabulary=32768, turns=3, times=5, share=0.2),
    Case(name="vocab152k", vocabulary=151936, turns=1, times=8, share=0.1),
)
FLOOR = 1.4
"""Times the floor, at most."""
ALIKE = 1e-5
"""Loss and gradients, relative to the largest entry, at most."""


# Model and pairs


def llava(folder: Path, vocabulary: int) -> None:
    """CLIP's and Llama's shapes, scaled down: 4 layers of 128 over 336 pixels, 4 layers of 512."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from tests.harness.zoo import FAMILIES

    FAMILIES["llava"](folder)
    config = AutoConfig.from_pretrained(folder)
    config.image_seq_length = IMAGE
    config.vision_config.update(
        {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    )
    config.vision_config.update({"image_size": 336, "patch_size": 14})
    config.text_config.update(
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8}
    )
    config.text_config.update({"num_key_value_heads": 8, "head_dim": 64, "vocab_size": vocabulary})
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    for name, changes in (
        ("preprocessor_config.json", {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}),
        ("processor_config.json", {"patch_size": 14}),
    ):
        kept = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(kept | changes), encoding="utf-8")


def pairs(answers: int) -> list[Preference]:
    """All pairs of this many answers of 80 tokens to one prompt of 60."""
    chance = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(chance.integers(0, 255, (360, 480, 3), dtype=np.uint8)).save(stream, "PNG")
    shown = (ImageRef("a.png", data=stream.getvalue()),)
    said = [" ".join(chance.choice(["yes", "no"], WORDS)) for _ in range(answers)]
    return [
        Preference(
            id=f"{a}-{b}", prompt=" ".join(["yes", "no"] * 24), images=shown, chosen=said[a], rejected=said[b], row=0
        )
        for a in range(answers)
        for b in range(a + 1, answers)
    ]


# The sides


@dataclass(frozen=True)
class Side:
    """A trainer, the batch it is timed on, and what holds meanwhile."""

    trainer: Any
    batch: Mapping[str, Any]
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def step(self) -> float:
        """Loss and gradients of one batch; CPU seconds."""
        return self.learn()[1]

    def learn(self) -> tuple[float, float]:
        """(loss, CPU seconds); the gradients stay."""
        self.trainer.model.zero_grad()
        with self.around():
            started = time.process_time()
            loss = self.trainer.compute_loss(self.trainer.model, dict(self.batch))
            loss.backward()
            return loss.item(), time.process_time() - started

    def gradients(self) -> dict[str, Tensor]:
        """Of the last step."""
        return {
            name: value.grad.clone() for name, value in self.trainer.model.named_parameters() if value.grad is not None
        }


def side(kind: Any, folder: Path, case: Case, out: Path) -> Side:
    """Its adapters say something already, so that policy and reference differ."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig

    from trainers.data.chat import stops_of
    from trainers.data.collators import PairCollator
    from trainers.data.torch_dataset import Pairs
    from trainers.packed.trainer import PackedDPOTrainer

    settings = DPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        max_length=None,
        report_to="none",
        remove_unused_columns=False,
        gradient_checkpointing=case.checkpointing,
        per_device_train_batch_size=6,
    )
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    data = Pairs(pairs(case.answers))
    # The same tokens on both sides.
    given = (
        {} if kind is PackedDPOTrainer else {"data_collator": PairCollator(processor, None, stops_of(model, processor))}
    )
    made = kind(
        model=model,
        args=settings,
        train_dataset=data,
        processing_class=processor,
        peft_config=copy.deepcopy(LORA),
        **given,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02, generator=generator)
    made.model.train()
    if case.checkpointing:  # as `train` does
        made.model.gradient_checkpointing_enable(settings.gradient_checkpointing_kwargs)
    if kind is PackedDPOTrainer:
        made.add_references()
    return Side(made, made.data_collator([made.train_dataset[index] for index in range(len(data))]))


def ask_reference(ours: Side) -> float:
    """The pass over a batch that is made once, before training, image encoder included; CPU seconds."""
    from trainers.packed.trainer import PackedCall

    ours.trainer.features.clear()
    started = time.process_time()
    ours.trainer.compute_ref_log_probs(PackedCall(ours.trainer.model, ours.trainer.backbone), ours.batch)
    return time.process_time() - started


# One part at a time


def head_alone(trl: Side) -> Side:
    """TRL as it is on GPUs: its head on answer tokens alone."""

    @contextlib.contextmanager
    def as_with_triton() -> Iterator[None]:
        from trl.trainer import utils

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils, "_use_triton", lambda device: True)
            yield

    return Side(trl.trainer, trl.batch, as_with_triton)


def reference_cached(trl: Side, ours: Side) -> Side:
    """TRL that is told what the reference says, which its own flag refuses for images."""

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        trl.trainer.precompute_ref_logps = True
        yield
        trl.trainer.precompute_ref_logps = False

    known = {name: ours.batch[name] for name in ("ref_chosen_logps", "ref_rejected_logps")}
    return Side(trl.trainer, {**trl.batch, **known}, told)


def vision_once(trl: Side) -> Side:
    """TRL whose image goes through its encoder once a step, without gradients."""
    backbone = trl.trainer.model.get_base_model().base_model

    @contextlib.contextmanager
    def shared() -> Iterator[None]:
        original, found = backbone.get_image_features, list[Any]()

        def features(pixel_values: Tensor, **arguments: Any) -> Any:
            if not found:
                with torch.no_grad():
                    found.append(original(pixel_values=pixel_values[:1], **arguments))
            whole = copy.copy(found[0])
            whole.pooler_output = [found[0].pooler_output[0]] * len(pixel_values)
            return whole

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "get_image_features", features)
            yield

    return Side(trl.trainer, trl.batch, shared)


def every_layer_whole(folder: Path, case: Case, out: Path) -> Side:
    """Packed, but the last layer is computed like the others."""
    from trainers.packed import trainer as packed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "compute_only_scored", lambda layer: None)
        made = side(packed.PackedDPOTrainer, folder, case, out)
    made.trainer.last_layer = torch.nn.Identity()
    return made


def encoded_every_step(ours: Side) -> Side:
    """Packed, but no features are there."""

    @contextlib.contextmanager
    def emptied() -> Iterator[None]:
        ours.trainer.features.clear()
        yield

    return Side(ours.trainer, ours.batch, emptied)


# The floor


@dataclass(frozen=True)
class Floor:
    """The model alone, and every distinct token of a batch in one row."""

    model: Any
    row: Tensor
    pixels: Tensor
    predicting: Tensor
    """Places whose next token is an answer's."""
    answers: Tensor

    def step(self) -> float:
        """One forward and backward pass; CPU seconds."""
        self.model.zero_grad()
        started = time.process_time()
        found = self.model(
            input_ids=self.row, pixel_values=self.pixels, logits_to_keep=self.predicting, use_cache=False
        )
        torch.nn.functional.cross_entropy(found.logits[0], self.answers).backward()
        return time.process_time() - started


def floor(folder: Path, batch: Mapping[str, Any], checkpointing: bool) -> Floor:
    """Of what TRL's trainer is given."""
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText

    model = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32), copy.deepcopy(LORA)
    ).train()
    if checkpointing:
        model.get_base_model().model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    said = {
        tuple(ids[mask.bool()].tolist()) for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    }
    prompt = batch["input_ids"][0][~batch["completion_mask"][0].bool() & batch["attention_mask"][0].bool()].tolist()
    row: list[int] = list(prompt)
    predicting: list[int] = []
    answers: list[int] = []
    for answer in sorted(said):
        predicting += [len(prompt) - 1, *range(len(row), len(row) + len(answer) - 1)]
        row += answer[:-1]
        answers += answer
    return Floor(model, torch.tensor([row]), batch["pixel_values"][:1], torch.tensor(predicting), torch.tensor(answers))


def held(taken: Callable[[], Any]) -> int:
    """Bytes that a step has allocated at once at most, above what was there before: activations, and gradients of the
    adapters."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        taken()
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(max(accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns()))))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """CPU seconds of several threads count those that wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest difference of two gradients, relative to the largest entry."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one) / max(
        float(value.abs().max()) for value in one.values()
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bench_dpo(
    case: Case, benchmark: Any, figures: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trl import DPOTrainer

    from trainers.packed.trainer import PackedDPOTrainer

    folder = tmp_path / "model"
    llava(folder, case.vocabulary)
    trl, ours = (side(kind, folder, case, tmp_path / kind.__name__) for kind in (DPOTrainer, PackedDPOTrainer))
    assert trl.batch["completion_mask"].sum(1).tolist() == [ANSWER] * len(trl.batch["input_ids"])
    assert trl.batch["attention_mask"].sum(1).tolist() == [IMAGE + PROMPT + ANSWER] * len(trl.batch["input_ids"])
    bare = floor(folder, trl.batch, case.checkpointing)
    takers: dict[str, Callable[[], float]] = {
        "TRL": trl.step,
        "packed": ours.step,
        "floor": bare.step,
        "reference's pass": lambda: ask_reference(ours),
    }
    if case.parts:
        takers |= {
            "TRL, head on answer tokens": head_alone(trl).step,
            "TRL, image encoded once": vision_once(trl).step,
            "TRL, reference cached": reference_cached(trl, ours).step,
            "packed, every layer whole": every_layer_whole(folder, case, tmp_path / "whole").step,
            "packed, image encoded every step": encoded_every_step(ours).step,
        }

    def measure() -> list[dict[str, float]]:
        for taker in takers.values():
            taker()
        return [{name: taker() for name, taker in takers.items()} for _ in range(case.turns)]

    with one_thread():
        losses, gradients = zip(*((one.learn()[0], one.gradients()) for one in (trl, ours)), strict=True)
        apart = max(difference(*gradients), abs(losses[0] - losses[1]) / losses[0])
        spent = benchmark.pedantic(measure, rounds=1)
        memory = (
            {name: held(one.step) for name, one in (("TRL", trl), ("packed", ours))} if case.share is not None else {}
        )

    median = statistics.median
    ratio = median(turn["TRL"] / turn["packed"] for turn in spent)
    over = median(turn["packed"] / turn["floor"] for turn in spent)
    epochs = {
        count: median(turn["TRL"] / (turn["packed"] + turn["reference's pass"] / count) for turn in spent)
        for count in (1, 3)
    }
    figures.update({f"dpo.{case.name}.vs_trl": ratio, f"dpo.{case.name}.vs_floor": over})
    figures.update({f"dpo.{case.name}.vs_trl_{count}_epochs": value for count, value in epochs.items()})
    figures["dpo.max_relative_gradient_difference"] = max(
        apart, figures.get("dpo.max_relative_gradient_difference", 0.0)
    )
    with capsys.disabled():
        print(
            f"\n{case.name}: "
            f"{', '.join(f'{name} {median(turn[name] for turn in spent):.2f}' for name in takers)} CPU seconds"
        )
        print(f"  {ratio:.2f} times TRL (at least {case.times}: {'met' if ratio >= case.times else 'missed'})")
        print(f"  with the reference's pass in one epoch {epochs[1]:.2f}, in three {epochs[3]:.2f}")
        print(f"  {over:.2f} times the floor (at most {FLOOR}: {'met' if over <= FLOOR else 'missed'})")
        for name in list(takers)[4:]:
            print(f"  {name}: {median(turn['TRL'] / turn[name] for turn in spent):.2f} times TRL")
        if case.share is not None:
            share = memory["packed"] / memory["TRL"]
            figures[f"dpo.{case.name}.memory_vs_trl"] = share
            held_at_most = " -> ".join(f"{value / 2**20:.0f}" for value in memory.values())
            print(
                f"  memory {held_at_most} MiB, {share:.3f} "
                f"(at most {case.share}: {'met' if share <= case.share else 'missed'})"
            )
        print(f"  loss and gradients differ by {apart:.1e} of the largest")
    assert apart < ALIKE
