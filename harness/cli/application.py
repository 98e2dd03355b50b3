"""The command line; the one place that turns errors into exit codes, each with one line.

0 ok, 1 the run failed, 2 the command was wrong, 3 the regression gate failed, 4 finished, but too many samples failed,
stayed unscored or could not be read. The commands themselves stand in `lazy.COMMANDS`; heavy libraries are imported
inside of them.
"""

import contextlib
import errno
import logging
import os
import select
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.main import get_command

from harness.cli.interrupts import end_in_order, is_interrupted
from harness.cli.lazy import LazyGroup
from harness.cli.lm_eval_words import as_ours
from harness.cli.missing import tell_missing
from harness.cli.options import ANY, DRY_RUN, REQUIRE_BETTER, say
from harness.cli.outputs import shorten
from harness.cli.panels import arrange
from harness.cli.working import shown_at_work
from harness.engine.work_sharing import WorkerDone
from support.console import protect_streams, protected_streams, set_up_logging
from support.errors import (
    FAILED,
    INTERRUPTED,
    NO_READER,
    OK,
    REGRESSED,
    USAGE,
    BudgetSpent,
    HarnessError,
    JudgeDown,
    NotReady,
    UsageError,
    one_line,
)
from support.extras import describe_missing
from support.full_disk import describe_full_disk
from support.processes import is_launched, is_main_process
from support.secrets import redact, remember_address
from tasks.judges.budgets import end_budgets

_TRAINING: Final = ("train", "train-arm", "train-then-eval", "watch", "vlfeedback", "povid")

app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


KEPT: Final = {
    "eval": "the answers and the judge's replies so far, and the scores of finished models",
    "score": "the judge's replies so far",
    "parity": "the judge's replies so far",
    "watch": "the answers and the judge's replies so far, and the scores of finished checkpoints",
    "train": "the checkpoints that are written",
    "train-then-eval": "the scores, pairs and checkpoints that are written",
    "vlfeedback build": "the instructions, answers and ratings that are written",
    "vlfeedback annotate": "the ratings that are written",
    "povid inject": "the answers that are rewritten",
    "judge bench": "the judge's replies so far",
    "data get": "what is downloaded, parts of files too",
    "models check": "what is downloaded, parts of files too",
}
"""What an interrupted command leaves for the same command, by its words."""


def _print_version(wanted: bool) -> None:
    if wanted:
        import harness

        print(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def harness_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Build preference data for vision-language models, train on it, and prove the model got better."""
    end_in_order()


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    with protected_streams():
        for word in given:
            remember_address(word)
        try:
            return _run(given)
        finally:
            _end_servers()


def _in_our_words(command: str, given: list[str]) -> list[str]:
    """The arguments as typer reads them. Another program's options, behind `lm-eval`, are its own."""
    if command == "lm-eval":
        return given
    words = complete_options(given)
    if command != "eval":
        return words
    place = words.index(command) + 1
    return [*words[:place], *as_ours(words[place:])]


def root_command() -> Any:
    """`harness` itself, as typer runs it."""
    command = get_command(app)
    arrange(command)
    return command


def _end_servers() -> None:
    """End a model server that the command has started and left, as a judge's."""
    if (host := sys.modules.get("harness.serving.server_host")) is not None:
        host.end_servers()


def _run(given: list[str]) -> int:
    command = next((word for word in given if not word.startswith("-")), "")
    try:
        set_up_logging()
        _check_folder()
        _check_home()
        words = _in_our_words(command, given)
        with shown_at_work(command, words):
            result = root_command().main(words, prog_name="harness", standalone_mode=False, obj=given)
        code = result if isinstance(result, int) else OK
        if code in (OK, REGRESSED) and DRY_RUN not in words:  # else the same command goes on with what is left
            end_budgets()
    except WorkerDone:  # this process has handed its answers to the first one, which does the rest
        return OK
    except Exception as error:
        return _end_interrupted(command, given) if is_interrupted() else _tell(error, command, given)
    except SystemExit as stop:
        # typer ends so after any broken pipe, of a socket, too; rich after one of its own
        if _is_reader_gone() or isinstance(stop.__context__, BrokenPipeError):
            return NO_READER
        raise
    return _end_interrupted(command, given) if code == INTERRUPTED else code


def end(code: int) -> int:
    """Write what is printed and not yet written; the exit code, which is another if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = NO_READER
    except OSError as error:
        code = say(f"what was printed can't be written: {one_line(error)}", FAILED)
    else:
        return code
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it ends
    return code


def _check_folder() -> None:
    """UsageError where the current folder was removed: libraries end in ways that can't be caught."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the current folder is not there any more; change to one that is") from None


def _check_home() -> None:
    """UsageError where libraries would find no folder to keep anything in, as with a container's own user."""
    if os.path.expanduser("~") == "~":
        raise UsageError(f"HOME is not set, and the system knows no home of user {os.getuid()}; set HOME to a folder")


def _is_reader_gone() -> bool:
    """Whether nobody reads what is printed, as behind `| head`."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _end_interrupted(command: str, given: Sequence[str]) -> int:
    if not is_main_process():
        return INTERRUPTED  # the first process says it for all
    again = "go on with" + (" the same command" if is_launched() else f": harness {shlex.join(map(redact, given))}")
    words = [command, *given[given.index(command) + 1 :][:1]] if command in given else [command]
    kept = KEPT.get(" ".join(words), KEPT.get(command))
    return say(f"stopped; kept: {kept}; {again}" if kept else "", INTERRUPTED)


def _tell(error: Exception, command: str, given: Sequence[str]) -> int:
    """Print one line about an error; the exit code."""
    if (full := None if isinstance(error, HarnessError) else describe_full_disk(error)) is not None:
        return say(full, FAILED)
    if isinstance(error, NotReady):
        return tell_missing(error.needs, error.exit_code, as_json="--json" in given)
    code = _exit_code_of(error)
    if code == FAILED and error.__cause__ is not None:
        _show_place(error)
    if code is not None:
        return say(_message_of(error) + _hint_to_resume(error, given), code)
    cause = error.__cause__ if isinstance(error, typer.Abort) and error.__cause__ else error  # typer's, of an EOFError
    _show_place(cause)
    if isinstance(cause, ModuleNotFoundError) and (lacking := describe_missing(cause, training=command in _TRAINING)):
        return say(lacking, FAILED)
    words = f"{type(cause).__name__}: {one_line(cause)}"
    return say(f"{words}: a mistake in harness, which -v shows the place of; please report it", FAILED)


def _show_place(error: BaseException) -> None:
    """With `-v`, where an error comes from."""
    if logging.getLogger("harness").isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)


def complete_options(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `any` after each `--require-better` that has no name after it: typer has no options whose
    value may be left out."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        found.append(word)
        if word.replace("_", "-") == REQUIRE_BETTER and (
            place + 1 == len(arguments) or arguments[place + 1].startswith("-")
        ):
            found.append(ANY)
    return found


def _message_of(error: Exception) -> str:
    shown = getattr(error, "format_message", None)  # click's errors
    if similar := getattr(error, "possibilities", None):  # of an unknown option; not each in its two spellings
        error.possibilities = list(dict.fromkeys(each.replace("_", "-") for each in similar))  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        other = f" and {os.fsdecode(error.filename2)}" if error.filename2 is not None else ""
        return one_line(
            f"{shorten(os.fsdecode(error.filename))}{other}: {error.strerror[0].lower()}{error.strerror[1:]}"
        )
    text = " ".join(str(shown() if shown else error).splitlines()).replace("Value error, ", "")  # pydantic's, by typer
    if text.startswith("Got unexpected extra argument") and (context := getattr(error, "ctx", None)) is not None:
        text += f"; {' '.join(context.get_usage().split())} (-h)"
    return text


def _hint_to_resume(error: Exception, given: Sequence[str]) -> str:
    """The command that continues, if a judge ended the run; else nothing."""
    if isinstance(error, (JudgeDown, BudgetSpent)):
        return f"\nharness: all replies so far are kept; go on with: harness {shlex.join(map(redact, given))}"
    return ""


def _exit_code_of(error: Exception) -> int | None:
    """The exit code of a known error; None for a mistake in the code."""
    if isinstance(error, HarnessError):
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's usage errors share no public base class
        return USAGE
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return USAGE
    if isinstance(error, (OSError, FloatingPointError)):
        return FAILED
    return None


def quiet_libraries() -> None:
    """Hide the bars and warnings of other libraries; switch their telemetry off; protect what is printed."""
    protect_streams()  # for tracebacks, too, which are printed after all else
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about libraries
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads do not take the cores of a small machine
