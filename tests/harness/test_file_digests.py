"""Digests of weights: as good as reading everything where checkpoints are concerned, without reading everything."""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.models import file_digests
from harness.models.file_digests import SMALL_FILE, digest_of_folder

LARGE = SMALL_FILE + (4 << 20)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(file_digests, "_digests_of_this_process", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def weights(folder: Path, changed: str | None = None, name: str = "model.safetensors") -> Path:
    """A file over the limit, with small tensors between two large ones (they lie by name); `changed` holds other
    numbers."""
    sizes = {"embed": LARGE // 8, "norm": 3, "projector": 2000, "words": LARGE // 8}
    tensors = {
        key: np.random.default_rng([index, key == changed]).random(size, dtype=np.float32)
        for index, (key, size) in enumerate(sizes.items())
    }
    save_file(tensors, folder / name)
    return folder / name


def times(path: Path) -> tuple[int, int]:
    return path.stat().st_atime_ns, path.stat().st_mtime_ns


@pytest.mark.parametrize("strict", (False, True))
@pytest.mark.parametrize("tensor", ("embed", "norm", "projector", "words"))
def test_one_tensor_overwritten_in_place_is_noticed_with_size_and_time_the_same(
    folder: Path, tensor: str, strict: bool
) -> None:
    path = weights(folder)
    size, when = path.stat().st_size, times(path)
    first = digest_of_folder(folder, strict=strict)
    weights(folder, changed=tensor)
    os.utime(path, ns=when)
    assert (path.stat().st_size, times(path)[1]) == (size, when[1])
    assert digest_of_folder(folder, strict=strict) != first
    weights(folder)
    assert digest_of_folder(folder, strict=strict) == first


def test_a_small_file_is_read_whole(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(bytes(SMALL_FILE))
    when, first = times(path), digest_of_folder(folder)
    with path.open("r+b") as file:
        file.seek(SMALL_FILE // 3)
        file.write(b"x")
    os.utime(path, ns=when)
    assert digest_of_folder(folder) != first
    assert digest_of_folder(folder) == digest_of_folder(folder, strict=True)
    assert not (Path(os.environ["HF_HOME"]) / "vlm-harness").exists()


def test_the_digest_of_small_weights_is_names_and_bytes(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"one")
    expected = hashlib.sha256(b"model.safetensors" + hashlib.sha256(b"one").digest()).hexdigest()[:16]
    assert digest_of_folder(folder) == expected


def test_of_a_large_file_little_is_read_and_only_strict_reads_all(folder: Path) -> None:
    path = weights(folder)
    first, strict = digest_of_folder(folder), digest_of_folder(folder, strict=True)
    assert first != strict
    with path.open("r+b") as file:
        file.seek(2 * (path.stat().st_size - file_digests.BLOCK) // 63 - 5)  # between two blocks
        file.write(b"x")
    assert digest_of_folder(folder) == first
    assert digest_of_folder(folder, strict=True) != strict


@pytest.mark.parametrize(
    "header",
    (
        b"",
        b"\xff" * 8,
        b"\x04" + bytes(7) + b"null",
        b"\x40" + bytes(7) + b'{"a":{"data_offsets":[9,-1e400]}}'.ljust(64),
    ),
)
@pytest.mark.parametrize("name", ("model.safetensors", "pytorch_model.bin"))
def test_a_large_file_with_a_broken_header_has_a_digest(folder: Path, header: bytes, name: str) -> None:
    (folder / name).write_bytes(header.ljust(LARGE, b"\0"))
    first = digest_of_folder(folder)
    assert len(bytes.fromhex(first)) == 8
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    assert digest_of_folder(folder) != first


def test_every_shard_and_the_index_count(folder: Path) -> None:
    shards = [weights(folder, name=f"model-0000{number}-of-00002.safetensors") for number in (1, 2)]
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"embed": shards[0].name}}))
    seen = {digest_of_folder(folder)}
    weights(folder, changed="projector", name=shards[1].name)
    seen.add(digest_of_folder(folder))
    index.write_text(json.dumps({"weight_map": {"embed": shards[1].name}}))
    seen.add(digest_of_folder(folder))
    shards[1].unlink()
    seen.add(digest_of_folder(folder))
    assert len(seen) == 4


def test_what_took_a_minute_is_remembered_until_the_file_is_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path(os.environ["HF_HOME"]) / "vlm-harness" / "digests.json"
    path = weights(folder)
    when = times(path)
    first = digest_of_folder(folder, strict=True)
    assert not memory.exists()  # so new that a change in this very moment would have its times
    monkeypatch.setattr(file_digests, "QUIET_TIME", 0)
    assert digest_of_folder(folder, strict=True) == first
    planted = json.loads(memory.read_text())
    planted[str(path)][-1] = "00" * 32
    memory.write_text(json.dumps(planted))
    assert digest_of_folder(folder, strict=True) == first  # of this process's memory
    file_digests._digests_of_this_process.clear()
    remembered = digest_of_folder(folder, strict=True)
    assert remembered != first  # of the disk's
    time.sleep(0.05)
    weights(folder, changed="norm")
    os.utime(path, ns=when)
    assert digest_of_folder(folder, strict=True) not in (first, remembered)


@pytest.mark.parametrize("text", ("", "{", "[]", '{"x": null}', '{"x": [1, 2, 3, 4, 5]}'))
def test_a_broken_memory_is_none(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "QUIET_TIME", 0)
    weights(folder)
    memory = Path(os.environ["HF_HOME"]) / "vlm-harness" / "digests.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(text)
    first = digest_of_folder(folder, strict=True)
    file_digests._digests_of_this_process.clear()
    assert digest_of_folder(folder, strict=True) == first
    assert len(json.loads(memory.read_text())) == 1


def test_where_nothing_can_be_written_digests_are_made_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digests, "QUIET_TIME", 0)
    monkeypatch.setenv("HF_HOME", "/proc/nowhere")
    weights(folder)
    assert digest_of_folder(folder, strict=True) == digest_of_folder(folder, strict=True)
