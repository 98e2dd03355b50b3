"""The guards of the tasks' metrics, as comparisons and boards need them, and how many answers of a run are empty.

guards_of("scenes_chair", "chair_s")       # coverage, answer_words, empty_answers
with_counts(entries, samples)              # entries that say how many answers are empty, and their guards' values
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.guards import Count, Guard
from leaderboards.comparison.paired_logs import guard_values
from leaderboards.statistics.resampling import Record
from support.errors import UnknownName
from tasks.answer import FailedAnswer
from tasks.empty_answers import is_empty, least_words
from tasks.guards import ANSWER_WORDS, EMPTY_ANSWERS, describe_answer
from tasks.registry import TaskSpec, registry
from tasks.thoughts import answer_of

_WORDS: Final = {ANSWER_WORDS: "answers became shorter", EMPTY_ANSWERS: "more answers are empty"}
_UNITS: Final = {ANSWER_WORDS: "words", EMPTY_ANSWERS: "%"}


def guards_of(task: str, metric: str) -> tuple[Guard, ...]:
    """What guards a metric of a task, in the order of its YAML; nothing where the metric is not known."""
    try:
        spec, found = registry().task(task), registry().guards(task, metric)
    except UnknownName:
        return ()
    measured = [name for name in found if name in spec.metrics]  # such as recall, which only descriptions have
    guards = []
    for dotted, (computed, allowed) in found.items():
        name, known = dotted.rpartition(".")[2], spec.metrics.get(dotted)
        higher = dotted != EMPTY_ANSWERS and (known is None or known.higher_is_better)
        if dotted in _WORDS:
            count: Count = partial(_count_answer, spec, (metric, *measured))
        else:
            count = partial(_read_record, metric if known is None else name)
        guards.append(
            Guard(
                name=name,
                what=_WORDS.get(dotted) or f"{name} {'fell' if higher else 'rose'}",
                unit=_UNITS.get(dotted) or (known.unit if known is not None else "%"),
                metric=computed,
                higher_is_better=higher,
                count=count,
                share=0.0 if dotted == EMPTY_ANSWERS else allowed / 100,
                points=allowed if dotted == EMPTY_ANSWERS else 0.0,
            )
        )
    return tuple(guards)


def _read_record(metric: str, records: Mapping[str, Record], sample: Sample) -> Record | None:
    return records.get(metric)


def _count_answer(
    task: TaskSpec, metrics: Sequence[str], records: Mapping[str, Record], sample: Sample
) -> Record | None:
    """The record of what was answered, of an answer that all of these metrics count."""
    text = answer_in(sample)
    if text is None or not all(metric in records for metric in metrics):
        return None
    return describe_answer(text, records[metrics[0]], least_words(task.shortest, records))


def answer_in(sample: Sample) -> str | None:
    """The words of a logged answer that are scored; None where there are none."""
    if sample.answer is None or sample.raw is not None:
        return sample.answer
    return _drop_thoughts(sample.answer, sample.prompt)


@lru_cache(maxsize=50_000)
def _drop_thoughts(answer: str, prompt: str) -> str | None:
    """Of a log of an earlier version, which kept them together."""
    found = answer_of(answer, prompt)
    if isinstance(found, FailedAnswer):  # the prompt was not what the model read
        found = answer_of(answer)
    return None if isinstance(found, FailedAnswer) else str(found)


def count_empty(task: TaskSpec, samples: Iterable[Sample]) -> int:
    """How many answers of a log are empty, or nearly."""
    texts = [(answer_in(sample), sample.records) for sample in samples]
    return sum(text is not None and is_empty(text, least_words(task.shortest, records)) for text, records in texts)


def with_counts(entries: Sequence[Entry], samples: Sequence[Sample]) -> list[Entry]:
    """One run's entries with the number of empty answers and the values of guards, as far as its log tells."""
    logs: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        logs.setdefault(sample.task, {})[sample.id] = sample
    tasks = registry().tasks
    empty = {name: count_empty(tasks[name], log.values()) for name, log in logs.items() if name in tasks}
    values: dict[tuple[str, ...], dict[str, float]] = {}

    def find_values(entry: Entry) -> dict[str, float]:
        own = tasks[entry.task].guards.get(entry.metric, {})
        key = (entry.task, *own)  # metrics of a task that name the same guards count the same answers
        if own and key not in values:
            values[key] = guard_values(logs[entry.task], guards_of(entry.task, entry.metric))
        return values.get(key, {})

    return [
        replace(entry, empty=empty[entry.task], guards=find_values(entry)) if entry.task in empty else entry
        for entry in entries
    ]


def counted_from_logs(board: Board, entries: Sequence[Entry]) -> list[Entry]:
    """Entries of earlier versions, which lack the count of empty answers, with that of their logs; as they are where
    there is no log that can be read."""
    lacking: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.empty is None and entry.imported is None:
            lacking.setdefault(entry.run, []).append(entry)
    found: dict[int, Entry] = {}
    for run, own in lacking.items():
        try:
            samples = board.samples(run)
        except (ValueError, OSError):
            continue  # comparisons tell it
        found |= zip(map(id, own), with_counts(own, samples), strict=True)
    return [found.get(id(entry), entry) for entry in entries]
