"""A board is a folder of immutable JSON files, one a run, and everything shown of it is a function of those files.

    board = Board(Path("board"))
    board.add(entries, samples)
    board.current()              # the newest number of each model on each metric
    board.samples("base-1")       # the answers behind a run's numbers

    base-1.json                   {"schema": 1, "run": "base-1", "samples": "<sha256 of the log>", "entries": [...]}
    base-1.samples.parquet        the log; absent, and "samples" null, where a run kept none

Run ids are unique and files never change, so readers need no lock and git merges no conflict. A file becomes visible
only when it is complete, the log before the JSON; a killed writer leaves at most a hidden temporary file or a log
without a run, and both are ignored.

Which of two runs is newer is told by their numbers on the board (`Entry.sequence`), not by their dates: a machine's
clock may be wrong. Dates decide only between runs of earlier versions, and between boards.

A name stands for the model that was last run under it: its weights, adapter, configuration files and settings
(`entry.is_same_model`). Where a checkpoint was overwritten or edited in place, what the old one scored is kept, but it
no longer stands under the name: it is left out, or shown under a name of its own.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from leaderboards.board.entry import (
    SCHEMA_VERSION,
    Entry,
    Key,
    check_run,
    differences_of_models,
    from_json,
    is_same_model,
    members,
    to_json,
)
from leaderboards.board.sample import Sample, from_parquet, to_parquet
from support.files import atomic_write, folder_lock, place, read_regular
from support.parsing import parse_json

MAX_RUN: Final = 64 << 20
"""Bytes of a run's JSON; a hundred tasks take a few hundred thousand."""
MAX_LOG: Final = 1 << 30
"""Bytes of a log."""


class Board:
    """The runs in one folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.skipped: list[tuple[Path, str]] = []
        """Files the latest `entries()` could not read, and why."""
        self.replaced: list[Entry] = []
        """What the latest `current()` left out because newer runs of its name were of another model; `renamed` after
        the older one."""

    def add(self, entries: Sequence[Entry], samples: Sequence[Sample]) -> None:
        """Keep one run of one model; adding the very same again does nothing, other content under its id is a
        FileExistsError."""
        run = _one_run(entries, samples)
        log = to_parquet(samples) if samples else None
        self.folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(self.folder):  # so that no two runs get one number
            self._add(run, entries, log)

    def _add(self, run: str, entries: Sequence[Entry], log: bytes | None) -> None:
        path = self._json(run)
        known = {entry.run: entry.sequence for entry in self.entries()}
        sequence = known.get(run, 1 + max(known.values(), default=0))
        document = _document(run, [replace(entry, sequence=sequence) for entry in entries], log)
        if not _same(path, document):
            if log is not None:
                atomic_write(self._log(run), log)  # what is there without a JSON is left over from a killed writer
            try:
                atomic_write(path, document, place)
            except FileExistsError:
                if not _same(path, document):  # raises, unless the other writer wrote the same
                    raise

    def entries(self) -> list[Entry]:
        """All entries, oldest first; files which are not a run of this schema are left out and named in `skipped`."""
        self.skipped = []
        found: list[Entry] = []
        for path in sorted(self.folder.glob("*.json")):
            if path.name.startswith("."):
                continue
            try:
                found += read_run(path, named=True).entries
            except (ValueError, OSError, RecursionError) as error:
                self.skipped.append((path, str(error)))
        return sorted(found, key=lambda entry: entry.by_sequence)

    def current(
        self, *, partial: bool = False, replaced: bool = False, every: Sequence[Entry] | None = None
    ) -> list[Entry]:
        """The newest entry of each key; runs on a part of the benchmark count only where `partial`, and then only for
        keys without a whole run.

        `every` is what `entries()` gave, where it was read already.

        A name stands for the model of its newest run, partial or not. Older models' entries are left out, and told in
        `self.replaced`, or stand under a name of their own ("name (weights 12ab34cd)") where `replaced`.
        """
        order = attrgetter("by_sequence")
        current, before = by_model(self.entries() if every is None else every, order)
        old = newest((renamed(entry, now) for entry, now in before if partial or not entry.partial), order)
        self.replaced = [] if replaced else old
        shown = [*(entry for entry in current if partial or not entry.partial), *(old if replaced else ())]
        return newest(shown, lambda entry: (not entry.partial, *entry.by_sequence))

    def measured(self, limit: int | None, *, every: Sequence[Entry] | None = None) -> list[Entry]:
        """The newest entry of each key among the runs with this limit, on data that lack rows, too; of the models that
        names stand for now. `every` as for `current`."""
        order = attrgetter("by_sequence")
        current, _ = by_model(self.entries() if every is None else every, order)
        return newest((entry for entry in current if entry.limit == limit), order)

    def samples(self, run: str) -> list[Sample]:
        """The run's log, empty if it kept none; ValueError if the log is not the one the run wrote."""
        found = read_run(self._json(run), named=True)
        return [] if found.samples is None else read_log(self._log(run), found, self._json(run))

    def _json(self, run: str) -> Path:
        return self.folder / f"{check_run(run)}.json"

    def _log(self, run: str) -> Path:
        return self.folder / f"{check_run(run)}.samples.parquet"


Order = Callable[[Entry], Any]
"""Sort key by which the newest of some entries comes last."""

BY_DATE: Final[Order] = attrgetter("by_date")


def newest(entries: Iterable[Entry], order: Order = BY_DATE) -> list[Entry]:
    """The newest entry of each key, in the order in which the keys first appear; those of models that were replaced are
    left out."""
    latest: dict[Key, Entry] = {}
    for entry in by_model(entries, order)[0]:
        known = latest.get(entry.key)
        if known is None or order(entry) >= order(known):
            latest[entry.key] = entry
    return list(latest.values())


def by_model(entries: Iterable[Entry], order: Order = BY_DATE) -> tuple[list[Entry], list[tuple[Entry, Entry]]]:
    """Entries of the model that each name stands for now, by its newest run; and those of a model that it stood for
    before, each with an entry of that newest run.

    Entries that do not know their weights (imported ones) are among the first, and replace nothing.
    """
    entries = list(entries)
    latest: dict[str, Entry] = {}
    for entry in entries:
        known = latest.get(entry.model)
        if entry.weights is not None and (known is None or order(entry) >= order(known)):
            latest[entry.model] = entry
    current: list[Entry] = []
    old: list[tuple[Entry, Entry]] = []
    for entry in entries:
        if entry.weights is None or is_same_model(entry, latest[entry.model]):
            current.append(entry)
        else:
            old.append((entry, latest[entry.model]))
    return current, old


def renamed(entry: Entry, now: Entry) -> Entry:
    """The entry under a name that tells by what its model differs from the one of today, so that it never shares a row
    with others of its name."""
    facts = [f"weights {entry.weights}"]
    if entry.weights == now.weights:
        facts += [f"{name} {entry.provenance.get(name) or 'none'}" for name in differences_of_models(entry, now)]
    return replace(entry, model=f"{entry.model} ({', '.join(facts)})")


class Run(NamedTuple):
    """What a run's file holds."""

    run: str
    entries: list[Entry]

    samples: str | None
    """sha256 of the log; None = the run kept none."""


def _one_run(entries: Sequence[Entry], samples: Sequence[Sample]) -> str:
    """The run id that all share."""
    if not entries:
        raise ValueError("a run needs at least one entry")
    run = entries[0].run
    for entry in entries:
        if entry.run != run:
            raise ValueError(f"entries of two runs: {run!r} and {entry.run!r}")
    _check_entries(run, entries)
    for sample in samples:
        if sample.run != run:
            raise ValueError(f"run {run}: sample {sample.id!r} of {sample.task} is of run {sample.run!r}")
    return run


def _check_entries(run: str, entries: Sequence[Entry]) -> None:
    """That they are of one model, and no two of one key, of which one would stand by chance."""
    if not entries:
        raise ValueError(f"run {run}: no entries; a run needs at least one")
    model = entries[0].model
    keys: set[Key] = set()
    for entry in entries:
        if entry.model != model:  # samples do not name the model, so their run must
            raise ValueError(f"run {run}: two models: {model!r} and {entry.model!r}")
        if entry.key in keys:
            raise ValueError(f"run {run}: two entries for {entry.task} {entry.metric}")
        keys.add(entry.key)


def _document(run: str, entries: Sequence[Entry], log: bytes | None) -> bytes:
    data = {
        "schema": SCHEMA_VERSION,
        "run": run,
        "samples": None if log is None else hashlib.sha256(log).hexdigest(),
        "entries": [to_json(entry) for entry in entries],
    }
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def read_run(path: Path, *, named: bool = False) -> Run:
    """A run's file, strictly: ValueError names what is wrong; `named`: it must have the run's name, as on a board."""
    try:
        data = parse_json(_read_file(path, MAX_RUN), object_pairs_hook=_unique)
        if isinstance(data, dict) and data.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"schema must be {SCHEMA_VERSION}, not {data.get('schema')!r}")
        data = members(data, {"schema", "run", "samples", "entries"})
        if named and f"{data['run']}.json" != path.name:
            raise ValueError(f"run must be the file's name, not {data['run']!r}")
        if not (data["samples"] is None or isinstance(data["samples"], str)):
            raise ValueError(f"samples must be a digest or null, not {data['samples']!r}")
        if not isinstance(data["entries"], list):
            raise ValueError("entries must be a list")
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    entries = [from_json(item, where=f"{path.name}: entry {index}") for index, item in enumerate(data["entries"])]
    for index, entry in enumerate(entries):
        if entry.run != data["run"]:
            raise ValueError(f"{path.name}: entry {index}: run must be {data['run']!r}, not {entry.run!r}")
    try:
        _check_entries(data["run"], entries)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return Run(data["run"], entries, data["samples"])


def read_log(path: Path, run: Run, written: Path) -> list[Sample]:
    """The log of the run that the file `written` holds; ValueError if what is at `path` is another one."""
    data = _read_file(path, MAX_LOG)
    if hashlib.sha256(data).hexdigest() != run.samples:
        raise ValueError(f"{path.name}: not the samples that {written.name} was computed from (its digest differs)")
    samples = from_parquet(data)
    for sample in samples:
        if sample.run != run.run:
            raise ValueError(
                f"{path.name}: sample {sample.id!r} of {sample.task} is of run {sample.run!r}, not {run.run!r}"
            )
    return samples


def _read_file(path: Path, most: int) -> bytes:
    """ValueError for a file that is larger than any of a board; OSError, at once, for a device or a pipe."""
    try:
        return read_regular(path, most)
    except OverflowError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may come twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r} comes twice")
    return found


def _same(path: Path, data: bytes) -> bool:
    """Whether the file exists; FileExistsError if with other content."""
    try:
        existing = path.read_bytes()
    except FileNotFoundError:
        return False
    if existing != data:
        raise FileExistsError(f"{path.name} is on the board already, with other content; a run id is used once")
    return True
