"""How a checkpoint notes the base it was trained from, so that it is found from any folder and after a move."""

import contextlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.files import atomic_write_text
from trainers.training.foreign_code import CODE, digest_of_code

if TYPE_CHECKING:
    from trainers.training.job import Job

BASE: Final = "base"
"""Key of the note: a model's name, a hub id, an absolute folder, or one relative to the checkpoint."""
NEAR: Final = "base_from_here"
"""Key of the note: the folder relative to the checkpoint, for a project that was moved as a whole."""
SEAL: Final = "seal"
"""Key of the note: shows that this user's own training wrote it, which may name any folder."""
REVISION: Final = "revision"
"""Key of the note: the commit of a hub id."""
MERGED: Final = "base"
"""Folder in a run folder that holds a base with an adapter merged into it."""
HUB_CACHE: Final = r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)"
"""Owner, name and commit in the path of a hub repository's files in the cache."""
KEY_BYTES: Final = 32


def is_sealed(note: Mapping[str, Any]) -> bool:
    """True if this user's own training wrote what the note says of its base: nobody else has the key."""
    path = _key_file()
    return path.is_file() and note.get(SEAL) == (_digest_by(path, note) or None)


def _seal(note: Mapping[str, Any]) -> dict[str, str]:
    """The note's key that shows who wrote it; nothing where the user's folder of settings can't be written."""
    path = _key_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(file, secrets.token_bytes(KEY_BYTES))
            os.close(file)
    digest = _digest_by(path, note)
    return {SEAL: digest} if digest else {}


def _digest_by(key: Path, note: Mapping[str, Any]) -> str:
    """A digest of what a note says of its base, by the key in a file; "" where there is no whole key."""
    try:
        secret = key.read_bytes()
    except OSError:
        return ""
    said = json.dumps([note.get(name) for name in (BASE, NEAR, REVISION)])
    return hmac.digest(secret, said.encode(), "sha256").hex() if len(secret) == KEY_BYTES else ""


def _key_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vlm-harness" / "key"


def note_base(job: "Job", checkpoint: Path) -> dict[str, str]:
    """The note's keys about the base."""
    return _name_base(job, checkpoint) | ({CODE: digest_of_code(Path(job.base))} if job.remote_code else {})


def _name_base(job: "Job", checkpoint: Path) -> dict[str, str]:
    hub_id, revision = _find_on_hub(job)
    folder = Path(job.base_name)
    if not job.base_name or not folder.is_dir():
        return {BASE: job.base_name, **({REVISION: revision} if revision else {})}
    if hub_id:
        return {BASE: hub_id, REVISION: revision}
    place, here = folder.resolve(), checkpoint.resolve()
    relative = Path(os.path.relpath(place, here)).as_posix()
    said = {BASE: place.as_posix(), NEAR: relative}
    return said | _seal(said)


def name_base_in_adapter(job: "Job", checkpoint: Path) -> None:
    """Put the base as others find it into an adapter's configuration: by hub id and commit, or absolute folder."""
    path = checkpoint / "adapter_config.json"
    if not path.is_file():
        return
    hub_id, revision = _find_on_hub(job)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"base_model_name_or_path": hub_id or Path(job.base).resolve().as_posix(), REVISION: revision or None}
    if {name: config.get(name) for name in wanted} != wanted:
        atomic_write_text(path, json.dumps(config | wanted, indent=2, sort_keys=True))


def _find_on_hub(job: "Job") -> tuple[str, str]:
    """Hub id and commit of the job's base; empty for a folder."""
    if job.base_hub_id:
        return job.base_hub_id, job.base_revision or ""
    cached = re.search(HUB_CACHE, Path(job.base).as_posix())
    return (f"{cached[1]}/{cached[2]}", cached[3]) if cached else ("", "")
