"""Pairs, trainers of tiny models and comparisons, for tests of losses and of packed training."""

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer

from harness.models.load import register
from tests.trainers.one_answer import picture
from trainers.data.chat import stops_of
from trainers.data.collators import PairCollator
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs
from trainers.losses.seeded_pairs import SeededDPOTrainer
from trainers.packed.trainer import FAMILIES, PackedDPOTrainer

register()
LORA = LoraConfig(
    r=4,
    lora_alpha=8,
    target_modules=r".*(language|text)_model.*\.(q_proj|v_proj|o_proj|gate_proj|down_proj)"
    r"|.*\.h\.\d+\..*(c_attn|attn\.c_proj|w1|w2)",
)
TALK = "the image shows a red circle and two dogs on the table near a blue car , yes no one"


PICTURES = picture(1, (56, 56)), picture(2, (84, 56))
PROMPTS = "what is in the image", "yes or no"


def small_pair(id: str, row: int, chosen: str, rejected: str) -> Preference:
    """A pair about the picture and the prompt of this row."""
    return Preference(id=id, prompt=PROMPTS[row], images=(PICTURES[row],), chosen=chosen, rejected=rejected, row=row)


def preferences(groups: Sequence[int] = (6, 1, 3), seed: int = 0, images: int = 1) -> list[Preference]:
    """Rows of 4, 2 or 3 answers, of which all pairs are taken, first over later; every row with another image size."""
    chance = random.Random(seed)
    answers_of = {6: 4, 3: 3, 1: 2}
    found = []
    for row, pairs in enumerate(groups):
        answers = [" ".join(chance.choices(TALK.split(), k=chance.randint(2, 9))) for _ in range(answers_of[pairs])]
        shown = tuple(
            picture(100 * seed + 10 * row + image, ((56, 56), (84, 56), (28, 84))[(row + image) % 3])
            for image in range(images)
        )
        prompt = " ".join(chance.choices(TALK.split(), k=chance.randint(3, 8)))
        found += [
            Preference(
                id=f"{row}/{a}-{b}", prompt=prompt, images=shown, chosen=answers[a], rejected=answers[b], row=row
            )
            for a in range(len(answers))
            for b in range(a + 1, len(answers))
        ]
    return found


def arguments(out: Path, **changes: Any) -> DPOConfig:
    off = "bf16 gradient_checkpointing remove_unused_columns dataloader_pin_memory"
    settings: dict[str, Any] = {"output_dir": str(out), **dict.fromkeys(off.split(), False)}
    settings |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_steps": 1, "save_strategy": "no"}
    settings |= {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": None}
    return DPOConfig(**settings | changes)


def trainer(
    kind: Any,
    folder: Path,
    pairs: Pairs | list[Preference],
    out: Path,
    options: dict[str, Any] | None = None,
    *,
    full: bool = False,
    moved: bool = True,
    **changes: Any,
) -> Any:
    """A trainer whose weights already say something else than its reference's; `full`: without adapters.

    `moved`: False for full fine-tuning that begins at its reference.
    """
    torch.manual_seed(0)
    models = [AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32) for _ in range(1 + full)]
    reference = {"ref_model": models[1]} if full else {"peft_config": copy.deepcopy(LORA)}
    processor, settings = AutoProcessor.from_pretrained(folder), arguments(out, **changes)
    if not issubclass(kind, PackedDPOTrainer | SeededDPOTrainer):  # these make their own
        stops = stops_of(models[0], processor)
        reference["data_collator"] = PairCollator(processor, settings.max_length, stops)
    made = kind(
        model=models[0],
        args=settings,
        train_dataset=pairs if isinstance(pairs, Pairs) else Pairs(pairs),
        processing_class=processor,
        **{**reference, **(options or {})},
    )
    generator = torch.Generator().manual_seed(1)
    if full and moved and isinstance(made, PackedDPOTrainer):
        made.add_references()
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)
            elif full and moved and parameter.requires_grad and "norm" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    made.model.train()
    if made.args.gradient_checkpointing:  # as `train` does
        made.model.gradient_checkpointing_enable(made.args.gradient_checkpointing_kwargs)
    return made


def loss_of(made: Any) -> torch.Tensor:
    """Of all its pairs as one batch."""
    if isinstance(made, PackedDPOTrainer):
        made.add_references()
    batch = made._prepare_inputs(made.data_collator(list(made.train_dataset)))
    loss: torch.Tensor = made.compute_loss(made.model, batch)
    return loss


def without_adapters(made: Any) -> Any:
    """The same, whose adapters add nothing."""
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    return made


def loss_and_gradients(made: Any) -> tuple[float, dict[str, torch.Tensor], dict[str, list[float]]]:
    """Of all its pairs as one batch."""
    loss = loss_of(made)
    loss.backward()
    gradients = {name: value.grad for name, value in made.model.named_parameters() if value.grad is not None}
    return loss.item(), gradients, dict(made._metrics["train"])


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of two gradients, relative to the largest entry."""
    assert one.keys() == other.keys()
    assert one
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 1e-4
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


CORE = ("llava", "qwen2_vl", "qwen2_5_vl")
ALL = [
    family if family in CORE else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
    if family != "qwen"
] + ["qwen"]


def compared(
    folder: Path, pairs: list[Preference], out: Path, options: dict[str, Any] | None = None, **changes: Any
) -> list[Any]:
    """(loss, gradients, metrics) of all pairs in one batch: TRL's, and ours."""
    return [
        loss_and_gradients(trainer(kind, folder, pairs, out, options, **changes))
        for kind in (DPOTrainer, PackedDPOTrainer)
    ]


def assert_alike(stock: Any, ours: Any) -> None:
    assert ours[0] == pytest.approx(stock[0], rel=1e-5)
    assert difference(stock[1], ours[1]) < 1e-5
    assert ours[2].keys() == stock[2].keys()
    for name in stock[2]:
        assert ours[2][name] == pytest.approx(stock[2][name], rel=1e-4, abs=1e-5), name


def tower_passes(made: Any) -> list[int]:
    """Grows by the images (tiles, patches) of each pass through the encoder."""
    seen: list[int] = []

    def noted(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        seen.append(len(args[0] if args else kwargs["pixel_values"]))

    made.backbone.get_encoder(modality="image").register_forward_hook(noted, with_kwargs=True)
    return seen


def asked(made: Any) -> list[int]:
    """How many pairs the reference is asked about, batch by batch, when it is time."""
    original, found = made.compute_ref_log_probs, []

    def counted(model: Any, inputs: Any) -> Any:
        found.append(len(inputs["input_ids"]) // 2)
        return original(model, inputs)

    made.compute_ref_log_probs = counted
    made.add_references()
    return found
