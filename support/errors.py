"""The errors of the whole project and the exit code each one ends a command with."""


class BadSetting(ValueError):
    """A setting of the judge has a value that it can't have."""


class NoServer(ValueError):
    """A judge or a model behind a server was named, and where it is was not."""


class UnknownModel(LookupError):
    """No model has this name; the message names the known ones."""


class MissingWeights(LookupError):
    """A known model whose weights aren't here; the message says what is needed and how to get it."""


class ModelError(RuntimeError):
    """A model that is there and can't be loaded; one line."""


OK, FAILED, USAGE, REGRESSED, LOSSY, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes."""


class UsageError(Exception):
    """The user's own mistake: one line, exit code 2."""


class DataError(ValueError):
    """A benchmark's data can't be had or is not what it must be."""


class LayoutError(ValueError):
    """A file or folder of answers or references is not as the benchmark's script wants it."""


class BadInput(ValueError):
    """What was given can't be used; one line that names it, its value and what is known. A command ends with exit code
    2."""


class StageError(RuntimeError):
    """A stage could not do its work; one line. A command ends with exit code 1, and the same command tries again."""


class PovidError(BadInput):
    """Dispreferred answers or noise can't be made as asked; one line."""
