"""Scores every checkpoint of a training run once it is completely written: beside the training, or between its saves.

    scoring = Scoring(board=Board(folder / "board"), tasks=tasks, judge=judge, state=folder / "watch")
    watch(folder, scoring)                    # until interrupted; `once=True` for cron; `until_done=True` to end with the training

A checkpoint of ours is whole once `checkpoint.json` is in it. One of transformers' Trainer is whole when its weights and
`trainer_state.json` are there, every safetensors file is as long as its header says, and nothing in the folder has changed for a while.

What is on the board is done; all else can be interrupted at any moment and is done by the next call. A scoring that fails is never taken
for one that was done: it is tried again, later each time, and given up after some attempts, until the weights change. It holds up no
other checkpoint. Several watchers may share the work: whoever has a checkpoint's lock scores it.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from harness.evaluate import evaluate, on_board
from harness.models.fetch import fetch
from harness.models.resident import Resident
from harness.models.spec import ModelSpec, find
from harness.provenance import digest_of_model
from leaderboards.board import Board
from tasks.judge import Judge
from tasks.registry import TaskSpec
from trainers.errors import BadInput
from trainers.vlfeedback.store import sole, write_whole

NOTE: Final = "checkpoint.json"
STATE: Final = "trainer_state.json"
OURS: Final = ("run.json", "log.jsonl")
"""Files by which a folder is known to be a run of ours, whose checkpoints get a note."""

Tell = Callable[[str], None]
Report = Callable[[str, int, int], None]
Done = Literal["scored", "there", "busy"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint that is whole."""

    path: Path
    step: int
    of: int | None
    """Steps of the whole training, where the folder says so."""

    @property
    def last(self) -> bool:
        """Whether training ends with it."""
        return self.of is not None and self.step >= self.of


class Settled:
    """Tells which folders have been left alone for `seconds`: by their files' times, or, where clocks differ, by looking twice."""

    def __init__(self, seconds: float, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.wall, self.clock = seconds, wall, clock
        self._seen: dict[Path, tuple[Any, float]] = {}

    def __call__(self, folder: Path) -> bool:
        """Whether nothing in it has changed for long enough."""
        files = traces(folder)
        if not files:
            return False
        if self._seen.get(folder, (None, 0.0))[0] != files:
            self._seen[folder] = (files, self.clock())
        newest = max(changed for _, _, changed in files) / 1e9
        return self.wall() - newest >= self.seconds or self.clock() - self._seen[folder][1] >= self.seconds


def traces(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time (ns) of a folder's files; a file that goes while it is looked at is left out."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def look(folder: Path, settled: Settled) -> tuple[list[Found], dict[Path, str]]:
    """The whole checkpoints of a folder by step, and what the others lack."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))]
    ours = any((folder / name).exists() for name in OURS) or any((path / NOTE).exists() for _, path in numbered)
    whole, torn = [], {}
    for step, path in sorted(numbered):
        try:
            of = _of_ours(path) if ours else _of_a_trainer(path, step, settled)
        except (_Incomplete, OSError, ValueError) as error:
            torn[path] = str(error)
        else:
            whole.append(Found(path=path, step=step, of=of))
    return whole, torn


class _Incomplete(Exception):
    """Something is missing still."""


def _of_ours(path: Path) -> int | None:
    if not (path / NOTE).exists():
        raise _Incomplete(f"no {NOTE} yet")
    _weights_are_whole(path)
    steps = _object(path / NOTE).get("steps")
    return steps if isinstance(steps, int) else None


def _object(path: Path) -> dict[str, Any]:
    """A JSON file's object; _Incomplete for one that holds none."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise _Incomplete(f"{path.name} holds no JSON object")
    return found


def _of_a_trainer(path: Path, step: int, settled: Settled) -> int | None:
    _weights_are_whole(path)
    if not (path / STATE).exists():
        raise _Incomplete(f"no {STATE} yet")
    state = _object(path / STATE)
    if state.get("global_step") != step:
        raise _Incomplete(f"{STATE} is of step {state.get('global_step')}")
    if not settled(path):
        raise _Incomplete("written to a moment ago")
    return state["max_steps"] if isinstance(state.get("max_steps"), int) else None


def _weights_are_whole(path: Path) -> None:
    """An adapter or a model, in safetensors files that are all there and as long as they say."""
    stem = "adapter_model" if (path / "adapter_config.json").exists() else "model"
    index, names = path / f"{stem}.safetensors.index.json", [f"{stem}.safetensors"]
    if index.exists():
        weights = _object(index).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
            raise _Incomplete(f"{index.name} names no file of each weight")
        names = sorted(set(weights.values()))
    if any(Path(name).name != name for name in names):
        raise _Incomplete(f"{index.name} names files outside of the folder")
    if stem == "model" and not (path / "config.json").exists():
        raise _Incomplete("neither config.json (weights) nor adapter_config.json (LoRA) yet")
    for name in names:
        file = path / name
        if not file.exists():
            pickled = " (only safetensors are read, and here is a .bin)" if list(path.glob(f"*{stem}*.bin")) else ""
            raise _Incomplete(f"no {name} yet{pickled}")
        size, wanted = file.stat().st_size, length_of(file)
        if size != wanted:
            raise _Incomplete(f"{name} has {size} of {wanted if wanted is not None else 'unknown many'} bytes")


def length_of(file: Path) -> int | None:
    """Bytes that a safetensors file must have by its own header; None where that is not whole itself."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if not 0 < size <= file.stat().st_size:
                return None
            header = json.loads(opened.read(size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError):
        return None
    return 8 + size + max(ends, default=0)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How models are scored onto one board: the same for a run's own scoring and for watchers beside it."""

    board: Board
    tasks: Sequence[TaskSpec]
    judge: Judge | None
    state: Path
    """Folder for locks and for what failed."""
    limit: int | None = None
    seed: int = 0
    split: str | None = None
    data: Mapping[str, str] | None = None
    partial_data: bool = False
    engine: Mapping[str, Any] | None = None
    tell: Tell = lambda line: None
    report: Report = lambda stage, done, total: None
    resident: Resident = field(default_factory=Resident)
    around: Callable[[str], AbstractContextManager[Any]] = lambda stage: nullcontext()
    """A context manager for the time of one scoring, by its name."""

    def name_of(self, path: Path) -> str:
        """What the board calls a checkpoint: what it already does, else its path as given."""
        place = path.resolve()
        known = {entry.model for entry in self.board.entries()}
        return next((name for name in sorted(known) if Path(name).name == path.name and Path(name).resolve() == place), path.as_posix())

    def score(self, spec: ModelSpec, name: str, *, wait: bool = True) -> Done:
        """Score one model unless the board has it; "busy" at once where another process is at it and `wait` is not wanted."""
        with sole(self.state / _file_name(name), wait=wait) as mine:
            if not mine:
                return "busy"
            if self._is_there(spec, name):
                return "there"
            self.tell(f"{name}: scoring on {', '.join(task.name for task in self.tasks)}")
            with self.around(f"score {name}"):
                evaluation = evaluate(
                    spec,
                    self.tasks,
                    self.judge,
                    limit=self.limit,
                    seed=self.seed,
                    name=name,
                    split=self.split,
                    data=self.data,
                    partial_data=self.partial_data,
                    engine=self.engine,
                    resident=self.resident,
                    progress=partial(self.report, f"score {name}"),
                )
            self.board.add(evaluation.entries, evaluation.samples)
            return "scored"

    def lost(self, spec: ModelSpec, name: str) -> str:
        """Why a model that was scored is not done: answers that failed or were given no rating; "" where it is done."""
        if self._is_there(spec, name):
            return ""
        found = [entry for entry in self.board.standing(partial=True) if entry.model == name and entry.headline]
        return ", ".join(
            f"{entry.task}: {entry.failed} failed and {entry.unscored} without a rating of {entry.samples}"
            for entry in found
            if entry.failed + entry.unscored
        )

    def _is_there(self, spec: ModelSpec, name: str) -> bool:
        return on_board(self.board, spec, name, self.tasks, self.judge, self.limit, self.data)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(Path(name).parts[-2:])).strip(".") or "model"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a watcher did and left."""

    found: list[Found]
    """All whole checkpoints, by step."""
    names: Mapping[Path, str]
    """What the board calls them."""
    scored: list[Path]
    """By this call, in the order in which they were scored."""
    failed: Mapping[Path, str]
    """Not done, and the latest reason; the next call tries those again that have attempts left."""
    torn: Mapping[Path, str]
    """Not whole, and what they lack."""
    done: bool
    """Whether the last checkpoint of the training is there and every one is scored."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "checkpoints": [{"model": self.names[found.path], "step": found.step} for found in self.found],
            "scored": [path.as_posix() for path in self.scored],
            "failed": {path.as_posix(): why for path, why in self.failed.items()},
            "not whole": {path.as_posix(): why for path, why in self.torn.items()},
            "done": self.done,
        }


def watch(
    folder: Path,
    scoring: Scoring,
    *,
    once: bool = False,
    until_done: bool = False,
    poll: float = 30.0,
    settle: float = 10.0,
    attempts: int = 3,
    backoff: float = 60.0,
    shown: Callable[[Watched], object] = lambda watched: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Score the checkpoints of `folder`, of those that wait always the one of the fewest steps.

    `once`: those there now; `until_done`: until training has written its last one and all are scored or given up. `poll`, `settle` and
    `backoff` are in seconds; after its nth failure a checkpoint waits for `backoff` * 2^(n-1). `shown` hears of each scoring how things
    stand then.
    """
    settled, state = Settled(settle), _Attempts(scoring.state, attempts, backoff)
    finished: dict[Path, Any] = {}
    scored: list[Path] = []
    told: set[Path] = set()
    while True:
        whole, torn = look(folder, settled)
        names = {found.path: scoring.name_of(found.path) for found in whole}
        waiting = [found for found in whole if finished.get(found.path) != traces(found.path)]
        failed: dict[Path, str] = {}
        given_up: set[Path] = set()
        tried: Done | Literal["failed"] = "busy"
        for found in waiting:
            pause, why = state.left(found.path)
            if why:
                failed[found.path] = why
            if pause is None:
                given_up.add(found.path)
                if found.path not in told:
                    told.add(found.path)
                    scoring.tell(f"{found.path}: given up after {attempts} attempts, until its weights change ({why})")
            elif pause == 0 and (tried := _try(found, names[found.path], scoring, state)) != "busy":
                if tried != "failed":
                    finished[found.path] = traces(found.path)
                break  # and look anew: what was written meanwhile may come before the next one
        at_the_end = any(found.last for found in whole) and not torn
        done = at_the_end and all(found.path in finished for found in waiting)
        if tried == "scored":
            scored.append(found.path)
            failed.pop(found.path, None)
        watched = Watched(found=whole, names=names, scored=list(scored), failed=failed, torn=torn, done=done)
        if tried == "scored":
            shown(watched)
        if tried != "busy":
            continue
        if once or (until_done and at_the_end and len(given_up) == len(waiting)):
            return watched
        sleep(poll)


def _try(found: Found, name: str, scoring: Scoring, state: "_Attempts") -> Done | Literal["failed"]:
    """Score one checkpoint; an error is counted as an attempt, whatever it is, for the next one may go well."""
    try:
        spec = fetch(find(str(found.path)), scoring.tell)
        done = scoring.score(spec, name, wait=False)
        why = scoring.lost(spec, name) if done == "scored" else ""
    except Exception as error:  # a watcher outlives what it watches: memory, networks and disks come and go
        scoring.resident.drop()
        if not found.path.exists():
            scoring.tell(f"{found.path}: gone before it was scored; let the trainer keep more checkpoints")
            return "failed"
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    else:
        if not why:
            state.clear(found.path)
            return done
    count = state.count(found.path, why)
    scoring.tell(f"{found.path}: attempt {count} of {state.attempts} failed ({why})")
    return "failed"


def base_of(found: Found) -> str | None:
    """What a checkpoint's adapter lies on, as `find` takes it; None where it has all weights itself, or doesn't say."""
    config = found.path / "adapter_config.json"
    if not config.is_file():
        return None
    for path, key in ((found.path / NOTE, "base"), (config, "base_model_name_or_path")):
        try:
            base = _object(path).get(key)
        except (_Incomplete, OSError, ValueError):
            continue
        if isinstance(base, str) and base:
            return base
    return None


class _Attempts:
    """How often each checkpoint's scoring failed, on disk: a file a checkpoint, of no account once its weights are others."""

    def __init__(self, folder: Path, attempts: int, backoff: float) -> None:
        self.folder, self.attempts, self.backoff = folder, attempts, backoff

    def left(self, path: Path) -> tuple[float | None, str]:
        """Seconds to wait before the next attempt, None if there is none left; and why the latest one failed."""
        held = self._read(path)
        if held is None:
            return 0.0, ""
        count, why, at = held
        if count >= self.attempts:
            return None, why
        return max(0.0, at + self.backoff * 2 ** (count - 1) - time.time()), why

    def count(self, path: Path, why: str) -> int:
        """One more failure; how many that makes."""
        held = self._read(path)
        count = 1 + (held[0] if held else 0)
        note = {"digest": self._digest(path), "attempts": count, "error": why, "at": time.time()}
        write_whole(self._file(path), json.dumps(note, indent=1))
        return count

    def clear(self, path: Path) -> None:
        """It went well."""
        self._file(path).unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[int, str, float] | None:
        try:
            note = json.loads(self._file(path).read_text(encoding="utf-8"))
            if note["digest"] != self._digest(path):
                return None
            return int(note["attempts"]), str(note["error"]), float(note["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _file(self, path: Path) -> Path:
        return self.folder / f"{_file_name(path.as_posix())}.json"

    def _digest(self, path: Path) -> str:
        """Of the weights alone: a base that can't be found must not hide that the checkpoint is the same."""
        whole = ModelSpec(name="", pretrained=str(path))
        return digest_of_model(whole)["weights"]
