"""A new task from a table, written and looked at as a run would.

make_task(NewTask(name="parts", kind="open", table=Path("parts.csv")), Path("mine")).documents
"""

from dataclasses import dataclass
from pathlib import Path

from support.errors import DataError, UsageError
from support.files import atomic_write_text
from tasks.benchmarks.task_from_table import NewTask, yaml_of
from tasks.outside import include
from tasks.registry import registry


@dataclass(frozen=True, kw_only=True)
class MadeTask:
    """What was written."""

    path: Path
    documents: int
    pictures: int


def make_task(task: NewTask, out: Path) -> MadeTask:
    """Write the YAML file of a task into a folder, which is included from then on; nothing is left where the table or
    one of its pictures can't be used. UsageError, DataError, TaskError."""
    file = out / f"{task.name}.yaml"
    known = registry()
    if task.name in known.tasks or task.name in known.groups or file.exists():
        taken = file if file.exists() else "a task of this name"
        raise UsageError(f"name {task.name!r}: {taken} is there; take another name")
    text = yaml_of(task, out)
    atomic_write_text(file, text)
    try:
        include(out)
        return _look(task, file)
    except BaseException:
        file.unlink()
        raise


def _look(task: NewTask, file: Path) -> MadeTask:
    from harness.evaluation.benchmark_data import look_at
    from harness.evaluation.generate import documents_drawn, load_tasks

    spec = registry().task(task.name)
    status = look_at(spec)
    if status.needs:
        raise DataError(status.needs[0].why)
    docs = documents_drawn(load_tasks([spec])[task.name], None, 0)
    if status.lost:
        from support.images import problem_of

        first = next(doc for doc in docs if problem_of(str(doc["image"])))
        why = problem_of(str(first["image"]))
        raise DataError(f"{task.table}: {status.lost} of {len(docs)} rows have no picture that can be read: {why}")
    return MadeTask(path=file, documents=len(docs), pictures=len({doc["image"] for doc in docs}))
