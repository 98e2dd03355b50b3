"""A board is a folder of immutable JSON files, one a run, and everything shown of it is a function of those files.

    board = Board(Path("board"))
    board.add(entries, samples)
    board.standing()              # the newest number of each model on each metric
    board.samples("base-1")       # the answers behind a run's numbers

    base-1.json                   {"schema": 1, "run": "base-1", "samples": "<sha256 of the log>", "entries": [...]}
    base-1.samples.parquet        the log; absent, and "samples" null, where a run kept none

Run ids are unique and files never change, so writers need no lock and git merges no conflict. A file becomes visible only when it is
complete, the log before the JSON; a killed writer leaves at most a hidden temporary file or a log without a run, and both are ignored.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leaderboards.entry import SCHEMA_VERSION, Entry, Key, check_run, from_json, members, to_json
from leaderboards.sample import Sample, from_parquet, to_parquet


class Board:
    """The runs in one folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.skipped: list[tuple[Path, str]] = []
        """Files the latest `entries()` could not read, and why."""

    def add(self, entries: Sequence[Entry], samples: Sequence[Sample]) -> None:
        """Keep one run of one model; adding the very same again does nothing, other content under its id is a FileExistsError."""
        run = _one_run(entries, samples)
        log = to_parquet(samples) if samples else None
        document = _document(run, entries, log)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._json(run)
        if not _same(path, document):
            if log is not None:
                _publish(self._log(run), log, os.replace)  # what is there without a JSON is left over from a killed writer
            try:
                _publish(path, document, os.link)  # unlike a rename, a link never replaces: of two writers one wins
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
                found += _read(path).entries
            except (ValueError, OSError, RecursionError) as error:
                self.skipped.append((path, str(error)))
        return sorted(found, key=lambda entry: (entry.when, entry.run))

    def standing(self, *, partial: bool = False) -> list[Entry]:
        """The newest entry of each key; runs cut by a limit count only where `partial`."""
        return newest(entry for entry in self.entries() if partial or entry.limit is None)

    def samples(self, run: str) -> list[Sample]:
        """The run's log, empty if it kept none; ValueError if the log is not the one the run wrote."""
        digest = _read(self._json(run)).samples
        if digest is None:
            return []
        path = self._log(run)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{path.name}: not the samples that {run}.json was computed from (its digest differs)")
        return from_parquet(data)

    def _json(self, run: str) -> Path:
        return self.folder / f"{check_run(run)}.json"

    def _log(self, run: str) -> Path:
        return self.folder / f"{check_run(run)}.samples.parquet"


def newest(entries: Iterable[Entry]) -> list[Entry]:
    """The newest entry of each key, in the order in which the keys first appear."""
    latest: dict[Key, Entry] = {}
    for entry in entries:
        known = latest.get(entry.key)
        if known is None or (entry.when, entry.run) >= (known.when, known.run):
            latest[entry.key] = entry
    return list(latest.values())


class _Run(NamedTuple):
    entries: list[Entry]
    samples: str | None


def _one_run(entries: Sequence[Entry], samples: Sequence[Sample]) -> str:
    """The run id that all share."""
    if not entries:
        raise ValueError("a run needs at least one entry")
    run, model = entries[0].run, entries[0].model
    keys: set[Key] = set()
    for entry in entries:
        if entry.run != run:
            raise ValueError(f"entries of two runs: {run!r} and {entry.run!r}")
        if entry.model != model:  # samples do not name the model, so their run must
            raise ValueError(f"run {run}: two models: {model!r} and {entry.model!r}")
        if entry.key in keys:
            raise ValueError(f"run {run}: two entries for {entry.task} {entry.metric}")
        keys.add(entry.key)
    for sample in samples:
        if sample.run != run:
            raise ValueError(f"run {run}: sample {sample.id!r} of {sample.task} is of run {sample.run!r}")
    return run


def _document(run: str, entries: Sequence[Entry], log: bytes | None) -> bytes:
    data = {
        "schema": SCHEMA_VERSION,
        "run": run,
        "samples": None if log is None else hashlib.sha256(log).hexdigest(),
        "entries": [to_json(entry) for entry in entries],
    }
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _read(path: Path) -> _Run:
    """A run's file, strictly: ValueError names what is wrong."""
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=_unique)
        if isinstance(data, dict) and data.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"schema must be {SCHEMA_VERSION}, not {data.get('schema')!r}")
        data = members(data, {"schema", "run", "samples", "entries"})
        if f"{data['run']}.json" != path.name:
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
    return _Run(entries, data["samples"])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may come twice."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"key {key!r} comes twice")
        seen[key] = value
    return seen


def _same(path: Path, data: bytes) -> bool:
    """Whether the file exists; FileExistsError if with other content."""
    try:
        existing = path.read_bytes()
    except FileNotFoundError:
        return False
    if existing != data:
        raise FileExistsError(f"{path.name} is on the board already, with other content; a run id is used once")
    return True


def _publish(path: Path, data: bytes, place: Callable[[Path, Path], None]) -> None:
    """Write beside `path`, and put there with `place` when safely on disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
