import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.import_results import read_results
from leaderboards.board.schemas import lacking
from support.errors import BoardError
from tests.leaderboards.makers import LM_EVAL, MakeEntry

LMMS_EVAL: dict[str, Any] = {
    "results": {
        "mme": {
            "alias": "mme",
            "mme_cognition_score,none": 348.2,
            "mme_cognition_score_stderr,none": "N/A",
            "mme_perception_score,none": 1510.7,
            "mme_perception_score_stderr,none": "N/A",
        },
        "llava_in_the_wild": {
            "alias": "llava_in_the_wild",
            "gpt_eval_llava_all,none": 64.1,
            "gpt_eval_llava_all_stderr,none": 1.0,
            "gpt_eval_llava_all_stderr_clustered,none": 2.0,
        },
        "vqav2_test": {"alias": "vqav2_test", "submission,none": [], "submission_stderr,none": []},
    },
    "group_subtasks": {"mme": []},
    "configs": {
        "llava_in_the_wild": {
            "task": "llava_in_the_wild",
            "metadata": {"version": 0.0, "gpt_eval_model_name": "gpt-4-0613"},
        }
    },
    "versions": {"mme": "Yaml", "llava_in_the_wild": 0.0},
    "n-shot": {"mme": 0, "llava_in_the_wild": 0},
    "higher_is_better": {"mme": {"mme_perception_score": True, "mme_cognition_score": True}},
    "n-samples": {"mme": {"original": 2374, "effective": 2374}, "llava_in_the_wild": {"original": 60, "effective": 60}},
    "config": {
        "model": "llava",
        "model_args": 'pretrained="liuhaotian/llava-v1.5-7b",conv_template=v1',
        "limit": -1,
        "model_num_parameters": 7063427072,
        "gen_kwargs": "",
    },
    "git_hash": "4eadb30",
    "date": "20260102_013000",
    "lmms_eval_version": "0.7.2",
    "task_hashes": {},
    "model_name": "",
    "total_evaluation_time_seconds": "243.4",
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: dict[str, Any], name: str = "results_2026-01-01T12-00-00.000000.json", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(data | changes), encoding="utf-8")
        return path

    return write


def by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {f"{entry.task} {entry.metric}": entry for entry in entries}


def test_lm_evals_results_become_entries(write: Callable[..., Path], tmp_path: Path) -> None:
    found = read_results(write(LM_EVAL))
    entries = by_name(found.entries)
    assert list(entries) == [
        "gsm8k exact_match,strict-match",
        "gsm8k exact_match,flexible-extract",
        "mmlu acc",
        "mmlu_a acc",
        "mmlu_b acc",
        "wiki word_perplexity",
    ]
    strict = entries["gsm8k exact_match,strict-match"]
    assert (strict.value, strict.model, strict.version) == (0.5, "org/model", "lm-eval 0.4.13/task 3.0/5-shot")
    assert (strict.low, strict.high) == pytest.approx((0.4804, 0.5196))
    assert (strict.samples, strict.scored, strict.limit, strict.headline) == (1319, 1319, None, True)
    assert strict.created == "2026-01-01T12:00:00+00:00"
    assert strict.provenance["model revision"] == "abc"
    assert strict.provenance["task hash"] == "feed"
    assert not entries["gsm8k exact_match,flexible-extract"].headline
    assert entries["gsm8k exact_match,flexible-extract"].low is None
    assert (entries["mmlu_b acc"].value, entries["mmlu_b acc"].low) == (None, None)
    assert entries["mmlu_b acc"].provenance["direction"].startswith("not stated")
    assert (entries["mmlu acc"].samples, entries["mmlu acc"].seconds) == (300, 300.0)
    wiki = entries["wiki word_perplexity"]
    assert (wiki.higher_is_better, wiki.samples, wiki.unscored) == (False, 62, 2)
    assert all(lacking(entry) == [] for entry in found.entries)
    assert {entry.imported for entry in found.entries} == {"lm-eval"}
    assert found.left_out == []


def test_lmms_evals_results_become_entries(write: Callable[..., Path]) -> None:
    found = read_results(write(LMMS_EVAL, "20260102_013000_results.json"))
    entries = by_name(found.entries)
    assert list(entries) == [
        "mme mme_cognition_score",
        "mme mme_perception_score",
        "llava_in_the_wild gpt_eval_llava_all",
    ]
    assert entries["mme mme_perception_score"].value == 1510.7
    judged = entries["llava_in_the_wild gpt_eval_llava_all"]
    assert judged.judge == "gpt-4-0613"
    assert judged.parameters == 7063427072
    assert (judged.low, judged.high) == pytest.approx((60.18, 68.02))  # of the clustered error
    assert judged.version == "lmms-eval 0.7.2/task 0.0/0-shot"
    assert judged.model == "liuhaotian/llava-v1.5-7b"
    assert judged.created == "2026-01-01T17:30:00+00:00"  # local time of Singapore
    assert judged.limit is None  # -1 is none
    assert found.left_out == ["vqav2_test: submission: []"]


def test_lmms_evals_time_zone_is_heeded_where_it_is_written(write: Callable[..., Path]) -> None:
    config = LMMS_EVAL["config"] | {"resolved_cli_args": {"timezone": "UTC"}}
    path = write(LMMS_EVAL, "20260102_013000_results.json", config=config)
    assert read_results(path).entries[0].created == "2026-01-02T01:30:00+00:00"
    path = write(
        LMMS_EVAL, "20260102_013000_results.json", config=config | {"resolved_cli_args": {"timezone": "../../etc/Moon"}}
    )
    with pytest.raises(BoardError, match="no such time zone"):
        read_results(path)


@pytest.mark.parametrize(("limit", "asked"), ((60, 60), (0.5, 60), (1000, 62)))
def test_a_limited_import_is_partial(write: Callable[..., Path], limit: float, asked: int) -> None:
    found = by_name(read_results(write(LM_EVAL, config=LM_EVAL["config"] | {"limit": limit})).entries)
    wiki = found["wiki word_perplexity"]
    assert wiki.partial
    assert (wiki.limit, wiki.samples) == (asked, asked)
    assert found["mmlu acc"].partial  # a group of limited tasks


def test_an_import_is_idempotent_and_shares_no_column_with_measured_numbers(
    write: Callable[..., Path], tmp_path: Path, make_entry: MakeEntry
) -> None:
    from leaderboards.views.markdown_report import leaderboard

    board, path = Board(tmp_path / "board"), write(LMMS_EVAL, "20260102_013000_results.json")
    for _ in range(2):
        board.add(read_results(path).entries, [])
    board.add(
        [
            make_entry(
                model="liuhaotian/llava-v1.5-7b", task="mme", metric="mme_perception_score", unit="points", value=1500.0
            )
        ],
        [],
    )
    assert len(board.entries()) == 4
    header = leaderboard(board.current()).splitlines()[0]
    assert header.count("mme_perception_score") == 2
    rows = [line for line in leaderboard(board.current()).splitlines() if line.startswith("|")]
    assert len(rows) == 3  # one row: the same model by name


@pytest.mark.parametrize(
    ("data", "message"),
    (
        ([], "no results of lm-eval or lmms-eval"),
        ({"results": {}}, "no results of lm-eval or lmms-eval"),
        ({"results": 3}, "no results of lm-eval or lmms-eval"),
        ({"results": {"t": {"acc,none": 1}}, "date": 0}, "does not say which model"),
        ({"results": {"t": {"acc,none": 1}}, "model_name": "m"}, r"does not say when .* \(date is None\)"),
        ({"results": {"t": {"acc,none": 1}}, "model_name": "m", "date": "20261341_000000"}, "does not say when"),
        ({"results": {"t": {"acc,none": 1}}, "model_name": "m", "date": 1e300}, "does not say when"),
        (
            {"results": {"t": {"acc,none": "high"}, "u": 3}, "model_name": "m", "date": 0},
            "no numbers in its results: t: acc: 'high'; u: 3",
        ),
        ({"results": {"": {"acc,none": 1}}, "model_name": "m", "date": 0}, "task must not be empty"),
    ),
)
def test_a_file_that_is_no_result_is_refused_in_one_line(tmp_path: Path, data: object, message: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BoardError, match=message) as caught:
        read_results(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_torn_deep_and_absent_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"results": {')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("torn.json", "deep.json", "absent.json"):
        with pytest.raises(BoardError, match=name):
            read_results(tmp_path / name)


def test_what_a_file_does_not_say_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(
        json.dumps(
            {"results": {"t": {"acc": 0.5, "acc_stderr": 0.1}}, "model_configs": {"model": "llava", "limit": None}}
        )
    )
    (entry,) = read_results(path, model="mine", created="2024-03-01T00:00:00Z").entries
    assert (entry.model, entry.created, entry.version) == (
        "mine",
        "2024-03-01T00:00:00Z",
        "lmms-eval unknown/task unknown",
    )
    assert entry.value == 0.5
    assert entry.low == pytest.approx(0.304)
