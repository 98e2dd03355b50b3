"""Scoring one's own LoRA for a paper: the hub's tables on disk, a judge behind a server, a LaTeX table."""

import json
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.harness.true_layouts import reply, write_tables
from tests.journeys.walk import User

TASKS = ("mme", "pope", "mmhal")
SCORE = (
    "eval {model} --tasks mme,pope,mmhal {data} --partial-data --max-failed 1 --max-new-tokens 8"
    " --judge some-judge --judge-url {url} --judge-price 1,2 --out board"
)
MINE = "--model {lora} --base {llava} --name mine"
SCORE_MINE = SCORE.replace("{model}", MINE)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def author(user: User, llava: Path, lora: Path, tables: dict[str, Path], server: Server) -> User:
    server.reply = reply
    data = " ".join(f"--data {task}={tables[task]}" for task in TASKS)
    user.names.update(llava=llava, lora=lora, url=server.url, data=data, mme=tables["mme"])
    return user


def test_from_the_adapter_to_the_table_of_the_paper(author: User, server: Server) -> None:
    wrong = author.types("eval " + MINE + " --tasks mme,popee --dry-run", code=2)
    assert "unknown task 'popee' (did you mean 'pope'?)" in wrong.err
    alone = author.types("eval --model {lora} --tasks mme --data mme={mme} --dry-run", code=2)
    assert "/data/of/somebody/else" in alone.err
    bare = author.types("eval " + MINE + " --tasks mme --data {mme}", code=2)
    assert f"must be TASK=PATH, such as TASK={author.names['mme']}" in bare.err
    missing = author.types("eval " + MINE + " --tasks mme --data mme=nowhere --dry-run", code=2)
    assert "nowhere" in missing.err
    assert server.log == []

    planned = author.types(SCORE_MINE + " --dry-run")
    assert "score mine" in planned.out
    assert not Path("board").exists()
    seen = author.types(SCORE_MINE)
    assert "mme perception" in seen.out
    assert "(judge some-judge)" in seen.out
    asked = len(server.log)
    assert asked > 0
    base = next(line for line in seen.err.splitlines() if line.startswith("next: harness eval"))
    assert base.endswith(f"--model {author.names['llava']}")
    assert "--base" not in base
    author.types(base.removeprefix("next: harness ") + " --name base")
    again = author.types(SCORE_MINE)
    assert "on the board" in again.err
    assert len(server.log) == 2 * asked

    complete = author.types("compare base mine --board board", code=2)
    assert "no complete run of model 'base'" in complete.err
    assert "--partial" in complete.err
    assert "did you mean 'mine'?" in author.types("compare base min --board board --partial", code=2).err
    extra = author.types("compare base mine board --partial", code=2)
    assert "Usage: harness compare" in extra.err
    assert "# base → mine" in author.types("compare base mine --board board --partial").out
    latex = author.types("leaderboard board --partial --format latex").out
    assert r"\toprule" in latex
    assert "mine & base" in latex
    assert "some-judge" in latex
    rows = json.loads(author.types("leaderboard board --partial --json -q").out)["entries"]
    assert {row["model"] for row in rows} == {"mine", "base"}
    assert {row["task"] for row in rows} == set(TASKS)
    author.types("leaderboard board --partial --html page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "mine" in page
    assert "<script" in page


@pytest.mark.slow
def test_killed_while_it_scores_the_same_command_pays_for_the_rest_alone(author: User, server: Server) -> None:
    server.delay = 0.5
    line = SCORE_MINE + " --judge-repeats 4 --judge-concurrency 1"
    author.kills(line, lambda: len(server.log) > 2)
    assert not list(Path("board").rglob("*.json"))
    server.delay = 0.0
    before = len(server.log)
    author.types(line)
    assert len(list(Path("board").rglob("*.json"))) == 1
    assert len(server.log) - before == 2  # the fourth, and the third, which was on its way at the kill
