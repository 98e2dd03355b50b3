"""The answers in the page, and the pictures beside them."""

from typing import Any

import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.views.page_answers import Mark, mark
from support.errors import BoardError
from tests.leaderboards.makers import MakeEntry, MakeSample, block, index, logs_of, page, picture, text_of


@pytest.fixture
def two(make_entry: MakeEntry) -> list[Entry]:
    return [make_entry(), make_entry(run="run-2", model="tuned", value=4.0, low=2.0, high=6.5)]


def test_answers_are_kept_once_per_run_beside_the_questions(two: list[Entry], make_sample: MakeSample) -> None:
    old = make_sample(
        reply="Judge: wrong.", records={"CHAIR_s": {"image": "scene-0", "hallucinated": 2, "category": "kitchen"}}
    )
    new = make_sample(run="run-2", answer=None, records={}, prompt="Describe it.")
    html = page(two, title="Board", samples=logs_of(old, new))
    (log,) = index(html)
    assert block(html, log["block"]) == [["0", "Describe it.", None, "scene-0", "kitchen"]]
    answers = {run["name"]: block(html, run["block"]) for run in log["logs"]}
    assert [run["name"] for run in log["logs"]] == ["tuned", "base"]  # best first
    assert answers["base"][0][1:4] == ["A red circle.", ["2 hallucinated", -2.0, 0], "Judge: wrong."]
    assert answers["tuned"][0][1:4] == [None, None, None]  # a failed generation is no empty answer and has no mark
    assert (answers["tuned"][0][4], answers["base"][0][4]) == (
        None,
        "Describe the image.",
    )  # only a prompt that differs is kept


def test_of_too_many_answers_those_stay_on_which_models_differ(two: list[Entry], make_sample: MakeSample) -> None:
    samples = [
        make_sample(run=run, id=str(id), answer=run if id in (3, 7) else "same")
        for run in ("run-1", "run-2")
        for id in range(10)
    ]
    html = page(two, title="Board", samples=logs_of(*samples), answers=6)
    (log,) = index(html)
    assert (log["asked"], log["kept"]) == (10, 3)
    assert [question[0] for question in block(html, log["block"])] == ["0", "3", "7"]


def test_questions_on_which_one_is_better_come_before_those_in_other_words(
    two: list[Entry], make_sample: MakeSample
) -> None:
    def said(run: str, id: int) -> Sample:
        better = id in (4, 8) and run == "run-2"
        record = {"image": f"scene-{id}", "hallucinated": 0 if better else 1}
        return make_sample(run=run, id=str(id), image=f"scene-{id}", answer=f"{run} {id}", records={"CHAIR_s": record})

    samples = logs_of(*(said(run, id) for run in ("run-1", "run-2") for id in range(10)))
    html = page(two, title="Board", samples=samples, answers=6)
    (log,) = index(html)
    assert [question[0] for question in block(html, log["block"])] == ["0", "4", "8"]
    text = text_of(html)
    assert "In this page: 6 answers to 3 questions." in text
    assert "Of 10 questions, 3 are in this page, those on which most models differ" in text
    whole = text_of(page(two, title="Board", samples=samples))
    assert "In this page: 20 answers to 10 questions." in whole
    assert "are in this page, those" not in whole


def test_a_log_that_cannot_be_read_is_named_and_a_missing_one_is_not_an_error(
    two: list[Entry], make_sample: MakeSample
) -> None:
    def load(run: str) -> list[Sample]:
        if run == "run-1":
            raise ValueError("run-1.samples.parquet: its digest differs")
        raise FileNotFoundError(run)

    html = page(two, title="Board", samples=load)
    assert "Answers of run run-1 are left out: run-1.samples.parquet: its digest differs" in text_of(html)
    assert 'id="flips"' not in html


def test_a_picture_is_kept_once_however_often_it_is_shown(two: list[Entry], make_sample: MakeSample) -> None:
    samples = [make_sample(run=run, id=str(id), image=f"scene-{id}") for run in ("run-1", "run-2") for id in range(4)]
    asked: list[tuple[str, str]] = []

    def thumbnails(task: str, image: str) -> bytes | None:
        asked.append((task, image))
        return None if image == "scene-3" else picture("red" if image == "scene-2" else "blue")

    html = page(two, title="Board", samples=logs_of(*samples), thumbnails=thumbnails)
    assert html.count("data:image/webp;base64,") == 2
    assert sorted(asked) == [("scenes_chair", f"scene-{id}") for id in range(4)]
    assert [row[2] for row in block(html, index(html)[0]["block"])] == ["p0", "p0", "p1", None]


@pytest.mark.parametrize(
    ("data", "message"),
    (
        (b"<svg onload=alert(1)>", "is no JPEG, PNG or WebP"),
        (b"RIFF\0\0\0\0AVI ", "is no JPEG, PNG or WebP"),
        (b"\xff\xd8\xff" + bytes(70_000), "has 70003 bytes, more than 65536"),
    ),
)
def test_a_thumbnail_that_is_no_small_image_is_an_error(
    two: list[Entry], make_sample: MakeSample, data: bytes, message: str
) -> None:
    with pytest.raises(BoardError, match=f"'scene-0' of scenes_chair {message}"):
        page(two, title="Board", samples=logs_of(make_sample()), thumbnails=lambda task, image: data)


@pytest.mark.parametrize(
    ("record", "expected"),
    (
        ({"correct": True, "rating": 1}, Mark(label="right", score=1.0, right=True)),
        ({"correct": False}, Mark(label="wrong", score=0.0, right=False)),
        ({"rating": 4}, Mark(label="rating 4", score=4.0, right=True)),
        ({"rating": 2}, Mark(label="rating 2", score=2.0, right=False)),
        ({"hallucinated": 0}, Mark(label="none hallucinated", score=0.0, right=True)),
        ({"hallucinated": 3}, Mark(label="3 hallucinated", score=-3.0, right=False)),
        ({"words": 12}, None),
    ),
)
def test_an_answer_is_marked_by_what_its_task_counted(
    make_sample: MakeSample, record: dict[str, Any], expected: Mark | None
) -> None:
    assert mark(make_sample(records={"other": {"words": 1}, "m": record}), "m") == expected


def test_a_failed_generation_or_an_unscored_answer_has_no_mark(make_sample: MakeSample) -> None:
    assert mark(make_sample(answer=None, records={"m": {"correct": False}}), "m") is None
    assert mark(make_sample(records={}), "m") is None
