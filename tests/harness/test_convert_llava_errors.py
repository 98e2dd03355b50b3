"""What can't be converted is refused in one line, and nothing half-written is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.models import convert_llava
from harness.models.convert_llava import convert
from support.errors import ModelError
from tests.harness.llava_originals import (
    SETTINGS,
    SIZES_OF_CLIP,
    VOCAB,
    adapter,
    assert_same,
    build,
    original_weights,
    sentencepiece,
    tower_of,
    write_bins,
    write_source,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(linear=False)


@pytest.fixture(scope="module")
def vision(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tower_of(model).save_pretrained(folder)
    return folder


@pytest.fixture
def source(model: Any, tmp_path: Path) -> Path:
    return write_source(tmp_path / "sft_model", original_weights(model))


def change_config(**settings: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(SETTINGS | settings))


def change_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        weights: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.bin")):
            weights |= torch.load(path, weights_only=True)
        change(weights)
        write_bins(folder, weights)

    return apply


def overwrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def add_weight(name: str, weight: Tensor) -> Callable[[Path], object]:
    return change_weights(lambda weights: weights.update({name: weight}))


FIRST, SECOND = (f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2))
INDEX = "pytorch_model.bin.index.json"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "config that is no JSON": (overwrite("config.json", b"{"), "config.json"),
    "another model": (change_config(model_type="llava_mpt"), "'llava_mpt'"),
    "another class": (change_config(architectures=["LlavaMistralForCausalLM"]), "LlavaMistralForCausalLM"),
    "transformers' layout": (change_config(text_config={}), "original layout"),
    "unknown feature": (change_config(mm_vision_select_feature="cls"), "'cls'; known: 'patch', 'cls_patch'"),
    "tiles": (change_config(image_aspect_ratio="anyres"), "'anyres'"),
    "image marks": (change_config(mm_use_im_start_end=True), "mm_use_im_start_end is True"),
    "quantized": (change_config(quantization_config={"bits": 4}), "quantization_config"),
    "no layer": (change_config(mm_vision_select_layer=None), "mm_vision_select_layer is None"),
    "another tower": (change_config(mm_vision_tower="openai/clip-vit-large-patch14-336"), "20 pixels"),
    "impossible size": (change_config(hidden_size="wide"), "hidden_size"),
    "other sizes": (change_config(intermediate_size=80), "(64, 48), not (80, 48)"),
    "too many layers": (change_config(num_hidden_layers=3), "missing weights"),
    "left over": (add_weight("model.image_newline", torch.ones(48)), "model.image_newline"),
    "deep projector": (add_weight("model.mm_projector.4.weight", torch.ones(1)), "mm_projector.4"),
    "two projectors": (add_weight("model.mm_projector.weight", torch.ones(48, 32)), "mm_projector"),
    "half a projector": (change_weights(lambda weights: weights.pop("model.mm_projector.2.weight")), "linear_2.weight"),
    "no embedding": (change_weights(lambda weights: weights.pop("model.embed_tokens.weight")), "0 rows"),
    "no head": (change_weights(lambda weights: weights.pop("lm_head.weight")), "lm_head.weight"),
    "whole numbers": (add_weight("model.norm.weight", torch.ones(48, dtype=torch.int8)), "int8"),
    "no shard": (lambda folder: (folder / SECOND).unlink(), SECOND),
    "an incomplete shard": (lambda folder: os.truncate(folder / FIRST, 5000), FIRST),
    "an empty shard": (overwrite(FIRST, b""), FIRST),
    "the same shard twice": (lambda folder: shutil.copyfile(folder / SECOND, folder / FIRST), "is stored twice"),
    "no index": (lambda folder: (folder / INDEX).unlink(), "no weights"),
    "an index to elsewhere": (overwrite(INDEX, b'{"weight_map": {"a": "../b.bin"}}'), "index.json"),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.model").unlink(),
        "neither tokenizer.model nor tokenizer.json",
    ),
    "a tokenizer that is none": (overwrite("tokenizer.model", b"version https://git-lfs"), "tokenizer.model"),
    "an incomplete tokenizer": (overwrite("tokenizer.model", sentencepiece()[:-3]), "tokenizer.model"),
    "a unigram tokenizer": (overwrite("tokenizer.model", sentencepiece(kind=1)), "type 1"),
    "added tokens with a gap": (overwrite("added_tokens.json", json.dumps({"<x>": VOCAB + 1}).encode()), "'<x>'"),
    "added tokens without ids": (overwrite("added_tokens.json", b'{"<x>": "y", "<z>": null}'), "added_tokens.json"),
    "a list": (lambda folder: torch.save([torch.ones(1)], folder / FIRST), "no dict of tensors"),
    "numbers for names": (lambda folder: torch.save({1: torch.ones(1)}, folder / FIRST), "no dict of tensors"),
    "an old file": (
        lambda folder: torch.save({}, folder / FIRST, _use_new_zipfile_serialization=False),
        f"{FIRST}: can't be read",
    ),
    "more tokens than rows": (overwrite("added_tokens.json", b'{"<x>": %d}' % VOCAB), f"{VOCAB + 1} tokens"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_source_is_one_line_and_leaves_nothing(
    case: str, source: Path, vision: Path, tmp_path: Path
) -> None:
    change, message = BROKEN[case]
    change(source)
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out", vision=vision)
    assert message in str(caught.value)
    assert str(source) in str(caught.value) or str(vision) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sft_model"]


def change_lora(**settings: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return apply


def change_parts(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")

    return apply


def rename(old: str, new: str, only: str = "") -> Callable[[Path], object]:
    return change_parts(
        lambda held: {name.replace(old, new) if only in name else name: part for name, part in held.items()}
    )


def rank_zero(held: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (part[:0] if "lora_A" in name else part[:, :0]).contiguous() for name, part in held.items()}


BROKEN_LORA: dict[str, tuple[Callable[[Path], object], str]] = {
    "names of another model": (rename(".layers.", ".blocks."), "fits no weight"),
    "one name too many": (rename("layers.0", "layers.9", only="layers.0.mlp"), "layers.9"),
    "a bias": (rename("lora_A.weight", "bias"), "fits no weight"),
    "half of it": (change_parts(lambda held: {name: held[name] for name in held if "lora_A" in name}), "do not make"),
    "nothing in it": (change_parts(lambda held: {}), "without weights"),
    "of rank 0": (change_parts(rank_zero), "do not make"),
    "on another shape": (rename("q_proj", "k_proj"), "k_proj"),
    "dora": (change_lora(use_dora=True), "use_dora is True"),
    "other kinds": (change_lora(peft_type="IA3"), "'IA3'; known: 'LORA'"),
    "a base that was changed": (change_lora(init_lora_weights="pissa"), "'pissa'"),
    "a factor a layer": (change_lora(alpha_pattern={"q_proj": 2}), "alpha_pattern"),
    "no factor": (change_lora(lora_alpha=None), "lora_alpha is None"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no weights"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
}


@pytest.mark.parametrize("case", BROKEN_LORA)
def test_an_adapter_that_does_not_fit_is_one_line(
    case: str, model: Any, source: Path, vision: Path, tmp_path: Path
) -> None:
    change, message = BROKEN_LORA[case]
    folder, _ = adapter(tmp_path / "lora", model)
    change(folder)
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out", vision=vision, lora=folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ("source", "vision", "lora"))
def test_a_pickle_that_would_run_something_is_refused(
    where: str, model: Any, source: Path, vision: Path, tmp_path: Path
) -> None:
    folder, _ = adapter(tmp_path / "lora", model)
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_bytes((vision / "config.json").read_bytes())
    torch.save(tower_of(model).state_dict(), clip / "pytorch_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")
    files = {"source": source / SECOND, "vision": clip / "pytorch_model.bin", "lora": folder / "adapter_model.bin"}
    torch.save({"x": Evil(tmp_path / "ran")}, files[where])
    with pytest.raises(ModelError, match="refused") as caught:
        convert(source, tmp_path / "out", vision=clip, lora=folder)
    assert str(files[where]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to switch the check off
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_a_tower_that_does_not_fit_is_one_line(model: Any, source: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig

    CLIPVisionModel(CLIPVisionConfig(**SIZES_OF_CLIP | {"hidden_size": 16})).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ModelError, match=r"narrow: .*linear_1.weight is .* \(48, 32\), not \(48, 16\)"):
        convert(source, tmp_path / "out", vision=tmp_path / "narrow")
    SiglipVisionConfig().save_pretrained(tmp_path / "siglip")
    with pytest.raises(ModelError, match="model_type is 'siglip_vision_model'"):
        convert(source, tmp_path / "out", vision=tmp_path / "siglip")
    model.config.vision_config.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="bare: no weights"):
        convert(source, tmp_path / "out", vision=tmp_path / "bare")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(source: Path, vision: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        convert(source, tmp_path / "out", vision=vision)
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(
    source: Path, vision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_llava, "save_file", full)
    with pytest.raises(ModelError, match="No space left"):
        convert(source, tmp_path / "out", vision=vision)
    assert [path.name for path in tmp_path.iterdir()] == ["sft_model"]


def test_a_kill_leaves_no_half_folder_and_the_next_try_succeeds(
    model: Any, source: Path, vision: Path, tmp_path: Path
) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from harness.models import convert_llava
write, convert_llava.SHARD, written = convert_llava.save_file, 40_000, []
def save(tensors, path, **settings):
    write(tensors, path, **settings)
    written.append(path)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert_llava.save_file = save
convert_llava.convert(Path({str(source)!r}), Path({str(tmp_path / "out")!r}), vision=Path({str(vision)!r}))
"""
    assert subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*/all/*.safetensors"))  # it was in the middle of it
    convert(source, tmp_path / "out", vision=vision)
    assert_same(tmp_path / "out", model)
