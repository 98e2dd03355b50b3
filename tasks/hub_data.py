"""A benchmark's data from the hub: at the pinned commit, by a second id where a dataset has moved.

    found = fetch_tables(task="pope", ids=("lmms-lab/POPE", "lmms-lab-encoder/POPE"), revision="4db1...", ...)
    loaded("pope")            # HubData(id="lmms-lab/POPE", commit="4db1..."): what this process has read

Errors: `BenchmarkDataError`, one line that says why the first id could not be read.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from support.errors import BenchmarkDataError, first_line
from support.hub_progress import shown_as

if TYPE_CHECKING:
    from datasets import Dataset

    from support.image_cells import Find

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubData:
    """What was read from the hub."""

    id: str
    commit: str | None
    """None where neither the revision nor the place in the cache tells it."""


_LOADED: dict[str, HubData] = {}


def loaded(task: str) -> HubData | None:
    """What this process has read from the hub for a task; None where it read nothing from there."""
    return _LOADED.get(task)


_OTHER: dict[str, str] = {}


def note_other_data(task: str, said: str) -> None:
    """Keep in which way the data that are read now are other data than the benchmark's, by the names of their files; ""
    where they are not."""
    _OTHER[task] = said


def other_data(task: str) -> str:
    """In which way the data that this process has read for a task are other data than the benchmark's; "" for none."""
    return _OTHER.get(task, "")


def is_pinned(revision: str) -> bool:
    """Whether a revision is a commit, and not a branch that moves."""
    return _COMMIT.fullmatch(revision) is not None


def fetch_tables(
    *, task: str, ids: Sequence[str], revision: str, config: str | None, splits: Sequence[str]
) -> "tuple[list[Dataset], Find]":
    """The tables of the splits; what finds the files that their cells name."""
    from datasets import load_dataset

    def load(data: str) -> "list[Dataset]":
        with shown_as(f"download {data}"):
            return [load_dataset(data, config, split=split, revision=revision) for split in splits]

    data, tables = _try_ids(task, ids, revision, load)
    files = (Path(file["filename"]) for table in tables for file in getattr(table, "cache_files", ()))
    _LOADED[task] = HubData(id=data, commit=_commit_of(revision, files))
    return tables, _find_downloaded(data)


def fetch_folder(*, task: str, ids: Sequence[str], revision: str) -> Path:
    """The folder with all files of a dataset."""
    from huggingface_hub import snapshot_download

    def load(data: str) -> Path:
        with shown_as(f"download {data}"):
            return Path(snapshot_download(data, repo_type="dataset", revision=revision))

    data, folder = _try_ids(task, ids, revision, load)
    _LOADED[task] = HubData(id=data, commit=_commit_of(revision, [folder]))
    return folder


def _try_ids(task: str, ids: Sequence[str], revision: str, load: Callable[[str], _T]) -> tuple[str, _T]:
    """What the first of the ids that has the data gives, with that id."""
    from datasets.exceptions import DatasetsError

    first: Exception | None = None
    for data in ids:
        try:
            found = load(data)
        except (OSError, ValueError, DatasetsError) as error:  # huggingface_hub derives its own from these
            first = first or error
        else:
            if first is not None:
                log.warning("%s: %s is read: %s could not be (%s)", task, data, ids[0], first_line(first))
            return data, found
    assert first is not None
    elsewhere = f", nor {', '.join(ids[1:])}" if ids[1:] else ""
    failed = f"{task}: can't load {ids[0]} at revision {revision}{elsewhere}: {first_line(first)}"
    raise BenchmarkDataError(f"{failed}; behind a firewall give --data {task}=PATH") from first


def _commit_of(revision: str, places: Iterable[Path]) -> str | None:
    """The commit; of a branch, the one that the caches of hub and datasets name their folders by."""
    if is_pinned(revision):
        return revision
    told = {part for place in places for part in place.parts if _COMMIT.fullmatch(part)}
    return told.pop() if len(told) == 1 else None


def _find_downloaded(data: str) -> "Find":
    """Finds the files of a hub dataset by the absolute paths that `datasets` gives them in its cache."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    from support.image_folders import ImageIndex

    own = Path(HF_HUB_CACHE) / f"datasets--{data.replace('/', '--')}"
    return ImageIndex.inside(own, Path(HF_DATASETS_CACHE) / "downloads").find


def facts_of(task: str, data: str, revision: str, ask: Callable[[str, str], Any]) -> dict[str, str]:
    """What an entry records of where its data are from, beside `data`: the commit, and the id if it was another.

    Where the caches don't tell the commit of a branch, the hub is asked (`ask` gives the answer's commit, or None).
    """
    found = loaded(task)
    if found is None:
        return {}
    commit = found.commit or ask(found.id, revision)
    facts = {"revision": str(commit)} if commit else {}
    return facts | ({"data from": found.id} if found.id != data else {})
