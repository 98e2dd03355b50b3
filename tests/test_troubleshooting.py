"""docs/troubleshooting.md has a line for every message that a user can get.

A message is looked for by its longest literal part, as a reader would. A line covers it if the part stands in it, or if
the line is a pattern of it: `...`, words in capitals and numbers stand for anything. One long part of a pattern is
enough, since messages are put together of several texts.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from support import errors

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs/troubleshooting.md"
ROOMS: Final = ("support", "tasks", "leaderboards", "trainers", "harness")
VARIABLE: Final = "\0"
SHORTEST: Final = 12
"""Characters of a literal part: one with fewer can't be told from others."""

LONG: Final = 20
"""Characters of a part that no two kinds of messages share."""

FEW: Final = 6
"""Letters of a pattern: one with fewer fits anything."""

RAISED: Final = {name for name, each in vars(errors).items() if isinstance(each, type)}
REASONS: Final = {"FailedAnswer", "NoReply", "PermanentError", "TransientError"}
"""What a single question gives in place of an answer or a reply."""
LOGGED: Final = {"warning", "error"}
"""Of a logger, and of a reader of a task's YAML."""
SPOKEN: Final = RAISED | REASONS | LOGGED
WRAPPED: Final = ("support", "tasks/columns.py", "trainers/config", "leaderboards/board")
"""Where a ValueError is told to the user, behind the name of its file or key."""

NOT_A_USERS: Final = {
    "the metric can't count these records: ": "of a task that somebody is writing",
    "a record names no image": "of a task that somebody is writing",
    ": what the metric counts is no finite number": "of a task that somebody is writing",
    "each side needs the records of at least one judge call": "of a Python function",
    "no noise overflow ": "of a Python function",
    "the row has none": "a part of a message",
    " more such rows)": "a part of a message",
    "no truth value": "a part of a message",
    "another value": "a part of a message",
    "a finite number": "a part of a message",
    " (did you mean ": "a part of a message",
    ", by too_long = 'drop'": "a part of a message",
    "a run needs at least one entry": "of a Python function",
    "entries of two runs: ": "of a Python function",
}
"""Messages that no command gives, each with the reason why the page leaves it out."""


def name_of(node: ast.expr) -> str:
    """Of a variable, or of the class, function or method that is called."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


Named = dict[str, list[ast.expr]]
"""What a name stands for: all that is assigned to it, or what a function of this name returns."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def texts_in(node: ast.AST, named: Named) -> Iterator[str]:
    """The texts of an expression, with a mark where something is filled in; of two ways to say it, both."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values]
        yield "".join(map(str, parts))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts_in(part.value, named)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"%[\d.,]*[sdrgf]", VARIABLE, node.value)
    elif isinstance(node, ast.Name | ast.Call) and (name := name_of(node)) in named:
        for each in named[name]:
            yield from texts_in(each, {key: value for key, value in named.items() if key != name})
    elif isinstance(node, ast.IfExp):
        yield from texts_in(node.body, named)
        yield from texts_in(node.orelse, named)
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.Tuple | ast.List):
        for child in ast.iter_child_nodes(node):
            yield from texts_in(child, named)


def assigned_in(nodes: Iterable[ast.AST]) -> Named:
    """Names that are given a text, such as `why = "..."`."""
    found: Named = {}
    for node in nodes:
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs += zip(target.elts, node.value.elts, strict=False)
                else:
                    pairs.append((target, node.value))
        for target, value in pairs:
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(value)
    return found


def returned_by(function: Function) -> list[ast.expr]:
    """What a function of texts returns."""
    returns = function.returns
    says_text = returns is not None and "str" in ast.unparse(returns)
    nodes = ast.walk(function) if says_text else ()
    return [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]


def messages_of(file: Path) -> Iterator[str]:
    """Every text that the file raises, logs as a warning, or gives as a reason."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    spoken = SPOKEN | {"ValueError"} if str(file.relative_to(ROOT)).startswith(WRAPPED) else SPOKEN
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    known = assigned_in(tree.body) | {each.name: returned_by(each) for each in functions}
    for body in (*functions, *(node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign))):
        nodes = list(ast.walk(body))
        calls = [node for node in nodes if isinstance(node, ast.Call) and name_of(node.func) in spoken]
        named = known | assigned_in(nodes) if calls else {}
        for call in calls:
            for argument in call.args:
                yield from texts_in(argument, named)


@cache
def longest_part(message: str) -> str:
    """Of a message, the most literal text in one piece."""
    return max((part.strip(" :;,()'\"`") for part in message.split(VARIABLE)), key=len)


@cache
def all_messages() -> dict[str, str]:
    """Each message, and where it is."""
    found: dict[str, str] = {}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for message in messages_of(file):
                if len(longest_part(message)) >= SHORTEST and " " in longest_part(message):
                    found.setdefault(message, str(file.relative_to(ROOT)))
    return found


@cache
def lines_of_page() -> list[str]:
    """What stands in backticks in the first column of its tables."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", row)[1].replace(r"\|", "|") for row in rows]
    return [span for cell in cells for _, span in re.findall(r"(`+)(.+?)\1(?!`)", cell)]


@cache
def pattern_of(line: str) -> tuple[list[str], re.Pattern[str]]:
    """The literal parts of a line, and what all of them in their order look like."""
    parts = [part.strip(" '\"()") for part in re.split(r"\.\.\.|…|\b[A-Z][A-Z0-9_]*\b|\d+", line)]
    words = [part for part in parts if re.search(r"[a-z]", part)]
    few = sum(len(re.findall(r"[a-z]", part)) for part in words) < FEW
    return words, re.compile("$^" if few else ".*".join(map(re.escape, words)), re.DOTALL)


def covers(line: str, message: str) -> bool:
    """Whether a reader who has the message finds it by this line."""
    words, in_order = pattern_of(line)
    if longest_part(message) in line or any(len(part) >= LONG and part in message for part in words):
        return True
    return bool(in_order.search(message))


def test_each_message_has_a_line() -> None:
    told = {message: where for message, where in all_messages().items() if not any(map(message.count, NOT_A_USERS))}
    missing = [
        f"{where}: {message.replace(VARIABLE, '...')}"
        for message, where in told.items()
        if not any(covers(line, message) for line in lines_of_page())
    ]
    assert not missing, f"{len(missing)} messages have no line in {PAGE.name}:\n" + "\n".join(missing)


def test_what_is_left_out_is_there() -> None:
    assert [part for part in NOT_A_USERS if not any(part in message for message in all_messages())] == []


@pytest.mark.parametrize(
    ("line", "message", "found"),
    (
        ("row N: must be yes or no", "\0: must be yes or no", True),
        ("`N of M rows ... (null)", "\0 of \0 rows have no answer (null)", True),
        ("NAME = VALUE: must be ...", "\0 = \0: must be at least \0", True),
        ("no such folder", "\0: no such file or folder", False),
        ("F: ...", "\0: can't be read", False),
        ("asked with 4096 tokens more", "\0: \0; asked with \0 tokens more for its thoughts", True),
    ),
)
def test_a_line_covers(line: str, message: str, found: bool) -> None:
    assert covers(line, message) == found
