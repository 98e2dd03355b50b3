"""Rows of preference data as others write them: each pair has its own picture and keys, or is named and left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import DataError
from tests.trainers.image_makers import png
from tests.trainers.row_files import ANSWERS, put, put_pictures, read, shown
from trainers.config.data import PreferenceFile
from trainers.data.pair_formats import SeenPairs, read_pairs
from trainers.data.read_preferences import read_preferences
from trainers.data.vlfeedback_format import read_rows

# Keys.


def numbered(first: int, count: int = 3, **changes: Any) -> list[dict[str, Any]]:
    """Pairs about pictures from `first` on, numbered from 0."""
    return [
        {"row": row, "id": f"{row}-0-1", "prompt": "Describe.", "images": [f"{first + row}.png"], **ANSWERS, **changes}
        for row in range(count)
    ]


@pytest.mark.parametrize(
    "files",
    (
        {"pairs-0.jsonl": numbered(0), "pairs-1.jsonl": numbered(3)},
        {"all.jsonl": [*numbered(0), *numbered(3)]},
        {"pairs-00000-of-00002.jsonl": numbered(0), "pairs-00001-of-00002.jsonl": numbered(3)},
        {"a.jsonl": [one | {"row": 0} for one in [*numbered(0), *numbered(3)]]},
        {"a.jsonl": [one | {"row": 2**63 - 1} for one in [*numbered(0), *numbered(3)]]},
        {"a.jsonl": [one | {"row": True} for one in [*numbered(0), *numbered(3)]]},
        {"a.jsonl": [one | {"id": ""} for one in [*numbered(0), *numbered(3)]]},
        {"a.jsonl": [one | {"id": None} for one in [*numbered(0), *numbered(3)]]},
        {"a.jsonl": [one | {"row": "0"} for one in [*numbered(0), *numbered(3)]]},
        {"a.jsonl": [{**one, "row": 5 - place} for place, one in enumerate([*numbered(0), *numbered(3)])]},
    ),
)
def test_no_two_prompts_share_a_row_and_no_two_pairs_an_id(files: dict[str, Any], tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    for name, records in files.items():
        put(tmp_path / "data" / name, records)
    found = read(tmp_path / "data", images=str(tmp_path / "images"))
    assert len({pair.row for pair in found.train}) == len({pair.id for pair in found.train}) == 6
    assert shown(found) == [[png(number)] for number in range(6)]


def test_pairs_of_one_row_keep_it_and_ids_stay_as_they_were(tmp_path: Path) -> None:
    both = [{**one, "id": f"{number}"} for number, one in enumerate(numbered(0, 1) * 2)]
    put_pictures(tmp_path / "images")
    found = read(put(tmp_path / "a.jsonl", [*both, *numbered(1, 1, row=7)]))
    assert [(pair.row, pair.id) for pair in found.train] == [(0, "0"), (0, "1"), (7, "0-0-1")]


# Pictures: columns and messages.

COLUMNS = (
    *("images", "image", "img_path", "image_path", "image_file", "img", "image_paths", "picture", "pictures", "photo"),
    *("imgs", "image_files", "img_file", "image_name", "picture_path"),
)


@pytest.mark.parametrize("as_list", (False, True))
@pytest.mark.parametrize("column", COLUMNS)
def test_pictures_are_found_in_columns_of_other_names(column: str, as_list: bool, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    name = "images/3.png"
    found = read(put(tmp_path / "a.jsonl", [{column: [name] if as_list else name, "prompt": "What?", **ANSWERS}]))
    assert shown(found) == [[png(3)]]


@pytest.mark.parametrize("column", COLUMNS)
def test_pictures_of_rated_answers_are_found_alike(column: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    completions = [
        {"model": name, "response": name, "annotations": {"Helpfulness": {"Rating": rating}}}
        for name, rating in (("a", "5"), ("b", "1"))
    ]
    row = {"id": "1", "prompt": "What?", "completions": completions}
    assert shown(read(put(tmp_path / "a.jsonl", [row | {column: "images/3.png"}]))) == [[png(3)]]
    with pytest.raises(DataError, match=r"b\.jsonl, record 1: column 'screenshot' names a picture"):
        read(put(tmp_path / "b.jsonl", [row | {"screenshot": "images/3.png"}]))


@pytest.mark.parametrize(
    "value",
    (
        "images/3.png",
        ["images/3.JPG"],
        {"path": "3.webp"},
        {"bytes": None, "path": "x/3.jpeg"},
        "data:image/png;base64,iVBOR",
        [{"url": "https://example.org/3.gif"}],
        {"image": "images/3.png"},
        {"about": [{"shown": {"file": "3.png"}}]},
        json.dumps({"image": "images/3.png"}),
        json.dumps(["images/3.png"]),
    ),
)
def test_a_picture_in_a_column_that_is_not_read_is_refused_with_its_name(value: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", [{"screenshot": value, "prompt": "What?", **ANSWERS}])
    with pytest.raises(DataError, match=r"a\.jsonl, record 1: column 'screenshot' names a picture.*call it 'images'"):
        read(path)


def say(role: str, *parts: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts)}]


TEXT = {"type": "text", "text": "What?"}
NAMED: dict[str, list[dict[str, Any]]] = {
    "Qwen": say("user", {"type": "image", "image": "images/3.png"}, TEXT),
    "Qwen-VL": say("user", {"image": "images/3.png"}, {"text": "What?"}),
    "OpenAI": say("user", {"type": "image_url", "image_url": {"url": "images/3.png"}}, TEXT),
    "OpenAI, bare": say("user", {"type": "image_url", "image_url": "images/3.png"}, TEXT),
    "OpenAI's responses": say(
        "user", {"type": "input_image", "image_url": "images/3.png"}, {**TEXT, "type": "input_text"}
    ),
    "transformers": say("user", {"type": "image", "url": "images/3.png"}, TEXT),
    "transformers, path": say("user", {"type": "image", "path": "images/3.png"}, TEXT),
    "parquet's nulls": say(
        "user", {"type": "image", "image": "images/3.png", "text": None}, {**TEXT, "image": None, "image_url": None}
    ),
    "struct": say("user", {"type": "image", "image": {"bytes": None, "path": "images/3.png"}}, TEXT),
    "from and value": [{"from": "human", "value": [{"type": "image", "image": "images/3.png"}, TEXT]}],
}


@pytest.mark.parametrize("as_text", (False, True))
@pytest.mark.parametrize("form", NAMED)
def test_pictures_that_messages_name_are_found(form: str, as_text: bool, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    prompt: Any = json.dumps(NAMED[form]) if as_text else NAMED[form]
    answers = {name: say("assistant", {"type": "text", "text": text}) for name, text in ANSWERS.items()}
    found = read(put(tmp_path / "a.jsonl", [{"prompt": prompt, **answers}]))
    assert shown(found) == [[png(3)]]
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in found.train] == [("What?", "a cat", "a dog")]


PLACE = {"type": "image"}


@pytest.mark.parametrize(
    ("images", "parts", "why"),
    (
        ([], [PLACE, TEXT], "lack their picture: 'picture 1 of the prompt'"),
        (["images/1.png"], [PLACE, PLACE, TEXT], "lack their picture: 'picture 2 of the prompt'"),
        (["images/1.png", "images/2.png"], [PLACE, TEXT], "skipped .places for 1 of 2 pictures in the prompt"),
        (["images/1.png", "images/2.png"], [{**PLACE, "image": "images/1.png"}, TEXT], "skipped .pictures in the prom"),
        (["images/1.png"], [TEXT, PLACE], None),  # its place is kept
        (["images/1.png"], [{**PLACE, "image": "images/9.png"}, TEXT], None),
        ([], [{**PLACE, "image": "images/9.png"}, TEXT], r"lack their picture: 'images/9\.png'"),
        (["images/1.png"], [{"type": "video", "video": "1.mp4"}, TEXT], "skipped .prompt with a part of type 'video'"),
        (["images/1.png"], [{"type": "audio"}, TEXT], "skipped .prompt with a part of type 'audio'"),
        (["images/1.png"], [{**PLACE, "image": "images/1.png"}, TEXT], None),
        (["images/1.png"], [{"type": "text", "text": "<img>images/1.png</img>What?"}], None),
        ([], [{"type": "text", "text": "Picture 1: <img>images/1.png</img>\nWhat?"}], None),
        (["images/1.png"], [{**PLACE, "image": "images/2.png"}, TEXT], "skipped .pictures in the prompt, and others"),
        (["images/1.png"], [{"type": "text", "text": "<img>images/2.png</img>What?"}], "skipped .pictures in the prom"),
        (["images/1.png"], [], "skipped .no prompt"),
        (["images/1.png"], [3], "skipped .no prompt"),
    ),
)
def test_places_and_pictures_that_differ_are_refused(
    images: list[str], parts: list[Any], why: str | None, tmp_path: Path
) -> None:
    put_pictures(tmp_path / "images")
    path = put(tmp_path / "a.jsonl", [{"images": images, "prompt": say("user", *parts), **ANSWERS}])
    if why is None:
        assert shown(read(path, image_tokens="drop")) == [[png(1)]]  # the one of the column
        return
    with pytest.raises(DataError, match=why):
        read(path)


def test_pictures_that_are_named_twice_stand_in_the_order_of_the_prompt(tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    names = ["images/1.png", "images/2.png"]
    parts = [{**PLACE, "image": names[1]}, TEXT, {**PLACE, "image": names[0]}]
    record = {"images": names, "prompt": say("user", *parts), **ANSWERS}
    assert shown(read(put(tmp_path / "a.jsonl", [record]))) == [[png(2), png(1)]]
    numbered = {"images": names, "prompt": "<image_2> or <image_1>?", **ANSWERS}
    assert shown(read(put(tmp_path / "b.jsonl", [numbered]), image_tokens="drop")) == [[png(2), png(1)]]


def test_pairs_without_a_picture_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(put(tmp_path / "a.jsonl", [{"prompt": f"What is {number}?", **ANSWERS} for number in range(3)]))
    assert "3 without a picture" in found.summary()
    assert "3 of 3 pairs have no picture" in caplog.text


# Conversations.


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in said]


@pytest.mark.parametrize(
    ("changes", "why"),
    (
        ({"prompt": turns(("system", "s"), ("user", "u"))}, "prompt with a system message"),
        ({"prompt": turns(("developer", "s"), ("user", "u"))}, "prompt with a system message"),
        ({"prompt": turns(("user", "a"), ("assistant", "b"), ("user", "c"))}, "prompt of several messages"),
        ({"prompt": turns(("user", "a"), ("tool", "b"))}, "prompt with a tool turn"),
        ({"chosen": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]}, "answer with a tool turn"),
        ({"chosen": turns(("user", "a"))}, "chosen answer by 'user'"),
        ({"rejected": turns(("assistant", "a"), ("user", "b"))}, "rejected answer of several messages"),
        ({"chosen": None}, "no chosen answer"),
        ({"rejected": []}, "no rejected answer"),
        ({"chosen": 5}, "chosen answer is no text and no conversation"),
        ({"prompt": {"a": 1}}, "prompt by nobody"),
        ({"chosen": [{"role": "assistant", "content": None}]}, "no chosen answer"),
        ({"prompt": json.dumps(turns(("system", "s"), ("user", "u")))}, "prompt with a system message"),
        ({"prompt": str(turns(("system", "s"), ("user", "u")))}, "prompt with a system message"),
        ({"system": "Be brief."}, "a system message in column 'system'"),
        ({"system_prompt": "Be brief."}, "a system message in column 'system_prompt'"),
        ({"history": [["a", "b"]]}, "a history in column 'history'"),
        ({"history": '[["a", "b"]]'}, "a history in column 'history'"),
        ({"tools": [{"type": "function"}]}, "tools in column 'tools'"),
        ({"tools": '[{"type": "function"}]'}, "tools in column 'tools'"),
        ({"videos": ["1.mp4"]}, "a film or sound in column 'videos'"),
        ({"video": "1.mp4"}, "a film or sound in column 'video'"),
        ({"audios": ["1.wav"]}, "a film or sound in column 'audios'"),
        ({"prompt": "<video>\nWhat happens?"}, "<video> in the prompt"),
        ({"prompt": "<|video_pad|>What happens?"}, "<|video_pad|> in the prompt"),
        ({"prompt": "<|audio_1|>What is said?"}, "<|audio_1|> in the prompt"),
    ),
)
def test_what_is_more_than_a_question_and_two_answers_is_skipped_counted_and_named(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    put_pictures(tmp_path / "images")
    good = numbered(0, 2)
    path = put(tmp_path / "a.jsonl", [good[0], good[1] | changes])
    found = read(path)
    assert len(found.train) == 1
    assert f"1 skipped ({why}: a.jsonl, record 2)" in found.summary().replace("chosen answer with a", "answer with a")
    with pytest.raises(DataError, match=r"1 rows can't be used: 1 that hold no pair; max_bad_rows = 0"):
        read(path, max_bad_rows=0)


@pytest.mark.parametrize("column", ("system", "history", "tools", "videos", "video", "audios"))
@pytest.mark.parametrize("value", (None, "", " ", [], "[]", {}, [None]))
def test_columns_that_say_nothing_skip_nothing(column: str, value: Any, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    assert len(read(put(tmp_path / "a.jsonl", [one | {column: value} for one in numbered(0, 2)])).train) == 2


# What can't be used.

BAD: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "equal": (lambda folder: {"chosen": "x", "rejected": "x"}, "of two equal answers"),
    "equal but for blanks": (lambda folder: {"chosen": "x ", "rejected": "x\n"}, "of two equal answers"),
    "empty chosen": (lambda folder: {"chosen": ""}, "with an empty answer"),
    "empty rejected": (lambda folder: {"rejected": " \n"}, "with an empty answer"),
    "missing": (lambda folder: {"images": ["gone.png"]}, "for want of their picture"),
    "outside": (lambda folder: {"images": ["../1.png"]}, "for want of their picture"),
    "address": (lambda folder: {"images": ["https://example.org/1.png"]}, "for want of their picture"),
    "number": (lambda folder: {"images": [7]}, "for want of their picture"),
    "one of two": (lambda folder: {"images": ["1.png", "gone.png"]}, "for want of their picture"),
    "no image": (lambda folder: {"images": [write(folder, b"no image")]}, "whose picture does not open"),
    "cut": (lambda folder: {"images": [write(folder, png(1)[:-30])]}, "whose picture does not open"),
    "empty file": (lambda folder: {"images": [write(folder, b"")]}, "whose picture does not open"),
}


def write(folder: Path, data: bytes) -> str:
    (folder / "bad.png").write_bytes(data)
    return "bad.png"


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_pair_leaves_out_that_pair_alone(kind: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    make, why = BAD[kind]
    records = numbered(0, 6)
    records[2] |= make(tmp_path / "images")
    path = put(tmp_path / "a.jsonl", [{**one, "id": None} for one in records])
    for changes in ({"max_bad_rows": 1}, {"missing_images": "drop"}):
        found = read(path, **changes)
        assert [pair.row for pair in found.train] == [0, 1, 3, 4, 5]
        assert found.left_out == {why: ["2"]}
        assert f"1 left out {why} ('2')" in found.summary()
    with pytest.raises(DataError, match=rf"1 rows can't be used: 1 left out {why} \('2'\); max_bad_rows = 0 allows no"):
        read(path, max_bad_rows=0)
    if "picture" in why:
        with pytest.raises(DataError, match=r"missing_images = 'drop' or max_bad_rows"):
            read(path)


@pytest.mark.parametrize(
    ("kind", "why"),
    (
        ("missing", "for want of their picture"),
        ("cut", "whose picture does not open"),
        ("mark", "with a mark of a picture that is not theirs in the prompt"),
    ),
)
def test_one_in_a_hundred_that_cant_be_shown_is_left_out_and_named(kind: str, why: str, tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    records = [{**numbered(0, 1)[0], "prompt": f"Question {number}?", "id": None} for number in range(200)]
    changes = {"prompt": "Is <image> it?"} if kind == "mark" else BAD[kind][0](tmp_path / "images")
    records[7] |= changes
    records[9] |= {**changes, "prompt": changes.get("prompt", "Question 9?") + "?"}
    found = read(put(tmp_path / "a.jsonl", records))
    assert (len(found.train), found.left_out) == (198, {why: ["7", "9"]})
    key = "image_tokens" if kind == "mark" else "missing_images"
    for strict in ({key: "refuse"}, {"max_bad_rows": 0.005}, {"max_bad_rows": 1}):
        with pytest.raises(DataError, match=r"2 of 200|2 rows can't be used"):
            read(tmp_path / "a.jsonl", **strict)
    assert len(read(tmp_path / "a.jsonl", max_bad_rows=0.01).train) == 198
    records[11] |= {**changes, "prompt": changes.get("prompt", "Question 11?") + "??"}
    with pytest.raises(DataError, match="3 of 200"):
        read(put(tmp_path / "b.jsonl", records))


def test_all_that_is_left_out_counts_together(tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    records = numbered(0, 6)
    records[1] |= {"images": ["gone.png"]}
    records[2] |= {"chosen": "a dog"}
    records[3] |= {"prompt": []}
    path = put(tmp_path / "a.jsonl", records)
    assert len(read(path, max_bad_rows=3).train) == 3
    with pytest.raises(DataError, match=r"3 rows can't be used: 1 that hold no pair; 1 left out .*max_bad_rows = 2"):
        read(path, max_bad_rows=2)
    assert len(read(path, missing_images="drop").train) == 3


def test_equal_answers_are_learnt_from_where_the_chosen_one_is_alone(tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    path = put(tmp_path / "a.jsonl", [one | {"rejected": one["chosen"]} for one in numbered(0, 3)])
    dataset = PreferenceFile(read=str(path), test_share=0)
    assert len(read_preferences(dataset, chosen_alone=True).train) == 3
    with pytest.raises(DataError, match="gives no pair to train on: 3 pairs; 3 left out of two equal answers"):
        read_preferences(dataset)


# Any JSON in any field.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0.png", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "image", "url", "from", "value"]), inner)
    ),
    max_leaves=6,
)
FORMS: dict[str, dict[str, Any]] = {
    "trl": {"images": ["0.png"], "prompt": say("user", PLACE, TEXT), **ANSWERS, "row": 1, "id": "a", "margin": 1.0},
    "povid": {
        "image": "0.png",
        "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a"}],
        "rejected_conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "b"}],
    },
    "sharegpt": {"images": ["0.png"], "conversations": [{"from": "human", "value": "What?"}], **ANSWERS},
    "rlaif-v": {"image": "0.png", "question": "What?", **ANSWERS, "origin_split": "{}", "idx": "0", "image_path": ""},
    "rlhf-v": {
        "image": "0.png",
        "text": json.dumps({"question": "q", **ANSWERS}),
        "ds_name": "x",
        "origin_split": "{}",
    },
}


@settings(max_examples=100, deadline=None)
@given(data=st.data(), form=st.sampled_from(sorted(FORMS)), value=JSON)
def test_any_value_in_any_field_gives_a_pair_of_texts_or_one_line(
    data: st.DataObject, form: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "0.png").write_bytes(png(0))
    good = FORMS[form]
    field = data.draw(st.sampled_from([*sorted(good), "image_names", "image_there", "chosen_ratings", "other"]))
    path = put(folder / "a.jsonl", [good, good | {field: value}])
    seen = SeenPairs()
    try:
        pairs = list(read_pairs(path, folder, form, seen=seen))
    except DataError:
        return
    assert seen.pairs + seen.skipped.total() == 2
    for pair in pairs:
        assert all(isinstance(text, str) for text in (pair.id, pair.prompt, pair.chosen, pair.rejected))
        if field in ("chosen", "rejected", "prompt", "question") and isinstance(value, str) and len(pairs) == 2:
            assert getattr(pairs[1], "prompt" if field == "question" else field) == value


RATED: dict[str, Any] = {
    "id": "1",
    "prompt": "What?",
    "img_path": "0.png",
    "completions": [
        {"model": name, "response": name, "annotations": {"Helpfulness": {"Rating": rating, "Rationale": "."}}}
        for name, rating in (("a", "5"), ("b", "1"))
    ],
}


@settings(max_examples=60, deadline=None)
@given(value=JSON, field=st.sampled_from([*RATED, "images", "image", "source", "image_names", "image_there", "other"]))
def test_any_value_in_a_rated_row_gives_a_row_or_one_line(
    value: Any, field: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rated")
    (folder / "0.png").write_bytes(png(0))
    path = put(folder / "a.jsonl", [RATED, RATED | {field: value}])
    changed = [RATED["completions"][0] | {"annotations": value}, RATED["completions"][1] | {"response": value}]
    for made in (path, put(folder / "b.jsonl", [RATED, RATED | {"completions": changed}])):
        try:
            rows = list(read_rows(made, folder))
        except DataError:
            continue
        assert len(rows) == 2
        for row in rows:
            assert all(isinstance(text, str) for text in (row.id, row.prompt, row.source))
            assert all(isinstance(one.response, str) for one in row.completions)
