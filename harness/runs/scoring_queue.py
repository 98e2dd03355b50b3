"""Scoring of checkpoints one after another: attempts, and which results are there already."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings, on_board
from harness.evaluation.evaluate import evaluate
from harness.models.adapter_host import AdapterHost
from harness.models.fetch import fetch
from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec, find
from leaderboards.board.board import Board
from support.files import atomic_write_text, file_lock
from support.progress import Report, Tell
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec
from trainers.training.checkpoints import FoundCheckpoint

Done = Literal["scored", "there", "busy"]


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
    engine: EngineConfig | None = None
    tell: Tell = lambda line: None
    report: Report = lambda stage, done, total: None
    resident: AdapterHost = field(default_factory=AdapterHost)
    around: Callable[[str], AbstractContextManager[Any]] = lambda stage: nullcontext()
    """A context manager for the time of one scoring, by its name."""

    @property
    def _settings(self) -> EvalSettings:
        return EvalSettings(
            limit=self.limit, seed=self.seed, split=self.split, data=self.data or {}, partial_data=self.partial_data
        )

    def name_of(self, path: Path) -> str:
        """What the board calls a checkpoint: what it already does, else its path as given."""
        place = path.resolve()
        known = {entry.model for entry in self.board.entries()}
        return next(
            (name for name in sorted(known) if Path(name).name == path.name and Path(name).resolve() == place),
            path.as_posix(),
        )

    def score(self, spec: ModelSpec, name: str, *, wait: bool = True) -> Done:
        """Score one model unless the board has it; "busy" at once where another process is at it and `wait` is not
        wanted."""
        with file_lock(self.state / _file_name(name), wait=wait) as mine:
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
                    self._settings,
                    engine=self.engine,
                    name=name,
                    load=self.resident.load,
                )
            self.board.add(evaluation.entries, evaluation.samples)
            return "scored"

    def lost(self, spec: ModelSpec, name: str) -> str:
        """Why a model that was scored is not done: answers that failed or were given no rating; "" where it is done."""
        if self._is_there(spec, name):
            return ""
        found = [entry for entry in self.board.current(partial=True) if entry.model == name and entry.headline]
        return ", ".join(
            f"{entry.task}: {entry.failed} failed and {entry.unscored} without a rating of {entry.samples}"
            for entry in found
            if entry.failed + entry.unscored
        )

    def _is_there(self, spec: ModelSpec, name: str) -> bool:
        return on_board(self.board, spec, name, self.tasks, self.judge, self._settings, self.engine)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(Path(name).parts[-2:])).strip(".") or "model"


def score_one(found: FoundCheckpoint, name: str, scoring: Scoring, state: "Attempts") -> Done | Literal["failed"]:
    """Score one checkpoint; an error is counted as an attempt, whatever it is, for the next one may go well."""
    try:
        spec = fetch(find(str(found.path)))
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


class Attempts:
    """How often each checkpoint's scoring failed, on disk: a file a checkpoint, of no account once its weights are
    others."""

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
        atomic_write_text(self._file(path), json.dumps(note, indent=1))
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
