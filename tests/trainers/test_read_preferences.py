"""A recipe's [dataset]: rated answers or pairs, read, split by prompt, held against their pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError, RecipeError
from support.images import ImageRef
from support.progress import show_on
from tests.trainers.image_makers import png
from trainers.config.data import ASPECTS, PreferenceFile
from trainers.data.image_hashes import shared_cache
from trainers.data.pair_formats import write_pairs
from trainers.data.pair_split import prompt_key
from trainers.data.read_preferences import digest, read_preferences
from trainers.data.rows import Completion, Preference, Row
from trainers.data.vlfeedback_format import write_rows


def rated(model: str, text: str, points: int) -> Completion:
    return Completion(model=model, response=text, ratings=dict.fromkeys(ASPECTS, str(points)))


def row(index: int, folder: Path) -> Row:
    folder.mkdir(exist_ok=True)
    image = folder / f"{index}.png"
    image.write_bytes(png(index))
    return row_of(index, ImageRef(image.name, image))


def row_of(index: int, *images: ImageRef) -> Row:
    texts = (("a", f"best {index}", 5), ("b", f"a longer answer {index}", 3), ("c", f"worst {index}", 1))
    answers = tuple(rated(*values) for values in texts)
    return Row(index=index, id=str(index), prompt=f"what is it? {index}", images=images, completions=answers)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A hundred rows of three answers, three pairs each."""
    write_rows([row(index, tmp_path / "images") for index in range(100)], tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


def dataset(read: Path | str, **changes: Any) -> PreferenceFile:
    return PreferenceFile.model_validate({"read": str(read), **changes})


def test_rated_answers_become_pairs_split_by_prompt(rows: Path) -> None:
    found = read_preferences(dataset(rows, test_share=0.2))
    assert len(found.train) + len(found.held_out) == 300
    assert 30 <= len(found.held_out) <= 90
    assert not {prompt_key(pair) for pair in found.train} & {prompt_key(pair) for pair in found.held_out}
    assert len(found.held_out) % 3 == 0
    assert "100 rows" in found.summary()
    again = read_preferences(dataset(rows, test_share=0.2))
    assert (again.train, again.held_out, again.digest) == (found.train, found.held_out, found.digest)
    assert read_preferences(dataset(rows, test_share=0.2, split_seed=7)).held_out != found.held_out


def test_rules_and_options_are_those_of_data(rows: Path) -> None:
    widest = read_preferences(dataset(rows, test_share=0, rule="largest-gap"))
    assert {(pair.chosen_model, pair.rejected_model) for pair in widest.train} == {("a", "c")}
    longest = read_preferences(dataset(rows, test_share=0, rule="longest", per_instruction=1))
    assert {pair.chosen_model for pair in longest.train} == {"b"}
    strongest = read_preferences(dataset(rows, test_share=0, rule="strongest"))
    assert {pair.chosen_model for pair in strongest.train} == {"a"}  # of the highest mean
    with pytest.raises(RecipeError, match="needs a weight"):
        read_preferences(dataset(rows, rule="weighted"))


def test_the_best_answers_alone(rows: Path) -> None:
    found = read_preferences(dataset(rows, take="best", test_share=0))
    assert [pair.chosen for pair in found.train[:2]] == ["best 0", "best 1"]
    assert {pair.rejected for pair in found.train} == {""}
    assert len(found.train) == 100


def test_what_stands_for_a_picture_in_a_prompt_is_refused_or_taken_out(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    asked = {
        "<image>\nWhat is it?": "What is it?",
        "What is it?\n<image>": "What is it?",
        "What is <image> this?": "What is this?",
    }
    path = tmp_path / "pairs.jsonl"

    def put(*rows: tuple[list[str], str]) -> None:
        made = [
            {"images": images, "prompt": prompt, "chosen": "a ring", "rejected": "a cube"} for images, prompt in rows
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in made))

    put(*((["1.png"], prompt) for prompt in asked))
    message = "3 of 3 pairs have '<image>' in their prompt: '0', '1', '2'; image_tokens = 'drop' takes out"
    with pytest.raises(DataError, match=message):
        read_preferences(dataset(path, test_share=0))
    found = read_preferences(dataset(path, test_share=0, image_tokens="drop"))
    assert [pair.prompt for pair in found.train] == list(asked.values())
    for row in ((["1.png"], "<image><image>What?"), ([], "<image>What?")):
        put(row)
        with pytest.raises(DataError, match=r"1 of 1 pairs .* places for . pictures in the prompt"):
            read_preferences(dataset(path, test_share=0, image_tokens="drop"))


def test_a_limit_is_of_rows(rows: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    with show_on(lambda *report: heard.append(report)):
        found = read_preferences(dataset(rows, limit=5, test_share=0))
    assert len(found.train) == 15
    assert heard == [("read preferences", count, 0) for count in range(1, 6)]


def test_each_image_is_read_once_and_not_again_by_another_process(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = ImageRef.read

    def counted(image: ImageRef) -> bytes:
        read.append(image.name)
        return original(image)

    monkeypatch.setattr(ImageRef, "read", counted)
    with shared_cache(tmp_path / "facts.sqlite") as cache:
        first = read_preferences(dataset(rows, limit=20), cache)
        assert sorted(read) == sorted(f"images/{index}.png" for index in range(20))
        assert digest([*first.train, *first.held_out], cache)
    with shared_cache(tmp_path / "facts.sqlite") as cache:
        assert read_preferences(dataset(rows, limit=20), cache) == first
    assert len(read) == 20


def test_pairs_are_read_as_they_are(rows: Path, tmp_path: Path) -> None:
    made = read_preferences(dataset(rows, test_share=0))
    write_pairs(made.train, tmp_path / "pairs.parquet")
    found = read_preferences(dataset(tmp_path / "pairs.parquet", test_share=0))
    assert [(pair.id, pair.chosen, pair.rejected, pair.row) for pair in found.train] == [
        (pair.id, pair.chosen, pair.rejected, pair.row) for pair in made.train
    ]
    assert found.train[0].images[0].open().size == (4, 4)
    with pytest.raises(DataError, match="rule is for rated answers"):
        read_preferences(dataset(tmp_path / "pairs.parquet", rule="longest"))


def test_pairs_without_their_picture_are_refused_or_left_out(rows: Path, tmp_path: Path) -> None:
    for index in (3, 5):
        (tmp_path / "images" / f"{index}.png").unlink()
    with pytest.raises(DataError, match=r"6 of 300 pairs lack their picture: .*3\.png.*missing_images = 'drop'"):
        read_preferences(dataset(rows))
    found = read_preferences(dataset(rows, missing_images="drop", test_share=0))
    assert (len(found.train), found.dropped) == (294, 6)
    assert "6 left out for want of their picture" in found.summary()


@pytest.mark.parametrize(
    ("content", "why"), ((b"no image", "not an image that is known"), (png(3)[:-30], r"truncated|broken|can't be read"))
)
def test_pairs_whose_picture_does_not_open_are_named_or_left_out(
    content: bytes, why: str, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "images" / "3.png").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"3 of 300 pairs does not open: '3.*3\.png': .*({why}).*missing_images = 'drop'"
    ) as raised:
        read_preferences(dataset(rows, missing_images="refuse"))
    assert "BytesIO" not in str(raised.value)
    assert "\n" not in str(raised.value)
    found = read_preferences(dataset(rows, missing_images="drop", test_share=0))
    assert (len(found.train), found.dropped) == (297, 3)


def test_a_path_that_a_row_says_is_not_opened_outside_the_places(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    data = tmp_path / "data"
    data.mkdir()
    annotated = {aspect: {"Rating": "4"} for aspect in ASPECTS}
    completions = [
        {"model": "a", "response": "x", "annotations": annotated},
        {"model": "b", "response": "y", "annotations": annotated | {ASPECTS[0]: {"Rating": "1"}}},
    ]
    hostile = [
        {"id": "0", "prompt": "p", "img_path": "../secret.png", "completions": completions},
        {"id": "1", "prompt": "q", "img_path": "https://example.org/a.png", "completions": completions},
    ]
    (data / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in hostile))
    with pytest.raises(DataError, match="2 of 2 pairs lack their picture"):
        read_preferences(dataset(data / "rows.jsonl", test_share=0))


@pytest.mark.parametrize(
    ("read", "said"),
    (
        ("no/such/file.jsonl", "no such file or folder; known: a path, 'public', or hub:OWNER/NAME"),
        ("hub:nonsense", "write it as hub:"),
    ),
)
def test_data_that_are_nowhere_are_named(read: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_preferences(dataset(read))


def test_a_rule_that_leaves_nothing_says_what_was_read(rows: Path) -> None:
    with pytest.raises(DataError, match=r"gives no pair to train on: 100 rows.*300 refused"):
        read_preferences(dataset(rows, min_margin=9))


def test_a_digest_is_of_what_pairs_say(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    pair = Preference(id="0", prompt="p", images=(ImageRef("a.png", data=b"1"),), chosen="x", rejected="y", row=0)
    moved = replace(pair, images=(ImageRef("a.png", tmp_path / "a.png"),))
    other = replace(pair, rejected="z")
    assert digest([pair]) == digest([moved]) != digest([other])


def test_a_digest_is_of_what_pictures_hold(rows: Path) -> None:
    before = read_preferences(dataset(rows)).digest
    (rows.parent / "images" / "7.png").write_bytes(png(300))
    after = read_preferences(dataset(rows)).digest
    (rows.parent / "images" / "7.png").write_bytes(png(7))
    assert before == read_preferences(dataset(rows)).digest != after
