"""The authors' configuration: every key understood or refused, none passed over."""

from pathlib import Path
from typing import Any

import pytest

from support.errors import RecipeError
from trainers.config.recipe import find_recipe
from trainers.config.silkie_yaml import KNOWN, read_config

EXAMPLE = """\
model_name_or_path: "Qwen/Qwen-VL-Chat"
output_dir: null
bf16: true
fix_vit: true
num_train_epochs: 3
per_device_train_batch_size: 2
per_device_eval_batch_size: 2
gradient_accumulation_steps: 8
evaluation_strategy: "steps"
eval_steps: 500
save_strategy: "steps"
save_steps: 100
save_total_limit: 10
learning_rate: 1e-5
weight_decay: 0.05
adam_beta2: 0.98
warmup_ratio: 0.1
lr_scheduler_type: "cosine"
logging_steps: 10
report_to: wandb
run_name: silkie-paperconfig
model_max_length: 2048
gradient_checkpointing: true
use_lora: true
bf16: true
tf32: true
logging_first_step: true
remove_unused_columns: false
"""
"""Keys and values of dpo_config/example.yaml, bf16 twice as there."""


def written(folder: Path, text: str = EXAMPLE) -> Path:
    path = folder / "example.yaml"
    path.write_text(text, encoding="utf-8")
    return path


BESIDE: Any = {"report_to": True, "score_checkpoints": True, "lora": {"targets"}}
"""What the authors' file has in another form, or does not have."""


def test_the_example_is_the_recipe_silkie(tmp_path: Path) -> None:
    found, silkie = read_config(written(tmp_path)).recipe, find_recipe("silkie")
    assert found.training is not None
    assert silkie.training is not None
    assert found.dataset == silkie.dataset
    assert found.seed == silkie.seed
    ours = found.training.model_dump(exclude=BESIDE)
    assert ours == silkie.training.model_dump(exclude=BESIDE)
    assert found.name == "silkie-paperconfig"
    assert found.base == "Qwen/Qwen-VL-Chat"


def test_the_examples_adapters_are_on_silkies_modules(tmp_path: Path) -> None:
    import re

    from harness.models.qwen_vl.config import QwenVLConfig
    from harness.models.qwen_vl.model import QwenVLForConditionalGeneration
    from tests.harness.qwen_vl_checkpoint import config

    found, silkie = read_config(written(tmp_path)).recipe.training, find_recipe("silkie").training
    assert found is not None
    assert found.lora is not None
    assert silkie is not None
    assert silkie.lora is not None
    names = [name for name, _ in QwenVLForConditionalGeneration(QwenVLConfig(**config())).named_modules()]
    adapted = [
        [name for name in names if re.fullmatch(targets, name)] for targets in (found.lora.targets, silkie.lora.targets)
    ]
    assert adapted[0] == adapted[1] != []


def test_every_key_is_listed_with_what_becomes_of_it(tmp_path: Path) -> None:
    lines = {line.key: line for line in read_config(written(tmp_path)).lines}
    given = {line.partition(":")[0] for line in EXAMPLE.splitlines()}
    assert given <= set(lines)
    assert all(line.becomes for line in lines.values())
    assert lines["learning_rate"].becomes == "training.learning_rate = 1e-5"
    assert "256: 2 x 8 x 16 GPUs" in lines["gradient_accumulation_steps"].becomes
    assert lines["remove_unused_columns"].becomes.startswith("not needed")
    assert (lines["lora_r"].value, lines["lora_r"].becomes) == ("", "training.lora.r = 64")


def test_every_known_key_has_something_to_become(tmp_path: Path) -> None:
    values = {
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "evaluation_strategy": "steps",
        "lora_bias": "none",
        "fp16": "false",
    }
    values |= {
        "generate_during_eval": "false",
        "use_lora": "true",
        "fix_vit": "true",
        "bf16": "true",
        "q_lora": "true",
        "deepspeed": "null",
    }
    values |= {
        "lr_scheduler_type": "cosine",
        "lora_weight_path": '""',
        "optim": "adamw_torch",
        "lora_target_modules": "[w1]",
    }
    values |= {
        "warmup_ratio": "0.0",
        "adam_beta1": "0.8",
        "adam_beta2": "0.9",
        "lora_dropout": "0.1",
        "gradient_checkpointing": "true",
    }
    text = "".join(f"{key}: {values.get(key, 1)}\n" for key in KNOWN if key != "report_to")
    found = read_config(written(tmp_path, text))
    assert {line.key for line in found.lines} >= set(KNOWN) - {"report_to"}
    assert found.recipe.training is not None
    assert found.recipe.training.quantization == "4bit"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    (
        (
            "learning_rate:",
            "learning_rat:",
            r"example\.yaml: unknown key 'learning_rat' \(did you mean 'learning_rate'\?\); known: ",
        ),
        ("bf16: true\nfix_vit", "bf16: false\nfix_vit", "not YAML: bf16 is given as False and as True"),
        ("use_lora: true", "use_lora: maybe", "use_lora = 'maybe': must be true or false"),
        ("use_lora: true", "use_lora: false\nlora_r: 8", "lora_r = 8 needs use_lora: true"),
        ("learning_rate: 1e-5", "learning_rate: fast", r"training\.learning_rate = 'fast'"),
        ("gradient_accumulation_steps: 8", "gradient_accumulation_steps: 0", "must be a whole number above 0"),
        ('save_strategy: "steps"', "save_strategy: epoch", "save_strategy = 'epoch': only 'steps' can be had here"),
        ('evaluation_strategy: "steps"', "evaluation_strategy: epoch", "known: steps, no"),
        ("report_to: wandb", "report_to: clearml", "clearml"),
        ("report_to: wandb", "report_to: 5", "report_to = 5: must be a name, or a list of names"),
        ("tf32: true", "lora_target_modules: 5", "lora_target_modules = 5: must be a name, or a list of names"),
        ('lr_scheduler_type: "cosine"', "lr_scheduler_type: foo", r"training\.scheduler = 'foo'"),
        ("tf32: true", "fp16: true", "fp16 = True: only False"),
        (EXAMPLE, "- a list", "must hold keys and values"),
        (EXAMPLE, "a: [", "not YAML"),
    ),
)
def test_what_cannot_be_had_is_named_in_one_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(RecipeError, match=complaint) as raised:
        read_config(written(tmp_path, EXAMPLE.replace(old, new, 1)))
    assert "\n" not in str(raised.value)


def test_full_training_is_without_adapters(tmp_path: Path) -> None:
    text = EXAMPLE.replace("use_lora: true", "use_lora: false").replace("fix_vit: true", "fix_vit: false")
    training = read_config(written(tmp_path, text)).recipe.training
    assert training is not None
    assert training.lora is None
    assert training.train_vision


def test_evaluation_can_be_off(tmp_path: Path) -> None:
    found = read_config(written(tmp_path, EXAMPLE.replace('evaluation_strategy: "steps"', "evaluation_strategy: no")))
    assert found.recipe.training is not None
    assert found.recipe.training.eval_steps is None
    assert next(line for line in found.lines if line.key == "eval_steps").becomes.startswith("not needed")


def test_answers_can_be_whole(tmp_path: Path) -> None:
    training = read_config(
        written(tmp_path, EXAMPLE.replace("model_max_length: 2048", "model_max_length: null"))
    ).recipe.training
    assert training is not None
    assert (training.max_length, training.too_long) == (None, "refuse")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file"):
        read_config(tmp_path / "none.yaml")
