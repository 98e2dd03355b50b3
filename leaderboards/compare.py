"""What changed from one model to another: verdicts, whether format or ability was lost, and which answers flipped.

    found = compare_runs(before, after, samples=(old.samples, new.samples), metrics=metric_of)
    print(to_markdown(found))

A yes/no or multiple-choice score can fall because the model knows less, or because it no longer answers in the form the benchmark reads.
The likeliest next token among the possible answers needs no form. So both are scored on the same questions, and where one falls and the
other does not, it is tested whether they fell differently: "not significant" beside "significant" is no difference yet.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Final, Literal

import numpy as np

from leaderboards.answers import mark
from leaderboards.board import newest
from leaderboards.entry import Entry, Key, is_neutral
from leaderboards.ranks import Rank, ranks_of
from leaderboards.report import MARKS, MISSING, cell, known, line, number, p_value, span, table
from leaderboards.resampling import Array, image_of, value_of
from leaderboards.sample import Sample, askings
from leaderboards.verdict import Counted, CountsMetric, Matched, Record, Verdict, adjusted, matched, matched_repeats, verdicts

Loader = Callable[[str], Sequence[Sample]]
"""Run id -> its samples; none where the run kept no log, a FileNotFoundError where the log that it kept is not there."""

Metrics = Callable[[str, str], CountsMetric | None]
"""Task and metric -> the metric; None where it is not known."""

NEXT_TOKEN: Final = "next_token_accuracy"
"""The metric whose records say which possible answer was the likeliest next token."""

SETUP: Final = ("task", "prompts", "prompt suffix", "split", "judge served", "judge image")
"""What provenance says of how the questions were asked and rated: two scores are of one benchmark where all of it is the same."""

EXAMPLE_CHARACTERS: Final = 600
"""Of a prompt, an answer or a judge's reply, as shown in an example."""

Kind = Literal["fixed", "broken", "still wrong", "still right", "unscored"]

_KINDS: Final[tuple[Kind, ...]] = ("fixed", "broken", "still wrong", "still right", "unscored")

_CATEGORY = ("category", "type", "kind", "dimension", "aspect")  # how the tasks call what kind of question it is

_GOOD = {"%": 100.0, "0-6": 3.0, "1-10": 10.0}  # from where on an answer is right; MMHal: below 3, something is hallucinated

NO_SAMPLES: Final = "no samples of one side"


class CompareError(ValueError):
    """Two sides that cannot be held against each other; says which, and what there is."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One side of a flip."""

    text: str | None
    """The model's words; None = generation failed."""

    mark: str
    """What it got, in words; "not scored" where it got nothing."""

    reply: str | None
    """The judge's words; None = not judged."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One question that both were asked, and what became of it."""

    task: str
    id: str
    image: str

    category: str
    """The kind of question; "" where the task has none."""

    kind: Kind
    """Where an answer gets a grade: fixed = a better one than before, broken = a worse one."""

    prompt: str
    before: Answered
    after: Answered


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many questions of a category went which way."""

    task: str

    category: str
    """"" = the whole task."""

    counts: Mapping[Kind, int]

    @property
    def questions(self) -> int:
        """All that both were asked."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric, before and after."""

    before: Entry
    after: Entry

    verdict: Verdict | None
    """On the same questions; None = there is none, and `why` says why."""

    why: str

    otherwise: list[str]
    """What was not the same in asking and rating, in words: then the difference may be of the asking."""


Reading = Literal[
    "format loss",
    "ability loss",
    "format and ability loss",
    "loss, undecided",
    "hidden loss",
    "ability gain",
    "format gain",
    "gain, undecided",
    "hidden gain",
    "no change",
    "not told",
]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A yes/no or multiple-choice task: what was said, and what the likeliest next token would have been. Everything in %."""

    task: str

    generation: Verdict
    """Answers that are right, of the questions that have next tokens on both sides; of all, where none has."""

    next_token: Verdict | None
    """Questions whose right answer was the likeliest next token; None = a side has none."""

    gap: Verdict | None
    """Of the two before: generation - next token. Worse = answers fell by more than what was known."""

    unparsed: Verdict
    """Answers that no rule could read."""

    yes_rate: Verdict | None
    """Answers that say yes; None = it is no yes/no task. The direction means nothing."""

    true_yes: float | None
    """Questions whose true answer is yes; None = it is no yes/no task."""

    length: Verdict | None
    """Words an answer, over the questions that neither side was stopped at; None = there are none. The direction means nothing."""

    stopped: int
    """Questions at which a side was stopped once its answer was decided, so that its length is not known."""

    questions: int

    @property
    def reading(self) -> Reading:
        """What the tests, taken together, say."""
        said = self.generation.outcome
        if self.next_token is None or self.gap is None:
            return "no change" if said == "not separable" else "not told"
        knew, gap = self.next_token.outcome, self.gap.outcome
        if said == "worse":
            if knew == "worse":
                return "format and ability loss" if gap == "worse" else "ability loss"
            return "format loss" if gap == "worse" else "loss, undecided"
        if said == "better":
            if knew == "better":
                return "ability gain"
            return "format gain" if gap == "better" else "gain, undecided"
        return {"worse": "hidden loss", "better": "hidden gain", "not separable": "no change"}[knew]  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same questions."""

    before: str
    after: str

    changes: list[Change]
    """p-values are adjusted over the headline metrics, and over the others by themselves."""

    formats: list[Format]
    """Of each task whose answers are right or wrong; p-values adjusted over the three tests of all tasks, and over the rest."""

    flips: list[Flip]
    """By the headline metric of each task, in the order asked."""

    notes: list[str]
    """What could not be compared, and what was asked otherwise."""

    @property
    def tallies(self) -> list[Tally]:
        """Of each task, and of its categories where it has several."""
        return tally(self.flips)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a leaderboard shows beside its scores, by the key of the entry."""

    verdicts: dict[Key, Verdict]
    """Against the base; p-values are adjusted over the headline metrics of all models, and over all others by themselves.

    So a score has one verdict, whether or not the other metrics are shown.
    """

    otherwise: dict[Key, list[str]]
    """What was not the same in asking the base, in words, where something was: then the difference may be of the asking."""

    ranks: dict[Key, Rank]

    notes: list[str]
    """Why some have no verdict or no rank, and what was asked otherwise."""


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


def compare_runs(
    before: Sequence[Entry],
    after: Sequence[Entry],
    *,
    samples: tuple[Loader, Loader],
    metrics: Metrics,
    models: tuple[str, str] | None = None,
    only_headline: bool = False,
    resamples: int = 10_000,
) -> Comparison:
    """Hold a model of `after` against one of `before`, over all tasks both have; the newest score of each metric counts.

    `models` names the two; without it, each side must hold one model. Metrics that only one side has, or in another version or by another
    judge, are named in the notes. CompareError for a model that is not there, or nothing in common.
    """
    names = models or (_only_model(before, "before"), _only_model(after, "after"))
    old, new = (_of_model(entries, name) for entries, name in zip((before, after), names, strict=True))
    sides = Logs(samples[0]), Logs(samples[1])
    pairs, notes = _pairs(old, new, only_headline)
    if not pairs:
        why = "; ".join(notes[:3]) + (f"; and {len(notes) - 3} more" if len(notes) > 3 else "")
        raise CompareError(f"{names[0]!r} and {names[1]!r} have no score in common: {why or 'there are none'}")
    matches = [_matched(one, other, sides, metrics(one.task, one.metric)) for one, other in pairs]
    tested = verdicts({index: match for index, match in enumerate(matches) if isinstance(match, Matched)}, resamples=resamples)
    changes = [
        Change(
            before=one,
            after=other,
            verdict=tested.get(index),
            why=match if isinstance(match, str) else "",
            otherwise=asked_otherwise(one, other),
        )
        for index, ((one, other), match) in enumerate(zip(pairs, matches, strict=True))
    ]
    notes += dict.fromkeys(f"{line(change.before.task)}: {text}" for change in changes for text in change.otherwise)
    logs: list[tuple[Entry, dict[str, Sample], dict[str, Sample]]] = []
    for one, other in _headlines(pairs):
        try:
            ours, theirs = sides[0].of(one), sides[1].of(other)
        except (ValueError, OSError) as error:
            notes.append(f"{line(one.task)}: {line(str(error))}")
            continue
        if ours and theirs:
            logs.append((one, ours, theirs))
            if apart := len(ours.keys() ^ theirs.keys()):
                notes.append(
                    f"{line(one.task)}: {apart} questions are in one log only; compared are the {len(ours.keys() & theirs.keys())} others"
                )
    formats = [found for entry, ours, theirs in logs if (found := format_of(entry, ours, theirs, resamples))]
    return Comparison(
        before=names[0],
        after=names[1],
        changes=_in_families(changes),
        formats=_formats_adjusted(formats),
        flips=[flip for entry, ours, theirs in logs for flip in flips(entry, ours, theirs, metrics(entry.task, entry.metric))],
        notes=notes,
    )


def standing(
    entries: Sequence[Entry], *, samples: Loader, metrics: Metrics, base: str | None = None, only_headline: bool = True
) -> Standing:
    """What a leaderboard of these scores shows beside them; CompareError for a base that is not among their models.

    A rank is over the images of which all models of its column have as many rated answers. A score without a log has neither.
    """
    if base is not None and base not in (models := _models(entries)):
        raise CompareError(f"base model {base!r} is not on the board; {known(base, models)}")
    logs = Logs(samples)
    columns: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in newest(entries):
        if entry.headline or not only_headline:
            columns[(*entry.key[1:], entry.unit, entry.higher_is_better)].append(entry)
    matches: dict[bool, dict[Key, Matched]] = {True: {}, False: {}}
    placed: dict[Key, Rank] = {}
    otherwise: dict[Key, list[str]] = {}
    notes: list[str] = []
    for column in columns.values():
        of_base = next((entry for entry in column if entry.model == base), None)
        if of_base is not None:
            otherwise |= {entry.key: found for entry in column if (found := asked_otherwise(of_base, entry))}
        metric = metrics(column[0].task, column[0].metric)
        if metric is None:
            continue
        own, counted = _logs_of(column, logs, notes), _counted_once(metric)
        try:
            placed |= _ranks(own, column[0], counted)
        except ValueError as error:
            notes.append(f"no ranks of {line(column[0].task)} {line(column[0].metric)}: {line(str(error))}")
        for entry in column:
            if of_base is None or entry is of_base or not {of_base.key, entry.key} <= own.keys():
                continue
            before, after = own[of_base.key], own[entry.key]
            try:
                match = match_logs(before, after, entry.metric, counted, higher_is_better=entry.higher_is_better)
                matches[entry.headline][entry.key] = match
            except ValueError as error:
                notes.append(f"no verdict on {line(entry.model)} by {line(entry.task)} {line(entry.metric)}: {line(str(error))}")
    notes += [line(f"{model} {task}: {text}") for (model, task, *_), texts in otherwise.items() for text in texts]
    tested = verdicts(matches[True] | matches[False])
    families = [adjusted({key: tested[key] for key in family}) for family in matches.values()]
    return Standing(
        verdicts=families[0] | families[1],
        otherwise=otherwise,
        ranks=placed,
        notes=list(dict.fromkeys(notes)),
    )


def asked_otherwise(before: Entry, after: Entry) -> list[str]:
    """What provenance says was not the same in asking and rating, in words."""
    found = []
    for name in (*SETUP, "revision"):
        old, new = before.provenance.get(name), after.provenance.get(name)
        if old == new or (name == "revision" and None in (old, new)):  # no hub, no revision: the questions themselves are compared
            continue
        what = {"task": "digest of the task's prompts and rules", "prompts": "whose prompts the judge was asked in"}.get(name, name)
        found.append(f"{what} was {line(old or 'none')!r}, is {line(new or 'none')!r}")
    return found


def same_image(one: Sample, other: Sample) -> bool:
    """Whether both were shown the same picture, as far as is known."""
    return one.image == other.image and (None in (one.image_digest, other.image_digest) or one.image_digest == other.image_digest)


def same_questions(logs: Sequence[Mapping[str, Sample]], metric: str) -> list[list[Record]]:
    """Each side's records, of those images of which all have the same ones; the rest lacks an answer or a rating somewhere.

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
    """What a log gives by the metric of this name, as the mean over the askings of a judge; None where it gives nothing."""
    values = []
    for asking in askings(log):
        records = [sample.records[name] for sample in asking.values() if name in sample.records]
        if records:
            own = Counted(records, metric)
            values.append(float(value_of(metric, own.counts(list(own.tally)).sum(axis=0))))
    values = [value for value in values if isfinite(value)]
    return sum(values) / len(values) if values else None


def verdict_of(
    before: Mapping[str, Sample],
    after: Mapping[str, Sample],
    name: str,
    metric: CountsMetric,
    *,
    higher_is_better: bool,
    resamples: int = 10_000,
) -> Verdict:
    """The verdict on `after` by two logs' records of the metric of this name; see `match_logs`."""
    match = match_logs(before, after, name, lambda records: Counted(records, metric), higher_is_better=higher_is_better)
    return verdicts({"": match}, resamples=resamples)[""]


def match_logs(
    before: Mapping[str, Sample],
    after: Mapping[str, Sample],
    name: str,
    counted: Callable[[Sequence[Record]], Counted],
    *,
    higher_is_better: bool,
) -> Matched:
    """Two logs' records of the metric of this name, which `counted` counts, ready to be tested: over all askings of a judge.

    Compared are the images of which both have all answers rated, in every asking. CompareError where samples of one id are about different
    images, RecordsError where no image is left.
    """
    ours, theirs = askings(before), askings(after)
    every = same_questions([*ours, *theirs], name)
    base, other = ([counted(records) for records in side] for side in (every[: len(ours)], every[len(ours) :]))
    if len(every) == 2:
        found = matched(base[0], other[0], higher_is_better=higher_is_better)
    else:
        found = matched_repeats(base, other, higher_is_better=higher_is_better)
    rated = [sample.records for log in (*ours, *theirs) for sample in log.values() if name in sample.records]
    if len(rated) == sum(map(len, every)):
        return found
    return replace(found, left_out=len({image_of(records[name]) for records in rated}) - len(found.parts))


def flips(entry: Entry, before: Mapping[str, Sample], after: Mapping[str, Sample], metric: CountsMetric | None) -> list[Flip]:
    """What became of each question that is in both logs, by the metric of `entry`.

    Right and wrong answers flip; others are compared by what the metric gives them alone, more or less of it as the metric counts.
    """
    found = []
    for name, old in before.items():
        new = after.get(name)
        if new is None or not same_image(old, new):
            continue
        grades = _grades(old, new, entry, metric)
        if grades is None:
            kind: Kind = "unscored"
        elif grades[0].score != grades[1].score:
            kind = "fixed" if grades[1].score > grades[0].score else "broken"
        else:
            kind = "still right" if grades[1].right else "still wrong"
        labels = [grade.label for grade in grades] if grades else ["not scored", "not scored"]
        found.append(
            Flip(
                task=entry.task,
                id=name,
                image=old.image,
                category=_category(old, entry.metric) or _category(new, entry.metric),
                kind=kind,
                prompt=old.prompt,
                before=Answered(text=old.answer, mark=labels[0], reply=old.reply),
                after=Answered(text=new.answer, mark=labels[1], reply=new.reply),
            )
        )
    return found


def tally(found: Iterable[Flip]) -> list[Tally]:
    """Counts of each task, and of its categories where it has several, in the order of appearance."""
    by_task: dict[str, dict[str, Counter[Kind]]] = {}
    for flip in found:
        by_task.setdefault(flip.task, {}).setdefault(flip.category, Counter())[flip.kind] += 1
    tallies = []
    for task, by_category in by_task.items():
        tallies.append(_tally(task, "", sum(by_category.values(), Counter())))
        if len(by_category) > 1:
            tallies += [_tally(task, category or "(none)", counts) for category, counts in by_category.items()]
    return tallies


def examples(found: Sequence[Flip], kind: Kind, count: int) -> list[Flip]:
    """Up to `count` of a task's flips of one kind: one of each category, then a second of each, and so on."""
    by_category: dict[str, list[Flip]] = {}
    for flip in found:
        if flip.kind == kind:
            by_category.setdefault(flip.category, []).append(flip)
    in_turn = sorted((turn, place, flip.id) for place, own in enumerate(by_category.values()) for turn, flip in enumerate(own))
    lists = list(by_category.values())
    return [lists[place][turn] for turn, place, _ in in_turn[:count]]


def format_of(entry: Entry, before: Mapping[str, Sample], after: Mapping[str, Sample], resamples: int = 10_000) -> Format | None:
    """The tests that tell format from ability, not yet adjusted; None where answers are not simply right or wrong."""
    pairs = [(old, after[name]) for name, old in before.items() if name in after and same_image(old, after[name])]
    closed = [pair for pair in pairs if all(isinstance(_own(sample, entry).get("correct"), bool) for sample in pair)]
    if not closed:
        return None

    def test(chosen: Sequence[tuple[Sample, Sample]], what: Callable[[Sample], float], *, higher_is_better: bool) -> Matched:
        sides = [Counted([_counted(sample, entry, what(sample)) for sample in side], _MEAN) for side in zip(*chosen, strict=True)]
        return matched(sides[0], sides[1], higher_is_better=higher_is_better)

    def right(sample: Sample) -> float:
        return 100.0 * bool(_own(sample, entry)["correct"])

    def knew(sample: Sample) -> float:
        return 100.0 * bool(sample.records[NEXT_TOKEN]["correct"])

    told = [pair for pair in closed if all(NEXT_TOKEN in sample.records for sample in pair)]
    yes_no = [pair for pair in closed if str(_own(pair[0], entry).get("truth", "")).lower() in ("yes", "no")]
    whole = [pair for pair in closed if not any(sample.cut or sample.answer is None for sample in pair)]
    matches = {
        "generation": test(told or closed, right, higher_is_better=True),
        "unparsed": test(closed, lambda s: 100.0 * bool(_own(s, entry).get("unparsed")), higher_is_better=False),
    }
    if told:
        matches["next_token"] = test(told, knew, higher_is_better=True)
        matches["gap"] = test(told, lambda s: right(s) - knew(s), higher_is_better=True)
    if yes_no:
        matches["yes_rate"] = test(yes_no, lambda s: 100.0 * _says_yes(_own(s, entry)), higher_is_better=True)
    if whole:
        matches["length"] = test(whole, lambda s: len((s.answer or "").split()), higher_is_better=True)
    found = verdicts(matches, resamples=resamples)
    return Format(
        task=entry.task,
        generation=found["generation"],
        next_token=found.get("next_token"),
        gap=found.get("gap"),
        unparsed=found["unparsed"],
        yes_rate=found.get("yes_rate"),
        true_yes=100 * sum(str(_own(old, entry)["truth"]).lower() == "yes" for old, _ in yes_no) / len(yes_no) if yes_no else None,
        length=found.get("length"),
        stopped=sum(any(sample.cut for sample in pair) for pair in closed),
        questions=len(closed),
    )


def explain(found: Format) -> str:
    """The reading of one task, in a few sentences."""
    words = _READINGS[found.reading].format(
        said=_moved(found.generation, "%"),
        knew=_moved(found.next_token, "%") if found.next_token else "",
        gap=number(found.gap.difference, "%", signed=True) + span(found.gap.low, found.gap.high, "%") if found.gap else "",
    )
    more = []
    if found.unparsed.outcome != "not separable":
        more.append(f"{_moved(found.unparsed, '%')}% of the answers cannot be read.")
    if found.yes_rate is not None and found.yes_rate.outcome != "not separable":
        more.append(f"{_moved(found.yes_rate, '%')}% of the answers say yes; {number(found.true_yes, '%')}% should.")
    if found.length is not None and found.length.outcome != "not separable":
        more.append(f"Answers have {_moved(found.length, 'words')} words{_of_whole(found)}.")
    return " ".join([f"{cell(found.task)}: {words}", *more])


def to_markdown(found: Comparison, *, shown: int = 3) -> str:
    """All of it as text: scores, format or ability, flips, and up to `shown` examples of each kind and task."""
    parts = [f"# {cell(found.before)} → {cell(found.after)}"]
    parts += ["\n".join(f"- {cell(note)}" for note in found.notes)] if found.notes else []
    parts += ["## Scores", scores_table(found.changes)]
    parts.append(
        "On the same questions, resampled by image; p from a permutation test, Holm-adjusted over the headline metrics, and over the "
        "others by themselves. Visible: the true difference that 80% of such comparisons would find."
        + (" ≠: asked or rated otherwise, as said above, so the difference may be of the asking." if _any_otherwise(found) else "")
    )
    if found.formats:
        parts += ["## Format or ability?", format_table(found.formats)]
        parts.append("▲ better, ▼ worse, ↑ significantly more, ↓ significantly less. Next token: the likeliest of the possible answers.")
        parts.append("\n".join(f"- {explain(one)}" for one in found.formats))
    if found.flips:
        parts += ["## Flips", tally_table(found.tallies)]
        if text := _examples(found.flips, shown):
            parts += ["## Examples", text]
    return "\n\n".join(parts) + "\n"


def to_json(found: Comparison) -> dict[str, Any]:
    """All of it as JSON values, every flip with it."""
    return {
        "before": found.before,
        "after": found.after,
        "notes": found.notes,
        "changes": [
            {
                **{name: getattr(change.before, name) for name in ("task", "metric", "version", "judge", "unit", "headline")},
                "before": change.before.value,
                "after": change.after.value,
                "runs": [change.before.run, change.after.run],
                "verdict": verdict_to_json(change.verdict, neutral=is_neutral(change.before.metric)),
                "why": change.why,
                "asked_otherwise": change.otherwise,
            }
            for change in found.changes
        ],
        "formats": [
            {
                name: verdict_to_json(value, neutral=name in ("yes_rate", "length")) if isinstance(value, Verdict) else value
                for name, value in vars(one).items()
            }
            | {"reading": one.reading, "words": explain(one)}
            for one in found.formats
        ],
        "tallies": [{"task": one.task, "category": one.category, **one.counts} for one in found.tallies],
        "flips": [asdict(flip) for flip in found.flips if flip.kind in ("fixed", "broken")],
    }


def verdict_to_json(verdict: Verdict | None, *, neutral: bool = False) -> dict[str, Any] | None:
    """Its fields and its outcome; of a `neutral` metric more is not better, but "higher"."""
    if verdict is None:
        return None
    outcome: str = verdict.outcome
    if neutral and outcome != "not separable":
        outcome = "higher" if (verdict.difference or 0.0) > 0 else "lower"
    return asdict(verdict) | {"outcome": outcome}


def scores_table(changes: Sequence[Change]) -> str:
    """One row a metric."""
    rows = []
    for change in changes:
        entry, verdict, unit = change.before, change.verdict, change.before.unit
        neutral = is_neutral(entry.metric)
        arrow = "" if neutral else "↑" if entry.higher_is_better else "↓"
        label = " ".join(f"{cell(entry.task)} {cell(entry.metric)} {cell(unit)} {arrow}".split())
        label += f" (judge {cell(entry.judge)})" if entry.judge is not None else ""
        other = " ≠" if change.otherwise else ""
        if verdict is None:
            seen = [number(entry.value, unit), number(change.after.value, unit), MISSING, MISSING, MISSING]
            rows.append([label, *seen, cell(change.why) + other])
            continue
        difference = number(verdict.difference, unit, signed=True) + span(verdict.low, verdict.high, unit)
        outcome = _direction(verdict) if neutral else f"{MARKS[verdict.outcome]} {verdict.outcome}"
        seen = [number(verdict.base, unit), number(verdict.other, unit), difference, number(verdict.mde, unit), p_value(verdict.p)]
        rows.append([label, *seen, outcome + other])
    return table(["metric", "before", "after", "difference", "visible", "p", "after is"], rows)


def format_table(formats: Sequence[Format]) -> str:
    """One row a task."""
    rows = []
    for one in formats:
        yes = MISSING if one.yes_rate is None else f"{_moved(one.yes_rate, '%')} {_more(one.yes_rate)}".strip()
        yes += f" (true {number(one.true_yes, '%')})" if one.true_yes is not None else ""
        length = MISSING if one.length is None else f"{_moved(one.length, 'words')} {_more(one.length)}".strip()
        rows.append(
            [
                cell(one.task),
                _marked(one.generation),
                MISSING if one.next_token is None else _marked(one.next_token),
                _marked(one.unparsed),
                yes,
                length + _of_whole(one),
                one.reading,
            ]
        )
    return table(["task", "right, as said %", "right, by next token %", "unparsed %", "yes %", "words", "reading"], rows)


def tally_table(tallies: Sequence[Tally]) -> str:
    """One row a task, and below it one a category."""
    rows = [
        [cell(one.task) if not one.category else f"– {cell(one.category)}", str(one.questions), *(str(one.counts[kind]) for kind in _KINDS)]
        for one in tallies
    ]
    return table(["task", "questions", *_KINDS], rows)


_READINGS: Final[Mapping[Reading, str]] = {
    "format loss": (
        "**format loss**. {said}% of the answers are right. By the likeliest next token, which has fallen by less ({knew}%), no loss can "
        "be told; the answers fell by more ({gap}). It is lost in how they are said, not in what is known."
    ),
    "ability loss": (
        "**ability loss**. {said}% of the answers are right, and the right one is the likeliest next token less often, too ({knew}%); that "
        "the two fell differently cannot be told ({gap})."
    ),
    "format and ability loss": (
        "**format and ability loss**. {said}% of the answers are right. The right one is the likeliest next token less often ({knew}%), "
        "and the answers fell by yet more ({gap})."
    ),
    "loss, undecided": (
        "**loss, undecided**. {said}% of the answers are right; by the likeliest next token {knew}%. Neither a loss there nor that the two "
        "fell differently ({gap}) can be told."
    ),
    "hidden loss": (
        "**hidden loss**. No change of the answers can be told ({said}% are right), but the right one is the likeliest next token less "
        "often ({knew}%)."
    ),
    "ability gain": (
        "**ability gain**. {said}% of the answers are right, and the right one is the likeliest next token more often, too ({knew}%)."
    ),
    "format gain": (
        "**format gain**. {said}% of the answers are right. By the likeliest next token no gain can be told ({knew}%); the answers rose by "
        "more ({gap}). What was known is said better."
    ),
    "gain, undecided": (
        "**gain, undecided**. {said}% of the answers are right; by the likeliest next token {knew}%. Neither a gain there nor that the two "
        "rose differently ({gap}) can be told."
    ),
    "hidden gain": (
        "**hidden gain**. No change of the answers can be told ({said}% are right), but the right one is the likeliest next token more "
        "often ({knew}%)."
    ),
    "no change": "no change can be told: {said}% of the answers are right.",
    "not told": "{said}% of the answers are right. A side has no scores by next token, so format and ability cannot be told apart.",
}


class _Mean:
    """The mean of `counted` over answers."""

    def by_image(self, records: Iterable[Record]) -> tuple[list[str], Array]:
        sums: dict[str, list[float]] = {}
        for record in records:
            own = sums.setdefault(image_of(record), [0.0, 0.0])
            own[0] += record["counted"]
            own[1] += 1
        return list(sums), np.array(list(sums.values()), dtype=np.float64)

    def value(self, sums: Array) -> Array:
        return np.asarray(sums[..., 0] / sums[..., 1])


_MEAN: Final = _Mean()


@dataclass(frozen=True, kw_only=True)
class _Grade:
    label: str
    score: float
    right: bool


def _grades(old: Sample, new: Sample, entry: Entry, metric: CountsMetric | None) -> tuple[_Grade, _Grade] | None:
    """Of both answers, on one scale; None where one has none."""
    if any(sample.answer is None or entry.metric not in sample.records for sample in (old, new)):
        return None
    sides = [sample.records[entry.metric] for sample in (old, new)]
    if metric is not None and not any("correct" in record for record in sides):
        alone = [_alone(record, metric) for record in sides]
        if all(isfinite(value) for value in alone):
            one, other = (_graded(value, sample, entry) for value, sample in zip(alone, (old, new), strict=True))
            return one, other
    marks = [mark(sample, entry.metric) for sample in (old, new)]
    if marks[0] is None or marks[1] is None:
        return None
    first, second = (_Grade(label=one.label, score=one.score, right=one.right) for one in marks if one is not None)
    return first, second


def _alone(record: Record, metric: CountsMetric) -> float:
    """What the metric gives one answer; nan where it says nothing of one."""
    return float(value_of(metric, metric.by_image([record])[1].sum(axis=0)))


def _graded(value: float, sample: Sample, entry: Entry) -> _Grade:
    known_as = mark(sample, entry.metric) if entry.headline else None  # it reads the record, whichever metric it is of
    return _Grade(
        label=known_as.label if known_as else f"{entry.metric} {number(value, entry.unit)}",
        score=value if entry.higher_is_better else -value,
        right=value >= _GOOD.get(entry.unit, float("inf")) if entry.higher_is_better else value <= 0,
    )


def _tally(task: str, category: str, counts: Mapping[Kind, int]) -> Tally:
    return Tally(task=task, category=category, counts={kind: counts.get(kind, 0) for kind in _KINDS})


def _category(sample: Sample, metric: str) -> str:
    record = sample.records.get(metric, {})
    return next((str(record[key]) for key in _CATEGORY if isinstance(record.get(key), str)), "")


def _own(sample: Sample, entry: Entry) -> Record:
    return sample.records.get(entry.metric, {})


def _counted(sample: Sample, entry: Entry, value: float) -> Record:
    """What `_MEAN` counts of an answer, drawn with the same images as the task's own metrics."""
    return {key: value for key, value in _own(sample, entry).items() if key in ("image", "cluster", "category")} | {"counted": value}


def _says_yes(record: Record) -> bool:
    return str(record.get("predicted", record.get("answer", ""))).lower() == "yes"


def _models(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.model for entry in entries))


def _only_model(entries: Sequence[Entry], side: str) -> str:
    models = _models(entries)
    if len(models) != 1:
        raise CompareError(f"{side}: name the model to compare; there are {', '.join(map(repr, models)) or 'none'}")
    return models[0]


def _of_model(entries: Sequence[Entry], name: str) -> list[Entry]:
    found = [entry for entry in newest(entries) if entry.model == name]
    if not found:
        raise CompareError(f"no scores of model {name!r}; {known(name, _models(entries))}")
    return found


def _pairs(old: Sequence[Entry], new: Sequence[Entry], only_headline: bool) -> tuple[list[tuple[Entry, Entry]], list[str]]:
    """Scores of one column, the old side's order; and what has no partner."""
    pairs, notes = [], []
    partners = {entry.key[1:]: entry for entry in new}
    for entry in old:
        other = partners.get(entry.key[1:])
        if other is not None and (entry.unit, entry.higher_is_better) == (other.unit, other.higher_is_better):
            if entry.headline or not only_headline:
                pairs.append((entry, other))
        elif entry.headline:
            notes.append(_lonely(entry, new, "before"))
    own = {entry.key[1:] for entry in old}
    notes += [_lonely(entry, old, "after") for entry in new if entry.headline and entry.key[1:] not in own]
    return pairs, list(dict.fromkeys(notes))


def _lonely(entry: Entry, others: Collection[Entry], side: str) -> str:
    like = [other for other in others if (other.task, other.metric) == (entry.task, entry.metric)]
    name = line(f"{entry.task} {entry.metric}")
    if not like:
        return f"{name}: only {side}"
    facts = "; ".join(f"version {e.version}, judge {e.judge}, unit {e.unit or 'none'}" for e in (entry, *like))
    return line(f"{name}: not of one kind: {facts}")


def _headlines(pairs: Sequence[tuple[Entry, Entry]]) -> list[tuple[Entry, Entry]]:
    """One pair a task: its headline, or else its first; of several versions or judges, the first."""
    found: dict[str, tuple[Entry, Entry]] = {}
    for pair in pairs:
        task = pair[0].task
        if task not in found or (pair[0].headline and not found[task][0].headline):
            found[task] = pair
    return list(found.values())


def _matched(old: Entry, new: Entry, logs: tuple[Logs, Logs], metric: CountsMetric | None) -> Matched | str:
    """Or why there is nothing to test."""
    if metric is None:
        return "the metric is not known here"
    try:
        before, after = logs[0].of(old), logs[1].of(new)
        if not (before and after):
            return NO_SAMPLES
        return match_logs(before, after, old.metric, lambda records: Counted(records, metric), higher_is_better=old.higher_is_better)
    except (ValueError, OSError) as error:
        return line(str(error))


def _logs_of(column: Sequence[Entry], logs: Logs, notes: list[str]) -> dict[Key, dict[str, Sample]]:
    """Of those that have one with records of their metric; which can't be read is noted."""
    found = {}
    for entry in column:
        try:
            log = logs.of(entry)
        except (ValueError, OSError) as error:
            notes.append(f"no rank and no verdict on {line(entry.model)} by {line(entry.task)}: {line(str(error))}")
            continue
        if any(entry.metric in sample.records for sample in log.values()):
            found[entry.key] = log
    return found


def _counted_once(metric: CountsMetric) -> Callable[[Sequence[Record]], Counted]:
    """Counts the same records but once, in whichever comparisons they are."""
    known_as: dict[tuple[int, ...], Counted] = {}

    def counted(records: Sequence[Record]) -> Counted:
        return known_as.setdefault(tuple(map(id, records)), Counted(records, metric))  # which holds them, so that ids stay theirs

    return counted


def _ranks(logs: Mapping[Key, Mapping[str, Sample]], like: Entry, counted: Callable[[Sequence[Record]], Counted]) -> dict[Key, Rank]:
    """Of a column's logs, whose entries are by the same metric as `like`."""
    if len(logs) < 2:
        return {}
    every = [askings(log) for log in logs.values()]
    records = iter(same_questions([asking for own in every for asking in own], like.metric))
    sides = {str(index): [counted(next(records)) for _ in own] for index, own in enumerate(every)}
    if not sides["0"][0].records:
        raise CompareError("no image has as many rated answers of all models")
    found = ranks_of(sides, higher_is_better=like.higher_is_better)
    return {key: rank for key, rank in zip(logs, found.values(), strict=True) if rank is not None}


def _in_families(changes: Sequence[Change]) -> list[Change]:
    """With p-values adjusted over the headline metrics, and over the others."""
    found = list(changes)
    for family in (True, False):
        own = {index: change.verdict for index, change in enumerate(changes) if change.before.headline == family}
        for index, verdict in adjusted({index: verdict for index, verdict in own.items() if verdict is not None}).items():
            found[index] = replace(changes[index], verdict=verdict)
    return found


def _formats_adjusted(formats: Sequence[Format]) -> list[Format]:
    found = list(formats)
    for family in (("generation", "next_token", "gap"), ("unparsed", "yes_rate", "length")):
        own = {(index, name): getattr(one, name) for index, one in enumerate(formats) for name in family}
        for (index, name), verdict in adjusted({place: verdict for place, verdict in own.items() if verdict is not None}).items():
            found[index] = replace(found[index], **{name: verdict})  # type: ignore[arg-type]
    return found


def _any_otherwise(found: Comparison) -> bool:
    return any(change.otherwise for change in found.changes)


def _direction(verdict: Verdict) -> str:
    if verdict.outcome == "not separable" or verdict.difference is None:
        return f"{MARKS['not separable']} not separable"
    return "↑ higher" if verdict.difference > 0 else "↓ lower"


def _more(verdict: Verdict) -> str:
    if verdict.outcome == "not separable" or verdict.difference is None:
        return ""
    return "↑" if verdict.difference > 0 else "↓"


def _moved(verdict: Verdict, unit: str) -> str:
    return f"{number(verdict.base, unit)} → {number(verdict.other, unit)}"


def _marked(verdict: Verdict) -> str:
    return _moved(verdict, "%") + ("" if verdict.outcome == "not separable" else f" {MARKS[verdict.outcome]}")


def _of_whole(found: Format) -> str:
    return f" (of {found.questions - found.stopped}; {found.stopped} were stopped once decided)" if found.stopped else ""


def _examples(found: Sequence[Flip], shown: int) -> str:
    by_task: dict[str, list[Flip]] = {}
    for flip in found:
        by_task.setdefault(flip.task, []).append(flip)
    parts = []
    for task, own in by_task.items():
        for kind in ("broken", "fixed", "still wrong"):
            chosen = examples(own, kind, shown)
            if chosen:
                total = sum(flip.kind == kind for flip in own)
                parts.append(f"### {cell(task)}: {kind} ({len(chosen)} of {total})")
                parts += [example(flip) for flip in chosen]
    return "\n\n".join(parts)


def example(flip: Flip) -> str:
    """One question with both answers and what the judge said, as a list; long texts are shortened."""
    about = f" ({cell(flip.category)})" if flip.category else ""
    lines = [f"- **{cell(flip.id)}**{about}, image {cell(flip.image)}: {cell(_short(flip.prompt))}"]
    for name, side in (("before", flip.before), ("after", flip.after)):
        text = "(generation failed)" if side.text is None else cell(_short(side.text)) or "(empty)"
        lines.append(f"  - {name}, {cell(side.mark)}: {text}")
        if side.reply:
            lines.append(f"    - judge: {cell(_short(side.reply))}")
    return "\n".join(lines)


def _short(text: str) -> str:
    text = line(text)
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]}…"
