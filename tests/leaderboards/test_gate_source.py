"""Where the gate's scores come from: boards, run folders, single files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.gate.result import GateResult
from leaderboards.gate.source import source
from leaderboards.statistics.resampling import CountsMetric
from support.errors import BoardError
from tests.leaderboards.makers import BETTER, LIKE_BASE, METRIC, TOLERANT, WORSE, gate, logs


def keep(folder: Path, entry: Entry, values: Sequence[int]) -> None:
    Board(folder).add([entry], logs(**{entry.run: values})(entry.run))


def test_a_board_a_run_folder_and_a_single_file_give_the_same(tmp_path: Path, old: Entry) -> None:
    keep(tmp_path / "x" / "board", old, LIKE_BASE)
    moved = tmp_path / "baseline.json"  # called as its owner likes
    moved.write_bytes((tmp_path / "x" / "board" / "old.json").read_bytes())
    moved.with_name("baseline.samples.parquet").write_bytes(
        (tmp_path / "x" / "board" / "old.samples.parquet").read_bytes()
    )
    sources = [
        source(path)
        for path in (tmp_path / "x" / "board", tmp_path / "x", tmp_path / "x" / "board" / "old.json", moved)
    ]
    assert all(found.entries == [old] for found in sources)
    assert all(len(found.samples("old")) == 60 for found in sources)


def test_a_run_that_kept_no_log_can_be_compared_by_tolerance_only(tmp_path: Path, old: Entry, new: Entry) -> None:
    Board(tmp_path).add([old], [])
    for found in (source(tmp_path), source(tmp_path / "old.json")):
        current = replace(new, value=21.0)
        result = gate(found.entries, current, found.samples, LIKE_BASE)
        assert result.errors[0].endswith("no tolerance to compare by")
        assert gate(found.entries, current, found.samples, LIKE_BASE, tolerances={"scenes_chair.CHAIR_s": 2.0}).passed


@pytest.mark.parametrize("metric", (METRIC, None))
@pytest.mark.parametrize("side", ("old", "new"))
def test_a_log_that_was_kept_and_is_missing_is_an_error_and_no_tolerance_makes_up_for_it(
    tmp_path: Path, old: Entry, new: Entry, side: str, metric: CountsMetric | None
) -> None:
    folders = {}
    for one in (old, replace(new, value=20.0)):
        folders[one.run] = tmp_path / one.run / "board"
        keep(folders[one.run], one, LIKE_BASE)
    (folders[side] / f"{side}.samples.parquet").unlink()

    def result(before: Path, after: Path) -> GateResult:
        sides = source(before), source(after)
        return gate(
            sides[0].entries,
            sides[1].entries,
            sides[0].samples,
            sides[1].samples,
            metric=metric,
            tolerances={"scenes_chair.CHAIR_s": 9.0},
        )

    found = result(folders["old"], folders["new"])
    assert not found.passed
    assert found.errors[0] == f"base scenes_chair CHAIR_s: run {side}: its sample log {side}.samples.parquet is missing"
    single = result(folders["old"] / "old.json", folders["new"] / "new.json")
    assert f"{side}.json: its sample log is missing beside it: no {side}.samples.parquet" in single.errors[0]


def test_a_log_of_another_run_is_an_error(tmp_path: Path, old: Entry, new: Entry) -> None:
    keep(tmp_path, old, LIKE_BASE)
    keep(tmp_path / "other", old, BETTER)
    (tmp_path / "old.samples.parquet").write_bytes((tmp_path / "other" / "old.samples.parquet").read_bytes())
    found = source(tmp_path / "old.json")
    result = gate(found.entries, replace(new, value=20.0), found.samples, LIKE_BASE)
    assert "not the samples that old.json was computed from" in result.errors[0]


def test_runs_cut_by_a_limit_count_when_asked_for(tmp_path: Path, old: Entry) -> None:
    cut = replace(old, limit=60)
    keep(tmp_path, cut, LIKE_BASE)
    assert (source(tmp_path).entries, source(tmp_path, partial=True).entries) == ([], [cut])
    assert source(tmp_path / "old.json").entries == [cut]


def test_a_file_whose_samples_are_of_another_run_is_an_error_though_its_digest_fits(
    tmp_path: Path, old: Entry, new: Entry
) -> None:
    keep(tmp_path, old, LIKE_BASE)
    keep(tmp_path, new, WORSE)
    data = (tmp_path / "old.samples.parquet").read_bytes()
    (tmp_path / "new.samples.parquet").write_bytes(data)
    edited = json.loads((tmp_path / "new.json").read_text()) | {
        "samples": json.loads((tmp_path / "old.json").read_text())["samples"]
    }
    (tmp_path / "new.json").write_text(json.dumps(edited))
    for found in (source(tmp_path), source(tmp_path / "new.json")):
        result = gate(old, new, LIKE_BASE, found.samples, as_given=True, tolerances=TOLERANT)
        assert "new.samples.parquet: sample '0' of scenes_chair is of run 'old', not 'new'" in result.errors[0]


def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path, old: Entry) -> None:
    keep(tmp_path / "board", old, LIKE_BASE)
    whole = json.loads((tmp_path / "board" / "old.json").read_text())
    (tmp_path / "empty").mkdir()
    for name, data, words in (
        ("nowhere", None, "no such file or folder"),
        ("empty", None, "no board: there is no run's JSON file in it"),
        ("a.json", b"{", "no run of a board"),
        ("b.json", b"\xff\xfe", "no run of a board"),
        ("c.json", json.dumps(whole | {"schema": 99}).encode(), "schema must be"),
        ("d.json", json.dumps(whole | {"run": "another"}).encode(), "entry 0: run must be 'another', not 'old'"),
        ("e.json", json.dumps(whole | {"entries": 3}).encode(), "entries must be a list"),
        ("f.json", b"[" * 100_000, "no run of a board"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BoardError, match=words) as raised:
            source(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_what_newer_weights_left_without_a_score_is_an_error(tmp_path: Path, old: Entry, new: Entry) -> None:
    first = [replace(old, provenance={"weights": "1"}), replace(old, task="scenes_pope", provenance={"weights": "1"})]
    Board(tmp_path).add(first, [])
    later = replace(old, run="later", provenance={"weights": "2"}, created="2026-02-01T00:00:00+00:00")
    Board(tmp_path).add([later], [])
    found = source(tmp_path)
    assert ([one.run for one in found.entries], [one.task for one in found.replaced]) == (["later"], ["scenes_pope"])
    options: dict[str, Any] = {"tolerances": TOLERANT, "more": found}
    result = gate(found.entries, new, **options)
    assert result.errors == [
        "base scenes_pope CHAIR_s: the baseline's score is of weights 1, its newest run has others, or other settings"
    ]
    other = gate([replace(one, model="base-2") for one in found.entries], new, models=("base-2", "base"), **options)
    assert other.passed
