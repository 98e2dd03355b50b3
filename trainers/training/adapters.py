"""Adapters that are initialised with parts of the weights (PiSSA, OLoRA), and saved as ordinary ones.

peft subtracts such an adapter's start B0 A0 from the base's weights. A checkpoint holds the difference B A - B0 A0 as
an adapter of twice the rank on the unchanged base, which loads anywhere; training continues from that in `trainable/`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import set_seed

from support.files import atomic_write_text, file_lock
from trainers.config.training import Lora
from trainers.training.checkpoints import TRAINABLE
from trainers.training.read_base import CompleteModel, read_processor, reading

PARTS = ("pissa", "olora")
"""Initialisations that change the weights."""
FILES = ("adapter_model.safetensors", "adapter_config.json")


def start_from_weights(model: Any, config: LoraConfig, seed: int) -> Any:
    """The model with adapters of `PARTS`. TRL copies them as the reference; call `start_of` before training."""
    set_seed(seed)
    made = get_peft_model(model, config)
    # Otherwise peft would subtract a part from the weights again for every copy.
    made.peft_config["default"].init_lora_weights = True
    return made


def start_of(model: Any) -> dict[str, Tensor]:
    """A0 and B0 by their names in a saved adapter."""
    found = get_peft_model_state_dict(model, adapter_name="default")
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def save_plain(folder: Path, start: Mapping[str, Tensor], lora: Lora) -> None:
    """Turn the adapter saved in a folder into one on the unchanged base."""
    trainable = folder / TRAINABLE
    trainable.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(folder / name, trainable / name)
    weights = load_file(folder / FILES[0])
    both = {
        name: torch.cat([value, start[name]], dim=0) if ".lora_A." in name else torch.cat([value, -start[name]], dim=1)
        for name, value in weights.items()
    }
    save_file(both, folder / FILES[0], {"format": "pt"})
    scale = lora.alpha / (lora.r**0.5 if lora.rslora else lora.r)
    config = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
    config |= {"r": 2 * lora.r, "lora_alpha": scale * 2 * lora.r, "use_rslora": False}
    atomic_write_text(folder / FILES[1], json.dumps(config, indent=2))


def merge(base: Path | str, adapter: Path, out: Path, template: str | None = None) -> Path:
    """Write the base with an adapter merged into it, and the processor; returns `out`, at once if it is there already.

    Merged in single precision, stored in the base's type. `template` is the chat template that the adapter was trained
    with. ModelError.
    """
    from peft import PeftModel

    name = str(adapter)
    with file_lock(out, wait=True):
        if (out / "config.json").is_file():
            return out
        with reading(name, str(base)):
            stored = CompleteModel.from_pretrained(base, dtype="auto", use_safetensors=True)
            dtype = stored.dtype
        processor = read_processor(str(base), name, template)
        with reading(name, name):
            model = PeftModel.from_pretrained(stored.float(), name).merge_and_unload(safe_merge=True).to(dtype)
        part = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            model.save_pretrained(part)
            processor.save_pretrained(part)
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out
