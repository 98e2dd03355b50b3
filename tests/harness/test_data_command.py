"""`harness data`: what a script can bring is brought whole or not at all, and every command finds it."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.application import run
from harness.evaluation.eval_settings import EvalSettings
from support import downloads
from tasks import data_folder, outside, registry
from tasks.benchmarks.pope import SPLITS
from tests.support.file_server import Files, serving

YAML = registry.FOLDER / "benchmarks" / "pope_llava.yaml"
NAME = "pope_small"


def picture(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


def questions(split: str) -> bytes:
    rows = [
        {
            "question_id": number,
            "image": f"COCO_val2014_00000000000{number}.png",
            "text": "Is there a dog?",
            "label": "yes",
        }
        for number in (1, 2)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zipped(names: list[str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, picture("red"))
    return data.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """A task of six questions about two pictures, and a server that has its files."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(outside, "_FILES", {})
    yaml = tmp_path / "pope_small.yaml"
    text = (
        YAML.read_text().replace("task: pope_llava", f"task: {NAME}").replace("{task: pope_llava}", f"{{task: {NAME}}}")
    )
    yaml.write_text(text.replace("rows: 8910", "rows: 6"))
    registry.add_task(yaml)
    names = [f"val2014/COCO_val2014_00000000000{number}.png" for number in (1, 2)]
    files = {f"/coco_pope_{split}.json": questions(split) for split in SPLITS} | {"/val2014.zip": zipped(names)}
    with serving(Files(files=files)) as found:
        listed = tmp_path / "downloads.toml"
        listed.write_text("".join(entry(found, path) for path in files))
        monkeypatch.setattr(data_folder, "LIST", listed)
        yield found


def entry(server: Files, path: str) -> str:
    data = server.files[path]
    return (
        f'[[{NAME}.files]]\npath = "{path[1:]}"\nurl = "{server.url}{path}"\nsize = {len(data)}\n'
        f'sha256 = "{hashlib.sha256(data).hexdigest()}"\nlicence = "MIT"\n'
    )


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(["data", *words, "--json"])
    shown = capsys.readouterr()
    assert shown.out, shown.err
    (found,) = json.loads(shown.out)["tasks"]
    return code, found


def test_what_was_got_is_found_without_data(server: Files, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, before = facts(capsys, "check", NAME)
    assert (code, before["ready"]) == (1, False)
    assert f"harness data get {NAME}" in before["missing"][0]
    assert not (tmp_path / "data").exists()
    code, found = facts(capsys, "get", NAME)
    assert (code, found["ready"], found["documents"], found["lost"]) == (0, True, 6, 0)
    assert facts(capsys, "check", NAME)[0] == 0
    assert run(["tasks", "show", NAME, "--samples", "1"]) == 0
    assert "8 x 8" in capsys.readouterr().out
    facts_of_entry = EvalSettings().facts_of_task(registry.registry().task(NAME))
    assert facts_of_entry["data"] == f"HARNESS_DATA/{NAME}"


def test_a_second_get_asks_for_nothing(server: Files, capsys: pytest.CaptureFixture[str]) -> None:
    facts(capsys, "get", NAME)
    server.asked.clear()
    assert facts(capsys, "get", NAME)[0] == 0
    assert server.asked == []


def test_a_get_that_was_cut_off_is_gone_on_with(server: Files, capsys: pytest.CaptureFixture[str]) -> None:
    whole = server.files.pop("/val2014.zip")
    assert run(["data", "get", NAME]) == 1
    assert "val2014.zip: 404 Not Found" in capsys.readouterr().err
    server.files["/val2014.zip"] = whole
    server.asked.clear()
    assert facts(capsys, "get", NAME)[0] == 0
    assert [path for path, _ in server.asked] == ["/val2014.zip"]


def test_another_file_than_the_listed_one_is_refused(server: Files, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/coco_pope_random.json"] = server.files["/coco_pope_random.json"].replace(b"dog", b"cat")
    assert run(["data", "get", NAME]) == 1
    assert "nothing of it is kept" in capsys.readouterr().err
    assert run(["data", "check", NAME]) == 1


def test_pictures_that_are_missing_are_counted(
    server: Files, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    facts(capsys, "get", NAME)
    (tmp_path / "data" / NAME / "val2014.zip").write_bytes(zipped(["val2014/COCO_val2014_000000000001.png"]))
    code, found = facts(capsys, "check", NAME)
    assert (code, found["lost"]) == (1, 3)
    assert found["missing"] == [f"{NAME}: 3 of 6 documents lack their picture"]


def test_a_mirror_takes_the_place_of_the_authors_addresses(server: Files, capsys: pytest.CaptureFixture[str]) -> None:
    server.files = {f"/mirror{path}": data for path, data in server.files.items()}
    assert facts(capsys, "get", NAME, "--mirror", f"{server.url}/mirror/")[0] == 0


def test_a_variable_that_names_no_folder_is_told(
    server: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA", "pope=/data/pope")
    assert run(["data", "check", NAME]) == 2
    assert "HARNESS_DATA=pope=/data/pope: is no folder" in capsys.readouterr().err


def test_the_list_names_addresses_sizes_and_digests() -> None:
    for task in ("amber", "pope_llava", "repope", "object_halbench"):
        sources = data_folder.sources_of(task)
        assert sources is not None
        assert task in registry.registry().tasks
        for file in sources.files:
            assert file.remote.url.startswith(("https://", "http://images.cocodataset.org/"))
            assert file.remote.url.startswith("https://") or file.remote.sha256, "nothing else would tell another file"
            assert file.remote.sha256 is None or len(file.remote.sha256) == 64
