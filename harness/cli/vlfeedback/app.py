"""The group `harness vlfeedback`."""

import typer

from harness.cli.vlfeedback.build import build_command, push_command
from harness.cli.vlfeedback.leaks import leaks_command
from harness.cli.vlfeedback.pairs import pairs_command
from harness.cli.vlfeedback.rate import annotate_command
from harness.cli.vlfeedback.read import check_command, convert_command, sources_command, stats_command

vlfeedback_app = typer.Typer(no_args_is_help=True, help="Build, read and check preference data.")
vlfeedback_app.command("build")(build_command)
vlfeedback_app.command("annotate")(annotate_command)
vlfeedback_app.command("pairs")(pairs_command)
vlfeedback_app.command("convert")(convert_command)
vlfeedback_app.command("stats")(stats_command)
vlfeedback_app.command("check")(check_command)
vlfeedback_app.command("leaks")(leaks_command)
vlfeedback_app.command("sources")(sources_command)
vlfeedback_app.command("push")(push_command)
