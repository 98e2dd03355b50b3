"""A hub copy of LLaVA-1.5 (llava-hf) is asked and trained as the converted original: the same tokens and pixels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from PIL import Image

from harness.cli.lm_eval import settings as lm_eval_settings
from harness.datasets.pool import PoolModels
from harness.engine.config import EngineConfig
from harness.engine.lm import SharedImageLM
from harness.evaluation.model_check import check_model
from harness.evaluation.parity import parity
from harness.evaluation.protocol import as_asked
from harness.models.chat_templates import chat_template_of
from harness.models.convert_llava import convert
from harness.models.fetch import fetch
from harness.models.load import identity_when_asked, load
from harness.models.spec import ModelSpec, find
from harness.runs.recipe_training import base_to_train
from support.errors import SettingError, TrainingError
from tasks.registry import registry
from tests.harness.llava_originals import CHAT, build, original_weights, picture, tower_of, write_source
from tests.harness.zoo import FAMILIES
from trainers.config.data import PoolModel
from trainers.data.chat import TOKENS_VERSION
from trainers.data.collators import PairCollator
from trainers.training.earlier_tokens import check_begun_alike
from trainers.training.llava_15 import CHAT_TEMPLATE, SYSTEM, is_hub_copy, padded
from trainers.training.read_base import read_processor

# chat_template.json of llava-hf/llava-1.5-7b-hf, as transformers' tests/models/llava/test_processing_llava.py has it.
HUB_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ASKED = [{"role": "user", "content": "<image>what is it"}]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A converted original, and the same weights in the files of a hub copy."""
    folder, model = tmp_path_factory.mktemp("llava"), build(linear=False)
    tower_of(model).save_pretrained(folder / "clip")
    source = write_source(folder / "original", original_weights(model))
    convert(source, folder / "converted", vision=folder / "clip")
    hub = Path(shutil.copytree(folder / "converted", folder / "llava-1.5-7b-hf"))
    (hub / "chat_template.jinja").unlink()
    (hub / "chat_template.json").write_text(json.dumps({"chat_template": HUB_TEMPLATE}))
    settings = json.loads((hub / "processor_config.json").read_text())
    settings["image_processor"] |= {"image_processor_type": "CLIPImageProcessor"}
    del settings["image_processor"]["do_pad"]
    (hub / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")))
    (hub / "processor_config.json").write_text(json.dumps(settings))
    return folder / "converted", hub


def spec_of(folder: Path, protocol: str = "official") -> ModelSpec:
    return as_asked(fetch(find(str(folder))), protocol)


def test_it_is_evaluated_on_the_originals_tokens_and_pixels(both: tuple[Path, Path]) -> None:
    converted, hub = (load(spec_of(folder)) for folder in both)
    prompts = [lm.apply_chat_template([dict(turn) for turn in ASKED]) for lm in (converted, hub)]
    assert prompts == [CHAT, CHAT]
    mine, theirs = (lm.processor_inputs(CHAT, [picture()]) for lm in (hub, converted))
    assert mine["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert torch.equal(mine["pixel_values"], theirs["pixel_values"])
    assert hub.tokens(CHAT, [picture()]) == converted.tokens(CHAT, [picture()])
    assert hub.provenance()["pictures"] == "padded to a square with the mean colour"
    assert hub.provenance()["chat template"] == converted.provenance()["chat template"]


def test_bare_it_is_asked_by_its_own_files(both: tuple[Path, Path]) -> None:
    lm: Any = load(spec_of(both[1], "bare"))
    prompt = lm.apply_chat_template([dict(turn) for turn in ASKED])
    assert prompt == "USER: <image>\nwhat is it ASSISTANT:"
    assert "pictures" not in lm.provenance()
    official: Any = load(spec_of(both[1]))
    pixels = [each.processor_inputs(CHAT, [picture()])["pixel_values"] for each in (lm, official)]
    assert not torch.equal(*pixels)


def test_it_is_trained_on_the_originals_rows(both: tuple[Path, Path]) -> None:
    rows = []
    for folder in both:
        base = base_to_train(fetch(find(str(folder))), "base")
        processor = read_processor(base["base"], "base", base["chat_template"])
        said = {"role": "assistant", "content": "it is"}
        pair = {"prompt": [{"role": "user", "content": "what is it"}], "chosen": [said], "rejected": [said]}
        rows.append(PairCollator(processor)([{**pair, "images": [picture()], "id": "1"}]))
    first, second = rows
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_pads_a_picture_is_part_of_what_names_answers(both: tuple[Path, Path]) -> None:
    facts = [identity_when_asked(spec_of(both[1], choice), EngineConfig()) for choice in ("official", "bare")]
    assert facts[0] != facts[1]


def test_what_asks_otherwise_is_no_hub_copy(both: tuple[Path, Path], tmp_path: Path) -> None:
    converted, hub = both
    assert is_hub_copy(hub, HUB_TEMPLATE)
    assert not is_hub_copy(converted, CHAT_TEMPLATE)
    for template in (CHAT_TEMPLATE, "{{ messages }}", "{% broken", None, "A sentence. " + HUB_TEMPLATE):
        assert not is_hub_copy(hub, template)
    scenes = fetch(find("scenes-base"))
    assert chat_template_of(replace(scenes, as_authors=True)) == chat_template_of(scenes)
    FAMILIES["llava_next"](tmp_path)
    assert not is_hub_copy(tmp_path, HUB_TEMPLATE)


def test_padding_that_would_not_act_is_refused(tmp_path: Path) -> None:
    FAMILIES["qwen2_vl"](tmp_path)
    with pytest.raises(SettingError, match="picture = 'pad': would not act on pictures of Qwen2VLImageProcessor"):
        load(replace(fetch(find(str(tmp_path))), pad_pictures=True))


@pytest.mark.parametrize("size", ((40, 20), (20, 40)))
def test_a_picture_that_is_sent_is_padded_alike(size: tuple[int, int]) -> None:
    shown = padded(Image.new("RGB", size, (255, 0, 0)))
    assert shown.size == (40, 40)
    assert shown.getpixel((0, 0)) == shown.getpixel((39, 39)) == (122, 116, 104)  # LLaVA's
    assert shown.getpixel((20, 20)) == (255, 0, 0)
    square = Image.new("RGB", (20, 20))
    assert padded(square) is square


def test_a_run_that_was_begun_without_the_sentence_is_not_gone_on_with(both: tuple[Path, Path], tmp_path: Path) -> None:
    processor = read_processor(str(both[1]), "base", CHAT_TEMPLATE)
    begun = tmp_path / "checkpoint-2"
    begun.mkdir()
    (begun / "checkpoint.json").write_text(json.dumps({"tokens": TOKENS_VERSION}))
    (begun / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    check_begun_alike(tmp_path, [], processor, frozenset())
    (begun / "chat_template.jinja").write_text(HUB_TEMPLATE)
    with pytest.raises(TrainingError, match="checkpoint-2 was trained by an earlier version, which asked LLaVA"):
        check_begun_alike(tmp_path, [], processor, frozenset())


def member_of(folder: Path, **more: Any) -> PoolModel:
    return PoolModel(model=str(folder), temperature=0, max_new_tokens=4, **more)


def shown_to(lm: Any) -> tuple[list[int], Any]:
    """Tokens and pixels of one question."""
    prompt = lm.apply_chat_template(ASKED)
    return lm.tokens(prompt, [picture()]), lm.processor.image_processor.do_pad


def test_a_pool_and_lm_eval_ask_it_as_its_authors(both: tuple[Path, Path]) -> None:
    wanted = shown_to(load(spec_of(both[0])))
    assert wanted[1] is True
    for folder in both:
        assert shown_to(PoolModels()(member_of(folder))) == wanted
        name, engine, more = lm_eval_settings({"pretrained": str(folder), "dtype": "float32"}, {"device": "cpu"})
        assert shown_to(SharedImageLM(name, engine, **more)) == wanted


def test_a_check_and_parity_ask_it_as_its_authors(both: tuple[Path, Path]) -> None:
    sentence = "A chat between a curious user"
    for folder in both:
        assert sentence in check_model(fetch(find(str(folder)))).asked[0].prompt
        made: list[Any] = []
        task = registry().task("scenes_pope")
        parity(
            find(str(folder)),
            task,
            1,
            load=lambda *given, made=made, **more: made.append(load(*given, **more)) or made[0],
        )
        assert made[0].processor.image_processor.do_pad is True
        assert sentence in made[0].apply_chat_template(ASKED)


def test_a_served_member_of_the_family_is_sent_its_sentence_and_square_pictures(server: Any, tmp_path: Path) -> None:
    server.reply = lambda prompt: "A thing."
    for name, is_family in (("llava-1.5-7b", True), ("other", False)):
        lm: Any = PoolModels(ledger=tmp_path / "ledger.sqlite")(PoolModel(model=name, url=server.url))
        assert lm.pads is is_family
        context = lm.apply_chat_template([{"role": "user", "content": "<image>Why?"}])
        assert (SYSTEM in context) is is_family
        lm.generate_until([Instance("generate_until", {}, (context, {"until": []}, {"visual": [picture()]}), 0)])
        assert [turn["role"] for turn in server.log[-1]["messages"]] == ["system"] * is_family + ["user"]
