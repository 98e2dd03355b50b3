"""Scores every checkpoint of a training run once it is completely written: beside the training, or between its saves.

    scoring = Scoring(board=Board(folder / "board"), tasks=tasks, judge=judge, state=folder / "watch")
    watch(folder, scoring)                    # until interrupted; `once=True` for cron; `until_done=True` to end with the training

A checkpoint of ours is whole once `checkpoint.json` is in it. One of transformers' Trainer is whole when its weights
and `trainer_state.json` are there, every safetensors file is as long as its header says, and nothing in the folder has
changed for a while.

What is on the board is done; all else can be interrupted at any moment and is done by the next call. A scoring that
fails is never taken for one that was done: it is tried again, later each time, and given up after some attempts, until
the weights change. It holds up no other checkpoint. Several watchers may share the work: whoever has a checkpoint's
lock scores it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.runs.scoring_queue import Attempts, Done, Scoring, score_one
from trainers.training.checkpoints import FoundCheckpoint, QuietPeriod, find_complete_checkpoints, traces


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a watcher did and left."""

    found: list[FoundCheckpoint]
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

    `once`: those there now; `until_done`: until training has written its last one and all are scored or given up.
    `poll`, `settle` and `backoff` are in seconds; after its nth failure a checkpoint waits for `backoff` * 2^(n-1).
    `shown` hears of each scoring how things stand then.
    """
    settled, state = QuietPeriod(settle), Attempts(scoring.state, attempts, backoff)
    finished: dict[Path, Any] = {}
    scored: list[Path] = []
    told: set[Path] = set()
    while True:
        whole, torn = find_complete_checkpoints(folder, settled)
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
            elif pause == 0 and (tried := score_one(found, names[found.path], scoring, state)) != "busy":
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
