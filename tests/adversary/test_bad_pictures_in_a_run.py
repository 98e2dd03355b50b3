"""A picture that can't be shown fails its own questions, for a local model, a server and a judge, and no others."""

import os
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from harness.models.chat_model import OpenAIVisionLM
from leaderboards.board.sample import from_parquet
from support.image_folders import ImageTree
from support.images import keep, picture
from support.records import write_json
from tasks.answer import FailedAnswer
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tests.adversary.hostile_pictures import BOMBS, jpeg_of_scans
from tests.adversary.hostile_pictures import picture as photo
from tests.harness.lm_requests import instance

GOOD = ("good0.png", "good1.png", "good2.png")
FILES = {
    "bomb.png": BOMBS["PNG of 60,000 x 60,000"],
    "script.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "cut.jpg": lambda: photo("JPEG", (300, 200))[:-900],
    "strip.png": BOMBS["PNG of a strip"],
    "scans.jpg": lambda: jpeg_of_scans(200),
    "empty.png": lambda: b"",
}
BAD = (*FILES, "pipe.png", "out.png", "/dev/zero", "../x.png", "http://127.0.0.1:9/x.png", "a\0b.png", "x" * 5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    for number, name in enumerate(GOOD):
        (path / name).write_bytes(photo(size=(60 + number, 50)))
    for name, make in FILES.items():
        (path / name).write_bytes(make())
    os.mkfifo(path / "pipe.png")
    (path / "out.png").symlink_to("/dev/zero")
    return path


def shown(folder: Path) -> list[Any]:
    """A bad picture between any two good ones."""
    names = [name for bad in BAD for name in (GOOD[len(bad) % 3], bad)]
    return [picture(keep(ImageTree(folder).find(name))) for name in names]


@pytest.mark.parametrize("option", ("", "--exact"))
def test_a_local_model_answers_all_others(option: str, folder: Path, tmp_path: Path) -> None:
    rows = [
        {"question_id": f"{name[:9]} {what}", "question": f"Is there a {what}?", "answer": "yes", "image": name}
        for name in (*GOOD, *BAD)
        for what in ("cat", "dog")
    ]
    write_json([row | {"category": "random"} for row in rows], folder / "p.jsonl")
    asked = ["eval", "--model", "scenes-base", "--tasks", "pope", "--data", f"pope={folder / 'p.jsonl'}"]
    options = [
        "--partial-data",
        "--max-failed",
        "0.6",  # of pictures that are not there at all fewer than this; with the broken ones more
        "--out",
        str(tmp_path),
        "--answers",
        str(tmp_path / "a.sqlite"),
        *filter(None, [option]),
    ]
    assert run([*asked, *options]) == 4
    (log,) = tmp_path.rglob("*.samples.parquet")
    samples = from_parquet(log.read_bytes())
    answered = [sample for sample in samples if sample.answer is not None]
    assert (len(samples), len(answered)) == (len(rows), 2 * len(GOOD))
    assert all(sample.reason for sample in samples if sample.answer is None)


def test_a_server_is_asked_about_all_others(folder: Path, tmp_path: Path, server: Any) -> None:
    lm = OpenAIVisionLM("m", url=server.url, ledger=tmp_path / "l.sqlite")
    pictures = shown(folder)
    answers = lm.generate_until([instance(f"<image>What is in {n}?", [one]) for n, one in enumerate(pictures)])
    assert [isinstance(answer, FailedAnswer) for answer in answers] == [False, True] * len(BAD)
    assert len(server.log) == len(BAD)


def test_a_judge_is_asked_about_all_others(folder: Path, tmp_path: Path, server: Any) -> None:
    judge = OpenAIJudge("gpt-4o-2024-11-20", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    replies = judge.ask_many([(f"Rate {n}.", one) for n, one in enumerate(shown(folder))])
    assert [reply is None for reply in replies] == [False, True] * len(BAD)
    assert len(server.log) == len(BAD)
