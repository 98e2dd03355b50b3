"""A command starts with what it needs: no library is imported that it does not use."""

import subprocess
import sys
from pathlib import Path

import pytest

from leaderboards.board.board import Board
from tests.leaderboards.conftest import make_entry  # noqa: F401
from tests.leaderboards.makers import MakeEntry

OF_MODELS = {"torch", "transformers", "lm_eval", "datasets", "peft", "accelerate", "huggingface_hub"}
HEAVY = OF_MODELS | {"pandas", "scipy", "sklearn", "pyarrow", "sympy", "jinja2", "openai", "httpx2", "requests"}
OF_COMPILING = ("torch._dynamo.eval_frame", "torch._inductor", "torch.distributed.tensor", "sympy")
RUN = "import sys; from harness.cli.main import run; code = run(sys.argv[1:])"
LIGHTLY = """
import sys
from harness.models.light_imports import allow, light_imports
allow()
with light_imports():
    import transformers.models.llava.modeling_llava, transformers.utils as utils
"""


def modules_after(code: str, *words: str, folder: Path) -> set[str]:
    """What a fresh interpreter has imported after `code`, which gets these words."""
    told = f"{code}\nprint('modules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", told, *words], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


COMMANDS = (
    "tasks",
    "leaderboard runs",
    "compare one two --board runs",
    "check --baseline runs --baseline-model one --model two --board runs",
    "score mme answers",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_read_boards_and_answers_import_no_library_of_models(
    command: str,
    tmp_path: Path,
    make_entry: MakeEntry,  # noqa: F811
) -> None:
    board = Board(tmp_path / "runs" / "board")
    for model in ("one", "two"):
        board.add([make_entry(model=model, run=f"run-{model}")], [])
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "existence.txt").write_text("a.jpg\tIs there a dog?\tYes\tYes\n")
    found = modules_after(RUN, *command.split(), folder=tmp_path)
    assert {name.partition(".")[0] for name in found} & HEAVY == set()


def test_code_of_models_is_imported_without_what_decoding_does_not_need(tmp_path: Path) -> None:
    found = modules_after(LIGHTLY, folder=tmp_path)
    assert [name for name in (*OF_COMPILING, "scipy", "sklearn") if name in found] == []
    assert "transformers.modeling_utils" in found


@pytest.mark.slow
def test_what_was_left_out_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    code = f"""{LIGHTLY}
import torch
assert utils.is_scipy_available() and utils.is_torch_distributed_available()
def add(x): return x + 1
assert torch.compile(add, backend="eager")(torch.ones(2)).tolist() == [2, 2]
from torch.distributed.tensor import DTensor
assert DTensor.__name__ == "DTensor"
"""
    assert {*OF_COMPILING[:1], *OF_COMPILING[2:]} <= modules_after(code, folder=tmp_path)


@pytest.mark.slow
def test_scoring_imports_neither_compilers_nor_trainers(tmp_path: Path) -> None:
    words = "eval --model scenes-base --tasks scenes_pope --limit 2 --out x".split()
    found = modules_after(RUN, *words, folder=tmp_path)
    assert "torch" in found
    assert [name for name in (*OF_COMPILING[:3], "scipy", "sklearn", "peft", "trl") if name in found] == []
    assert (tmp_path / "x" / "board").is_dir()


@pytest.mark.slow
def test_an_adapter_and_its_base_are_scored_by_one_command(tmp_path: Path) -> None:
    """In either order: what the first one's import leaves out, the other may need."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    from harness.models.spec import find

    base = find("scenes-base").pretrained
    model = AutoModelForImageTextToText.from_pretrained(base)
    targets = r".*language_model.*q_proj"
    get_peft_model(model, LoraConfig(r=2, target_modules=targets)).save_pretrained(tmp_path / "mine")
    options = "--tasks scenes_pope --limit 2"
    for out, models in (("x", "--model scenes-base --model mine"), ("y", "--model mine --model scenes-base")):
        modules_after(f"{RUN}; assert code == 0", *f"eval {models} {options} --out {out}".split(), folder=tmp_path)
        assert {entry.model for entry in Board(tmp_path / out / "board").entries()} == {"scenes-base", "mine"}
