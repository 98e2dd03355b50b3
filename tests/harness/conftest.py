"""Small real things: an untrained LLaVA of the scenes' architecture on disk, and a recipe that trains it for
seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost such small models more than they bring, where other processes want the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights, wide enough that different images and questions get different answers."""
    import torch

    from trainers.scenes.model import build_model, build_processor

    folder = tmp_path_factory.mktemp("models") / "random"
    model = build_model(seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(6)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def answering() -> Callable[[Callable[[str, list[Any]], str]], Any]:
    """Makes an lm-eval LM from a function of prompt and pictures: the edge at which tests replace a model."""
    from lm_eval.api.model import LM

    class Echo(LM):
        MULTIMODAL = True

        def __init__(self, answer: Callable[[str, list[Any]], str]) -> None:
            super().__init__()
            self.answer = answer

        @property
        def tokenizer_name(self) -> str:
            return "echo"

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return "\n".join(turn["content"] for turn in chat_history)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [self.answer(request.args[0], request.args[2]["visual"]) for request in requests]

        def loglikelihood(self, requests: Any) -> Any:
            raise AssertionError

        def loglikelihood_rolling(self, requests: Any) -> Any:
            raise AssertionError

    return Echo


TINY = """
name = "tiny"
trainer = "dpo"
base = "scenes-base"
tasks = ["scenes"]
panel = ["scenes_chair.coverage"]
curves = ["scenes_chair.chair_s"]
examples = "scenes_chair"
control = true
[data]
instructions = 24
max_new_tokens = 48
pool = [{ model = "scenes-base" }, { model = "scenes-base", temperature = 0.7 }, { model = "scenes-early" }]
answers = 3
balance_yes_no = true
[training]
learning_rate = 1e-3
batch_size = 8
checkpoints = 2
[training.lora]
r = 4
alpha = 8
targets = '.*language_model.*q_proj'
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file whose run takes half a minute with --limit 6."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VLLM_BIN is a small script; the file gets what it was called with and asked."""
    from tests.harness.fake_vllm import write_vllm

    record = tmp_path / "record.jsonl"
    monkeypatch.setenv("VLLM_BIN", str(write_vllm(tmp_path / "vllm", record)))
    monkeypatch.chdir(tmp_path)
    return record
