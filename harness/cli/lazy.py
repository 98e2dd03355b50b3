"""Commands that are imported when they are run: `harness --help` needs their names and one line about each only."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from harness.cli.outputs import check_outputs
from harness.cli.panels import arrange
from harness.cli.shown import TABLES, format_option, take_form
from support.console import set_up_logging
from support.settings import check_integer


@dataclass(frozen=True)
class Command:
    """One command of `harness`."""

    target: str
    """MODULE:NAME of a command function or of a Typer app with commands of its own."""
    help: str = ""
    """The first line of its help text; empty for a command that is not listed."""
    group: str = ""
    """The heading in `harness --help` under which it is listed."""


COMMANDS: Final = {
    "eval": Command("harness.cli.evaluate:eval_command", "Score models or checkpoints on tasks.", "Score"),
    "score": Command(
        "harness.cli.score:score_command", "Print the official scores of answers made elsewhere.", "Score"
    ),
    "rescore": Command(
        "harness.cli.rescore:rescore_command",
        "Score answers on boards again, by a task's rule and labels of today.",
        "Score",
    ),
    "lm-eval": Command(
        "harness.cli.lm_eval:lm_eval_app", "Run lm-eval's own command line with our model class.", "Score"
    ),
    "import": Command(
        "harness.cli.import_results:import_command", "Put results of lm-eval or lmms-eval on a board.", "Score"
    ),
    "parity": Command(
        "harness.cli.parity:parity_command", "Compare shared decoding with exact decoding of one model.", "Score"
    ),
    "train-then-eval": Command(
        "harness.cli.train_then_eval:train_then_eval_command",
        "Score the base, train, score every checkpoint, compare.",
        "Train",
    ),
    "train": Command(
        "harness.cli.train:train_command", "Train on preferences that exist, or pretrain embedded models.", "Train"
    ),
    "train-arm": Command("harness.cli.train:train_arm_command"),
    "watch": Command(
        "harness.cli.watch:watch_command", "Score each checkpoint of a training run as it is written.", "Train"
    ),
    "vlfeedback": Command(
        "harness.cli.vlfeedback.app:vlfeedback_app", "Build, read and check preference data.", "Data"
    ),
    "povid": Command("harness.cli.povid:povid_app", "Make POVID's dispreferred answers and noised images.", "Data"),
    "data": Command("harness.cli.data:data_app", "Tell whether benchmarks' data are here, or bring them.", "Data"),
    "leaderboard": Command(
        "harness.cli.leaderboard:leaderboard_command", "Print the board: models by metrics.", "Read"
    ),
    "view": Command("harness.cli.view:view_command", "Show the page in the browser, live.", "Read"),
    "compare": Command("harness.cli.compare:compare_command", "Show what changed from one model to another.", "Read"),
    "judge": Command(
        "harness.cli.judge:judge_app", "Show what judges replied and cost, and how good they are.", "Read"
    ),
    "check": Command(
        "harness.cli.check:check_command", "Fail (exit 3) where a score is worse than the baseline.", "Gate"
    ),
    "power": Command(
        "harness.cli.power:power_command", "Tell which difference between two models a run can detect.", "Gate"
    ),
    "tasks": Command("harness.cli.catalog:tasks_app", "List the tasks, or show one.", "Look"),
    "models": Command("harness.cli.catalog:models_app", "List the models that have a name here, or try one.", "Look"),
    "recipes": Command("harness.cli.recipes:recipes_app", "List the recipes, or show one.", "Look"),
    "cache": Command(
        "harness.cli.cache:cache_app", "Show what is kept on disk between runs, or take some of it away.", "Look"
    ),
    "attention": Command(
        "harness.cli.attention:attention_command", "Measure a model's attention to the image.", "Look"
    ),
    "store": Command(
        "harness.cli.store:store_app", "Check, upgrade or rescue ledgers, stores of answers, fingerprints.", "Look"
    ),
}

HELP: Final = "help"
"""`harness help COMMAND` is `harness COMMAND --help`."""


class LazyGroup(TyperGroup):
    """The group of all commands; a command is imported when it is run."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.params += verbosity_options()
        for name, command in COMMANDS.items():
            hidden, panel = not command.help, command.group or None
            self.add_command(TyperCommand(name, help=command.help, hidden=hidden, rich_help_panel=panel))
        self.add_command(TyperCommand(HELP, help="Show what a command does, and its options.", rich_help_panel="Look"))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words of the command; those after `help` are a command whose help is shown."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == [HELP] else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to run, imported."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def load_command(name: str) -> Any:
    """The command of this name, or the group of commands, as typer runs it."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        target, function = typer.Typer(), target
        target.command(name)(function)
    target._add_completion = False  # of a whole program; so typer has it for each group, too
    command = get_command(target)
    command.name = name
    if name != "lm-eval":  # its options are another program's
        _add_options(command, verbosity_options() if name in _NO_TASKS else [*verbosity_options(), include_option()])
        _add_format(command, name)
        arrange(command, name)
        _check_values_first(command, name)
    return command


def _check_values_first(command: Any, words: str) -> None:
    for name, inner in getattr(command, "commands", {}).items():
        _check_values_first(inner, f"{words} {name}")
    run = command.invoke

    def check_and_run(context: Any) -> Any:
        params = {param.name: param for param in command.params}
        options = {name: param.opts[0] if param.param_type_name == "option" else name for name, param in params.items()}
        given = [name for name in params if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"]
        for name, value in context.params.items():
            for one in value if isinstance(value, (list, tuple)) else (value,):
                check_integer(options[name], one)
        check_outputs(words, context.params, options, given)
        take_form(words, context)
        return run(context)

    command.invoke = check_and_run


_NO_TASKS: Final = ("models", "povid", "cache", "store")
"""Commands that take no task, and read no board."""


def _add_options(command: Any, options: list[TyperOption]) -> None:
    command.params += options
    for inner in getattr(command, "commands", {}).values():
        _add_options(inner, options)


def _add_format(command: Any, words: str) -> None:
    if words in TABLES:
        command.params.append(format_option())
    for name, inner in getattr(command, "commands", {}).items():
        _add_format(inner, f"{words} {name}")


def verbosity_options() -> list[TyperOption]:
    """`-v` and `-q`, which every command takes, before its name or after it."""

    def declared(
        verbose: bool = typer.Option(False, "-v", "--verbose", help="Also print details.", callback=_be_verbose),
        quiet: bool = typer.Option(False, "-q", "--quiet", help="Print warnings and errors only.", callback=_be_quiet),
    ) -> None: ...

    return _options_of(declared)


def _include(folders: list[str] | None) -> None:
    from tasks.outside import include

    for folder in folders or ():
        include(Path(folder))


_Folders = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        is_eager=True,
        help="Folder with tasks of your own: YAML files, and modules whose code is run; repeatable.",
        callback=_include,
    ),
]


def include_option() -> TyperOption:
    """`--include-path`, which every command takes that names tasks or reads boards."""

    def declared(include_path: _Folders = None) -> None: ...

    return _options_of(declared)[0]


def _options_of(declared: Callable[..., None]) -> list[TyperOption]:
    """The options that a function declares, each handled by its callback alone."""
    app = typer.Typer(add_completion=False)
    app.command()(declared)
    options = [option for option in get_command(app).params if option.name in declared.__annotations__]
    for option in options:
        option.expose_value = False
    return options  # type: ignore[return-value]


def _be_verbose(given: bool) -> None:
    if given:
        set_up_logging(1)


def _be_quiet(given: bool) -> None:
    if given:
        set_up_logging(-1)
