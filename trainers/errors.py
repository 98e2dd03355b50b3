"""The user's own mistakes about data, recipes and runs."""


class BadInput(ValueError):
    """What was given can't be used; one line that names it, its value and what is known. A command ends with exit code 2."""


class StageError(RuntimeError):
    """A stage could not do its work; one line. A command ends with exit code 1, and the same command tries again."""
