import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import AnswerFileError
from tasks.benchmarks import amber
from tasks.registry import registry
from tests.tasks.conftest import score as score_answers

WORDS = amber.Words(
    association={"grass": ["lawn"], "dog": ["puppy", "animal"], "cat": ["animal"], "car": [], "tree": []},
    safe=frozenset(("light",)),
)
TRUTH, TRAPS = ["grass", "dog"], ["cat", "car"]


def alike(one: str, other: str) -> float:
    return float(one.lower()[:3] == other.lower()[:3])


def describe(text: str) -> tuple[int, int, int, int]:
    """Nouns, hallucinated, covered, trapped."""
    counts = amber.describe(text, TRUTH, TRAPS, WORDS)
    assert (counts["truth"], counts["traps"]) == (len(TRUTH), len(TRAPS))
    return counts["nouns"], counts["hallucinated"], counts["covered"], counts["trapped"]


@pytest.mark.parametrize(
    ("text", "counts"),
    (
        ("A dog on the grass.", (2, 0, 2, 0)),
        ("The animal on the lawn is a dog.", (3, 0, 2, 0)),
        ("A cat beside a cat.", (2, 2, 0, 1)),
        ("An animal is here.", (1, 0, 1, 0)),
        ("A tree and a house.", (1, 1, 0, 0)),
        ("A Dog. The light is bright.", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ),
)
def test_nouns_are_there_or_expected_or_made_up(text: str, counts: tuple[int, int, int, int]) -> None:
    assert describe(text) == counts


def test_a_safe_word_is_a_noun_that_is_never_wrong() -> None:
    words = amber.Words(association={"light": []}, safe=frozenset(("light",)))
    assert amber.describe("A light.", [], ["light"], words) == {
        **{"nouns": 1, "hallucinated": 0, "covered": 0, "truth": 0, "trapped": 0, "traps": 1, "made_up": []}
    }


def test_a_description_names_the_nouns_that_nothing_there_explains_as_they_are_written() -> None:
    assert amber.describe("Two cats and a tree on the grass, cats.", TRUTH, TRAPS, WORDS)["made_up"] == [
        "cats",
        "tree",
    ]


def test_words_that_are_alike_count_for_the_thing_there_and_for_the_trap() -> None:
    words = amber.Words(association={"carpet": [], "carrot": [], "car": []}, safe=frozenset())
    counted = [
        amber.describe("A carrot.", truth, traps, words)
        for truth, traps in ((["carpet"], ["car"]), ([], ["car"]), (["carrot"], ["car"]))
    ]
    assert [(c["hallucinated"], c["covered"], c["trapped"]) for c in counted] == [(1, 0, 0), (1, 0, 0), (0, 1, 0)]
    with amber.use_similarity(alike):
        assert amber.similarity()[0] == "own"
        counted = [amber.describe("A carrot.", truth, ["car"], words) for truth in (["carpet"], [], ["carrot"])]
    assert [(c["hallucinated"], c["covered"], c["trapped"]) for c in counted] == [(0, 1, 1), (1, 0, 1), (0, 1, 0)]


def test_a_trap_named_outright_also_counts_the_like_one_before_it() -> None:
    words = amber.Words(association={"carpet": [], "car": []}, safe=frozenset())
    with amber.use_similarity(alike):
        assert amber.describe("A car.", [], ["carpet", "car"], words)["trapped"] == 2


def doc(type: str, truth: str | list[str], **more: Any) -> dict[str, Any]:
    return {"image": "1", "type": type, "truth": truth, "hallu": TRAPS, "words": WORDS, **more}


@pytest.mark.parametrize(
    ("truth", "answer", "correct", "unparsed"),
    (
        ("yes", "Yes", True, False),
        ("no", "No", True, False),
        ("no", "Yes", False, False),
        ("no", "no", False, True),
        ("no", "No.", False, True),
        ("yes", "Yes, it is.", False, True),
        ("no", " No", False, True),
        ("no", "", False, True),
    ),
)
def test_only_the_bare_word_answers_a_question(truth: str, answer: str, correct: bool, unparsed: bool) -> None:
    given = amber.process_results(doc("discriminative-hallucination", [truth]), [answer])
    assert given["accuracy"]["correct"] is correct
    assert given["accuracy"].get("unparsed", False) is unparsed
    assert given.keys() == {"amber_score", *amber.ASKED}


def value(records: Sequence[dict[str, dict[str, Any]]], metric: str) -> float:
    return registry().metric("amber", metric)([record[metric] for record in records if metric in record])


def test_scores_of_questions_take_no_for_the_positive_class_and_round_before_f1() -> None:
    answers = [("no", "No"), ("no", "No"), ("no", "Yes"), ("yes", "No"), ("yes", "Yes"), ("no", "maybe")]
    records = [
        amber.process_results(doc("discriminative-attribute-state", truth), [answer]) for truth, answer in answers
    ]
    assert [value(records, name) for name in ("accuracy", "precision", "recall")] == [50.0, 66.6, 50.0]
    assert value(records, "f1") == round(100 * 2 * 0.666 * 0.5 / (0.666 + 0.5 + 0.0001), 1)
    assert value(records, "yes_rate") == pytest.approx(100 * 2 / 6)
    assert value(records, "answer_length") == 1
    assert [value(records, f"{name}_precision") for name in ("state", "attribute")] == [66.6, 66.6]
    assert all(math.isnan(value(records, f"{name}_f1")) for name in ("existence", "number", "action", "relation"))


def test_a_small_number_stands_in_every_denominator_once_a_dimension() -> None:
    records = [amber.process_results(doc("discriminative-attribute-state", "no"), ["No"])]
    sums = np.array([1.0, 1, 1, 1, 1])
    assert amber.state_recall.value(sums) == pytest.approx(100 / 1.001)
    assert amber.attribute_recall.value(sums) == pytest.approx(100 / 1.003)
    assert [value(records, f"{name}_recall") for name in ("state", "attribute")] == [99.9, 99.7]


def test_both_halves_make_the_score_and_one_makes_none() -> None:
    described = amber.process_results(doc("generative", TRUTH), ["A dog, a cat, a lawn."])
    asked = amber.process_results(doc("relation", "no"), ["No"])
    assert described.keys() == {"amber_score", *amber.DESCRIBED}
    assert [value([described], name) for name in amber.DESCRIBED] == [33.3, 100.0, 100.0, 50.0]
    f1 = value([asked], "f1")
    assert value([described, asked], "amber_score") == round((100 - 33.3 + f1) / 2, 1)
    assert math.isnan(value([described], "amber_score"))
    assert math.isnan(value([asked], "amber_score"))


@pytest.mark.parametrize(
    ("chair", "f1", "published"), ((7.8, 74.7, 83.5), (5.5, 84.9, 89.7), (8.8, 81.7, 86.5), (4.6, 87.4, 91.4))
)
def test_the_score_is_rounded_as_the_published_ones(chair: float, f1: float, published: float) -> None:
    assert round((100 - chair + f1) / 2, 1) == published


@given(st.text(), st.sampled_from(("generative", "relation", "discriminative-hallucination")))
def test_any_answer_is_scored_and_always_alike(answer: str, type: str) -> None:
    asked = doc(type, TRUTH if type == "generative" else "no")
    records = amber.process_results(asked, [answer])
    assert records == amber.process_results(asked, [answer])
    assert json.loads(json.dumps(records)) == records


def write(folder: Path) -> Path:
    annotations = [
        {"id": 1, "type": "generative", "truth": ["sky", "dog"], "hallu": ["cat"]},
        {"id": 2, "type": "generative", "truth": ["sky"], "hallu": []},
        {"id": 1005, "type": "discriminative-relation", "truth": "yes"},
    ]
    generative = [{"id": n, "image": f"AMBER_{n}.jpg", "query": "Describe this image."} for n in (1, 2)]
    asked = [{"id": 1005, "image": "AMBER_1.jpg", "query": "Is the dog there?"}]
    for name, rows in (("annotations", annotations), ("query_generative", generative), ("query_discriminative", asked)):
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_a_folder_of_data_files_gives_all_documents(tmp_path: Path) -> None:
    rows = amber.rows(write(tmp_path))
    assert [row["id"] for row in rows] == ["1", "2", "1005"]
    assert rows[2] == {
        **{"id": "1005", "image": "AMBER_1.jpg", "query": "Is the dog there?"},
        **{"type": "discriminative-relation", "truth": ["yes"], "hallu": []},
    }
    assert [amber.prompt(rows[2]), amber.target(rows[0])] == ["<image>Is the dog there?", "sky, dog"]
    assert amber.process_results(rows[0], ["A dog below the sky."])["cover"]["covered"] == 2


def test_answers_belong_to_images_and_what_is_odd_is_said(tmp_path: Path) -> None:
    path = tmp_path / "responses.json"
    path.write_text(
        json.dumps([{"id": 1, "response": "A dog."}, {"id": 1005, "response": "Yes"}, {"id": 1, "response": "A dog."}]),
        "utf-8",
    )
    given = amber.official_answers(path, write(tmp_path))
    assert [sample.id for sample in given.answered] == ["1", "1005"]
    assert {sample.doc["image"] for sample in given.answered} == {"AMBER_1.jpg"}
    assert given.warnings[1:] == [
        "1 of the 2 descriptions are answered; the others are not counted",
        "1 rows answer a question again and count once: '1'",
    ]
    with amber.use_similarity(alike):
        assert amber.official_answers(path, tmp_path).warnings[0] == "words are compared by own"


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        ('[{"id": 3, "response": "Yes"}]', "there is no question 3"),
        ('[{"id": "x", "response": "Yes"}]', "row 1: id 'x': must be a whole number"),
        ('[{"id": 1}]', "a row lacks response"),
        ('[{"id": 1, "response": null}]', r"1 of 1 rows have no answer \(null\)"),
        ("Yes", "not JSON"),
    ),
)
def test_what_is_wrong_with_a_file_is_said(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "responses.json").write_text(text, encoding="utf-8")
    with pytest.raises(AnswerFileError, match=complaint):
        amber.official_answers(tmp_path / "responses.json", write(tmp_path))


def test_references_are_needed(tmp_path: Path) -> None:
    with pytest.raises(AnswerFileError, match="--references"):
        amber.official_answers(tmp_path / "responses.json", None)


def score(answers: Path, references: Path) -> dict[str, float | None]:
    figures = score_answers("amber", amber.official_answers(answers, references))
    return {name: None if math.isnan(figure) else figure for name, figure in figures.items()}


def test_our_table_of_words_is_the_authors(golden: Callable[[str], Path]) -> None:
    assert amber.words() == amber.read_words(golden("amber"))


OFFICIAL = {
    **{"Descriminative Task": "", "Exsitence": "existence_", "Attribute": "attribute_", "State": "state_"},
    **{"Number": "number_", "Action": "action_", "Relation": "relation_"},
}
GENERATIVE = ("llava-v1.5-7b_generative_166.json", "llava-v1.5-7b-cei_generative_1004.json")
LLAVA = "llava-v1.5-7b-cei_discriminative_first12825.json"


@pytest.mark.parametrize("name", (LLAVA, "synthetic_discriminative_A.json"))
def test_golden_answers_to_questions_score_as_officially(
    name: str, golden: Callable[[str], Path], golden_json: Callable[[str], Any]
) -> None:
    expected = {
        f"{OFFICIAL[part]}{metric.lower()}": figure
        for part, figures in golden_json("amber/expected_scores.json")[name].items()
        for metric, figure in figures.items()
    }
    found = score(golden(f"amber/responses/{name}"), golden("amber"))
    assert len(expected) == 28
    assert {metric: found[metric] for metric in expected} == expected
    assert found["amber_score"] is found["chair"] is None


@pytest.mark.parametrize("name", GENERATIVE)
@pytest.mark.parametrize("comparison", ("always 0", "1.0 if lower-case first 3 letters equal else 0.0"))
def test_golden_descriptions_score_as_officially(
    name: str, comparison: str, golden: Callable[[str], Path], golden_json: Callable[[str], Any]
) -> None:
    expected = golden_json("amber/expected_scores.json")[name][f"similarity={comparison}"]["Generative Task"]
    with amber.use_similarity((lambda one, other: 0.0) if comparison == "always 0" else alike):
        found = score(golden(f"amber/responses/{name}"), golden("amber"))
    assert {metric: found[metric.lower()] for metric in expected} == expected
    assert found["amber_score"] is found["f1"] is None


def test_published_figures_come_out_of_the_published_answers(golden: Callable[[str], Path]) -> None:
    found = score(golden(f"amber/responses/{GENERATIVE[0]}"), golden("amber"))
    assert [found[name] for name in ("chair", "cover", "hal", "cog")] == [7.5, 50.9, 37.3, 3.2]


def test_what_other_toolkits_would_say(golden: Callable[[str], Path]) -> None:
    # VLMEvalKit: questions only; the mean of the accuracies of existence, attribute and relation. These answers are
    # bare words.
    given = amber.official_answers(golden(f"amber/responses/{LLAVA}"), golden("amber"))
    records = [amber.process_results(sample.doc, [sample.answer])["accuracy"] for sample in given.answered]
    part_of = {"state": "attribute", "number": "attribute", "action": "attribute"}
    parts: dict[str, list[bool]] = {}
    for record in records:
        parts.setdefault(part_of.get(record["kind"], record["kind"]), []).append(record["correct"])
    assert 100 * np.mean([np.mean(part) for part in parts.values()]) == pytest.approx(73.34, abs=0.005)
    # lmms-eval: descriptions only; each of them adds its own 0.001 to the denominators, nothing is rounded.
    given = amber.official_answers(golden(f"amber/responses/{GENERATIVE[1]}"), golden("amber"))
    own = [amber.process_results(sample.doc, [sample.answer])["chair"] for sample in given.answered]
    ratio = sum(r["hallucinated"] for r in own) / (sum(r["nouns"] for r in own) + 0.001 * len(own))
    assert 100 * ratio == pytest.approx(7.2003, abs=0.00005)
