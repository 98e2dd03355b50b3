"""Which of a training's checkpoints a watcher scores: as many as its recipe, or the user, says; else all.

share = WatchedShare(folder, 5)
share.of(complete)                  # those of these checkpoints that are among the five
share.planned(complete)             # their steps in all; None: all checkpoints, or not known yet
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.runs.run_folder import CLAIM
from support.errors import SettingError
from support.parsing import parse_object
from trainers.config.training import Training
from trainers.training.checkpoints import STATE, STOPPED, FoundCheckpoint, evenly_spaced, saved_at, saved_every


class WatchedShare:
    """The checkpoints of one folder that are scored: the last one of the training always."""

    def __init__(self, folder: Path, count: int | None = None) -> None:
        self.folder, self.given = folder, count
        self._steps: dict[int, list[int]] = {}

    def of(self, found: Sequence[FoundCheckpoint]) -> list[FoundCheckpoint]:
        """Those that are scored; SettingError where a number of checkpoints was asked for, and nothing says how many
        there will be."""
        ended = (self.folder / STOPPED).exists()  # its last one is the last there is
        return [
            one
            for one in found
            if (steps := self._find_steps(one)) is None or one.step in steps or one.last or (ended and one is found[-1])
        ]

    def planned(self, found: Sequence[FoundCheckpoint]) -> list[int] | None:
        """The steps of all checkpoints of the training that are scored; None for all, or before one is there."""
        return self._find_steps(found[-1]) if found else None

    def _find_steps(self, one: FoundCheckpoint) -> list[int] | None:
        training = self._read_training()
        count = self.given or (training.score_checkpoints if training is not None else None)
        if count is None:
            return None
        if one.of is not None and one.of not in self._steps:
            saved = saved_at(one.of, training) if training is not None else _read_saves(one)
            if saved is not None:
                self._steps[one.of] = evenly_spaced(saved, count)
        if one.of is None or one.of not in self._steps:
            raise SettingError(
                f"--score-checkpoints {count}: can't act on {self.folder}: {one.path.name} does not say "
                "which checkpoints its training saves; leave it out, and all are scored"
            )
        return self._steps[one.of]

    def _read_training(self) -> Training | None:
        """[training] of the recipe of a run of ours; None for other folders."""
        try:
            return Training.model_validate(parse_object((self.folder / CLAIM).read_bytes())["recipe"]["training"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None


def _read_saves(one: FoundCheckpoint) -> list[int] | None:
    """The steps at which transformers' Trainer saves, as its state says; None if it doesn't."""
    try:
        every = parse_object((one.path / STATE).read_bytes()).get("save_steps")
    except (OSError, ValueError):
        return None
    if one.of is None or isinstance(every, bool) or not isinstance(every, int) or every < 1:
        return None
    saved = saved_every(every, one.of)
    return saved if one.step in saved else None  # of one that saves at the end of each epoch, say
