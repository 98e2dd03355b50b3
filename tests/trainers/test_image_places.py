"""Pictures keep their place and number in a prompt, from any form to what the model reads, or their pair is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import DPOTrainer

from support.errors import DataError, TrainingError
from tests.trainers.image_makers import png
from tests.trainers.tiny_trainers import loss_and_gradients, preferences, trainer
from trainers.config.data import PreferenceFile
from trainers.data.conversations import NoPair
from trainers.data.image_places import count_marks, in_order, parts_of, read_places, with_marks
from trainers.data.pair_formats import SeenPairs, read_pairs, write_pairs
from trainers.data.read_preferences import read_preferences
from trainers.data.rows import Preference
from trainers.packed.trainer import PackedDPOTrainer
from trainers.training.checked_trainer import check_texts

MARKS = (
    *("<image>", "<IMAGE>", "<img>images/p0.png</img>", "Picture 1: <img>a b.jpg</img>", "<img><ImageHere></img>"),
    *("<ImageHere>", "<|image|>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|image_1|>"),
    *("<image_1>", "<image 2>", "<start_of_image>", "<image_soft_token>", "<IMG_CONTEXT>", "(<image>./</image>)"),
    *("<image_placeholder>", "[IMG]", "<img><imgpad></img>", "<img><IMG_CONTEXT><IMG_CONTEXT></img>"),
    *("<|begin_of_image|><|image|><|end_of_image|>", "<im_start><im_patch><im_patch><im_end>", "<image></image>"),
    *("<fake_token_around_image><image><fake_token_around_image>", "<im_start><image><im_end>", "<image_token>"),
    *("<|media_start|>image<|media_content|><|media_pad|><|media_end|>", "[IMG][IMG_BREAK][IMG][IMG_END]", "<img>"),
    *("<start_of_image><image_soft_token><end_of_image>", "<fim_prefix><|img|><fim_suffix>", "<picture>"),
)


@pytest.mark.parametrize("mark", MARKS)
def test_every_familys_mark_is_a_place(mark: str) -> None:
    assert read_places(f"{mark}\nWhat is it?", 1) == ("What is it?", ())
    assert read_places(f"Before: {mark} After: {mark}", 2) == ("Before:  After: ", (8, 16))
    assert read_places(f"What is it?\n{mark}", 1) == ("What is it?\n", (12,))
    assert read_places(f"What is it?\n{mark}", 1, as_llava=True) == ("What is it?", ())
    for text, pictures in ((mark, 0), (f"{mark}{mark}", 1), (f"{mark} or", 2)):
        with pytest.raises(NoPair, match="places for"):
            read_places(text, pictures)


@pytest.mark.parametrize(
    "text",
    ("What is it?", "Use <img src='x'> in HTML.", "an <image-set>", "a < image > b", "[IMG]x.png[/IMG]", "images"),
)
def test_other_texts_hold_no_place(text: str) -> None:
    assert read_places(text, 1) == (text, ())


@pytest.mark.parametrize(
    ("text", "order"),
    (
        ("<image> and <image>", "ab"),
        ("<image_2> and <image_1>", "ba"),
        ("<image_1> and <image_2>", "ab"),
        ("<image 1> and <image 0>", "ba"),
        ("<|image_2|>\n<|image_1|>\nWhat?", "ba"),
        ("Picture 2: <img>b.jpg</img>\nPicture 1: <img>a.jpg</img>\nWhat?", "ba"),
        ("<image_7> and <image_6>", "ba"),
        ("<image_1> alone", "ab"),
        ("no mark", "ab"),
        ("<image_1> and <image_1>", None),
        ("<image_1> and <image_3>", None),
        ("<image_2> and <image>", None),
    ),
)
def test_numbered_marks_show_the_pictures_of_their_numbers(text: str, order: str | None) -> None:
    if order is None:
        with pytest.raises(NoPair, match=r"places \d(, \d)? for 2 pictures in the prompt"):
            in_order(text, "ab")
    else:
        assert in_order(text, "ab") == tuple(order)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=9).filter(lambda text: not count_marks(text)), min_size=2, max_size=4))
def test_places_are_read_as_they_were_written(texts: list[str]) -> None:
    marked = "<image>".join(texts)
    if count_marks(marked) != len(texts) - 1:
        return
    text, places = read_places(marked, len(texts) - 1)
    assert not count_marks(text) or count_marks("".join(texts))
    if places:
        assert with_marks(text, places, "<image>") == marked
        assert [part for part in parts_of(text, places) if part["type"] == "image"] == [{"type": "image"}] * len(places)


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


PICTURE = {"type": "image"}
ANSWERS = {"chosen": "a ring", "rejected": "a cube"}


def in_trl(*content: Any) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": list(content)}], **ANSWERS}


def in_sharegpt(text: str) -> dict[str, Any]:
    answers = {side: {"from": "gpt", "value": answer} for side, answer in ANSWERS.items()}
    return {"conversations": [{"from": "human", "value": text}], **answers}


def in_povid(text: str) -> dict[str, Any]:
    def talk(answer: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]

    return {"conversations": talk("a ring"), "rejected_conversations": talk("a cube")}


READ: dict[str, tuple[dict[str, Any], int, str, tuple[int, ...]]] = {
    "trl, among texts": (
        in_trl(text_part("Before:"), PICTURE, text_part("After:"), PICTURE, text_part("What changed?")),
        *(2, "Before:After:What changed?", (7, 13)),
    ),
    "trl, in front": (in_trl(PICTURE, text_part("What?"), text_part("Why?")), 1, "What?\nWhy?", ()),
    "trl, behind": (in_trl(text_part("What?"), PICTURE), 1, "What?", (5,)),
    "trl, one in front": (in_trl(PICTURE, text_part("or"), PICTURE), 2, "or", (0, 2)),
    "sharegpt, among words": (in_sharegpt("Left: <image> Right: <image> Which?"), 2, "Left:  Right:  Which?", (6, 14)),
    "sharegpt, in front": (in_sharegpt("<image><image>Which?"), 2, "Which?", ()),
    "sharegpt, in lines": (in_sharegpt("<image>\n<image>\nWhich?"), 2, "Which?", ()),
    "sharegpt, behind": (in_sharegpt("Which? <image>"), 1, "Which? ", (7,)),
    "sharegpt, of Qwen-VL": (in_sharegpt("Picture 1: <img>p0.png</img>\nWhich?"), 1, "Which?", ()),
    "sharegpt, unmarked": (in_sharegpt("Which?"), 2, "Which?", ()),
    "povid, behind": (in_povid("What?\n<image>"), 1, "What?", ()),
    "povid, among words": (in_povid("Is <image> it?"), 1, "Is  it?", (3,)),
    "sharegpt, of its own number": (in_sharegpt("<image_1>Which?"), 1, "Which?", ()),
}
REFUSED = {
    "trl, two places": (in_trl(PICTURE, PICTURE, text_part("What?")), 1),
    "trl, no picture": (in_trl(PICTURE, text_part("What?")), 0),
    "trl, too few places": (in_trl(PICTURE, text_part("What?")), 2),
    "sharegpt, two places": (in_sharegpt("<image><image>What?"), 1),
    "sharegpt, no picture": (in_sharegpt("<image>What?"), 0),
    "sharegpt, too few places": (in_sharegpt("<image>What?"), 2),
    "povid, two places": (in_povid("<image><image>What?"), 1),
    "povid, no picture": (in_povid("<image>What?"), 0),
    "povid, too few places": (in_povid("What?<image>"), 3),
    "sharegpt, numbered twice": (in_sharegpt("<image_1> or <image_1>?"), 2),
    "sharegpt, of a number that is not there": (in_sharegpt("<image_1> or <image_3>?"), 2),
    "povid, of another family": (in_povid("<|image_1|> <|image_2|> What?"), 1),
}


def write(folder: Path, row: dict[str, Any], pictures: int) -> Path:
    for number in range(pictures):
        (folder / f"p{number}.png").write_bytes(png(number))
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps({**row, "images": [f"p{number}.png" for number in range(pictures)]}) + "\n")
    return path


@pytest.mark.parametrize("case", READ)
def test_pictures_keep_their_places_in_every_form(case: str, tmp_path: Path) -> None:
    row, pictures, prompt, places = READ[case]
    found = read_preferences(PreferenceFile(read=str(write(tmp_path, row, pictures)), test_share=0)).train[0]
    assert (found.prompt, found.places, len(found.images)) == (prompt, places, pictures)
    for form in ("trl", "sharegpt"):
        write_pairs([found], tmp_path / f"{form}.jsonl", form)
        again = next(read_pairs(tmp_path / f"{form}.jsonl"))
        assert (again.prompt, again.places) == (prompt, places)


@pytest.mark.parametrize("case", REFUSED)
def test_places_and_pictures_that_differ_in_number_are_refused(case: str, tmp_path: Path) -> None:
    path = write(tmp_path, *REFUSED[case])
    with pytest.raises(DataError):
        read_preferences(PreferenceFile(read=str(path), test_share=0))
    seen = SeenPairs()
    assert [pair for pair in read_pairs(path, seen=seen) if all(image.file for image in pair.images)] == []


@pytest.mark.parametrize(("form", "ending"), (("trl", "parquet"), ("rlaif-v", "jsonl"), ("rlhf-v", "parquet")))
def test_a_form_without_places_is_refused(form: str, ending: str, tmp_path: Path) -> None:
    pair = next(read_pairs(write(tmp_path, in_sharegpt("Is <image> it?"), 1)))
    with pytest.raises(DataError, match="among its words"):
        write_pairs([pair], tmp_path / f"out.{ending}", form)


def among_words(pair: Preference) -> Preference:
    return replace(pair, prompt=f"red {pair.prompt} blue", places=(4, 4 + len(pair.prompt)))


@pytest.mark.parametrize("family", ("qwen2_vl", "idefics3"))
def test_packed_training_reads_pictures_in_their_places(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    pairs = preferences((3, 1), images=2)
    moved = list(map(among_words, pairs))
    stock, ours, front = (
        loss_and_gradients(trainer(kind, checkpoint(family), own, tmp_path / str(number)))[0]
        for number, (kind, own) in enumerate(
            ((DPOTrainer, moved), (PackedDPOTrainer, moved), (PackedDPOTrainer, pairs))
        )
    )
    assert ours == pytest.approx(stock, rel=1e-4)
    assert ours != front


def test_a_chat_template_that_puts_pictures_in_front_is_refused(checkpoint: Callable[[str], Path]) -> None:
    from transformers import AutoProcessor

    pairs = preferences((1, 1), images=2)
    pairs[1] = among_words(pairs[1])
    check_texts(pairs, AutoProcessor.from_pretrained(checkpoint("qwen2_vl")))
    with pytest.raises(TrainingError, match=rf"1 of 2 pairs have pictures among the words .*: '{pairs[1].id}'"):
        check_texts(pairs, AutoProcessor.from_pretrained(checkpoint("llava")))
    behind = [replace(pair, images=pair.images[:1], places=(len(pair.prompt),)) for pair in pairs]
    check_texts(behind, AutoProcessor.from_pretrained(checkpoint("llava")))
