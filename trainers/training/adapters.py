"""Adapters that are initialised with parts of the weights (PiSSA, OLoRA), and saved as ordinary ones.

peft subtracts such an adapter's start B0 A0 from the base's weights. A checkpoint holds the difference B A - B0 A0 as
an adapter of twice the rank on the unchanged base, which loads anywhere; training continues from that in `trainable/`.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.tensor  # peft takes it for imported
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import set_seed

from support.errors import ModelError, first_few, one_line
from support.files import atomic_write_text, file_lock
from trainers.config.training import Lora
from trainers.training.checkpoints import TRAINABLE, what_weights_lack
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


@contextmanager
def filling_every_place(adapter: Path | str) -> Iterator[None]:
    """Inside, an adapter that leaves a place without a weight is a ModelError: peft leaves it as it was drawn."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            yield
    except UserWarning as error:
        empty = re.findall(r"'([^']+)'", str(error).partition("[")[2])
        raise ModelError(
            f"adapter {adapter} doesn't fit its base: it has no weight for {len(empty):,} of the places it names: "
            f"{first_few(empty, 2)}; it was saved for other names, by another version of transformers or of another "
            "model"
        ) from None


def attach(model: Any, adapter: Path) -> Any:
    """The model with a saved adapter in it; ModelError unless every weight has a place, and every place one."""
    from peft import PeftModel

    try:
        with filling_every_place(adapter):
            made = PeftModel.from_pretrained(model, str(adapter))
        stored = [name for name in load_peft_weights(str(adapter), device="cpu") if ".lora_" in name]
    except ModelError:
        raise
    except Exception as error:  # of libraries, at files that nobody foresaw
        if lacks := what_weights_lack(adapter):
            raise ModelError(f"adapter {adapter} can't be read: {lacks}") from error
        raise ModelError(f"adapter {adapter} doesn't fit its base: {one_line(error)[:300]}") from error
    placed = sum(".lora_" in name for name in made.state_dict())
    if len(stored) > placed:
        raise ModelError(
            f"adapter {adapter} doesn't fit its base: it has {len(stored):,} weights, and {placed:,} have a place in it"
        )
    return made


def _check_ties(model: Any, adapter: Path) -> None:
    """ModelError for an adapter of one of two tied matrices: merged into it, it would change the other one, too."""
    inner = model.get_base_model()
    ends = {"lm_head": inner.get_output_embeddings(), "embed_tokens": inner.get_input_embeddings()}
    changed = [name for name, module in ends.items() if isinstance(module, BaseTunerLayer)]
    weights = [getattr(module, "base_layer", module).weight for module in ends.values() if module is not None]
    if changed and len(weights) == 2 and weights[0].data_ptr() == weights[1].data_ptr():
        raise ModelError(
            f"adapter {adapter} changes {' and '.join(changed)}, and its base has lm_head and embed_tokens tied: "
            "merged into them it would be another model; save its base with tie_word_embeddings = false first"
        )


def _is_tied_apart(model: Any) -> bool:
    """True if a merged model's embeddings differ, of which only one is saved."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False) or model.config.tie_word_embeddings
    return bool(tied and first is not None and last is not None and not torch.equal(first.weight, last.weight))


def merge(
    base: Path | str, adapter: Path, out: Path, template: str | None = None, *, remote_code: bool = False
) -> Path:
    """Write the base with an adapter merged into it, and the processor; returns `out`, at once if it is there already.

    Merged in single precision, stored in the base's type. `template` is the chat template that the adapter was trained
    with. ModelError, also for an adapter that doesn't fit, or that as a part of the weights would be another model.
    """

    name = str(adapter)
    with file_lock(out, wait=True):
        if (out / "config.json").is_file():
            return out
        with reading(name, str(base), remote_code=remote_code):
            given: dict[str, Any] = {"dtype": "auto", "use_safetensors": True}
            stored = CompleteModel.from_pretrained(base, trust_remote_code=remote_code, **given)
            dtype = stored.dtype
        processor = read_processor(str(base), name, template, remote_code=remote_code)
        adapted = attach(stored.float(), adapter)
        _check_ties(adapted, adapter)
        with reading(name, name):
            model = adapted.merge_and_unload(safe_merge=True).to(dtype)
        if _is_tied_apart(model):
            raise ModelError(
                f"adapter {adapter} holds an embed_tokens and an lm_head that differ, and {base} has them tied: merged "
                "they would be one; save the base with tie_word_embeddings = false first"
            )
        part = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            model.save_pretrained(part)
            processor.save_pretrained(part)
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out
