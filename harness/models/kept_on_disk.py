"""What is kept on disk, between runs, that can be made, fetched or asked for again: found, and removed.

    kept = find_kept(Path("runs"))
    for one in kept: one.kind, one.path, one.size, one.used, one.paid
    holder_of(kept[0].path)          # "1234 (harness)": the process that has it open; nothing is removed under it
    remove(kept[0])

Of weights, those in the hub's cache; other programs use them, too.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from harness.engine import response_cache
from harness.models.file_digests import memory_file
from support import picture_keys
from support.errors import StoreError
from support.files import cache_folder
from support.sqlite import Schema, identify
from tasks.data_folder import data_home
from tasks.judges import ledger, official_prompts
from trainers.data import image_hashes

KINDS: Final = ("answers", "replies", "features", "pictures", "data", "converted", "weights", "logs")
ANSWERS, REPLIES, FEATURES, PICTURES, DATA, CONVERTED, WEIGHTS, LOGS = KINDS
"""What a kind is asked for by; `replies` of judges were paid for."""

_STORES: Final[tuple[tuple[Schema, str, str], ...]] = (
    (response_cache.SCHEMA, ANSWERS, "answers of local models"),
    (ledger.SCHEMA, REPLIES, "replies of judges and served models"),
    (image_hashes.SCHEMA, PICTURES, "fingerprints of pictures"),
    (picture_keys.SCHEMA, PICTURES, "keys of pictures"),
)
_FEATURES: Final = re.compile(r"[0-9a-f]{40}\.safetensors")
"""Names of files of `harness.engine.feature_files`."""
SERVERS: Final = "servers"
"""The folder of a run that has what its model servers print."""
_BESIDE: Final = ("", "-wal", "-shm")
"""What SQLite has of one file."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One file or folder."""

    kind: str
    what: str
    path: Path
    size: int
    """Bytes on disk."""
    used: float
    """When it was last written, of weights when they were last read; seconds since 1970."""
    take_away: Callable[[], object]

    @property
    def paid(self) -> bool:
        """Whether it can't be had again without paying again."""
        return self.kind == REPLIES


def find_kept(runs: Path) -> list[Kept]:
    """All of it: stores below `runs`, and what lies beside the hub's cache and in it."""
    return [*_find_stores(runs), *_find_in_runs(runs), *_find_in_cache(), *_find_data(), *_find_weights()]


def holder_of(path: Path) -> str:
    """A process of this machine that has the file, or one in the folder, open; empty: none that can be seen."""
    where = os.path.realpath(path)
    for process in Path("/proc").glob("[0-9]*"):
        if any(file == where or file.startswith((f"{where}/", f"{where}-")) for file in _list_open(process)):
            return f"{process.name} ({(process / 'comm').read_text('utf-8', 'replace').strip()})"
    return ""


def _list_open(process: Path) -> Iterator[str]:
    """The files that a process has open, or in its memory; none of one that has ended, or is another user's."""
    with suppress(OSError):
        for each in (process / "fd").iterdir():
            with suppress(OSError):  # it is closed by now
                yield os.readlink(each)
        for line in (process / "maps").read_text("utf-8", "replace").splitlines():
            yield from line.split(maxsplit=5)[5:]


def remove(kept: Kept) -> None:
    """Remove it from the disk."""
    kept.take_away()


def _find_stores(runs: Path) -> Iterator[Kept]:
    known = [schema for schema, _, _ in _STORES]
    for path in sorted({*runs.rglob("*.sqlite"), *cache_folder().glob("*.sqlite")}):
        try:
            schema = identify(path, known)
        except StoreError:
            continue  # another program's, or damaged: `harness store` is for these
        kind, what = next((kind, what) for each, kind, what in _STORES if each is schema)
        files = [path.with_name(path.name + end) for end in _BESIDE]
        size, used = _measure([file for file in files if file.is_file()])
        yield Kept(kind=kind, what=what, path=path, size=size, used=used, take_away=partial(_unlink, files))


def _find_in_runs(runs: Path) -> Iterator[Kept]:
    """Features of pictures, and logs of model servers, which lie in folders of the user's choice below `runs`."""
    for folder, _, names in os.walk(runs):
        place = Path(folder)
        features = [place / name for name in names if _FEATURES.fullmatch(name)]
        logs = [place / name for name in names if place.name == SERVERS and name.endswith(".log")]
        for kind, what, files in ((FEATURES, "image features", features), (LOGS, "logs of model servers", logs)):
            if files:
                size, used = _measure(files)
                yield Kept(kind=kind, what=what, path=place, size=size, used=used, take_away=partial(_unlink, files))


def _unlink(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _find_in_cache() -> Iterator[Kept]:
    for path in sorted((cache_folder() / "safetensors").glob("*")):
        yield _as_folder(CONVERTED, "weights converted from .bin", path)
    digests, prompts = memory_file(), official_prompts.prompts_folder()
    if digests.is_file():
        size, used = _measure([digests])
        take_away = partial(_unlink, [digests])
        yield Kept(kind=CONVERTED, what="digests of weights", path=digests, size=size, used=used, take_away=take_away)
    if prompts.is_dir():
        yield _as_folder(DATA, "official prompts of judges", prompts)


def _find_data() -> Iterator[Kept]:
    home = data_home()
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield _as_folder(DATA, "benchmark data", path)
    tables = Path(os.environ.get("HF_DATASETS_CACHE") or cache_folder().parent / "datasets")
    for path in sorted(tables.iterdir()) if tables.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield _as_folder(DATA, "tables of the hub's, as its library reads them", path)


def _as_folder(kind: str, what: str, path: Path) -> Kept:
    size, used = _measure([file for file in path.rglob("*") if file.is_file() and not file.is_symlink()])
    return Kept(kind=kind, what=what, path=path, size=size, used=used, take_away=partial(shutil.rmtree, path))


def _measure(files: list[Path]) -> tuple[int, float]:
    """Bytes on disk, and when the newest was written."""
    found = [file.stat() for file in files]
    return sum(each.st_blocks * 512 for each in found), max((each.st_mtime for each in found), default=0.0)


def _remove_revisions(cache: Any, revisions: list[str]) -> None:
    cache.delete_revisions(*revisions).execute()


def _find_weights() -> Iterator[Kept]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache: Any = scan_cache_dir()
    except CacheNotFound:
        return
    for repo in sorted(cache.repos, key=lambda each: str(each.repo_path)):
        revisions = [each.commit_hash for each in repo.revisions]
        yield Kept(
            kind=WEIGHTS if repo.repo_type == "model" else DATA,
            what=f"{repo.repo_id}, of the hub",
            path=repo.repo_path,
            size=repo.size_on_disk,
            used=max(repo.last_accessed, repo.last_modified),
            take_away=partial(_remove_revisions, cache, revisions),
        )
