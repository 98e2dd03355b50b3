"""Benchmarks from the hub: at a commit, by a second id where a dataset has moved, and recorded which."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.eval_settings import names_of_data
from harness.evaluation.generate import facts_of_data
from support.errors import BenchmarkDataError
from tasks import hub_data
from tasks.documents import load
from tasks.hub_data import HubData, fetch_folder, loaded
from tasks.registry import registry
from tests.tasks.table_rows import PICTURE, ROWS, load_metadata

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ON_A_BRANCH = {
    "chair",
    "llava_bench_coco",
    "llava_bench_wild",
    "mmmu",
    "mmstar",
    "mmvet",
    "realworldqa",
    "rtvlm",
    "textvqa",
    "mm_safetybench",
    "vlguard",
    "siuo",
}
"""Tasks of whose data no commit is known."""

Hub = Callable[..., None]


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    hub_data._LOADED.clear()
    yield
    hub_data._LOADED.clear()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A hub that has one dataset, and a cache that keeps it as `datasets` does."""
    import datasets

    def has(wanted: str, commit: str = COMMIT, error: Exception | None = None) -> None:
        def load_dataset(data: str, config: str | None, *, split: str, revision: str) -> Any:
            if data != wanted:
                raise error or datasets.exceptions.DatasetNotFoundError(f"Dataset '{data}' doesn't exist on the Hub")
            folder = tmp_path / "cache" / data.replace("/", "___") / "default" / "0.0.0" / commit
            if not folder.is_dir():
                row = {**ROWS["mmvet"], "image": PICTURE}
                datasets.Dataset.from_list([row]).save_to_disk(str(folder))
            return datasets.load_from_disk(str(folder))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return has


def read(task: str = "mmvet") -> Any:
    return load(**load_metadata(task) | {"task": task, "partial_data": True})["test"]


def test_the_first_id_is_read_and_its_commit_recorded(hub: Hub) -> None:
    hub("lmms-lab/MMVet")
    assert len(read()) == 1
    assert loaded("mmvet") == HubData(id="lmms-lab/MMVet", commit=COMMIT)
    assert facts_of_data(registry().task("mmvet")) == {"revision": COMMIT}


@pytest.mark.parametrize("error", (None, ConnectionError("401 Client Error"), ValueError("a redirect")))
def test_a_dataset_that_has_moved_is_read_by_its_second_id(
    hub: Hub, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    hub("lmms-lab-encoder/MMVet", error=error)
    assert len(read()) == 1
    facts = facts_of_data(registry().task("mmvet"))
    assert facts == {"revision": COMMIT, "data from": "lmms-lab-encoder/MMVet"}
    assert "mmvet: lmms-lab-encoder/MMVet is read: lmms-lab/MMVet could not be (" in caplog.text


def test_where_no_id_can_be_read_the_first_ones_reason_is_told(hub: Hub) -> None:
    hub("nobody/nothing")
    wanted = (
        r"^mmvet: can't load lmms-lab/MMVet at revision main, nor lmms-lab-encoder/MMVet: "
        r"Dataset 'lmms-lab/MMVet' doesn't exist on the Hub; behind a firewall give --data mmvet=PATH$"
    )
    with pytest.raises(BenchmarkDataError, match=wanted):
        read()
    assert loaded("mmvet") is None


def test_a_pinned_revision_is_what_an_entry_records(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    pinned = registry().task("mmhal").revision
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "snapshots" / COMMIT))
    fetch_folder(task="mmhal", ids=("Shengcao1006/MMHal-Bench",), revision=pinned)
    assert facts_of_data(registry().task("mmhal")) == {"revision": pinned}
    fetch_folder(task="rtvlm", ids=("MMInstruction/RedTeamingVLM",), revision="main")
    assert facts_of_data(registry().task("rtvlm")) == {"revision": COMMIT}


def test_the_hub_is_asked_for_a_commit_that_the_cache_does_not_tell(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub("lmms-lab-encoder/MMVet", commit="of-no-commit")
    read()

    class Api:
        def dataset_info(self, data: str, revision: str, timeout: int) -> Any:
            return type("Info", (), {"sha": f"{data}@{revision}"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert facts_of_data(registry().task("mmvet"))["revision"] == "lmms-lab-encoder/MMVet@main"


def test_local_data_have_no_commit() -> None:
    assert facts_of_data(registry().task("mmvet")) == {}


def test_every_benchmark_is_pinned_where_a_commit_is_known() -> None:
    assert {task.name for task in registry().tasks.values() if not task.pinned} == ON_A_BRANCH


@pytest.mark.parametrize("task", [task for task in registry().tasks.values() if task.data.startswith("lmms-lab/")])
def test_a_dataset_that_has_moved_has_its_second_id(task: Any) -> None:
    assert task.hub_ids == (task.data, task.data.replace("lmms-lab/", "lmms-lab-encoder/"))


def test_a_score_of_a_branch_counts_as_one_of_the_commit_that_it_was_at() -> None:
    before = {"data": "lmms-lab/MMBench@main", "revision": COMMIT}
    assert names_of_data(before) == ["lmms-lab/MMBench@main", f"lmms-lab/MMBench@{COMMIT}"]
    assert names_of_data({"data": "/data/a@b"}) == ["/data/a@b"]
    assert names_of_data({}) == [""]
