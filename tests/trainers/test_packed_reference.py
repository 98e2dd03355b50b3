"""What the packed trainer keeps of the reference belongs to one model and one wording; pairs that no processor takes
are named."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig

from harness.models.load import register
from support.errors import TrainingError
from support.images import ImageRef
from support.progress import show_on
from tests.harness import qwen_vl_checkpoint
from tests.harness.zoo import FAMILIES
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs
from trainers.packed.collator import PackedCollator
from trainers.packed.trainer import PackedDPOTrainer

register()


def picture(size: tuple[int, int], colour: int = 90) -> ImageRef:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, colour)).save(stream, "PNG")
    return ImageRef(f"{size}", data=stream.getvalue())


def pair(id: str, **changes: Any) -> Preference:
    plain = {
        "prompt": "what is in the image",
        "images": (picture((56, 56)),),
        "chosen": "a red circle",
        "rejected": "two dogs",
        "row": 0,
    }
    return Preference(id=id, **{**plain, **changes})


def asked(folder: Path, pairs: Sequence[Preference], out: Path, **config: Any) -> list[int]:
    """How many pairs the reference is asked about, by a model with these values in its text configuration."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    for name, value in config.items():
        setattr(model.config.text_config, name, value)
    settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": None}
    made = PackedDPOTrainer(
        model=model,
        args=DPOConfig(output_dir=str(out), report_to="none", **settings),
        train_dataset=Pairs(pairs),
        processing_class=AutoProcessor.from_pretrained(folder),
        peft_config=LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"),
    )
    found: list[int] = []
    with show_on(lambda stage, done, total: found.append(total)):
        made.add_references()
    return found


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava") / "model"
    FAMILIES["llava"](folder)
    return folder


def test_weights_that_are_configured_otherwise_are_another_reference(llava: Path, tmp_path: Path) -> None:
    for changes, expected in (({}, [1]), ({}, []), ({"rms_norm_eps": 0.5}, [1])):
        assert asked(llava, [pair("a")], tmp_path, **changes) == expected, changes


def test_another_picture_under_the_same_name_is_another_pair(llava: Path, tmp_path: Path) -> None:
    for colour, expected in ((90, [1]), (90, []), (91, [1])):
        assert asked(llava, [pair("a", images=(picture((56, 56), colour),))], tmp_path) == expected, colour


def test_a_picture_too_thin_for_the_model_is_named_with_its_pair(tmp_path: Path) -> None:
    FAMILIES["qwen2_5_vl"](tmp_path)
    pairs = Pairs([pair("fine"), pair("thin", images=(picture((2000, 3)),), row=1)])
    with pytest.raises(
        TrainingError, match=r"pair 'thin': Qwen2_5_VLProcessor can't read it: absolute aspect ratio .*; leave it out"
    ):
        PackedCollator(AutoProcessor.from_pretrained(tmp_path))([pairs[0], pairs[1]])


@pytest.mark.parametrize("side", ("prompt", "chosen", "rejected"))
def test_a_text_that_stands_for_a_picture_is_named_with_its_pair(side: str, tmp_path: Path) -> None:
    """Qwen-VL takes the path between its marks for a picture."""
    qwen_vl_checkpoint.write(tmp_path)
    pairs = Pairs([pair("fine"), pair("marked", **{side: "<img>cat.png</img> what"}, row=1)])
    with pytest.raises(
        TrainingError, match=r"pair 'marked': QwenVLProcessor can't read it: .*image.*; leave it out"
    ) as raised:
        PackedCollator(AutoProcessor.from_pretrained(tmp_path))([pairs[0], pairs[1]])
    assert "\n" not in str(raised.value)
