"""What the packed trainer keeps of the reference belongs to one model and one wording; pairs that no processor takes
are named."""

import io
from collections.abc import Sequence
from dataclasses import replace
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
from tests.trainers.tiny_trainers import asked, preferences, trainer
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs
from trainers.packed import trainer as packed
from trainers.packed.collator import CutError, PackedCollator
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


def asked_of(folder: Path, pairs: Sequence[Preference], out: Path, **config: Any) -> list[int]:
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
        assert asked_of(llava, [pair("a")], tmp_path, **changes) == expected, changes


def test_another_picture_under_the_same_name_is_another_pair(llava: Path, tmp_path: Path) -> None:
    for colour, expected in ((90, [1]), (90, []), (91, [1])):
        assert asked_of(llava, [pair("a", images=(picture((56, 56), colour),))], tmp_path) == expected, colour


def test_a_picture_too_thin_for_the_model_is_named_with_its_pair(tmp_path: Path) -> None:
    FAMILIES["qwen2_5_vl"](tmp_path)
    pairs = Pairs([pair("fine"), pair("thin", images=(picture((903, 3)),), row=1)])
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


# On pairs of several prompts


def test_the_reference_is_asked_once_and_remembered(checkpoint: Any, tmp_path: Path) -> None:
    first = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    assert asked(first) == [6, 4]  # whole prompts
    again = trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)
    assert asked(again) == []
    assert again.train_dataset.reference == first.train_dataset.reference
    more = trainer(PackedDPOTrainer, checkpoint("llava"), [*preferences(), *preferences((3,), seed=7)], tmp_path)
    assert asked(more) == [3]


def test_a_killed_reference_pass_is_gone_on_with(checkpoint: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed), show_on(kill):
        trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path).add_references()
    [file] = (tmp_path / "reference").glob("*/*.jsonl")
    with file.open("a") as incomplete:
        incomplete.write('{"id": "half a li')
    assert asked(trainer(PackedDPOTrainer, checkpoint("llava"), preferences(), tmp_path)) == [4]


def test_other_weights_or_another_max_length_make_another_reference(checkpoint: Any, tmp_path: Path) -> None:
    trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path).add_references()
    assert asked(trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path, max_length=64)) == [1]
    changed = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    with torch.no_grad():
        changed.backbone.language_model.norm.weight[0] += 0.01
    assert asked(changed) == [1]


def test_adapters_make_no_other_reference(checkpoint: Any, tmp_path: Path) -> None:
    one = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    before = packed.digest_of_reference(one.model)
    with torch.no_grad():
        for name, parameter in one.model.named_parameters():
            if "lora_" in name:
                parameter.add_(1)
    assert packed.digest_of_reference(one.model) == before
    assert packed.digest_of_reference(one.model) == packed.digest_of_reference(_unadapted(checkpoint("llava")))


def _unadapted(folder: Path) -> Any:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.get_base_model = lambda: model
    return model


def test_a_reference_that_is_no_number_is_named(checkpoint: Any, tmp_path: Path) -> None:
    made = trainer(PackedDPOTrainer, checkpoint("llava"), preferences((1,)), tmp_path)
    with torch.no_grad():
        made.backbone.language_model.norm.weight[0] = torch.nan
    with pytest.raises(TrainingError, match=r"pair '0/0-1' log-probabilities \[nan, nan\]"):
        made.add_references()


@pytest.mark.parametrize("workers", (0, 1))
def test_pairs_that_would_lose_their_answer_are_all_named_before_training(
    workers: int, checkpoint: Any, tmp_path: Path
) -> None:
    pairs = preferences((3, 1, 1))
    pairs[3:5] = [replace(pair, prompt="the table near a car " * 8) for pair in pairs[3:5]]
    made = trainer(
        PackedDPOTrainer, checkpoint("llava"), pairs, tmp_path, max_length=48, dataloader_num_workers=workers
    )
    with pytest.raises(CutError, match=r"max_length = 48 in 2 pairs, .*: '1/0-1', '2/0-1'; raise max_length") as error:
        made.train()
    assert error.value.ids == ("1/0-1", "2/0-1")
    assert made.state.global_step == 0
    # Those that fit are known.
    assert asked(trainer(PackedDPOTrainer, checkpoint("llava"), pairs[:3], tmp_path, max_length=48)) == []


def test_a_pair_that_is_there_twice_is_named_twice(checkpoint: Any, tmp_path: Path) -> None:
    pairs = [replace(pair, prompt="the table near a car " * 8) for pair in preferences((1,))]
    pairs.append(replace(pairs[0], id="again"))
    made = trainer(PackedDPOTrainer, checkpoint("llava"), pairs, tmp_path, max_length=48)
    with pytest.raises(CutError) as error:
        made.add_references()
    assert error.value.ids == ("0/0-1", "again")
