"""One number with all that is needed to trust it.

    entry = Entry(run="base-1", model="base", task="scenes_chair", metric="CHAIR_s", value=19.3, unit="%",
    higher_is_better=False, ...) from_json(to_json(entry), where="base-1.json") == entry

An `Entry` that exists is valid: its constructor checks every field, so that nothing is written which could not be read
again. Its JSON is described for other programs by `schema/run.json`, with the facts that provenance holds.
"""

import re
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import isfinite
from typing import Any, Final

from leaderboards.board.earlier_digests import with_current_digest
from support.judge_names import current_judge

SCHEMA_VERSION = 1

Key = tuple[str, str, str, str, str | None]
"""What a number is of: model, task, metric, version, judge. Of two entries with one key, the newer replaces the
older."""

# A file name everywhere: not hidden, no option, room for suffixes.
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""How far the clocks of two machines may differ before a date counts as one in the future."""

_NEUTRAL = ("yes_rate", "answer_length", "length")

_NAMES = ("run", "model", "task", "version", "metric", "created")
_NUMBERS = ("value", "low", "high", "seconds", "cost")
_COUNTS = ("samples", "unscored", "failed", "unparsed", "empty", "limit", "sequence")
_FLAGS = ("higher_is_better", "headline")
_OPTIONAL = ("value", "low", "high", "limit", "judge", "empty")

_PLAIN = (
    dict.fromkeys((*_NAMES, "unit", "judge"), str)
    | dict.fromkeys(_NUMBERS, float)
    | dict.fromkeys(_COUNTS, int)
    | dict.fromkeys(_FLAGS, bool)
)
"""The type that a field's value mostly has, and which then needs no closer look: a board has thousands of entries."""


SETTINGS_OF_MODEL: Final = ("configuration", "chat template", "server says", "fingerprint", "model settings")
"""Facts in provenance that, beside the weights, tell which model answered."""

_MAY_LACK: Final = ("configuration", "chat template", "server says")
"""Those of them that entries of earlier versions lack."""

PROTOCOL: Final = "protocol"
"""In provenance: whose wording the questions had: the protocol's name, and a digest of its content where it has any."""
NOT_KNOWN: Final = "not known"
"""The protocol of answers that were given in files: nobody recorded how they were asked for."""
BARE: Final = "bare"
"""The protocol of questions as they stand in the data; entries of earlier versions were asked so."""

MODEL_SIZE: Final = "model size"
"""In provenance: how many parameters the model has that answered."""

OFFICIAL_JUDGE: Final = "official judge"
"""In provenance: the judge of the benchmark's authors, where another one rated."""
COST_NOT_KNOWN: Final = "judge cost"
"""In provenance: of how many of the judge's calls the price is not known; they are not in `cost`."""
SHARES_NOTHING: Final = "nothing (exact)"
"""What the fact "shared" says of a model that was asked one question at a time."""

EMPTY_ANSWERS: Final = "empty_answers"
"""The guard that every metric has; see `Entry.guards`."""

RECIPE: Final = "recipe"
"""In provenance of a checkpoint: its recipe's name, arm and a digest of all settings but the seed."""
TRAINING_SEED: Final = "training seed"
TRAINING_SAVE: Final = "training save"
"""In provenance of a checkpoint: which of its recipe's saves it is: 1, 2, ..., last."""
SEEDS: Final = "seeds"
"""In provenance of a row that stands for several trainings: their seeds, or where these are not known, how many."""
SEED_RUNS: Final = "seed runs"
"""In provenance of such a row: the runs whose scores it is the mean of, and whose logs hold its answers."""

OTHER_DATA: Final = "other data"
"""In provenance: another language, split or version than the benchmark's that the data are of."""
GIVEN: Final = "answers from"
"""In provenance of scores of answers that were given: the names of their files."""

RESCORED: Final = "rescored from"
"""In provenance of a score of answers that the board had: the run, and the task that they were given to."""

FAILURES: Final = "failures"
"""In provenance: see `Entry.failures`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The score of one model by one metric of one task, in one run."""

    run: str
    """Unique id of the run, of A-Z a-z 0-9 . _ - since files are named after it."""

    model: str
    task: str

    version: str
    """Version of the task; numbers of different versions are never compared."""

    metric: str

    value: float | None
    """In `unit`; None = no sample could be scored."""

    unit: str
    """"%" (0-100), "points", "0-6", "words", ...; may be empty."""

    higher_is_better: bool

    headline: bool
    """Whether the task is ranked by this metric."""

    samples: int
    """Documents asked, scored or not."""

    unscored: int = 0
    """Documents answered which the judge gave no rating, whether left out or, where the official rule says so, counted
    as 0."""

    failed: int = 0
    """Documents for which generation failed."""

    unparsed: int = 0
    """Documents whose answer no rule could read; scored by the benchmark's default."""

    empty: int | None = None
    """Documents whose answer says nothing, or nearly; scored all the same. None = not counted."""

    guards: Mapping[str, float] = field(default_factory=dict)
    """What must not become worse while this metric improves, by name: recall, words an answer, % of empty answers."""

    low: float | None
    """Lower end of the 95% interval of `value`; None = there is none."""

    high: float | None
    """Upper end of the 95% interval of `value`; None = there is none."""

    limit: int | None
    """How many documents the run was cut to; None = all."""

    judge: str | None
    """The model which rated; None = not judged."""

    seconds: float
    """Wall time of evaluating the task in this run."""

    cost: float
    """USD; 0.0 = nothing was paid."""

    created: str
    """ISO 8601, in UTC."""

    provenance: Mapping[str, str]
    """What ran: digests of weights, adapter and prompts, git commit, versions, seed, device, ..."""

    sequence: int = field(default=0, compare=False)
    """Number of the run on its board, in the order in which runs were added; 0 = not known (not added yet, or by an
    earlier version)."""

    def __post_init__(self) -> None:
        values = self.__dict__
        for name, plain in _PLAIN.items():
            value = values[name]
            if type(value) is not plain or (plain is float and not isfinite(values[name])):
                _check_type(name, value)
        if not isinstance(self.provenance, Mapping):
            raise ValueError(f"provenance must be a mapping, not {self.provenance!r}")
        if {type(word) for pair in self.provenance.items() for word in pair} - {str}:
            for key, text in self.provenance.items():
                if not (isinstance(key, str) and isinstance(text, str)):
                    raise ValueError(f"provenance must map strings to strings, not {key!r} to {text!r}")
        check_run(self.run)
        for name in _NAMES:
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        check_guards(self.guards)
        for name in ("samples", "unscored", "failed", "unparsed", "empty", "seconds", "cost", "sequence"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.scored < 0:
            raise ValueError(
                f"unscored ({self.unscored}) and failed ({self.failed}) are more than samples ({self.samples})"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, but is {self.limit}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low ({self.low}) and high ({self.high}) must both be given, or both be None")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        _ = self.when  # which looks at `created`

    @property
    def key(self) -> Key:
        """What this is the number of."""
        return self.model, self.task, self.metric, self.version, self.judge

    @property
    def scored(self) -> int:
        """Documents which count in `value`."""
        return self.samples - self.unscored - self.failed

    @property
    def empty_share(self) -> float | None:
        """How many of the answers that count in `value` are empty, in %; None = not counted."""
        if (own := self.guards.get(EMPTY_ANSWERS)) is not None:
            return own
        answered = self.samples - self.failed
        return None if self.empty is None or not answered else 100 * self.empty / answered

    @property
    def mute(self) -> bool:
        """True if most of the answers are empty: then the score is none of the model, and has no rank."""
        return (self.empty_share or 0.0) > 50

    @property
    def failures(self) -> str:
        """Why documents failed, stayed unscored or could not be read, with counts; empty if none did."""
        return self.provenance.get(FAILURES, "")

    @property
    def partial(self) -> bool:
        """Whether only a part of the benchmark was asked: cut by a limit, or on data that lack rows."""
        return self.limit is not None or self.provenance.get("rows") == "partial"

    @cached_property
    def weights(self) -> str | None:
        """Which weights answered, whatever they are called: digests of the model and of its adapter; None = not
        known."""
        model, adapter = self.provenance.get("weights"), self.provenance.get("adapter")
        return model if adapter is None or model is None else f"{model}+{adapter}"

    @property
    def parameters(self) -> int | None:
        """How many the model has; None = not known."""
        found = self.provenance.get(MODEL_SIZE, "")
        return int(found) if re.fullmatch(r"[1-9][0-9]{0,17}", found) else None

    @property
    def imported(self) -> str | None:
        """The tool which computed it, where it was not measured here."""
        return self.provenance.get("imported")

    @property
    def given(self) -> str | None:
        """The files that its answers came in, where no model was asked here."""
        return self.provenance.get(GIVEN)

    @cached_property
    def when(self) -> datetime:
        """`created`, comparable."""
        return _utc(self.created)

    @property
    def in_future(self) -> bool:
        """True if the run is dated later than now: the clock of its machine was wrong."""
        return self.when > datetime.now(UTC) + CLOCK_TOLERANCE

    @property
    def by_date(self) -> tuple[bool, datetime, str]:
        """Sort key for runs of several boards: the newest last; a date in the future is never the newest."""
        return not self.in_future, self.when, self.run

    @property
    def by_sequence(self) -> tuple[int, bool, datetime, str]:
        """Sort key for runs of one board: the last added last, whatever the clock said."""
        return self.sequence, *self.by_date


def differences_of_models(one: Entry, other: Entry) -> list[str]:
    """By what the models of two entries differ, beside their weights; as far as both entries know it."""
    pairs = {name: (one.provenance.get(name), other.provenance.get(name)) for name in SETTINGS_OF_MODEL}
    found = [
        name
        for name, (own, theirs) in pairs.items()
        if without_device(own or "") != without_device(theirs or "")
        and not (name in _MAY_LACK and None in (own, theirs))
    ]
    exact = [entry.provenance.get("shared") == SHARES_NOTHING for entry in (one, other)]
    return found + ["shared"] * (exact[0] != exact[1])


def without_device(settings: str) -> str:
    """The fact "model settings" without the place where the model ran, which decides nothing."""
    return ", ".join(word for word in settings.split(", ") if not word.startswith("device="))


def digest_of_protocol(fact: str | None) -> str:
    """What tells a protocol's questions from others, of the fact that an entry records: "" where they are bare."""
    if fact == NOT_KNOWN:
        return NOT_KNOWN
    found = re.search(r" ([0-9a-f]{8})$", fact or "")
    return found[1] if found else ""


def name_of_protocol(provenance: Mapping[str, str]) -> str:
    """The protocol's name; entries that record none were asked bare."""
    return re.sub(r" [0-9a-f]{8}$", "", provenance.get(PROTOCOL, BARE))


def is_same_model(one: Entry, other: Entry) -> bool:
    """Whether two entries of one name are of one model: the same weights, adapter, files and settings."""
    return one.weights == other.weights and not differences_of_models(one, other)


def is_neutral(metric: str) -> bool:
    """Whether the metric says how a model answers (how long, how often yes), not how well, so that neither direction is
    better."""
    return metric.endswith(_NEUTRAL)


def check_guards(guards: object) -> None:
    """ValueError unless these are names with finite numbers."""
    if not isinstance(guards, Mapping):
        raise ValueError(f"guards must be a mapping, not {guards!r}")
    for name, value in guards.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"guards must map names to numbers, not {name!r} to {value!r}")
        if not isfinite(value):
            raise ValueError(f"guards.{name} must be a finite number, not {value!r}")


def check_run(run: str) -> str:
    """`run` itself, if it can name files."""
    if not _RUN.fullmatch(run):
        raise ValueError(
            f"run must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter, digit or _, but is {run!r}"
        )
    return run


def to_json(entry: Entry) -> dict[str, Any]:
    """All fields as JSON values."""
    return {name: getattr(entry, name) for name in _ORDER} | {
        "provenance": dict(entry.provenance),
        "guards": dict(entry.guards),
    }


def from_json(data: object, where: str) -> Entry:
    """The entry in `data`, which must have exactly the fields of one; errors begin with `where`, the file's name."""
    try:
        # Boards of earlier versions lack these numbers.
        known = {"unparsed": 0, "sequence": 0, "empty": None, "guards": {}, **data} if isinstance(data, dict) else data
        entry = _with_current_names(Entry(**members(known, _FIELDS)))
        return replace(entry, value=None, low=None, high=None) if _scored_nothing(entry) else entry
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _with_current_names(entry: Entry) -> Entry:
    """The entry as it would be written now: what has another name since, and counts as the same."""
    facts = with_current_digest(entry.task, entry.provenance)
    if OFFICIAL_JUDGE in facts:
        facts = {**facts, OFFICIAL_JUDGE: current_judge(facts[OFFICIAL_JUDGE])}
    return replace(entry, provenance=facts, judge=current_judge(entry.judge))


def _scored_nothing(entry: Entry) -> bool:
    """Whether the value is one of nothing, as earlier versions wrote it where the judge rated no answer.

    A sample that one of a judge's repeats left out counts as unscored, and yet has a rating: repeats are left alone.
    """
    repeated = "judge asked" in entry.provenance or "judge repeats" in entry.provenance
    return entry.value is not None and entry.samples > 0 and entry.scored == 0 and not repeated


_ORDER = tuple(each.name for each in fields(Entry))
_FIELDS = frozenset(_ORDER)


def members(data: object, names: Set[str]) -> dict[str, Any]:
    """`data` itself, if it is a JSON object with exactly these keys."""
    if not isinstance(data, dict):
        raise ValueError(f"must be a JSON object, not {type(data).__name__}")
    if unknown := sorted(data.keys() - names):
        raise ValueError(f"unknown key {unknown[0]!r}")
    if missing := sorted(names - data.keys()):
        raise ValueError(f"missing key {missing[0]!r}")
    return data


def _check_type(name: str, value: object) -> None:
    if value is None and name in _OPTIONAL:
        return
    if name in _FLAGS:
        good, wanted = isinstance(value, bool), "true or false"
    elif isinstance(value, bool):  # which Python would take as a number
        good, wanted = False, "no truth value"
    elif name in _COUNTS:
        good, wanted = isinstance(value, int), "an integer"
    elif name in _NUMBERS:  # nan fails the comparison too, and so does an integer that no float can hold
        good, wanted = isinstance(value, int | float) and abs(value) <= sys.float_info.max, "a finite number"
    else:
        good, wanted = isinstance(value, str), "a string"
    if not good:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _utc(created: str) -> datetime:
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        raise ValueError(f"created must be an ISO 8601 time, not {created!r}") from None
    if when.utcoffset() != timedelta(0):
        raise ValueError(f"created must be in UTC, such as 2026-01-31T12:00:00+00:00, not {created!r}")
    return when
