"""The errors of the whole project, and the exit code a command ends with.

    HarnessError
    ├── InputError               2   something that was given can't be used
    │   ├── UsageError           2   the command line itself
    │   ├── NotReady             2   what a run needs and has not, all of it
    │   ├── UnknownName          2   a name that nothing has; says which are known
    │   ├── SettingError         2   a setting with a value it can't have, or one that would not act
    │   │   └── NoKeyError       2   a key that is not set, or a server that nothing names
    │   ├── NoJudgeError         2   a judge is needed and none was given
    │   ├── RecipeError          2   a recipe, or a key in it
    │   ├── DataError            2   instructions, preference data, images: files and their rows
    │   ├── TaskError            2   a task's YAML or module is wrong
    │   ├── AnswerFileError      2   answers made elsewhere, or their references
    │   ├── TrainingError        2   a model, a loss and data that don't go together
    │   ├── ClusterError         2   processes or a Slurm job that can't be had as asked for
    │   ├── BoardError           2   entries, logs and boards
    │   │   ├── CompareError     2   two results that can't be compared
    │   │   └── RecordsError     2   records that hold no image in common, or not what their metric counts
    │   └── MissingWeights       2   a known model whose weights are not here
    └── RunError                 1   work that could not be done; the same command tries again
        ├── BenchmarkDataError   1   a benchmark's documents can't be had, or are not what they must be
        ├── ModelError           1   a model that is there and can't be loaded
        ├── DownloadError        1   a file that does not come from its address
        ├── ServerError          1   a server that does not start, or does not answer
        ├── StoreError           1   a cache, a ledger or another store that can't be read or written
        └── JudgeError           1   a judge gave no reply
            ├── JudgeDown        1   the judge gives no more replies
            └── BudgetSpent      1   the next call could pass the budget

Each message is one line: the thing, the value, and what is known. Any other exception is a mistake in the code; a
command says so in one line, and shows its place with `-v`.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OK, FAILED, USAGE, REGRESSED, LOSSY, INTERRUPTED, NO_READER = 0, 1, 2, 3, 4, 130, 141
"""Exit codes: done; the run failed; what was given can't be used; the regression gate failed; finished, but too many
samples failed; stopped by the user; nobody reads what is printed, as behind `| head`."""


class HarnessError(Exception):
    """Any error that a user is told of in one line."""

    exit_code = FAILED


class InputError(HarnessError, ValueError):
    """Something that was given can't be used."""

    exit_code = USAGE


class UsageError(InputError):
    """The command line itself: options that contradict each other, a value that an option can't have."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Something that is missing."""

    what: str
    why: str
    command: str
    """What brings it, or the option that names another."""
    is_key: bool = False
    """A key, which an estimate does without."""
    code: int = USAGE
    """Exit code of a run that lacks nothing else."""

    @classmethod
    def of(cls, error: Exception, *, is_key: bool = False) -> "Need":
        """The same as an error says it: WHAT: WHY; COMMAND."""
        said, _, command = one_line(error).partition("; ")
        what, _, why = said.partition(": ")
        code = error.exit_code if isinstance(error, HarnessError) else FAILED
        return cls(what=what, why=why, command=command, is_key=is_key, code=code)

    def __str__(self) -> str:
        return self.what + f": {self.why}" * bool(self.why) + f"; {self.command}" * bool(self.command)


class NotReady(InputError):
    """A run lacks things that it needs; nothing was started. A line for each, and one in front of several."""

    def __init__(self, needs: Sequence[Need]) -> None:
        self.needs = tuple(needs)
        self.exit_code = exit_code_of(self.needs)
        lines = list(map(str, needs))
        first = [f"{len(needs)} things are missing, and nothing was started:"] if len(needs) > 1 else []
        super().__init__("\n".join([*first, *lines]))

    def __reduce__(self) -> tuple[type["NotReady"], tuple[tuple[Need, ...]]]:
        return NotReady, (self.needs,)


def exit_code_of(needs: Sequence[Need]) -> int:
    """Of a run that lacks these: USAGE, unless all that it lacks is broken and not absent."""
    return max((need.code for need in needs), default=OK)


class UnknownName(InputError, LookupError):
    """A name that nothing has.

    `UnknownName("task", "mne", ["mme"])` reads: unknown task 'mne' (did you mean 'mme'?); known: mme
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)}")

    def __reduce__(self) -> tuple[type["UnknownName"], tuple[str, str, list[str]]]:
        return UnknownName, (self.kind, self.name, self.known)


class SettingError(InputError):
    """A setting has a value that it can't have, or would not act."""


class NoKeyError(SettingError):
    """A key that is not set, or a server that nothing names."""


class NoJudgeError(InputError, LookupError):
    """A judge is needed and none was given."""


class RecipeError(InputError):
    """A recipe, or a key in it, can't be used."""


class DataError(InputError):
    """Instructions, preference data or images can't be read, or are not what they must be."""


class TaskError(InputError):
    """A task's YAML or module is wrong; the message names file and field."""


class AnswerFileError(InputError):
    """A file or folder of answers or references is not as the benchmark's script wants it."""


class TrainingError(InputError):
    """A model, a loss and data that can't be trained together."""


class ClusterError(InputError):
    """Processes, or a Slurm job, that can't be had as asked for."""


class BoardError(InputError):
    """Entries, sample logs, boards or published scores can't be used as asked."""


class CompareError(BoardError):
    """Two results that can't be compared."""


class RecordsError(BoardError):
    """Records that have no image in common, or don't hold what their metric counts."""


class MissingWeights(InputError, LookupError):
    """A known model whose weights are not here; the message says how to get them."""


class RunError(HarnessError, RuntimeError):
    """Work that could not be done; the same command tries again."""


class BenchmarkDataError(RunError, ValueError):
    """A benchmark's documents can't be had, or are not what they must be."""


class ModelError(RunError):
    """A model that is there and can't be loaded."""


class DownloadError(RunError):
    """A file can't be downloaded; what came of it is kept where it can be gone on with."""


class ServerError(RunError):
    """A server that does not start, or does not answer."""


class StoreError(RunError):
    """A cache, a ledger or another store can't be read or written."""


class JudgeError(RunError):
    """A judge gave no reply."""


class JudgeDown(JudgeError):
    """The judge gives no more replies; what was paid for is in the ledger."""


class BudgetSpent(JudgeError):
    """The next call could pass the budget."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What follows an unknown name: the nearest known one in parentheses, then all of them; empty if none are known."""
    names = list(known)
    by_lower = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
    return f"{hint}; known: {', '.join(names)}" if names else hint


def first_few(names: Sequence[str], count: int = 5) -> str:
    """The first of many names, quoted, for a message."""
    return ", ".join(map(repr, names[:count])) + (" ..." if len(names) > count else "")


def one_line(error: object) -> str:
    """An error of another library, or any text, on one line."""
    return " ".join(str(error).split())


def first_line(error: object) -> str:
    """The first line of an error that is not blank; the name of its class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
