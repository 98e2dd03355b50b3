"""A model is all that decides its answers: the board, the answer cache and the gate agree on whether it is another one.

Each edit of a file, and each setting, is shown to all three.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.engine.config import EngineConfig
from harness.engine.response_cache import ResponseCache
from harness.evaluation.eval_settings import EvalSettings, on_board
from harness.models.chat_templates import chat_template_of
from harness.models.configuration import identity_of, identity_of_folder
from harness.models.load import cache_of, facts_of, identity_when_asked
from harness.models.spec import ModelSpec
from leaderboards.board.board import Board
from leaderboards.board.entry import SHARES_NOTHING, Entry
from leaderboards.comparison.reruns import first_runs
from leaderboards.gate.source import source
from tasks.registry import registry

TASK = registry().task("scenes_pope")
SETTINGS = EvalSettings()
HOUR = 3600.0


def write(path: Path, content: Any) -> None:
    """With a time that is long past, so that times tell nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    os.utime(path, (path.stat().st_mtime - HOUR,) * 2)


FILES: dict[str, Any] = {
    "base/config.json": {"model_type": "llava", "text_config": {"rope_theta": 1e4}, "vision_feature_layer": -2},
    "base/generation_config.json": {"repetition_penalty": 1.05, "eos_token_id": 2},
    "base/preprocessor_config.json": {"size": 28},
    "base/processor_config.json": {"patch_size": 14},
    "base/video_preprocessor_config.json": {"fps": 2},
    "base/tokenizer.json": {"model": {"vocab": {"a": 1}}},
    "base/tokenizer_config.json": {"eos_token": "</s>"},
    "base/special_tokens_map.json": {"eos_token": "</s>"},
    "base/added_tokens.json": {"<image>": 5},
    "base/vocab.json": {"a": 1},
    "base/merges.txt": "a b",
    "base/tokenizer.model": "pieces",
    "base/qwen.tiktoken": "YQ== 1",
    "base/tekken.json": {"vocab": []},
    "base/qformer_tokenizer/tokenizer.json": {"model": {}},
    "base/qformer_tokenizer/vocab.txt": "a",
    "base/qformer_tokenizer/special.model": "pieces",
    "base/chat_template.jinja": "{{ messages }}",
    "base/modeling_own.py": "x = 1",
    "base/parts/vision.py": "x = 1",
    "base/model.safetensors": "weights of the base",
    "base/model.safetensors.index.json": {"weight_map": {"a": "model.safetensors"}},
    "base/trainer_state.json": {"log_history": []},
    "base/README.md": "# A model",
    "base/.gitattributes": "*.bin lfs",
    "base/optimizer.pt": "moments",
    "base/training_args.bin": "pickled",
    "base/checkpoint-20/tokenizer.json": {},
    "base/checkpoint-20/model.safetensors": "earlier weights",
    "adapter/adapter_config.json": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "use_rslora": False},
    "adapter/adapter_model.safetensors": "weights of the adapter",
    "adapter/checkpoint.json": {"base": "base", "step": 1},
    "adapter/trainer_state.json": {"log_history": []},
    "adapter/README.md": "# An adapter",
}


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    for name, content in FILES.items():
        write(tmp_path / name, content)
    base = tmp_path / "base"
    return ModelSpec(name="m", pretrained=str(base), folder=base, adapter=tmp_path / "adapter", remote_code=True)


def entry_of(spec: ModelSpec, engine: EngineConfig, run: str) -> Entry:
    """What `harness eval` keeps."""
    provenance = identity_of(spec) | chat_template_of(spec, engine).facts() | engine.recorded()
    provenance |= SETTINGS.facts() | SETTINGS.facts_of_task(TASK)
    facts: dict[str, Any] = {"unit": "%", "higher_is_better": True, "headline": True, "low": None, "high": None}
    facts |= {"samples": 4, "limit": None, "judge": None, "seconds": 1.0, "cost": 0.0}
    facts |= {"created": "2026-01-31T12:00:00+00:00", "provenance": provenance}
    return Entry(run=run, model="m", task=TASK.name, version=TASK.version, metric=TASK.headline, value=1.0, **facts)


def known_again(
    folder: Path, before: tuple[ModelSpec, EngineConfig], edit: Callable[[], tuple[ModelSpec, EngineConfig]]
) -> dict[str, bool]:
    """Whether each place takes the model for the one it was before `edit`."""
    board, old = Board(folder / "board"), entry_of(*before, "old")
    board.add([old], [])
    kept = identity_when_asked(*before), chat_template_of(*before).digest  # a question's key has the prompt in it
    after = edit()
    new = entry_of(*after, "new")
    found = {
        "board": on_board(board, after[0], "m", [TASK], None, SETTINGS, after[1]),
        "cache": kept == (identity_when_asked(*after), chat_template_of(*after).digest),
    }
    board.add([new], [])
    (chosen,), _ = first_runs(board.current(), board.entries())
    return found | {"gate": chosen.run == "old", "rows": len(board.current(replaced=True)) == 1}


def change(name: str, **fields: Any) -> Callable[[Path], None]:
    """Some fields of a JSON file."""
    return lambda folder: write(folder / name, {**FILES[name], **fields})


def text(name: str, content: str = "edited") -> Callable[[Path], None]:
    return lambda folder: write(folder / name, content)


def flip_a_byte(folder: Path) -> None:
    """In place: size, times and inode stay."""
    path = folder / "base/model.safetensors"
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(b"W")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def change_behind_a_link(folder: Path) -> None:
    path = folder / "base/tokenizer.json"
    target = folder / "elsewhere.json"
    path.rename(target)
    path.symlink_to(target)
    write(target, {"model": {"vocab": {"a": 2}}})


DECIDING: dict[str, Callable[[Path], None]] = {
    "lora_alpha": change("adapter/adapter_config.json", lora_alpha=0.001),
    "r": change("adapter/adapter_config.json", r=4),
    "target_modules": change("adapter/adapter_config.json", target_modules=["v_proj"]),
    "use_rslora": change("adapter/adapter_config.json", use_rslora=True),
    "use_dora": change("adapter/adapter_config.json", use_dora=True),
    "rank_pattern": change("adapter/adapter_config.json", rank_pattern={"q_proj": 2}),
    "modules_to_save": change("adapter/adapter_config.json", modules_to_save=["lm_head"]),
    "the adapter's weights": text("adapter/adapter_model.safetensors"),
    "the adapter's chat template": text("adapter/chat_template.jinja", "{{ messages }} now"),
    "temperature": change("base/generation_config.json", temperature=0.7, do_sample=True),
    "eos": change("base/generation_config.json", eos_token_id=3),
    "no generation_config": lambda folder: (folder / "base/generation_config.json").unlink(),
    "rope": change("base/config.json", text_config={"rope_theta": 1e6}),
    "vision": change("base/config.json", vision_feature_layer=-1),
    "quantization": change("base/config.json", quantization_config={"bits": 4}),
    "dtype of the file": change("base/config.json", torch_dtype="float16"),
    "picture size": change("base/preprocessor_config.json", size=56),
    "patches": change("base/processor_config.json", patch_size=28),
    "videos": change("base/video_preprocessor_config.json", fps=1),
    "vocabulary": change("base/tokenizer.json", model={"vocab": {"a": 2}}),
    "tokenizer's settings": change("base/tokenizer_config.json", eos_token="<|end|>"),
    "special tokens": change("base/special_tokens_map.json", eos_token="<|end|>"),
    "added tokens": change("base/added_tokens.json", **{"<image>": 6}),
    "vocab.json": change("base/vocab.json", a=2),
    "merges": text("base/merges.txt"),
    "sentencepiece": text("base/tokenizer.model"),
    "tiktoken": text("base/qwen.tiktoken"),
    "tekken": text("base/tekken.json", '{"vocab": [1]}'),
    "tokenizer of a part": text("base/qformer_tokenizer/tokenizer.json", '{"model": 1}'),
    "vocabulary of a part": text("base/qformer_tokenizer/vocab.txt"),
    "pieces of a part": text("base/qformer_tokenizer/special.model"),
    "chat template": text("base/chat_template.jinja", "{{ messages }} now"),
    "older chat template": text("base/chat_template.json", '{"chat_template": "{{ messages }} then"}'),
    "code": text("base/modeling_own.py", "x = 2"),
    "code of a part": text("base/parts/vision.py", "x = 2"),
    "weights": text("base/model.safetensors", "WEIGHTS of the base"),
    "weights, times and size kept": flip_a_byte,
    "index of weights": text("base/model.safetensors.index.json", '{"weight_map": {}}'),
    "the target of a link": change_behind_a_link,
}
IDLE: dict[str, Callable[[Path], None]] = {
    "penalty of the checkpoint": change("base/generation_config.json", repetition_penalty=1.3),
    "words of the checkpoint": change("base/generation_config.json", bad_words_ids=[[3]], suppress_tokens=[4]),
    "card": text("base/README.md"),
    "the adapter's card": text("adapter/README.md"),
    "training log": text("base/trainer_state.json", '{"log_history": [1]}'),
    "the adapter's training log": text("adapter/trainer_state.json", '{"log_history": [1]}'),
    "note of the training": text("adapter/checkpoint.json", '{"base": "base", "step": 2}'),
    "optimizer": text("base/optimizer.pt"),
    "arguments of the training": text("base/training_args.bin"),
    "attributes of git": text("base/.gitattributes"),
    "another checkpoint within": text("base/checkpoint-20/tokenizer.json", '{"model": 2}'),
    "a board within": text("base/board/run-1.json", "{}"),
    "where the base was": change("adapter/adapter_config.json", base_model_name_or_path="/elsewhere"),
    "order of keys": lambda folder: write(
        folder / "adapter/adapter_config.json", dict(reversed(FILES["adapter/adapter_config.json"].items()))
    ),
    "times": lambda folder: os.utime(folder / "base/tokenizer.json"),
}


@pytest.mark.parametrize("what", DECIDING)
def test_an_edit_that_decides_answers_makes_another_model_everywhere(
    what: str, spec: ModelSpec, tmp_path: Path
) -> None:
    def edit() -> tuple[ModelSpec, EngineConfig]:
        DECIDING[what](tmp_path)
        return spec, EngineConfig()

    found = known_again(tmp_path / "out", (spec, EngineConfig()), edit)
    assert found == dict.fromkeys(("board", "cache", "gate", "rows"), False)


@pytest.mark.parametrize("what", IDLE)
def test_an_edit_that_decides_nothing_makes_no_other_model_anywhere(what: str, spec: ModelSpec, tmp_path: Path) -> None:
    def edit() -> tuple[ModelSpec, EngineConfig]:
        IDLE[what](tmp_path)
        return spec, EngineConfig()

    found = known_again(tmp_path / "out", (spec, EngineConfig()), edit)
    assert found == dict.fromkeys(("board", "cache", "gate", "rows"), True)


def test_a_moved_folder_and_another_base_of_the_same_content_are_the_same_model(
    spec: ModelSpec, tmp_path: Path
) -> None:
    def move() -> tuple[ModelSpec, EngineConfig]:
        shutil.copytree(tmp_path / "base", tmp_path / "zz")
        shutil.copytree(tmp_path / "adapter", tmp_path / "aa")
        moved = replace(spec, pretrained=str(tmp_path / "zz"), folder=tmp_path / "zz", adapter=tmp_path / "aa")
        return moved, EngineConfig()

    found = known_again(tmp_path / "out", (spec, EngineConfig()), move)
    assert found == dict.fromkeys(("board", "cache", "gate", "rows"), True)


@pytest.mark.parametrize(
    "engine",
    (
        EngineConfig(dtype="bfloat16"),
        EngineConfig(attn_implementation="eager"),
        EngineConfig(load_in_4bit=True),
        EngineConfig(max_pixels=1000),
        EngineConfig(max_images=1),
        EngineConfig(share="features"),
        EngineConfig(exact=True),
        EngineConfig(repetition_penalty=1.05),
        EngineConfig(suffix=" Answer in one word."),
        EngineConfig(overrides={"vision_feature_layer": -1}),
        EngineConfig(compile=True),
    ),
    ids=lambda engine: ",".join(engine.given()),
)
def test_a_setting_that_changes_answers_makes_another_model_everywhere(
    engine: EngineConfig, spec: ModelSpec, tmp_path: Path
) -> None:
    found = known_again(tmp_path / "there", (spec, EngineConfig()), lambda: (spec, engine))
    back = known_again(tmp_path / "back", (spec, engine), lambda: (spec, EngineConfig()))
    for places in (found, back):
        assert (places["board"], places["cache"], places["gate"]) == (False, False, False)


@pytest.mark.parametrize(
    "engine",
    (EngineConfig(batch_size=2), EngineConfig(workers=3), EngineConfig(kept_bytes=1), EngineConfig(device="cpu")),
)
def test_a_setting_of_speed_or_place_makes_no_other_model_on_the_board_or_in_the_gate(
    engine: EngineConfig, spec: ModelSpec, tmp_path: Path
) -> None:
    found = known_again(tmp_path / "out", (spec, EngineConfig()), lambda: (spec, engine))
    assert found == dict.fromkeys(("board", "cache", "gate", "rows"), True)


@pytest.mark.parametrize(
    ("folder", "what"),
    (
        ("adapter", "lora_alpha"),
        ("adapter", "the adapter's weights"),
        ("adapter", "the adapter's chat template"),
        ("base", "penalty of the checkpoint"),  # not every server is told one
        ("base", "vision"),
        ("base", "vocabulary"),
        ("base", "chat template"),
        ("base", "weights, times and size kept"),
    ),
)
def test_a_folder_that_a_server_names_is_known_by_all_its_files(
    folder: str, what: str, spec: ModelSpec, tmp_path: Path
) -> None:
    before = identity_of_folder(tmp_path / folder)
    IDLE["card"](tmp_path)
    IDLE["the adapter's training log"](tmp_path)
    assert identity_of_folder(tmp_path / folder) == before
    (DECIDING | IDLE)[what](tmp_path)
    assert identity_of_folder(tmp_path / folder) != before


def test_code_decides_only_where_it_may_run(spec: ModelSpec, tmp_path: Path) -> None:
    without = replace(spec, remote_code=False)
    assert identity_of(spec) != identity_of(without)
    found = identity_of(without)
    write(tmp_path / "base/modeling_own.py", "x = 2")
    assert identity_of(without) == found


def test_the_gate_takes_the_edited_model_and_an_old_score_of_the_other_is_named(
    spec: ModelSpec, tmp_path: Path
) -> None:
    """`lora_alpha` edited in place: the first run of the name is of another model, and does not count as this one's."""
    board = Board(tmp_path / "board")
    old = entry_of(spec, EngineConfig(), "old")
    board.add([replace(old, value=90.0), replace(old, task="scenes_mme", value=50.0)], [])
    DECIDING["lora_alpha"](tmp_path)
    board.add([replace(entry_of(spec, EngineConfig(), "new"), value=10.0)], [])
    found = source(tmp_path / "board")
    assert [(entry.run, entry.value) for entry in found.entries] == [("new", 10.0)]
    assert [(entry.model, entry.task) for entry in found.replaced] == [("m", "scenes_mme")]
    assert dict(found.reruns) == {}
    shown = [entry.model for entry in board.current(replaced=True) if entry.run == "old"]
    assert all(name.startswith(f"m (weights {old.weights}, configuration ") for name in shown)


def test_entries_of_earlier_versions_are_of_the_model_that_nothing_tells_from_theirs(
    spec: ModelSpec, tmp_path: Path
) -> None:
    board, new = Board(tmp_path / "board"), entry_of(spec, EngineConfig(), "new")
    facts = {name: value for name, value in new.provenance.items() if name not in ("configuration", "chat template")}
    board.add([replace(new, run="old", task="scenes_mme", provenance=facts)], [])
    board.add([new], [])
    assert len(board.current()) == 2


def test_answers_that_earlier_versions_kept_are_found_unless_a_file_was_left_out_of_their_key(tmp_path: Path) -> None:
    for name in ("base/config.json", "base/tokenizer.json", "base/model.safetensors", "base/trainer_state.json"):
        write(tmp_path / name, FILES[name])
    base = tmp_path / "base"
    spec = ModelSpec(name="m", pretrained=str(base), folder=base)
    engine = EngineConfig(answers=tmp_path / "answers.sqlite")
    question = {"prompt": "Is there a dog?"}
    ResponseCache(tmp_path / "answers.sqlite").of(facts_of(spec, engine)).put(question, "yes")
    cache = cache_of(spec, engine)
    assert cache is not None
    assert cache.get(question) == "yes"
    write(base / "qformer_tokenizer/tokenizer.json", {})
    cache = cache_of(spec, engine)
    assert cache is not None
    assert cache.get(question) is None


def test_the_word_of_the_engine_is_the_one_that_boards_look_for() -> None:
    assert EngineConfig(exact=True).recorded()["shared"] == SHARES_NOTHING
