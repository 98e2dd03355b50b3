"""Scores and differences corrected for the judge's errors, from logs and people's ratings of some of their answers.

    correct_logs([log], [human], "score", metric)                  # of one model
    correct_logs([before, after], [ours, theirs], "score", metric) # of the difference, by answers rated on both sides
    corrected_entries(entries, logs, labels, metrics)              # of a board, and why some scores are not corrected

What people said of an answer is what the task counts for it had the judge said so: metric -> record, once for each of
its raters (`HumanRecords`). The caller makes it, since this package knows no tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from leaderboards.board.entry import Entry, Key, is_neutral
from leaderboards.board.sample import Sample, repeats_of
from leaderboards.comparison.paired_logs import Logs, Metrics, same_questions
from leaderboards.statistics.prediction_powered import Corrected, Side, correct
from leaderboards.statistics.resampling import Array, Counted, CountsMetric, Record, image_of
from support.errors import CompareError, RecordsError
from support.markdown import line

HumanRecords = Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]]
"""Sample id -> metric -> record, as often for every sample: what the task counts for people's ratings of its answer."""

Labels = Callable[[Entry], HumanRecords]
"""A run's entry -> people's ratings of its answers; empty where there is none."""

Log = Mapping[str, Sample]


def correct_logs(logs: Sequence[Log], humans: Sequence[HumanRecords], name: str, metric: CountsMetric) -> Corrected:
    """The corrected score of one log by the metric of this name, or the corrected difference of two, second - first.

    Counted are answers that each repeat of the judge rated, in all logs. RecordsError as of `correct`; CompareError
    where samples of one id are about different images.
    """
    rounds = [[_records_of(repeat, name) for repeat in repeats_of(log)] for log in logs]
    if len(logs) > 1:
        same_questions(logs, name)
    every = [own for repeats in rounds for own in repeats]
    rated = [id for id in every[0] if all(id in own for own in every)]
    labelled = {id for id in rated if all(_is_labelled(human, id, name) for human in humans)}
    images = list(dict.fromkeys(image_of(every[0][id]) for id in rated))
    if not _is_additive([every[0][id] for id in rated], metric):
        labelled -= _find_partly_labelled([every[0][id] for id in rated], rated, labelled)
    if not labelled:
        raise RecordsError(_explain_none(humans, name))
    ids = [id for id in rated if id in labelled]
    sides = [
        Side(
            judged=_count([[own[id] for id in rated] for own in repeats], images, metric),
            judged_labelled=_count([[own[id] for id in ids] for own in repeats], images, metric),
            human=_count(_by_rater(human, ids, name), images, metric),
        )
        for repeats, human in zip(rounds, humans, strict=True)
    ]
    counted = np.logical_or.reduce([side.judged.any(axis=1) for side in sides])  # the metric may be of some alone
    kept = [
        Side(judged=one.judged[counted], judged_labelled=one.judged_labelled[counted], human=one.human[counted])
        for one in sides
    ]
    has_label = np.logical_or.reduce([one.judged_labelled.any(axis=1) for one in kept])
    shown = {image for image, own in zip(images, counted, strict=True) if own}
    count = sum(image_of(every[0][id]) in shown for id in ids)
    return replace(correct(kept, has_label, metric), labels=count)


def corrected_entries(
    entries: Sequence[Entry], logs: Logs, labels: Labels, metrics: Metrics
) -> tuple[dict[Key, Corrected], list[str]]:
    """The corrected scores by the entries' keys, and in words why others that have labels are not corrected."""
    found: dict[Key, Corrected] = {}
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        metric = metrics(entry.task, entry.metric)
        human = labels(entry)
        if metric is None or not human or entry.value is None or is_neutral(entry.metric):
            continue
        try:
            found[entry.key] = correct_logs([logs.of(entry)], [human], entry.metric, metric)
        except (CompareError, RecordsError) as error:
            reasons.setdefault((f"{entry.model} {entry.task}", str(error)), []).append(entry.metric)
    return found, describe_uncorrected(reasons)


def describe_uncorrected(reasons: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """Lines about what is not corrected and why, of (what, why) -> names of metrics."""
    return [line(f"{what}: not corrected: {', '.join(names)}: {why}") for (what, why), names in reasons.items()]


def corrected_difference(
    pair: tuple[Entry, Entry], logs: tuple[Logs, Logs], labels: Labels, metric: CountsMetric
) -> Corrected | str | None:
    """The corrected difference of two entries, in words why there is none, or None where neither side has labels."""
    humans = [labels(entry) for entry in pair]
    if not any(humans) or is_neutral(pair[0].metric):
        return None
    if not all(humans):
        side = pair[0 if humans[0] else 1].model
        return f"only answers of {side} have labels, so its score can be corrected and the difference can't"
    try:
        own = [log.of(entry) for log, entry in zip(logs, pair, strict=True)]
        return correct_logs(own, humans, pair[0].metric, metric)
    except (CompareError, RecordsError) as error:
        return str(error)


def _records_of(log: Log, name: str) -> dict[str, Record]:
    return {id: sample.records[name] for id, sample in log.items() if name in sample.records}


def _explain_none(humans: Sequence[HumanRecords], name: str) -> str:
    """Why no answer counts as labelled."""
    if not all(any(name in records for own in human.values() for records in own) for human in humans):
        return "people's ratings don't say what it counts"
    return "no answer that the judge rated has a label" + (" on both sides" if len(humans) > 1 else "")


def _is_labelled(human: HumanRecords, id: str, name: str) -> bool:
    return id in human and all(name in records for records in human[id])


def _by_rater(human: HumanRecords, ids: Sequence[str], name: str) -> list[list[Record]]:
    return [[records[name] for records in own] for own in zip(*(human[id] for id in ids), strict=True)]


def _count(repeats: Sequence[Sequence[Record]], images: Sequence[str], metric: CountsMetric) -> Array:
    """Mean counts over the repeats [images, k]; 0 for images without records."""
    row = {image: index for index, image in enumerate(images)}
    tables = []
    for records in repeats:
        own = Counted(records, metric)
        named = list(own.tally)
        counts = own.counts(named)
        table = np.zeros((len(images), counts.shape[1]))
        table[[row[image] for image in named]] = counts
        tables.append(table)
    return np.asarray(np.mean(tables, axis=0))


def _is_additive(records: Sequence[Record], metric: CountsMetric) -> bool:
    """Whether the counts of an image are the sums of those of its records; if so, some of its answers can be counted
    without the others."""
    whole = Counted(records, metric)
    images = list(whole.tally)
    if len(images) == len(records):
        return True
    alone = Counted([{**record, "cluster": str(at)} for at, record in enumerate(records)], metric)
    row = {image: index for index, image in enumerate(images)}
    sums = np.zeros_like(whole.counts(images))
    np.add.at(sums, [row[image_of(record)] for record in records], alone.counts(list(map(str, range(len(records))))))
    return bool(np.allclose(sums, whole.counts(images)))


def _find_partly_labelled(records: Sequence[Record], ids: Sequence[str], labelled: set[str]) -> set[str]:
    """The ids of images of which some answers have no label."""
    lacking = {image_of(record) for record, id in zip(records, ids, strict=True) if id not in labelled}
    return {id for record, id in zip(records, ids, strict=True) if image_of(record) in lacking}
