"""Real processes, killed and suspended at random points: what the server was paid for, counted by its own log."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.judges.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_keys")]
MODEL = "gpt-4o-2024-11-20"
KILLS = 20
SAMPLES = 96

COMMAND = "import sys; from harness.cli.main import main; sys.argv[0] = 'harness'; main()"
"""The command `harness` of this tree."""
BATCH = f"""
from tasks.judges.batch import BatchJudge
BatchJudge.poll, BatchJudge.settled, BatchJudge.most_lines = 0.1, 0.3, 8
{COMMAND}
"""


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    row = {"question_type": "attribute", "question_topic": "food", "image_id": "x", "image_src": "x.jpg"}
    rows = [
        row
        | {"question": f"Question {n}?", "gt_answer": "Red.", "image_content": ["a"], "model_answer": f"Answer {n}."}
        for n in range(SAMPLES)
    ]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def start(server: Any, answers: Path, *more: str, program: str = COMMAND) -> "subprocess.Popen[str]":
    words = ["score", "mmhal", str(answers), "--judge", MODEL, "--judge-url", server.url]
    words += ["--ledger", str(answers.with_name("l.sqlite")), "--json", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program, *words], env=environment, **pipes)


def times_paid(server: Any) -> Counter[str]:
    return Counter(json.dumps(entry["messages"]) for entry in server.answered)


def is_scored_in_full(process: "subprocess.Popen[str]") -> bool:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = json.loads(out)
    return bool((found["samples"], found["unscored"]) == (SAMPLES, 0))


def steps_of(server: Any) -> int:
    """Calls, files and batches so far."""
    return len(server.log) + len(server.files) + len(server.batches)


def kill_often(server: Any, answers: Path, *more: str, program: str = COMMAND) -> int:
    """Kill the command at random points; how many were in time."""
    rng, killed = random.Random(17), 0
    for _ in range(KILLS):
        process, seen = start(server, answers, *more, program=program), steps_of(server)
        until = time.monotonic() + 60
        wanted = seen + rng.randrange(1, 6)  # points within its work, not in the start of Python
        while steps_of(server) < wanted and time.monotonic() < until and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.6)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    return killed


def test_kills_lose_what_was_on_its_way_and_no_more(server: Any, answers: Path) -> None:
    server.delay = 0.4
    killed = kill_often(server, answers, "--judge-concurrency", "4")
    assert is_scored_in_full(start(server, answers, "--judge-concurrency", "4"))
    paid = times_paid(server)
    assert len(paid) == SAMPLES
    assert paid.total() - SAMPLES <= 4 * killed
    assert sum(1 for _ in Ledger(answers.with_name("l.sqlite")).calls()) == SAMPLES


def test_kills_of_batches_cost_nothing(server: Any, answers: Path) -> None:
    server.polls, server.upload_delay, server.create_delay = 4, 0.3, 0.3
    kill_often(server, answers, "--judge-batch", program=BATCH)
    assert is_scored_in_full(start(server, answers, "--judge-batch", program=BATCH))
    paid = times_paid(server)
    assert (len(paid), paid.total()) == (SAMPLES, SAMPLES)


@pytest.mark.parametrize("count", (2, 4))
@pytest.mark.parametrize("kind", ("waits", "storm", "slow", "cap", "batch"))
def test_processes_at_once_pay_once(kind: str, count: int, server: Any, answers: Path) -> None:
    more = ["--judge-timeout", "3"]
    if kind == "waits":  # longer than a call may take
        server.faults = ["429:8000"] * 8
    elif kind == "storm":
        server.allowed = 12.0
    elif kind == "slow":
        server.delay = 1.5
    elif kind == "cap":
        more += ["--judge-requests-per-minute", "300"]
    else:
        more, server.polls = ["--judge-batch"], 5
    processes = [start(server, answers, *more, program=BATCH) for _ in range(count)]
    for process in processes:
        assert is_scored_in_full(process)
    paid = times_paid(server)
    assert (len(paid), paid.total()) == (SAMPLES, SAMPLES)


def test_a_suspended_process_costs_what_was_on_its_way_and_no_more(server: Any, answers: Path) -> None:
    server.delay = 0.3
    soon = "from tasks.judges import claims; claims.BEAT = 0.2; claims.VOID_AFTER = 1.5; " + COMMAND
    suspended = start(server, answers, "--judge-concurrency", "4", program=soon)
    while len(server.log) < 12:
        time.sleep(0.01)
    suspended.send_signal(signal.SIGSTOP)
    assert is_scored_in_full(start(server, answers, "--judge-concurrency", "4", program=soon))
    suspended.send_signal(signal.SIGCONT)
    assert is_scored_in_full(suspended)
    paid = times_paid(server)
    assert len(paid) == SAMPLES
    assert paid.total() - SAMPLES <= 4
    assert sum(1 for _ in Ledger(answers.with_name("l.sqlite")).calls()) == SAMPLES


def test_kills_do_not_pass_a_budget(server: Any, answers: Path) -> None:
    """Three of four calls are killed with their process, and none of their replies is booked."""
    server.delay = 0.4
    budget = 0.02
    kill_often(server, answers, "--judge-concurrency", "4", "--judge-budget", str(budget))
    process = start(server, answers, "--judge-concurrency", "4", "--judge-budget", str(budget))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "of $0.0200 is spent since" in err
    usage = [entry["messages"] for entry in server.answered]
    prompt_tokens = sum(-(-len(part["content"]) // 4) for messages in usage for part in messages)
    assert (prompt_tokens * 2.5 + len(usage) * 5 * 10) / 1e6 <= budget
