"""Guards: what has to hold its ground while a metric improves, so that saying less does not count as being better.

A metric that counts wrong things said improves when a model says less, and is best when it says nothing. Such a metric
names its guards in the task's YAML, each with how far it may move the wrong way:

    guards:
      chair_s: {recall: 3, answer_words: 50, empty_answers: 1}

A guard is another metric of the task, `answer_words` (words an answer), `empty_answers` (answers that say nothing, in
%), or the dotted name of a `Metric` that is computed from the guarded metric's own records. The number is in % of the
base's value; of `empty_answers` in points. Every metric is guarded by `empty_answers` at least.

Why these: 3% of recall is less than is lost by leaving out the last sentence of LLaVA-1.5's descriptions (3.4%), which
lowers CHAIR_s by a sixth and is no improvement; and more than is lost by training that makes less up (the demo's DPO
2.3%, LLaVA-1.5 with CEI on AMBER 1.4%). Half the words is more than such training takes away (a tenth, a sixth), and
less than is left of an answer that was cut. One answer in a hundred may be empty by chance.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from tasks.empty_answers import count_words, is_empty
from tasks.metric import Metric, Record, mean_of

ANSWER_WORDS: Final = "answer_words"
EMPTY_ANSWERS: Final = "empty_answers"

BUILT_IN: Final[Mapping[str, Metric]] = {ANSWER_WORDS: mean_of("words"), EMPTY_ANSWERS: mean_of("empty", scale=100)}
"""Guards of any task; their records are made by `describe_answer`."""

DEFAULT: Final[Mapping[str, float]] = {EMPTY_ANSWERS: 1.0}
"""What guards a metric that names no guards."""


def describe_answer(answer: str, like: Record, least: int) -> Record:
    """The record of an answer for the guards that are built in; one of fewer than `least` words is empty.

    `like` is a record of the same answer, which says what it is about.
    """
    about = {key: like[key] for key in ("image", "cluster", "category") if key in like}
    return {**about, "words": count_words(answer), "empty": is_empty(answer, least)}


def read_guards(metadata: Mapping[str, Any], metrics: Collection[str]) -> dict[str, Mapping[str, float]]:
    """Metric -> guard -> how far it may move the wrong way; ValueError that begins with the key."""
    found = _read_mapping("guards", metadata.get("guards", {}), metrics)
    for metric, guards in found.items():
        for name, allowed in _read_mapping(f"guards.{metric}", guards, (*metrics, *BUILT_IN), dotted=True).items():
            if isinstance(allowed, bool) or not isinstance(allowed, int | float) or not 0 <= allowed < 100:
                raise ValueError(f"guards.{metric}.{name}: must be a number from 0 to below 100, is {allowed!r}")
        if metric in guards:
            raise ValueError(f"guards.{metric}.{metric}: no metric guards itself")
    return {metric: {name: float(allowed) for name, allowed in guards.items()} for metric, guards in found.items()}


def read_shortest(metadata: Mapping[str, Any], metrics: Collection[str]) -> dict[str, int]:
    """Metric -> the least words of an answer that it counts; ValueError that begins with the key."""
    found = _read_mapping("shortest", metadata.get("shortest", {}), metrics)
    for metric, words in found.items():
        if isinstance(words, bool) or not isinstance(words, int) or words < 1:
            raise ValueError(f"shortest.{metric}: must be a number of words, is {words!r}")
    return dict(found)


def _read_mapping(key: str, value: object, known: Collection[str], *, dotted: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key}: must be a mapping, is {value!r}")
    for name in value:
        if name not in known and not (dotted and "." in str(name)):
            raise ValueError(f"{key}.{name}: no such metric; there are {', '.join(known)}")
    return value
