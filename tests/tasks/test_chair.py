import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import AnswerFileError
from tasks.benchmarks import chair
from tests.tasks.conftest import score as score_answers

WORLD = chair.Vocabulary(
    synonyms={"dog": "dog", "puppy": "dog", "seat": "chair", "toilet": "toilet", "hot dog": "hot dog", "ball": "ball"},
    double_words={"hot dog": "hot dog", "baby dog": "dog"},
    base_forms=lambda words: [word.removesuffix("s") for word in words],
    gives_way={"seat": "toilet"},
)


@pytest.mark.parametrize(
    ("caption", "objects"),
    (
        ("Two dogs and a PUPPY.", ["dog", "dog"]),
        ("A hot dog.", ["hot dog"]),
        ("A dog that is hot. A hot day.", ["dog"]),
        ("Hot hot dogs, a baby dog.", ["hot dog", "dog"]),
        ("A seat. A ball.", ["chair", "ball"]),
        ("A seat beside the toilet.", ["toilet"]),
        ("A dogma, a ballad.", []),
        ("", []),
    ),
)
def test_objects_are_found_in_order_and_as_often_as_named(caption: str, objects: list[str]) -> None:
    assert chair.mentions(caption, WORLD) == objects


@pytest.mark.parametrize(
    "caption",
    ("A dog. A cat", 'He said "a dog." Then left.', "A dog!\n\nA cat", "(A dog.) It sits", "a dog... and", "dog's"),
)
def test_punctuation_does_not_hide_a_word(caption: str) -> None:
    assert chair.mentions(caption, WORLD) == ["dog"]


def test_a_word_merged_with_the_one_before_it_starts_no_pair() -> None:
    world = chair.Vocabulary(
        synonyms={"a b": "first", "b c": "second"}, double_words={"a b": "a b", "b c": "b c"}, base_forms=list
    )
    assert chair.mentions("a b c", world) == ["first"]


def test_record_counts_mentions_with_repeats_and_objects_once() -> None:
    counts = {"hallucinated": 2, "mentions": 4, "covered": 1, "objects": 2, "words": 9, "tokens": 12}
    found = chair.record("7", "A dog, a puppy and a ball, a ball.", {"dog", "toilet"}, WORLD)
    assert found == {"image": "7", **counts, "made_up": ["ball"]}


def test_a_record_names_the_words_for_what_is_not_there_as_they_are_written() -> None:
    found = chair.record("7", 'Two PUPPIES, "a hot dog" and  dogs near Buses.', {"dog"}, COCO["lemma"])
    assert found["made_up"] == ["hot dog", "buses"]


def test_rates_pool_captions() -> None:
    records = [
        chair.record("1", "A dog and a ball.", {"dog"}, WORLD),
        chair.record("2", "A dog. A dog.", {"dog", "ball"}, WORLD),
    ]
    assert chair.chair_s(records) == pytest.approx(50)
    assert chair.chair_i(records) == pytest.approx(25)
    assert chair.coverage(records) == pytest.approx(100 * 2 / 3)
    assert chair.length(records) == pytest.approx(4.5)


def test_the_coco_vocabulary_follows_the_list_to_the_letter() -> None:
    listed = chair.read_synonyms("motorcycle, scooter,  motor bike, motor cycle\noven, stove top oven\n bear \n")
    coco = chair.coco_vocabulary(listed, list)
    assert chair.mentions("A motor cycle.", coco) == ["motorcycle"]
    assert chair.mentions("A motor bike.", coco) == []
    assert chair.mentions("A stove top oven.", coco) == ["oven"]
    assert chair.mentions("A baby bear.", coco) == ["bear"]


def test_our_table_of_names_is_the_authors_list(golden: Callable[[str], Path]) -> None:
    assert chair.coco_synonyms() == chair.read_synonyms(golden("chair/synonyms.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("caption", "official", "lemma"),
    (
        ("A bus is parked.", [], ["bus"]),
        ("Two buses.", ["bus"], ["bus"]),
        ("Three men.", ["person"], []),
        ("A woman seated at a table.", ["person", "dining table"], ["person", "chair", "dining table"]),
        ("", [], []),
    ),
)
def test_the_two_variants_differ_where_they_are_known_to(caption: str, official: list[str], lemma: list[str]) -> None:
    assert [chair.mentions(caption, COCO[name]) for name in ("official", "lemma")] == [official, lemma]


@given(st.text())
def test_any_text_can_be_read_and_always_alike(caption: str) -> None:
    counts = chair.record("1", caption, {"dog"}, COCO["official"])
    assert counts == chair.record("1", caption, {"dog"}, COCO["official"])
    assert 0 <= counts["hallucinated"] <= counts["mentions"]
    assert counts["covered"] <= counts["objects"] == 1


def test_truth_is_made_of_segmentations_and_captions(tmp_path: Path) -> None:
    for part, number in (("train", 1), ("val", 2)):
        instances = {"categories": [{"id": 7, "name": "dog"}], "annotations": [{"image_id": number, "category_id": 7}]}
        seen, other = {"image_id": number, "caption": "A bus beside two men."}, {"image_id": 9, "caption": "A cat."}
        captions = {"annotations": [seen, other]}
        (tmp_path / f"instances_{part}2014.json").write_text(json.dumps(instances), encoding="utf-8")
        (tmp_path / f"captions_{part}2014.json").write_text(json.dumps(captions), encoding="utf-8")
    truth = chair.truths(tmp_path, [1, 2], chair.coco_synonyms())
    assert truth["official"] == {1: {"dog", "person"}, 2: {"dog", "person"}}
    assert truth["lemma"] == {1: {"dog", "bus"}, 2: {"dog", "bus"}}


@pytest.mark.parametrize(
    "text",
    (
        '{"image_id": 5, "caption": "A dog."}\n',
        '[{"image_id": 5, "caption": "A dog."}]',
        '{"imgToEval": {"5": {"caption": "A dog."}}, "overall": {}}',
        '{"image": "COCO_val2014_000000000005.jpg", "text": "A dog."}',
    ),
)
def test_captions_come_in_several_layouts(text: str, tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "gt_objects.jsonl").write_text(
        '{"image_id": 5, "official": ["cat"], "nltk": ["dog"]}', encoding="utf-8"
    )
    official, lemma = {"chair_s": 100, "chair_i": 100, "recall": 0}, {"chair_s_lemma": 0, "chair_i_lemma": 0}
    assert score(tmp_path / "captions.jsonl", tmp_path) == official | lemma | {"recall_lemma": 100, "length": 3}


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        ('{"image_id": 6, "caption": "A dog."}', "image 6 is not among those of the references"),
        ('{"image_id": 5}', "a row has neither answer, text, caption"),
        ('{"image_id": "x", "caption": "A dog."}', "'x' is no COCO image number"),
        ("A dog.", "not JSON"),
    ),
)
def test_what_is_wrong_with_a_file_is_said(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "gt_objects.jsonl").write_text(
        '{"image_id": 5, "official": ["cat"], "nltk": ["dog"]}', encoding="utf-8"
    )
    with pytest.raises(AnswerFileError, match=complaint):
        chair.official_answers(tmp_path / "captions.jsonl", tmp_path)


def score(captions: Path, references: Path) -> dict[str, float]:
    return score_answers("chair", chair.official_answers(captions, references))


COCO = {name: chair.coco_vocabulary(chair.coco_synonyms(), rule) for name, rule in chair.VARIANTS.items()}


def test_every_golden_edge_case_is_read_as_officially(golden_json: Callable[[str], Any]) -> None:
    for case in golden_json("chair/edge_cases_words.jsonl"):
        assert chair.mentions(case["caption"], COCO["official"]) == case["official_objects"], case
        assert chair.mentions(case["caption"], COCO["lemma"]) == case["nltk_objects"], case


GREEDY = "opera-llava-1.5-greedy"


def test_golden_captions_mention_what_they_do_officially(golden_json: Callable[[str], Any]) -> None:
    captions = golden_json(f"chair/captions/{GREEDY}.jsonl")
    for caption, expected in zip(captions, golden_json(f"chair/per_caption_{GREEDY}.jsonl"), strict=True):
        assert chair.mentions(caption["caption"], COCO["official"]) == expected["official_generated"], caption
        assert chair.mentions(caption["caption"], COCO["lemma"]) == expected["nltk_generated"], caption


@pytest.mark.parametrize("name", ("pope-instructblip-short", "pope-llava-brief", GREEDY, "opera-minigpt4-greedy"))
def test_golden_captions_score_as_officially(
    name: str, golden: Callable[[str], Path], golden_json: Callable[[str], Any]
) -> None:
    expected = golden_json("chair/expected_scores.json")[name]
    official, lemma = (next(v for k, v in expected.items() if k.startswith(rule)) for rule in ("official", "nltk"))
    captions = golden(f"chair/captions/{name}.jsonl")
    assert score(captions, golden("chair")) == pytest.approx(
        {
            **{"chair_s": 100 * official["CHAIRs"], "chair_i": 100 * official["CHAIRi"]},
            **{"chair_s_lemma": 100 * lemma["CHAIRs"], "chair_i_lemma": 100 * lemma["CHAIRi"]},
            **{"recall_lemma": 100 * lemma["Recall"], "length": 100 * lemma["Len"], "recall": ANY},
        },
        abs=1e-9,
    )


def test_what_other_toolkits_would_say(golden: Callable[[str], Path], golden_json: Callable[[str], Any]) -> None:
    for name in (GREEDY, "opera-minigpt4-greedy"):
        expected = golden_json("chair/expected_scores.json")[name]
        official, lemma, mixture = (
            next(v for k, v in expected.items() if k.startswith(rule)) for rule in ("official", "nltk", "OPERA")
        )
        captions = golden(f"chair/captions/{name}.jsonl")
        # OPERA's paper: captions read by the lemma variant, held against objects found by the official one.
        truth = chair.truths(golden("chair"), [], {})["official"]
        records = [
            chair.record(str(n), text, truth[int(n)], COCO["lemma"]) for n, text in chair._read_captions(captions)[0]
        ]
        assert chair.chair_s(records) == pytest.approx(100 * mixture["CHAIRs"], abs=1e-9)
        assert chair.chair_i(records) == pytest.approx(100 * mixture["CHAIRi"], abs=1e-9)
        # lmms-eval: the lemma variant alone, by the same counts.
        ours = score(captions, golden("chair"))
        assert (
            ours["chair_s_lemma"]
            == pytest.approx(100 * lemma["CHAIRs"], abs=1e-9)
            != pytest.approx(100 * official["CHAIRs"], abs=0.1)
        )


def test_hub_rows_have_one_list_of_objects_for_both_variants() -> None:
    from datasets import Dataset

    given = {"question_id": 7, "gt_object": ["dog", "bus"], "image": "x"}
    (row,) = chair.docs(Dataset.from_list([given])).to_list()
    assert row == {**given, "id": "7", "official": ["dog", "bus"], "lemma": ["dog", "bus"]}
    records = chair.process_results(row, ["A bus and a cat."])
    assert records.keys() == set(chair.METRICS)
    fields = ("mentions", "hallucinated", "lemma_mentions", "lemma_hallucinated")
    assert [records["chair_s"][name] for name in fields] == [1, 1, 2, 1]
