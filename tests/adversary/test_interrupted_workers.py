"""Ctrl-C and SIGTERM where several processes work: 130 and 143, at most one line, no process left; the same command
goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboards.board.board import Board
from tests.trainers.test_launched_training import RECIPE
from tests.trainers.training_runs import captions
from trainers.cluster.launch import beside_python
from trainers.data.pair_formats import write_pairs

MARK = "TEST_OF_WORKERS"
STOPPED = "harness: stopped; kept: "
Moment = Callable[[Path, str], bool]

DROPPED = """
import os, sys, time
from harness.cli import interrupts
from support.processes import ended_by_sigterm
interrupts.end_at_once()
interrupts.end_in_order()
def send():
    os.kill(os.getpid(), {number})
    for _ in range(100): pass
class Late:
    def __del__(self): send()
try:
    with ended_by_sigterm():
        {moment}
        time.sleep(30)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("sent", (signal.SIGINT, signal.SIGTERM))
@pytest.mark.parametrize("moment", ("os.register_at_fork(after_in_parent=send); os.fork() or os._exit(0)", "Late()"))
def test_a_signal_that_python_drops_ends_the_command(moment: str, sent: signal.Signals) -> None:
    """Handlers of a fork, which takes long in a large process, and destructors lose what a signal's handler raises."""
    code = DROPPED.format(number=int(sent), moment=moment)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (128 + sent, "")


def interrupted(
    words: list[str], folder: Path, sent: signal.Signals | None = None, moment: Moment | None = None
) -> tuple[int, str]:
    """Run a command, of which at a moment Ctrl-C reaches the whole group, or SIGTERM the first process alone: its exit
    code and what it printed. Nothing that it started may be left."""
    mark, log = f"{time.time_ns()}", folder / f"{time.time_ns()}.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", MARK: mark}
    with log.open("w") as output:
        child = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
    until = time.monotonic() + 240
    if sent is not None and moment is not None:
        while not moment(folder, log.read_text(errors="replace")):
            assert child.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < until
            time.sleep(0.02)
        os.killpg(child.pid, sent) if sent is signal.SIGINT else child.send_signal(sent)
    code = child.wait(timeout=240)
    until = time.monotonic() + 5
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    return code, log.read_text(errors="replace")


def marked(mark: str) -> list[int]:
    """Processes of this machine that have the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def has_launched(folder: Path, said: str) -> bool:
    return "processes; their log is in" in said


def trains(folder: Path, said: str) -> bool:
    return "12 pairs to train on" in said


@pytest.mark.slow
def test_training_in_two_processes_is_interrupted_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "images").mkdir()
    write_pairs(captions(tmp_path / "images", 12, "two-processes"), tmp_path / "pairs.jsonl")
    (tmp_path / "two.toml").write_text(RECIPE.format(pairs=tmp_path / "pairs.jsonl"))
    command = [str(beside_python("harness")), "train", "two.toml", "--gpus", "2", "--out", "two"]
    for moment in (has_launched, trains):
        for sent in (signal.SIGINT, signal.SIGTERM):
            code, said = interrupted(command, tmp_path, sent, moment)
            ours = [line for line in said.splitlines() if line.startswith("harness: ")]
            assert code in ((130,) if sent is signal.SIGINT else (143, -15)), said
            assert "Traceback" not in said
            assert len(ours) == (sent is signal.SIGINT)
    assert interrupted(command, tmp_path)[0] == 0
    assert (tmp_path / "two" / "checkpoint-6" / "checkpoint.json").exists()


@pytest.mark.slow
def test_scoring_by_two_processes_is_interrupted_and_goes_on_to_the_same_board(tmp_path: Path) -> None:
    """torchrun's own report, with a traceback of its own and code 1, is torchrun's."""
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "disturbed"
    run = [str(beside_python("torchrun")), "--standalone", "--nproc-per-node", "2", "--no-python"]
    run += [str(beside_python("harness")), "eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--limit", "40"]
    for place in (undisturbed, folder):
        place.mkdir()
    for sent in (signal.SIGINT, signal.SIGTERM):
        code, said = interrupted(run, folder, sent, lambda _, said: "scoring on" in said)
        assert code != 0
        assert said.count("Traceback") <= 1
        assert not re.search(r'File ".*/(harness|support|tasks)/', said)
        assert said.count(STOPPED) == (sent is signal.SIGINT)
    boards = []
    for place in (undisturbed, folder):
        assert interrupted(run, place)[0] == 0
        entries = Board(place / "runs" / "eval" / "board").current(partial=True)
        boards.append({(e.task, e.metric): (e.value, e.low, e.high, e.samples) for e in entries})
    assert boards[0] == boards[1] != {}
