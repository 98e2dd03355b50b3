"""Whether a task's documents and pictures are there, and how to get them.

    status = look_at(registry().task("amber"))       # nothing is downloaded
    status.ready, status.where, status.needs
    get(registry().task("amber"))                     # brings what a script can bring into HARNESS_DATA/amber

Local data are read as a run would read them, with their pictures. Of what the hub has, only whether it is in the
cache, or could be downloaded, is looked at.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from harness.evaluation.generate import documents_drawn, keep_loaded, load_tasks
from harness.models.hub import SECONDS, ask_hub
from support.downloads import download
from support.errors import BenchmarkDataError, Need
from support.images import problem_of
from support.unpacking import unpack
from tasks.data_folder import SourceFile, Sources, folder_of, sources_of, stored
from tasks.registry import TaskSpec
from tasks.table_pictures import IMAGE
from tasks.task_yaml import load_yaml

log = logging.getLogger(__name__)

LOADER: Final = "tasks.documents.load"
DATA_FILES: Final = (".parquet", ".jsonl", ".ndjson", ".json", ".tsv", ".csv", ".zip")


@dataclass(frozen=True, kw_only=True)
class DataStatus:
    """Where a task's data are, and what is missing of them."""

    task: str
    where: str
    documents: int | None = None
    """None: not looked at."""
    lost: int = 0
    """Documents whose picture can't be had."""
    needs: tuple[Need, ...] = ()
    download: int | None = 0
    """Bytes that the hub's caches will hold of them; None: not known."""

    @property
    def ready(self) -> bool:
        """Whether the task can run, and no picture of it is missing."""
        return not self.needs and not self.lost


def look_at(
    task: TaskSpec,
    data: Mapping[str, str] | None = None,
    *,
    partial: bool = False,
    limit: int | None = None,
    seed: int = 0,
    keep: bool = False,
) -> DataStatus:
    """Where a task's data are, with `data` as the user gave it; of pictures, those of `limit` documents,
    drawn by `seed`. `keep`: what was read is used by the run that comes next, in this process."""
    given = (data or {}).get(task.name) or stored(task.name)
    if task.data == "embedded":
        return DataStatus(task=task.name, where="in the package")
    if task.dataset != LOADER:
        return DataStatus(task=task.name, where=task.data)
    if given is not None:
        status, loaded = _read(task, str(given), data or {}, partial, limit, seed)
        if keep and loaded is not None:
            keep_loaded(task, loaded, data=data, partial_data=partial)
        return status
    if (local := load_yaml(task.path)["metadata"].get("local")) is not None:
        why = f"{task.data} is not on the hub as a table: {local}"
        return DataStatus(task=task.name, where="nowhere", needs=(_need_of(task, why),))
    return _ask_hub(task)


def get(task: TaskSpec, *, mirror: str | None = None) -> DataStatus:
    """Bring what a script can bring of a task's data, and tell what is missing then. `mirror`: an address below which
    the files lie, each by its name, in place of where their authors have them. DownloadError, DataError.
    """
    sources = sources_of(task.name)
    if sources is None:
        if task.dataset == LOADER and stored(task.name) is None:
            load_tasks([task])  # into the hub's cache
        return look_at(task)
    before = look_at(task) if stored(task.name) is not None else None
    if before is not None and before.ready:
        return before
    folder = folder_of(task.name)
    for file in sources.missing_from(folder):
        _bring(file, folder, mirror)
    return look_at(task)


def _bring(file: SourceFile, folder: Path, mirror: str | None) -> None:
    target, remote = folder / file.path, file.remote
    if mirror is not None:
        remote = replace(remote, url=f"{mirror.rstrip('/')}/{file.path}")
    digest = download(remote, target)
    if file.remote.sha256 is None:
        log.info(f"{target}: sha256 {digest}; its authors give none to check it by")
    if file.unpack:
        unpack(target, folder, file.unpack)
        target.unlink()


def data_of(task: str) -> str:
    """What a task's data are called where they are missing."""
    return f"data of {task}"


def by_hand(sources: Sources, folder: Path) -> list[str]:
    """What a person must fetch, from where, and where it goes; one line each."""
    return [f"{one.what}: fetch it from {one.url}, and put it into {folder / one.path}" for one in sources.by_hand]


def _need_of(task: TaskSpec, why: str) -> Need:
    command = f"harness data get {task.name}" if sources_of(task.name) else f"--data {task.name}=PATH"
    return Need(what=data_of(task.name), why=why, command=command)


def _read(
    task: TaskSpec, where: str, data: Mapping[str, str], partial: bool, limit: int | None, seed: int
) -> tuple[DataStatus, Any]:
    """The status of local data, and the task with its documents; None where these can't be read."""
    try:
        loaded = load_tasks([task], data=data, partial_data=partial)[task.name]
    except BenchmarkDataError as error:
        why = str(error).removeprefix(f"{task.name}: ")
        return DataStatus(task=task.name, where=where, needs=(_need_of(task, why),)), None
    docs = documents_drawn(loaded, limit, seed)
    problems = [found for doc in docs if (found := problem_of(str(doc.get(IMAGE) or "")))]
    return DataStatus(task=task.name, where=where, documents=len(docs), lost=len(problems)), loaded


def _ask_hub(task: TaskSpec) -> DataStatus:
    where = f"{task.data}@{task.revision[:12]} on the hub"
    if is_cached(task):
        return DataStatus(task=task.name, where=f"{where}, in its cache")
    why, download = _look_on_hub(task)
    if not why:
        return DataStatus(task=task.name, where=f"{where}, to be downloaded", download=download)
    need = Need(what=data_of(task.name), why=f"{where}: {why}", command=f"--data {task.name}=PATH")
    return DataStatus(task=task.name, where=where, needs=(need,))


def is_cached(task: TaskSpec) -> bool:
    """Whether the hub's cache holds data files of this revision, under either id."""
    return any(_is_id_cached(data, task.revision) for data in task.hub_ids)


def _is_id_cached(data: str, revision: str) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    try:
        folder = snapshot_download(data, repo_type="dataset", revision=revision, local_files_only=True)
    except IncompleteSnapshotError as error:  # of a repository of which `datasets` takes a part
        folder = str(error.snapshot_path)
    except (OSError, ValueError):
        return False
    return any(path.suffix in DATA_FILES for path in Path(folder).rglob("*"))


def _look_on_hub(task: TaskSpec) -> tuple[str, int | None]:
    """Why the hub does not give a task's data, by their first id, or "" and what they take, if it does by any."""

    def ask(data: str) -> tuple[str, Any]:
        more: dict[str, Any] = {"revision": task.revision, "timeout": SECONDS, "files_metadata": True}
        return ask_hub(lambda hub: hub.dataset_info(data, **more))

    first = ""
    for data in task.hub_ids:
        why, info = ask(data)
        if not why:
            return "", _size_of_dataset(info, load_yaml(task.path)["metadata"].get("config"))
        first = first or why
    return first, None


def _size_of_dataset(info: Any, config: str | None) -> int | None:
    """Bytes that a dataset takes: as its card says of this configuration, downloaded and as `datasets` keeps it; else
    what all its files have. None where neither is known."""
    told = info.card_data.get("dataset_info") if info.card_data is not None else None
    for each in [told] if isinstance(told, dict) else told or []:
        found: list[Any] = [each.get(name) for name in ("download_size", "dataset_size")]
        if each.get("config_name", "default") == (config or "default") and all(isinstance(size, int) for size in found):
            return int(sum(found))
    sizes = [sibling.size for sibling in info.siblings or []]
    known: list[int] = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None
