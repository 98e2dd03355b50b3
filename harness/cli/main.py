"""The entry point of `harness`: signals and the standard streams, before anything else is imported."""

import os
import sys


def main() -> None:
    """Entry point of `harness`."""
    from harness.cli import interrupts

    interrupts.end_at_once()
    _open_streams()
    try:
        from harness.cli.application import end, quiet_libraries

        quiet_libraries()
        code = end(run())
    except KeyboardInterrupt:
        code = interrupts.INTERRUPTED
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    from harness.cli import application

    return application.run(arguments)


def _open_streams() -> None:
    """Where the caller has closed a standard stream, open the null device: else a file takes its number, and is printed
    into. What a stream has no signs for is escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
