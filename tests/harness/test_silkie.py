"""Silkie from end to end on a tiny checkpoint of its layout: asked, scored, trained by DPO, scored again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file

from harness.cli import main as cli
from harness.engine.config import EngineConfig
from harness.models.load import load
from harness.models.spec import MODELS, at, find
from support.images import ImageRef
from tasks.scenes.language import caption
from tasks.scenes.world import image_of, make_scene
from tests.harness.lm_requests import ask
from tests.harness.qwen_vl_checkpoint import write
from trainers.config.recipe import PreferenceRecipe, preference_recipe
from trainers.data.rows import Preference
from trainers.training import dpo
from trainers.training.job import Job
from trainers.vlfeedback.instructions import write_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "silkie"
    write(folder)
    return folder


def requests(lm: Any, questions: int = 3, images: int = 3) -> list[Instance]:
    shown = [([image_of(f"t/{i}")], f"is there a cat? {'the ' * q}") for i in range(images) for q in range(questions)]
    return ask(lm, *shown, max_gen_toks=8)


def test_an_image_is_encoded_once_and_answers_are_those_of_one_question_at_a_time(checkpoint: Path) -> None:
    spec = at(MODELS["silkie"], checkpoint)
    shared: Any = load(spec, EngineConfig(dtype="float32"))
    exact: Any = load(spec, EngineConfig(dtype="float32", exact=True))
    answers = shared.generate_until(requests(shared), disable_tqdm=True)
    assert answers == exact.generate_until(requests(exact), disable_tqdm=True)
    assert len(set(answers)) > 3
    assert shared.images_encoded == 3
    assert str(shared.sharing) == "answers, image features, prefix"
    assert shared.tokenizer.decode(shared.tokens(requests(shared)[0].args[0], [image_of("t/0")])).startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Picture 1: <img></img>\nis there a cat?"
    )


def test_silkie_is_scored_and_its_row_says_so(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"eval --model silkie --model-path {checkpoint} --tasks scenes_pope --limit 6 --json".split()
    assert cli.run([*command, "--max-failed", "1", "--out", str(tmp_path)]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["model"] for entry in entries} == {"silkie"}
    assert {entry["samples"] for entry in entries} == {6}
    assert entries[0]["provenance"]["shared"] == "answers, image features, prefix"
    assert cli.run([*command, "--out", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_silkie_is_trained_by_dpo_and_its_adapter_is_a_model(checkpoint: Path, tmp_path: Path) -> None:
    from harness.models.load import register

    register()
    preferences = []
    for index in range(4):
        scene = make_scene(f"test-silkie/{index}")
        image = tmp_path / write_image(scene, tmp_path)
        right = caption(scene)
        pair: dict[str, Any] = {"chosen": right, "rejected": "a cat " + right, "margin": 1.0, "row": index}
        shown = (ImageRef(image.name, image),)
        preferences.append(Preference(id=scene.id, prompt="what is there?", images=shown, **pair))
    recipe = preference_recipe("scenes-demo")
    assert recipe.training is not None
    assert recipe.training.lora is not None
    lora = recipe.training.lora.model_copy(
        update={"r": 4, "alpha": 16, "targets": r".*transformer\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.w1|mlp\.w2)"}
    )
    training = recipe.training.model_copy(
        update={"batch_size": 2, "checkpoints": 1, "lora": lora, "learning_rate": 1e-2, "epochs": 3.0}
    )
    recipe = PreferenceRecipe.model_validate({**recipe.model_dump(), "training": training.model_dump()})
    base: dict[str, Any] = {"base_name": str(checkpoint), "base": str(checkpoint), "dtype": "float32"}
    job = Job(recipe=recipe, out=tmp_path / "dpo", preferences=preferences, **base)
    (last,) = dpo.train(job)
    weights = load_file(last.path / "adapter_model.safetensors")
    adapted = {name.split(".h.0.")[1].rsplit(".", 2)[0] for name in weights if ".h.0." in name}
    assert adapted == {"attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2"}
    assert any(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name)
    losses = [
        line["loss"]
        for line in map(json.loads, (tmp_path / "dpo" / "log.jsonl").read_text().splitlines())
        if "loss" in line
    ]
    assert losses
    trained: Any = load(find(str(last.path)), EngineConfig(dtype="float32"))
    plain: Any = load(find(str(checkpoint)), EngineConfig(dtype="float32"))
    ids = torch.arange(30, 60)[None]
    with torch.no_grad():
        assert not torch.equal(trained.hf(ids).logits, plain.hf(ids).logits)
    assert len(trained.generate_until(requests(trained), disable_tqdm=True)) == 9
