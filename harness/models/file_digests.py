"""Digests of files: weights, without reading all of them each time, and small files."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import BinaryIO, Final

from support.files import atomic_write_text, cache_folder

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin", "*.index.json")
"""Files that weights consist of. A trainer leaves other .bin files beside them, which name its folders."""

SMALL_FILE: Final = 8 << 20
"""Bytes up to which a file is always read whole."""
BLOCK: Final = 64 << 10
"""Bytes of each block that is read of a larger file."""
BLOCK_COUNT: Final = 64
"""Blocks at even distances."""
PIECE: Final = 4 << 10
"""Bytes read at both ends and in the middle of each tensor."""
QUIET_TIME: Final = 2 * 10**9
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
        total.update(_digest_whole(path) if strict or path.stat().st_size <= SMALL_FILE else _digest_samples(path))
    return total.hexdigest()[:16]


def _digest_samples(path: Path) -> bytes:
    """Of a large file: about 15 MB of the 5 GB of a shard, 0.1 s from a cold disk; too little to remember instead."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        pieces = {(at * (size - BLOCK) // (BLOCK_COUNT - 1), BLOCK) for at in range(BLOCK_COUNT)}
        # The end of a .bin is a zip's directory, in which every tensor has a checksum.
        pieces.add((size - (1 << 20), 1 << 20))
        if path.suffix == ".safetensors":
            pieces |= _find_tensor_pieces(file, size)
        total = hashlib.sha256(f"samples of {size}".encode())
        for start, length in sorted(pieces):
            file.seek(start)
            total.update(file.read(length))
    return total.digest()


def _find_tensor_pieces(file: BinaryIO, size: int) -> set[tuple[int, int]]:
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


_digests_of_this_process: dict[str, list[int | str]] = {}
"""Digests of whole files, by path: inode, size, mtime and ctime when they were read, and the digest."""


def _digest_whole(path: Path) -> bytes:
    """sha256 of a file. Of a large one it is remembered, also on disk, while nothing has touched the file.

    Size and mtime can be the same after a change (rsync, cp -p, a restored backup); ctime, which nobody can set, isn't.
    """
    stamp, name = _file_stamp(path), str(path.resolve())
    large = path.stat().st_size > SMALL_FILE
    if large:
        for known in (_digests_of_this_process, _read_memory()):
            if known.get(name, [])[:-1] == stamp:
                return bytes.fromhex(str(known[name][-1]))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if large and _file_stamp(path) == stamp and time.time_ns() - stamp[-1] > QUIET_TIME:
        _digests_of_this_process[name] = [*stamp, digest.hexdigest()]
        _write_memory()
    return digest.digest()


def _file_stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def memory_file() -> Path:
    """What keeps the digests of files between runs."""
    return cache_folder() / "digests.json"


def _read_memory() -> dict[str, list[int | str]]:
    """What earlier processes left; nothing where that can't be read."""
    try:
        found = json.loads(memory_file().read_text(encoding="utf-8"))
        return {name: row for name, row in found.items() if len(row) == 5 and len(bytes.fromhex(row[-1])) == 32}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_memory() -> None:
    """Add what this process knows. Of two processes that write at once one is lost: its files are read again."""
    known = {name: row for name, row in (_read_memory() | _digests_of_this_process).items() if Path(name).exists()}
    with contextlib.suppress(OSError):  # a cache that can't be written costs time, no more
        atomic_write_text(memory_file(), json.dumps(known, indent=0))


def digest_of_files(paths: list[Path]) -> str:
    """sha256 of some files' bytes, 16 hex digits."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()[:16]
