"""A judge that can't rate what it is wanted for is refused before anything is generated, planned or paid."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.evaluation.make_judge import NAME_ONE, OPEN_JUDGE, check_judge
from harness.evaluation.score_models import ModelScorer
from harness.models.fetch import fetch
from harness.models.spec import find
from harness.runs.scoring_queue import Scoring
from harness.serving.settings import COMMANDS, ServerSettings
from leaderboards.board.board import Board
from support.errors import SettingError
from tasks.judges.protocol import GREEDY, Sampling, ThreadedJudge
from tasks.registry import registry
from tasks.scenes.judge import ScenesJudge
from trainers.vlfeedback.annotation import check_pictures
from trainers.vlfeedback.instructions import Instruction

pytestmark = pytest.mark.usefixtures("no_keys")
REFUSED = f"| judge 'scenes' | can't rate mmhal, mmvet | {NAME_ONE} |\n"


class Anybody(ThreadedJudge):
    model = "anybody"

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        return "Rating: 4"


@pytest.mark.parametrize("more", ((), ("--dry-run",), ("--judge", "scenes")))
def test_eval_asks_no_model_for_answers_that_the_judge_cant_rate(
    more: tuple[str, ...], server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--model", "openai:m", "--model-url", server.url, "--tasks", "scenes_mmhal,mmhal,mmvet"]
    assert run([*command, "--out", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err.endswith(REFUSED)
    assert not server.log
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", ((), ("--dry-run",)))
def test_train_then_eval_begins_nothing(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(["train-then-eval", "scenes-demo", "--tasks", "mmhal,mmvet", "--out", str(out), *more]) == 2
    assert capsys.readouterr().err.endswith(REFUSED)
    assert not out.exists()


def test_watch_and_scorers_refuse_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(tmp_path), "--tasks", "mmhal,mmvet"]) == 2
    assert capsys.readouterr().err.endswith(REFUSED)
    tasks = [registry().task("mmhal")]
    spec = fetch(find("scenes-base"))
    with pytest.raises(SettingError, match="can't rate mmhal"):
        ModelScorer(tasks=tasks, judge=ScenesJudge()).score(spec, "x")
    with pytest.raises(SettingError, match="can't rate mmhal"):
        Scoring(board=Board(tmp_path / "board"), tasks=tasks, judge=ScenesJudge(), state=tmp_path).score(spec, "x")


@pytest.mark.parametrize("more", ((), ("--dry-run",)))
def test_score_refuses_it_where_answers_are_to_be_judged(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question_type": "attribute", "image_content": [], "question": "?", "gt_answer": "a", "model_answer": "b"}
    (tmp_path / "a.json").write_text(json.dumps([row | {"image_id": f"{n}", "image_src": ""} for n in range(96)]))
    assert run(["score", "mmhal", str(tmp_path / "a.json"), "--judge", "scenes", *more]) == 2
    assert "judge 'scenes': can't rate mmhal; name a model by --judge" in capsys.readouterr().err


def test_it_rates_scenes_by_our_own_prompts_alone() -> None:
    scenes, others = registry().expand(["scenes"]), registry().expand(["mme", "mmhal"])
    check_judge(ScenesJudge(), scenes)
    check_judge(Anybody(), [*scenes, *others], official_prompts=True)
    check_judge(ScenesJudge(), [registry().task("mme")], official_prompts=True)
    with pytest.raises(SettingError, match="reads our own prompts only; leave out --official-prompts"):
        check_judge(ScenesJudge(), scenes, official_prompts=True)


def test_pictures_that_are_no_scenes_are_told_before_they_are_asked_about(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    asked = [Instruction(id="1", prompt="?", image="photo.png", kind="question", source="photos")]
    with pytest.raises(SettingError, match=r"knows rendered scenes only, and photo\.png is none; name a model"):
        check_pictures(ScenesJudge(), asked, tmp_path)
    check_pictures(Anybody(), asked, tmp_path)
    check_pictures(ScenesJudge(), [Instruction(id="2", prompt="?", image="none.png", kind="question")], tmp_path)


def test_without_a_key_the_way_to_a_judge_of_open_weights_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert run(["eval", "--model", "scenes-base", "--tasks", "mmhal", "--judge", "gpt-5-mini"]) == 2
    assert OPEN_JUDGE in capsys.readouterr().err


def test_what_is_told_of_open_weights_is_a_judge_that_the_command_knows() -> None:
    words = OPEN_JUDGE.split()
    assert words[0::2] == ["--judge", "--judge-serve"]
    assert find(words[1]).backend != "openai"
    assert ServerSettings(command=words[3]).command in COMMANDS
