"""What ran: digests of weights, adapter and prompts, code, versions, device. Kept in every entry, so that a number can
be trusted later."""

import hashlib
import json
import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO, Final

from harness.models.spec import ModelSpec

PACKAGES = ("torch", "transformers", "peft", "trl", "lm-eval", "datasets", "pillow")

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin", "*.index.json")
"""Files that weights consist of. A trainer leaves other .bin files beside them, which name its folders."""

SMALL: Final = 8 << 20
"""Bytes up to which a file is always read whole."""
BLOCK: Final = 64 << 10
BLOCKS: Final = 64
"""Read evenly from a larger file."""
PIECE: Final = 4 << 10
"""Read from both ends and the middle of every tensor in it."""
SETTLED: Final = 2 * 10**9
"""Nanoseconds after which two changes of a file can't have the same time."""


def digest_of_folder(folder: Path, *, strict: bool = False) -> str:
    """sha256 over the names and contents of all weights in a folder and their indices, 16 hex digits.

    Files up to 8 MiB (small adapters) are read whole, every time. Of larger ones the size, the header, blocks
    throughout and a bit of every tensor are read, every time: a checkpoint written over another is noticed whatever its
    size and times say, and a part that alone was trained (a projector is 0.3 % of its model) is noticed, too. What
    isn't is a tensor changed in a few places. `strict` reads all.
    """
    total = hashlib.sha256()
    for path in sorted(path for kind in WEIGHTS for path in folder.glob(kind)):
        total.update(path.name.encode())
        total.update(_digest_of_all(path) if strict or path.stat().st_size <= SMALL else _digest_of_samples(path))
    return total.hexdigest()[:16]


def _digest_of_samples(path: Path) -> bytes:
    """Of a large file: about 15 MB of the 5 GB of a shard, 0.1 s from a cold disk; too little to remember instead."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        pieces = {(at * (size - BLOCK) // (BLOCKS - 1), BLOCK) for at in range(BLOCKS)}
        # The end of a .bin is a zip's directory, in which every tensor has a checksum.
        pieces.add((size - (1 << 20), 1 << 20))
        if path.suffix == ".safetensors":
            pieces |= _pieces_of_tensors(file, size)
        total = hashlib.sha256(f"samples of {size}".encode())
        for start, length in sorted(pieces):
            file.seek(start)
            total.update(file.read(length))
    return total.digest()


def _pieces_of_tensors(file: BinaryIO, size: int) -> set[tuple[int, int]]:
    """(start, length) of the header and of three bits of each tensor; none where the header can't be read."""
    length = int.from_bytes(file.read(8), "little")
    try:
        if length > size:
            return set()
        header = json.loads(file.read(length))
        found = {(0, 8 + length)}
        for begin, end in (map(int, entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"):
            bit = min(PIECE, end - begin)
            found |= {(8 + length + at, bit) for at in (begin, (begin + end - bit) // 2, end - bit)}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return set()
    return {(start, count) for start, count in found if 0 <= start <= size and count > 0}


_known: dict[str, list[int | str]] = {}
"""Digests of whole files, by path: inode, size, mtime and ctime when they were read, and the digest."""


def _digest_of_all(path: Path) -> bytes:
    """sha256 of a file. Of a large one it is remembered, also on disk, while nothing has touched the file.

    Size and mtime can be the same after a change (rsync, cp -p, a restored backup); ctime, which nobody can set, isn't.
    """
    stamp, name = _stamp(path), str(path.resolve())
    large = path.stat().st_size > SMALL
    if large:
        for known in (_known, _remembered()):
            if known.get(name, [])[:-1] == stamp:
                return bytes.fromhex(str(known[name][-1]))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if large and _stamp(path) == stamp and time.time_ns() - stamp[-1] > SETTLED:
        _known[name] = [*stamp, digest.hexdigest()]
        _remember()
    return digest.digest()


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _memory() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return home / "vlm-harness" / "digests.json"


def _remembered() -> dict[str, list[int | str]]:
    """What earlier processes left; nothing where that can't be read."""
    try:
        found = json.loads(_memory().read_text(encoding="utf-8"))
        return {name: row for name, row in found.items() if len(row) == 5 and len(bytes.fromhex(row[-1])) == 32}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _remember() -> None:
    """Add what this process knows; of two that write at once one is lost, and read again some day."""
    known = {name: row for name, row in (_remembered() | _known).items() if Path(name).exists()}
    part = _memory().with_name(f".digests.{os.getpid()}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known, indent=0), encoding="utf-8")
        part.replace(_memory())
    except OSError:  # a cache that can't be written costs time, no more
        part.unlink(missing_ok=True)


def digest_of_model(spec: ModelSpec, *, strict: bool = False) -> dict[str, str]:
    """Digests of the weights a spec stands for; they change when a checkpoint is overwritten in place."""
    strict = strict or spec.strict
    if spec.digests:
        return dict(spec.digests)
    if spec.backend == "openai":
        return {"weights": f"{spec.pretrained}@{spec.url or 'default server'}"}
    local = Path(spec.pretrained).is_dir()
    hub = f"{spec.pretrained}@{spec.revision or 'main'}"
    found = {"weights": digest_of_folder(Path(spec.pretrained), strict=strict) if local else hub}
    if spec.adapter is not None:
        found["adapter"] = digest_of_folder(spec.adapter, strict=strict)
    return found


def training_of(spec: ModelSpec, task: str) -> dict[str, str]:
    """What a checkpoint's note says of its training data: their digest, and how many of their rows show pictures of
    `task`."""
    folder = Path(spec.pretrained) if spec.adapter is None else spec.adapter
    try:
        note = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        leaks = note.get("leaks", {}).get(task)
        found = {"training data": str(note["data"])} if "data" in note else {}
        return found | ({"leaks": str(int(leaks))} if leaks is not None else {})
    except (OSError, ValueError, TypeError, AttributeError):  # no checkpoint of ours
        return {}


def digest_of_files(paths: list[Path]) -> str:
    """sha256 of some files' bytes, 16 hex digits."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()[:16]


@cache
def environment() -> dict[str, str]:
    """Versions, code and device of this process."""
    import torch

    found = {"python": platform.python_version(), "vlm-harness": _version("vlm-harness")}
    found |= {package: _version(package) for package in PACKAGES}
    found["image backend"] = f"Pillow {_version('pillow')}"
    found["commit"] = _commit()
    found["device"] = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)"
    )
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of this source tree, "+dirty" where it has changes; "" where it is an installed copy."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False
        ).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + (
        "+dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    )
