"""DPO and its control around TRL: what is trained, what is saved, what a killed run goes on from."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from harness.models.spec import find
from support.errors import RunError, TrainingError
from tests.trainers.training_runs import captions, have_same_weights, job_of, killed_at, logged
from trainers.config.training import Training
from trainers.data.rows import Preference
from trainers.training import dpo, loop, sft
from trainers.training.adapters import merge
from trainers.training.checked_trainer import CheckedTrainer
from trainers.training.checkpoints import NOTE, STOPPED, Checkpoint, find_checkpoints, saved_at
from trainers.training.job import trainer
from trainers.training.loop import LEFT_OUT
from trainers.training.model import load_weights
from trainers.training.step_weights import BatchWeight, weigh_batches
from trainers.training.trl_arguments import split_batch


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    return captions(tmp_path_factory.mktemp("images"), 24, "test-preference")


def training(**changes: Any) -> Training:
    return Training.model_validate({"learning_rate": 1e-3, "batch_size": 256, **changes})


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


def test_checkpoints_are_evenly_spaced_and_end_at_the_end() -> None:
    assert saved_at(40, training(checkpoints=4)) == [10, 20, 30, 40]
    assert saved_at(3, training(checkpoints=5)) == [1, 2, 3]
    assert saved_at(7, training(checkpoints=1)) == [7]


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


def test_dpo_learns_to_tell_the_answers_apart(preferences: list[Preference], tmp_path: Path) -> None:
    dpo.train(job_of(preferences, tmp_path, epochs=4.0, checkpoints=1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    accuracies = [line["rewards/accuracies"] for line in lines if "rewards/accuracies" in line]
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert accuracies[-1] > 0.9
    assert margins[-1] > margins[0]


def test_the_first_loss_is_ln_2_plus_the_sft_term(preferences: list[Preference], tmp_path: Path) -> None:
    """Policy and reference are the same model before the first step, so the DPO term is log 2 whatever the model."""
    without = job_of(preferences, tmp_path, sft_weight=0.0, epochs=0.2, checkpoints=1, learning_rate=1e-9)
    dpo.train(without)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(
    ("module", "grouped"), ((dpo, False), (sft, False), (sft, True)), ids=("dpo", "sft", "sft by length")
)
def test_a_run_killed_between_checkpoints_ends_with_the_same_weights(
    module: Any, grouped: bool, preferences: list[Preference], tmp_path: Path
) -> None:
    whole = module.train(job_of(preferences, tmp_path / "whole", group_by_length=grouped))
    cut = job_of(preferences, tmp_path / "cut", group_by_length=grouped)
    with killed_at(5):
        module.train(cut)
    assert [checkpoint.step for checkpoint in find_checkpoints(cut.out, "x")] == [2, 4]
    (cut.out / "checkpoint-6").mkdir()  # torn: no note in it
    again = module.train(cut)
    assert all(map(have_same_weights, whole, again))


@pytest.mark.slow
def test_noise_goes_on_where_a_killed_run_was(preferences: list[Preference], tmp_path: Path) -> None:
    """Killed within the second epoch, whose noise is not the first one's."""

    settings: dict[str, Any] = {
        "loss": "povid-code",
        "sft_weight": 0.0,
        "epochs": 2.0,
        "save_steps": 5,
        "warmup_steps": 0,
    }
    whole = dpo.train(job_of(preferences[:16], tmp_path / "whole", **settings))
    cut = job_of(preferences[:16], tmp_path / "cut", **settings)
    with killed_at(6):
        dpo.train(cut)
    again = dpo.train(cut)
    assert [checkpoint.step for checkpoint in again] == [5, 8]
    assert have_same_weights(whole[-1], again[-1])


@pytest.mark.parametrize("grouped", ("group_pairs", "group_by_length"))
def test_an_order_that_hangs_on_the_processes_is_gone_on_with_by_as_many(
    grouped: str, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 2.0, grouped: True}
    cut = job_of(preferences[:12], tmp_path, **settings)
    with killed_at(3):
        dpo.train(cut)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=f"on 1 processes, and this would be 2: {grouped} orders"):
        dpo.train(cut)
    monkeypatch.delenv("WORLD_SIZE")
    assert [checkpoint.step for checkpoint in dpo.train(cut)] == [2, 4, 6]


def test_a_finished_run_is_not_trained_again(preferences: list[Preference], tmp_path: Path) -> None:
    done = dpo.train(job_of(preferences, tmp_path, checkpoints=1))
    written = (done[0].path / "adapter_model.safetensors").stat().st_mtime_ns
    assert dpo.train(job_of(preferences, tmp_path, checkpoints=1)) == done
    assert (done[0].path / "adapter_model.safetensors").stat().st_mtime_ns == written


# Batches and steps


def test_a_step_has_as_many_pairs_on_any_number_of_processes() -> None:
    authors = training(per_device_batch_size=2)
    for count in (1, 2, 8, 16, 128):
        at_once, accumulated = split_batch(authors, count)
        assert (at_once, at_once * accumulated * count) == (2, 256)
    assert split_batch(authors, 16) == (2, 8)  # as their launcher had it
    assert split_batch(training(), 4) == (64, 1)


@pytest.mark.parametrize(
    ("changes", "count", "said"),
    (
        ({}, 3, "batch_size = 256 can't be shared by 3 processes; possible: 1, 2, 4, 8"),
        (
            {"per_device_batch_size": 3},
            8,
            "is 32 pairs each, which per_device_batch_size = 3 does not divide; possible: 1, 2, 4, 8, 16, 32",
        ),
    ),
)
def test_a_batch_that_cannot_be_shared_names_what_can(changes: dict[str, Any], count: int, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        split_batch(training(**changes), count)


def test_saves_come_every_so_many_steps_and_at_the_end() -> None:
    assert saved_at(250, training(save_steps=100)) == [100, 200, 250]
    assert saved_at(200, training(save_steps=100)) == [100, 200]


def test_accumulated_batches_train_as_whole_ones(preferences: list[Preference], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sft_weight": 0.0, "checkpoints": 1, "log_steps": 1}
    dpo.train(job_of(preferences[:12], tmp_path / "whole", **settings))
    dpo.train(job_of(preferences[:12], tmp_path / "parts", per_device_batch_size=2, **settings))
    assert len(logged(tmp_path / "whole", "loss")) == 3
    assert logged(tmp_path / "parts", "loss") == pytest.approx(logged(tmp_path / "whole", "loss"), rel=1e-3)


@pytest.mark.parametrize(("arm", "plain", "weight"), (("dpo", False, 2.0), ("dpo", True, 0.0), ("sft", False, 0.0)))
def test_a_last_step_of_fewer_pairs_is_shared_out_without_repeating_any(
    arm: str, plain: bool, weight: float, preferences: list[Preference], tmp_path: Path
) -> None:
    """Five pairs in the second of two steps of eight: 2 + 2 + 1 + 0, where one batch has all five at once."""
    settings: dict[str, Any] = {
        "sft_weight": weight,
        "checkpoints": 1,
        "log_steps": 1,
        "batch_size": 8,
        "plain_trl": plain,
    }
    trainer(arm)(job_of(preferences[:13], tmp_path / "whole", **settings))
    trainer(arm)(job_of(preferences[:13], tmp_path / "parts", per_device_batch_size=2, **settings))
    for name in ("loss", "grad_norm", "num_tokens", *(("rewards/margins", "logps/chosen") if arm == "dpo" else ())):
        whole, parts = logged(tmp_path / "whole", name), logged(tmp_path / "parts", name)
        assert len(whole) == 2
        assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_what_a_batch_weighs_in_its_step() -> None:
    """Two processes of two batches of two: seven pairs, whose chosen answers have 10 tokens, but for the first pair's,
    which has 40."""
    first, second = (weigh_batches([[(2, 50), (2, 20)], [(2, 20), (1, 10)]], 8, process) for process in (0, 1))
    assert [one.pairs for one in (*first, *second)] == pytest.approx([8 / 7, 8 / 7, 8 / 7, 4 / 7])
    assert [one.tokens for one in (*first, *second)] == pytest.approx([2.0, 0.8, 0.8, 0.4])
    assert [one.concurrent for one in first] == [one.concurrent for one in second] == pytest.approx([8 / 7, 6 / 7])
    assert all(one.incomplete for one in (*first, *second))
    whole = weigh_batches([[(2, 20)], [(2, 20)]], 4, 0)
    assert whole == [BatchWeight(pairs=1.0, tokens=1.0, incomplete=False, concurrent=1.0)]
    alone = weigh_batches([[(1, 10), (0, 0)], [(0, 0), (0, 0)]], 8, 0)
    assert [(one.pairs, one.tokens, one.concurrent) for one in alone] == [(4.0, 4.0, 1.0), (0.0, 0.0, 0.0)]


def test_packed_and_plain_training_log_the_same(preferences: list[Preference], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"checkpoints": 1, "log_steps": 1}
    dpo.train(job_of(preferences[:12], tmp_path / "packed", **settings))
    dpo.train(job_of(preferences[:12], tmp_path / "plain", plain_trl=True, **settings))
    assert (tmp_path / "packed" / "reference").exists()
    assert not (tmp_path / "plain" / "reference").exists()
    for name in ("loss", "rewards/margins"):
        assert logged(tmp_path / "packed", name) == pytest.approx(logged(tmp_path / "plain", name), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    (
        pytest.param({"loss": "cdpo", "smoothing": 0.1}, id="cdpo"),
        pytest.param({"loss": "ipo"}, id="ipo", marks=pytest.mark.slow),
        pytest.param({"loss": "mpo", "sft_weight": 0.0}, id="mpo", marks=pytest.mark.slow),
        pytest.param({"loss": "povid-code", "sft_weight": 0.0}, id="povid-code"),
        pytest.param(
            {"loss": "povid-paper", "sft_weight": 0.0, "noise": {"place": "after"}},
            id="povid-paper",
            marks=pytest.mark.slow,
        ),
        pytest.param({"precision": "bf16", "gradient_checkpointing": True}, id="bf16", marks=pytest.mark.slow),
        pytest.param(
            {"weight_decay": 0.05, "adam_beta2": 0.98, "warmup_steps": 0, "warmup_ratio": 0.5}, id="optimizer"
        ),
        pytest.param({"group_pairs": True, "workers": 1}, id="grouped", marks=pytest.mark.slow),
    ),
)
def test_every_setting_trains(changes: dict[str, Any], preferences: list[Preference], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2.0, "checkpoints": 1, "log_steps": 1, **changes}
    [last] = dpo.train(job_of(preferences[:8], tmp_path, **settings))
    assert last.step == 4
    assert logged(tmp_path, "rewards/margins")[-1] > logged(tmp_path, "rewards/margins")[0] - 1e-6
    assert logged(tmp_path, "rewards/margins")[-1] != 0


def test_pairs_held_out_are_scored_and_not_trained_on(preferences: list[Preference], tmp_path: Path) -> None:
    whole = replace(job_of(preferences[:16], tmp_path, eval_steps=2, checkpoints=1), held_out=preferences[16:])
    [last] = dpo.train(whole)
    assert last.step == 4
    assert len(logged(tmp_path, "eval_rewards/margins")) == 2


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_pairs_held_out_are_scored_where_training_is_grouped_by_length(
    arm: str, preferences: list[Preference], tmp_path: Path
) -> None:
    whole = job_of(preferences[:16], tmp_path, eval_steps=2, checkpoints=1, group_by_length=True)
    trainer(arm)(replace(whole, held_out=preferences[16:]))
    assert len(logged(tmp_path, "eval_loss")) == 2


# What goes wrong


def test_no_checkpoint_is_made_of_weights_that_are_no_numbers(
    preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boundless(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.nan)
        return torch.tensor(1.0)

    monkeypatch.setattr(
        "accelerate.Accelerator.clip_grad_norm_", lambda self, parameters, *_: boundless(self._models[0])
    )
    with pytest.raises(FloatingPointError, match="step 1 left weights that are no numbers"):
        dpo.train(job_of(preferences, tmp_path, save_steps=1, checkpoints=1, warmup_steps=0))
    assert find_checkpoints(tmp_path, "dpo") == []


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_a_loss_that_is_no_number_ends_the_run_with_its_batch_kept(
    arm: str, preferences: list[Preference], tmp_path: Path
) -> None:
    doomed = job_of(preferences, tmp_path, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step 2; its batch is in .*not-a-number"):
        trainer(arm)(doomed)
    [folder] = (tmp_path / "not-a-number").iterdir()
    told = json.loads((folder / "pairs.json").read_text())
    assert told["loss"] == "nan"
    assert len(told["pairs"]) == 4
    assert {pair["chosen"] for pair in told["pairs"]} <= {pair.chosen for pair in preferences}
    assert "pixel_values" in load_file(folder / "batch.safetensors")
    assert find_checkpoints(tmp_path, arm) == []


def test_training_that_changes_nothing_is_an_error(preferences: list[Preference], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no weight has changed after 2 steps"):
        dpo.train(job_of(preferences, tmp_path, learning_rate=1e-60, warmup_steps=0))


def test_targets_that_match_nothing_name_what_could_be_meant(preferences: list[Preference], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"match no module of scenes-base; its matrices: .*q_proj"):
        dpo.train(job_of(preferences, tmp_path, lora={"targets": r".*\.(c_attn|w1)"}))


def test_four_bits_without_bitsandbytes_say_what_to_install(
    preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match="pip install bitsandbytes"):
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


@pytest.mark.parametrize("arm", ("dpo", "sft"))
@pytest.mark.parametrize("side", ("prompt", "chosen"))
def test_a_text_that_holds_what_stands_for_a_picture_is_named(
    arm: str, side: str, preferences: list[Preference], tmp_path: Path
) -> None:
    text = "an <image> of a ring"
    held = replace(preferences[1], prompt=text) if side == "prompt" else replace(preferences[1], chosen=text)
    pairs = [preferences[0], held]
    with pytest.raises(TrainingError, match=rf"1 of 2 pairs have '<image>' written .*: {pairs[1].id!r}; ") as raised:
        trainer(arm)(job_of(pairs, tmp_path))
    assert "\n" not in str(raised.value)


def batches_of(
    arm: str, preferences: list[Preference], out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> list[list[str]]:
    """The ids of each batch trained on."""
    seen: list[list[str]] = []
    compute = CheckedTrainer.compute_loss

    def noted(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["ids"])
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CheckedTrainer, "compute_loss", noted)
    trainer(arm)(job_of(preferences, out, checkpoints=1, **changes))
    return seen


@pytest.mark.parametrize(("arm", "plain"), (("dpo", False), ("dpo", True), ("sft", False)))
def test_batches_hold_pairs_of_like_length_where_the_recipe_wants_it(
    arm: str, plain: bool, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [replace(pair, prompt="describe the image. " * (1 + index % 3)) for index, pair in enumerate(preferences)]
    length = {pair.id: len(pair.prompt + pair.chosen + pair.rejected) for pair in pairs}

    def spread(out: str, **changes: Any) -> float:
        seen = batches_of(arm, pairs, tmp_path / out, monkeypatch, plain_trl=plain, **changes)
        assert sorted(id for batch in seen for id in batch) == sorted(length)
        spans = [max(length[id] for id in batch) - min(length[id] for id in batch) for batch in seen]
        return sum(spans) / len(spans)

    assert spread("grouped", group_by_length=True) < spread("random") / 2


@pytest.fixture
def too_long(preferences: list[Preference]) -> list[Preference]:
    """The third and the fifth have prompts that 60 tokens do not hold with the image."""
    return [
        replace(pair, prompt="describe the image in detail. " * 8) if place in (2, 4) else pair
        for place, pair in enumerate(preferences[:12])
    ]


@pytest.mark.parametrize(("arm", "plain"), (("dpo", False), ("dpo", True), ("sft", False)))
def test_pairs_that_would_lose_their_answer_are_named_or_left_out(
    arm: str, plain: bool, too_long: list[Preference], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"max_length": 80, "checkpoints": 1, "plain_trl": plain}
    with pytest.raises(TrainingError, match="fill max_length = 80 in 2 pairs") as raised:
        trainer(arm)(job_of(too_long, tmp_path / "refused", **settings))
    assert repr(too_long[2].id) in str(raised.value)
    assert "too_long = 'drop'" in str(raised.value)
    dropping = job_of(too_long, tmp_path / "dropped", too_long="drop", **settings)
    with caplog.at_level("INFO", "trainers.training"):
        [last] = trainer(arm)(dropping)
    assert last.step == 3  # ten pairs, four a step
    assert json.loads((last.path / NOTE).read_text())["left out"] == 2
    assert json.loads((tmp_path / "dropped" / LEFT_OUT).read_text())["ids"] == sorted(
        too_long[place].id for place in (2, 4)
    )
    assert [record.getMessage()[:18] for record in caplog.records] == ["left out: 2 pairs "]
    assert trainer(arm)(dropping) == [last]


# Checkpoints


def test_only_the_last_checkpoints_stay(preferences: list[Preference], tmp_path: Path) -> None:
    keeping = job_of(preferences[:16], tmp_path, save_steps=1, keep=2)
    found = dpo.train(keeping)
    assert [checkpoint.step for checkpoint in found] == [3, 4]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert dpo.train(keeping) == found


def test_who_hears_of_a_checkpoint_can_end_the_run_for_good(preferences: list[Preference], tmp_path: Path) -> None:
    heard: list[Checkpoint] = []

    def enough(checkpoint: Checkpoint) -> bool:
        assert (checkpoint.path / NOTE).exists()
        heard.append(checkpoint)
        return checkpoint.step < 4

    ended = replace(job_of(preferences, tmp_path), saved=enough, note={"data": "abc"})
    assert dpo.train(ended) == heard
    assert [checkpoint.step for checkpoint in heard] == [2, 4]
    assert json.loads((tmp_path / STOPPED).read_text()) == {"step": 4, "steps": 6}
    assert json.loads((heard[0].path / NOTE).read_text())["data"] == "abc"
    assert dpo.train(ended) == heard


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


def test_an_unknown_trainer_names_the_known_ones() -> None:
    with pytest.raises(LookupError, match="dpo, scenes, sft"):
        trainer("ppo")
