"""Scores every checkpoint of a training run once it is completely written: beside the training, or between its saves.

    scoring = Scoring(board=Board(folder / "board"), tasks=tasks, judge=judge, state=folder / "watch")
    watch(folder, scoring)                                  # until interrupted
    watch(folder, scoring, WatchSettings(once=True))        # for cron; until_done=True: end with the training

A checkpoint of ours is complete once `checkpoint.json` is in it. One of transformers' Trainer is complete when its
weights and `trainer_state.json` are there, every safetensors file is as long as its header says, and nothing in the
folder has changed for a while.

What is on the board is done; all else can be interrupted at any moment and is done by the next call. A scoring that
fails is tried again, later each time, and given up after some attempts, until the weights change. It delays no other
checkpoint. Several watchers may share the work: whoever has a checkpoint's lock scores it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.runs.scoring_queue import Attempts, Scoring, score_checkpoint
from harness.runs.watched_share import WatchedShare
from support.errors import SettingError
from support.progress import doing
from trainers.training.checkpoints import FoundCheckpoint, QuietPeriod, find_complete_checkpoints, traces

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How long to watch, and how patiently."""

    once: bool = False
    """Score the checkpoints that exist now, and end."""
    until_done: bool = False
    """End once training has written its last checkpoint and all are scored or given up."""
    poll: float = 30.0
    """Seconds between two searches for checkpoints."""
    settle: float = 10.0
    """Seconds without a change before another trainer's checkpoint is complete."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoints and their base."""
    model_base: str | None = None
    """Model that the adapters go on, in place of the one that their files name: a name, a folder or a hub id."""
    score_checkpoints: int | None = None
    """Score so many of the training's checkpoints, evenly spaced, the last always; default: as its recipe says, else
    all."""
    attempts: int = 3
    """How often a checkpoint is tried before it is given up."""
    backoff: float = 60.0
    """Seconds; after its nth failure a checkpoint waits for backoff * 2^(n-1)."""

    def __post_init__(self) -> None:
        for name, least in (("poll", 0.0), ("settle", 0.0), ("attempts", 1), ("score_checkpoints", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a watcher did and left."""

    found: list[FoundCheckpoint]
    """The complete checkpoints that are to be scored, by step."""
    names: Mapping[Path, str]
    """What the board calls them."""
    scored: list[Path]
    """By this call, in the order in which they were scored."""
    failed: Mapping[Path, str]
    """Not scored, and why the latest attempt failed; the next call tries those that have attempts left."""
    incomplete: Mapping[Path, str]
    """Not complete, and what they lack."""
    done: bool
    """True if the last checkpoint of the training is there and every one is scored."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "checkpoints": [{"model": self.names[found.path], "step": found.step} for found in self.found],
            "scored": [path.as_posix() for path in self.scored],
            "failed": {path.as_posix(): why for path, why in self.failed.items()},
            "not whole": {path.as_posix(): why for path, why in self.incomplete.items()},
            "done": self.done,
        }


def watch(
    folder: Path,
    scoring: Scoring,
    settings: WatchSettings | None = None,
    *,
    shown: Callable[[Watched], object] = lambda watched: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Score the checkpoints of `folder`; of those that wait always the one with the fewest steps.

    `shown` is called after each scoring with the state then.
    """
    watcher = _Watcher(folder, scoring, settings or WatchSettings())
    while True:
        tried, watched = watcher.score_next()
        if tried == "scored":
            shown(watched)
        if tried != "busy":
            continue
        if watcher.is_over(watched):
            return watched
        with doing(watcher.waits_for(watched)):
            sleep(watcher.settings.poll)


class _Watcher:
    """The state of one watcher."""

    def __init__(self, folder: Path, scoring: Scoring, settings: WatchSettings) -> None:
        self.folder, self.scoring, self.settings = folder, scoring, settings
        self.settled = QuietPeriod(settings.settle)
        self.share = WatchedShare(folder, settings.score_checkpoints)
        self.attempts = Attempts(scoring.state, settings.attempts, settings.backoff, scoring.allowed)
        self.finished: dict[Path, Any] = {}
        """Path -> its files as they were when it was scored."""
        self.scored: list[Path] = []
        self.given_up: set[Path] = set()

    def score_next(self) -> tuple[str, Watched]:
        """Score the first checkpoint that can be tried now: "scored", "on board" or "failed"; "busy" if there is none.

        Only one, since what is written meanwhile may come before the next.
        """
        complete, incomplete = find_complete_checkpoints(self.folder, self.settled)
        complete = self.share.of(complete)
        names = {found.path: self.scoring.name_of(found.path) for found in complete}
        waiting = [found for found in complete if self.finished.get(found.path) != traces(found.path)]
        failed: dict[Path, str] = {}
        tried = "busy"
        for found in waiting:
            pause, why = self.attempts.next_pause(found.path)
            if why:
                failed[found.path] = why
            if pause is None:
                self._give_up(found.path, why)
            else:
                self.given_up.discard(found.path)
            if (
                pause == 0
                and (tried := score_checkpoint(found, names[found.path], self.scoring, self.attempts)) != "busy"
            ):
                break
        if tried in ("scored", "on board"):
            self.finished[found.path] = traces(found.path)
        if tried == "scored":
            self.scored.append(found.path)
            failed.pop(found.path, None)
        at_the_end = any(found.last for found in complete) and not incomplete
        return tried, Watched(
            found=complete,
            names=names,
            scored=list(self.scored),
            failed=failed,
            incomplete=incomplete,
            done=at_the_end and all(found.path in self.finished for found in waiting),
        )

    def waits_for(self, watched: Watched) -> str:
        """What it waits for, in words."""
        parts = [f"{len(self.scored)} scored"]
        again = len(watched.failed.keys() - self.given_up)
        parts += [f"{again} failed and tried again later"] if again else []
        parts += [f"{len(watched.incomplete)} not complete yet"] if watched.incomplete else []
        how = f"{', '.join(parts)}; looking every {self.settings.poll:g} s"
        return f"waiting for the next checkpoint in {self.folder} ({how})"

    def is_over(self, watched: Watched) -> bool:
        """True if nothing is left to do for this call."""
        if self.settings.once:
            return True
        at_the_end = any(found.last for found in watched.found) and not watched.incomplete
        waiting = [found.path for found in watched.found if self.finished.get(found.path) != traces(found.path)]
        return self.settings.until_done and at_the_end and all(path in self.given_up for path in waiting)

    def _give_up(self, path: Path, why: str) -> None:
        if path not in self.given_up:
            self.given_up.add(path)
            text = "%s: given up after %d attempts, until its weights change (%s)"
            log.info(text, path, self.settings.attempts, why)
