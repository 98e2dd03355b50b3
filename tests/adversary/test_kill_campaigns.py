"""Whole commands under kill -9 and SIGTERM at twenty random points each: nothing is lost, nothing is paid for twice."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board.board import Board
from tests.adversary.kills import AT_ONCE, JUDGE, KILLS, Campaign, reply_to
from tests.harness.conftest import TINY
from tests.harness.scored_runs import scores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_keys")]
TASKS = "scenes_chair,scenes_pope,scenes_mmhal"


def judged(server: Any) -> list[str]:
    options = ["--judge", JUDGE, "--judge-url", server.url, "--ledger", "ledger.sqlite"]
    return [*options, "--judge-concurrency", str(AT_ONCE // 2)]


def answers_on(folder: Path) -> Any:
    """Scores, and all answers with what a judge said of them."""
    board = Board(folder / "run" / "board")
    samples = [sample for entry in board.current(partial=True) for sample in board.samples(entry.run)]
    rows = {json.dumps([one.task, one.id, one.answer, one.reply, one.records], sort_keys=True) for one in samples}
    return scores(folder / "run"), sorted(rows)


def files_of(*names: str) -> Callable[[Path], list[str]]:
    """What these files of a folder say, wherever it is."""
    return lambda folder: [(folder / name).read_text(encoding="utf-8").replace(str(folder), "") for name in names]


def campaign_of(
    folder: Path, server: Any, words: Sequence[str], state: Callable[[Path], Any], prepare: Any = None
) -> Campaign:
    server.reply, server.delay = reply_to, 0.05

    def words_in(inner: Path) -> Sequence[str]:
        if prepare is not None:
            prepare(inner)
        return words

    return Campaign(folder=folder, server=server, words=words_in, state=state)


def told(campaign: Campaign, record: Callable[[str, object], None]) -> None:
    """Figures of the campaign, for who reads the report of the tests."""
    kills, paid, needed = (sum(getattr(one, name) for one in campaign.rounds) for name in ("kills", "paid", "needed"))
    record("figures", f"{kills} kills in {len(campaign.rounds)} rounds, {paid} calls paid, {needed} needed")
    print(f"{kills} kills in {len(campaign.rounds)} rounds, {paid} calls paid, {needed} needed")
    assert kills == KILLS


def test_eval_of_a_local_model(server: Any, tmp_path: Path, record_property: Any) -> None:
    words = ["eval", "--model", "scenes-base", "--tasks", TASKS, "--limit", "60", "--out", "run", *judged(server)]
    campaign = campaign_of(tmp_path, server, words, answers_on)
    campaign.run()
    told(campaign, record_property)


def test_eval_of_a_served_model_by_a_served_judge(server: Any, tmp_path: Path, record_property: Any) -> None:
    words = [
        "eval",
        "--model",
        "openai:candidate",
        "--model-url",
        server.url,
        "--model-version",
        "1",
        "--tasks",
        "scenes_mmhal,scenes_pope",
    ]
    words += ["--limit", "60", "--out", "run", *judged(server), "--model-set", f"concurrency={AT_ONCE // 2}"]
    campaign = campaign_of(tmp_path, server, [*words, "--max-failed", "1"], answers_on)
    campaign.run()
    told(campaign, record_property)


def test_a_build_rated_by_a_served_judge(server: Any, tmp_path: Path, record_property: Any) -> None:
    words = ["vlfeedback", "build", "--source", "scenes", "--pool", "scenes", "--rows", "80", "--answers", "3"]
    words += ["--out", "data", "--rule", "margin", *judged(server)]
    names = ("instructions.jsonl", "draw.jsonl", "ratings.jsonl", "vlfeedback.jsonl", "pairs.jsonl")
    campaign = campaign_of(tmp_path, server, words, files_of(*(f"data/{name}" for name in names)))
    campaign.run()
    told(campaign, record_property)


def test_train_then_eval_judged_by_a_server(server: Any, tmp_path: Path, record_property: Any) -> None:
    recipe = tmp_path / "tiny.toml"
    smaller = {'["scenes"]': '["scenes_chair", "scenes_mmhal"]', "instructions = 24": "instructions = 12"}
    text = TINY
    for usual, small in smaller.items():
        assert usual in text
        text = text.replace(usual, small)
    recipe.write_text(text, encoding="utf-8")
    words = ["train-then-eval", str(recipe), "--out", "run", "--limit", "4", *judged(server)]
    campaign = campaign_of(tmp_path, server, words, lambda folder: (scores(folder / "run"), pairs_in(folder)))
    campaign.run()
    told(campaign, record_property)


def pairs_in(folder: Path) -> list[Any]:
    text = (folder / "run" / "data" / "pairs.jsonl").read_text(encoding="utf-8").replace(str(folder), "")
    return [json.loads(line) for line in text.splitlines()]
