"""Every architecture of the zoo answers as plain `model.generate` does, one question at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import is_torchvision_available

from harness.engine import equivalence_check, scheduler
from harness.engine.families import VERIFIED
from harness.models.load import load
from harness.models.spec import find
from harness.models.torchvision_shim import VideoSlot, allow_missing_torchvision
from tests.harness.lm_requests import GREEDY, instance
from tests.harness.zoo import FAMILIES

QUESTIONS = ("Is there a dog in the image?", "What is the color of the car? Describe it in detail.")
SIZES = ((40, 30), (60, 90), (118, 112))

allow_missing_torchvision()


def picture(index: int) -> Image.Image:
    """Patches of colour, in its own size."""
    colours = np.random.default_rng(index).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(SIZES[index], Image.Resampling.NEAREST)


@dataclass(frozen=True)
class Plain:
    """A family as transformers itself runs it."""

    family: str
    model: Any
    processor: Any

    def inputs(self, image: Image.Image | None, question: str) -> Any:
        shown = [] if image is None else [image]
        if self.processor.chat_template:
            parts = [*({"type": "image", "image": one} for one in shown), {"type": "text", "text": question}]
            settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            return self.processor.apply_chat_template([{"role": "user", "content": parts}], **settings)
        if self.family == "idefics":
            said = [*(["User:", *shown, question] if shown else [f"User: {question}"])]
            said = [*said[:-1], f"{said[-1]}<end_of_utterance>", "\nAssistant:"]
            return self.processor(text=[said], return_tensors="pt", add_end_of_utterance_token=False)
        text = {"paligemma": f"<image>answer en {question}", "fuyu": f"{question}\n"}.get(self.family, question)
        return self.processor(images=image, text=text, return_tensors="pt")

    def ends(self) -> dict[str, Any]:
        """How the authors let IDEFICS's answers end, and what they may not hold."""
        if self.family != "idefics":
            return {}
        of = self.processor.tokenizer.convert_tokens_to_ids
        never = [[of("<image>")], [of("<fake_token_around_image>")]]
        return {"eos_token_id": [of("<end_of_utterance>"), of("</s>")], "bad_words_ids": never}

    def answer(self, image: Image.Image | None, question: str) -> str:
        inputs = self.inputs(image, question)
        tokenizer = self.processor.tokenizer
        with torch.inference_mode():
            given = {"max_new_tokens": GREEDY["max_gen_toks"], "do_sample": False, "repetition_penalty": 1.0}
            written = self.model.generate(**inputs, **given, **self.ends())[0]
        answer: str = tokenizer.decode(written[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.split(tokenizer.eos_token)[0]


class Zoo:
    """Families as they are asked for, each written and loaded once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, family: str) -> Path:
        if not (self.root / family).is_dir():
            FAMILIES[family](self.root / family)
        return self.root / family

    @cache  # noqa: B019
    def plain(self, family: str) -> Plain:
        model = AutoModelForImageTextToText.from_pretrained(self.folder(family), dtype=torch.float32).eval()
        return Plain(family, model, AutoProcessor.from_pretrained(self.folder(family)))

    @cache  # noqa: B019
    def lm(self, family: str) -> Any:
        return load(find(str(self.folder(family))))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2))
    yield Zoo(tmp_path_factory.mktemp("zoo"))
    torch.set_num_threads(before)


def request(lm: Any, image: Image.Image | None, question: str) -> Instance:
    content = question if image is None else f"<image>{question}"
    if lm.processor.chat_template:
        content = lm.apply_chat_template([{"role": "user", "content": content}])
    return instance(content, [] if image is None else [image])


LEVELS = dict.fromkeys(FAMILIES, "prefix") | dict.fromkeys(("instructblip", "idefics", "fuyu"), "answers")
LEVELS["paligemma"] = "features"
"""How much of its work each family shares."""
NEVER_BLIND = ("instructblip", "paligemma", "fuyu")
"""Families that have no prompts without an image."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("known", (True, False), ids=("known", "checked"))
def test_answers_equal_plain_generation(zoo: Zoo, family: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MIN_SHARED_PREFIX", 1)
    if not known:  # what is done with a family that these tests don't cover
        monkeypatch.setattr(equivalence_check, "VERIFIED", frozenset())
    asked = [(picture(index), question) for index in range(3) for question in QUESTIONS]
    expected = [zoo.plain(family).answer(image, question) for image, question in asked]
    assert len(set(expected)) >= 4  # else equality says little
    lm = load(find(str(zoo.folder(family))))
    got = lm.generate_until([request(lm, image, question) for image, question in asked], disable_tqdm=True)
    assert got == [answer.strip() for answer in expected]
    assert lm.sharing.level == LEVELS[family], lm.sharing.reasons
    assert lm.images_encoded == (3 if lm.sharing.shares_images else 0)
    if lm.sharing.level == "prefix":
        assert lm.counts["prefix shared"] >= 6
    if known:
        assert (lm.hf.config.model_type in VERIFIED) is lm.sharing.shares_images


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NEVER_BLIND])
def test_a_prompt_without_an_image_is_answered_beside_others(zoo: Zoo, family: str) -> None:
    expected = zoo.plain(family).answer(None, QUESTIONS[1])
    lm = zoo.lm(family)
    asked = [(picture(0), QUESTIONS[0]), (None, QUESTIONS[1]), (picture(1), QUESTIONS[0])]
    got = lm.generate_until([request(lm, image, question) for image, question in asked], disable_tqdm=True)
    assert got[1] == expected.strip()


class TestWithoutTorchvision:
    """Processors whose video slot is filled with a stand-in."""

    pytestmark = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")

    @pytest.mark.parametrize("family", ("llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "gemma4"))
    def test_saved_and_loaded_with_the_videos_settings(self, zoo: Zoo, family: str, tmp_path: Path) -> None:
        plain = zoo.plain(family)
        assert isinstance(plain.processor.video_processor, VideoSlot)
        plain.processor.save_pretrained(tmp_path)
        again = AutoProcessor.from_pretrained(tmp_path)
        assert type(again) is type(plain.processor)
        assert again.video_processor.settings == plain.processor.video_processor.settings
        before, after = (Plain(family, None, one).inputs(picture(1), QUESTIONS[0]) for one in (plain.processor, again))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_settings_of_videos_keep_their_file(self, zoo: Zoo) -> None:
        own = json.loads((zoo.folder("qwen3_vl") / "video_preprocessor_config.json").read_text(encoding="utf-8"))
        assert zoo.plain("qwen3_vl").processor.video_processor.settings == own

    def test_a_video_is_refused_by_name(self, zoo: Zoo) -> None:
        processor = zoo.plain("qwen2_5_vl").processor
        with pytest.raises(ImportError, match="videos need torchvision"):
            processor(videos=[np.zeros((2, 28, 28, 3), np.uint8)], text="<|video_pad|>")

    def test_allowing_it_again_changes_nothing(self) -> None:
        from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil

        before = FuyuImageProcessorPil.patchify_image
        allow_missing_torchvision()
        assert FuyuImageProcessorPil.patchify_image is before
