"""Before a run starts, all that it lacks is told in one list; a run that lacks something claims no folder."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.application import run
from harness.evaluation.make_judge import NAME_ONE
from harness.models.readiness import look_at_models
from harness.models.spec import ModelSpec, find
from leaderboards.board.board import Board
from support import full_disk
from tests.support.file_server import Files, serving

RECIPE = """
name = "small"
trainer = "dpo"
base = "scenes-base"
tasks = ["pope"]
[dataset]
read = "{read}"
test_share = 0.0
[training]
learning_rate = 1e-3
batch_size = 2
checkpoints = 1
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*q_proj'
"""


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Files]:
    """A hub that answers, and has nothing."""
    with serving(Files()) as files:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", files.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield files


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    """Six questions about two pictures, as the hub has them."""
    folder = tmp_path / "pope"
    folder.mkdir()
    rows = [
        {"question_id": str(number), "question": "Is there a dog in the image?", "answer": "yes", "category": category}
        | {"image": f"{number % 2}.png"}
        for number, category in enumerate(("adversarial", "popular", "random") * 2)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(2):
        Image.effect_noise((32, 32), 60).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs" / "pairs.jsonl"
    path.parent.mkdir()
    answers = {"chosen": "a red circle", "rejected": "a blue square"}
    rows = [{"prompt": f"What is there? {number}", "images": ["0.png"], **answers} for number in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def missing(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is told on stderr: the first line, and a line for each row of the table after it."""
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("harness: ", "| "))]
    first, *rows = [line.removeprefix("harness: ") for line in told]
    cells = [row.strip("| ").split(" | ") for row in rows if row.startswith("| ")][2:]
    return [first, *(f"{row[0]}: {row[1]}; {row[-1]}" for row in cells)]


def test_all_that_is_missing_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["eval", "--model", "scenes-base", "--model", "llava-1.5-7b", "--tasks", "mmhal,amber,scenes_pope"]
    assert run([*command, "--out", str(out)]) == 2
    first, *needs = missing(capsys)
    assert first == "4 things are missing, and nothing was started:"
    assert needs[0].startswith("data of mmhal: ")
    assert needs[0].endswith("; --data mmhal=PATH")
    assert needs[1].endswith("; harness data get amber")
    assert needs[2].startswith("weights of llava-1.5-7b: llava-hf/llava-1.5-7b-hf (about 14.1 GB): ")
    assert "and the hub answers 404 Not Found; hf download llava-hf/llava-1.5-7b-hf" in needs[2]
    assert needs[3] == f"judge 'scenes': can't rate mmhal; {NAME_ONE}"
    assert not out.exists()


def test_what_is_on_the_board_needs_nothing(pope: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["eval", "--model", "scenes-base", "--tasks", "pope", "--partial-data", "--limit", "2"]
    command += ["--data", f"pope={pope}", "--out", str(out)]
    assert run(command) == 0
    pope.rename(tmp_path / "elsewhere")
    assert run(command) == 0
    assert "already on the board" in capsys.readouterr().err
    assert run([*command, "--fresh"]) == 2


def test_pictures_that_are_missing_end_a_run_before_it_starts(
    pope: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pope / "1.png").unlink()
    command = ["eval", "--model", "scenes-base", "--tasks", "pope", "--partial-data", "--data", f"pope={pope}"]
    assert run([*command, "--out", str(tmp_path / "run")]) == 2
    assert "pictures of pope: 3 of 6 documents lack their picture" in missing(capsys)[0]
    assert run([*command, "--out", str(tmp_path / "run"), "--max-failed", "0.5"]) == 0


def test_room_for_the_weights_is_looked_at(hub: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(name="big", pretrained="someone/big", description="")
    files = [{"rfilename": "config.json", "size": 100}, {"rfilename": "model.safetensors", "size": 5 * 10**9}]
    about: dict[str, Any] = {
        "id": "someone/big",
        "sha": "0" * 40,
        "siblings": [*files, {"rfilename": "x.h5", "size": 9**12}],
    }
    hub.files["/api/models/someone/big?blobs=true"] = json.dumps(about).encode()
    hub.content_type = "application/json"
    monkeypatch.setattr(full_disk, "_measure_free", lambda place: 4e9)
    (need,) = look_at_models([spec]).room()
    assert str(need).startswith("room on the disk of HF_HOME: someone/big takes 5.0 GB, and 4.0 GB are free there; ")
    monkeypatch.setattr(full_disk, "_measure_free", lambda place: 6e9)
    found = look_at_models([spec, find("scenes-base")])
    assert not found.needs
    assert not list(found.room())
    assert found.disk.download == 5 * 10**9 + 100


def test_train_then_eval_takes_data_as_eval_does(pope: Path, pairs: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(read="public"))
    command = ["train-then-eval", str(recipe), "--out", str(out), "--limit", "4", "--data", f"pope={pope}"]
    assert run([*command, "--partial-data", "--train-data", str(pairs), "--images", str(pope)]) in (0, 4)
    board = Board(out / "board").entries()
    assert {Path(entry.model).name for entry in board} == {"scenes-base", "checkpoint-2"}
    assert {(entry.task, entry.provenance["data"], entry.provenance["rows"]) for entry in board} == {
        ("pope", str(pope), "partial")
    }
    assert json.loads((out / "data" / "leaks.json").read_text())["rows_with_image"] == {"pope": 4}


def test_train_then_eval_lacks_all_it_lacks_before_it_claims_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(read="VLF8000"))
    assert run(["train-then-eval", str(recipe), "--out", str(out), "--images", "nowhere"]) == 2
    _, *needs = missing(capsys)
    assert [need.partition(":")[0] for need in needs] == [
        "data of pope",
        "preference data 'VLF8000'",
        "pictures 'nowhere'",
    ]
    assert not out.exists()


@pytest.mark.parametrize(
    ("data", "complaint"),
    (
        (["pop=x"], "--data 'pop=x': 'pop' is not among the tasks asked for: pope"),
        (["one"], "--data 'one': must be TASK=PATH; data to train on are named by --train-data"),
    ),
)
def test_data_of_nothing_is_refused(
    data: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.format(read="public"))
    options = [word for text in data for word in ("--data", text)]
    assert run(["train-then-eval", str(recipe), "--out", str(tmp_path / "run"), *options]) == 2
    assert complaint in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["small.toml"]
