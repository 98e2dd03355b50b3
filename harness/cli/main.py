"""The command line; the one place that turns errors into exit codes.

0 ok, 1 the run failed, 2 the command was wrong, 3 the regression gate failed, 4 finished, but too many samples failed
or stayed unscored. Heavy libraries are imported inside the commands.
"""

import os
import shlex
import sys
import warnings

import typer

from harness.cli.attention import attention_command
from harness.cli.board import check_command, compare_command, import_command, leaderboard_command, power_command
from harness.cli.catalog import models_app, tasks_app
from harness.cli.evaluate import eval_command, parity_command, score_command
from harness.cli.judge import judge_app
from harness.cli.options import say, spelled_out
from harness.cli.povid import povid_app
from harness.cli.train import train_arm_command, train_command
from harness.cli.train_then_eval import train_then_eval_command
from harness.cli.vlfeedback import vlfeedback_app
from harness.cli.watch import watch_command
from harness.engine.work_sharing import WorkerDone
from support.console import set_up_logging
from support.errors import FAILED, INTERRUPTED, OK, USAGE, BudgetSpent, HarnessError, JudgeDown

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Build preference data for vision-language models, train on it, and prove the model got better.",
)
app.add_typer(tasks_app, name="tasks")
app.add_typer(judge_app, name="judge")
app.add_typer(models_app, name="models")
app.add_typer(vlfeedback_app, name="vlfeedback")
app.command("eval")(eval_command)
app.command("score")(score_command)
app.command("parity")(parity_command)
app.command("train-then-eval")(train_then_eval_command)
app.command("train")(train_command)
app.command("train-arm", hidden=True)(train_arm_command)
app.command("watch")(watch_command)
app.command("leaderboard")(leaderboard_command)
app.command("compare")(compare_command)
app.command("check")(check_command)
app.command("power")(power_command)
app.command("import")(import_command)
app.command("attention")(attention_command)
app.add_typer(povid_app, name="povid")


def main() -> None:
    """Entry point of `harness`."""
    _quiet()
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    set_up_logging()
    try:
        # Another program's options, behind `lm-eval`, are its own.
        words = given if given[:1] == ["lm-eval"] else spelled_out(given)
        result = app(words, prog_name="harness", standalone_mode=False, obj=given)
    except WorkerDone:  # another process has the answers now, and does the rest
        return OK
    except Exception as error:
        if (code := _code_of(error)) is None:
            raise
        return say(_line(error) + _resume(error, given), code)
    return result if isinstance(result, int) else OK


def _line(error: Exception) -> str:
    shown = getattr(error, "format_message", None)  # click's errors
    return str(shown() if shown else error)


def _resume(error: Exception, given: list[str]) -> str:
    """Where a judge, or the user, ended the run: the command that goes on from there."""
    if isinstance(error, (JudgeDown, BudgetSpent)):
        return f"\nharness: all replies so far are kept; go on with: harness {shlex.join(given)}"
    if isinstance(error, typer.Abort) and given[:1] in (["eval"], ["train-then-eval"], ["vlfeedback"], ["povid"]):
        return f"stopped; what was done is kept; go on with: harness {shlex.join(given)}"
    return ""


def _code_of(error: Exception) -> int | None:
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


def _quiet() -> None:
    """Libraries' bars and chatter are not ours to show; telemetry is off."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about libraries
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle threads that spin cost the busy ones on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval_command(context: typer.Context) -> int:
    """Run lm-eval's own command line, with our LM as `--model vlm-harness`."""
    from harness.cli.lm_eval import main as lm_eval

    return lm_eval(context.args)
