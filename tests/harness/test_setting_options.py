"""Settings as options: command line over environment over --config file over default, and options without effect."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.cli.lazy import COMMANDS, load_command


def plan(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a dry run of `eval` prints: model, tasks and folder."""
    tasks = [] if any(word in arguments for word in ("--tasks", "--config")) else ["--tasks", "scenes"]
    assert cli.run(["eval", *arguments, *tasks, "--dry-run"]) == 0
    return capsys.readouterr().out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(arguments) == 2
    return capsys.readouterr().err.strip()


def write(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


def test_the_command_line_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "x.toml", '[eval]\nmodel = ["scenes-base"]\ntasks = ["scenes"]\nout = "from-file"\n')
    assert "into from-file;" in plan(file, capsys)
    assert "into runs/eval;" in plan(["--model", "scenes-base"], capsys)
    monkeypatch.setenv("HARNESS_OUT", "from-environment")
    assert "into from-environment;" in plan(file, capsys)
    assert "into given;" in plan([*file, "--out", "given"], capsys)


def test_tables_and_flat_keys_are_names_of_options(
    tmp_path: Path, no_keys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
        model = ["scenes-early"]
        tasks = ["scenes_pope", "scenes_mmhal"]
        limit = 4
        [judge]
        name = "gpt-4o-2024-08-06"
        url = "http://127.0.0.1:9"
        repeats = 2
        set = {detail = "low"}
        [engine]
        batch-size = 8
        [train-then-eval]
        recipe = "of another command"
    """
    said = plan(write(tmp_path / "x.toml", text), capsys)
    assert "score scenes-early" in said
    assert re.search(r"gpt-4o-2024-08-06 \| +8 ", said)  # four answers, twice


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("[judge]\nurll = 'x'", "[judge] urll: unknown key (did you mean 'url'?)"),
        ("[eval]\nmodle = 'x'", "[eval] modle: unknown key (did you mean 'model'?)"),
        ("limmit = 3", "limmit: unknown key (did you mean 'limit'?)"),
        ("[jugde]\nurl = 'x'", "jugde: unknown key (did you mean 'judge'?)"),
        ("limit = ", "x.toml: "),
        ("limit = 'many'", "'--limit'"),
    ),
)
def test_a_mistake_in_a_file_names_file_and_key(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(["eval", "--model", "scenes-base", *write(tmp_path / "x.toml", text)], capsys)
    assert said in error
    assert "\n" not in error


def test_the_gate_and_whole_runs_read_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere: no such file" in refused(
        ["check", *write(tmp_path / "c.toml", "[check]\nbaseline = 'nowhere'\ntolerance = ['a.b=1']")], capsys
    )
    file = write(tmp_path / "t.toml", "[train-then-eval]\nrecipe = 'scenes-demo'\nlimit = 20")
    assert cli.run(["train-then-eval", *file, "--dry-run"]) == 0
    assert "20 instructions from scenes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    (
        (["--judge-url", "http://x"], "--judge-url has no effect: the judge 'scenes'"),
        (["--judge-repeats", "3"], "--judge-repeats has no effect: the judge 'scenes'"),
        (["--judge-detail", "low"], "--judge-detail has no effect: the judge 'scenes'"),
        (["--tasks", "scenes_pope", "--judge", "gpt-4o"], "--judge has no effect: no chosen task needs a judge"),
        (["--model-url", "http://x"], "--model-url has no effect: scenes-base runs here"),
        (["--bnb-4bit-quant-type", "nf4"], "would not act without load_in_4bit"),
        (["--data", "mme=x"], "'mme' is not among the tasks asked for"),
        (["--data", "mme"], "--data 'mme': must be TASK=PATH"),
        (["--serve-patience", "5"], "--serve-patience has no effect: --serve is not given"),
        (["--batch-size", "2", "--model-set", "batch_size=4"], "--model-set batch_size: is given twice"),
    ),
)
def test_an_option_without_effect_is_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [] if "--tasks" in arguments else ["--tasks", "scenes"]
    assert said in refused(["eval", "--model", "scenes-base", *tasks, *arguments, "--dry-run"], capsys)


def test_the_environment_is_for_all_commands_and_may_have_no_effect_on_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_JUDGE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HARNESS_MODEL_URL", "http://127.0.0.1:9")
    assert "score scenes-base" in plan(["--model", "scenes-base"], capsys)
    monkeypatch.setenv("HARNESS_JUDGE", "gpt-4o")
    assert "gpt-4o" in plan(["--model", "scenes-base"], capsys)


@pytest.mark.parametrize("text", ('judge-key = "MY_KEY"', '[judge]\nkey = "MY_KEY"', '[judge]\nkey-env = "MY_KEY"'))
def test_a_key_is_named_in_files_and_by_variables_as_before(
    text: str, tmp_path: Path, no_keys: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["--model", "scenes-base", "--judge", "x", "--judge-url", "http://127.0.0.1:9", "--tasks", "scenes_mmhal"]
    file = write(tmp_path / "x.toml", text)
    assert "--judge-key-env MY_KEY: no such environment variable" in refused(["eval", *file, *judge], capsys)
    for variable in ("HARNESS_JUDGE_KEY", "HARNESS_JUDGE_KEY_ENV"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "OTHER")
            assert "--judge-key-env OTHER: no such environment variable" in refused(["eval", *judge], capsys)


def test_a_key_that_a_file_names_by_both_names_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "x.toml", '[judge]\nkey = "A"\nkey-env = "B"')
    assert "[judge] key-env: judge-key-env is given twice" in refused(["eval", *file, "--model", "scenes-base"], capsys)


def test_quiet_and_verbose_stand_before_the_command_or_after_it(tmp_path: Path) -> None:
    logger = logging.getLogger("harness")
    for arguments, level in (
        (["tasks"], logging.INFO),
        (["-q", "tasks"], logging.WARNING),
        (["tasks", "--quiet"], logging.WARNING),
        (["models", "-v"], logging.DEBUG),
        (["--verbose", "judge", "ledger", "--ledger", str(tmp_path / "x")], logging.DEBUG),
    ):
        cli.run(arguments)
        assert logger.level == level, arguments
    cli.run(["tasks"])


def shown(command: Any) -> list[Any]:
    """All options of a command and of the commands in it."""
    inner = [option for each in getattr(command, "commands", {}).values() for option in shown(each)]
    return [*command.params, *inner]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_each_option_has_one_short_help(name: str) -> None:
    command = load_command(name)
    if COMMANDS[name].help:
        assert (command.help or "").splitlines()[0].startswith(COMMANDS[name].help[:-1])
    for option in shown(command):
        text = getattr(option, "help", None)
        if name != "train-arm" and text is not None:
            assert 0 < len(text) <= 140, (name, option.name, text)


def test_settings_are_named_with_their_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(["eval", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for variable in ("HARNESS_JUDGE]", "HARNESS_JUDGE_TIMEOUT", "HARNESS_BATCH_SIZE", "HARNESS_LIMIT"):
        assert variable in said
