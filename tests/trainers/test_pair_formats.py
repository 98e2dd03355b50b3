"""Pairs in the formats of others: nothing is lost between them, and what is written is what their own tools take."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import DataError
from support.images import ImageRef
from tests.trainers.image_makers import png
from tests.trainers.pair_makers import WAYS, pair
from trainers.config.data import ASPECTS
from trainers.data.image_places import count_marks
from trainers.data.pair_formats import SeenPairs, read_pairs, write_best, write_pairs
from trainers.data.pair_rules import BestAnswer
from trainers.data.rows import Preference

TEXT = st.text(max_size=12) | st.sampled_from(["<image>", "<image>\nWhat?", "\nWhat?\n", "What?\n<image>", " a"])


RATINGS = st.dictionaries(st.sampled_from([*ASPECTS, "Wit"]), st.sampled_from(["1", "5", "N/A"]), max_size=3)


PICTURE = st.integers(0, 255).map(lambda colour: ImageRef(f"images/{colour}.png", data=png(colour)))


def pairs_of(pictures: int) -> st.SearchStrategy[list[Preference]]:
    images = st.lists(PICTURE, max_size=pictures).map(tuple)
    margin, row = st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**40)
    texts = dict.fromkeys(["prompt", "chosen", "rejected", "row_id", "chosen_model", "rejected_model"], TEXT)
    texts |= {"id": TEXT.filter(bool), "prompt": TEXT.filter(lambda text: not count_marks(text))}
    ratings = dict.fromkeys(("chosen_ratings", "rejected_ratings"), RATINGS)
    made = st.builds(Preference, images=images, margin=margin, row=row, **texts, **ratings)
    return st.lists(made, max_size=5, unique_by=(lambda pair: pair.id, lambda pair: pair.row))


def told(pair: Preference) -> tuple[Any, ...]:
    values = {name: getattr(pair, name) for name in Preference.__slots__ if name != "images"}
    return values, [picture.read() for picture in pair.images]


@settings(max_examples=120, deadline=None)
@given(data=st.data(), first=st.sampled_from(WAYS), second=st.sampled_from(WAYS))
def test_pairs_go_through_any_two_formats_unchanged(
    data: st.DataObject,
    first: tuple[str, str, bool],
    second: tuple[str, str, bool],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    one_picture = {first[0], second[0]} & {"rlhf-v", "rlaif-v"}
    pairs = data.draw(pairs_of(1 if one_picture else 3))
    folder = tmp_path_factory.mktemp("pairs")
    made: Iterator[Preference] = iter(pairs)
    for number, (form, ending, embed) in enumerate((first, second)):
        path = folder / str(number) / f"pairs.{ending}"
        assert write_pairs(made, path, form, embed_images=embed) == len(pairs)
        made = read_pairs(path, folder) if pairs else iter([])
    assert [told(pair) for pair in made] == [told(pair) for pair in pairs]


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in zip(("human", "gpt") * 4, values, strict=False)]


ANSWERS = {"chosen": "cat", "rejected": "dog"}
FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "povid": ("povid.json", {
        "id": "000000033471", "image": "coco/7.png",
        "conversations": turns("What?\n<image>", "cat"), "rejected_conversations": turns("What?\n<image>", "dog"),
    }),
    "sharegpt": ("ranking.json", {
        "conversations": turns("<image>What?"), "images": ["coco/7.png"],
        **{name: {"from": "gpt", "value": text} for name, text in ANSWERS.items()},
    }),
    "rlhf-v": ("rlhf.parquet", {
        "ds_name": "RLHF-V", "image": {"bytes": png(7), "path": None},
        "text": json.dumps({"question": "What?", **ANSWERS}), "origin_dataset": "LCS-558K",
        "origin_split": json.dumps({"model": "Muffin-13B", "type": "detailed_description"}),
        "idx": 5, "image_path": "coco/7.png",
    }),
    "rlaif-v": ("rlaif.parquet", {
        "ds_name": "RLAIF-V", "image": {"bytes": png(7), "path": "7.png"}, "question": "What?", **ANSWERS,
        "origin_dataset": "COCO", "origin_split": "plain text", "idx": "5", "image_path": "coco/7.png",
    }),
    "trl": ("trl.parquet", {
        "images": [{"bytes": png(7), "path": "7.png"}],
        "prompt": [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}],
        **{
            name: [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
            for name, text in ANSWERS.items()
        },
    }),
    "trl without roles": ("plain.jsonl", {"prompt": "What?", **ANSWERS, "images": ["coco/7.png"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_the_files_of_others_are_told_by_their_columns(name: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, record = FOREIGN[name]
    records = [record, record]
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "7.png").write_bytes(png(7))
    if file.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / file)
    else:
        lines = "".join(json.dumps(one) + "\n" for one in records)
        (tmp_path / file).write_text(lines if "jsonl" in file else json.dumps(records))
    first, second = read_pairs(tmp_path / file)
    assert (first.prompt, first.chosen, first.rejected) == ("What?", "cat", "dog")
    assert [picture.read() for picture in first.images] == [png(7)]
    assert (first.row, second.row, first.margin) == (0, 0, None)
    assert first.id != second.id
    assert first.chosen_model == ("Muffin-13B" if name == "rlhf-v" else "")


def test_neighbours_of_another_prompt_or_picture_are_another_row(tmp_path: Path) -> None:
    asked = [("a", ["1.png"]), ("a", ["1.png"]), ("b", ["1.png"]), ("b", ["2.png"])]
    lines = [{"prompt": prompt, "chosen": "x", "rejected": "y", "images": images} for prompt, images in asked]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [pair.row for pair in read_pairs(tmp_path / "a.jsonl")] == [0, 0, 1, 2]


UNFIT: list[dict[str, Any]] = [
    {"conversations": turns("a", "b", "c", "d"), "rejected_conversations": turns("a", "b", "c", "e")},
    {"conversations": turns("a", "b"), "rejected_conversations": turns("c", "d")},
    {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "system", "content": "s"}], "chosen": "a", "rejected": "b"},
    {"prompt": "p", "chosen": None, "rejected": "b"},
]


@pytest.mark.parametrize("record", UNFIT)
def test_what_is_no_pair_is_counted_or_refused_but_never_bent(record: dict[str, Any], tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"record 2: .*one prompt and two answers"):
        list(read_pairs(tmp_path / "a.jsonl"))
    seen = SeenPairs()
    assert len(list(read_pairs(tmp_path / "a.jsonl", seen=seen))) == 1
    assert (seen.pairs, seen.skipped.total()) == (1, 1)
    assert "1 skipped" in seen.summary()


def test_a_form_that_does_not_fit_is_said_with_the_columns_and_the_known_forms(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    with pytest.raises(DataError, match=r"columns question, answer; known: povid, sharegpt, rlaif-v, rlhf-v, trl"):
        list(read_pairs(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="not povid"):
        list(read_pairs(tmp_path / "a.jsonl", form="povid"))
    with pytest.raises(DataError, match="did you mean 'povid'"):
        list(read_pairs(tmp_path / "a.jsonl", form="povdi"))
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "q", "completions": []}) + "\n")
    with pytest.raises(DataError, match="make pairs of them first"):
        list(read_pairs(tmp_path / "b.jsonl"))


def test_what_a_form_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, shown: ImageRef) -> None:
    two = pair(shown, images=(shown, shown))
    path = tmp_path / "pairs.parquet"
    path.write_text("old")
    with pytest.raises(DataError, match=r"'a' has 2 images.*trl, povid or sharegpt"):
        write_pairs([pair(shown), two], path, "rlaif-v")
    assert path.read_text() == "old"
    with pytest.raises(DataError, match=r"povid is written as \.jsonl or \.json"):
        write_pairs([two], tmp_path / "pairs.parquet", "povid")
    with pytest.raises(DataError, match=r"pairs\.csv"):
        write_pairs([two], tmp_path / "pairs.csv")


@pytest.mark.parametrize("ending", ("parquet", "jsonl"))
def test_a_margin_without_end_is_none_and_the_lines_are_json(ending: str, tmp_path: Path, shown: ImageRef) -> None:
    path = tmp_path / f"pairs.{ending}"
    margins = (math.inf, math.nan, 2.0)
    write_pairs([pair(shown, margin=margin, chosen_ratings={"Wit": "inf"}) for margin in margins], path)
    if ending == "jsonl":
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=lambda name: pytest.fail(name))
    back = list(read_pairs(path))
    assert [one.margin for one in back] == [None, None, 2.0]
    assert back[0].chosen_ratings == {"Wit": "inf"}


def test_numbers_too_large_for_a_table_are_not_taken_for_ours(tmp_path: Path) -> None:
    line = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 10**400, "row": 3}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"row": 2**70, "prompt": "q"}) + "\n")
    assert [(one.row, one.margin) for one in read_pairs(tmp_path / "a.jsonl")] == [(3, None), (4, None)]


def test_best_answers_are_prompt_and_completion(
    tmp_path: Path, shown: ImageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    best = BestAnswer(
        prompt="What?", images=(shown,), completion="cat", model="A", ratings={"Wit": "5"}, row=3, row_id="r"
    )
    for ending, kind in (("parquet", "parquet"), ("jsonl", "json")):
        assert write_best([best], tmp_path / f"best.{ending}") == 1
        made = datasets.load_dataset(
            kind, data_files=str(tmp_path / f"best.{ending}"), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert made[0]["prompt"] == [{"role": "user", "content": "What?"}]
        assert made[0]["completion"] == [{"role": "assistant", "content": "cat"}]
        assert (made[0]["row"], made[0]["model"]) == (3, "A")
        opened = made.cast_column("images", datasets.List(datasets.Image()))
        assert opened[0]["images"][0].size == (4, 4)
    with pytest.raises(DataError, match=r"best\.csv"):
        write_best([best], tmp_path / "best.csv")


def test_trl_trains_on_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer, is_conversational

    from harness.models.spec import find
    from tasks.scenes.language import caption
    from tasks.scenes.world import make_scene
    from trainers.vlfeedback.instructions import write_image

    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    made = []
    for index in range(4):
        scene = make_scene(f"test-formats/{index}")
        picture = ImageRef("", tmp_path / "images" / write_image(scene, tmp_path / "images"))
        texts = {"prompt": "describe the image.", "chosen": caption(scene), "rejected": "a red ring."}
        made.append(pair(picture, id=str(index), row=index, **texts))
    write_pairs(made, tmp_path / "pairs.parquet")
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "pairs.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert is_conversational(table[0])
    base = find("scenes-base").pretrained
    arguments = DPOConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_length=None, report_to="none", save_strategy="no", logging_steps=1,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(base),
        args=arguments,
        train_dataset=table,
        processing_class=AutoProcessor.from_pretrained(base),
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=0.01)


def test_no_data_is_an_error_not_an_empty_set_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing-here"):
        list(read_pairs(tmp_path / "nothing-here.parquet"))


@pytest.mark.parametrize(
    "name", ("conversations", "rejected_conversations", "question", "text", "ds_name", "completions")
)
def test_a_column_of_nulls_is_not_one_of_the_form(name: str, tmp_path: Path) -> None:
    """Tables that were put together of several forms have all their columns."""
    (tmp_path / "0.png").write_bytes(png(0))
    record = {name: None, "image": "0.png", "prompt": "What?", "chosen": "a cat", "rejected": "a dog"}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(record) + "\n")
    assert [(pair.prompt, pair.chosen) for pair in read_pairs(path)] == [("What?", "a cat")]
