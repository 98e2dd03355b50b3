"""`harness cache` shows what is kept, and removes what is asked for and nothing else."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.engine.response_cache import ResponseCache
from tasks.judges.ledger import Ledger

ANSWERS, REPLIES = Path("runs/answers.sqlite"), Path("runs/ledger.sqlite")


@pytest.fixture(autouse=True)
def _stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    ResponseCache(ANSWERS).close()
    Ledger(REPLIES).close()
    (tmp_path / "hub" / "vlm-harness" / "data" / "pope").mkdir(parents=True)
    (tmp_path / "hub" / "vlm-harness" / "data" / "pope" / "questions.json").write_text("[]")
    Path("runs/notes.sqlite").write_text("another program's")


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert run(["cache", "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["kept"]
    return found


def test_kinds_sizes_places_and_what_was_paid_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = {one["kind"]: one for one in listed(capsys)}
    assert {*found} == {"answers", "replies", "data"}
    assert all(one["bytes"] > 0 for one in found.values())
    assert [kind for kind, one in found.items() if one["paid"]] == ["replies"]
    assert found["data"]["path"].endswith("data/pope")


def test_features_logs_and_the_hubs_tables_are_listed_and_removed_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, servers = Path("runs/features"), Path("runs/x/servers")
    tables = tmp_path / "hub" / "datasets" / "lmms-lab___pope"
    for folder in (features, servers, tables):
        folder.mkdir(parents=True)
    feature, log, other = features / f"{'0a' * 20}.safetensors", servers / "vllm-llava.log", servers / "weights.json"
    for file in (feature, log, other, tables / "pope.arrow", Path("runs/model.safetensors")):
        file.write_text("x")
    found = {one["kind"]: one["path"] for one in listed(capsys) if one["kind"] != "data"}
    assert (found["features"], found["logs"]) == (str(features), str(servers))
    assert str(tables) in [one["path"] for one in listed(capsys)]
    assert run(["cache", "prune", "features,logs", "--yes"]) == 0
    assert not feature.exists()
    assert not log.exists()
    assert other.is_file()
    assert Path("runs/model.safetensors").is_file()


def test_a_kind_is_removed_and_the_others_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "prune", "answers,data", "--dry-run"]) == 0
    assert {one["kind"] for one in listed_after(capsys)} == {"answers", "replies", "data"}
    assert run(["cache", "prune", "answers,data", "--yes"]) == 0
    assert {one["kind"] for one in listed_after(capsys)} == {"replies"}
    assert Path("runs/notes.sqlite").is_file()


def listed_after(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    return listed(capsys)


def test_replies_that_were_paid_for_go_only_where_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "prune", "replies", "--yes"]) == 2
    assert "paid for; say --paid" in capsys.readouterr().err
    assert run(["cache", "prune", "answers", "--yes", "--paid"]) == 2
    assert REPLIES.is_file()
    assert run(["cache", "prune", "replies", "--yes", "--paid"]) == 0
    assert not REPLIES.exists()


def test_nothing_goes_where_nobody_can_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "prune", "answers"]) == 2
    assert "say --yes" in capsys.readouterr().err
    assert ANSWERS.is_file()


@pytest.mark.parametrize("words", (["cache"], ["cache", "prune", "answers"]), ids=" ".join)
def test_stores_are_looked_for_in_a_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--runs", "runs/notes.sqlite"]) == 2
    assert "--runs: 'runs/notes.sqlite' is a file; give a folder" in capsys.readouterr().err
    assert run([*words, "--runs", "nowhere"]) == 2
    assert run(["store", "check", "nowhere.sqlite"]) == 2
    assert "nowhere.sqlite: no such file; ledgers" in capsys.readouterr().err


def test_what_was_used_lately_stays() -> None:
    assert run(["cache", "prune", "answers", "--yes", "--older-than", "30"]) == 0
    assert ANSWERS.is_file()
    long_ago = time.time() - 31 * 86400
    os.utime(ANSWERS, (long_ago, long_ago))
    assert run(["cache", "prune", "answers", "--yes", "--older-than", "30"]) == 0
    assert not ANSWERS.exists()


@pytest.fixture
def _open_store() -> Iterator[None]:
    with ANSWERS.open("rb"):
        yield


@pytest.mark.usefixtures("_open_store")
def test_what_a_process_has_open_stays(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "prune", "answers", "--yes"]) == 1
    assert f"answers.sqlite is open in process {os.getpid()}" in capsys.readouterr().err
    assert ANSWERS.is_file()


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from trainers.config.recipe import known_recipes

    assert run(["recipes", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["recipes"]}
    assert {*found} == {*known_recipes()}
    assert all(one["what it is"] for one in found.values())
    assert "a judge for mmhal" in found["silkie"]["needs"]
    assert found["scenes-demo"]["needs"] == "nothing more"
    assert run(["recipes", "show", "silkie"]) == 0
    shown = capsys.readouterr().out
    assert "vlf-silkie/VLFeedback" in shown
    assert "learning rate 1e-05" in shown
    assert run(["recipes", "show", "silky"]) == 2
    assert "did you mean 'silkie'" in capsys.readouterr().err
