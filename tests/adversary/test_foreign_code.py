"""Code that comes with a checkpoint: nothing of it runs unless the user allows it, whatever waits on standard input."""

import ast
import contextlib
import io
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.engine.config import EngineConfig
from harness.models.fetch import fetch
from harness.models.load import facts_of, load
from harness.models.provenance import digest_of_model
from harness.models.spec import find
from harness.serving.settings import ServerSettings
from support.errors import HarnessError, InputError
from tests.adversary.foreign_checkpoints import ELSEWHERE, PAYLOADS, Payload
from tests.harness.rated_scenes import write_rated_scenes
from tests.harness.test_train_cli import RECIPE
from trainers.training.adapters import merge
from trainers.training.foreign_code import digest_of_code
from trainers.training.read_base import check_base

ROOT = Path(__file__).resolve().parents[2]
CONCRETE = {"PeftModel", "CLIPVisionConfig", "GenerationConfig", "QwenVLTokenizer", "QwenVLImageProcessor", "super()"}
"""Classes whose `from_pretrained` is of one class and reads no code."""


@pytest.fixture(autouse=True)
def yes_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def calls_of(path: Path, *methods: str) -> list[ast.Call]:
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in found if isinstance(call.func, ast.Attribute) and call.func.attr in methods]


def source_files() -> list[Path]:
    return [path for package in ("harness", "trainers", "tasks", "support") for path in (ROOT / package).rglob("*.py")]


def test_every_call_that_could_load_code_says_whether_it_may() -> None:
    asked = []
    for path in source_files():
        for call in calls_of(path, "from_pretrained", "from_config"):
            assert isinstance(call.func, ast.Attribute)
            given = {keyword.arg for keyword in call.keywords}
            asked.append(ast.unparse(call.func.value))
            if ast.unparse(call.func.value) not in CONCRETE:
                assert "trust_remote_code" in given, f"{path}:{call.lineno}: {ast.unparse(call)}"
    assert {"AutoConfig", "AutoProcessor", "AutoModelForImageTextToText", "CompleteModel"} <= {*asked}


@pytest.mark.parametrize(
    "word", ("get_class_from_dynamic_module", "pipeline(", "weights_only=False", "allow_pickle=True")
)
def test_ways_to_run_what_a_file_holds_are_not_used(word: str) -> None:
    assert not [path for path in source_files() if word in path.read_text(encoding="utf-8")]


def test_pickles_are_read_as_tensors_only() -> None:
    for path in source_files():
        for call in calls_of(path, "load"):
            if ast.unparse(call.func) in ("torch.load", "pickle.load"):
                assert {"weights_only"} <= {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"


def refusal_of(call: Callable[[], Any]) -> str:
    """What the error says that it ends with, in one line; "" where it ends with none."""
    said = ""
    with contextlib.suppress(HarnessError):
        try:
            call()
        except HarnessError as error:
            said = str(error)
            raise
    assert "\n" not in said
    return said


@pytest.mark.parametrize("kind", PAYLOADS)
def test_no_code_runs_without_the_users_word(kind: str, tmp_path: Path) -> None:
    mark, payload = tmp_path / "mark", PAYLOADS[kind]
    spec = fetch(find(str(payload.write(tmp_path / "folder", mark))))

    told = refusal_of(lambda: load(spec))
    assert payload.refused in told if payload.refused else not told
    assert not refusal_of(lambda: check_base(str(spec.folder), spec.name, "{{ messages }}")) or payload.refused
    assert not mark.exists()


def test_code_of_a_base_does_not_run_under_an_adapter(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    base = PAYLOADS["a model that it does not know"].write(tmp_path / "base", mark)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "../base"})
    )
    for what in (lambda: load(fetch(find(str(adapter)))), lambda: merge(base, adapter, tmp_path / "out", "x")):
        with pytest.raises(InputError, match=r"own\.py"):
            what()
    assert not mark.exists()


def test_allowed_code_runs_and_is_part_of_the_models_identity(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = PAYLOADS["a model that it does not know"].write(tmp_path / "folder", mark)
    spec = fetch(find(str(folder), remote_code=True))
    lm = load(spec)
    assert mark.exists()
    assert type(lm.hf).__name__ == "Own"
    before, facts = digest_of_model(spec), facts_of(spec, EngineConfig())
    assert before["code"] == facts["code"]
    assert "code" not in digest_of_model(find(str(folder)))
    (folder / "own.py").write_text((folder / "own.py").read_text() + "\n# another\n")
    after = digest_of_model(spec)
    assert after["code"] != before["code"]
    assert after["weights"] == before["weights"]


def test_allowed_code_is_the_folders_own(tmp_path: Path) -> None:
    payload = Payload(edits={"config": {"model_type": "own", "auto_map": ELSEWHERE}})
    spec = fetch(find(str(payload.write(tmp_path / "folder", tmp_path / "mark")), remote_code=True))
    with pytest.raises(InputError, match="names code of another repository, 'someone/else--own"):
        load(spec)


@pytest.mark.parametrize("command", ("vllm", "sglang"))
@pytest.mark.parametrize("allowed", (True, False))
def test_a_server_is_told_what_the_user_allows(command: str, allowed: bool) -> None:
    spec = find("qwen2.5-vl-3b", remote_code=allowed)
    words = ServerSettings(command=command).command_of(spec, name="x", adapter="y")
    assert ("--trust-remote-code" in words) == allowed


class Pickled:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ("pytorch_model.bin", "model.safetensors", "training_args.bin", "tokenizer.model"))
def test_no_pickle_runs(name: str, tmp_path: Path) -> None:
    folder, mark = (
        PAYLOADS["a model that transformers knows"].write(tmp_path / "x", tmp_path / "code"),
        tmp_path / "mark",
    )
    (folder / name).write_bytes(pickle.dumps({"a": Pickled(mark)}))
    if name.startswith("pytorch"):
        (folder / "model.safetensors").unlink()
    refusal_of(lambda: load(fetch(find(str(folder)))))
    assert not mark.exists()


FEW = "--tasks scenes_chair --limit 1 --out {out}"
COMMANDS = {
    "eval": f"eval --model {{model}} {FEW}",
    "eval, under a known name": f"eval --model scenes-base --model-path {{model}} {FEW}",
    "attention": "attention {model} --limit 1 --out {out}",
    "parity": "parity {model} scenes_chair --samples 1",
    "models check": "models check {model}",
    "train": "train {recipe} --plain-trl --out {out}",
    "train, another base": "train {recipe} --plain-trl --base {model} --out {out}",
    "train-then-eval": f"train-then-eval {{recipe}} --plain-trl {FEW}",
    "vlfeedback build": "vlfeedback build --source scenes --rows 4 --pool {model} --pool {model}@0.5 --judge exact",
    "watch": "watch {run} --once --attempts 1 --settle 0 --tasks scenes_chair --limit 1",
}
"""Each command that loads weights, on a checkpoint {model}; {run} is a folder in which it is checkpoint-1."""


def words_of(command: str, at: Path) -> tuple[list[str], Path]:
    """The command on a checkpoint of a type that transformers does not know, and the file that its code writes."""
    model = PAYLOADS["a model that it does not know"].write(at / "run" / "checkpoint-1", at / "mark")
    (model / "trainer_state.json").write_text('{"global_step": 1, "max_steps": 1}')
    recipe, data = at / "recipe.toml", write_rated_scenes(at / "data", "foreign").as_posix()
    recipe.write_text(
        RECIPE.format(data=data).replace('"scenes-base"', f'"{model}"').replace("points = 2", "points = 1")
    )
    words = COMMANDS[command].format(model=model, recipe=recipe, out=at / "out", run=model.parent)
    return words.split(), at / "mark"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_code_without_the_option(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, mark = words_of(command, tmp_path)
    code = cli.run(words)
    assert code == (1 if command == "watch" else 2)  # a watcher goes on to the next checkpoint
    assert "needs Python code of its own, 'own.py', which runs only with --trust-remote-code" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_code_with_the_option(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, mark = words_of(command, tmp_path)
    assert cli.run([*words, "--trust-remote-code"]) in (0, 4)
    assert mark.exists()
    made = [json.loads(path.read_text()) for path in tmp_path.rglob("checkpoint-1/checkpoint.json")]
    made += [json.loads(path.read_text())["entries"][0]["provenance"] for path in tmp_path.rglob("board/*.json")]
    assert {one["code"] for one in made} in ({digest_of_code(tmp_path / "run" / "checkpoint-1")}, set())
