"""The command line; the one place that turns errors into exit codes.

0 ok, 1 the run failed, 2 the command was wrong, 3 the regression gate failed, 4 finished, but too many samples failed,
stayed unscored or could not be read. The commands themselves stand in `lazy.COMMANDS`; heavy libraries are imported
inside of them.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Sequence

import typer

from harness.cli.lazy import LazyGroup
from harness.cli.options import ANY, REQUIRE_BETTER, say
from harness.engine.work_sharing import WorkerDone
from support.console import protect_streams, protected_streams, set_up_logging
from support.errors import FAILED, INTERRUPTED, OK, REGRESSED, USAGE, BudgetSpent, HarnessError, JudgeDown
from support.full_disk import describe_full_disk
from support.secrets import redact, remember_address
from tasks.judges.budgets import end_budgets

app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def harness() -> None:
    """Build preference data for vision-language models, train on it, and prove the model got better."""


def main() -> None:
    """Entry point of `harness`."""
    protect_streams()  # for tracebacks, too, which are printed after all else
    _quiet_libraries()
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    with protected_streams():
        for word in given:
            remember_address(word)
        return _run(given)


def _run(given: list[str]) -> int:
    command = next((word for word in given if not word.startswith("-")), "")
    set_up_logging()
    try:
        # Another program's options, behind `lm-eval`, are its own.
        words = given if command == "lm-eval" else complete_options(given)
        result = app(words, prog_name="harness", standalone_mode=False, obj=given)
    except WorkerDone:  # this process has handed its answers to the first one, which does the rest
        return OK
    except Exception as error:
        full = None if isinstance(error, HarnessError) else describe_full_disk(error)
        if full is not None:
            return say(full, FAILED)
        if (code := _exit_code_of(error)) is None:
            raise
        return say(_message_of(error) + _hint_to_resume(error, command, given), code)
    code = result if isinstance(result, int) else OK
    if code in (OK, REGRESSED):  # else the same command goes on with what is left of its budget
        end_budgets()
    return code


def complete_options(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `any` after each `--require-better` that has no name after it: typer has no options whose
    value may be left out."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        found.append(word)
        if word == REQUIRE_BETTER and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
            found.append(ANY)
    return found


def _message_of(error: Exception) -> str:
    shown = getattr(error, "format_message", None)  # click's errors
    return str(shown() if shown else error)


def _hint_to_resume(error: Exception, command: str, given: Sequence[str]) -> str:
    """The command that continues, if a judge or the user ended the run; else nothing."""
    again = f"go on with: harness {shlex.join(map(redact, given))}"
    if isinstance(error, (JudgeDown, BudgetSpent)):
        return f"\nharness: all replies so far are kept; {again}"
    if isinstance(error, typer.Abort) and command in ("eval", "train-then-eval", "vlfeedback", "povid"):
        return f"stopped; what was done is kept; {again}"
    return ""


def _exit_code_of(error: Exception) -> int | None:
    """The exit code of a known error; None for a mistake in the code, which keeps its traceback."""
    if isinstance(error, HarnessError):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if hasattr(error, "format_message"):  # typer's usage errors share no public base class
        return USAGE
    if isinstance(error, (OSError, FloatingPointError)):
        return FAILED
    return None


def _quiet_libraries() -> None:
    """Hide the bars and warnings of other libraries; switch their telemetry off."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about libraries
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads do not take the cores of a small machine
