"""Commands under `harness data`: whether benchmarks' data are here, and what brings them."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import DATA, DataOptions, DryRun, Json, check_data, expand
from harness.cli.setting_options import with_settings
from harness.cli.shown import show
from support.errors import FAILED, OK

if TYPE_CHECKING:
    from harness.evaluation.benchmark_data import DataStatus
    from tasks.registry import TaskSpec

data_app = typer.Typer(no_args_is_help=True, help="Tell whether benchmarks' data are here, or bring them.")


@data_app.command("check")
@with_settings(data=DATA)
def data_check_command(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks or suites; default: all.")] = None,
    as_json: Json = False,
    *,
    data: DataOptions,
) -> int:
    """Tell of each task whether it could run now, and what is missing; exit 1 if something is.

    Nothing is downloaded.
    """
    from harness.evaluation.benchmark_data import look_at
    from support.stages import Stages
    from tasks.registry import registry

    chosen = expand(tasks or list(registry().tasks))
    check_data(data.paths, chosen)
    with Stages():
        found = [look_at(task, data.paths, partial=data.partial) for task in chosen]
    if as_json:
        print(json.dumps({"tasks": [_facts(task, status) for task, status in zip(chosen, found, strict=True)]}))
    else:
        _print_table(chosen, found)
    return OK if all(status.ready for status in found) else FAILED


@data_app.command("get")
def data_get_command(
    tasks: Annotated[list[str], typer.Argument(help="Tasks or suites.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address below which the files lie by their names, in place of their authors'.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Download what a script can download, and tell what a person must fetch; exit 1 while something is missing.

    Files go into HARNESS_DATA/TASK, where every command finds them; what the hub has goes into its cache. After an
    interruption the same command goes on.
    """
    from harness.evaluation.benchmark_data import get
    from support.stages import Stages

    chosen = expand(tasks)
    if dry_run:
        for task in chosen:
            _print_sources(task)
        return OK
    with Stages():
        found = [get(task, mirror=mirror) for task in chosen]
    if as_json:
        print(json.dumps({"tasks": [_facts(task, status) for task, status in zip(chosen, found, strict=True)]}))
    else:
        _print_table(chosen, found)
    return OK if all(status.ready for status in found) else FAILED


def _facts(task: "TaskSpec", status: "DataStatus") -> dict[str, Any]:
    """What --json says of a task."""
    return {**asdict(status), "ready": status.ready, "judged": task.judged, "missing": _tell_missing(status)}


def _tell_missing(status: "DataStatus") -> list[str]:
    """What is missing of a task's data, and what brings it; a line each."""
    from harness.evaluation.benchmark_data import by_hand
    from tasks.data_folder import folder_of, sources_of

    lines = [f"{need.what}: {need.why}; {need.command}" for need in status.needs]
    if status.lost:
        lines.append(f"{status.task}: {status.lost:,} of {status.documents:,} documents lack their picture")
    sources = sources_of(status.task)
    if lines and sources is not None:
        lines += by_hand(sources, folder_of(status.task))
    return lines


def _print_table(tasks: "list[TaskSpec]", found: "list[DataStatus]") -> None:
    from support.markdown import cell
    from support.tables import Table

    rows = [
        [
            task.name,
            "yes" if status.ready else "no",
            status.where,
            "" if status.documents is None else f"{status.documents:,}",
            "needed" if task.judged else "",
        ]
        for task, status in zip(tasks, found, strict=True)
    ]
    lines = [f"- {cell(line)}" for status in found for line in _tell_missing(status)]
    missing = ["\n".join(("Missing:", *lines))] if lines else []
    show([Table(["task", "can run", "data", "documents", "judge"], rows), *missing])


def _print_sources(task: "TaskSpec") -> None:
    """What --dry-run says of a task."""
    from harness.evaluation.benchmark_data import by_hand
    from tasks.data_folder import folder_of, sources_of

    sources, folder = sources_of(task.name), folder_of(task.name)
    if sources is None:
        print(f"{task.name}: {task.data} from the hub, into its cache ({task.licence})")
        return
    print(f"{task.name}: into {folder}")
    for file in sources.files:
        size = "size not known" if file.remote.size is None else f"{file.remote.size / 1e6:,.1f} MB"
        there = ", is there" if file.is_in(folder) else ""
        print(f"  {file.path} from {file.remote.url} ({size}, {file.licence}{there})")
    for line in by_hand(sources, folder):
        print(f"  by hand: {line}")
