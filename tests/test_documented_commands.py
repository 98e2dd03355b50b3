"""Every command in README.md, CONTRIBUTING.md, ARCHITECTURE.md, docs/, under `--help` and in what `make` prints is one
that the command line takes, and is run here, or stands beside a line that says what it needs.

What is run, is run as it is written, but for SMALLER and for limits in the environment, in a folder that holds a small
training run of the scenes world.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer._click.exceptions import ClickException, MissingParameter, UsageError

from harness.cli.application import complete_options, run
from harness.cli.lazy import COMMANDS, load_command
from harness.cli.lm_eval_words import _TRANSLATED
from tasks.judges.ledger import Ledger
from tests.documented_commands import HELP, MAKE, PAGES, Documented, documented
from tests.harness.rated_scenes import write_rated_scenes

RECIPE = """
name = "scenes-demo"
trainer = "dpo"
base = "scenes-base"
tasks = ["scenes_chair"]
[dataset]
read = "{read}"
test_share = 0.0
[training]
learning_rate = 1e-3
batch_size = 4
checkpoints = 2
warmup_steps = 0
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*q_proj'
"""

SMALLER: Final = {
    **{"checkpoint-24": "checkpoint-1", "checkpoint-47": "checkpoint-2"},
    **{"harness leaderboard": "harness leaderboard --partial", "harness compare": "harness compare --partial"},
    **{"--limit 500": "--limit 6", "--limit 100": "--limit 4", "--against": "--limit 2 --against", " --limit 50": ""},
    " --task scenes_chair": "",  # the default: the same is not run twice
}
"""In a command -> what is run in its place."""

MINUTES: Final = ("harness train-then-eval scenes-demo",)
"""How commands begin that take minutes; they run without a limit."""

ENDS_OTHERWISE: Final = {"harness check": (0, 1, 3), "harness data check": (0, 1), "harness parity": (0, 1)}
"""Commands whose exit code is a verdict on so small a run."""

_LM_EVALS: Final = {"--model_args", "--output_path", "--use_cache", "--include_path", "--no", *_TRANSLATED}
_VLLMS: Final = {"--enable-lora", "--trust-request-chat-template"}
FOREIGN: Final = frozenset({*_LM_EVALS, *_VLLMS, "--cpu"})  # the last is of the script in tests/gpu
"""Options of other programs that the pages name."""

COMMANDS_SHOWN: Final = documented()


def parse(words: list[str]) -> None:
    """Reads words as `harness` does, without running anything; click's exceptions say what is wrong."""
    name, *rest = complete_options(words)
    if name not in COMMANDS:
        raise UsageError(f"no command {name}")
    if name == "lm-eval":
        return  # another program's command line
    command: Any = load_command(name)
    while hasattr(command, "commands"):
        if not rest:
            return
        if rest[0].startswith("-"):
            break
        if rest[0] not in command.commands:
            raise UsageError(f"no command {name} {rest[0]}")
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(name, list(rest))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eval.toml").write_text("")
    (tmp_path / "mine").mkdir()  # of --include-path
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", (*(page.name for page in PAGES), HELP, MAKE))
def test_each_command_of_a_page_is_one_that_is_there(page: str) -> None:
    wrong = []
    for one in (one for one in COMMANDS_SHOWN if one.page == page):
        if one.words[:1] == ["--version"]:
            continue
        try:
            parse(one.words)
        except MissingParameter as problem:
            wrong += [f"{one.text}: {problem.format_message()}"] * one.whole
        except ClickException as problem:
            is_part = not one.whole and "requires an argument" in problem.format_message()
            wrong += [] if is_part else [f"{one.text}: {problem.format_message()}"]
    assert not wrong, "\n".join(wrong)


def all_options() -> set[str]:
    """Of every command, as they are written."""

    def of(command: Any) -> set[str]:
        own = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        return own.union(*map(of, getattr(command, "commands", {}).values()))

    return set().union(*(of(load_command(name)) for name in COMMANDS if name != "lm-eval"), {"--version", "--help"})


def test_each_option_that_a_page_names_is_there() -> None:
    known = all_options() | FOREIGN
    named: dict[str, str] = {}
    for page in PAGES:
        for code in re.findall(r"`(--[^`]+)`", page.read_text(encoding="utf-8")):
            named |= dict.fromkeys(re.findall(r"(?<!\S)--[a-z][a-z_-]*[a-z]", code), page.name)
    assert {option: page for option, page in named.items() if option not in known} == {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a training run as `scenes-demo` leaves one: two checkpoints, a board, a ledger."""
    folder, before = tmp_path_factory.mktemp("world"), Path.cwd()
    (folder / "rated").mkdir()
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(read=write_rated_scenes(folder / "rated", "documented")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_LIMIT", "8")
        patch.setenv("HARNESS_DATA", str(folder / "benchmarks"))
        patch.setenv("OPENAI_API_KEY", "none")
        os.chdir(folder)
        Ledger(folder / "runs" / "ledger.sqlite").close()
        assert run(["train-then-eval", str(recipe), "--out", "runs/scenes-demo", "-q"]) == 0
        yield folder
        os.chdir(before)


def smaller(text: str) -> str:
    for written, small in SMALLER.items():
        text = text.replace(written, small)
    return text


def shown(one: Documented) -> Any:
    takes_minutes = one.text.startswith(MINUTES)
    return pytest.param(one.text, marks=[pytest.mark.slow] if takes_minutes else [], id=f"{one.page}: {one.text[:60]}")


RUN: Final = {
    smaller(one.text).partition(" #")[0].strip(): one for one in COMMANDS_SHOWN if one.whole and not one.needs
}


@pytest.mark.parametrize("text", [shown(one) for one in RUN.values()])
def test_a_command_that_needs_nothing_runs(text: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    if text.startswith(MINUTES):
        monkeypatch.delenv("HARNESS_LIMIT")
        monkeypatch.setenv("HARNESS_OUT", "runs/whole")
    words = Documented(page="", text=smaller(text), whole=True).words
    codes = next((codes for start, codes in ENDS_OTHERWISE.items() if text.startswith(start)), (0,))
    assert run(words) in codes
