"""Folders of models, runs and boards in which one file is damaged in any way: read, or one line that names a file."""

import functools
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.models.spec import WEIGHTS
from support.errors import InputError, ModelError, SettingError
from support.files import check_regular_files
from support.parsing import parse_toml, parse_yaml
from support.settings import LARGEST, check_integer, converted
from tests.adversary.mutations import mutations_of
from trainers.training.read_base import check_layers

EVAL = ("eval", "--model", "copy/checkpoint-2", "--tasks", "scenes_pope", "--limit", "2", "--out", "out")
MODEL = ("eval", "--model", "copy", "--tasks", "scenes_pope", "--limit", "2", "--out", "out")
BOARD = ("--board", "copy/board", "--partial")
AGAIN = ("train-then-eval", "scenes-demo", "--tasks", "scenes_pope", "--limit", "16", "--out", "copy")
READERS: dict[str, tuple[str, ...]] = {
    "leaderboard": ("leaderboard", "copy/board", "--partial"),
    "page": ("leaderboard", "copy/board", "--partial", "--html", "page.html"),
    "compare": ("compare", "scenes-base", "again", *BOARD),
}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the board of two models."""
    folder = tmp_path_factory.mktemp("board")
    for model in ("scenes-base", "scenes-early"):
        asked = ("eval", "--model", model, "--tasks", "scenes_pope", "--limit", "2", "--out", str(folder))
        assert run([*asked]) == 0
    for path in (folder / "board").glob("*.json"):
        path.write_text(path.read_text().replace('"scenes-early"', '"again"'))
    return folder


@functools.cache
def make_run(folder: Path) -> Path:
    """A run folder of train-then-eval; it is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*AGAIN[:-1], "run"]) == 0
    return folder / "run"


def check_damaged(whole: Path, name: str, words: tuple[str, ...], count: int, capture: Any) -> None:
    """Each damage of the file `name` in a folder, met by a command in the current folder, which is empty."""
    for kind, damage in mutations_of(whole / name, count, "0").items():
        for folder in ("copy", "out"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, "copy")
        damage(Path("copy") / name)
        others = {path: path.read_bytes() for path in Path("copy").rglob("*.p*") if path.is_file()}
        capture.readouterr()
        code = run([*words])
        err = capture.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("harness: ")]
        assert code in (0, 1, 2, 3, 4), (kind, code)
        assert "Traceback" not in err, (kind, err)
        assert "a mistake in harness" not in err, (kind, lines)
        assert len(lines) == (code in (1, 2, 4)), (kind, code, err)
        assert code == 4 or all("copy" in x or Path(name).name in x or "board" in x for x in lines), (kind, lines)
        # A command that reads changes nothing; one that goes on removes no picture.
        left = {path for path in others if path.is_file()}
        assert left == set(others), (kind, set(others) - left)


@pytest.mark.parametrize("reader", ("leaderboard", *(pytest.param(name, marks=pytest.mark.slow) for name in READERS)))
@pytest.mark.parametrize("suffix", (".json", ".samples.parquet"))
def test_a_board(
    reader: str, suffix: str, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (first, *_) = sorted((board / "board").glob(f"*{suffix}"))
    check_damaged(board, f"board/{first.name}", READERS[reader], 20, capfd)


FILES = ("config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "chat_template.jinja")


@pytest.mark.slow
@pytest.mark.parametrize("name", (*FILES, "tokenizer_config.json", "generation_config.json"))
def test_a_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    check_damaged(WEIGHTS / "scenes-base", name, MODEL, 15, capfd)


ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "checkpoint.json")
STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTER)
def test_an_adapter(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    whole = make_run(tmp_path_factory.getbasetemp())
    monkeypatch.chdir(tmp_path)
    check_damaged(whole, f"checkpoint-2/{name}", EVAL, 10, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", (*(f"checkpoint-1/{name}" for name in (*ADAPTER, *STATE)), "run.json", "checks.json"))
def test_a_run_that_goes_on(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    whole = make_run(tmp_path_factory.getbasetemp())
    shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-2")  # so that training goes on
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    check_damaged(tmp_path / "cut", name, AGAIN, 4, capfd)


def test_what_reading_would_wait_for_is_refused(tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS / "scenes-base", folder)
    check_regular_files(folder)
    (folder / "a link to nothing").symlink_to("none")
    check_regular_files(folder)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(folder / "socket"))
        assert run(["eval", "--model", str(folder), "--tasks", "scenes_pope", "--limit", "1"]) == 2
    assert capfd.readouterr().err == f"harness: {folder}/socket: is no regular file\n"
    (folder / "socket").unlink()
    (folder / "device").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="device: is no regular file"):
        check_regular_files(folder)


@pytest.mark.parametrize("name", ("num_hidden_layers", "depth", "num_local_experts", "depths"))
def test_a_model_of_more_layers_than_end_is_refused(name: str, tmp_path: Path) -> None:
    count: object = [2, 2**31] if name == "depths" else 2**31
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {name: count, "vocab_size": 2**31}}))
    with pytest.raises(ModelError, match=f"m: config.json: {name} = 2147483648: no model has so many"):
        check_layers(tmp_path, "m")
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {name: 10_000, "layers": {"a": True}}}))
    check_layers(tmp_path, "m")


def test_integers_are_as_large_as_they_may_be() -> None:
    assert converted(str(LARGEST), int, "x") == LARGEST
    for value in (LARGEST + 1, "9" * 400, -(10**400)):
        with pytest.raises(SettingError, match=r"^x: must be at (most|least) -?9223372036854775807$"):
            converted(value, int, "x")
    with pytest.raises(SettingError, match=r"x = .*: must be a number"):
        converted(10**400, float, "x")
    with pytest.raises(SettingError, match="seed: must be at least 0"):
        check_integer("seed", -1, 0)
    import yaml

    for text in (b"a = [1, {b = 9223372036854775808}]", b"a = -9223372036854775809"):
        with pytest.raises(ValueError, match="more than 64 bits"):
            parse_toml(text)
        with pytest.raises(ValueError, match="more than 64 bits"):
            parse_yaml(text.replace(b" = ", b": ").replace(b"{b:", b"{b: "), yaml.SafeLoader)
    assert parse_toml(b"a = 9223372036854775807") == {"a": LARGEST}


@pytest.mark.parametrize(
    "words",
    (
        ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--seed", str(2**32)),
        ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--max-new-tokens", "9" * 400),
        ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--seed=-1"),
        ("compare", "a", "b", "--examples", "9" * 400),
        ("train-then-eval", "scenes-demo", "--limit", str(2**63)),
    ),
)
def test_an_integer_that_is_too_large_is_refused_before_any_work(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--dry-run",)) if words[0] == "eval" else ((),):
        assert run([*words, *more]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "must be at" in line
    assert list(tmp_path.iterdir()) == []
