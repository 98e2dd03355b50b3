"""How commands print their tables: drawn on a terminal, in markdown in a pipe, or as `--format` says.

    show(leaderboard_blocks(entries))                   # in a command of TABLES, which have the option

The option is added to these commands where they are loaded (`lazy`), so that no command declares it.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

import typer
from typer.core import TyperOption
from typer.main import get_command

from support.console import is_terminal
from support.errors import UsageError

if TYPE_CHECKING:
    from support.tables import Block

Form = Literal["markdown", "csv", "json", "latex"]

TABLES: Final = (
    *(
        "tasks",
        "models",
        "recipes",
        "cache",
        "data check",
        "data get",
        "eval",
        "score",
        "rescore",
        "parity",
        "train-then-eval",
        "watch",
    ),
    *("leaderboard", "compare", "check", "power", "judge ledger", "judge agree", "judge bench", "judge families"),
    *("vlfeedback build", "vlfeedback annotate", "vlfeedback sources", "vlfeedback check", "vlfeedback leaks"),
    "attention",
)
"""Commands that print tables, by their words."""
WITHOUT_JSON: Final = ("attention",)
"""Those of them that print no JSON."""


class _Asked:
    form: Form | None = None
    """Of the command that runs; None: what suits where it prints."""


def take_form(words: str, context: Any) -> None:
    """Keep what `--format` says of the command that is about to run; `--format json` is `--json`. UsageError for two
    forms."""
    form: Form | None = context.meta.pop("harness.format", None) if words in TABLES else None
    json = next((param for param in context.command.params if "--json" in param.opts), None)
    if form == "json":
        if json is None or words in WITHOUT_JSON:
            raise UsageError(f"--format json: harness {words} prints no JSON; give markdown, csv or latex")
        context.params[json.name] = True
    elif form is not None and json is not None and context.params.get(json.name):
        raise UsageError(f"--json and --format {form} are forms of one output: give one of them")
    _Asked.form = form


def asked_form() -> Form | None:
    """What `--format` says of the command that runs."""
    return _Asked.form


def _keep(context: typer.Context, form: Form | None) -> None:
    if form is not None:
        context.meta["harness.format"] = form


def format_option() -> TyperOption:
    """`--format`, which commands of TABLES take."""

    def declared(
        form: Annotated[
            Form | None,
            typer.Option(
                "--format", help="Form of tables; default: drawn on a terminal, else markdown.", callback=_keep
            ),
        ] = None,
    ) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command()(declared)
    option = next(option for option in get_command(app).params if option.name == "form")
    option.expose_value = False
    return cast(TyperOption, option)


def show(blocks: "Sequence[Block] | str", *, json: str | None = None, csv: Callable[[], str] | None = None) -> None:
    """Print tables, and texts in markdown; in their place `json`, if --json asks for it. `csv` makes that form where it
    holds more than the tables."""
    if json is not None:
        print(json)
        return
    from support import tables

    found = [blocks] if isinstance(blocks, str) else blocks
    form = _Asked.form
    if form is None and is_terminal(sys.stdout):
        from support.terminal import draw, screen_of

        print(end="", flush=True)  # bars give way
        draw(found, screen_of(sys.stdout))
    elif form == "csv":
        print(tables.to_csv(found) if csv is None else csv(), end="")
    else:
        print(tables.to_latex(found) if form == "latex" else tables.to_markdown(found))
