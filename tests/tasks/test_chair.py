import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tasks import chair

WORLD = chair.Vocabulary(
    synonyms={"dog": "dog", "puppy": "dog", "seat": "chair", "toilet": "toilet", "hot dog": "hot dog", "ball": "ball"},
    double_words={"hot dog": "hot dog", "baby dog": "dog"},
    singularize=lambda word: word.removesuffix("s"),
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
    "caption", ("A dog. A cat", 'He said "a dog." Then left.', "A dog!\n\nA cat", "(A dog.) It sits", "a dog... and", "dog's")
)
def test_punctuation_does_not_hide_a_word(caption: str) -> None:
    assert chair.mentions(caption, WORLD) == ["dog"]


def test_a_word_merged_with_the_one_before_it_starts_no_pair() -> None:
    world = chair.Vocabulary(synonyms={"a b": "first", "b c": "second"}, double_words={"a b": "a b", "b c": "b c"}, singularize=str)
    assert chair.mentions("a b c", world) == ["first"]


def test_record_counts_mentions_with_repeats_and_objects_once() -> None:
    assert chair.record("7", "A dog, a puppy and a ball, a ball.", {"dog", "toilet"}, WORLD) == {
        "image": "7",
        "hallucinated": 2,
        "mentions": 4,
        "covered": 1,
        "objects": 2,
        "words": 9,
    }


def test_rates_pool_captions() -> None:
    records = [chair.record("1", "A dog and a ball.", {"dog"}, WORLD), chair.record("2", "A dog. A dog.", {"dog", "ball"}, WORLD)]
    assert chair.chair_s(records) == pytest.approx(50)
    assert chair.chair_i(records) == pytest.approx(25)
    assert chair.coverage(records) == pytest.approx(100 * 2 / 3)
    assert chair.length(records) == pytest.approx(4.5)


def test_the_coco_vocabulary_follows_the_list_to_the_letter() -> None:
    coco = chair.coco_vocabulary("motorcycle, scooter,  motor bike, motor cycle\noven, stove top oven\n bear \n", str)
    assert chair.mentions("A motor cycle.", coco) == ["motorcycle"]
    assert chair.mentions("A motor bike.", coco) == []
    assert chair.mentions("A stove top oven.", coco) == ["oven"]
    assert chair.mentions("A baby bear.", coco) == ["bear"]


GREEDY = "opera-llava-1.5-greedy"


@pytest.fixture
def coco(golden: Callable[[str], Path]) -> chair.Vocabulary:
    text = pytest.importorskip("pattern.text", reason="the official singular forms are PatternLite's, which is not installed")
    # The rules of inflection alone: importing pattern.text.en downloads WordNet, which they don't need.
    spec = importlib.util.spec_from_file_location("pattern_inflect", Path(text.__file__).parent / "en" / "inflect.py")
    assert spec is not None
    assert spec.loader is not None
    inflect = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inflect)
    return chair.coco_vocabulary(golden("chair/synonyms.txt").read_text(encoding="utf-8"), cache(inflect.singularize))


def test_every_golden_edge_case_is_read_as_officially(coco: chair.Vocabulary, golden_json: Callable[[str], Any]) -> None:
    for case in golden_json("chair/edge_cases_words.jsonl"):
        assert chair.mentions(case["caption"], coco) == case["official_objects"], case


def test_golden_captions_mention_what_they_do_officially(coco: chair.Vocabulary, golden_json: Callable[[str], Any]) -> None:
    captions = golden_json(f"chair/captions/{GREEDY}.jsonl")
    for caption, expected in zip(captions, golden_json(f"chair/per_caption_{GREEDY}.jsonl"), strict=True):
        assert chair.mentions(caption["caption"], coco) == expected["official_generated"], caption


@pytest.mark.parametrize("name", ("pope-instructblip-short", "pope-llava-brief", GREEDY, "opera-minigpt4-greedy"))
def test_golden_captions_score_as_officially(name: str, coco: chair.Vocabulary, golden_json: Callable[[str], Any]) -> None:
    (expected,) = [scores for rule, scores in golden_json("chair/expected_scores.json")[name].items() if rule.startswith("official")]
    truth = {row["image_id"]: row["official"] for row in golden_json("chair/gt_objects.jsonl")}
    captions = golden_json(f"chair/captions/{name}.jsonl")
    records = [chair.record(row["image_id"], row["caption"], truth[row["image_id"]], coco) for row in captions]
    assert chair.chair_s(records) == pytest.approx(100 * expected["CHAIRs"], abs=1e-9)
    assert chair.chair_i(records) == pytest.approx(100 * expected["CHAIRi"], abs=1e-9)
