"""What a model takes of disks and memory: told before, measured after, and refused where it is too much."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.cli.application import run
from harness.engine.config import EngineConfig
from harness.evaluation.model_check import ModelCheck, describe_fit
from harness.models.disk_use import DiskUse, needs_of_room, use_of
from harness.models.fetch import fetch
from harness.models.load import for_model
from harness.models.spec import ModelSpec, find
from harness.models.stored_dtype import choose_half, default_dtype
from harness.serving.settings import ServerSettings
from support import full_disk
from support.errors import ModelError
from support.files import cache_folder
from tests.harness.test_fetch import Hub, hub  # noqa: F401
from tests.harness.zoo import FAMILIES
from trainers.training.read_base import reading

SPEC = ModelSpec(name="big", pretrained="org/big")


@pytest.mark.parametrize(
    ("capability", "half"),
    ((None, None), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")),
)
def test_a_gpu_computes_in_the_half_precision_that_it_has(capability: tuple[int, int] | None, half: str | None) -> None:
    assert choose_half(capability) == half


def stored_in(folder: Path, dtype: str) -> ModelSpec:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "torch_dtype": dtype}))
    return find(str(folder))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))


@pytest.mark.usefixtures("gpu")
def test_what_is_stored_in_single_precision_is_computed_in_half_on_a_gpu(tmp_path: Path) -> None:
    single, half = stored_in(tmp_path / "single", "float32"), stored_in(tmp_path / "half", "float16")
    assert for_model(EngineConfig(), single).dtype == "bfloat16"
    assert for_model(EngineConfig(), single).cache_facts()["dtype"] == "bfloat16"  # other answers than before
    assert for_model(EngineConfig(dtype="float32"), single).dtype == "float32"
    assert for_model(EngineConfig(device="cpu"), single).dtype == "auto"
    assert for_model(EngineConfig(), half).dtype == "auto"
    assert for_model(EngineConfig(), find("scenes-base")).dtype == "float32"  # its spec says so
    words = ServerSettings(command="vllm").command_of(single, name="m")
    assert words[words.index("--dtype") + 1] == "bfloat16"


def test_a_cpu_computes_in_what_is_stored(tmp_path: Path) -> None:
    assert default_dtype(stored_in(tmp_path, "float32"), "cpu") == "auto"


def test_weights_too_large_for_a_gpu_are_told_so(tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=r"m: its weights don't fit this GPU: .*load_in_4bit=true.*2 GiB"),
        reading("m", str(tmp_path)),
    ):
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB")


@pytest.mark.parametrize(("peak", "words"), ((10, "fits: 8.00 GB"), (23, "fits barely (--batch-size auto): 8.00 GB")))
def test_a_check_says_whether_a_model_fits(peak: float, words: str) -> None:
    made: dict[str, Any] = {"name": "m", "model": "M", "parameters": 1, "dtype": "bfloat16", "device": "H", "asked": []}
    sizes: dict[str, Any] = {
        "loaded_megabytes": 8 * 1024.0,
        "peak_megabytes": peak * 1024.0,
        "total_megabytes": 24 * 1024.0,
    }
    told = describe_fit(ModelCheck(**made, **sizes, load_seconds=1.0, shared=""))
    assert told.startswith(words)
    assert f"of 24.0 GB; {24 - peak:.1f} GB are left" in told


def bins_of(folder: Path) -> Path:
    """A real checkpoint whose weights are a .bin file alone."""
    FAMILIES["llava"](folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_download_conversion_and_caches_are_told_before(
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO", "harness")
    folder = bins_of(tmp_path / "made")
    hub.files["org/bins"] = {path.name: path.read_bytes() for path in folder.iterdir()} | {"big.h5": b"0" * 10**6}
    total = sum(len(data) for name, data in hub.files["org/bins"].items() if name != "big.h5")
    weights = len(hub.files["org/bins"]["pytorch_model.bin"])
    assert run(["models", "check", "org/bins", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disk"] == {
        "download": total,
        "convert": weights,
        "kept": total + weights,
    }
    size, more, kept = (f"{number / 1e6:.1f} MB" for number in (total, weights, total + weights))
    told = f"{size} are downloaded, {more} written as its .bin files are converted; the caches then hold {kept} of it"
    assert caplog.messages[0] == f"org/bins: {told}"
    assert use_of(find("org/bins")) == DiskUse(download=0, convert=0, kept=total + weights)
    copy = fetch(find("org/bins")).local_folder
    assert copy.is_relative_to(cache_folder())
    shutil.rmtree(copy)
    assert use_of(find("org/bins")) == DiskUse(download=0, convert=weights, kept=total + weights)


def test_without_room_nothing_is_downloaded(
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.files["org/bins"] = {"config.json": b"{}", "pytorch_model.bin": b"0" * 4_000_000}
    monkeypatch.setattr(full_disk, "_measure_free", lambda place: 5e6)
    assert run(["models", "check", "org/bins"]) == 2
    err = capsys.readouterr().err
    assert "takes 8.0 MB (4.0 MB of it for the conversion of its .bin files), and 5.0 MB are free there" in err
    assert not any("resolve" in call for call in hub.asked)


def test_each_disk_has_its_own_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/dev/shm/hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    use = DiskUse(download=10, convert=10, kept=20)
    caches = (Path("/dev/shm/hub"), cache_folder())
    if not caches[0].parent.is_dir() or caches[0].parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    assert not list(needs_of_room(SPEC.pretrained, use, dict.fromkeys(caches, 15.0)))
    assert len(list(needs_of_room(SPEC.pretrained, use, dict.fromkeys(caches, 5.0)))) == 2
    assert len(list(needs_of_room(SPEC.pretrained, replace(use, convert=0), dict.fromkeys(caches, 5.0)))) == 1
