"""What lmms-eval and VLMEvalKit would say of the golden answers: their deviating rules, and the figures
docs/benchmarks.md quotes.

Sources of the rules: the two toolkits' task code, as `docs/benchmarks.md` names it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from tasks.answer_files import Answered
from tasks.benchmarks import hallusionbench, mmbench, mme, pope, scienceqa_img
from tasks.benchmarks.amber import official_answers as amber_answers

Golden = Callable[[str], Path]


def share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return 100 * sum(found) / len(found)


def whole_word(answer: str) -> str:
    """VLMEvalKit: yes or no as a whole word anywhere, if only one of the two is there."""
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    return "unknown" if ("yes" in words) == ("no" in words) else "yes" if "yes" in words else "no"


def test_pope_answers_in_sentences_are_nothing_to_lmms_eval(golden: Golden) -> None:
    answered = pope.official_answers(golden("pope/answers/llava-1.5-verbose910_random.jsonl"), golden("pope")).answered
    assert share(a.answer.lower().strip() == a.doc["answer"] for a in answered) == 0.0
    assert share(pope.parse(a.answer) == a.doc["answer"] for a in answered) == pytest.approx(89.8901, abs=1e-4)


def test_pope_yes_ratio_of_lmms_eval_is_that_of_the_truth(golden: Golden) -> None:
    answered = pope.official_answers_llava(golden("pope") / "answers" / "llava-v1.5-13b", golden("pope")).answered
    assert share(a.doc["answer"] == "yes" for a in answered) == pytest.approx(50.505, abs=1e-3)
    assert share(pope.parse(a.answer) == "yes" for a in answered) == pytest.approx(42.121, abs=1e-3)


def mme_total(answered: Iterable[Answered], categories: Iterable[str], read: Callable[[str], str]) -> float:
    pairs: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for a in answered:
        if a.doc["category"] in categories:
            pairs[a.doc["category"], a.doc["pair"]].append(read(a.answer) == a.doc["answer"].lower())
    total = 0.0
    for category in categories:
        own = [hits for (name, _), hits in pairs.items() if name == category]
        total += share(hit for hits in own for hit in hits) + share(all(hits) for hits in own)
    return total


def test_mme_words_anywhere_move_lavins_cognition(golden: Golden) -> None:
    answered = mme.official_answers(golden("mme/LaVIN"), None).answered
    assert mme_total(answered, mme.COGNITION, whole_word) == pytest.approx(248.9286, abs=1e-4)
    assert mme_total(answered, mme.COGNITION, mme.parse) == pytest.approx(249.6429, abs=1e-4)
    assert mme_total(answered, mme.PERCEPTION, whole_word) == pytest.approx(963.6114, abs=1e-4)


def test_scienceqa_free_text_is_nothing_to_lmms_eval(golden: Golden) -> None:
    def read(answer: str) -> str | None:
        text = answer.strip().lower()
        return text.upper() if len(text) == 1 else text[0].upper() if len(text) >= 2 and text[1] == "." else None

    path = golden("scienceqa/answers_llava-13b-v0-sqa.jsonl")
    answered = scienceqa_img.official_answers(path, golden("scienceqa")).answered
    shown = [a for a in answered if a.doc["has_image"]]
    assert share(read(a.answer) == scienceqa_img.LETTERS[a.doc["answer"]] for a in shown) == 0.0
    assert share(
        scienceqa_img.parse(a.answer) == scienceqa_img.LETTERS[a.doc["answer"]] for a in shown
    ) == pytest.approx(88.0020, abs=1e-4)


def test_hallusionbench_on_images_alone_is_another_number(golden: Golden) -> None:
    folder = golden("hallusionbench")
    every = hallusionbench.official_answers(folder / "synthetic_verdicts_A.json", folder).answered
    shown = hallusionbench.official_answers_image(folder / "synthetic_verdicts_A.json", folder).answered

    def scores(answered: Iterable[Answered]) -> tuple[float, float, float]:
        records = [hallusionbench.process_results(a.doc, [a.answer])["aAcc"] for a in answered]
        return hallusionbench.aAcc(records), hallusionbench.fAcc(records), hallusionbench.qAcc(records)

    assert scores(every) == (67.0505, 37.2832, 37.1429)
    assert scores(shown) == (66.0358, 37.2832, 41.7582)


def test_amber_average_of_accuracies_is_not_its_accuracy(golden: Golden) -> None:
    folder = golden("amber")
    answered = amber_answers(folder / "responses" / "llava-v1.5-7b-cei_discriminative_first12825.json", folder).answered
    kinds: dict[str, list[bool]] = defaultdict(list)
    for a in answered:
        kind = a.doc["type"].removeprefix("discriminative-").partition("-")[0]
        truth = a.doc["truth"][0] if isinstance(a.doc["truth"], list) else a.doc["truth"]
        kinds["existence" if kind == "hallucination" else kind].append(whole_word(a.answer) == truth)
    assert sorted(kinds) == ["attribute", "existence", "relation"]
    assert sum(map(share, kinds.values())) / 3 == pytest.approx(73.34, abs=0.01)


REWORDED: Mapping[str, str] = {"Answer:C": "C", "**B**": "B", "#A": "A", "answer is c": "C"}


def test_mmbench_matcher_of_lmms_eval_reads_less() -> None:
    """Its letters must stand between spaces, bare, with a full stop or in brackets; any letter from A to E is one."""

    def read(answer: str) -> str | None:
        forms = {
            letter: (f" {letter} ", f" {letter}. ", f" ({letter}) ", f" {letter}) ", f" {letter}, ")
            for letter in "ABCDE"
        }
        found = [letter for letter, ways in forms.items() if any(way in f" {answer} " for way in ways)]
        return found[0] if len(found) == 1 else None

    options = {"A": "a cat", "B": "a dog", "C": "two dogs", "D": "None of the above"}
    assert {text: read(text) for text in REWORDED} == dict.fromkeys(REWORDED)
    assert {text: mmbench.read_option(text, options) for text in REWORDED} == REWORDED
