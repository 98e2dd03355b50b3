"""The board's results as files of lm-eval and of the hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from leaderboards.board.entry import Entry
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
from tests.leaderboards.makers import LM_EVAL, MakeEntry


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: dict[str, Any], name: str = "results_2026-01-01T12-00-00.000000.json", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(data | changes), encoding="utf-8")
        return path

    return write


def by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {f"{entry.task} {entry.metric}": entry for entry in entries}


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
