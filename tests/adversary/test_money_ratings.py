"""Ratings are of a judge at a server: a file of them is continued by that one alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.datasets.rate import plan_ratings
from support.errors import DataError
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tests.conftest import Server
from trainers.config.data import ASPECTS
from trainers.vlfeedback.annotation import RatingProtocol, annotate_folder, ratings_file

pytestmark = pytest.mark.usefixtures("no_keys")
MODEL = "gpt-4o-2024-11-20"
PROTOCOL = RatingProtocol()
MEMBERS = ("one", "two")


@pytest.fixture
def other_server() -> Iterator[Server]:
    running = Server(rate)
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    lines, answers = [], []
    for number in range(6):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(data / "images" / f"{number}.png")
        facts = {"id": f"i{number}", "prompt": f"What is there ({number})?", "image": f"{number}.png"}
        lines.append(json.dumps(facts | {"kind": "question"}) + "\n")
        answers += [json.dumps({"id": f"i{number}|{who}", "answer": f"{who} says"}) + "\n" for who in MEMBERS]
    (data / "instructions.jsonl").write_text("".join(lines), encoding="utf-8")
    (data / "answers.jsonl").write_text("".join(answers), encoding="utf-8")
    return data


def rate(_: str) -> str:
    points = "\n".join(f"##### Output for Text {number}\nRating: 4\nRationale: so." for number in (1, 2))
    return "\n".join(f"#### {aspect} Assessment\n{points}" for aspect in ASPECTS)


def judge_of(server: Any, folder: Path, known_as: str | None = None) -> OpenAIJudge:
    server.reply = rate
    ledger = Ledger(folder.with_name("l.sqlite"))
    return OpenAIJudge(MODEL, url=server.url, ledger=ledger, known_as=known_as)


def test_a_file_of_ratings_is_continued_by_its_own_server_alone(
    server: Any, other_server: Server, folder: Path
) -> None:
    assert annotate_folder(folder, judge_of(server, folder), RatingProtocol(part=3)).rated == 3
    address = server.url.removesuffix("/v1")
    for protocol in (RatingProtocol(part=3), PROTOCOL):
        with pytest.raises(DataError, match=f"is rated by the judge at '{address}'.*--judge-known-as"):
            annotate_folder(folder, judge_of(other_server, folder), protocol)
    with pytest.raises(DataError, match="is rated by the judge at"):
        plan_ratings(judge_of(other_server, folder), PROTOCOL, folder)
    assert not other_server.log
    assert annotate_folder(folder, judge_of(other_server, folder, known_as=address), PROTOCOL).rated == 6
    assert (len(server.log), len(other_server.log)) == (3, 3)
    assert plan_ratings(judge_of(server, folder), PROTOCOL, folder).calls == 0


def test_ratings_without_a_server_are_used_and_that_is_told(
    server: Any, other_server: Server, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotate_folder(folder, judge_of(server, folder), PROTOCOL)
    path = ratings_file(folder, MODEL)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows[:4]:  # as versions before wrote them
        assert row.pop("server") == server.url.removesuffix("/v1")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]), encoding="utf-8")
    assert annotate_folder(folder, judge_of(other_server, folder), PROTOCOL).without_server == 4
    assert "4 ratings were kept without their judge's server, which may be another" in caplog.text
    assert len(other_server.log) == 2
