"""Adapters, states of training, data sets and chat templates of strangers: what they hold runs nothing."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from harness.cli import main as cli
from harness.models.adapter_host import AdapterHost
from harness.models.fetch import fetch
from harness.models.load import load
from harness.models.spec import find
from support.errors import HarnessError
from tasks.registry import registry
from tests.adversary.foreign_checkpoints import SCENES
from tests.harness.rated_scenes import write_rated_scenes
from tests.harness.test_train_cli import RECIPE


class Pickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    base = AutoModelForImageTextToText.from_pretrained(SCENES, dtype=torch.float32, trust_remote_code=False)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


ADAPTERS: dict[str, dict[str, Any]] = {
    "a class to import": {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}},
    "a module to import": {"megatron_config": {"a": 1}, "megatron_core": "evil"},
    "an unknown kind": {"peft_type": "EVIL"},
    "other adapters": {"peft_type": "XLORA", "adapters": {"0": "{lora}"}, "hidden_size": 32},
    "a tokenizer with code": {
        "peft_type": "PROMPT_TUNING",
        **{"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x", "num_virtual_tokens": 2},
        **{"tokenizer_name_or_path": "{code}", "tokenizer_kwargs": {"trust_remote_code": True}},
    },
    "a file of prompts": {
        "peft_type": "MULTITASK_PROMPT_TUNING",
        **{"prompt_tuning_init": "ONLY_SOURCE_SHARED", "num_virtual_tokens": 2, "num_tasks": 2},
        "prompt_tuning_init_state_dict_path": "{pickle}",
    },
    "a cache of CorDA": {"init_lora_weights": "corda", "corda_config": {"cache_file": "{pickle}"}},
    "a cache of LoRA-GA": {"init_lora_weights": "lora_ga", "lora_ga_config": {"cache_file": "{pickle}"}},
    "code named as a model's": {"auto_map": {"AutoModel": "evil.Evil"}},
}
REFUSED = ("a module to import", "an unknown kind", "other adapters", "a file of prompts", "a tokenizer with code")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapters_configuration_runs_and_reads_nothing_else(
    kind: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "lora"
    shutil.copytree(adapter, folder)
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass Evil: pass\n")
    shutil.copy(tmp_path / "evil.py", folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"a": Pickled(mark)}, tmp_path / "evil.bin")
    text = json.dumps(json.loads((folder / "adapter_config.json").read_text()) | ADAPTERS[kind])
    for name, path in {"{lora}": adapter, "{pickle}": tmp_path / "evil.bin", "{code}": tmp_path}.items():
        text = text.replace(name, str(path))
    (folder / "adapter_config.json").write_text(text)
    for way in (load, AdapterHost().load):
        if kind in REFUSED:
            with pytest.raises(HarnessError) as told:
                way(fetch(find(str(folder))))
            assert "\n" not in str(told.value)
        else:
            try:
                way(fetch(find(str(folder))))
            except HarnessError as error:
                print(error)
    assert not mark.exists()
    assert "evil" not in sys.modules


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and a run of it with one of its two checkpoints left."""
    at = tmp_path_factory.mktemp("run")
    (at / "recipe.toml").write_text(RECIPE.format(data=write_rated_scenes(at / "data", "foreign").as_posix()))
    assert cli.run(["train", str(at / "recipe.toml"), "--out", str(at / "run")]) == 0
    shutil.rmtree(at / "run" / "checkpoint-4")
    return at / "recipe.toml", at / "run"


STATES = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "pytorch_model.bin",
    "training_args.bin",
    "trainer_state.json",
)


@pytest.mark.parametrize("as_archive", (True, pytest.param(False, marks=pytest.mark.slow)))
@pytest.mark.parametrize("name", STATES)
def test_training_goes_on_from_no_pickle(
    name: str, as_archive: bool, run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe, begun), mark = run, tmp_path / "mark"
    shutil.copytree(begun, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-2" / name
    if as_archive:
        torch.save({"a": Pickled(mark), "state": {}}, file)
    else:
        file.write_bytes(pickle.dumps({"a": Pickled(mark)}))
    code = cli.run(["train", str(recipe), "--out", str(tmp_path / "run")])
    assert code == (0 if name == "training_args.bin" else 1)  # which nothing reads
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 0 or "checkpoint-2: " in last
    assert "mistake in harness" not in last
    assert not mark.exists()


def test_a_data_set_with_a_loading_script_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "pope"
    folder.mkdir()
    for name in ("pope.py", "__init__.py", "dataset.py"):
        (folder / name).write_text(f"import os; os.mkdir({str(mark)!r})")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: pope.py\n---\n")
    (folder / "test.pkl").write_bytes(pickle.dumps(Pickled(mark)))
    task = registry().task("pope").name
    asked = ["eval", "--model", "scenes-base", "--tasks", task, "--data", f"{task}={folder}", "--limit", "1"]
    assert cli.run([*asked, "--out", str(tmp_path / "out")]) in (1, 2)
    assert "\n" not in capsys.readouterr().err.strip().splitlines()[-1]
    assert not mark.exists()


TEMPLATES = {
    "reaches a module": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "reaches globals": "{{ raise_exception.__globals__['os'].mkdir('{mark}') }}",
    "reaches a method's code": "{{ cycler.__init__.__globals__.os.mkdir('{mark}') }}",
    "by attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "by format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "imports": "{% include '/etc/passwd' %}",
    "changes what it is given": "{{ messages.append(1) }}{{ messages }}",
    "makes gigabytes": "{% set n = namespace(x='aaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "makes gigabytes at once": "{{ 'a' * 99999999999 }}",
    "raises to a power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "is long": "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
    "recurses": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
}
ENDLESS = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + 3 * "{% endfor %}"


@pytest.mark.parametrize("kind", (*TEMPLATES, pytest.param("never ends", marks=pytest.mark.slow)))
def test_a_chat_template_reaches_and_costs_nothing(kind: str, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(SCENES, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATES.get(kind, ENDLESS).replace("{mark}", str(mark)))
    with pytest.raises(HarnessError, match=r"the chat template of chat_template\.jinja") as told:
        load(fetch(find(str(folder))))
    assert "\n" not in str(told.value)
    assert not mark.exists()
