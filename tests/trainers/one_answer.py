"""An answer's log-probabilities by a plain forward of one row: no batch, no padding, nobody else's arithmetic."""

import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image

from support.images import ImageRef
from trainers.data.chat import Chat, stops_of


def picture(seed: int, size: tuple[int, int]) -> ImageRef:
    """A PNG of noise, (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return ImageRef(f"{seed}.png", data=stream.getvalue())


def read(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    prompt: str,
    answer: str,
    *,
    reference: bool = False,
    change: Callable[[dict[str, Any]], None] = lambda inputs: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities at the answer's places [length, vocabulary], its tokens [length]); by the model with its
    adapters off where `reference`. `change`: of the model's inputs, before they are read."""
    turn = Chat(processor, stops_of(model, processor)).read([{"role": "user", "content": prompt}], images, [answer])
    asked = processor(text=[turn.prompt], images=[list(images)], add_special_tokens=False, return_tensors="pt")
    tokens = torch.tensor(turn.answers)
    inputs = {**asked, "input_ids": torch.cat([asked["input_ids"], tokens], dim=1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([asked["mm_token_type_ids"], torch.zeros_like(tokens)], dim=1)
    change(inputs)
    with torch.no_grad(), model.disable_adapter() if reference else nullcontext():
        logits = model(**inputs).logits
    return logits[0, asked["input_ids"].shape[1] - 1 : -1].float().log_softmax(-1), tokens[0]


def said(trainer: Any, images: Sequence[Image.Image], prompt: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of an answer's tokens [length] by a trainer's policy, and by its reference."""
    asked = (trainer.processing_class, images, prompt, answer)
    policy, tokens = read(trainer.model, *asked)
    if trainer.ref_model is None:
        reference, _ = read(trainer.model, *asked, reference=True)
    else:
        reference, _ = read(trainer.ref_model, *asked)
    own = range(len(tokens)), tokens
    return policy[own], reference[own]
