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

from leaderboards.board.board import Board, newest
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


def _forget_sequences(board: Board) -> None:
    """Make the files those of an earlier version, which did not number runs."""
    for path in board.folder.glob("*.json"):
        data = json.loads(path.read_text())
        for entry in data["entries"]:
            del entry["sequence"]
        path.write_text(json.dumps(data))


def test_entries_come_in_the_order_in_which_runs_were_added(board: Board, make_entry: MakeEntry) -> None:
    dates = {"z": "2026-03-01T00:00:00+00:00", "b": "2031-01-01T00:00:00Z", "a": "2026-01-01T00:00:00Z"}
    added = [make_entry(run=run, created=created) for run, created in dates.items()]
    for entry in added:
        board.add([entry], [])
    assert board.entries() == added
    assert [entry.sequence for entry in board.entries()] == [1, 2, 3]
    board.add(added[:1], [])  # the same again does nothing
    assert [entry.sequence for entry in board.entries()] == [1, 2, 3]


def test_runs_that_were_not_numbered_come_oldest_first(board: Board, make_entry: MakeEntry) -> None:
    late = make_entry(run="a", created="2026-03-01T00:00:00+00:00")
    early = make_entry(run="z", created="2026-01-01T00:00:00Z")
    middle = [make_entry(run=run, created="2026-02-01T00:00:00.5+00:00") for run in ("b", "c")]
    for entry in (late, middle[1], early, middle[0]):
        board.add([entry], [])
    _forget_sequences(board)
    assert board.entries() == [early, *middle, late]
    board.add([make_entry(run="last", created="2025-01-01T00:00:00Z")], [])
    assert [entry.run for entry in board.entries()] == ["z", "b", "c", "a", "last"]


@pytest.mark.parametrize("numbered", (True, False))
@pytest.mark.parametrize("same_weights", (True, False))
def test_a_date_in_the_future_hides_no_other_run(
    board: Board, make_entry: MakeEntry, numbered: bool, same_weights: bool
) -> None:
    ahead = make_entry(run="ahead", value=0.0, created="2999-01-01T00:00:00Z", provenance={"weights": "w1"})
    weights = "w1" if same_weights else "w2"
    right = make_entry(run="right", value=12.5, created="2026-01-01T00:00:00Z", provenance={"weights": weights})
    board.add([ahead], [])
    board.add([right], [])
    if not numbered:
        _forget_sequences(board)
    assert [entry.value for entry in board.current()] == [12.5]
    assert [entry.run for entry in board.entries() if entry.in_future] == ["ahead"]
    assert newest([ahead, right]) == [right]


def test_the_newest_entry_of_a_key_stands(board: Board, make_entry: MakeEntry) -> None:
    first = make_entry(run="1", created="2026-01-01T00:00:00Z")
    others = [
        make_entry(run="2", created="2026-01-02T00:00:00Z", **change)
        for change in ({"task": "scenes_mme"}, {"metric": "CHAIR_i"}, {"version": "2"}, {"judge": "gpt"})
    ]
    other_model = make_entry(run="3", model="tuned", created="2026-01-03T00:00:00Z")
    again = make_entry(run="4", value=18.0, created="2026-01-04T00:00:00Z")
    for run in ([first], others, [other_model], [again]):
        board.add(run, [])
    assert board.current() == [again, *others, other_model]  # a model keeps its place when it is scored anew


def test_a_limited_run_neither_stands_nor_hides_a_whole_one(board: Board, make_entry: MakeEntry) -> None:
    whole = make_entry(run="1", created="2026-01-01T00:00:00Z")
    limited = make_entry(run="2", limit=8, samples=8, created="2026-01-02T00:00:00Z")
    board.add([whole], [])
    board.add([limited], [])
    assert board.current() == [whole]
    assert board.current(partial=True) == [limited]


def test_a_run_on_data_that_lack_rows_does_not_stand(board: Board, make_entry: MakeEntry) -> None:
    lacking = make_entry(provenance={"weights": "12ab", "rows": "partial"})
    board.add([lacking], [])
    assert board.current() == []
    assert board.current(partial=True) == [lacking]


def at(day: int, **changes: object) -> dict[str, object]:
    return {"run": f"run-{day}", "created": f"2026-01-0{day}T12:00:00Z", **changes}


def test_a_checkpoint_overwritten_in_place_never_stands_for_the_new_one(board: Board, make_entry: MakeEntry) -> None:
    old = make_entry(**at(1, provenance={"weights": "base", "adapter": "old"}))
    other = make_entry(**at(1, provenance={"weights": "base", "adapter": "old"}, task="pope"))
    new = make_entry(**at(2, provenance={"weights": "base", "adapter": "new"}))
    board.add([old, other], [])
    assert board.current() == [old, other]
    board.add([new], [])
    assert board.current() == [new]
    assert {(entry.task, entry.model) for entry in board.replaced} == {
        ("scenes_chair", "base (weights base+old)"),
        ("pope", "base (weights base+old)"),
    }
    assert newest([*board.entries()]) == [new]


def test_replaced_weights_can_be_shown_in_rows_of_their_own(board: Board, make_entry: MakeEntry) -> None:
    board.add(
        [
            make_entry(**at(1, value=10.0, low=None, high=None)),
            make_entry(**at(1, task="pope", value=20.0, low=None, high=None)),
        ],
        [],
    )
    board.add([make_entry(**at(2, provenance={"weights": "new"}, value=30.0, low=None, high=None))], [])
    shown = board.current(replaced=True)
    assert [(entry.model, entry.task, entry.value) for entry in shown] == [
        ("base", "scenes_chair", 30.0),
        ("base (weights sha256:12ab)", "scenes_chair", 10.0),
        ("base (weights sha256:12ab)", "pope", 20.0),
    ]
    assert newest(shown) == shown  # whoever shows them takes the newest again
    assert board.replaced == []


def test_even_a_limited_run_of_new_weights_ends_the_standing_of_the_old(board: Board, make_entry: MakeEntry) -> None:
    board.add([make_entry(**at(1))], [])
    board.add([make_entry(**at(2, provenance={"weights": "new"}, limit=8, samples=8))], [])
    assert board.current() == []
    assert [entry.run for entry in board.replaced] == ["run-1"]


def test_weights_that_are_put_back_stand_again(board: Board, make_entry: MakeEntry) -> None:
    for day, weights in enumerate(("old", "new", "old"), 1):
        board.add([make_entry(**at(day, provenance={"weights": weights}))], [])
    assert [entry.run for entry in board.current()] == ["run-3"]


def test_entries_that_do_not_know_their_weights_replace_nothing_and_stay(board: Board, make_entry: MakeEntry) -> None:
    known = make_entry(**at(1))
    imported = make_entry(**at(2, version="lm-eval 0.4.13/task 1", provenance={"imported": "lm-eval"}))
    board.add([known], [])
    board.add([imported], [])
    assert board.current() == [known, imported]
    assert board.replaced == []


def test_newest_does_not_depend_on_the_order_given(make_entry: MakeEntry) -> None:
    old, new = make_entry(run="1", created="2026-01-01T00:00:00Z"), make_entry(run="2", created="2026-01-02T00:00:00Z")
    assert newest([old, new]) == newest([new, old]) == [new]


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
    assert len(shown.splitlines()) == 52
    assert shown.count("19.3 [15.3, 23.0]") == 1000
