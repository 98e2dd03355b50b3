"""Scoring of checkpoints one after another: what is on the board already, and how often a scoring has failed."""

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings, check_asking, on_board, with_seed
from harness.evaluation.evaluate import evaluate
from harness.evaluation.find_boards import known_as
from harness.evaluation.lost import lost_in_words
from harness.evaluation.protocol import as_asked
from harness.models.base_names import ADAPTER_CONFIG
from harness.models.configuration import identity_of_folder
from harness.models.fetch import fetch
from harness.models.spec import ModelSpec, find
from harness.serving.adapters import Adapters
from harness.serving.engine_host import EngineHost
from harness.serving.model_server import known_of
from harness.serving.served_judge import make_room_for
from harness.serving.server_host import ServerHost, end_servers
from leaderboards.board.board import Board
from support.errors import SettingError, one_line
from support.files import atomic_write_text, file_lock, short_name
from support.parsing import parse_json
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec
from trainers.training.checkpoints import FoundCheckpoint

log = logging.getLogger(__name__)

Scored = Literal["scored", "on board", "busy"]
"""What became of a model: scored now, on the board already, or being scored by another process."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How models are scored onto one board: the same for a run's own scoring and for watchers beside it."""

    board: Board
    tasks: Sequence[TaskSpec]
    judge: Judge | None
    state: Path
    """Folder for locks and for what failed."""
    settings: EvalSettings = field(default_factory=EvalSettings)
    engine: EngineConfig = field(default_factory=EngineConfig)
    host: EngineHost = field(default_factory=EngineHost)
    """Keeps the base of all adapters in memory, or the server that computes their answers."""
    remote_code: bool = False
    """Whether the user allows the models' own code to run."""
    adapters_base: str | None = None
    """What adapters in folders go on, by the user's word."""
    server: ServerHost | None = None
    """Serves models, which are scored through it."""
    adapters: Callable[[], Adapters] = Adapters
    """What a server that is started is to be ready for, beside the model that is scored."""
    after_training: bool = False
    """Whether nothing is scored before the training is over."""
    timed: Callable[[str], AbstractContextManager[Any]] = lambda stage: nullcontext()
    """A context manager that takes the time of one scoring, by its name."""

    def __post_init__(self) -> None:
        check_asking(self.settings.protocol, self.engine, self.tasks)

    @property
    def allowed(self) -> str:
        """What the user's word lets models be, in words; "" where nothing beyond their files."""
        given = {"code": "runs" if self.remote_code else None, "base": self.adapters_base}
        return "".join(f" {what} {value}" for what, value in given.items() if value is not None)

    def fetch(self, name: str | Path) -> ModelSpec:
        """A model with all its files on this machine."""
        base = self.adapters_base if (Path(name) / ADAPTER_CONFIG).is_file() else None
        return fetch(find(str(name), remote_code=self.remote_code, base=base))

    def name_of(self, path: Path) -> str:
        """A checkpoint's name on the board: the one it has there, else its path as given."""
        return known_as(str(path), (entry.model for entry in self.board.entries())) or path.as_posix()

    def score(self, spec: ModelSpec, name: str, *, wait: bool = True) -> Scored:
        """Score one model unless the board has it; without `wait`, "busy" if another process is scoring it."""
        with file_lock(self.state / _file_name(name), wait=wait) as mine:
            if not mine:
                return "busy"
            if self._is_on_board(spec, name):
                return "on board"
            log.info("%s: scoring on %s", name, ", ".join(task.name for task in self.tasks))
            with self.timed(f"score {name}"), self.host.asked() if self.server is None else self.server.asked():
                evaluation = evaluate(
                    self._reach(spec),
                    self.tasks,
                    self.judge,
                    self.settings,
                    engine=self._asked_of(spec),
                    name=name,
                    ledger=None if self.server is None else self.server.ledger,
                    load=self.host.load,
                )
            self.board.add(evaluation.entries, evaluation.samples)
            return "scored"

    def drop(self) -> None:
        """Let go of the model in memory, and end the server, unless that is to be kept: training needs the memory."""
        self.host.drop()
        if self.server is None or not self.server.settings.keep or not self.server.is_running:
            end_servers()

    def _reach(self, spec: ModelSpec) -> ModelSpec:
        make_room_for(self.judge, self.host.drop)
        if self.server is not None:
            return self.server.reach(as_asked(spec, self.settings.protocol), self.adapters())
        if not self._engine_for(spec).is_served:
            end_servers()  # a judge's, which has the memory that this model needs
        return spec

    def _engine_for(self, spec: ModelSpec) -> EngineConfig:
        return self.engine if self.server is not None else self.host.choose(self.engine, spec)

    def find_lost(self, spec: ModelSpec, name: str) -> str:
        """Why a scored model is not done: answers that failed or got no rating; "" if it is done."""
        if self._is_on_board(spec, name):
            return ""
        return ", ".join(
            f"{entry.task}: {lost_in_words(entry)}"
            for entry in self.board.measured(self.settings.limit)
            if entry.model == name and entry.headline and entry.failed + entry.unscored
        )

    def _asked_of(self, spec: ModelSpec) -> EngineConfig:
        return with_seed(self._engine_for(spec), self.settings, served=self.server is not None)

    def _is_on_board(self, spec: ModelSpec, name: str) -> bool:
        if self.server is not None:
            spec = replace(spec, digests=known_of(spec, self.server.settings))
        return on_board(self.board, spec, name, self.tasks, self.judge, self.settings, self._asked_of(spec))


def describe_error(error: Exception, characters: int = 300) -> str:
    """An error of any kind in one line: its class and its message."""
    return f"{type(error).__name__}: {one_line(error)[:characters]}"


def _file_name(name: str) -> str:
    return short_name(re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(Path(name).parts[-2:])).strip(".") or "model")


def score_checkpoint(
    found: FoundCheckpoint, name: str, scoring: Scoring, attempts: "Attempts"
) -> Scored | Literal["failed"]:
    """Score one checkpoint. Any error is counted as a failed attempt, since the next one may go well."""
    try:
        spec = scoring.fetch(found.path)
        done = scoring.score(spec, name, wait=False)
        why = scoring.find_lost(spec, name) if done == "scored" else ""
    except SettingError:
        raise  # it would not act on the next one either
    except Exception as error:  # memory, networks and disks come and go; the watcher goes on
        scoring.host.drop()
        if not found.path.exists():
            log.info("%s: gone before it was scored; let the trainer keep more checkpoints", found.path)
            return "failed"
        why = describe_error(error)
    else:
        if not why:
            attempts.clear(found.path)
            return done
    count = attempts.count(found.path, why)
    log.info("%s: attempt %d of %d failed (%s)", found.path, count, attempts.most, why)
    return "failed"


class Attempts:
    """How often each checkpoint's scoring has failed: one file a checkpoint, ignored once its weights are others, or
    what the user allows of it (`allowed`) is."""

    def __init__(self, folder: Path, most: int, backoff: float, allowed: str = "") -> None:
        self.folder, self.most, self.backoff, self.allowed = folder, most, backoff, allowed

    def next_pause(self, path: Path) -> tuple[float | None, str]:
        """Seconds to wait before the next attempt, None if there is none left; and why the latest one failed."""
        held = self._read(path)
        if held is None:
            return 0.0, ""
        count, why, at = held
        if count >= self.most:
            return None, why
        return max(0.0, at + self.backoff * 2 ** (count - 1) - time.time()), why

    def count(self, path: Path, why: str) -> int:
        """Note one more failure; how many there are."""
        held = self._read(path)
        count = 1 + (held[0] if held else 0)
        note = {"digest": self._digest(path), "attempts": count, "error": why, "at": time.time()}
        atomic_write_text(self._file(path), json.dumps(note, indent=1))
        return count

    def clear(self, path: Path) -> None:
        """Forget the failures of a checkpoint that was scored."""
        self._file(path).unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[int, str, float] | None:
        try:
            note = parse_json(self._file(path).read_text(encoding="utf-8"))
            if note["digest"] != self._digest(path):
                return None
            return int(note["attempts"]), str(note["error"]), float(note["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _file(self, path: Path) -> Path:
        return self.folder / f"{_file_name(path.as_posix())}.json"

    def _digest(self, path: Path) -> str:
        """Of the checkpoint's own files, so that a base that can't be found does not hide that it is the same."""
        return identity_of_folder(path) + self.allowed
