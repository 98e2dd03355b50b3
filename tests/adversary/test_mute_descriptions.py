"""What the guards say of published models' descriptions, and of the same descriptions with their ends cut off."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from harness.evaluation.guards import guards_of
from harness.evaluation.scoring import score_answers
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import verdict_of
from leaderboards.statistics.verdict import PairedTest
from tasks.registry import registry

GOLDEN: Final = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
LLAVA: Final = "chair/captions/opera-llava-1.5-greedy.jsonl"
Log = Mapping[str, Sample]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (GOLDEN / LLAVA).is_file(), reason="published answers are not on this machine"),
]


def read_log(task: str, answers: str, edit: Callable[[str], str] = str) -> Log:
    """The log of answers in a benchmark's own layout, each one edited."""
    given = registry().official_answers(task)(GOLDEN / answers, GOLDEN / task).answered
    texts = [edit(str(one.answer)) for one in given]
    scored = score_answers(registry().task(task), [one.doc for one in given], texts, None)
    found = {}
    for one, text, rated in zip(given, texts, scored.rounds[0], strict=True):
        image = str(one.doc["image"])
        found[image] = Sample(
            run="r", task=task, id=image, image=image, prompt="?", answer=text, records=rated.records, reply=None
        )
    return found


def compare(task: str, metric: str, before: Log, after: Log) -> PairedTest:
    both = before.keys() & after.keys()
    old, new = ({name: log[name] for name in before if name in both} for log in (before, after))
    found, guards = registry().metric(task, metric), guards_of(task, metric)
    return verdict_of(old, new, metric, found, higher_is_better=False, guards=guards, resamples=2000)


def split(text: str) -> list[str]:
    return re.split(r"(?<=\.)\s+", text.strip())


@pytest.fixture(scope="module")
def llava() -> Log:
    return read_log("chair", LLAVA)


@pytest.mark.parametrize(
    ("edit", "value", "words"),
    (
        (lambda text: split(text)[0], 4.2, "recall fell, answers became shorter"),
        (lambda text: " ".join(split(text)[:3]), 20.6, "recall fell"),
        (lambda text: " ".join(split(text)[:-1] or split(text)), 38.2, "recall fell"),
        (lambda text: " ".join(text.split()[:3]), 0.0, "recall fell, answers became shorter, more answers are empty"),
    ),
)
def test_descriptions_whose_ends_are_cut_off_are_not_better(
    llava: Log, edit: Callable[[str], str], value: float, words: str
) -> None:
    found = compare("chair", "chair_s", llava, read_log("chair", LLAVA, edit))
    assert found.base == pytest.approx(45.0)
    assert found.other == pytest.approx(value)
    assert found.words == f"not better: {words}"


def test_a_model_of_short_captions_is_not_better(llava: Log) -> None:
    found = compare("chair", "chair_s", llava, read_log("chair", "chair/captions/opera-minigpt4-greedy.jsonl"))
    assert found.words == "not better: recall fell"


def test_training_that_makes_less_up_keeps_its_guards() -> None:
    before = read_log("amber", "amber/responses/llava-v1.5-7b_generative_166.json")
    after = read_log("amber", "amber/responses/llava-v1.5-7b-cei_generative_1004.json")
    found = compare("amber", "hal", before, after)
    assert found.fallen == []
    cover = found.guards[0]
    assert cover.base == pytest.approx(50.9, abs=0.1)
    assert cover.other == pytest.approx(50.2, abs=0.1)
