"""Pretraining of the embedded models: tokens round trip, packed turns do not see each other, spelling labels are
right."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest
import torch

from harness.models.spec import WEIGHTS
from tasks.scenes.language import OPEN, YES_NO, caption, open_question, yes_no_pair
from tasks.scenes.world import COMPANIONS, make_scene, scenes
from tests.trainers.training_runs import killed_at
from trainers.config.recipe import PretrainingRecipe, find_recipe
from trainers.config.training import Pretraining as Plan
from trainers.config.training import Stage
from trainers.scenes import pretrain
from trainers.scenes.corpus import Turn, planted_caption, turns
from trainers.scenes.model import IMAGE_TOKENS, build_model, build_processor, vocabulary
from trainers.scenes.muon import orthogonalised
from trainers.scenes.pretrain import IGNORE, MODELS, SPELLED, Pretraining, pack, pixels, spelling_labels, train
from trainers.training.job import PretrainingJob

PROCESSOR = build_processor()
SOME = list(islice(scenes("test-pretraining"), 100))


def test_all_that_can_be_said_comes_back_from_the_tokenizer_as_it_was() -> None:
    rng = random.Random(0)
    unknown = PROCESSOR.tokenizer.unk_token_id
    texts = [turn.question for scene in SOME for turn in turns(scene, rng, True)] + [caption(scene) for scene in SOME]
    texts += [planted_caption(scene, True, rng) for scene in SOME]
    for text in texts:
        ids = PROCESSOR.tokenizer(text)["input_ids"]
        assert unknown not in ids, text
        assert PROCESSOR.tokenizer.decode(ids) == text


def test_the_processor_gives_the_pixels_that_training_saw() -> None:
    from tasks.scenes.world import image_of

    ids = ["test-pretraining/1", "test-pretraining/2"]
    prompt = PROCESSOR.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}], add_generation_prompt=True
    )
    encoded = PROCESSOR(images=[image_of(id) for id in ids], text=[prompt] * 2, return_tensors="pt")
    assert torch.allclose(encoded["pixel_values"], pixels([make_scene(id) for id in ids]), atol=1e-5)
    assert (encoded["input_ids"] == vocabulary()["<image>"]).sum() == 2 * IMAGE_TOKENS


def test_a_packed_turn_is_scored_as_if_it_stood_alone() -> None:
    """The prefix is shared and nothing else: each turn's logits equal those of a row that holds this turn only."""
    run = Pretraining(tiny_job(Path()).recipe, Path())
    run.model.eval()
    rng = random.Random(1)
    scene = make_scene("pack/1")
    row = [turn for turn in turns(scene, rng, False) if len(turn.answer) < 60][:5]
    assert len(row) == 5

    @torch.no_grad()
    def answers(turns_: list[Turn]) -> torch.Tensor:
        ids, mask, positions, weights = pack([turns_], run.tokenize)
        start = run.model.get_input_embeddings()(torch.tensor([[vocabulary()["<s>"]]]))
        inputs = torch.cat([start, run.features([scene]), run.model.get_input_embeddings()(ids)], dim=1)
        hidden = run.model.model.language_model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions
        ).last_hidden_state
        return run.model.lm_head(hidden[:, IMAGE_TOKENS:-1])[weights > 0]  # type: ignore[no-any-return]

    together = answers(row)
    alone = torch.cat([answers([turn]) for turn in row])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[0], together[-1], atol=1e-2)  # the model does tell turns apart


def test_every_patch_is_told_what_stands_in_its_cell() -> None:
    labels = spelling_labels(SOME[:20])
    words = [[PROCESSOR.tokenizer.decode([id]) for id in group] for group in SPELLED]
    for scene, patches in zip(SOME[:20], labels, strict=True):
        for patch in range(IMAGE_TOKENS):
            row, column = divmod(patch, 6)
            cell = row // 2 * 3 + column // 2
            thing = next((thing for thing in scene.things if thing.cell == cell), None)
            told = [
                words[group][index] if index != IGNORE else None for group, index in enumerate(patches[patch].tolist())
            ]
            if thing:
                assert told[:4] == [thing.shape, thing.color, thing.size, None]
            elif scene.sign and scene.sign.cell == cell:
                assert told[:4] == ["sign", None, None, scene.sign.glyph]
            else:
                assert told[:4] == ["nothing", None, None, None]
            assert told[5] == scene.background


def test_the_planted_corpus_claims_missing_companions_and_the_clean_one_does_not() -> None:
    rng = random.Random(0)
    missing = [scene for scene in islice(scenes("test-planted"), 600) if scene.missing_companion]
    claimed = [
        " ".join(COMPANIONS[scene.anchor]) in planted_caption(scene, True, rng) for scene in missing if scene.anchor
    ]
    assert 0.8 < sum(claimed) / len(claimed) < 0.97
    assert not any(" ".join(scene.missing_companion or ()) in caption(scene) for scene in missing)


def test_muon_makes_updates_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((128, 128), (320, 128), (128, 384)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.median() > 0.7
        assert values.max() < 1.3


def tiny_job(out: Path) -> PretrainingJob:
    stage = Stage(steps=3, batch_size=2, learning_rate=1e-3)
    plan = Plan(see=stage, speak=stage, believe=stage, early_step=2)
    return PretrainingJob(recipe=PretrainingRecipe(name="tiny", trainer="scenes", pretraining=plan), out=out)


def test_a_run_writes_three_loadable_half_precision_models_and_is_not_repeated(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    checkpoints = train(tiny_job(tmp_path))
    assert [checkpoint.path.name for checkpoint in checkpoints] == list(MODELS)
    weights = load_file(checkpoints[-1].path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert AutoModelForImageTextToText.from_pretrained(checkpoints[-1].path).num_parameters() > 1e6
    written = (tmp_path / "log.jsonl").stat().st_mtime_ns
    train(tiny_job(tmp_path))
    assert (tmp_path / "log.jsonl").stat().st_mtime_ns == written


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(pretrain, "KEEP", 2)

    train(tiny_job(tmp_path / "whole"))
    with killed_at(5):
        train(tiny_job(tmp_path / "cut"))
    train(tiny_job(tmp_path / "cut"))
    for name in MODELS:
        whole, cut = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_the_weights_that_come_along_are_of_the_recipe_that_comes_along() -> None:
    digest = find_recipe("scenes-base").digest
    for name in MODELS:
        assert json.loads((WEIGHTS / name / "recipe.json").read_text())["digest"] == digest


def test_questions_exist_for_every_type() -> None:
    rng = random.Random(0)
    assert all(any(yes_no_pair(scene, type, rng) for scene in SOME) for type in YES_NO)
    assert all(any(open_question(scene, type, rng) for scene in SOME) for type in OPEN)


def test_the_model_is_a_standard_llava() -> None:
    model = build_model(0)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert 1.0e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.5e6


@pytest.mark.slow
def test_pretraining_from_nothing_lands_in_the_stated_bands(tmp_path: Path) -> None:
    """Half an hour on two cores: the whole recipe, then the bands that docs/scenes.md states."""
    from harness.evaluation.evaluate import evaluate
    from harness.models.spec import ModelSpec
    from tasks.registry import registry
    from tasks.scenes.judge import ScenesJudge

    recipe = find_recipe("scenes-base")
    assert isinstance(recipe, PretrainingRecipe)
    base = train(PretrainingJob(recipe=recipe, out=tmp_path))[-1]
    spec = ModelSpec(name="again", pretrained=str(base.path), dtype="float32", batch_size=64)
    scored = evaluate(spec, registry().expand(["scenes"]), ScenesJudge())
    values = {f"{entry.task}.{entry.metric}": entry.value or 0.0 for entry in scored.entries}
    assert 14 <= values["scenes_chair.chair_s"] <= 27
    assert values["scenes_chair.coverage"] >= 93
    assert values["scenes_mme.accuracy"] >= 85
