"""How a run's base and checkpoints are asked: by the recipe's [scoring], and by the options in its place."""

import json
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli import main as cli
from harness.cli.train_options import AskingOptions
from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings
from harness.models.spec import find
from harness.runs import scoring_queue
from harness.runs.recipe_scoring import asked_in_run, scored_by
from harness.serving.settings import ServerSettings
from leaderboards.board.board import Board
from support.errors import RecipeError, SettingError
from tasks.registry import registry
from tests.harness.fake_vllm import answering_no, starts
from trainers.config.recipe import PreferenceRecipe, find_recipe, preference_recipe


def recipe_with(**scoring: Any) -> PreferenceRecipe:
    return preference_recipe("scenes-demo", scoring=scoring)


def test_a_recipe_says_how_its_models_are_asked(tmp_path: Path) -> None:
    usual = preference_recipe("scenes-demo")
    assert scored_by(usual, EvalSettings(limit=3)) == (EvalSettings(limit=3), EngineConfig())
    other_training = usual.model_copy(update={"seed": 5})
    assert scored_by(other_training, EvalSettings(limit=3)) == (EvalSettings(limit=3), EngineConfig())
    asked = recipe_with(protocol="bare", prompt_suffix=" So?", thinking="off", prompt_suffixes={"scenes_pope": " Eh?"})
    settings, engine = scored_by(asked, EvalSettings(limit=3))
    assert settings == EvalSettings(limit=3, protocol="bare")
    assert engine == EngineConfig(suffix=" So?", suffixes={"scenes_pope": " Eh?"}, thinking="off")
    assert asked.digest != usual.digest
    assert "scoring" not in usual.model_dump(mode="json")


@pytest.mark.parametrize(
    ("scoring", "said"),
    (
        ({"protocol": "bear"}, "--protocol 'bear': unknown.*bare"),
        ({"thinking": "off", "thinking_tokens": 3}, "thinking_tokens = 3: would not act with thinking = off"),
        ({"prompt_suffixes": {"mme": "x"}}, "--prompt-suffix for 'mme': would not act"),
    ),
)
def test_what_would_not_act_is_refused(scoring: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        scored_by(recipe_with(**scoring), EvalSettings())


def test_how_a_server_is_reached_is_no_part_of_what_a_run_is() -> None:
    usual, served = recipe_with(), recipe_with(engine="vllm")
    assert recipe_with(engine="own") == usual
    assert served.digest != usual.digest
    told = recipe_with(engine="vllm", engine_set={"max-model-len": 512, "enforce-eager": True})
    assert told.digest == served.digest
    flags = {"max-model-len": "512", "enforce-eager": "true"}
    assert scored_by(told, EvalSettings())[1] == EngineConfig(engine="vllm", engine_set=flags)
    other = AskingOptions(engine="own").changes(told)
    assert preference_recipe("scenes-demo", **other) == usual


@pytest.mark.parametrize(
    ("more", "said"),
    (
        (["--engine", "vllm"], "--engine vllm: no `/nowhere/vllm` on the PATH"),
        (["--engine", "vllm", "--serve", "vllm"], "engine = vllm: would not act beside --serve vllm"),
        (["--engine", "sglang"], "engine = sglang: SGLang gets no adapters"),
        (["--engine-url", "http://a"], "would not act without engine = vllm"),
    ),
)
def test_an_engine_that_can_not_be_is_told_before_anything_is_done(
    more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_BIN", "/nowhere/vllm")
    assert cli.run(["train-then-eval", "scenes-demo", "--out", str(tmp_path / "run"), *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_misspelt_key_and_a_recipe_that_pretrains_are_told() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'scoring\.protocoll' \(did you mean 'protocol'"):
        recipe_with(protocoll="bare")
    with pytest.raises(RecipeError, match="scoring is given, which trainer = 'scenes' does not read"):
        find_recipe("scenes-base", scoring={"protocol": "bare"})


def test_options_stand_in_place_of_the_recipes_values(
    tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(tiny_recipe.read_text() + '\n[scoring]\nprompt_suffix = " So?"\nthinking_tokens = 9\n')
    command = ["train-then-eval", str(own), "--dry-run", "--tasks", "scenes_mme"]
    assert cli.run([*command, "--protocol", "bare", "--prompt-suffix", "scenes_mme= Eh?"]) == 0
    said = "protocol = 'bare', prompt_suffix = ' So?', prompt_suffixes = {'scenes_mme': ' Eh?'}, thinking_tokens = 9"
    assert said in capsys.readouterr().out
    assert cli.run([*command, "--protocol", "bear"]) == 2
    assert cli.run([*command, "--prompt-suffix", "pope=x"]) == 2
    assert "'pope': would not act" in capsys.readouterr().err


def test_base_and_checkpoints_are_asked_alike_by_the_runs_own_protocol_and_engine_alone(
    vllm: Path, tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering_no(tmp_path)
    own, mine, out = tmp_path / "own.toml", tmp_path / "mine.toml", tmp_path / "run"
    own.write_text(tiny_recipe.read_text().replace("control = true", "control = false"))
    mine.write_text('system = "Be careful."')
    command = ["train-then-eval", str(own), "--out", str(out), "--limit", "4", "--tasks", "scenes_mme"]
    asked = ["--protocol", str(mine), "--prompt-suffix", " Say yes or no.", "--engine", "vllm"]
    assert cli.run([*command, *asked, "--engine-set", "api-key=0123secret4567"]) == 0
    (words,) = starts(vllm)  # for the base and its adapters, once the training has let go of the memory
    assert "--max-lora-rank=8" in words
    (log,), (checkpoint, *_) = (out / "servers").glob("*.log"), out.glob("checkpoint-*")
    assert log.stat().st_ctime > (checkpoint / "checkpoint.json").stat().st_mtime
    with socket.socket() as port:  # nobody has it any more
        assert port.connect_ex(("127.0.0.1", int(words[words.index("--port") + 1])))
    entries = Board(out / "board").entries()
    assert len({entry.model for entry in entries}) > 1
    (fact,) = {entry.provenance["protocol"] for entry in entries}
    assert fact.startswith("mine ")
    assert {entry.provenance["prompt suffix"] for entry in entries} == {" Say yes or no."}
    assert {entry.provenance["engine"] for entry in entries} == {"vllm"}
    assert "0123secret4567" not in (out / "run.json").read_text()
    assert json.loads((out / "run.json").read_text())["recipe"]["scoring"]["protocol"] == str(mine)
    assert "Protocols: every model: mine + 'Say yes or no.'." in (out / "report.md").read_text()
    before = len(entries)
    assert cli.run([*command, *asked[:-1], "auto"]) == 0  # for which a new run would take our own engine here
    assert len(Board(out / "board").entries()) == before
    assert len(starts(vllm)) == 1
    _, engine = asked_in_run(out, EngineConfig(), ["scenes_mme"])
    assert engine.engine == "vllm"
    assert asked_in_run(out, EngineConfig(), ["scenes_mme"], own_engine=False)[1].engine == "own"
    capsys.readouterr()
    assert cli.run([*command, *asked[:-2]]) == 2
    assert 'with other settings (scoring.engine: "vllm" there, none asked)' in capsys.readouterr().err
    assert cli.run([*command, "--protocol", "bare"]) == 2
    assert "with other settings (scoring.protocol:" in capsys.readouterr().err
    assert cli.run([*command, *asked, "--thinking", "off"]) == 2
    assert "scoring.thinking: none there" in capsys.readouterr().err
    fresh = [*command[:3], str(tmp_path / "other"), *command[4:]]
    assert cli.run([*fresh, "--thinking", "off"]) == 2
    assert "thinking = off: would not act: its chat template has no such switch" in capsys.readouterr().err
    assert not (tmp_path / "other" / "run.json").exists()


@pytest.mark.parametrize(("served", "seed", "sent"), ((True, 7, {"seed": 7}), (True, 0, {}), (False, 7, {})))
def test_the_seed_is_sent_to_checkpoints_that_are_served(
    served: bool, seed: int, sent: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EngineConfig] = []

    def note(*given: Any, engine: EngineConfig, **more: Any) -> Any:
        asked.append(engine)
        return SimpleNamespace(entries=[], samples={})

    host: Any = SimpleNamespace(
        asked=nullcontext, reach=lambda spec, adapters: spec, settings=ServerSettings(), ledger=None
    )
    monkeypatch.setattr(scoring_queue, "evaluate", note)
    monkeypatch.setattr(scoring_queue, "on_board", lambda *given: asked.append(given[-1]))
    board: Any = SimpleNamespace(add=lambda *given: None)
    tasks = registry().expand(["scenes_mme"])
    settings = EvalSettings(seed=seed)
    scoring = scoring_queue.Scoring(
        board=board,
        tasks=tasks,
        judge=None,
        state=tmp_path / "state",
        settings=settings,
        server=host if served else None,
    )
    assert scoring.score(find("scenes-base"), "base") == "scored"
    assert [dict(engine.overrides) for engine in asked] == [sent, sent]
