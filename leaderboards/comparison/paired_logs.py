"""Two logs of the same benchmark, made ready to be tested: the same questions, about the same pictures, rated in every
repeat of a judge.

logs = Logs(board.samples)
verdict_of(logs.of(before), logs.of(after), "accuracy", metric, higher_is_better=True)
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Final

import numpy as np

from leaderboards.board.entry import BARE, OTHER_DATA, PROTOCOL, SEED_RUNS, Entry, digest_of_protocol
from leaderboards.board.sample import Sample, repeats_of
from leaderboards.comparison.guards import Guard
from leaderboards.statistics.matches import Matched, MatchedGuard
from leaderboards.statistics.resampling import Array, Counted, CountsMetric, Record, image_of, value_of
from leaderboards.statistics.verdict import PairedTest, matched, matched_repeats, verdicts
from support.errors import CompareError, RecordsError
from support.markdown import line

Loader = Callable[[str], Sequence[Sample]]
"""Run id -> its samples; none where the run kept no log, a FileNotFoundError where the log that it kept is not
there."""

Metrics = Callable[[str, str], CountsMetric | None]
"""Task and metric name -> the metric; None if it is not known."""

SETUP: Final = (*("task", "prompts", PROTOCOL, "prompt suffix", "split", OTHER_DATA), "judge served", "judge image")
"""What provenance says of how the questions were asked and rated: two scores are of one benchmark where all of it is
the same."""


class Logs:
    """What a loader has: each run is read once, and its samples are found by task."""

    def __init__(self, load: Loader) -> None:
        self._load = load
        self._runs: dict[str, dict[str, list[Sample]]] = {}
        self._found: dict[tuple[str, str], dict[str, Sample]] = {}

    def of(self, entry: Entry) -> dict[str, Sample]:
        """The entry's samples by id, none where its run kept no log.

        CompareError where the log is missing or lacks the task, or where an id comes twice.
        """
        if (found := self._found.get((entry.run, entry.task))) is not None:
            return found
        by_task = self._of_run(entry.run)
        samples = by_task.get(entry.task, [])
        if by_task and not samples and entry.samples:
            raise CompareError(f"run {entry.run}: its log has no sample of {entry.task}")
        by_id = {sample.id: sample for sample in samples}
        if len(by_id) < len(samples):
            raise CompareError(f"run {entry.run} logs a sample of {entry.task} twice")
        return self._found.setdefault((entry.run, entry.task), by_id)

    def of_seeds(self, entry: Entry) -> list[dict[str, Sample]]:
        """The logs that an entry stands for: of each training, where it is a row of several; else its own."""
        runs = entry.provenance.get(SEED_RUNS, entry.run).split(", ")
        return [self.of(replace(entry, run=run)) for run in runs]

    def _of_run(self, run: str) -> dict[str, list[Sample]]:
        if run not in self._runs:
            try:
                samples = self._load(run)
            except FileNotFoundError:
                raise CompareError(f"run {run}: its sample log {run}.samples.parquet is missing") from None
            by_task: dict[str, list[Sample]] = {}
            for sample in samples:
                by_task.setdefault(sample.task, []).append(sample)
            self._runs[run] = by_task
        return self._runs[run]


def protocol_differences(before: Entry, after: Entry) -> list[str]:
    """What provenance says was not the same in generating and rating, in words."""
    found = []
    for name in (*SETUP, "revision"):
        old, new = before.provenance.get(name), after.provenance.get(name)
        if setup_value(before, name) == setup_value(after, name) or (
            name == "revision" and None in (old, new)
        ):  # no hub, no revision: the questions themselves are compared
            continue
        what = {
            "task": "digest of the task's prompts and rules",
            "prompts": "whose prompts the judge was asked in",
        }.get(name, name)
        none = BARE if name == PROTOCOL else "none"
        found.append(f"{what} was {line(old or none)!r}, is {line(new or none)!r}")
    return found


def setup_value(entry: Entry, name: str) -> str | None:
    """What an entry records under a name of SETUP; of a protocol what it changes in the questions, not its name."""
    found = entry.provenance.get(name)
    return digest_of_protocol(found) if name == PROTOCOL else found


def same_image(one: Sample, other: Sample) -> bool:
    """Whether both were shown the same picture, as far as is known."""
    return one.image == other.image and (
        None in (one.image_digest, other.image_digest) or one.image_digest == other.image_digest
    )


def same_questions(logs: Sequence[Mapping[str, Sample]], metric: str) -> list[list[Record]]:
    """Each side's records, of those images of which all have the same ones; the rest lacks an answer or a rating
    somewhere.

    CompareError where two sides' samples of one id are about different images.
    """
    first, *others = logs
    alike = all(log.keys() == first.keys() for log in others)
    everywhere = list(first) if alike else [name for name in first if all(name in log for log in others)]
    for log in others:
        for name in everywhere:
            one, other = first[name], log[name]
            if (one.image != other.image or one.image_digest != other.image_digest) and not same_image(one, other):
                old, new = (
                    f"{sample.image!r}" + (f" (digest {sample.image_digest[:12]})" if sample.image_digest else "")
                    for sample in (one, other)
                )
                raise CompareError(f"sample {name!r} was about image {old}, is about {new}")
    found = [[log[name].records.get(metric) for name in everywhere] for log in logs]
    if alike and not any(None in own for own in found):
        return [[record for record in own if record is not None] for own in found]
    torn = [own for own in zip(*found, strict=True) if None in own]
    torn += [(log[name].records.get(metric),) for log in logs for name in log.keys() - set(everywhere)]
    lacking = {str(record["image"]) for own in torn for record in own if record is not None}
    return [[record for record in own if record is not None and str(record["image"]) not in lacking] for own in found]


def value_in(log: Mapping[str, Sample], name: str, metric: CountsMetric) -> float | None:
    """What a log gives by the metric of this name, as the mean over the repeats of a judge; None where it gives
    nothing. As entries have it: rounded on the way where the official script does that."""
    values = []
    rounded = getattr(metric, "rounded", None)
    for repeat in repeats_of(log):
        records = [sample.records[name] for sample in repeat.values() if name in sample.records]
        if records:
            own = Counted(records, metric)
            sums = own.counts(list(own.tally)).sum(axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                values.append(float(rounded(sums) if rounded else value_of(metric, sums)))
    values = [value for value in values if isfinite(value)]
    return sum(values) / len(values) if values else None


def verdict_of(
    before: Mapping[str, Sample],
    after: Mapping[str, Sample],
    name: str,
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    guards: Sequence[Guard] = (),
    resamples: int = 10_000,
) -> PairedTest:
    """The verdict on `after` by two logs' records of the metric of this name; see `match_logs`."""
    match = match_logs(
        before,
        after,
        name,
        lambda records: Counted(records, metric),
        higher_is_better=higher_is_better,
        guards=guards,
    )
    return verdicts({"": match}, resamples=resamples)[""]


def match_logs(
    before: Mapping[str, Sample],
    after: Mapping[str, Sample],
    name: str,
    counted: Callable[[Sequence[Record]], Counted],
    *,
    higher_is_better: bool,
    guards: Sequence[Guard] = (),
) -> Matched:
    """Two logs' records of the metric of this name, which `counted` counts, and of its guards, ready to be tested: over
    all repeats of a judge.

    Compared are the images of which both have all answers rated, in every repeat. CompareError where samples of one id
    are about different images, RecordsError where no image is left.
    """
    return match_seeds([before], [after], name, counted, higher_is_better=higher_is_better, guards=guards)


Log = Mapping[str, Sample]
"""A model's samples by id."""


def match_seeds(
    before: Sequence[Log],
    after: Sequence[Log],
    name: str,
    counted: Callable[[Sequence[Record]], Counted],
    *,
    higher_is_better: bool,
    guards: Sequence[Guard] = (),
) -> Matched:
    """As `match_logs`, where a side has the logs of trainings with different seeds; one log: of a single model.

    Of a seed whose answers a judge rated several times, each answer's mean rating counts.
    """
    repeats = [[repeats_of(log) for log in side] for side in (before, after)]
    every = same_questions([repeat for side in repeats for own in side for repeat in own], name)
    counts = iter([counted(records) for records in every])
    base, other = ([next(counts) for own in side for _ in own] for side in repeats)
    if len(every) == 2:
        found = matched(base[0], other[0], higher_is_better=higher_is_better)
    else:
        found = matched_repeats(base, other, higher_is_better=higher_is_better)
    if len(before) > 1 or len(after) > 1:
        sides = [_mean_by_seed(own, side) for own, side in zip((found.base, found.other), repeats, strict=True)]
        found = replace(found, base=sides[0], other=sides[1], seeds=True)
    found = replace(found, guards=match_guards(before, after, guards))
    logs = [repeat for side in repeats for own in side for repeat in own]
    rated = [sample.records for log in logs for sample in log.values() if name in sample.records]
    if len(rated) == sum(map(len, every)):
        return found
    return replace(found, left_out=len({image_of(records[name]) for records in rated}) - len(found.parts))


def _mean_by_seed(counts: Sequence[Array], seeds: Sequence[Sequence[object]]) -> list[Array]:
    """Each seed's mean counts over its repeats of the judge, of the counts of all seeds' repeats."""
    each = iter(counts)
    return [np.asarray(np.mean([next(each) for _ in repeats], axis=0)) for repeats in seeds]


def match_guards(before: Sequence[Log], after: Sequence[Log], guards: Sequence[Guard]) -> tuple[MatchedGuard, ...]:
    """The guards that the base's logs have something of, ready to be tested."""
    found = []
    for guard in guards:
        ours, theirs = ([guard.log(log) for log in side] for side in (before, after))
        if not all(any(sample.records for sample in log.values()) for log in ours):
            continue
        match = None
        with suppress(RecordsError):  # the other log has nothing of it
            match = match_seeds(
                ours, theirs, guard.name, partial(_count, guard.metric), higher_is_better=guard.higher_is_better
            )
        facts = {"name": guard.name, "what": guard.what, "unit": guard.unit}
        found.append(MatchedGuard(**facts, match=match, share=guard.share, points=guard.points))
    return tuple(found)


def guard_values(log: Mapping[str, Sample], guards: Sequence[Guard]) -> dict[str, float]:
    """What a log gives by each guard, where it gives anything."""
    found = {guard.name: value_in(guard.log(log), guard.name, guard.metric) for guard in guards}
    return {name: value for name, value in found.items() if value is not None}


def _count(metric: CountsMetric, records: Sequence[Record]) -> Counted:
    return Counted(records, metric)
