"""Errors: one tree, drawn in the module's docstring, with an exit code on each class."""

import inspect
import pickle
import re

import pytest

from support import errors
from support.errors import HarnessError, UnknownName, did_you_mean, first_line, one_line


def classes() -> list[type[HarnessError]]:
    found = vars(errors).values()
    return [each for each in found if inspect.isclass(each) and issubclass(each, HarnessError)]


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert errors.__doc__ is not None
    parents: list[tuple[int, str]] = []
    drawn: dict[str, tuple[str | None, int]] = {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^( {4}[ │├└─]*)(\w+)(?: +(\d)|$)", line):
            depth, name, code = len(found[1]), found[2], int(found[3] or 1)
            while parents and parents[-1][0] >= depth:
                parents.pop()
            drawn[name] = (parents[-1][1] if parents else None, code)
            parents.append((depth, name))
    real = {
        each.__name__: (
            next((base.__name__ for base in each.__bases__ if issubclass(base, HarnessError)), None),
            each.exit_code,
        )
        for each in classes()
    }
    assert drawn == real


def test_an_unknown_name_says_what_is_known_and_what_was_meant() -> None:
    error = UnknownName("task", "mne", ["pope", "mme"])
    assert str(error) == "unknown task 'mne' (did you mean 'mme'?); known: mme, pope"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


@pytest.mark.parametrize(
    ("name", "known", "said"),
    (
        ("LLAVA", ["LLaVA", "SVIT"], " (did you mean 'LLaVA'?); known: LLaVA, SVIT"),
        ("x", ["LLaVA"], "; known: LLaVA"),
        ("x", [], ""),
    ),
)
def test_a_suggestion_is_the_nearest_name_in_any_case(name: str, known: list[str], said: str) -> None:
    assert did_you_mean(name, known) == said


def test_a_librarys_message_becomes_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert first_line(ValueError("\n  first\nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
