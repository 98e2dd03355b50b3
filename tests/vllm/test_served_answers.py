"""What a real vLLM answers is what the engine of this project answers."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from harness.models.spec import WEIGHTS
from leaderboards.board.board import Board
from tests.vllm.conftest import SET, answers, run

pytestmark = pytest.mark.slow


def test_the_four_scenes_tasks_are_answered_as_by_the_local_engine(tmp_path: Path) -> None:
    command = ("eval", "--model", "scenes-base", "--tasks", "scenes")
    for out, more in (("local", ()), ("served", ("--serve", "vllm", *SET, "--ledger", tmp_path / "l.sqlite"))):
        assert run(*command, *more, "--out", tmp_path / out) == 0
    local, served = (answers(tmp_path / out / "board", "scenes-base") for out in ("local", "served"))
    assert len({task for task, _ in local}) == 4
    assert {key: answer for key, answer in served.items() if answer != local[key]} == {}
    assert served.keys() == local.keys()
    values = [
        {entry.key: entry.value for entry in Board(tmp_path / out / "board").current()} for out in ("local", "served")
    ]
    assert values[0] == values[1]
    (known,) = {
        (entry.provenance["served by"], entry.provenance["dtype"], entry.provenance["server flags"])
        for entry in Board(tmp_path / "served" / "board").entries()
    }
    assert known == ("vllm", "float32", "block-size=32, enforce-eager=true")


def make_adapter(folder: Path, rank: int, targets: str) -> Path:
    """A LoRA adapter on scenes-base that changes its answers."""
    torch.manual_seed(rank)
    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS / "scenes-base", dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False)
    made = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    made.save_pretrained(folder)
    (folder / "adapter_config.json").write_text(
        json.dumps(
            json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": "scenes-base"}
        )
    )
    return folder


TEXT = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
ALL = r".*\.(q_proj|v_proj|up_proj|down_proj|fc1|fc2|linear_1)"


def test_adapters_of_any_rank_are_served_by_one_server_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapters = [make_adapter(tmp_path / f"rank-{rank}", rank, TEXT) for rank in (64, 128)]
    models = [word for name in ("scenes-base", *adapters) for word in ("--model", name)]
    command = ("eval", *models, "--tasks", "scenes_chair", "--limit", "60")
    assert run(*command, "--out", tmp_path / "local") == 0
    more = ("--serve", "vllm", *SET, "--ledger", tmp_path / "l.sqlite", "--out", tmp_path / "served")
    with caplog.at_level("INFO"):
        assert run(*command, *more) == 0
    assert sum("starting " in line and " serve " in line for line in caplog.messages) == 1
    seen = []
    for model in ("scenes-base", *map(str, adapters)):
        local, served = (answers(tmp_path / out / "board", model) for out in ("local", "served"))
        assert len(local) == 60
        assert served == local
        seen.append(tuple(local.values()))
    assert len(set(seen)) == 3


def test_an_adapter_of_the_vision_encoder_is_applied_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(tmp_path / "vision", 8, ALL)
    command = ("eval", "--model", adapter, "--tasks", "scenes_chair", "--limit", "30")
    assert run(*command, "--out", tmp_path / "local") == 0
    more = ("--serve", "vllm", *SET, "--ledger", tmp_path / "l.sqlite", "--out", tmp_path / "served")
    if run(*command, *more) != 0:  # vLLM 0.32 ends itself where a CLIP encoder without its class token is adapted
        assert "merge it into its base" in capsys.readouterr().err
        return
    local, served = (answers(tmp_path / out / "board", str(adapter)) for out in ("local", "served"))
    assert served == local


def test_a_flag_that_vllm_does_not_know_ends_the_run_with_its_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--limit", "2", "--serve", "vllm")
    assert run(*command, "--serve-set", "no-such-flag=1", "--out", tmp_path) == 1
    said = capsys.readouterr().err
    assert "unrecognized arguments: --no-such-flag 1" in said
    assert f"(log: {tmp_path}/servers/" in said
