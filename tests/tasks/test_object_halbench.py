import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import AnswerFileError, JudgeError
from tasks.answer import FailedAnswer
from tasks.benchmarks import object_halbench
from tasks.benchmarks.chair import read_synonyms
from tasks.judges.protocol import GREEDY, JudgeSession, Sampling, ThreadedJudge
from tasks.metric import Metric
from tasks.registry import registry
from tests.tasks.conftest import score as score_answers


def metrics() -> Iterator[tuple[str, Metric]]:
    return ((name, registry().metric("object_halbench", name)) for name in registry().task("object_halbench").metrics)


def test_rates_have_each_its_own_denominator() -> None:
    records = [
        object_halbench.record("1", ["dog", "car"], {"dog", "cat"}, "A dog beside a car."),
        object_halbench.record("2", ["dog", "dog"], {"dog"}, " Two  dogs. "),
        object_halbench.record("3", [], {"bus", "person"}, "Sky."),
    ]
    assert {name: metric(records) for name, metric in metrics()} == {
        "response_hallucination": 50.0,  # of the two answers that name anything
        "object_hallucination": 25.0,
        "response_correct": 50.0,
        "object_correct": 75.0,
        "object_recall": 40.0,
        "length": 3.0,  # by single spaces: two of them enclose an empty word
    }


def test_the_last_digit_is_rounded_as_the_script_does() -> None:
    for whole in range(1, 301):
        for part in range(whole + 1):
            records = [{"image": "1", "hallucinated": part, "mentions": whole}]
            assert f"{object_halbench.object_hallucination(records):.2f}" == f"{part / whole * 100:.2f}"


@pytest.mark.parametrize(
    ("reply", "objects"),
    (
        ('["dog", "cat"]', ["dog", "cat"]),
        ('Sure.\n["dog"]', ["dog"]),
        ('```json\n["dog",\n "cat"]\n```', ["dog", "cat"]),
        ('```json\nnothing\n```\n["dog"]', ["dog"]),
        ("[]", []),
        ('["dog"]\nThat is all.', None),
        ('{"objects": ["dog"]}', None),
        ('["dog", 1]', None),
        ("a dog", None),
        ("", None),
    ),
)
def test_the_judges_list_is_read_from_a_block_or_the_last_line(reply: str, objects: list[str] | None) -> None:
    assert object_halbench.parse_objects(reply) == objects


@given(st.text() | st.recursive(st.text(), st.lists, max_leaves=4).map(json.dumps))
def test_any_reply_can_be_read_and_always_alike(reply: str) -> None:
    objects = object_halbench.parse_objects(reply)
    assert objects is None or all(isinstance(name, str) for name in objects)
    assert objects == object_halbench.parse_objects(reply)


@pytest.mark.parametrize(
    ("objects", "words"),
    (
        (["red dogs", "dog"], ["dog"]),
        (["cell phones"], ["cell phone"]),
        (["baby elephants on a bench"], ["elephant"]),
        (["a man with a dog"], ["man", "dog"]),
        (["street sign"], ["street sign"]),
        (["wooden dining table"], ["dining table"]),
        ([], []),
        ([""], []),
    ),
)
def test_objects_become_listed_pairs_or_runs_of_nouns_each_once(
    objects: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ("nltk", object_halbench._read_nouns_with_nltk)
    monkeypatch.setattr(object_halbench, "noun_reader", lambda: reader)
    assert object_halbench.words_of_objects(objects) == words


@given(st.lists(st.text(), max_size=4))
def test_any_objects_can_be_brought_to_words(objects: list[str]) -> None:
    words = object_halbench.words_of_objects(objects)
    assert len(words) == len(set(words))


class Lister(ThreadedJudge):
    """Lists a dog and a car; its line is down where the answer speaks of snow, and it rambles about rain."""

    model = "lister"

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sampling]] = []

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        self.asked.append((prompt, sampling))
        if "snow" in prompt:
            raise JudgeError("down")
        return "Rain." if "rain" in prompt else '["a black dog", "car", "dogs"]'


def test_the_judge_lists_objects_and_is_not_asked_about_what_is_short_or_failed() -> None:
    clear = ["A dog beside a car.", "A black dog.", FailedAnswer("lost")]
    answers = [*clear, "There is snow all over.", "There is rain all over.", ""]
    docs = [{"image": str(n), "question": "What is there?", "gt_objects": ["dog"]} for n in range(len(answers))]
    judge = Lister()
    found = object_halbench.judge(answers, docs, JudgeSession(judge=judge))
    assert [verdict["rating"] for verdict in found] == [2, 0, None, None, None, 0]
    assert found[0]["named"] == ["dog", "car"]
    assert json.loads(json.dumps(found)) == found
    assert len(judge.asked) == 3
    assert all(sampling == Sampling(temperature=0.2, max_tokens=512) for _, sampling in judge.asked)
    assert any('{"question": "What is there?", "answer": "A dog beside a car."}' in prompt for prompt, _ in judge.asked)
    records = [object_halbench.process_results(doc, [verdict]) for doc, verdict in zip(docs, found, strict=True)]
    assert [bool(record) for record in records] == [True, True, False, False, False, True]
    assert records[0].keys() == {name for name, _ in metrics()}
    assert records[0]["length"] == {
        **{"image": "0", "hallucinated": 1, "mentions": 2, "covered": 1, "objects": 1, "words": 5},
        "nouns": object_halbench.noun_reader()[0],
        "made_up": ["car"],
    }


def test_our_table_of_names_is_the_authors_refined_list(golden: Callable[[str], Path]) -> None:
    listed = read_synonyms(golden("objhal/synonyms_refine.txt").read_text(encoding="utf-8"))
    assert object_halbench.refined().synonyms == {name.strip(): thing for name, thing in listed.items()}


def score(answers: Path, references: Path | None) -> dict[str, float]:
    return score_answers("object_halbench", object_halbench.official_answers(answers, references))


GOLDEN = "objhal/opera-llava-1.5-greedy_300_with_objs.jsonl"
PRINTED = {
    **{"response_hallucination": "Response Hall", "object_hallucination": "Object Hall"},
    **{"response_correct": "Response Correct", "object_correct": "Object Correct"},
    **{"object_recall": "Object Recall", "length": "Average Length"},
}


@pytest.mark.parametrize(("extracted", "path_used"), ((True, "gpt_process=True"), (False, "gpt_process=False")))
@pytest.mark.parametrize("listed", (True, False))
def test_golden_answers_score_as_officially(
    extracted: bool,
    path_used: str,
    listed: bool,
    golden: Callable[[str], Path],
    golden_json: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    (scores,) = golden_json("objhal/expected_scores.json").values()
    (summary,) = (figures["summary"] for name, figures in scores.items() if name.startswith(path_used))
    rows = [{name: cell for name, cell in row.items() if extracted or name != "objs"} for row in golden_json(GOLDEN)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = score(tmp_path / "answers.jsonl", golden("objhal") if listed else None)
    assert found == {name: summary[printed] for name, printed in PRINTED.items()}


def test_a_review_by_the_script_scores_as_it_did(golden_json: Callable[[str], Any], tmp_path: Path) -> None:
    rows = golden_json(GOLDEN)
    fields = (("image_id", "image_id"), ("caption", "caption"), ("words", "objs"), ("mscoco_gt_words", "gt_objects"))
    review = {"sentences": [{theirs: row[ours] for theirs, ours in fields} for row in rows], "overall_metrics": {}}
    (tmp_path / "hall_obj_halbench_answer_-1.json").write_text(json.dumps(review), encoding="utf-8")
    assert score(tmp_path / "hall_obj_halbench_answer_-1.json", None)["response_hallucination"] == 45.33


ROW = {"image_id": 5, "caption": "Assistant: A dog and a bus.", "gt_objects": ["dog"], "question": "What is there?"}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / "answers.jsonl"


def test_where_the_objects_come_from_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path, *({**ROW, "objs": objs, "image_id": n} for n, objs in enumerate((["dog", "cat"], None, None)))
    )
    given = object_halbench.official_answers(path, None)
    assert [sample.answer["named"] for sample in given.answered] == [["dog", "cat"], ["dog", "bus"], ["dog", "bus"]]
    assert [sample.text for sample in given.answered] == ["A dog and a bus."] * 3
    assert len({sample.id for sample in given.answered}) == 3
    told = [warning.split(" have")[0] for warning in given.warnings if " of 3 answers" in warning]
    assert told == ["1 of 3 answers", "2 of 3 answers"]
    assert [sample.judge_instead for sample in given.answered] == [False, True, True]
    assert given.warnings_when_judged is not None
    assert any("the judge lists them" in warning for warning in given.warnings_when_judged)


def test_objects_in_the_image_come_from_the_row_or_the_references(tmp_path: Path) -> None:
    path = write(tmp_path, {name: cell for name, cell in ROW.items() if name != "gt_objects"})
    references = tmp_path / "references"
    references.mkdir()
    with pytest.raises(AnswerFileError, match="COCO annotations"):
        object_halbench.official_answers(path, references)
    for part in ("train", "val"):
        instances = {"categories": [{"id": 7, "name": "dog"}], "annotations": [{"image_id": 5, "category_id": 7}]}
        captions = {"annotations": [{"image_id": 5, "caption": "Two buses and some brothers."}]}
        (references / f"instances_{part}2014.json").write_text(json.dumps(instances), encoding="utf-8")
        (references / f"captions_{part}2014.json").write_text(json.dumps(captions), encoding="utf-8")
    assert object_halbench.official_answers(path, references).answered[0].doc["gt_objects"] == {"dog", "bus", "person"}
    (references / "gt_objects.jsonl").write_text('{"image_id": 5, "nltk": ["cat"]}', encoding="utf-8")
    assert object_halbench.official_answers(path, references).answered[0].doc["gt_objects"] == {"cat"}
    with pytest.raises(AnswerFileError, match="has no objects of image 6"):
        object_halbench.official_answers(write(tmp_path, {"image_id": 6, "caption": "A dog."}), references)


def questions(folder: Path) -> Path:
    image = base64.b64encode(bytes(2000)).decode()
    rows = [{"image_id": n, "question": f"Describe it ({n}).", "image": image, "gt_objects": ["dog"]} for n in (5, 6)]
    (folder / "obj_halbench_300_with_image.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "gt_objects.jsonl").write_text("{}", encoding="utf-8")
    return folder


def test_answers_without_an_image_belong_to_the_questions_in_order(tmp_path: Path) -> None:
    references = tmp_path / "references"
    references.mkdir()
    rows = [{"prompt": "Describe it.", "text": f"Assistant: A dog {n}.", "gt_objects": ["dog"]} for n in range(2)]
    found = object_halbench.official_answers(write(tmp_path, *rows), questions(references)).answered
    assert [(sample.doc["image"], sample.text) for sample in found] == [("5", "A dog 0."), ("6", "A dog 1.")]
    with pytest.raises(AnswerFileError, match="has 2 questions, but there are 4 answers"):
        object_halbench.official_answers(write(tmp_path, *rows, *rows), references)


def test_the_authors_file_gives_the_documents(tmp_path: Path) -> None:
    for place in (questions(tmp_path), tmp_path / "obj_halbench_300_with_image.jsonl"):
        rows = object_halbench.rows(place)
        assert [(row["id"], row["question"], row["gt_objects"]) for row in rows] == [
            ("5/0", "Describe it (5).", ["dog"]),
            ("6/1", "Describe it (6).", ["dog"]),
        ]
        assert all(row["image"] for row in rows)


@pytest.mark.parametrize(
    ("row", "complaint"),
    (
        ({"image_id": 5, "gt_objects": []}, "a row has neither answer, text, caption"),
        ({"image_id": "x", "caption": "A dog."}, "a row lacks the number image_id"),
        ({**ROW, "objs": "-1\n<no_response>"}, "the objs of image 5 are no list of texts"),
        ({"sentences": 1}, "its sentences must be a list"),
        ({"sentences": [{"image_id": 5}]}, "a row lacks caption, words, mscoco_gt_words"),
        ({"caption": "A dog."}, "--references"),
    ),
)
def test_what_is_wrong_with_a_file_is_said(row: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AnswerFileError, match=complaint):
        object_halbench.official_answers(write(tmp_path, row), None)
    with pytest.raises(AnswerFileError, match="must be a file"):
        object_halbench.official_answers(tmp_path, None)
