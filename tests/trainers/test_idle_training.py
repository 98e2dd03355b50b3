"""Training that would do nothing is refused before it starts; one that did nothing is told apart afterwards."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from harness.models.load import register
from harness.runs.recipe_training import with_short_warm_up
from harness.runs.training_alarms import IDLE, find_idle_training
from support.errors import ModelError, TrainingError
from tests.trainers.one_answer import picture
from tests.trainers.training_runs import captions, job_of
from trainers.config.recipe import preference_recipe
from trainers.config.training import Training
from trainers.data.rows import Preference
from trainers.training import dpo, sft
from trainers.training import model as model_module
from trainers.training.adapters import attach, merge
from trainers.training.checked_trainer import check_answers_differ
from trainers.training.checkpoints import NOTE, read_note
from trainers.training.job import trainer
from trainers.training.model import check_targets
from trainers.training.trl_arguments import warm_up

register()
Checkpoint = Callable[[str], Path]


def training_of(**values: Any) -> Training:
    return Training.model_validate({"learning_rate": 1e-3, "batch_size": 4, **values})


# Learning rates


def test_a_run_with_a_limit_warms_up_for_less_than_it_lasts() -> None:
    recipe = preference_recipe("scenes-demo")
    training = recipe.training.model_copy(update={"warmup_steps": 4, "batch_size": 2, "epochs": 1})
    asked = recipe.model_copy(update={"training": training})
    assert [with_short_warm_up(asked, pairs).training.warmup_steps for pairs in (1, 6, 100)] == [0, 2, 4]


@pytest.mark.parametrize(
    ("steps", "given", "warm"),
    (
        pytest.param(1, {"warmup_ratio": 0.1}, 0, id="a share of one step leaves it to train"),
        pytest.param(1, {"warmup_ratio": 0.9}, 0, id="a large share of one step"),
        pytest.param(2, {"warmup_ratio": 0.9}, 1, id="a large share of two steps"),
        pytest.param(10, {"warmup_ratio": 0.1}, 1, id="a share"),
        pytest.param(10, {"warmup_ratio": 0.11}, 2, id="a share, rounded up"),
        pytest.param(1, {}, 0, id="no warm-up"),
        pytest.param(2, {"warmup_steps": 1}, 1, id="a step of two"),
        pytest.param(2, {"warmup_steps": 9}, 9, id="longer than the run, which still has a rate"),
        pytest.param(1, {"warmup_steps": 1, "scheduler": "constant"}, 1, id="a schedule without warm-up"),
        pytest.param(1, {"warmup_steps": 1}, None, id="one step of one"),
        pytest.param(1, {"warmup_steps": 100}, None, id="many steps of one"),
        pytest.param(1, {"warmup_steps": 1, "scheduler": "linear"}, None, id="linear"),
        pytest.param(1, {"warmup_steps": 1, "scheduler": "constant_with_warmup"}, None, id="constant with warm-up"),
        pytest.param(1, {"warmup_steps": 1, "scheduler": "inverse_sqrt"}, None, id="inverse square root"),
        pytest.param(1, {"warmup_steps": 1, "scheduler": "cosine_with_restarts"}, None, id="restarts"),
    ),
)
def test_a_run_without_a_learning_rate_is_refused(steps: int, given: dict[str, Any], warm: int | None) -> None:
    if warm is not None:
        assert warm_up(training_of(**given), steps) == warm
        return
    with pytest.raises(TrainingError, match=rf"is 0 in every step: the run has {steps} of them, and warmup_steps"):
        warm_up(training_of(**given), steps)


@settings(max_examples=80, deadline=None)
@given(
    steps=st.integers(1, 40),
    ratio=st.floats(0, 1, exclude_max=True),
    scheduler=st.sampled_from(("cosine", "linear", "polynomial")),
)
def test_a_share_never_takes_every_step(steps: int, ratio: float, scheduler: str) -> None:
    assert 0 <= warm_up(training_of(warmup_ratio=ratio, scheduler=scheduler), steps) < steps


def test_a_polynomial_needs_a_step_after_its_warm_up() -> None:
    with pytest.raises(TrainingError, match="'polynomial' has no step left after warmup_steps = 3 of 3"):
        warm_up(training_of(warmup_steps=3, scheduler="polynomial"), 3)
    assert warm_up(training_of(warmup_steps=2, scheduler="polynomial"), 3) == 2


def test_a_warm_up_that_never_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    warm_up(training_of(warmup_steps=8), 8)
    assert ["never gets to 0.001" in record.getMessage() for record in caplog.records] == [True]


# Adapters that are trained

LANGUAGE = r".*language_model.*\.(q_proj|v_proj)"


@pytest.mark.parametrize(
    ("family", "targets", "vision", "complaint"),
    (
        ("llava", LANGUAGE, False, None),
        ("llava", r".*(language_model.*q_proj|multi_modal_projector.linear_1)", False, None),
        ("llava", r".*q_proj", True, None),
        ("qwen2_vl", LANGUAGE, False, None),
        ("qwen2_vl", r".*(language_model.*q_proj|visual\.merger\.mlp\.0)", False, None),
        ("qwen2_5_vl", r".*visual.*\.qkv", True, None),
        ("qwen3_vl", LANGUAGE, False, None),
        ("idefics3", r".*text_model.*q_proj", False, None),
        ("llava", r".*q_proj", False, r"reach \d+ modules of the vision tower of base: '.*vision.*train_vision = true"),
        ("llava", r".*\.(fc1|gate_proj)", False, "of the vision tower"),
        ("llava_next", r".*(q|k|v)_proj", False, "of the vision tower"),
        ("qwen2_vl", r".*(qkv|q_proj)", False, "of the vision tower"),
        ("qwen2_5_vl", r".*\.(q_proj|gate_proj)", False, "of the vision tower"),
        ("idefics3", r".*q_proj", False, "of the vision tower"),
        ("internvl", r".*q_proj", False, "of the vision tower"),
        ("llava", LANGUAGE, True, "train_vision = true, and lora targets .* reach no module of the vision tower"),
        ("llava", r".*(q_proj|lm_head)", True, "'lm_head' of base; leave the ends"),
        ("qwen2_vl", r".*(language_model.*q_proj|lm_head)", False, "'lm_head'"),
        ("llava", r"lm_head", False, "'lm_head'"),
        ("llava", r"nothing", False, "match no module of base; its matrices: .*q_proj"),
        ("qwen2_vl", r".*c_attn", False, "match no module"),
        ("llava", "", False, "match no module"),
        ("llava", r".*embed_tokens", False, None),
        ("llava", r".*language_model.*norm", False, r"no matrices \(LlamaRMSNorm\): '.*layernorm'.*such as"),
        ("llava", r".*language_model", False, r"1 modules of base that are no matrices \(LlamaModel\)"),
        ("qwen2_vl", r".*language_model.*(self_attn|q_proj)", False, r"no matrices \(Qwen2VLAttention\)"),
        ("smolvlm", r".*text_model.*act_fn", False, "no matrices"),
    ),
)
def test_targets_reach_what_they_may(
    family: str, targets: str, vision: bool, complaint: str | None, checkpoint: Checkpoint
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(family), dtype=torch.float32)
    training = training_of(lora={"r": 2, "alpha": 4, "targets": targets}, train_vision=vision)
    if complaint is None:
        check_targets(model, training, "base")
        return
    with pytest.raises(TrainingError, match=complaint) as caught:
        check_targets(model, training, "base")
    assert "\n" not in str(caught.value)


# Adapters of a base


def write_adapter(base: Path, folder: Path, targets: str = LANGUAGE, **given: Any) -> Path:
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM", **given)
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    tuned.save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("language_model.", "old."): value for name, value in weights.items()}


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(weights.items())[: len(weights) // 2])


def one_more(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name, value = next((name, value) for name, value in weights.items() if "lora_A" in name)
    return weights | {name.replace("q_proj", "elsewhere"): value.clone()}


def widened(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([value, value], dim=1) if "lora_A" in name else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    (
        pytest.param(lambda folder: change_weights(folder, renamed), "no weight for 12 of the places", id="names"),
        pytest.param(lambda folder: change_weights(folder, halved), "no weight for 6 of the places", id="half"),
        pytest.param(lambda folder: change_weights(folder, one_more), "has 13 weights, and 12 have a place", id="more"),
        pytest.param(lambda folder: change_weights(folder, widened), "size mismatch", id="wider"),
        pytest.param(lambda folder: change_weights(folder, lambda _: {}), "no weight for 12 of the places", id="empty"),
        pytest.param(lambda folder: change_config(folder, r=4), "size mismatch", id="another rank"),
        pytest.param(lambda folder: change_config(folder, peft_type="NEW"), "doesn't fit its base: ", id="kind"),
        pytest.param(
            lambda folder: change_config(folder, target_modules="x"), "Target modules x not found", id="nowhere"
        ),
        pytest.param(
            lambda folder: change_config(folder, target_modules=r".*language_model.*q_proj"),
            "has 12 weights, and 6 have a place",
            id="fewer places",
        ),
        pytest.param(
            lambda folder: change_config(folder, target_modules=r".*(q_proj|v_proj)"),
            "no weight for 8 of the places",
            id="vision, too",
        ),
        pytest.param(
            lambda folder: (folder / "adapter_model.safetensors").unlink(), "can't be read: ", id="no weights"
        ),
        pytest.param(
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64), "can't be read: ", id="torn"
        ),
    ),
)
def test_a_base_whose_adapter_fits_in_part_is_refused(
    spoil: Callable[[Path], Any], complaint: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    base = checkpoint("llava")
    folder = write_adapter(base, tmp_path / "adapter")
    spoil(folder)
    with pytest.raises(ModelError, match=complaint) as caught:
        merge(base, folder, tmp_path / "merged")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_fits_is_merged_whole(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint("llava")
    folder = write_adapter(base, tmp_path / "adapter")
    before, after = (load_file(path / "model.safetensors") for path in (base, merge(base, folder, tmp_path / "merged")))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 6
    assert all("language_model" in name or "q_proj" in name or "v_proj" in name for name in changed)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    assert attach(model, folder).peft_config


@pytest.mark.parametrize("end", ("lm_head", "embed_tokens"))
def test_an_adapter_of_tied_ends_is_not_merged(end: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = tmp_path / "tied"
    source = checkpoint("qwen2_vl")
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    model.config.text_config.tie_word_embeddings = model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(base)
    AutoProcessor.from_pretrained(source).save_pretrained(base)
    folder = write_adapter(base, tmp_path / "adapter", rf".*(language_model.*q_proj|{end})")
    with pytest.raises(ModelError, match=rf"changes {end}, and its base has lm_head and embed_tokens tied"):
        merge(base, folder, tmp_path / "merged")
    tied = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    training = training_of(lora={"r": 2, "alpha": 4, "targets": rf".*{end}"})
    with pytest.raises(TrainingError, match="tied to the other end"):
        check_targets(tied, training, "base")


# Pairs with nothing to tell apart


@pytest.mark.parametrize(
    ("answers", "room", "equal"),
    (
        ([("a dog", "a cat")], None, False),
        ([("a dog", "a dog")], None, True),
        ([("a dog", "a dog"), ("a dog", "a cat")], None, False),
        ([("a dog", "a dog"), ("a cat", "a cat")], None, True),
        ([("the dog runs", "the dog sleeps")], 2, True),
        ([("the dog runs", "the dog sleeps")], 30, False),
        ([("the dog runs", "the dog sleeps"), ("no one", "no two")], 1, True),
        ([("the dog runs", "the dog sleeps"), ("yes", "no")], 2, False),
        ([("", "")], None, True),
        ([("", "a dog")], None, False),
        ([("a dog", "a dog .")], 2, True),
        ([("the dog runs", "the dog sleeps")], 0, False),  # named as too long elsewhere
    ),
)
def test_pairs_of_equal_answers_alone_are_refused(
    answers: Sequence[tuple[str, str]], room: int | None, equal: bool, checkpoint: Checkpoint
) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    pairs = [
        Preference(id=str(row), prompt="what", images=(picture(1, (28, 28)),), chosen=one, rejected=two, row=row)
        for row, (one, two) in enumerate(answers)
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}], add_generation_prompt=True
    )
    read = processor(text=[text], images=[[pairs[0].images[0].open()]], add_special_tokens=False)
    longest = None if room is None else len(read["input_ids"][0]) + room
    if not equal:
        check_answers_differ(pairs, processor, frozenset(), longest)
        return
    with pytest.raises(TrainingError, match=rf"both answers of each of the {len(pairs)} pairs are the same tokens"):
        check_answers_differ(pairs, processor, frozenset(), longest)


# Afterwards


def logged(step: int, chosen: float, rejected: float, rate: float | None = 1e-3) -> dict[str, Any]:
    figures = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected}
    return {"step": step, "loss": 0.6, **figures} | ({} if rate is None else {"learning_rate": rate})


@pytest.mark.parametrize(
    ("lines", "name"),
    (
        ([logged(1, 0, 0)], None),
        ([logged(1, 0, 0), logged(2, 0, 0)], "reference moves along"),
        ([logged(1, 0, 0, 0.0), logged(2, 0, 0)], None),
        ([logged(1, 0, 0, 0.0), logged(2, 0, 0), logged(3, 0, 0)], "reference moves along"),
        ([logged(1, 0, 0), logged(2, 0.1, 0)], None),
        ([logged(1, 0, 0), logged(2, 0, 0), logged(3, 0.1, -0.1)], None),
        ([logged(1, 0, 0), logged(2, 0.1, 0.1), logged(3, 0.2, 0.2)], "no margin"),
        ([logged(1, 0, 0), logged(2, 0.1, 0.1), logged(3, 0.2, 0.1)], None),
        ([logged(1, 0, 0, None), logged(5, 0, 0, None)], "reference moves along"),
        ([logged(5, 0, 0, None)], "reference moves along"),
        ([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], None),
        ([], None),
    ),
)
def test_a_log_tells_whether_anything_was_learned(
    lines: list[dict[str, Any]], name: str | None, tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = find_idle_training(tmp_path)
    assert (found.name if found else None) == name
    assert name is None or name in IDLE


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    return captions(tmp_path_factory.mktemp("scenes"), 8, "idle")


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_a_run_that_trains_has_no_alarm(arm: str, preferences: list[Preference], tmp_path: Path) -> None:
    *_, last = trainer(arm)(job_of(preferences, tmp_path, warmup_steps=0))
    assert "unchanged" not in read_note(last.path)
    assert find_idle_training(tmp_path) is None


@pytest.mark.parametrize("arm", ("dpo", "sft"))
@pytest.mark.parametrize(
    "values",
    ({"learning_rate": 1e-30}, {"adam_epsilon": 1e30}, {"max_grad_norm": 1e-30}),
    ids=lambda values: next(iter(values)),
)
def test_a_run_of_steps_too_small_is_its_base(
    arm: str, values: dict[str, Any], preferences: list[Preference], tmp_path: Path
) -> None:
    *_, last = trainer(arm)(job_of(preferences, tmp_path, warmup_steps=0, **values))
    assert read_note(last.path)["unchanged"]
    found = find_idle_training(tmp_path)
    assert found is not None
    assert found.name == "nothing learned"


@pytest.mark.parametrize("arm", ("dpo", "sft"))
def test_adapters_that_no_answer_depends_on_are_refused(
    arm: str, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(preferences[:4], tmp_path, warmup_steps=0)
    add = model_module.add_adapters

    def add_to_nothing(model: Any, *given: Any) -> Any:
        model.unused = torch.nn.Linear(2, 2)
        lora = job.recipe.training.lora
        assert lora is not None
        training = job.recipe.training.model_copy(update={"lora": lora.model_copy(update={"targets": "unused"})})
        return add(model, training, *given[1:])

    for kind in (dpo, sft):
        monkeypatch.setattr(kind, "add_adapters", add_to_nothing)
    with pytest.raises(TrainingError, match=r"no answer depends on what is trained.*targets") as caught:
        trainer(arm)(job)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_equal_answers_at_first_do_not_end_a_run(preferences: list[Preference], tmp_path: Path) -> None:
    """The order is the seed's: the one pair to learn from may come late."""
    pairs = [replace(pair, rejected=pair.chosen) for pair in preferences[:-1]] + [preferences[-1]]
    *_, last = dpo.train(job_of(pairs, tmp_path, warmup_steps=0, batch_size=1))
    assert last.step == len(pairs)
    assert "unchanged" not in read_note(last.path)


# Runs begun by an earlier version


@pytest.mark.parametrize("arm", ("dpo", "sft"))
@pytest.mark.parametrize("note", (None, 1, "2"))
def test_a_run_of_other_tokens_is_not_continued(
    arm: str, note: Any, preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(preferences, tmp_path, warmup_steps=0, checkpoints=2)
    first, last = trainer(arm)(job)
    before = (first.path / "adapter_model.safetensors").read_bytes()
    (last.path / NOTE).unlink()  # killed before its end
    held = read_note(first.path) | {"tokens": note}
    (first.path / NOTE).write_text(json.dumps({key: value for key, value in held.items() if value is not None}))
    monkeypatch.setattr("trainers.training.earlier_tokens._has_other_tokens", lambda *_: True)
    with pytest.raises(TrainingError, match="trained by an earlier version, whose answers had other tokens"):
        trainer(arm)(job)
    assert (first.path / "adapter_model.safetensors").read_bytes() == before
    monkeypatch.setattr("trainers.training.earlier_tokens._has_other_tokens", lambda *_: False)
    assert [checkpoint.step for checkpoint in trainer(arm)(job)] == [first.step, last.step]


def test_a_finished_run_of_other_tokens_is_kept(preferences: list[Preference], tmp_path: Path) -> None:
    job = job_of(preferences[:4], tmp_path, warmup_steps=0)
    [last] = dpo.train(job)
    (last.path / NOTE).write_text(json.dumps({**read_note(last.path), "tokens": 1}))
    assert dpo.train(job) == [last]


def test_a_control_is_not_trained_beside_a_run_of_other_tokens(
    preferences: list[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(preferences[:4], tmp_path, warmup_steps=0)
    [last] = dpo.train(job)
    (last.path / NOTE).write_text(json.dumps({**read_note(last.path), "tokens": 1}))
    monkeypatch.setattr("trainers.training.earlier_tokens._has_other_tokens", lambda *_: True)
    with pytest.raises(TrainingError, match="earlier version"):
        trainer("sft")(replace(job, out=tmp_path / "control"))
