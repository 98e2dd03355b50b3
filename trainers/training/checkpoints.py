"""Checkpoint folders: found, checked for completeness, listed in order."""

import json
import math
import re
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.errors import InputError, one_line

if TYPE_CHECKING:
    from trainers.config.training import Training

NOTE: Final = "checkpoint.json"
STATE: Final = "trainer_state.json"
OURS: Final = ("run.json", "log.jsonl")
"""Files that only runs of this package have, whose checkpoints get a note."""
TOKENS: Final = "tokens"
"""Key of the note: by which rule answers became tokens (`trainers.data.chat.TOKENS_VERSION`); none: by TRL's."""
UNCHANGED: Final = "unchanged"
"""Key of the note: true for a checkpoint whose weights are those that training began with."""
STOPPED: Final = "stopped.json"
"""File of a run that was ended before its last step on purpose."""


@dataclass(frozen=True, kw_only=True)
class FoundCheckpoint:
    """A complete checkpoint."""

    path: Path
    step: int
    of: int | None
    """Steps of the whole training, if the folder records them."""

    @property
    def last(self) -> bool:
        """True if training ends with it."""
        return self.of is not None and self.step >= self.of


class QuietPeriod:
    """True for folders unchanged for `seconds`, by their files' times or (clocks may differ) since first seen so."""

    def __init__(
        self, seconds: float, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.wall, self.clock = seconds, wall, clock
        self._seen: dict[Path, tuple[Any, float]] = {}

    def __call__(self, folder: Path) -> bool:
        """True if nothing in it has changed for long enough."""
        files = traces(folder)
        if not files:
            return False
        if self._seen.get(folder, (None, 0.0))[0] != files:
            self._seen[folder] = (files, self.clock())
        newest = max(changed for _, _, changed in files) / 1e9
        return self.wall() - newest >= self.seconds or self.clock() - self._seen[folder][1] >= self.seconds


def traces(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time (ns) of a folder's files, without files that are removed meanwhile."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def find_complete_checkpoints(
    folder: Path, settled: QuietPeriod | None = None, *, noted: bool = False
) -> tuple[list[FoundCheckpoint], dict[Path, str]]:
    """The complete checkpoints of a folder by step, and what the others lack.

    Checkpoints of this package have a note (`noted`: in any folder). Those of other trainers are complete once their
    weights and state are, and nothing has changed for `settled` (None: no time).
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    numbered = [
        (int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    noted = (
        noted or any((folder / name).exists() for name in OURS) or any((path / NOTE).exists() for _, path in numbered)
    )
    complete, incomplete = [], {}
    for step, path in sorted(numbered):
        try:
            of = _check_ours(path) if noted else _check_another_trainers(path, step, settled or QuietPeriod(0))
        except (_Incomplete, OSError, ValueError) as error:
            incomplete[path] = str(error)
        else:
            complete.append(FoundCheckpoint(path=path, step=step, of=of))
    return complete, incomplete


STATES: Final = ("optimizer*.pt", "optimizer*.bin", "scheduler.pt", "rng_state*.pth", "scaler.pt")
"""Files of torch's in which a checkpoint keeps the state of its training."""
TRAINABLE: Final = "trainable"
"""Folder of a checkpoint with the adapter as it is trained, where that is saved in another form."""
READ_IN_FULL: Final = 64 << 20
"""Bytes up to which a file of state is read to see whether it is whole."""


class _Incomplete(Exception):
    """What a checkpoint lacks."""


def _check_ours(path: Path) -> int | None:
    """Steps of the whole training, if the note has them; _Incomplete."""
    if not (path / NOTE).exists():
        raise _Incomplete(f"no {NOTE} yet")
    _check_weights(path)
    steps = _read_object(path / NOTE).get("steps")
    return steps if isinstance(steps, int) else None


def read_note(checkpoint: Path) -> dict[str, Any]:
    """The note of a checkpoint; an empty one where it has none that can be read."""
    try:
        return _read_object(checkpoint / NOTE)
    except (_Incomplete, OSError, ValueError):
        return {}


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; _Incomplete for one that holds none."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _Incomplete(f"{path.name} is torn ({path.stat().st_size} bytes; {one_line(error)})") from None
    if not isinstance(found, dict):
        raise _Incomplete(f"{path.name} holds no JSON object")
    return found


def _check_another_trainers(path: Path, step: int, settled: QuietPeriod) -> int | None:
    """Steps of the whole training, if the state has them; _Incomplete."""
    _check_weights(path)
    if not (path / STATE).exists():
        raise _Incomplete(f"no {STATE} yet")
    state = _read_object(path / STATE)
    if state.get("global_step") != step:
        raise _Incomplete(f"{STATE} is of step {state.get('global_step')}")
    if not settled(path):
        raise _Incomplete("written to a moment ago")
    return state["max_steps"] if isinstance(state.get("max_steps"), int) else None


def what_state_lacks(path: Path, step: int) -> str:
    """What is missing or torn of what a checkpoint's training goes on from, beside its weights; "" if it is whole."""
    try:
        held = _read_object(path / STATE).get("global_step")
        if held != step:
            return f"{STATE} is of step {held}"
        if (path / TRAINABLE).is_dir():
            _check_weights(path / TRAINABLE)
        by_deepspeed = any(path.glob("global_step*"))
        needed = ("rng_state*.pth",) if by_deepspeed else ("optimizer*", "scheduler.pt", "rng_state*.pth")
        for pattern in needed:
            if not any(path.glob(pattern)):
                return f"no {pattern.replace('*.pth', '.pth').replace('r*', 'r.pt')}"
        for file in sorted(each for pattern in STATES for each in path.glob(pattern)):
            _check_archive(file)
    except FileNotFoundError as error:
        return f"no {Path(error.filename).name}"
    except (_Incomplete, OSError, ValueError) as error:
        return str(error)
    return ""


def _check_archive(file: Path) -> None:
    """_Incomplete for a file of torch's that was cut: its directory stands at its end. A small one is read in full."""
    try:
        with zipfile.ZipFile(file) as archive:
            torn = archive.testzip() if file.stat().st_size <= READ_IN_FULL else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise _Incomplete(f"{file.name} is torn ({file.stat().st_size} bytes; {error})") from None
    if torn is not None:
        raise _Incomplete(f"{file.name} is torn (in {torn})")


def what_weights_lack(folder: Path) -> str:
    """What is missing or torn of a folder's weights, in words; "" if they are whole, or not safetensors at all."""
    try:
        _check_weights(folder)
    except (_Incomplete, OSError, ValueError) as error:
        return "" if "are read, and here is a .bin" in str(error) else str(error)
    return ""


def _check_weights(path: Path) -> None:
    """_Incomplete unless all safetensors files of an adapter or a model exist, as long as their headers say."""
    stem = "adapter_model" if (path / "adapter_config.json").exists() else "model"
    index, names = path / f"{stem}.safetensors.index.json", [f"{stem}.safetensors"]
    if index.exists():
        weights = _read_object(index).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
            raise _Incomplete(f"{index.name} names no file of each weight")
        names = sorted(set(weights.values()))
    if any(Path(name).name != name for name in names):
        raise _Incomplete(f"{index.name} names files outside of the folder")
    if stem == "adapter_model":
        _read_object(path / "adapter_config.json")
    elif (path / "config.json").exists():
        _read_object(path / "config.json")
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
    """Bytes that a safetensors file must have by its header; None for an incomplete header."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if not 0 < size <= file.stat().st_size:
                return None
            header = json.loads(opened.read(size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, RecursionError):
        return None
    return 8 + size + max(ends, default=0)


def total_steps(rows: int, training: "Training") -> int:
    """Optimizer steps of the whole run."""
    return math.ceil(math.ceil(rows / training.batch_size) * training.epochs)


def saved_at(steps: int, training: "Training") -> list[int]:
    """The steps after which a run saves: every `save_steps`, or evenly spaced; always the last."""
    if training.save_steps is not None:
        return saved_every(training.save_steps, steps)
    count = min(training.checkpoints, steps)
    return [round(steps * (index + 1) / count) for index in range(count)]


def saved_every(count: int, steps: int) -> list[int]:
    """The steps after which a run saves that does so each `count` of them, and at its end."""
    return [*range(count, steps, count), steps]


def scored_at(steps: int, training: "Training") -> list[int]:
    """The steps of the checkpoints that a run scores: `score_checkpoints` of those saved, evenly spaced; always the
    last."""
    saved, count = saved_at(steps, training), training.score_checkpoints
    return saved if count is None else evenly_spaced(saved, count)


def evenly_spaced(saved: list[int], count: int) -> list[int]:
    """So many of these steps, evenly spaced, the last always; all where there are no more."""
    if count >= len(saved):
        return saved
    return [saved[round(len(saved) * (index + 1) / count) - 1] for index in range(count)]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights on disk after `step` optimizer steps."""

    path: Path
    step: int
    arm: str
    """ "dpo", or "sft" for the control."""


def find_checkpoints(out: Path, arm: str) -> list[Checkpoint]:
    """The complete checkpoints that an arm has written to a folder, first to last."""
    complete = find_complete_checkpoints(out, noted=True)[0] if out.is_dir() else []
    return [Checkpoint(path=found.path, step=found.step, arm=arm) for found in complete]
