"""Whether a checkpoint uses its images, and what merging keeps of its adapter."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.models.load import register
from harness.models.spec import find
from harness.runs.image_use_checks import ImageUseChecks, check_merging, draw_pairs, measure_image_use, render
from harness.runs.training_alarms import find_check_alarms
from support.errors import InputError, RunError
from support.images import ImageRef
from tasks.scenes.language import caption
from tasks.scenes.world import make_scene
from tests.harness.zoo import FAMILIES
from trainers.data.chat import Chat, stops_of
from trainers.data.rows import Preference
from trainers.vlfeedback.instructions import write_image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Preference]:
    """A caption of the picture, and one of another."""
    images = tmp_path_factory.mktemp("images")
    scenes = [make_scene(f"test-diagnostics/{index}") for index in range(41)]
    return [
        Preference(
            id=scene.id,
            prompt="describe the image in detail.",
            images=(ImageRef(scene.id, images / write_image(scene, images)),),
            chosen=caption(scene),
            rejected=caption(other),
            row=index,
        )
        for index, (scene, other) in enumerate(pairwise(scenes))
    ]


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], Any]:
    from transformers import AutoModelForImageTextToText

    register()
    return lambda name: AutoModelForImageTextToText.from_pretrained(find(name).pretrained, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    register()
    return AutoProcessor.from_pretrained(find("scenes-base").pretrained)


def adapted(model: Any, targets: str = r".*language_model.*q_proj", scale: float = 0.5) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * scale)
    return tuned.eval()


def test_a_model_that_sees_tells_pairs_apart_by_their_image(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    blank = adapted(loaded("scenes-base"), scale=3.0)  # a reference that is at a loss
    seen = measure_image_use(loaded("scenes-base"), processor, pairs, reference=blank)
    assert seen.accuracy["image"][0] > 70
    assert {seen.verdicts[view].outcome for view in ("blank", "other")} == {"worse"}
    assert seen.sees
    assert not seen.blind
    assert find_check_alarms(ImageUseChecks(use=seen, held_out=True, merged=None)) == []


def test_a_model_that_learned_words_alone_is_called_blind(loaded: Any, processor: Any, pairs: list[Preference]) -> None:
    tuned, base = loaded("scenes-base"), loaded("scenes-base")
    with torch.no_grad():
        tuned.lm_head.weight *= 0.5  # surer of nothing: what is unlikely and long gains most, whatever the picture
    told = [
        Preference(
            id=pair.id, prompt=pair.prompt, images=pair.images, chosen="a red ring. " * 6, rejected="no", row=pair.row
        )
        for pair in pairs
    ]
    seen = measure_image_use(tuned, processor, told, reference=base)
    assert seen.blind
    checks = ImageUseChecks(use=seen, held_out=False, merged=None)
    assert [alarm.name for alarm in find_check_alarms(checks)] == ["image-blind"]
    assert "trained on" in render(checks)
    assert ImageUseChecks.from_json(json.loads(json.dumps(checks.to_json()))) == checks


def test_few_pairs_are_no_proof_of_blindness(loaded: Any, processor: Any, pairs: list[Preference]) -> None:
    seen = measure_image_use(
        loaded("scenes-base"), processor, pairs[:5], reference=adapted(loaded("scenes-base"), scale=3.0)
    )
    assert not seen.sees
    assert not seen.blind
    assert "so few pairs" in render(ImageUseChecks(use=seen, held_out=True, merged=None))


def test_an_untrained_policy_tells_nothing_apart_and_has_not_moved(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    seen = measure_image_use(adapted(loaded("scenes-base"), scale=0.0), processor, pairs[:4])
    assert {value for value, *_ in seen.accuracy.values()} == {50.0}
    assert seen.moved == 0.0


def test_batches_change_nothing_and_where_one_picture_is_all_there_is_it_says_so(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    tuned = adapted(loaded("scenes-base"))
    alone, together = (measure_image_use(tuned, processor, pairs[:6], batch_size=size) for size in (1, 6))
    assert alone.accuracy == together.accuracy
    assert alone.moved == pytest.approx(together.moved, rel=1e-4)
    assert alone.moved > 0
    assert "same image" in measure_image_use(tuned, processor, pairs[:1]).refused["other"]


@pytest.mark.parametrize("family", ("llava", "qwen2_5_vl", "idefics3", "gemma3", "internvl"))
def test_log_ratios_are_those_of_one_plain_sequence_each(family: str, pairs: list[Preference], tmp_path: Path) -> None:
    """Without batches, without padding, and with the logits of every position."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from harness.runs.image_use_checks import _log_ratios

    register()
    FAMILIES[family](tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    tuned = adapted(
        AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32),
        targets=r".*(language_model|text_model).*(q|v)_proj",
        scale=0.1,
    )
    pictures = [[picture.open().convert("RGB").resize((56, 42)) for picture in pair.images] for pair in pairs[:3]]
    found = _log_ratios(tuned, processor, pairs[:3], pictures, None, measured=False)
    for pair, shown, ratio in zip(pairs[:3], pictures, found, strict=True):
        for answer, value in ((pair.chosen, ratio.chosen), (pair.rejected, ratio.rejected)):
            assert value == pytest.approx(plain_ratio(tuned, processor, pair.prompt, answer, shown), abs=2e-3)


def plain_ratio(model: Any, processor: Any, prompt: str, answer: str, pictures: list[Any]) -> float:
    turn = Chat(processor, stops_of(model, processor)).read([{"role": "user", "content": prompt}], pictures, [answer])
    whole = dict(processor(text=[turn.prompt], images=[pictures], return_tensors="pt", add_special_tokens=False))
    start, more = whole["input_ids"].shape[1], torch.tensor(turn.answers)
    whole["input_ids"] = torch.cat([whole["input_ids"], more], dim=1)
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    for types in {"token_type_ids", "mm_token_type_ids"} & whole.keys():
        whole[types] = torch.cat([whole[types], torch.zeros_like(more)], dim=1)

    def log_probability() -> float:
        logits = model(**whole).logits[0, start - 1 : -1].float().log_softmax(-1)
        return float(logits.gather(1, whole["input_ids"][0, start:, None]).sum())

    with torch.inference_mode():
        policy = log_probability()
        with model.disable_adapter():
            return policy - log_probability()


def test_merging_keeps_what_the_adapter_does_and_nothing_trained_is_said(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    merged = check_merging(adapted(loaded("scenes-base")), processor, pairs[0])
    assert merged.kept
    assert merged.error < 1e-3 < merged.effect
    with pytest.raises(RunError, match="changes no logit"):
        check_merging(adapted(loaded("scenes-base"), scale=0.0), processor, pairs[0])


def test_rounding_that_eats_the_adapter_is_an_alarm(loaded: Any, processor: Any, pairs: list[Preference]) -> None:
    half = adapted(loaded("scenes-base"), scale=2e-4).to(torch.bfloat16)
    merged = check_merging(half, processor, pairs[0])
    seen = measure_image_use(half, processor, pairs[:2])
    assert not merged.kept
    assert "merging" in [
        alarm.name for alarm in find_check_alarms(ImageUseChecks(use=seen, held_out=True, merged=merged))
    ]


def test_pairs_without_images_or_without_a_reference_are_a_mistake(
    loaded: Any, processor: Any, pairs: list[Preference]
) -> None:
    blind = [Preference(id="1", prompt="?", images=(), chosen="a", rejected="b", row=0)]
    with pytest.raises(InputError, match="none of 1 has an image"):
        measure_image_use(adapted(loaded("scenes-base")), processor, blind)
    with pytest.raises(InputError, match="no adapters"):
        measure_image_use(loaded("scenes-base"), processor, pairs)


def test_a_sample_has_one_pair_a_row_and_is_the_same_each_time(pairs: list[Preference]) -> None:
    twice = [replace(pair, id=f"{pair.id}/{copy}") for pair in pairs for copy in range(2)] + [
        replace(pairs[0], images=(), row=99)
    ]
    drawn = draw_pairs(twice, 10, seed=1)
    assert len({pair.row for pair in drawn}) == 10
    assert drawn == draw_pairs(twice, 10, seed=1) != draw_pairs(twice, 10, seed=2)
    assert len(draw_pairs(twice, 100, seed=1)) == len(pairs)
    assert (
        draw_pairs([replace(pair, rejected="") for pair in twice], 10, seed=1) == []
    )  # best answers, for SFT: there is nothing to tell apart
