"""VLFeedback as it is published: every shape gives the same rows."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.errors import DataError
from tests.trainers.public_makers import (
    IDS,
    PICTURES,
    RECORDS,
    clone,
    completions,
    put_images,
    put_lines,
    put_parquet,
    put_zip,
    record,
)
from trainers.config.data import ASPECTS
from trainers.data import vlfeedback_format
from trainers.data.rows import Completion, Row
from trainers.data.vlfeedback_format import Seen, holds_rows, read_rows, write_rows


def as_lists(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        row | {"completions": {key: [one[key] for one in row["completions"]] for key in row["completions"][0]}}
        for row in records
    ]


def with_paths(folder: Path, records: Sequence[dict[str, Any]], start: str) -> Path:
    """Lines of records, of which each names its picture by a path."""
    return put_lines(folder / "rows.jsonl", [row | {"img_path": f"{start}{row['id']}.jpg"} for row in records])


def dict_of_lists(folder: Path) -> Path:
    put_images(folder / "images")
    return with_paths(folder, as_lists(RECORDS), "images/")


def loader_paths(folder: Path) -> Path:
    put_images(folder / "merged_images")
    return with_paths(folder, RECORDS, "/home/somebody/.cache/huggingface/downloads/extracted/0f/merged_images/")


def windows_paths(folder: Path) -> Path:
    put_zip(folder / "images.zip", prefix="")
    return with_paths(folder, RECORDS, "C:\\data\\merged_images\\")


def one_list(folder: Path) -> Path:
    put_images(folder)
    path = folder / "rows.json"
    path.write_text(json.dumps([row | {"image": f"{row['id']}.jpg"} for row in RECORDS], indent=1))
    return path


def gzipped(folder: Path) -> Path:
    put_images(folder / "merged_images")
    lines = put_lines(folder / "rows.jsonl", RECORDS)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    lines.unlink()
    return folder / "rows.jsonl.gz"


def parquet_of_lists(folder: Path) -> Path:
    put_images(folder / "merged_images")
    put_parquet(folder / "rows.parquet", RECORDS)
    return folder / "rows.parquet"


def shards_with_images(folder: Path) -> Path:
    rows = [row | {"image": {"bytes": PICTURES[row["id"]], "path": f"{row['id']}.jpg"}} for row in as_lists(RECORDS)]
    put_parquet(folder / "data" / "train-00000-of-00002.parquet", rows[:3])
    put_parquet(folder / "data" / "train-00001-of-00002.parquet", rows[3:])
    return folder


def image_lists(folder: Path) -> Path:
    rows = [row | {"images": [{"bytes": PICTURES[row["id"]], "path": None}]} for row in RECORDS]
    put_parquet(folder / "rows.parquet", rows)
    return folder


def shards_of_lines(folder: Path) -> Path:
    put_images(folder / "merged_images")
    put_lines(folder / "part-01.jsonl", RECORDS[:2])
    put_lines(folder / "part-02.jsonl", RECORDS[2:])
    return folder


SHAPES: list[Callable[[Path], Path]] = [clone, dict_of_lists, loader_paths, windows_paths, one_list, gzipped]
SHAPES += [parquet_of_lists, shards_with_images, image_lists, shards_of_lines]


def told(row: Row) -> tuple[Any, ...]:
    return row.index, row.id, row.prompt, row.completions, tuple(picture.read() for picture in row.images)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_gives_the_same_rows(shape: Callable[[Path], Path], tmp_path: Path) -> None:
    def rated(model: str, response: str, *given: str) -> Completion:
        ratings = dict(zip(ASPECTS, given, strict=True))
        reasons = {aspect: f"as {rating}" for aspect, rating in ratings.items()}
        return Completion(model=model, response=response, ratings=ratings, rationales=reasons)

    seen = Seen()
    rows = list(read_rows(shape(tmp_path / "data"), seen=seen))
    for index, row in enumerate(rows):
        first = rated("gpt4v", f"A cat {index}.", "4", "5", "N/A")
        answers = (first, rated("llava", "Ein Hund äöü 😀", "1", "2", "3"))
        assert told(row) == (index, IDS[index], f"What is it? {index}", answers, (PICTURES[IDS[index]],))
    assert (seen.rows, seen.repeated_ids, seen.shared_images, seen.citations, seen.non_numeric) == (4, 1, 1, 4, 4)
    assert (seen.missing_images, seen.torn_lines, seen.missing_ratings) == (0, 0, 0)


def read_answers(folder: Path, *answers: Any) -> tuple[Row, Seen]:
    """A row of these answers, read from a file, and what was counted."""
    seen = Seen()
    (row,) = read_rows(put_lines(folder / "a.jsonl", [record(0) | {"completions": list(answers)}]), seen=seen)
    return row, seen


def answer(annotations: Any, response: str | None = "r") -> dict[str, Any]:
    return {"annotations": annotations, "model": "m", "response": response}


def test_ratings_are_kept_as_text_and_aspects_are_known_in_any_spelling(tmp_path: Path) -> None:
    judged = {
        "helpfulness": {"Rating": 4, "Rationale": "x"},
        "ethical_considerations": {"Rating": None, "Rationale": "unsure"},
        "VISUAL-FAITHFULNESS": {"Rating": 3.5},
        "Wit": {"Rating": "2"},
    }
    row, seen = read_answers(tmp_path, answer(judged))
    assert row.completions[0].ratings == {"Helpfulness": "4", "Visual Faithfulness": "3.5", "Wit": "2"}
    assert row.completions[0].rationales == {"Helpfulness": "x", "Ethical Considerations": "unsure"}
    assert (seen.missing_ratings, seen.non_numeric) == (1, 0)


def test_no_digit_of_a_rating_is_lost(tmp_path: Path) -> None:
    judged = {aspect: {"Rating": rating} for aspect, rating in zip(ASPECTS, (4.3333334, 4.0, 4.3333333), strict=True)}
    row, _ = read_answers(tmp_path, answer(judged))
    assert list(row.completions[0].ratings.values()) == ["4.3333334", "4", "4.3333333"]


@pytest.mark.parametrize("annotations", ("N/A", ["Helpfulness: 4"], 4))
def test_annotations_that_are_no_aspects_are_counted_and_the_answer_stays(annotations: Any, tmp_path: Path) -> None:
    row, seen = read_answers(tmp_path, answer(annotations), *completions(0))
    assert [len(completion.ratings) for completion in row.completions] == [0, 3, 3]
    assert (seen.unreadable_annotations, seen.missing_ratings) == (1, 3)
    assert "1 unreadable annotations" in seen.summary()


def test_a_failed_answer_is_not_an_empty_one(tmp_path: Path) -> None:
    row, seen = read_answers(tmp_path, answer({}, None), answer(None, "") | {"model": "n"})
    assert ([completion.model for completion in row.completions], seen.failed_answers) == (["n"], 1)
    none = Seen()
    list(read_rows(put_lines(tmp_path / "b.jsonl", [record(1) | {"completions": None}]), seen=none))
    assert none.without_completions == 1


@pytest.mark.parametrize(
    ("given", "wanted"),
    (
        ("It is red 【1†source】.", "It is red."),
        ("A【12†source】 b 【3:0†map.jpg】c", "A bc"),
        ("【1†source】Start", "Start"),
        ("keep 【this】 and † that", "keep 【this】 and † that"),
    ),
)
def test_citation_marks_are_cut_out_and_other_brackets_stay(given: str, wanted: str, tmp_path: Path) -> None:
    row, seen = read_answers(tmp_path, answer({}, given))
    assert row.completions[0].response == wanted
    assert seen.citations == (given != wanted)


def test_a_torn_last_line_is_counted_and_a_whole_one_without_newline_is_a_row(tmp_path: Path) -> None:
    path = put_lines(tmp_path / "a.jsonl", RECORDS[:2])
    path.write_bytes(path.read_bytes()[:-9])
    seen = Seen()
    assert [row.index for row in read_rows(path, seen=seen)] == [0]
    assert seen.torn_lines == 1
    path.write_text(json.dumps(RECORDS[0]))
    assert len(list(read_rows(path))) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    (
        ({"prompt": None}, "no prompt"),
        ({"completions": "x"}, "list of dicts"),
        ({"completions": {"model": ["a"], "response": []}}, "one length"),
    ),
)
def test_a_record_that_is_no_row_is_named(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        list(read_rows(put_lines(tmp_path / "a.jsonl", [record(0) | wrong])))


def test_files_of_a_folder_that_are_no_shards_of_one_another_are_ambiguous(tmp_path: Path) -> None:
    put_lines(tmp_path / "a.jsonl", RECORDS)
    put_lines(tmp_path / "b.jsonl", RECORDS)
    with pytest.raises(DataError, match=r"a\.jsonl, b\.jsonl"):
        list(read_rows(tmp_path))


def test_a_broken_shard_is_not_passed_over(tmp_path: Path) -> None:
    shards_with_images(tmp_path)
    (tmp_path / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match="train-00001"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_rated_answers_are_told_from_other_data(shape: Callable[[Path], Path], tmp_path: Path) -> None:
    assert holds_rows(shape(tmp_path / "data"))
    pairs = put_lines(tmp_path / "other" / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert not holds_rows(pairs)
    assert not holds_rows(pairs.parent)
    assert not holds_rows(tmp_path / "nowhere")


def test_lines_win_over_parquet_of_the_same_clone(tmp_path: Path) -> None:
    clone(tmp_path)
    put_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [record(0) | {"id": "other"}])
    assert [row.id for row in read_rows(tmp_path)] == IDS


@pytest.mark.parametrize("name", ("missing", "file.txt"))
def test_data_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=name):
        list(read_rows(tmp_path / name))


def test_half_a_character_does_not_stop_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record(0) | {"prompt": "x \ud83d y"}) + "\n")
    (row,) = read_rows(path)
    assert row.prompt == "x \ufffd y"
    assert write_rows([row], tmp_path / "b.jsonl") == 1


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\nbroken\n")
    assert next(read_rows(path)).id == "1"


def test_only_data_is_fetched_at_a_pinned_revision_and_a_hub_that_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def refuses(repository: str, **settings: Any) -> str:
        asked.update(settings, repository=repository)
        raise ConnectionError("hub is down\nlong trace")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuses)
    with pytest.raises(DataError, match=r"can't be fetched: hub is down$"):
        vlfeedback_format.fetch_public()
    assert asked["revision"] == vlfeedback_format.REVISION
    assert not any("py" in pattern for pattern in asked["allow_patterns"])
