"""What a command says at its end: where its results are, and the commands that come next."""

import logging
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.judge_names import SCENES
from support.secrets import redact
from tasks.outside import OPTION, options

if TYPE_CHECKING:
    from leaderboards.board.board import Board
    from leaderboards.board.entry import Entry

log = logging.getLogger(__name__)

_BASE: Final = ("--base", "--model-base")
_OF_ONE_MODEL: Final = frozenset(
    ("--model", "-M", "--name", "--model-path", *_BASE, "--model-version", "--model-url", "--model-key-env")
)
"""Options of `eval` that say which model is scored, each with a value."""


def tell_next(results: object, *commands: Sequence[str]) -> None:
    """Log where the results are and what comes next, a line each; commands are words behind `harness`."""
    log.info(f"results: {results}")
    for words in commands:
        own = [] if OPTION in words else options()
        log.info(f"next: harness {shlex.join(map(redact, [*words, *own]))}")


def after_eval(board: "Board", entries: "Sequence[Entry]", given: Sequence[str]) -> None:
    """After `eval` with the words `given`: a comparison where the board has two models, else the same of another model;
    and the page."""
    if not entries:
        return
    out = board.folder.parent.as_posix()
    more = ["--partial"] if any(entry.partial for entry in entries) else []
    models = _models_alike(board, entries)
    compared = ["compare", *models, "--board", out, *more]
    another = [*_of_another(given), "--model", _base_of(given) or "MODEL"]
    tell_next(board.folder, compared if len(models) > 1 else another, _page(out, *more))


def after_score(board: "Board", entries: "Sequence[Entry]") -> None:
    """After `score --out` or `rescore`: a comparison of two results of one task, their scores by other labels, and the
    page."""
    out = board.folder.parent.as_posix()
    more = ["--partial"] if any(entry.partial for entry in entries) else []
    models = _models_alike(board, entries)
    shown = ["compare", *models, "--board", out, *more] if len(models) > 1 else ["leaderboard", out, *more]
    tell_next(board.folder, shown, *_rescorings(out, entries), _page(out, *more))


def _rescorings(out: str, entries: "Sequence[Entry]") -> list[list[str]]:
    """Scores by the tasks that have other labels for these answers, where the labels are here."""
    from harness.evaluation.rescored_runs import tasks_rescored_by
    from tasks.data_folder import stored
    from tasks.registry import registry

    asked = {entry.task for entry in entries}
    found = [task.name for task in registry().tasks.values() if asked.intersection(tasks_rescored_by(task))]
    return [["rescore", out, "--task", name] for name in found if name not in asked and stored(name) is not None]


def after_run(folder: Path, base: str | None, best: str | None, results: object, *, partial: bool = False) -> None:
    """After `train-then-eval` or `watch`: what changed from the base to the best checkpoint, and the page, as a file
    and in the browser; of runs with a limit or on partial data, if these are what there is."""
    out = folder.as_posix()
    more = ["--partial"] if partial else []
    named = [*(["--base", base] if base is not None else []), *more]
    changed = [["compare", base, best, "--board", out, *more]] if base is not None and best is not None else []
    tell_next(results, *changed or [["leaderboard", out, *named]], _page(out, *named), ["view", out, *named])


def after_seeds(folder: Path, base: str, compared: Sequence[str], *, partial: bool = False) -> None:
    """After trainings with several seeds: the comparison again (its words), and the page with a row for them."""
    more = ["--partial"] if partial else []
    page = _page(folder.as_posix(), "--base", base, "--group-seeds", *more)
    tell_next(folder / "report.md", compared, page)


def after_training(folder: Path, base: str | None, checkpoints: Sequence[Path], tasks: Iterable[str]) -> None:
    """After `train`: the last checkpoint beside its base, and what changed."""
    if not checkpoints:
        return
    last, out = checkpoints[-1].as_posix(), folder.as_posix()
    models = [base, last] if base is not None else [last]
    scored = [word for model in models for word in ("--model", model)]
    asked = ["eval", *scored, "--tasks", ",".join(tasks) or "TASKS", "--out", out]
    then = ["compare", base, last, "--board", out] if base is not None else _page(out)
    tell_next(folder, asked, then)


def after_build(folder: Path, pairs: int) -> None:
    """After `vlfeedback build`: a look at the rows, and training on the pairs, if there are any."""
    check = ["vlfeedback", "check", f"{folder.as_posix()}/rows.parquet"]
    train = ["train", "RECIPE", "--train-data", (folder / "pairs.parquet").as_posix()]
    tell_next(folder, check, *([train] if pairs else []))


def after_bench(judge: str | None, benches: Sequence[str], files: Sequence[Path]) -> None:
    """After `judge bench`: the same of another judge, and scores by this one; `judge` None: no judge was asked."""
    if not files:
        return
    out = files[-1].parent.as_posix()
    other = ["judge", "bench", "JUDGE", "--bench", ",".join(benches), "--out", out]
    tasks = SCENES if judge == SCENES else "hallucination"
    by_this = ["eval", "--model", "MODEL", "--tasks", tasks, "--judge", judge or ""]
    tell_next(out, other, *([by_this] if judge else []))


def after_injecting(out: Path, pairs: int) -> None:
    """After `povid inject`: a look at the pairs, and training on them, if there are any."""
    file = (out / "pairs.jsonl").as_posix()
    train = ["train", "RECIPE", "--train-data", file]
    tell_next(out, *([["vlfeedback", "check", file], train] if pairs else []))


def after_attention(out: Path, models: Sequence[str], task: str) -> None:
    """After `attention`: two models beside each other, and their scores on the same task."""
    beside = [] if len(models) > 1 else [["attention", models[0], "--against", "MODEL", "--task", task]]
    named = [word for model in models for word in ("--model", model)]
    tell_next(out, *beside, ["eval", *named, "--tasks", task])


def _page(out: str, *more: str) -> list[str]:
    return ["leaderboard", out, *more, "--html", f"{out}/board.html"]


def _models_alike(board: "Board", entries: "Sequence[Entry]") -> list[str]:
    """Two models with scores of one task: one that was there before, or was scored first, and the last one."""
    last = entries[-1]
    alike = [
        entry.model
        for entry in board.current(partial=last.partial)
        if entry.key[1:] == last.key[1:] and entry.model != last.model
    ]
    return [alike[0], last.model] if alike else [last.model]


def _base_of(given: Sequence[str]) -> str | None:
    """The model that an adapter was put on, where a command names one."""
    found = None
    for word, after in zip(given, [*given[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") in _BASE:
            found = value if equals else after
    return found


def _of_another(given: Sequence[str]) -> list[str]:
    """The words of a command without those that name its model."""
    found: list[str] = []
    words = iter(given)
    for word in words:
        name, equals, _ = word.partition("=")
        if (name if len(name) == 2 else name.replace("_", "-")) in _OF_ONE_MODEL:
            if not equals:
                next(words, None)
        else:
            found.append(word)
    return found
