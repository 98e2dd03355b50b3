"""What a shell completes after options and arguments that take a name: tasks and suites, models, recipes."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from typer._click.shell_completion import CompletionItem


def _list_tasks() -> dict[str, str]:
    from tasks.registry import registry

    known = registry()
    suites = {group.name: f"suite: {', '.join(group.tasks)}" for group in known.groups.values()}
    return suites | {task.name: task.description for task in known.tasks.values()}


def _list_single_tasks() -> dict[str, str]:
    from tasks.registry import registry

    return {task.name: task.description for task in registry().tasks.values()}


def _list_models() -> dict[str, str]:
    from harness.models.spec import named_models

    return {spec.name: spec.description for spec in named_models().values()}


def _list_recipes() -> dict[str, str]:
    from trainers.config.recipe import known_recipes

    return dict.fromkeys(known_recipes(), "recipe")


NAMES: Final[dict[str, Callable[[], dict[str, str]]]] = {
    "tasks": _list_tasks,
    "task": _list_single_tasks,
    "tasks show name": _list_single_tasks,
    "model": _list_models,
    "base": _list_models,
    "against": _list_models,
    "models check name": _list_models,
    "recipe": _list_recipes,
    "recipes show name": _list_recipes,
}
"""Parameter, behind its command's words where others of its name take something else -> names that it takes."""


def complete_names(parameter: Any, words: str) -> None:
    """Have shells complete the names that a parameter of a command (its `words`) takes."""
    listed = NAMES.get(f"{words} {parameter.name}", NAMES.get(parameter.name))
    if listed is None or (parameter.name == "recipe" and words.startswith("vlfeedback")):
        return

    def complete(context: Any, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        return list(_items(listed(), before + comma, last))

    parameter.shell_complete = complete


def _items(names: dict[str, str], before: str, begin: str) -> Iterable[CompletionItem]:
    for name, description in names.items():
        if name.startswith(begin):
            yield CompletionItem(before + name, help=description or None)
