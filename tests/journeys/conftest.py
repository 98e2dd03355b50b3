"""Tiny checkpoints where weights would be: LLaVA's and Qwen2.5-VL's shapes, untrained, and a LoRA on the first."""

from pathlib import Path

import pytest

from tests.journeys.walk import User


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of LLaVA-1.5's architecture."""
    from tests.harness.zoo import FAMILIES

    folder = tmp_path_factory.mktemp("weights") / "llava"
    FAMILIES["llava"](folder)
    return folder


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of Qwen2.5-VL's architecture."""
    from tests.harness.zoo import FAMILIES

    folder = tmp_path_factory.mktemp("weights") / "qwen"
    FAMILIES["qwen2_5_vl"](folder)
    return folder


@pytest.fixture(scope="session")
def lora(llava: Path) -> Path:
    """An adapter that peft has saved, whose own files name a base that is nowhere."""
    import json

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(llava, dtype=torch.float32)
    torch.manual_seed(1)
    targets = r".*language_model.*q_proj"
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    folder = llava.parent / "my-lora"
    adapted.save_pretrained(folder)
    config = folder / "adapter_config.json"
    saved = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(saved | {"base_model_name_or_path": "/data/of/somebody/else"}), encoding="utf-8")
    return folder


@pytest.fixture
def user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_keys: None, one_thread: None
) -> User:
    """In an empty folder, without keys; who looks at a page in the browser ends that at once."""
    from harness.evaluation.live_page import LivePage

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LivePage, "serve", lambda _: None)
    return User(tmp_path, capsys, {})


@pytest.fixture(scope="module")
def one_thread() -> object:
    """Threads cost such small models more than they bring."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
