"""The board's page: thumbnails from this machine without network access, notes, and learning curves."""

import html
import io
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.evaluation.board_page import SIDE, board_page, curves_of, thumbnails_of
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.compare_board import compare_board
from leaderboards.views.html_page import PageExtras
from leaderboards.views.published import Reference
from tasks.registry import registry


def entry(task: str, model: str = "base", **changes: Any) -> Entry:
    spec = registry().tasks.get(task)
    data = {"data": f"{spec.data}@{spec.revision}"} if spec else {}
    names: dict[str, Any] = {"run": "run-1", "model": model, "task": task, "version": "1.0", "provenance": data}
    metric = {"metric": spec.headline if spec else "score", "unit": "%", "higher_is_better": True, "headline": True}
    values = {"value": 50.0, "low": 40.0, "high": 60.0, "samples": 4, "limit": None, "judge": None}
    usual = {"seconds": 1.0, "cost": 0.0, "created": "2026-01-31T12:00:00+00:00"}
    return Entry(**names | metric | values | usual | changes)


def sample(task: str, image: str, **changes: Any) -> Sample:
    usual: dict[str, Any] = {"run": "run-1", "task": task, "id": image, "image": image, "records": {}, "reply": None}
    return Sample(**usual | {"prompt": "Is there a dog?", "answer": "yes"} | changes)


def png(colour: str, side: int = 300) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side // 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


def seen(data: bytes | None) -> tuple[tuple[int, int], tuple[int, ...]]:
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    colour = picture.getpixel((5, 5))
    assert isinstance(colour, tuple)
    return picture.size, tuple(round(part / 255) for part in colour)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was to be reached; nothing can be."""
    asked: list[object] = []

    def refused(*arguments: object, **_: object) -> Any:
        asked.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda self, address: refused(address))
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    return asked


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache, which holds nothing and whose libraries think that they are online."""
    import datasets.config
    import huggingface_hub.constants

    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    return folder


def local_mme(folder: Path) -> Path:
    """MME's table with one question about each of two pictures, the second of which is broken."""
    folder.mkdir(parents=True)
    (folder / "red.png").write_bytes(png("red"))
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    about = {"question": "Dog?", "answer": "Yes", "category": "existence"}
    rows = [about | {"question_id": f"existence/{name}", "image": name} for name in ("red.png", "broken.png")]
    (folder / "table.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def keys(path: Path) -> list[str]:
    from harness.evaluation.generate import load_tasks

    spec = registry().task("mme")
    return [doc["image"] for doc in load_tasks([spec], data={"mme": str(path)}, partial_data=True)["mme"].eval_docs]


def test_a_page_asks_nobody_and_reports_once_what_it_could_not_get(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, empty_cache: Path, sockets: list[object]
) -> None:
    board = Board(tmp_path / "board")
    entries = [entry(task) for task in ("mme", "rtvlm", "gone")]
    board.add(entries, [sample(task, f"{task}-{place}") for task in ("mme", "rtvlm", "gone") for place in range(3)])
    found = compare_board(entries, samples=board.samples, metrics=lambda task, name: None)
    options: dict[str, Any] = {"title": "Board", "base": None, "comparison": found, "pictures": True}
    text = board_page([board], entries, samples=board.samples, **options)
    assert sockets == []
    told = caplog.messages
    assert [line.partition(":")[0] for line in told] == ["mme", "rtvlm", "gone"]
    assert all("pictures are left out" in line and "\n" not in line for line in told)
    assert "data:image/jpeg" not in text
    assert 'id="flips"' in text


def test_what_the_board_knows_of_its_scores_reaches_the_page(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "broken.json").write_text("{")
    base, tuned = entry("mme"), entry("mme", "tuned", run="run-2", provenance={"split": "tune"})
    for one in (base, tuned):
        board.add([one], [sample("mme", "a", run=one.run)])
    entries = board.current()
    found = compare_board(entries, samples=board.samples, metrics=lambda task, name: None, base="base")
    text = board_page(
        [board],
        entries,
        title="Board",
        base="base",
        samples=board.samples,
        comparison=replace(found, notes=[*found.notes, "no ranks of mme: too few"]),
        pictures=False,
        extras=PageExtras(
            references=[
                Reference(model="paper", task="mme", metric=base.metric, value=1500.0, source="A paper, Table 1")
            ]
        ),
    )
    assert "not read: broken.json" in text
    assert "no ranks of mme: too few" in text
    assert "A paper, Table 1" in text
    assert text.count("≠ asked differently") == 2
    (said,) = (line for line in found.protocol_differences[tuned.key] if "split" in line)
    assert html.unescape(text).count(said) == 1


def test_the_libraries_are_online_again_afterwards(
    caplog: pytest.LogCaptureFixture, empty_cache: Path, sockets: list[object]
) -> None:
    import datasets.config
    import huggingface_hub.constants

    assert thumbnails_of([entry("mme")])("mme", "x") is None
    assert len(caplog.messages) == 1
    assert (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_an_embedded_task_is_drawn_in_the_split_that_was_asked(
    caplog: pytest.LogCaptureFixture, sockets: list[object]
) -> None:
    from tasks.scenes.scenes_mme import questions

    of_test, of_tune = (questions(split)[0]["scene"] for split in ("test", "tune"))
    tuned = entry("scenes_mme", provenance={"data": "embedded@1", "split": "tune"})
    thumbnail = thumbnails_of([tuned])
    data = thumbnail("scenes_mme", of_tune)
    assert data is not None
    assert max(Image.open(io.BytesIO(data)).size) <= SIDE
    assert thumbnail("scenes_mme", of_test) is None
    both = thumbnails_of([tuned, entry("scenes_mme")])
    assert both("scenes_mme", of_test)
    assert both("scenes_mme", of_tune)
    assert (caplog.messages, sockets) == ([], [])


def test_local_data_that_a_run_names_are_read_and_a_broken_picture_is_reported_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, sockets: list[object]
) -> None:
    path = local_mme(tmp_path / "mme")
    red, broken = keys(path)
    thumbnail = thumbnails_of([entry("mme", provenance={"data": str(path)})])
    assert seen(thumbnail("mme", red)) == ((SIDE, SIDE // 2), (1, 0, 0))
    assert thumbnail("mme", broken) is thumbnail("mme", broken) is None
    assert thumbnail("mme", "no such picture") is None
    (told,) = caplog.messages
    assert broken in told
    assert sockets == []


def test_what_the_hubs_cache_holds_is_shown(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, empty_cache: Path, sockets: list[object]
) -> None:
    from datasets import Dataset, load_dataset
    from datasets import Image as ImageColumn

    source = tmp_path / "hub" / "test-00000-of-00001.parquet"
    source.parent.mkdir()
    row = {"question_id": "a", "category": "existence", "image": {"bytes": png("blue"), "path": None}}
    rows = [row | {"question": "Dog?", "answer": "Yes"}, row | {"question": "Cat?", "answer": "No"}]
    Dataset.from_list(rows).cast_column("image", ImageColumn()).to_parquet(str(source))
    load_dataset("parquet", data_files={"test": str(source)}, cache_dir=str(tmp_path / "built"))
    (built,) = (tmp_path / "built" / "parquet").glob("*/*/*/")
    spec = registry().task("mme")
    owner, name = spec.data.split("/")
    placed = empty_cache / "datasets" / f"{owner}___{name.lower()}" / "default" / "0.0.0" / spec.revision
    placed.parent.mkdir(parents=True)
    built.rename(placed)
    for file in placed.glob("parquet-*"):
        file.rename(placed / file.name.replace("parquet-", f"{name.lower()}-"))
    info = json.loads((placed / "dataset_info.json").read_text())
    (placed / "dataset_info.json").write_text(
        json.dumps(info | {"dataset_name": name.lower(), "config_name": "default"})
    )
    key = keys(source.parent)[0]
    sockets.clear()  # of the library, which counts what it builds
    assert seen(thumbnails_of([entry("mme")])("mme", key)) == ((SIDE, SIDE // 2), (0, 0, 1)), caplog.messages
    assert (caplog.messages, sockets) == ([], [])


def test_no_task_is_loaded_before_a_picture_of_it_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    thumbnails_of([entry("gone")])
    assert caplog.messages == []


def test_a_curve_begins_at_the_base_and_needs_two_checkpoints() -> None:
    names = ("base", "runs/a/checkpoint-20", "runs/a/checkpoint-10", "runs/b/checkpoint-5", "other")
    entries = [entry("mme", model) for model in names]
    (runs,) = curves_of(entries, "base").values()
    steps = {run: [point.step for point in points] for run, points in runs.items()}
    assert steps == {"runs/a": [0, 10, 20], "runs/b": [0, 5]}
    (runs,) = curves_of(entries, None).values()
    assert list(runs) == ["runs/a"]
