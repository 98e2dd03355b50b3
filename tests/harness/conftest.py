"""Small real things: an untrained LLaVA of the scenes' architecture on disk, and a recipe that trains it for seconds."""

from pathlib import Path

import pytest


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
