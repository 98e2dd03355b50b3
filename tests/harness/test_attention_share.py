"""Attention to images: equal to that of a full pass, object words as CHAIR finds them, and the report's numbers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from PIL import Image

from harness.evaluation.attention import (
    KINDS,
    Attention,
    Shares,
    Word,
    attention_share,
    object_words,
    record,
    shares_of,
)
from harness.evaluation.attention_report import METRICS, by_layer, compare_models, plot, render, write
from harness.models.load import load
from harness.models.spec import find
from support.errors import InputError
from tasks.answer import FailedAnswer
from tasks.benchmarks import chair
from tasks.registry import registry
from tasks.scenes.scenes_chair import VOCABULARY
from tests.harness import qwen_vl_checkpoint
from tests.harness.zoo import FAMILIES

ANSWER = "Yes, there is a dog behind the red car."


pytestmark = pytest.mark.usefixtures("one_thread")


# -- what the model looks at


Zoo = Callable[[str], Any]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Gives the LM of a family; each is written and loaded once."""
    root = tmp_path_factory.mktemp("zoo")

    @cache
    def lm(family: str) -> Any:
        {**FAMILIES, "qwen_vl": qwen_vl_checkpoint.write}[family](root / family)
        return load(find(str(root / family)))

    return lm


def picture() -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((60, 90), Image.Resampling.NEAREST)


def request(lm: Any) -> Instance:
    content = "<image>What is the color of the car?"
    if lm.processor.chat_template:
        content = lm.apply_chat_template([{"role": "user", "content": content}])
    return Instance(
        request_type="generate_until",
        doc={"id": "7"},
        arguments=(content, {"until": []}, {"visual": [picture()]}),
        idx=0,
        metadata=("test", 7, 1),
    )


def full_pass(lm: Any, asked: Instance, answer: str) -> tuple[list[int], torch.Tensor]:
    """The prompt, and all attention maps [layers, heads, positions, positions] of one pass over prompt and answer."""
    inputs = dict(lm.processor_inputs(asked.args[0], asked.args[2]["visual"]))
    prompt = inputs["input_ids"]
    more = torch.tensor([lm.tokenizer(answer, add_special_tokens=False)["input_ids"]])
    for name, part in inputs.items():
        if isinstance(part, torch.Tensor) and part.shape == prompt.shape:
            ones = torch.ones_like(more)
            tail = {"input_ids": more, "attention_mask": ones, "image_patches_indices": -ones}
            if lm.hf.config.model_type == "paligemma":  # what follows the prompt is read in one direction
                tail["token_type_ids"] = ones
            inputs[name] = torch.cat([part, tail.get(name, torch.zeros_like(more)).to(part)], 1)
    lm.hf.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            output = lm.hf(**inputs, output_attentions=True, use_cache=False)
    finally:
        lm.hf.set_attn_implementation("sdpa")
    maps = getattr(output, "attentions", None) or output.language_model_outputs.attentions
    return prompt[0].tolist(), torch.stack([one[0] for one in maps if one is not None])


@pytest.mark.parametrize(
    "family",
    (
        *("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"),
        *("smolvlm", "paligemma", "gemma3", "instructblip", "fuyu", "qwen_vl"),
    ),
)
def test_shares_are_those_of_one_pass_with_all_maps(zoo: Zoo, family: str) -> None:
    lm = zoo(family)
    asked = request(lm)
    found = shares_of(lm, asked, ANSWER)
    prompt, maps = full_pass(lm, asked, ANSWER)
    length = len(found.spans)
    image = [at for at, token in enumerate(prompt) if token in lm.layout.image_ids]
    assert len(image) > 1
    # Row p of a map is of the position that predicts token p + 1.
    rows = maps[:, :, len(prompt) - 1 : len(prompt) - 1 + length]
    assert rows.shape[2] == length
    assert torch.allclose(rows.sum(-1), torch.ones(()), atol=1e-4)
    np.testing.assert_allclose(found.shares, rows[..., image].sum(-1).mean(1).numpy(), atol=2e-5)
    np.testing.assert_allclose(found.even, [len(image) / (len(prompt) + at) for at in range(length)])
    assert 0 <= found.shares.min() < found.shares.max() < 1


def test_the_model_is_as_it_was_afterwards(zoo: Zoo) -> None:
    lm = zoo("llava")
    asked = request(lm)
    inputs = lm.processor_inputs(asked.args[0], asked.args[2]["visual"])

    def state() -> list[Any]:
        kinds = [part.config._attn_implementation for part in lm.hf.modules() if hasattr(part, "config")]
        return [kinds, [len(part._forward_hooks) for part in lm.hf.modules()]]

    before, logits = state(), lm.hf(**inputs).logits
    shares_of(lm, asked, ANSWER)
    assert state() == before
    assert "sdpa" in before[0]
    assert torch.equal(logits, lm.hf(**inputs).logits)


def test_a_model_without_image_positions_is_told_so(zoo: Zoo) -> None:
    lm = zoo("idefics")  # it looks at images by cross-attention
    with pytest.raises(InputError, match="test 7: idefics has no image positions"):
        shares_of(lm, request(lm), ANSWER)


def test_spans_cut_the_answer_into_its_tokens(zoo: Zoo) -> None:
    for family in ("llava", "qwen2_5_vl"):
        found = shares_of(zoo(family), request(zoo(family)), ANSWER)
        assert "".join(ANSWER[start:end] for start, end in found.spans).replace(" ", "") == ANSWER.replace(" ", "")


# -- words


@pytest.mark.parametrize(
    "caption",
    (
        "The image shows two dogs and a hot dog on a motor bike. A dog's bowl is near the 'toilet seat'.",
        'A man in a bow tie eats "pizza" with wine glasses, next to a baby elephant and a passenger train.',
        "A chair, a seat and a toilet: the seat belongs to the toilet.",
        "No objects at all.",
        "",
        "İstanbul's cats… and “buses”, 3 cell phones; a parking meter",
    ),
)
def test_object_words_are_the_mentions_chair_counts(caption: str) -> None:
    vocabulary = chair.coco_vocabulary(chair.coco_synonyms(), chair.VARIANTS["official"])
    assert [word.name for word in object_words(caption, (), vocabulary)] == chair.mentions(caption, vocabulary)


def test_object_words_stand_where_they_stand() -> None:
    caption = "The image shows a Red circle at the top and a red star. a sign"
    found = object_words(caption, ["red circle", "sign"], VOCABULARY)
    assert [(caption[word.start : word.end], word.name, word.grounded) for word in found] == [
        ("Red circle", "red circle", True),
        ("red star", "red star", False),
        ("sign", "sign", True),
    ]


# -- numbers


def shares(*columns: float) -> Shares:
    """One layer's shares of tokens "aa bb cc ...", each three characters apart; half of what is seen is image."""
    spans = tuple((3 * at, 3 * at + 2) for at in range(len(columns)))
    return Shares(shares=np.array([columns]), even=np.full(len(columns), 0.5), spans=spans)


def word(first: int, last: int, grounded: bool) -> Word:
    return Word(name="x", start=3 * first, end=3 * last + 2, grounded=grounded)


def found(records: list[dict[str, Any]], **changes: Any) -> Attention:
    plain = Attention(model="a", task="scenes_chair", records=tuple(records), failed=0, empty=0, layers=1, words=True)
    return replace(plain, **changes)


def test_a_word_is_the_mean_of_its_tokens_and_an_answer_of_all() -> None:
    one = record("1", "1", "aa bb cc dd", shares(0.1, 0.2, 0.4, 0.5), [word(1, 2, True), word(3, 3, False)])
    assert (one["grounded"], one["hallucinated"], one["tokens"]) == (1, 1, 4)
    values = {name: metric([one]) for name, metric in METRICS.items()}
    assert values["answer tokens"] == pytest.approx(30)
    assert values["words of objects there"] == pytest.approx(30)
    assert values["words of objects not there"] == pytest.approx(50)
    assert values["there less not there"] == pytest.approx(-20)
    assert values["words of objects there, relative"] == pytest.approx(0.6)
    assert values["there less not there, relative"] == pytest.approx(-0.4)


def test_layers_are_averaged_apart() -> None:
    both = Shares(shares=np.array([[0.2, 0.4], [0.6, 0.8]]), even=np.full(2, 0.5), spans=((0, 2), (3, 5)))
    one = found([record("1", "1", "aa bb", both, [word(1, 1, True)])])
    tokens, grounded, hallucinated = (by_layer(one, kind) for kind in KINDS)
    assert tokens is not None
    assert tokens.tolist() == pytest.approx([0.3, 0.7])
    assert grounded is not None
    assert grounded.tolist() == pytest.approx([0.4, 0.8])
    assert hallucinated is None
    assert METRICS["answer tokens"](one.records) == pytest.approx(50)


def test_tuned_against_base_is_paired_by_image() -> None:
    rng = np.random.default_rng(0)
    levels = rng.uniform(0.1, 0.8, 40)  # images differ much more than the models do
    base, tuned = (
        found([record(str(at), str(at), "aa", shares(level + more), []) for at, level in enumerate(levels)], model=name)
        for name, more in (("a", 0), ("b", 0.02))
    )
    verdict = compare_models(base, tuned)["answer tokens"]
    assert verdict.difference == pytest.approx(2)
    assert verdict.low is not None
    assert 1 < verdict.low <= 2  # a little for what was not seen, far less than images differ
    assert verdict.outcome == "better"
    assert "more" in render(base, tuned)
    assert compare_models(base, base)["answer tokens"].outcome == "not separable"


def test_only_documents_measured_for_both_are_compared() -> None:
    base = found([record(str(at), str(at), "aa", shares(0.2), []) for at in range(5)])
    tuned = found([record(str(at), str(at), "aa", shares(0.3 if at < 5 else 0.9), []) for at in range(2, 8)], model="b")
    verdict = compare_models(base, tuned)["answer tokens"]
    assert verdict.images == 3
    assert verdict.difference == pytest.approx(10)
    with pytest.raises(InputError, match="no document was measured for both"):
        compare_models(base, replace(tuned, records=tuned.records[-2:]))
    with pytest.raises(InputError, match="nothing to compare"):
        compare_models(base, replace(tuned, task="chair"))


def test_what_is_not_there_is_no_number() -> None:
    text = render(found([record("1", "1", "aa", shares(0.2), [])]))
    assert "| words of objects not there" in text
    assert "nan" not in text
    assert "words of objects" not in render(found([record("1", "1", "aa", shares(0.2), [])], words=False))


# -- a task


@pytest.fixture(scope="module")
def lm() -> Any:
    return load(find("scenes-base"))


@pytest.fixture(scope="module")
def measured(lm: Any) -> Attention:
    return attention_share(lm, registry().task("scenes_chair"), 12, name="scenes-base")


def test_a_models_own_captions_are_read(measured: Attention, lm: Any) -> None:
    assert (len(measured.records), measured.failed, measured.empty) == (12, 0, 0)
    assert measured.layers == lm.hf.config.text_config.num_hidden_layers
    assert sum(one["grounded"] for one in measured.records) > 20
    # It was pretrained to caption what it sees.
    assert METRICS["words of objects there"](measured.records) > METRICS["answer tokens"](measured.records)
    for one in measured.records:
        assert len(one["shares"]) == one["tokens"]
        assert one["answer"].startswith("the image shows")


def test_other_answers_are_read_where_they_are_given(lm: Any, measured: Attention) -> None:
    task = registry().task("scenes_chair")
    own = attention_share(lm, task, 12, answers={one["id"]: one["answer"] for one in measured.records})
    assert own.records == measured.records
    with pytest.raises(InputError, match="no answer to document"):
        attention_share(lm, task, 12, answers={"test/chair/0": "a sign."})


class Answering:
    """A model that answers what it is told to."""

    def __init__(self, lm: Any, answers: Mapping[int, str]) -> None:
        self.lm, self.answers = lm, answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [self.answers.get(at, "a sign.") for at, _ in enumerate(requests)]


def test_failed_and_empty_answers_are_counted_and_not_read(lm: Any) -> None:
    broken = Answering(lm, {0: FailedAnswer("image can't be read"), 2: ""})
    some = attention_share(broken, registry().task("scenes_chair"), 4, name="m")
    assert (len(some.records), some.failed, some.empty) == (2, 1, 1)
    assert "1 answers failed (image can't be read), 1 were empty" in render(some)
    with pytest.raises(InputError, match=r"m on scenes_chair: none of 1 answers can be read: image can't be read"):
        attention_share(broken, registry().task("scenes_chair"), 1, name="m")


def test_a_task_without_object_words_has_the_rest(lm: Any) -> None:
    some = attention_share(lm, registry().task("scenes_pope"), 4, name="scenes-base")
    assert not some.words
    text = render(some)
    assert "answer tokens" in text
    assert "objects" not in text


@pytest.mark.parametrize("suffix", (".png", ".svg"))
def test_the_plot_is_an_image_with_its_labels(measured: Attention, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"attention{suffix}"
    plot(measured, replace(measured, model="tuned"), path)
    if suffix == ".png":
        with Image.open(path) as shown:
            pixels = np.asarray(shown.convert("L"))
        assert pixels.shape[1] > 600
        assert pixels.std() > 5
    else:
        assert "<svg" in path.read_text()
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        plot(measured, None, tmp_path / "attention.jpg")


def test_what_is_written_holds_every_answer(measured: Attention, tmp_path: Path) -> None:
    text = write(tmp_path / "out", measured, replace(measured, model="a|b"))
    names = [f"attention.{suffix}" for suffix in ("jsonl", "md", "png", "svg")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert text in (tmp_path / "out" / "attention.md").read_text()
    assert r"a\|b" in text
    rows = [json.loads(line) for line in (tmp_path / "out" / "attention.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    again = replace(measured, records=tuple(rows[:12]))
    assert METRICS["answer tokens"](again.records) == METRICS["answer tokens"](measured.records)


def test_the_second_model_is_looked_for_before_the_first_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli.main import run

    command = ["attention", "scenes-base", "--against", "scenes-bose", "--limit", "1", "--out", str(tmp_path / "out")]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "'scenes-bose'" in said
    assert "read scenes-base" not in said
