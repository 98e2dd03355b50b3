"""Names that strangers wrote: the base of an adapter, a recipe's name, a model's. None reaches out of its place."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from harness.cli import main as cli
from harness.models.chat_templates import chat_template_of
from harness.models.fetch import fetch
from harness.models.spec import at, base_of, find
from harness.runs.scoring_queue import Scoring
from leaderboards.board.board import Board
from support.errors import HarnessError, InputError, RecipeError
from tests.adversary.foreign_checkpoints import SCENES
from tests.harness.rated_scenes import write_rated_scenes
from tests.harness.test_train_cli import RECIPE
from trainers.config.recipe import find_recipe, parse_recipe
from trainers.training import base_note
from trainers.training.base_note import is_sealed, note_base
from trainers.vlfeedback.annotation import ratings_file
from trainers.vlfeedback.answers import answers_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an adapter `in/lora` was unpacked; models lie beside it, away from it, and below the working directory."""
    for place in ("away", "in/beside", "project/below"):
        shutil.copytree(SCENES, tmp_path / place)
    (tmp_path / "in" / "lora").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def write_adapter(folder: Path, base: Any, note: Any = None, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    held = {"peft_type": "LORA", "base_model_name_or_path": base, **more}
    (folder / "adapter_config.json").write_text(json.dumps(held))
    if note is not None:
        (folder / "checkpoint.json").write_text(json.dumps(note))
    return folder


TAKEN = (
    "../beside",
    "beside",
    "below",
    "./below",
    "{home}/in/beside",
    "{home}/project/below",
    "{home}/away",
    "scenes-base",
)
REFUSED = (
    *("../../away", "./../../away", "away", "../lora/../../away", "../linked", "linked", "/proc/self/cwd", "/dev/zero"),
    *(
        "openai:x",
        "openai:../../away",
        "file://{home}/away",
        "file:///etc",
        "s3://a/b",
        "https://a/b",
        "HTTP://a/b",
        "//host/a",
    ),
    *(
        ".",
        "./",
        "..",
        "../lora",
        "{home}/in/lora",
        "~",
        "~/x",
        "$HOME",
        "${{HOME}}/x",
        "%2e%2e/away",
        "/etc",
        "/",
        "-",
        "--help",
    ),
    *(
        "a/..",
        "../a",
        "a/b/c",
        "a--b/c",
        "a/b--c",
        "a/b\n",
        "a/b\0",
        "a\u202e/b",
        "a/ｂ",
        " a/b",
        "x" * 5000,
        "\0",
        "\ud800",
    ),
)


@pytest.mark.parametrize("name", TAKEN)
def test_a_base_beside_below_or_of_ones_own_is_taken(home: Path, name: str) -> None:
    folder = write_adapter(home / "in" / "lora", name.format(home=home))
    assert (Path(find(str(folder)).pretrained) / "config.json").is_file()


@pytest.mark.parametrize("noted", (True, False))
@pytest.mark.parametrize("name", REFUSED)
def test_any_other_name_is_refused_in_one_line(home: Path, name: str, noted: bool) -> None:
    (home / "in" / "linked").symlink_to(home / "away")
    name = name.format(home=home)
    folder = write_adapter(home / "in" / "lora", "x" if noted else name, {"base": name} if noted else None)
    with pytest.raises(HarnessError) as told:
        fetch(find(str(folder)))
    assert "\n" not in str(told.value)
    assert base_of(folder) != str(home / "away")


def test_anothers_folder_is_taken_by_the_users_word_or_the_users_own_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = str(home / "away")
    folder = write_adapter(home / "in" / "lora", away)
    user = os.geteuid()
    monkeypatch.setattr("harness.models.base_names.os.geteuid", lambda: user + 1)  # the folder is somebody else's
    with pytest.raises(InputError, match=f"its base '{away}' lies neither beside it nor .* name it by --model-base"):
        find(str(folder))
    assert find(str(folder), base=away).pretrained == away
    assert at(find("scenes-base"), folder, away).pretrained == away
    from tests.harness.test_base_names import job

    note = note_base(job(home / "in", base_name=away, base=away), folder)
    assert is_sealed(note)
    write_adapter(folder, away, note)
    assert find(str(folder)).pretrained == away
    for forged in (
        {**note, "base": str(home / "in")},
        {**note, "seal": ""},
        {**note, "seal": None},
        {**note, "seal": 5},
    ):
        assert not is_sealed(forged)
    assert base_note._key_file().stat().st_mode & 0o077 == 0
    base_note._key_file().write_bytes(b"")
    assert not is_sealed(note)


def test_the_option_names_the_base_and_is_refused_where_there_is_no_adapter(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "eval",
        "--model",
        "scenes-base",
        "--model-base",
        str(home / "away"),
        "--limit",
        "1",
        "--tasks",
        "scenes_pope",
    ]
    assert cli.run(command) == 2
    assert "scenes-base is no adapter, which goes on a base" in capsys.readouterr().err


FEW = "--tasks scenes_chair --limit 1"
WITH_BASE = {
    "eval": f"eval --model {{lora}} {FEW} --out {{out}}",
    "attention": "attention {lora} --limit 1 --out {out}",
    "models check": "models check {lora}",
    "train": "train {recipe} --base {lora} --out {out}",
    "watch": f"watch {{run}} --once --attempts 1 --settle 0 --out {{out}} {FEW}",
}


@pytest.mark.parametrize(
    "command", (pytest.param(one, marks=pytest.mark.slow if one == "train" else ()) for one in WITH_BASE)
)
def test_a_base_of_another_machine_is_named_by_the_option(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, recipe = home / "in" / "checkpoint-2", home / "recipe.toml"
    base = AutoModelForImageTextToText.from_pretrained(SCENES, dtype=torch.float32, trust_remote_code=False)
    adapter = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(base, adapter).save_pretrained(lora)
    (lora / "checkpoint.json").write_text(json.dumps({"base": "/mnt/nowhere/base", "step": 2, "steps": 4}))
    recipe.write_text(RECIPE.format(data=write_rated_scenes(home / "data", "foreign").as_posix()))
    words = WITH_BASE[command].format(lora=lora, run=lora.parent, recipe=recipe, out=home / "out").split()
    assert cli.run(words) != 0
    said = capsys.readouterr()
    assert "its base '/mnt/nowhere/base' is no known model, and not there; name it" in said.err + said.out
    assert cli.run([*words, "--model-base", str(home / "away")]) == 0


@pytest.mark.parametrize("revision", ("../x", "a/../b", "/etc", "a\n", "\0", "-x", "a b", "é"))
def test_a_revision_is_no_path(home: Path, revision: str) -> None:
    folder = write_adapter(home / "in" / "lora", "a/b", revision=revision)
    with pytest.raises(InputError, match="is no commit, branch or tag"):
        find(str(folder))


def test_adapters_on_each_other_end(home: Path) -> None:
    one, other = home / "in" / "lora", home / "in" / "other"
    write_adapter(one, "../other"), write_adapter(other, "../lora")
    for folder in (one, other):
        with pytest.raises(InputError, match="is an adapter itself"):
            find(str(folder))


def test_a_chat_template_is_not_read_from_elsewhere(home: Path) -> None:
    folder = home / "in" / "full"
    shutil.copytree(SCENES, folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    for place in ("away", "in/beside"):
        (home / place / "chat_template.jinja").write_text(template + place)
    config = json.loads((folder / "config.json").read_text())

    def source_of(base: str) -> str | None:
        (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": base}))
        return chat_template_of(fetch(find(str(folder)))).text

    assert source_of("../beside") == template + "in/beside"
    with pytest.raises(HarnessError, match="no chat template"):
        source_of("../../away")


@pytest.mark.parametrize("name", ("../away/model.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", ".."))
@pytest.mark.parametrize("key", ("index", "transformers_weights"))
def test_weights_lie_in_their_folder(home: Path, name: str, key: str) -> None:
    folder = home / "away"
    if key == "index":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: name}))
    with pytest.raises(HarnessError, match="which are no safetensors in this folder"):
        fetch(find(str(folder)))


NAMES = (
    *("../x", "a/b", "/etc/x", "..", ".", ".hidden", "-rf", "a\\b", "a\0b", "a\nb", "", " x", "x" * 300, "é" * 60),
    *("a\u202eb", "ａ／b", "a\u2215b", "~", "$HOME", "a;b", "a|b", "`x`", "a*b", "nul\r"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipes_name_makes_no_path(name: str) -> None:
    known = find_recipe("scenes-demo").model_dump(exclude_unset=True)
    with pytest.raises(RecipeError, match="can't name a run folder"):
        parse_recipe(known | {"name": name})


@pytest.mark.parametrize("name", (*NAMES, "a", "org/model", "judge:x@1"))
def test_files_named_after_models_stay_in_their_folder(home: Path, name: str) -> None:
    scoring = Scoring(board=Board(home / "board"), tasks=[], judge=None, state=home / "state")
    scoring.score(find("scenes-base"), name or "x")
    for path in (answers_file(home, name), ratings_file(home, name)):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    made = {path.relative_to(home).parts[0] for path in home.rglob("*")}
    assert {path.parent for path in home.glob("ratings-*")} == {home}
    assert made <= {
        "away",
        "in",
        "project",
        "answers",
        "state",
        "board",
        "config",
        *(path.name for path in home.glob("ratings-*")),
    }
