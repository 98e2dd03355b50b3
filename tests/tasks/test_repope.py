"""RePOPE: answers to POPE's questions, scored by the corrected labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.errors import AnswerFileError
from tasks.answer_files import join
from tasks.benchmarks import repope
from tasks.benchmarks.pope import SPLITS
from tasks.registry import registry

TODAY = (("1.jpg", "a dog", "yes"), ("1.jpg", "an oven", "no"), ("2.jpg", "a car", "yes"), ("2.jpg", "a cat", "no"))
LLAVA = (("2.jpg", "an car", "yes"), ("1.jpg", "an dog", "yes"), ("2.jpg", "a cat", "no"))
"""Another order, another article, and no oven."""
KEPT = ((1, "yes"), (2, "yes"), (3, "no"))
"""Numbers of today's questions with RePOPE's labels: two are corrected, the last question is left out."""


def put(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def question(number: int, image: str, thing: str, label: str) -> dict[str, Any]:
    text = f"Is there {thing} in the {'imange' if number == 3 else 'image'}?"
    return {"question_id": number, "image": image, "text": text, "label": label}


def write_data(folder: Path) -> Path:
    """RePOPE's labels and both versions of POPE's questions; LLaVA's is known by its 2910 random ones."""
    for split in SPLITS:
        today = [question(n, *row) for n, row in enumerate(TODAY, 1)]
        llava = [question(n, *row) for n, row in enumerate(LLAVA, 1)]
        if split == "random":
            llava += [question(n, f"x{n}.jpg", "a thing", "no") for n in range(4, 2911)]
        put(folder / "pope" / f"coco_pope_{split}.json", today)
        put(folder / "pope_llava" / f"coco_pope_{split}.json", llava)
        kept = [question(n, *TODAY[n - 1][:2], label) for n, label in KEPT]
        put(folder / f"coco_repope_{split}.json", kept)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data" / "repope")


def records(path: Path, references: Path | None) -> dict[str, bool]:
    """Question -> whether its answer is right."""
    process = registry().process_results("repope")
    found = repope.official_answers(path, references).answered
    return {one.id: process(one.doc, [one.answer])["f1"]["correct"] for one in found}


def test_answers_to_pope_are_scored_by_the_corrected_labels(data: Path, tmp_path: Path) -> None:
    answers = [{"question_id": n, "text": text} for n, text in enumerate(("Yes", "No", "No", "No"), 1)]
    path = put(tmp_path / "m_popular.jsonl", answers)
    assert records(path, data) == {"popular/1": True, "popular/2": False, "popular/3": True}
    given = repope.official_answers(path, data)
    assert list(given.warnings) == [
        "m_popular.jsonl: 1 of 4 answers are to questions that RePOPE leaves out, and are not counted"
    ]
    assert not given.partial
    assert given.more, "one split alone has its own figures"


def test_files_in_lines_without_numbers_are_in_popes_order_or_in_repopes(data: Path, tmp_path: Path) -> None:
    popes = put(tmp_path / "a" / "m_random.jsonl", [{"answer": text} for text in ("No", "Yes", "No", "No")])
    own = put(tmp_path / "b" / "m_random.jsonl", [{"answer": text} for text in ("No", "Yes", "No")])
    expected = {"random/1": False, "random/2": True, "random/3": True}
    assert records(popes, data) == expected
    assert records(own, data) == expected


def test_llavas_version_in_another_order_has_the_same_labels(data: Path, tmp_path: Path) -> None:
    answers = ["No", "Yes", *["Yes"] * 2908]
    rows = [{"question_id": 10_000_000 + n, "text": text} for n, text in enumerate(answers, 1)]
    path = put(tmp_path / "m_random.jsonl", rows)
    assert records(path, data) == {"random/3": True, "random/1": True}
    given = repope.official_answers(path, data)
    assert given.partial
    assert given.warnings[-1] == (
        "m_random.jsonl: 2 of RePOPE's 3 random questions are answered; the others are not counted"
    )


def test_the_score_is_popes_mean_of_three(data: Path, tmp_path: Path) -> None:
    rows = [{"question_id": n, "text": "Yes"} for n in range(1, 5)]
    paths = [put(tmp_path / f"m_{split}.jsonl", rows) for split in SPLITS]
    given = join([repope.official_answers(path, data) for path in paths], paths)
    process = registry().process_results("repope")
    found = [process(one.doc, [one.answer])["f1"] for one in given.answered]
    assert registry().metric("repope", "f1")(found) == pytest.approx(80)  # precision 2/3, recall 1
    assert not given.partial


def test_labels_are_read_from_the_folder_of_data_and_asked_for_where_there_are_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "m_popular.jsonl", [{"question_id": n, "text": "Yes"} for n in range(1, 5)])
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "none"))
    with pytest.raises(AnswerFileError, match=r"needs the labels of RePOPE .* run `harness data get repope`"):
        repope.official_answers(path, None)
    monkeypatch.setenv("HARNESS_DATA", str(data.parent))
    assert len(records(path, None)) == 3
    assert len(records(path, data / "pope")) == 3, "what the references lack is in the folder of data"
    with pytest.raises(AnswerFileError, match="no such folder of references"):
        repope.official_answers(path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "thing"),
    (
        ("Is there a dining table in the image?", "dining table"),
        ("Is there an Oven  in the imange?", "oven"),
        ("Is there airplane in the image?", "airplane"),
        ("Is there an animal in the image?", "animal"),
        ("What?", "what?"),
    ),
)
def test_what_a_question_asks_for(text: str, thing: str) -> None:
    assert repope.find_object(text) == thing
