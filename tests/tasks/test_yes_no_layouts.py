"""MME's and POPE's documents, records and official answer files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import AnswerFileError
from tasks.benchmarks import mme, pope
from tests.tasks.conftest import score
from tests.tasks.conftest import write_lines as write

# MME


@pytest.mark.parametrize(
    ("images", "pairs"),
    (
        ("aabb", [0, 0, 1, 1]),
        ("abba", [0, 1, 1, 0]),
        ("abab", [0, 1, 0, 1]),
        ("abbcc", [0, 1, 1, 2, 2]),
        ("aaaa", [0, 0, 1, 1]),
        ("aaab", [0, 0, 1, 2]),
        ("abcd", [0, 0, 1, 1]),
        ("abc", [0, 0, 1]),
        ("a", [0]),
        ("", []),
    ),
)
def test_two_questions_about_one_image_are_a_pair_and_consecutive_rows_where_none_has_two(
    images: str, pairs: list[int]
) -> None:
    from datasets import Dataset

    assert mme.number_pairs(list(images)) == pairs
    rows = [{"category": c, "question_id": image} for image in images for c in ("count", "OCR")]
    if rows:
        found = mme.docs(Dataset.from_list(rows))
        assert found["pair"][:] == [pair for pair in pairs for _ in range(2)]
        assert found["id"][:] == [f"{c}/{n}" for n in range(len(images)) for c in ("count", "OCR")]


def test_pairs_of_mme_files_in_another_order_are_found(tmp_path: Path) -> None:
    lines = [f"{n}.jpg\t{thing}?\t{truth} \tYes" for thing, truth in (("Dog", "yes"), ("Cat", "NO")) for n in range(3)]
    (tmp_path / "count.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = mme.official_answers(tmp_path, None)
    assert [sample.doc["pair"] for sample in given.answered] == [0, 1, 2] * 2
    assert [sample.doc["answer"] for sample in given.answered] == ["Yes"] * 3 + ["No"] * 3


def test_an_mme_record_says_what_was_read() -> None:
    doc = {"image": "a", "category": "OCR", "pair": 3, "answer": "Yes"}
    read = {"predicted": "yes", "truth": "yes", "correct": True, "words": 3}
    assert mme.process_results(doc, ["Yes, it is."])["OCR"] == read | {
        **{"image": "a", "cluster": "OCR/3", "category": "OCR"}
    }
    assert mme.process_results(doc, ["It is."])["OCR"]["unparsed"] is True


def test_mme_files_are_read_line_by_line(tmp_path: Path) -> None:
    lines = ["1.jpg\tDog?\tYes\tyes", "1.jpg\tCat?\tNo\tNo, none.", "2.jpg\tDog?\tYes\t  Yes", "2.jpg\tCat?\tNo\t"]
    (tmp_path / "count.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = mme.official_answers(tmp_path, None)
    scores = score("mme", given)
    assert (scores["count"], scores["perception"], scores["yes_rate"]) == (100, 100, 25)
    assert given.warnings[0].startswith("no file for existence, position")
    (tmp_path / "count.txt").write_bytes("\r\n".join(lines).encode())
    assert score("mme", mme.official_answers(tmp_path, None)) == pytest.approx(scores, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        ("1.jpg\tDog?\tYes\n", r"count\.txt: line 1: 3 fields, must be 4"),
        ("1.jpg\tDog?\tYes\tyes\tno\n", r"count\.txt: line 1: 5 fields"),
        ("1.jpg\tDog?\tMaybe\tyes\n", r"count\.txt: line 1: truth 'Maybe' is neither Yes nor No"),
    ),
)
def test_a_line_of_mme_that_is_wrong_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text(text, encoding="utf-8")
    with pytest.raises(AnswerFileError, match=complaint):
        mme.official_answers(tmp_path, None)


def test_a_folder_without_mme_files_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(AnswerFileError, match=r"has none of existence\.txt, count\.txt"):
        mme.official_answers(tmp_path, None)


# POPE


def questions(folder: Path, count: int, article: str = "a") -> None:
    """The three files of one version, `count` of them random."""
    folder.mkdir(parents=True)
    for split in pope.SPLITS:
        rows = [
            {"question_id": n + 1, "image": f"{n // 2}.jpg", "label": "yes"}
            | {"text": f"Is there {article} thing {n} in the image?"}
            for n in range(count if split == "random" else 4)
        ]
        write(folder / f"coco_pope_{split}.json", rows)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    questions(tmp_path / "refs" / "today", 4)
    questions(tmp_path / "refs" / "llava", 2910, "an")
    return tmp_path / "refs"


def test_the_version_is_that_whose_questions_the_answers_repeat(references: Path, tmp_path: Path) -> None:
    rows = [{"question": f"Is there an thing {n} in the image?", "answer": "Yes"} for n in range(3)]
    given = pope.official_answers(write(tmp_path / "m_random.jsonl", rows), references)
    assert list(given.warnings) == [
        "m_random.jsonl: taken as answers to the 2910 random questions of pope_llava, not of pope",
        "m_random.jsonl: answers 3 of 2910 random questions; the others are not counted",
    ]
    assert score("pope", given)["random_accuracy"] == 100


def test_the_version_is_that_with_as_many_questions_else_the_tasks_own(references: Path, tmp_path: Path) -> None:
    few, many = (
        write(tmp_path / f"{n}_random.jsonl", [{"question_id": i, "text": "No"} for i in range(n)]) for n in (4, 2910)
    )
    assert "pope_llava" not in str(pope.official_answers(few, references).warnings)
    assert "random questions of pope_llava, not of pope" in pope.official_answers(many, references).warnings[0]
    assert not pope.official_answers_llava(many, references).warnings
    popular = write(tmp_path / "m_popular.jsonl", [{"question_id": i, "text": "No"} for i in range(4)])
    assert not pope.official_answers(popular, references).warnings
    assert not pope.official_answers_llava(popular, references).warnings


def test_files_of_one_model_are_found_by_their_beginning(references: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    for split in pope.SPLITS:
        write(folder / f"a_{split}.jsonl", [{"question_id": i, "text": "Yes"} for i in range(4)])
    scores = score("pope", pope.official_answers(folder, references))
    assert (scores["f1"], scores["adversarial_recall"], scores["yes_rate"]) == (100, 100, 100)
    write(folder / "b_random.jsonl", [{"question_id": 1, "text": "No"}])
    with pytest.raises(AnswerFileError, match=r"several models \(a_\*\.jsonl, b_\*\.jsonl\)"):
        pope.official_answers(folder, references)
    assert score("pope", pope.official_answers(folder / "a", references)) == pytest.approx(scores, nan_ok=True)


def test_llavas_one_file_is_cut_by_its_question_ids(references: Path, tmp_path: Path) -> None:
    starts = {"random": 10_000_001, "popular": 20_000_001, "adversarial": 1}
    rows = [
        {"question_id": start + n, "prompt": f"Is there a thing {n} in the image?\nAnswer.", "text": "Yes"}
        for start in starts.values()
        for n in range(4)
    ]
    given = pope.official_answers(write(tmp_path / "answers.jsonl", rows), references)
    assert not given.warnings
    assert score("pope", given)["f1"] == 100


def test_what_can_not_be_scored_is_said(references: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "random.jsonl", [{"question_id": 1}])
    with pytest.raises(AnswerFileError, match="has neither answer, text"):
        pope.official_answers(path, references)
    with pytest.raises(AnswerFileError, match="give the folder with --references"):
        pope.official_answers(path, None)
    with pytest.raises(AnswerFileError, match="has no questions"):
        pope.official_answers(path, tmp_path / "refs" / "none")
    path = write(tmp_path / "answers.jsonl", [{"text": "Yes"}])
    with pytest.raises(AnswerFileError, match="can't tell which split"):
        pope.official_answers(path, references)


@given(st.text())
def test_popes_default_is_yes_and_it_is_told_apart_from_an_answer(text: str) -> None:
    assert pope.parse(text) == "yes" or pope.is_answer(text)
    assert pope.parse(text) == pope.parse(text)


@pytest.mark.parametrize(
    ("text", "unparsed"),
    (("Yes.", False), ("No", False), ("YES", False), ("It is. Yes", True), ("", True), ("Yesterday", True)),
)
def test_an_answer_that_says_neither_is_unparsed(text: str, unparsed: bool) -> None:
    doc = {"image": "1", "category": "random", "answer": "yes"}
    assert pope.process_results(doc, [text])["f1"].get("unparsed", False) == unparsed


def test_answers_to_other_questions_than_those_of_their_lines_are_refused(references: Path, tmp_path: Path) -> None:
    asked = [f"USER: <image>\nIs there a thing {n} in the image? ASSISTANT:" for n in range(4)]
    good = [{"prompt": text, "answer": "Yes"} for text in asked]
    assert not pope.official_answers(write(tmp_path / "random.jsonl", good), references).warnings
    one = [*good[:3], {"prompt": "Is there a hat?", "answer": "No"}]
    (told,) = pope.official_answers(write(tmp_path / "random.jsonl", one), references).warnings
    assert told == "random.jsonl: 1 answers are to another question than that of their line"
    with pytest.raises(AnswerFileError, match=r"4 of 4 answers are to another question .*: another split, version or"):
        pope.official_answers(write(tmp_path / "random.jsonl", good[::-1]), references)
