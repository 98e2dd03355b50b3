"""Watching a folder of checkpoints: what counts as whole, in which order it is scored, what failures and interruptions
leave."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli.main import run
from harness.evaluation.eval_settings import EvalSettings
from harness.models.spec import WEIGHTS, base_of, find
from harness.runs.scoring_queue import Scoring
from harness.runs.watch import Watched, WatchSettings, watch
from harness.serving.engine_host import EngineHost
from leaderboards.board.board import Board
from support.errors import InputError
from support.files import file_lock
from tasks.registry import registry
from trainers.training.checkpoints import NOTE, QuietPeriod, find_complete_checkpoints, length_of

Checkpoints = Callable[[Path, int], Path]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One LoRA on scenes-base that changes its answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = find("scenes-base").pretrained
    config = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def ours(adapter: Path) -> Checkpoints:
    """Writes a checkpoint as our trainers do: of 3 steps in all."""

    def write(run: Path, step: int) -> Path:
        folder = run / f"checkpoint-{step}"
        shutil.copytree(adapter, folder)
        (folder / NOTE).write_text(json.dumps({"base": "scenes-base", "step": step, "steps": 3}))
        return folder

    return write


@pytest.fixture
def theirs(adapter: Path) -> Checkpoints:
    """Writes a checkpoint as transformers' Trainer does, a minute ago."""

    def write(run: Path, step: int) -> Path:
        folder = run / f"checkpoint-{step}"
        shutil.copytree(adapter, folder)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 3, "log_history": []}))
        age(folder, 60)
        return folder

    return write


def age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


HOST = EngineHost()


def scoring(out: Path, **changes: Any) -> Scoring:
    tasks = registry().expand(["scenes_mme"])
    usual = Scoring(
        board=Board(out / "board"),
        tasks=tasks,
        judge=None,
        state=out / "watch",
        settings=EvalSettings(limit=2),
        host=HOST,
    )
    return replace(usual, **changes)


def watched(folder: Path, now: Scoring, **given: Any) -> Watched:
    callables = {name: given.pop(name) for name in ("shown", "sleep") if name in given}
    return watch(folder, now, WatchSettings(**given), **callables)


def models(out: Path) -> list[str]:
    """What was scored, in that order."""
    return list(dict.fromkeys(entry.model for entry in Board(out / "board").entries()))


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


def lacks(run: Path) -> str:
    complete, incomplete = find_complete_checkpoints(run, QuietPeriod(10))
    assert not complete
    return next(iter(incomplete.values()))


def test_a_checkpoint_of_ours_is_whole_with_its_note(ours: Checkpoints, tmp_path: Path) -> None:
    folder = ours(tmp_path, 2)
    ours(tmp_path, 10)
    (folder / NOTE).unlink()
    complete, incomplete = find_complete_checkpoints(tmp_path, QuietPeriod(10))
    assert [found.step for found in complete] == [10]
    assert incomplete == {folder: "no checkpoint.json yet"}


def test_before_the_first_note_the_folder_is_known_by_its_log(theirs: Checkpoints, tmp_path: Path) -> None:
    theirs(tmp_path, 1)
    assert [found.step for found in find_complete_checkpoints(tmp_path, QuietPeriod(10))[0]] == [1]
    (tmp_path / "log.jsonl").write_text("")
    assert lacks(tmp_path) == "no checkpoint.json yet"


def test_weights_that_are_shorter_than_their_header_says_are_not_whole(ours: Checkpoints, tmp_path: Path) -> None:
    folder = ours(tmp_path, 2)
    weights = folder / "adapter_model.safetensors"
    full = weights.stat().st_size
    assert length_of(weights) == full
    cut(weights, 3)
    assert lacks(tmp_path) == f"adapter_model.safetensors has {full - 3} of {full} bytes"
    weights.write_bytes(weights.read_bytes()[:5])
    assert "unknown many" in lacks(tmp_path)


def test_another_trainers_checkpoint_needs_its_state_and_a_moments_peace(theirs: Checkpoints, tmp_path: Path) -> None:
    folder = theirs(tmp_path, 2)
    assert [
        (found.step, found.of, found.last) for found in find_complete_checkpoints(tmp_path, QuietPeriod(10))[0]
    ] == [(2, 3, False)]
    (folder / "optimizer.pt").write_bytes(b"0")
    assert lacks(tmp_path) == "written to a moment ago"
    age(folder, 60)
    state = folder / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 1}))
    age(folder, 60)
    assert lacks(tmp_path) == "trainer_state.json is of step 1"
    state.write_text('{"global_st')
    assert lacks(tmp_path)
    state.unlink()
    assert lacks(tmp_path) == "no trainer_state.json yet"


def test_where_clocks_differ_a_folder_is_settled_when_it_stays_the_same(theirs: Checkpoints, tmp_path: Path) -> None:
    folder = theirs(tmp_path, 2)
    now = [0.0]
    settled = QuietPeriod(
        10, wall=lambda: 0.0, clock=lambda: now[0]
    )  # by its files' times it will be written in decades
    assert not settled(folder)
    now[0] = 9.0
    assert not settled(folder)
    (folder / "more").write_text("x")
    now[0] = 12.0
    assert not settled(folder)
    now[0] = 22.0
    assert settled(folder)


def test_shards_have_all_to_be_there_and_none_lies_elsewhere(theirs: Checkpoints, tmp_path: Path) -> None:
    folder = theirs(tmp_path, 2)
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.safetensors").rename(folder / "model-1.safetensors")
    assert "neither config.json" in lacks(tmp_path)
    (folder / "config.json").write_text("{}")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert lacks(tmp_path) == "no model-2.safetensors yet"
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    assert "outside" in lacks(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    age(folder, 60)
    assert [found.step for found in find_complete_checkpoints(tmp_path, QuietPeriod(10))[0]] == [2]


def test_files_that_hold_no_object_are_of_a_checkpoint_that_is_not_whole(
    ours: Checkpoints, theirs: Checkpoints, tmp_path: Path
) -> None:
    (ours(tmp_path / "ours", 2) / NOTE).write_text("[1]")
    assert lacks(tmp_path / "ours") == "checkpoint.json holds no JSON object"
    folder = theirs(tmp_path / "theirs", 2)
    (folder / "trainer_state.json").write_text("[]")
    assert lacks(tmp_path / "theirs") == "trainer_state.json holds no JSON object"
    for weights in ([], ["a"], {"a": 5}):
        (folder / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
        assert lacks(tmp_path / "theirs") == "adapter_model.safetensors.index.json names no file of each weight"


def test_a_base_that_is_not_said_is_none(ours: Checkpoints, tmp_path: Path) -> None:
    folder = ours(tmp_path, 3)
    whole, _ = find_complete_checkpoints(tmp_path, QuietPeriod(0))
    (folder / NOTE).write_text(json.dumps({"step": 3, "steps": 3}))
    assert base_of(whole[0].path) == find("scenes-base").pretrained  # as peft wrote it
    for config in ("{}", "[", "[]"):
        (folder / "adapter_config.json").write_text(config)
        assert base_of(whole[0].path) is None


def test_a_base_that_cannot_be_scored_holds_up_no_checkpoint(
    ours: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, broken = ours(tmp_path, 3), tmp_path / "broken"
    broken.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (broken / name).write_bytes((WEIGHTS / "scenes-base" / name).read_bytes())
    (broken / "config.json").write_text("{}")  # so that only loading it tells
    options = ["--tasks", "scenes_mme", "--limit", "2", "--until-done"]
    assert run(["watch", str(tmp_path), *options, "--base", str(broken)]) == 1
    said = capsys.readouterr()
    assert models(tmp_path) == [folder.as_posix()]
    assert f"**base not scored**: `{broken}`" in said.out
    assert "the base is not scored" in said.err


def test_a_pickle_is_named_as_what_it_is(theirs: Checkpoints, tmp_path: Path) -> None:
    folder = theirs(tmp_path, 2)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "only safetensors are read" in lacks(tmp_path)


def test_a_folder_that_is_not_there_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_complete_checkpoints(tmp_path / "rnus", QuietPeriod(0))


def test_checkpoints_are_scored_by_step_and_once(ours: Checkpoints, tmp_path: Path) -> None:
    for step in (10, 9, 2):
        ours(tmp_path, step)
    done = watched(tmp_path, scoring(tmp_path), once=True)
    assert models(tmp_path) == [(tmp_path / f"checkpoint-{step}").as_posix() for step in (2, 9, 10)]
    assert [path.name for path in done.scored] == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    assert done.done
    again = watched(tmp_path, scoring(tmp_path), once=True)
    assert (again.scored, again.done) == ([], True)


def test_weights_written_over_are_scored_anew(ours: Checkpoints, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = ours(tmp_path, 1)
    watched(tmp_path, scoring(tmp_path), once=True)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: value * 0.5 for name, value in weights.items()}, folder / "adapter_model.safetensors", {"format": "pt"}
    )
    assert watched(tmp_path, scoring(tmp_path), once=True).scored == [folder]


def test_it_ends_with_the_training_and_hears_of_each(ours: Checkpoints, tmp_path: Path) -> None:
    ours(tmp_path, 1)
    heard: list[Watched] = []
    slept: list[float] = []

    def training(seconds: float) -> None:
        slept.append(seconds)
        ours(tmp_path, len(slept) + 1)

    done = watched(tmp_path, scoring(tmp_path), until_done=True, poll=7.0, shown=heard.append, sleep=training)
    assert [path.name for path in done.scored] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert [len(now.scored) for now in heard] == [1, 2, 3]
    assert [now.done for now in heard] == [False, False, True]
    assert slept == [7.0, 7.0]


def test_what_fails_is_tried_again_then_given_up_and_holds_nothing_up(
    ours: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    from safetensors.torch import load_file, save_file

    bad, good = ours(tmp_path, 1), ours(tmp_path, 3)
    fitting = (bad / "adapter_model.safetensors").read_bytes()
    weights = load_file(bad / "adapter_model.safetensors")
    save_file(
        {name: value[:1].clone() for name, value in weights.items()},
        bad / "adapter_model.safetensors",
        {"format": "pt"},
    )
    now = scoring(tmp_path)
    done = watched(tmp_path, now, once=True, attempts=2, backoff=3600)
    assert done.scored == [good]
    assert "doesn't fit its base" in done.failed[bad]
    assert not done.done
    assert watched(tmp_path, now, once=True, attempts=2, backoff=3600).failed.keys() == {
        bad
    }  # waits for its next attempt
    assert sum("failed" in line for line in caplog.messages) == 1
    done = watched(tmp_path, now, until_done=True, attempts=2, backoff=0)  # the last attempt, and the end
    assert any("given up after 2 attempts" in line for line in caplog.messages)
    assert models(tmp_path) == [good.as_posix()]
    (bad / "adapter_model.safetensors").write_bytes(fitting)
    done = watched(tmp_path, now, once=True, attempts=2)
    assert (done.scored, done.failed, done.done) == ([bad], {}, True)


def test_what_another_process_is_scoring_is_left_to_it(ours: Checkpoints, tmp_path: Path) -> None:
    first, second = ours(tmp_path, 1), ours(tmp_path, 3)
    now = scoring(tmp_path)
    with file_lock(tmp_path / "watch" / f"{tmp_path.name}_checkpoint-1", wait=True):
        done = watched(tmp_path, now, once=True)
    assert (done.scored, done.done) == ([second], False)
    assert watched(tmp_path, now, once=True).scored == [first]


def test_interrupted_it_goes_on_where_it_was(ours: Checkpoints, tmp_path: Path) -> None:
    ours(tmp_path, 1)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(tmp_path, scoring(tmp_path), sleep=interrupt)
    later = ours(tmp_path, 3)
    assert watched(tmp_path, scoring(tmp_path), until_done=True).scored == [later]


def test_a_checkpoint_keeps_the_name_it_has_on_the_board(
    ours: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours(tmp_path / "run", 3)
    monkeypatch.chdir(tmp_path)
    watched(Path("run"), scoring(Path("run")), once=True)
    again = watched(tmp_path / "run", scoring(tmp_path / "run"), once=True)
    assert (again.scored, list(again.names.values())) == ([], ["run/checkpoint-3"])


def test_the_command_holds_checkpoints_against_their_base(
    theirs: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = theirs(tmp_path, 3)
    whole, _ = find_complete_checkpoints(tmp_path, QuietPeriod(10))
    assert base_of(whole[0].path) == find("scenes-base").pretrained
    command = ["watch", str(tmp_path), "--tasks", "scenes_mme", "--limit", "2", "--base", "scenes-base", "--until-done"]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert f"## `{folder.as_posix()}` against `scenes-base`" in said
    assert (tmp_path / "watch.md").read_text().strip() == said.strip()
    assert (tmp_path / "watch.png").stat().st_size > 0
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] is True


def write_state(folder: Path, **facts: Any) -> None:
    state = {"global_step": int(folder.name.removeprefix("checkpoint-")), "max_steps": 6, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state | facts))
    age(folder, 60)


def test_a_run_of_ours_is_watched_at_the_checkpoints_that_its_recipe_scores(ours: Checkpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        ours(tmp_path, step)
    training = {"learning_rate": 1e-5, "batch_size": 8, "save_steps": 1, "score_checkpoints": 1}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"training": training}}))
    found = watched(tmp_path, scoring(tmp_path), once=True)
    assert [path.name for path in found.scored] == ["checkpoint-3"]
    assert [one.step for one in found.found] == [3]
    assert found.done
    more = watched(tmp_path, scoring(tmp_path), once=True, score_checkpoints=2)
    assert [path.name for path in more.scored] == ["checkpoint-2"]


def test_of_a_run_that_was_ended_early_its_last_checkpoint_is_scored(ours: Checkpoints, tmp_path: Path) -> None:
    ours(tmp_path, 1)
    training = {"learning_rate": 1e-5, "batch_size": 8, "save_steps": 1, "score_checkpoints": 1}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"training": training}}))
    assert not watched(tmp_path, scoring(tmp_path), once=True).scored
    (tmp_path / "stopped.json").write_text("{}")
    assert len(watched(tmp_path, scoring(tmp_path), once=True).scored) == 1


def test_of_another_trainers_run_so_many_are_scored_as_were_asked_for(
    theirs: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "harness")
    for step in (1, 2, 3):
        write_state(theirs(tmp_path, step), save_steps=1)
    command = ["watch", str(tmp_path), "--tasks", "scenes_mme", "--limit", "2", "--base", "scenes-base", "--once"]
    assert run([*command, "--score-checkpoints", "3"]) == 0
    assert {Path(name).name for name in models(tmp_path)} == {"checkpoint-2", "scenes-base"}
    assert any("1 checkpoint is there to be scored, 3 of 3 in all" in text for text in caplog.messages)


@pytest.mark.parametrize("facts", ({}, {"save_steps": 500}, {"save_steps": 0.5}, {"max_steps": None, "save_steps": 1}))
def test_a_number_of_checkpoints_that_cannot_act_is_an_error(
    facts: dict[str, Any], theirs: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state(theirs(tmp_path, 2), **facts)
    command = ["watch", str(tmp_path), "--tasks", "scenes_mme", "--limit", "2", "--once"]
    assert run([*command, "--score-checkpoints", "2"]) == 2
    said = capsys.readouterr().err
    assert "--score-checkpoints 2: can't act" in said
    assert "checkpoint-2 does not say which checkpoints its training saves" in said
    assert run([*command, "--score-checkpoints", "0"]) == 2
    assert "--score-checkpoints 0: must be at least 1" in capsys.readouterr().err


def test_a_watcher_asks_by_the_protocol_and_in_the_words_it_is_given(
    ours: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours(tmp_path, 3)
    (tmp_path / "mine.toml").write_text('system = "Be careful."')
    command = ["watch", str(tmp_path), "--tasks", "scenes_mme", "--limit", "2", "--once"]
    assert run([*command, "--protocol", str(tmp_path / "mine.toml"), "--prompt-suffix", "scenes_mme= So?"]) == 0
    entries = Board(tmp_path / "board").entries()
    assert len({entry.model for entry in entries}) == 2
    assert {entry.provenance["protocol"].split()[0] for entry in entries} == {"mine"}
    assert {entry.provenance["prompt suffix"] for entry in entries} == {" So?"}
    capsys.readouterr()
    assert run([*command, "--prompt-suffix", "pope= So?"]) == 2
    assert "--prompt-suffix for 'pope': would not act" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(
        json.dumps({"recipe": {"scoring": {"protocol": str(tmp_path / "mine.toml"), "prompt_suffix": " So?"}}})
    )
    assert run(command) == 0
    assert len(Board(tmp_path / "board").entries()) == len(entries)
    assert run([*command, "--protocol", "bare"]) == 0
    assert Board(tmp_path / "board").entries()[-1].provenance["protocol"] == "bare"
    capsys.readouterr()
    assert run([*command, "--thinking", "off"]) == 2
    assert "thinking = off: would not act: its chat template has no such switch" in capsys.readouterr().err
