import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from leaderboards.board.board import Board
from leaderboards.board.entry import Entry, lacking
from leaderboards.board.export_results import (
    folders_of,
    hub_files,
    hub_results,
    lm_eval_files,
    lm_eval_results,
    model_index,
    sanitized,
    write_files,
)
from leaderboards.board.import_results import read_results
from support.errors import BoardError
from tests.leaderboards.makers import MakeEntry

LM_EVAL: dict[str, Any] = {
    "results": {
        "gsm8k": {
            "name": "gsm8k",
            "alias": "gsm8k",
            "sample_len": 1319,
            "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": 0.01,
            "exact_match,flexible-extract": 0.6,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "mmlu": {
            "name": "mmlu",
            "alias": "mmlu",
            "sample_count": {"acc,none": 300},
            "acc,none": 0.4,
            "acc_stderr,none": 0.02,
        },
        "mmlu_a": {"alias": " - a", "sample_len": 100, "acc,none": 0.4, "acc_stderr,none": 0.05},
        "mmlu_b": {"alias": " - b", "sample_len": 200, "acc,none": float("nan"), "acc_stderr,none": float("nan")},
        "wiki": {"alias": "wiki", "sample_len": 60, "word_perplexity,none": 11.5, "word_perplexity_stderr,none": "N/A"},
    },
    "group_subtasks": {"mmlu": ["mmlu_a", "mmlu_b"], "gsm8k": [], "wiki": []},
    "configs": {"gsm8k": {"task": "gsm8k", "num_fewshot": 5}, "wiki": {"task": "wiki"}},
    "versions": {"gsm8k": 3.0, "mmlu": 2, "mmlu_a": 1.0, "mmlu_b": 1.0, "wiki": 2.0},
    "n-shot": {"gsm8k": 5, "mmlu_a": 0, "mmlu_b": 0, "wiki": 0},
    "higher_is_better": {"gsm8k": {"exact_match": True}, "mmlu_a": {"acc": True}, "wiki": {"word_perplexity": False}},
    "n-samples": {
        "gsm8k": {"original": 1319, "effective": 1319},
        "mmlu_a": {"original": 100, "effective": 100},
        "mmlu_b": {"original": 200, "effective": 200},
        "wiki": {"original": 62, "effective": 60},
    },
    "config": {
        "model": "hf",
        "model_args": {"pretrained": "org/model"},
        "model_sha": "abc",
        "limit": None,
        "device": "cuda:0",
        "random_seed": 0,
    },
    "git_hash": "12ab34c",
    "date": 1767268800.5,
    "lm_eval_version": "0.4.13",
    "transformers_version": "5.23.0",
    "task_hashes": {"gsm8k": "feed"},
    "model_source": "hf",
    "model_name": "org/model",
    "model_name_sanitized": "org__model",
    "chat_template_sha": None,
    "total_evaluation_time_seconds": "1679.0",
}

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
    assert len(leaderboard(board.current()).splitlines()) == 3  # one row: the same model by name


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


def write_lm_eval(folder: Path, entries: list[Entry]) -> Path:
    """The file of the only model."""
    (path,) = write_files(folder, lm_eval_files(entries).files)
    return path


@pytest.fixture
def measured(make_entry: MakeEntry) -> list[Entry]:
    facts = {
        "weights": "12ab",
        "data": "lmms-lab/MME@d6c9023f",
        "lm-eval": "0.4.13",
        "commit": "feed",
        "seed": "3",
        "vlm-harness": "0.1.0",
    }
    common: dict[str, Any] = {"model": "org/tuned", "higher_is_better": True, "provenance": facts}
    return [
        make_entry(
            task="mme",
            metric="perception",
            value=1500.5,
            low=1400.5,
            high=1600.5,
            unit="points",
            samples=2374,
            **common,
        ),
        make_entry(
            task="mme",
            metric="cognition",
            value=350.0,
            low=None,
            high=None,
            unit="points",
            samples=2374,
            headline=False,
            **common,
        ),
        make_entry(
            task="mmhal",
            metric="score",
            value=2.5,
            low=2.0,
            high=3.0,
            unit="0-6",
            samples=96,
            unscored=2,
            judge="gpt/4",
            **common,
        ),
    ]


def test_entries_survive_the_way_out_to_lm_eval_and_back(tmp_path: Path, measured: list[Entry]) -> None:
    path = write_lm_eval(tmp_path, measured)
    assert path.relative_to(tmp_path).as_posix() == "org__tuned/results_2026-01-31T12-00-00.000000.json"
    back = read_results(path)
    assert back.left_out == []
    assert [entry.imported for entry in back.entries] == ["lm-eval"] * 3
    for before, after in zip(measured, back.entries, strict=True):
        for field in (
            "model",
            "task",
            "metric",
            "value",
            "higher_is_better",
            "samples",
            "unscored",
            "limit",
            "judge",
            "created",
        ):
            assert getattr(after, field) in (getattr(before, field), before.when.isoformat()), field
        assert after.version == "lm-eval 0.4.13/task 1/0-shot"
        assert (after.low, after.high) == pytest.approx((before.low, before.high))


def test_a_limited_run_stays_one_on_the_way(tmp_path: Path, make_entry: MakeEntry) -> None:
    back = read_results(write_lm_eval(tmp_path, [make_entry(limit=8, samples=8, unscored=1)]))
    assert [(entry.limit, entry.samples, entry.unscored) for entry in back.entries] == [(8, 8, 1)]


def test_lm_eval_itself_reads_and_writes_the_same_format(tmp_path: Path, measured: list[Entry]) -> None:
    """Its own writer's file is read; its own table is made of ours."""
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.utils import make_table

    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    tracker.general_config_tracker.log_experiment_args("hf", "pretrained=org/model,dtype=float32", None, None, False)
    ours_keys = LM_EVAL.keys() - {
        "task_hashes",
        "model_source",
        "model_name",
        "model_name_sanitized",
        "chat_template_sha",
    }
    tracker.save_results_aggregated(
        {key: LM_EVAL[key] for key in ours_keys - {"total_evaluation_time_seconds"}}, samples={}
    )
    (path,) = (tmp_path / "theirs").rglob("*.json")
    assert path.parent.name == sanitized("org/model")
    assert {entry.model for entry in read_results(path).entries} == {"org/model"}
    results = json.loads(write_lm_eval(tmp_path, measured).read_text())
    theirs = json.loads(path.read_text()).keys() - {
        "chat_template",
        "chat_template_sha",
        "system_instruction",
        "system_instruction_sha",
    }
    assert theirs - {"fewshot_as_multiturn"} <= results.keys()
    assert "perception" in make_table(results)


def test_a_result_file_is_of_one_model_and_one_version(measured: list[Entry], make_entry: MakeEntry) -> None:
    with pytest.raises(BoardError, match="of one model, not of 2: org/tuned, base"):
        lm_eval_results([*measured, make_entry()])
    with pytest.raises(BoardError, match="of one model, not of 0"):
        lm_eval_results([])
    with pytest.raises(BoardError, match="scenes_chair: one version, judge and number a metric"):
        lm_eval_results([make_entry(), make_entry(version="2", metric="other")])


@pytest.mark.parametrize("name", ("..", "../../etc", "/etc/x", "a\x00b", "", "C:\\x"))
def test_a_models_name_never_leads_out_of_the_folder(tmp_path: Path, make_entry: MakeEntry, name: str) -> None:
    path = write_lm_eval(tmp_path / "out", [make_entry(model=name or "?")])
    assert path.resolve().parent.parent == (tmp_path / "out").resolve()


def test_the_hubs_files_can_be_read_by_its_own_library(measured: list[Entry]) -> None:
    from huggingface_hub._eval_results import parse_eval_result_entries

    found = hub_results(measured, source_url="https://example.org/board", task_ids={"mme": "default"})
    assert list(found.files) == [".eval_results/mme.yaml", ".eval_results/mmhal_gpt_4.yaml"]
    (mme,) = parse_eval_result_entries(yaml.safe_load(found.files[".eval_results/mme.yaml"]))
    assert (mme.dataset_id, mme.task_id, mme.dataset_revision) == ("lmms-lab/MME", "default", "d6c9023f")
    assert (mme.value, mme.date, mme.source_url) == (1500.5, "2026-01-31T12:00:00+00:00", "https://example.org/board")
    assert mme.notes is not None
    assert "95% interval 1400.5 to 1600.5" in mme.notes
    (mmhal,) = parse_eval_result_entries(yaml.safe_load(found.files[".eval_results/mmhal_gpt_4.yaml"]))
    assert mmhal.task_id == "mmhal"
    assert mmhal.notes is not None
    assert "judge gpt/4" in mmhal.notes
    assert "94 of 96 samples scored" in mmhal.notes
    assert found.left_out == []


def test_what_may_not_go_to_the_hub_is_named(measured: list[Entry], make_entry: MakeEntry) -> None:
    common: dict[str, Any] = {"model": "org/tuned", "provenance": dict(measured[0].provenance)}
    partial = make_entry(task="part", limit=8, **common)
    embedded = make_entry(task="scenes", model="org/tuned", provenance={"data": "embedded@1"})
    unscored = make_entry(task="none", value=None, low=None, high=None, **common)
    found = hub_results([partial, embedded, unscored])
    assert found.files == {}
    assert found.left_out == [
        "part CHAIR_s: of a part of the benchmark",
        "scenes CHAIR_s: its data (embedded@1) are no dataset on the hub",
        "none CHAIR_s: no score",
    ]
    with pytest.raises(BoardError, match="of one model"):
        hub_results([*measured, make_entry()])


def test_variants_of_one_benchmark_get_files_of_their_own(measured: list[Entry], make_entry: MakeEntry) -> None:
    like = {"task": "mmhal", "model": "org/tuned", "provenance": dict(measured[0].provenance)}
    found = hub_results([make_entry(judge=judge, **like) for judge in ("a b", "a/b", "c")])
    assert list(found.files) == [f".eval_results/mmhal_{name}.yaml" for name in ("a_b", "a_b_2", "c")]


def test_a_model_that_cannot_be_written_leaves_the_others_whole(measured: list[Entry], make_entry: MakeEntry) -> None:
    twice = [make_entry(model="two judges", judge=judge) for judge in ("a", "b")]
    made = lm_eval_files([*twice, *measured])
    assert list(made.files) == ["org__tuned/results_2026-01-31T12-00-00.000000.json"]
    assert list(made.refused) == ["two judges"]
    assert "version 1, judge a; version 1, judge b" in made.refused["two judges"]
    made = hub_files([make_entry(model="cut", limit=8), *measured, make_entry(model="org/tuned", task="scenes")])
    assert list(made.files) == [
        f"org__tuned/{name}"
        for name in (".eval_results/mme.yaml", ".eval_results/mmhal_gpt_4.yaml", "model-index.yaml")
    ]
    assert made.refused == {"cut": "no whole score to put into a model card"}
    assert made.left_out == {"org/tuned": ["scenes CHAIR_s: its data (not known) are no dataset on the hub"]}


def test_models_whose_names_look_alike_as_files_get_folders_of_their_own(make_entry: MakeEntry) -> None:
    names = ["a/b", "a__b", "A__b", "c", "..", "__", "a:b"]
    folders = folders_of(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert folders["c"] == "c"
    again = folders_of(["c", folders["a/b"], *reversed(names)])  # a model that is called as another one's folder
    assert len({folder.casefold() for folder in again.values()}) == len(names) + 1
    assert len(lm_eval_files([make_entry(model=name) for name in names]).files) == len(names)


def test_a_dataset_named_for_the_hub_is_not_said_to_be_the_one_scored_on(
    measured: list[Entry], make_entry: MakeEntry
) -> None:
    local = make_entry(task="pope", model="org/tuned", provenance={"data": "/home/me/pope"})
    found = hub_results([measured[0], local], task_ids={"mme": "owner/mme/perception", "pope": "owner/pope/default"})
    mme, pope = ([yaml.safe_load(text)[0] for text in found.files.values()])[:2]
    assert mme["dataset"] == {"id": "owner/mme", "task_id": "perception"}  # no revision: it is another dataset's
    assert mme["notes"].endswith("; scored on lmms-lab/MME@d6c9023f")
    assert pope["dataset"] == {"id": "owner/pope", "task_id": "default"}
    assert pope["notes"].endswith("; scored on local data")
    same = yaml.safe_load(
        hub_results([measured[0]], task_ids={"mme": "lmms-lab/MME/x"}).files[".eval_results/mme.yaml"]
    )[0]
    assert same["dataset"] == {"id": "lmms-lab/MME", "task_id": "x", "revision": "d6c9023f"}


@pytest.mark.parametrize(
    ("given", "message"),
    (
        ({"source_url": "javascript:alert(1)"}, "source URL 'javascript:alert.1.': must begin with https"),
        ({"task_ids": {"mne": "x"}}, "hub task 'mne': nobody was scored on it \\(did you mean 'mme'\\?\\)"),
        ({"task_ids": {"mme": "owner/x"}}, "hub task mme=owner/x: must be mme=ID or mme=OWNER/NAME/ID"),
    ),
)
def test_what_the_hub_would_not_take_is_refused(measured: list[Entry], given: dict[str, Any], message: str) -> None:
    with pytest.raises(BoardError, match=message):
        hub_files(measured, **given)


def test_the_model_index_can_be_read_by_the_hubs_own_library(measured: list[Entry], make_entry: MakeEntry) -> None:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    partial = make_entry(task="part", model="org/tuned", limit=8)
    index = model_index("tuned", [*measured, partial])
    name, results = model_index_to_eval_results(yaml.safe_load(yaml.safe_dump(index))["model-index"])
    assert name == "tuned"
    found = {(result.task_name, result.metric_type): result for result in results}
    assert found.keys() == {("mme", "perception"), ("mme", "cognition"), ("mmhal", "score")}
    assert found["mme", "perception"].metric_value == 1500.5
    assert found["mme", "perception"].dataset_revision == "d6c9023f"
    assert (found["mmhal", "score"].metric_args or {})["judge"] == "gpt/4"
    with pytest.raises(BoardError, match="no whole score"):
        model_index("tuned", [partial])


def test_a_long_name_is_a_folder_that_every_disk_takes(make_entry: MakeEntry, tmp_path: Path) -> None:
    models = ("m" * 300, "m" * 301, "\N{GRINNING FACE}" * 90, "\x9b31m\u202e")
    folders = folders_of(models)
    assert len(set(folders.values())) == 4
    assert all(len(name.encode()) < 240 and name.isprintable() for name in folders.values())
    entries = [make_entry(run=f"r{place}", model=model, task="t" * 300) for place, model in enumerate(models)]
    made = hub_files(entries, task_ids={"t" * 300: "owner/name/id"})
    written = write_files(tmp_path, made.files)
    assert len(written) == 8
    assert all(path.is_file() for path in written)


def test_an_interval_as_wide_as_numbers_go_is_written(make_entry: MakeEntry, tmp_path: Path) -> None:
    path = write_lm_eval(
        tmp_path, [make_entry(task="mme", metric="perception", value=0.0, low=-1e308, high=1e308, unit="points")]
    )
    assert json.loads(path.read_text())["results"]["mme"]["perception_stderr,none"] == pytest.approx(1e308 / 1.96)


def test_the_metric_a_task_ranks_by_is_that_when_it_is_read_back(make_entry: MakeEntry, tmp_path: Path) -> None:
    entries = [
        make_entry(task="mme", metric=name, headline=name == "accuracy")
        for name in ("perception", "accuracy", "cognition")
    ]
    back = read_results(write_lm_eval(tmp_path, entries)).entries
    assert [entry.metric for entry in back if entry.headline] == ["accuracy"]
