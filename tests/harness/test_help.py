"""What `--help` shows, and how options may be written."""

from collections.abc import Iterator
from typing import Any

import pytest

from harness.cli.application import root_command, run
from harness.cli.examples import examples_of
from harness.cli.lazy import COMMANDS, load_command
from harness.cli.panels import PANELS


def every_command() -> Iterator[tuple[str, Any]]:
    def of(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from of(f"{words} {name}", inner)

    for name in COMMANDS:
        if name != "lm-eval":
            yield from of(name, load_command(name))


EVERY = dict(every_command())


@pytest.mark.parametrize("words", (["-h"], ["--help"], ["help"], ["eval", "-h"], ["help", "eval"], ["help", "judge"]))
def test_help_is_had_by_each_usual_way(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "Usage: harness" in shown
    assert "<bool>" not in shown
    assert ("Usage: harness eval" in shown) is ("eval" in words)


def test_commands_are_listed_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {group} ─") for group in ("Score", "Train", "Data", "Read", "Gate", "Look")]
    assert places == sorted(places)
    assert "train-arm" not in shown
    assert "─ Commands ─" not in shown


def test_help_about_an_unknown_command_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "evl"]) == 2
    assert "Did you mean 'eval'" in capsys.readouterr().err


def test_one_option_is_in_the_same_panel_everywhere_and_flags_take_no_value() -> None:
    panels: dict[str, set[str | None]] = {}
    for command in EVERY.values():
        for param in command.params:
            if param.param_type_name == "option":
                panels.setdefault(param.name, set()).add(param.rich_help_panel)
                assert param.metavar == "" or not param.is_bool_flag
    several = {name: found for name, found in panels.items() if len(found & {*PANELS}) > 1}
    assert several.keys() == {"answers"}  # how many of a question, and the file that keeps a model's


def test_options_may_be_written_with_underscores_and_as_lm_eval_has_them() -> None:
    read = load_command("eval").make_context(
        "eval", ["-M", "x", "-t", "pope", "-L", "3", "--batch_size", "4", "--no_interleave", "--output_path", "there"]
    )
    given = read.params
    assert (given["model"], given["tasks"], given["limit"]) == (["x"], ["pope"], 3)
    assert (given["batch_size"], given["interleave"], str(given["out"])) == ("4", False, "there")


def test_an_unknown_option_is_answered_with_each_similar_one_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--batchsize", "4"]) == 2
    said = capsys.readouterr().err
    assert said.count("--batch-size") == 1
    assert "batch_size" not in said


def test_completion_belongs_to_the_program_and_not_to_its_groups() -> None:
    assert "install_completion" in {param.name for param in root_command().params}
    assert not any("install_completion" in {param.name for param in command.params} for command in EVERY.values())


def test_each_command_shows_two_examples(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown_by = {words: len(examples_of(words, group=hasattr(EVERY[words], "commands"))) for words in EVERY}
    assert {words for words, count in shown_by.items() if count != 2} == {"train-arm"}  # which nobody calls
    assert run(["tasks", "show", "-h"]) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in examples_of("tasks show"))


@pytest.mark.parametrize(
    ("line", "expected"),
    (
        ("harness ev", "eval"),
        ("harness eval --tasks sil", "silkie"),
        ("harness eval --tasks mme,scenes_p", "mme,scenes_pope"),
        ("harness eval --model scenes-b", "scenes-base"),
        ("harness train-then-eval scenes-d", "scenes-demo"),
        ("harness tasks sh", "show"),
        ("harness tasks show scenes_p", "scenes_pope"),
        ("harness judge bench --judge-u", "--judge-url"),
    ),
)
def test_a_shell_completes_commands_options_and_names(
    line: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_HARNESS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit) as end:
        run([])
    assert (end.value.code, capsys.readouterr().out.split()) == (0, [expected])
