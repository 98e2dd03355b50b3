import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.board import Board
from leaderboards.board.entry import to_json
from support.errors import RunError
from tests.leaderboards.makers import MakeEntry, MakeSample


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board")


def test_a_board_that_was_never_written_is_empty(board: Board) -> None:
    assert board.entries() == []
    assert board.skipped == []


def test_what_is_added_is_read_back(board: Board, make_entry: MakeEntry, make_sample: MakeSample) -> None:
    entries = [make_entry(), make_entry(metric="coverage", headline=False)]
    samples = [
        make_sample(),
        make_sample(id="1", answer=None, records={}),
        make_sample(
            id="2",
            answer="naïve \u202e 图 \x00 'quoted'\n",
            reply="Rating: 4",
            records={"a": {"image": "i", "n": 0.1}, "b": {}},
        ),
    ]
    board.add(entries, samples)
    assert Board(board.folder).entries() == entries
    assert Board(board.folder).samples("run-1") == samples
    assert sorted(path.name for path in board.folder.iterdir()) == ["run-1.json", "run-1.samples.parquet"]


def test_a_run_without_samples_has_an_empty_log(board: Board, make_entry: MakeEntry) -> None:
    board.add([make_entry()], [])
    assert board.samples("run-1") == []


def test_half_a_surrogate_pair_in_a_reply_does_not_cost_the_log(
    board: Board, make_entry: MakeEntry, make_sample: MakeSample
) -> None:
    board.add([make_entry()], [make_sample(reply="good \ud83d!")])
    assert board.samples("run-1")[0].reply == "good ?!"


def test_records_that_are_not_json_are_refused_with_the_sample_named(
    board: Board, make_entry: MakeEntry, make_sample: MakeSample
) -> None:
    for bad in (float("nan"), object()):
        with pytest.raises(ValueError, match="sample '7' of scenes_chair: records must be JSON values"):
            board.add([make_entry()], [make_sample(id="7", records={"CHAIR_s": {"image": "i", "n": bad}})])
    assert board.entries() == []


def test_adding_the_same_again_does_nothing(board: Board, make_entry: MakeEntry, make_sample: MakeSample) -> None:
    board.add([make_entry()], [make_sample()])
    before = {path: path.stat().st_mtime_ns for path in board.folder.iterdir()}
    board.add([make_entry()], [make_sample()])
    assert {path: path.stat().st_mtime_ns for path in board.folder.iterdir()} == before


@pytest.mark.parametrize("changed", ("entry", "sample"))
def test_a_run_id_is_used_once(board: Board, make_entry: MakeEntry, make_sample: MakeSample, changed: str) -> None:
    board.add([make_entry()], [make_sample()])
    entry = make_entry(value=18.0) if changed == "entry" else make_entry()
    sample = make_sample(answer="other") if changed == "sample" else make_sample()
    with pytest.raises(FileExistsError, match=r"run-1\.json"):
        board.add([entry], [sample])
    assert board.entries() == [make_entry()]
    assert board.samples("run-1") == [make_sample()]


def test_a_run_is_of_one_id_and_one_model(board: Board, make_entry: MakeEntry, make_sample: MakeSample) -> None:
    for entries, samples, message in (
        ([], [], "at least one entry"),
        ([make_entry(), make_entry(run="run-2", metric="x")], [], "two runs: 'run-1' and 'run-2'"),
        ([make_entry(), make_entry(model="other")], [], "two models: 'base' and 'other'"),
        ([make_entry(), make_entry(value=1.0)], [], "two entries for scenes_chair CHAIR_s"),
        ([make_entry()], [make_sample(run="run-2")], "is of run 'run-2'"),
    ):
        with pytest.raises(ValueError, match=message):
            board.add(entries, samples)
    assert not board.folder.exists()


def test_what_is_not_a_run_is_skipped_and_named(board: Board, make_entry: MakeEntry) -> None:
    board.add([make_entry()], [])
    whole = (board.folder / "run-1.json").read_text()
    data = json.loads(whole)
    bad = to_json(make_entry(run="bad-entry")) | {"value": "high"}
    double = to_json(make_entry(run="double"))

    def of_two(change: dict[str, Any]) -> str:
        return json.dumps(data | {"run": "double", "entries": [double, double | change]})

    wrong = {
        "torn.json": (whole[: len(whole) // 2], ""),
        "empty.json": ("", ""),
        "binary.json": ("\x00\x01", ""),
        "list.json": ("[]", "must be a JSON object"),
        "deep.json": ("[" * 100_000, ""),
        "foreign.json": ('{"name": "package"}', "schema must be 1, not None"),
        "future.json": (json.dumps(data | {"schema": 2, "run": "future"}), "schema must be 1, not 2"),
        "renamed.json": (whole, "run must be the file's name, not 'run-1'"),
        "extra.json": (json.dumps(data | {"run": "extra", "x": 1}), "unknown key 'x'"),
        "nan.json": (whole.replace("19.3", "NaN").replace("run-1", "nan"), "entry 0: value must be a finite number"),
        "twice.json": (whole.replace('"run": "run-1"', '"run": "twice", "run": "twice"'), "key 'run' comes twice"),
        "bad-entry.json": (
            json.dumps(data | {"run": "bad-entry", "entries": [bad]}),
            "entry 0: value must be a finite number, not 'high'",
        ),
        "stranger.json": (json.dumps(data | {"run": "stranger"}), "entry 0: run must be 'stranger', not 'run-1'"),
        "none.json": (json.dumps(data | {"run": "none", "entries": []}), "no entries"),
        "double.json": (of_two({"value": 19.0}), "run double: two entries for scenes_chair CHAIR_s"),
        "models.json": (of_two({"model": "x"}).replace("double", "models"), "run models: two models: 'base' and 'x'"),
        "nolist.json": (json.dumps(data | {"run": "nolist", "entries": {}}), "entries must be a list"),
    }
    for name, (text, _) in wrong.items():
        (board.folder / name).write_text(text)
    (board.folder / "folder.json").mkdir()
    (board.folder / "README.md").write_text("not a run")
    assert board.entries() == [make_entry()]
    reasons = {path.name: reason for path, reason in board.skipped}
    assert reasons.keys() == {*wrong, "folder.json"}
    for name, (_, reason) in wrong.items():
        assert reason in reasons[name]
    board.entries()
    assert len(board.skipped) == len(reasons)  # counted anew at each reading


def test_leftovers_of_a_killed_writer_are_ignored_and_overwritten(
    board: Board, make_entry: MakeEntry, make_sample: MakeSample
) -> None:
    board.folder.mkdir()
    (board.folder / ".run-1.json.12ab.tmp").write_text("{")
    (board.folder / ".run-1.json").write_text("{")
    (board.folder / "run-1.samples.parquet").write_bytes(b"a log that never got its run")
    assert board.entries() == []
    assert board.skipped == []
    board.add([make_entry()], [make_sample()])
    assert board.samples("run-1") == [make_sample()]


def test_samples_of_another_run_are_not_taken_for_its_own(
    board: Board, make_entry: MakeEntry, make_sample: MakeSample
) -> None:
    board.add([make_entry()], [make_sample()])
    board.add([make_entry(run="run-2")], [make_sample(run="run-2", answer="other")])
    (board.folder / "run-2.samples.parquet").replace(board.folder / "run-1.samples.parquet")
    with pytest.raises(ValueError, match=r"run-1\.samples\.parquet: not the samples that run-1\.json"):
        board.samples("run-1")
    with pytest.raises(FileNotFoundError):
        board.samples("run-2")
    with pytest.raises(FileNotFoundError):
        board.samples("run-3")
    with pytest.raises(ValueError, match="run must be"):
        board.samples("../run-1")


@pytest.fixture(scope="module")
def ten_processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(10, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_ten_writers_at_once_lose_no_entry(
    board: Board, make_entry: MakeEntry, make_sample: MakeSample, ten_processes: ProcessPoolExecutor
) -> None:
    runs = [f"run-{number}" for number in range(40)]
    for job in [ten_processes.submit(board.add, [make_entry(run=run)], [make_sample(run=run)]) for run in runs]:
        job.result()
    assert {entry.run for entry in board.entries()} == set(runs)
    assert board.skipped == []
    assert all(board.samples(run) == [make_sample(run=run)] for run in runs)


def test_of_ten_writers_of_one_run_id_one_wins(
    board: Board, make_entry: MakeEntry, ten_processes: ProcessPoolExecutor
) -> None:
    entries = [make_entry(value=float(number), low=None, high=None) for number in range(10)]
    errors = [job.exception() for job in [ten_processes.submit(board.add, [entry], []) for entry in entries]]
    winners = [entry for entry, error in zip(entries, errors, strict=True) if error is None]
    assert board.entries() == winners
    assert len(winners) == 1
    assert all(isinstance(error, FileExistsError) for error in errors if error is not None)


WRITE_FOR_EVER = """
import itertools, json, sys
from dataclasses import replace
from pathlib import Path
from leaderboards.board.board import Board
from leaderboards.board.entry import from_json
from leaderboards.board.sample import Sample

entry = from_json(json.loads(sys.argv[2]), where="argument")
for number in itertools.count():
    run = f"{entry.run}-{number}"
    sample = dict(run=run, task="t", image="i", prompt="p", answer="a" * 500, records={}, reply=None)
    Board(Path(sys.argv[1])).add([replace(entry, run=run)], [Sample(id=str(i), **sample) for i in range(100)])
"""


def test_a_writer_killed_at_any_moment_leaves_a_readable_board(board: Board, make_entry: MakeEntry) -> None:
    for life in range(4):
        argument = json.dumps(to_json(make_entry(run=f"life{life}")))
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(board.folder), argument])
        deadline = time.monotonic() + 30
        while not list(board.folder.glob(f"life{life}-*.json")) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.007 * life)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        runs = [entry.run for entry in board.entries()]
        assert board.skipped == []
        assert any(run.startswith(f"life{life}-") for run in runs)
        assert all(len(board.samples(run)) == 100 for run in runs)


WRITE_ON_A_FULL_DISK = """
import json, resource, sys
from pathlib import Path
from leaderboards.board.board import Board
from leaderboards.board.entry import from_json

resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
try:
    Board(Path(sys.argv[1])).add([from_json(json.loads(sys.argv[2]), where="argument")], [])
except OSError:
    sys.exit(7)
"""


def test_a_disk_full_within_a_write_leaves_the_board_as_it_was(board: Board, make_entry: MakeEntry) -> None:
    board.add([make_entry()], [])
    before = list(board.folder.iterdir())
    arguments = [str(board.folder), json.dumps(to_json(make_entry(run="run-2")))]
    assert subprocess.run([sys.executable, "-c", WRITE_ON_A_FULL_DISK, *arguments], check=False).returncode == 7
    assert list(board.folder.iterdir()) == before
    assert board.entries() == [make_entry()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_run_that_does_not_fit_and_no_other(
    small_disk: Path, make_entry: MakeEntry, make_sample: MakeSample
) -> None:
    board = Board(small_disk)
    kept: list[str] = []

    def fill() -> None:
        for number in range(100):
            sample = make_sample(run=f"run-{number}", answer="".join(f"{word:x}" for word in range(3000)))
            board.add([make_entry(run=f"run-{number}")], [sample])
            kept.append(f"run-{number}")

    with pytest.raises(RunError, match="no space left on its disk"):
        fill()
    assert len(kept) > 1
    assert {entry.run for entry in board.entries()} == set(kept)
    assert board.skipped == []
    assert all(len(board.samples(run)) == 1 for run in kept)
    assert not list(small_disk.glob(".*"))


def test_a_file_system_without_links_keeps_runs_too(
    board: Board, make_entry: MakeEntry, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    board.add([make_entry()], [make_sample()])
    board.add([make_entry()], [make_sample()])
    assert board.entries() == [make_entry()]
    with pytest.raises(FileExistsError, match=r"run-1\.json"):
        board.add([make_entry(value=18.0)], [make_sample()])
    assert sorted(path.name for path in board.folder.iterdir()) == ["run-1.json", "run-1.samples.parquet"]


SHOW = """
import sys
from pathlib import Path
from leaderboards.board.board import Board
from leaderboards.views.markdown_report import leaderboard

print(leaderboard(Board(Path(sys.argv[1])).current()))
assert not {"torch", "transformers", "lm_eval", "pyarrow", "huggingface_hub"} & set(sys.modules)
"""


def test_a_board_of_many_models_and_tasks_is_shown_without_a_model_library(board: Board, make_entry: MakeEntry) -> None:
    for model in range(50):
        entries = [make_entry(run=f"run-{model}", model=f"model-{model}", task=f"task-{task}") for task in range(20)]
        board.add(entries, [])
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, str(board.folder)], capture_output=True, text=True, check=True
    ).stdout
    assert sum(line.startswith("|") for line in shown.splitlines()) == 52
    assert shown.count("19.3 [15.3, 23.0]") == 1000
