"""A base that can't be read for training is refused in one line, before anything is read or paid for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.errors import HarnessError, ModelError
from tests.harness.zoo import FAMILIES
from trainers.training.read_base import check_base, reading, what_folder_lacks


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "llava"
    FAMILIES["llava"](folder)
    return folder


def remove(*patterns: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return change


def cut(name: str, to: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:to])


def put(name: str, **values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        held = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps(held | values))

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no chat template": (remove("chat_template*"), "has no chat template"),
    "no tokenizer": (remove("tokenizer*"), "no tokenizer"),
    "no tokenizer.json": (remove("tokenizer.json"), "no tokenizer"),
    "a torn tokenizer": (cut("tokenizer.json", 1000), r"tokenizer\.json is torn"),
    "torn settings of the tokenizer": (cut("tokenizer_config.json", 20), r"tokenizer_config\.json is torn"),
    "torn weights": (cut("model.safetensors", 20000), r"model\.safetensors has 20000 of \d+ bytes"),
    "empty weights": (cut("model.safetensors", 0), r"model\.safetensors has 0 of"),
    "no weights": (remove("model.safetensors"), r"no model\.safetensors"),
    "a missing part": (
        put("model.safetensors.index.json", weight_map={"a": "model-1.safetensors"}),
        r"no model-1\.safetensors",
    ),
    "a torn index": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"wei'),
        r"index\.json is torn",
    ),
    "no config": (remove("config.json"), r"config\.json"),
    "a torn config": (cut("config.json", 50), r"config\.json"),
    "an empty config": (cut("config.json", 0), r"config\.json"),
    "an unknown kind": (put("config.json", model_type="llavaverse"), "llavaverse"),
    "no kind": (put("config.json", model_type=None), "."),
    "a kind without pictures": (put("config.json", model_type="llama"), "llama"),
    "a torn processor": (cut("processor_config.json", 10), r"processor_config\.json is torn"),
    "torn pictures": (cut("preprocessor_config.json", 10), r"preprocessor_config\.json is torn"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_base_is_refused_in_a_line(llava: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(llava, folder)
    check_base(str(folder), "mine")
    change, words = BROKEN[what]
    change(folder)
    with pytest.raises(HarnessError, match=words) as error:
        check_base(str(folder), "mine")
    assert str(error.value).startswith("mine: ")
    assert "\n" not in str(error.value)


def test_an_adapter_is_not_blamed_for_its_bases_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    assert what_folder_lacks(tmp_path) == ""
    with pytest.raises(ModelError, match="mine: can't be loaded: other shapes"), reading("mine", str(tmp_path)):
        raise RuntimeError("other\nshapes")
