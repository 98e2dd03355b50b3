"""What a model takes of disks and memory: told before, measured after, and refused where it is too much."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.cli.application import run
from harness.datasets.pool import facts_of
from harness.engine.config import EngineConfig
from harness.evaluation.model_check import ModelCheck, describe_fit
from harness.models.disk_use import DiskUse, needs_of_room, use_of
from harness.models.fetch import fetch
from harness.models.load import for_model
from harness.models.readiness import look_at_disk, look_at_models
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


@pytest.mark.parametrize(("peak", "words"), ((10, "fits: 8.00 GiB"), (23, "fits barely (--batch-size auto): 8.00 GiB")))
def test_a_check_says_whether_a_model_fits(peak: float, words: str) -> None:
    made: dict[str, Any] = {"name": "m", "model": "M", "parameters": 1, "dtype": "bfloat16", "device": "H", "asked": []}
    sizes: dict[str, Any] = {
        "loaded_megabytes": 8 * 1024.0,
        "peak_megabytes": peak * 1024.0,
        "total_megabytes": 24 * 1024.0,
    }
    told = describe_fit(ModelCheck(**made, **sizes, load_seconds=1.0, shared=""))
    assert told.startswith(words)
    assert f"of 24.0 GiB; {24 - peak:.1f} GiB are left" in told


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


def saved(tmp_path: Path, name: str, *, size: int = 1000) -> bytes:
    """A file of weights, small but real."""
    tensors = {"w": torch.ones(size)}
    path = tmp_path / Path(name).name
    save_file(tensors, path) if name.endswith(".safetensors") else torch.save(tensors, path)
    return path.read_bytes()


LORA = json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"}).encode()
INDEX = json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}}).encode()
SHAPES: dict[str, tuple[list[str], list[str]]] = {
    # Files of weights that the hub has, and those of them that are downloaded.
    "one": (["model.safetensors"], ["model.safetensors"]),
    "both": (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
    "shards": (
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ),
    "one and shards": (["model.safetensors", "model-00001-of-00001.safetensors"], ["model.safetensors"]),
    "variants": (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
    "shards and variants": (
        ["model-00001-of-00001.safetensors", "model.fp16-00001-of-00001.safetensors"],
        ["model-00001-of-00001.safetensors"],
    ),
    "other names": (["weights-a.safetensors"], ["weights-a.safetensors"]),
    "quantised": (["gptq_model-4bit-128g.safetensors"], ["gptq_model-4bit-128g.safetensors"]),
    "bin": (["pytorch_model.bin"], ["pytorch_model.bin"]),
    "bins": (
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "training_args.bin"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
    ),
    "bin and variant": (["pytorch_model.bin", "pytorch_model.fp16.bin"], ["pytorch_model.bin"]),
    "with an adapter": (
        ["model.safetensors", "adapter_model.safetensors"],
        ["model.safetensors", "adapter_model.safetensors"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_told_of_a_repository_is_what_is_written(hub: Hub, shape: str, tmp_path: Path) -> None:  # noqa: F811
    has, taken = SHAPES[shape]
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "README.md": b"x" * 99} | (
        {"model.safetensors.index.json": INDEX} if shape == "shards" else {}
    )
    hub.files["org/m"] = files | {name: saved(tmp_path, name) for name in has}
    told = look_at_disk(find("org/m"))
    assert told is not None
    size = sum(len(hub.files["org/m"][name]) for name in (*files, *taken) if name != "README.md")
    bins = sum(len(hub.files["org/m"][name]) for name in taken if name.endswith(".bin"))
    assert told == DiskUse(download=size, convert=bins, kept=size + bins)
    copy = fetch(find("org/m")).local_folder
    written = [path for path in (tmp_path / "hub").rglob("snapshots/*/*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) == size
    assert sum(path.stat().st_size for path in copy.glob("*.safetensors")) == pytest.approx(bins or size, rel=0.5)
    again = look_at_disk(find("org/m"))
    assert again is not None
    assert (again.download, again.convert) == (0, 0)


@pytest.mark.parametrize("ending", (".safetensors", ".bin"))
def test_a_lora_on_the_hub_is_told_with_its_base(hub: Hub, ending: str, tmp_path: Path) -> None:  # noqa: F811
    weights = saved(tmp_path, f"adapter_model{ending}", size=50)
    hub.files["org/lora"] = {"adapter_config.json": LORA, f"adapter_model{ending}": weights}
    hub.files["org/base"] = {"config.json": b"{}", "pytorch_model.bin": saved(tmp_path, "pytorch_model.bin")}
    base = len(hub.files["org/base"]["pytorch_model.bin"])
    convert = base + len(weights) * (ending == ".bin")
    size = len(LORA) + len(weights) + base + 2
    told = look_at_disk(find("org/lora"))
    assert told is not None
    assert (told.download, told.convert) == (size - len(LORA), convert)  # it was read to find the base
    fetch(find("org/lora"))
    assert look_at_disk(find("org/lora")) == DiskUse(download=0, convert=0, kept=size + convert)


def test_a_lora_in_a_folder_is_told_with_its_base_and_its_own_conversion(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(LORA)
    (folder / "adapter_model.bin").write_bytes(weights := saved(tmp_path, "adapter_model.bin"))
    hub.files["org/base"] = {"config.json": b"{}", "model.safetensors": saved(tmp_path, "model.safetensors")}
    base = 2 + len(hub.files["org/base"]["model.safetensors"])
    spec = find(str(folder))
    assert look_at_disk(spec) == DiskUse(download=base, convert=len(weights), kept=base + len(weights))
    assert look_at_models([spec]).disk == look_at_disk(spec)
    fetch(spec)
    told = look_at_disk(spec)
    assert told is not None
    assert (told.download, told.convert) == (0, 0)


def test_a_plan_counts_the_files_that_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(saved(tmp_path.parent, "model.safetensors"))
    (tmp_path / "model.fp16.safetensors").write_bytes(saved(tmp_path.parent, "model.fp16.safetensors"))
    assert facts_of(find(str(tmp_path))).parameters == 1000
