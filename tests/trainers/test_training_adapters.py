"""What is trained and saved: adapters of all kinds, all weights, a merged checkpoint."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from harness.models.spec import find
from support.errors import TrainingError
from tests.trainers.training_runs import captions, have_same_weights, job_of, killed_at, logged
from trainers.data.rows import Preference
from trainers.training import dpo, loop
from trainers.training.adapters import merge
from trainers.training.checkpoints import NOTE
from trainers.training.job import trainer
from trainers.training.model import load_weights
from trainers.training.trl_arguments import common_arguments


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    return captions(tmp_path_factory.mktemp("images"), 24, "test-preference")


def logits(model: Any, base: str, preferences: list[Preference]) -> torch.Tensor:
    processor = AutoProcessor.from_pretrained(base)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": preferences[0].prompt}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=[preferences[0].images[0].open().convert("RGB")], return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs).logits
    return found


def base_model(path: str | Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_training_saves_adapters_of_the_language_model_alone(
    arm: str, preferences: list[Preference], tmp_path: Path
) -> None:
    found = trainer(arm)(job_of(preferences, tmp_path))
    assert [(checkpoint.step, checkpoint.arm) for checkpoint in found] == [(2, arm), (4, arm), (6, arm)]
    weights = load_file(found[-1].path / "adapter_model.safetensors")
    assert weights
    assert all("language_model" in name for name in weights)
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert json.loads((found[-1].path / NOTE).read_text())["base"] == "scenes-base"


def test_targets_that_match_nothing_name_what_could_be_meant(preferences: list[Preference], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"match no module of scenes-base; its matrices: .*q_proj"):
        dpo.train(job_of(preferences, tmp_path, lora={"targets": r".*\.(c_attn|w1)"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_offloading_activations_needs_a_gpu(preferences: list[Preference], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="activation_offload = true: there is no GPU"):
        common_arguments(job_of(preferences[:8], tmp_path, activation_offload=True), 8)


def test_four_bits_without_bitsandbytes_say_what_to_install(
    preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match=r"pip install 'vlm-harness\[qlora\]'"):
        dpo.train(job_of(preferences, tmp_path, quantization="4bit"))


@pytest.mark.slow
def test_four_bits_train_packed_as_plainly_and_leave_the_vision_tower_whole(
    preferences: list[Preference], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    settings: dict[str, Any] = {"quantization": "4bit", "checkpoints": 1, "log_steps": 1, "warmup_steps": 0}
    quantized = {
        name
        for name, module in load_weights(job_of(preferences, tmp_path, **settings)).named_modules()
        if "4bit" in type(module).__name__
    }
    assert any(name.endswith("q_proj") for name in quantized)
    assert not any("vision" in name or "projector" in name for name in quantized)
    for plain in (False, True):
        dpo.train(job_of(preferences[:12], tmp_path / str(plain), plain_trl=plain, **settings))
    margins = [logged(tmp_path / str(plain), "rewards/margins") for plain in (False, True)]
    assert margins[0] == pytest.approx(margins[1], abs=0.02)
    assert margins[0][-1] > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", ({"rslora": True}, {"dora": True}, {"init": "gaussian"}, {"init": "orthogonal"}), ids=str
)
def test_variants_of_adapters_load_and_change_what_is_said(
    variant: dict[str, Any], preferences: list[Preference], tmp_path: Path
) -> None:
    [last] = dpo.train(job_of(preferences[:8], tmp_path, checkpoints=1, lora=variant))
    base = find("scenes-base").pretrained
    assert logged(tmp_path, "rewards/margins")[0] == pytest.approx(0, abs=1e-5)
    assert not torch.allclose(
        logits(PeftModel.from_pretrained(base_model(base), str(last.path)), base, preferences),
        logits(base_model(base), base, preferences),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("init", "rslora"), (("pissa", False), ("pissa", True), pytest.param("olora", False, marks=pytest.mark.slow))
)
def test_adapters_that_begin_as_parts_of_the_weights_are_saved_for_the_weights_as_they_were(
    init: str, rslora: bool, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trained model says is what the saved adapter says on the untouched base; and the reference said what the
    base says."""
    kept: list[Any] = []
    original = loop.RunCallback.on_train_end

    def keep(self: Any, *args: Any, model: Any = None, **rest: Any) -> None:
        kept.append(model)
        original(self, *args, **rest)

    monkeypatch.setattr(loop.RunCallback, "on_train_end", keep)
    base = find("scenes-base").pretrained
    [last] = dpo.train(
        job_of(
            preferences[:8], tmp_path, checkpoints=1, warmup_steps=0, log_steps=1, lora={"init": init, "rslora": rslora}
        )
    )
    trained = logits(kept[0], base, preferences)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base_model(base), str(last.path)), base, preferences),
        trained,
        atol=1e-3,
        rtol=1e-3,
    )
    assert (trained - logits(base_model(base), base, preferences)).abs().max() > 1e-2
    assert logged(tmp_path, "rewards/margins")[0] == pytest.approx(0, abs=1e-4)
    with kept[0].disable_adapter():
        assert not torch.allclose(
            logits(kept[0], base, preferences), logits(base_model(base), base, preferences), atol=1e-2
        )


@pytest.mark.slow
@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_a_killed_run_of_such_adapters_ends_with_the_same_weights(
    arm: str, preferences: list[Preference], tmp_path: Path
) -> None:
    whole = trainer(arm)(job_of(preferences, tmp_path / "whole", lora={"init": "pissa"}))
    cut = job_of(preferences, tmp_path / "cut", lora={"init": "pissa"})
    with killed_at(5):
        trainer(arm)(cut)
    again = trainer(arm)(cut)
    assert have_same_weights(whole[-1], again[-1])


@pytest.mark.parametrize(
    ("arm", "train_vision"),
    (
        ("dpo", False),
        pytest.param("dpo", True, marks=pytest.mark.slow),
        pytest.param("sft", False, marks=pytest.mark.slow),
        ("sft", True),
    ),
)
def test_full_training_leaves_the_vision_tower_unless_told_otherwise(
    arm: str, train_vision: bool, preferences: list[Preference], tmp_path: Path
) -> None:
    full = job_of(
        preferences[:8],
        tmp_path,
        full=True,
        checkpoints=1,
        learning_rate=1e-3,
        warmup_steps=0,
        train_vision=train_vision,
    )
    [last] = trainer(arm)(full)
    before, after = base_model(full.base).state_dict(), base_model(last.path).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in changed)
    assert any("projector" in name for name in changed)
    assert any("vision_tower" in name for name in changed) == train_vision
    assert find(str(last.path)).adapter is None
    if arm == "dpo":
        assert logged(tmp_path, "rewards/margins")[0] == pytest.approx(0, abs=1e-4)  # the reference is the base


def test_a_merged_checkpoint_says_what_its_adapter_says(preferences: list[Preference], tmp_path: Path) -> None:
    [last] = dpo.train(job_of(preferences[:12], tmp_path, checkpoints=1, warmup_steps=0))
    base = find("scenes-base").pretrained
    merged = merge(base, last.path, tmp_path / "merged")
    assert merge(base, last.path, tmp_path / "merged") == merged
    adapted = logits(PeftModel.from_pretrained(base_model(base), str(last.path)), base, preferences)
    plain = logits(base_model(base), base, preferences)
    drift = (logits(base_model(merged), str(merged), preferences) - adapted).abs().max()
    assert drift < 0.05 * (adapted - plain).abs().max()
    assert not any(path.name.endswith(".part") for path in tmp_path.iterdir())
