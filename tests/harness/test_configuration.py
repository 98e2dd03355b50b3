"""An entry is of a model's files: an edited configuration or template is asked anew, a moved folder is not."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.engine.config import EngineConfig
from harness.models.chat_templates import chat_template_of
from harness.models.configuration import configuration_of, counts_for
from harness.models.spec import ModelSpec

NOW = datetime.now(UTC)


def write(path: Path, content: Any, age: float = 3600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (NOW.timestamp() - age,) * 2)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write(base / "config.json", {"model_type": "llava", "_name_or_path": "a"})
    write(base / "generation_config.json", {"temperature": 1})
    write(base / "preprocessor_config.json", {"size": 28})
    write(base / "tokenizer.json", {"model": {}})
    write(base / "tokenizer_config.json", {"eos_token": "</s>"})
    write(base / "chat_template.jinja", "{{ messages }}")
    write(base / "model.safetensors", "weights")
    write(adapter / "adapter_config.json", {"lora_alpha": 8, "base_model_name_or_path": "a"})
    write(adapter / "adapter_model.safetensors", "weights")
    write(adapter / "checkpoint.json", {"base": "a"})
    write(adapter / "tokenizer_config.json", {"eos_token": "</s>"})
    return ModelSpec(name="m", pretrained=str(base), folder=base, adapter=adapter)


def counts(spec: ModelSpec, recorded: dict[str, str], engine: EngineConfig | None = None, age: float = 600) -> bool:
    created = (NOW - timedelta(seconds=age)).isoformat()
    return counts_for(recorded, created, spec, engine or EngineConfig(), configuration_of(spec))


def recorded_of(spec: ModelSpec) -> dict[str, str]:
    return configuration_of(spec) | chat_template_of(spec).facts()


EDITS: dict[str, tuple[str, Any]] = {
    "lora_alpha": ("adapter/adapter_config.json", {"lora_alpha": 0.001, "base_model_name_or_path": "a"}),
    "a key of the adapter": ("adapter/adapter_config.json", {"lora_alpha": 8, "use_rslora": True}),
    "the template": ("base/chat_template.jinja", "{{ messages }}!"),
    "another template": ("base/chat_template.json", {"chat_template": "{{ messages }}?"}),
    "the template of the adapter": ("adapter/chat_template.jinja", "{{ messages }} "),
    "generation": ("base/generation_config.json", {"temperature": 2}),
    "generation that is torn": ("base/generation_config.json", "{"),
    "pictures": ("base/preprocessor_config.json", {"size": 56}),
    "the processor": ("base/processor_config.json", {"patch_size": 14}),
    "the tokenizer": ("base/tokenizer.json", {"model": {"vocab": 1}}),
    "its settings": ("base/tokenizer_config.json", {"eos_token": "<|end|>"}),
    "added tokens": ("base/added_tokens.json", {"<image>": 5}),
    "the model": ("base/config.json", {"model_type": "llava", "vision_feature_layer": -1}),
}


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize("earlier", (False, True))
def test_what_decides_answers_is_part_of_a_model(tmp_path: Path, spec: ModelSpec, what: str, earlier: bool) -> None:
    recorded = {} if earlier else recorded_of(spec)
    assert counts(spec, recorded)
    name, content = EDITS[what]
    write(tmp_path / name, content, age=0)
    assert not counts(spec, recorded)


def test_where_files_are_from_decides_nothing(tmp_path: Path, spec: ModelSpec) -> None:
    recorded = recorded_of(spec)
    write(tmp_path / "adapter/adapter_config.json", {"lora_alpha": 8, "base_model_name_or_path": "/b", "revision": "x"})
    write(tmp_path / "base/config.json", {"transformers_version": "9", "_name_or_path": "b", "model_type": "llava"})
    write(tmp_path / "adapter/checkpoint.json", {"base": "b", "step": 4}, age=0)
    write(tmp_path / "adapter/README.md", "# a card", age=0)
    write(tmp_path / "adapter/tokenizer_config.json", {"eos_token": "x"}, age=0)  # the base's is read
    assert counts(spec, recorded)
    assert counts(spec, {})
    moved = tmp_path / "moved"
    (tmp_path / "base").rename(moved)
    assert counts(replace(spec, pretrained=str(moved), folder=moved), recorded)


def test_entries_of_earlier_versions_count_for_folders_that_were_copied(tmp_path: Path, spec: ModelSpec) -> None:
    for path in sorted(tmp_path.rglob("*.*")):
        os.utime(path, (NOW.timestamp(),) * 2)  # as cp does
    assert counts(spec, {})
    assert counts(replace(spec, pretrained="org/name"), {})


def by_option(spec: ModelSpec) -> tuple[ModelSpec, EngineConfig]:
    path = spec.local_folder.parent / "other.jinja"
    write(path, "{{ messages }} other")
    return spec, EngineConfig(chat_template=path)


def by_base(spec: ModelSpec) -> tuple[ModelSpec, EngineConfig]:
    tuned = spec.local_folder.parent / "tuned"
    write(tuned / "config.json", {"model_type": "llava", "_name_or_path": str(spec.local_folder)})
    return ModelSpec(name="t", pretrained=str(tuned), folder=tuned), EngineConfig()


@pytest.mark.parametrize("change", (by_option, by_base))
def test_an_entry_from_before_is_not_of_a_template_that_is_not_in_the_folder(
    spec: ModelSpec, change: Callable[[ModelSpec], tuple[ModelSpec, EngineConfig]]
) -> None:
    changed, engine = change(spec)
    assert not counts(changed, {}, engine)
    facts = configuration_of(changed) | chat_template_of(changed, engine).facts()
    assert counts(changed, facts, engine)


def test_a_served_model_has_no_files_here() -> None:
    served = ModelSpec(name="s", pretrained="x", backend="openai")
    assert configuration_of(served) == {}
    assert counts(served, {"chat template": "anything"})
