"""A judge that is a genuine model server: the reply is nonsense, the protocol is real. Needs what `transformers serve`
needs."""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.settings import JudgeSettings
from tasks.scenes.world import image_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_keys")]
WEIGHTS = Path(__file__).resolve().parents[2] / "harness" / "models" / "weights" / "scenes-base"


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    for needed in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"transformers serve needs {needed}: pip install fastapi uvicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    options = f"serve --host 127.0.0.1 --port {port} --device cpu --dtype float32".split()
    command = [sys.executable, "-c", program, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except OSError:
            assert process.poll() is None, "the server has ended"
            time.sleep(0.5)
    yield url
    process.terminate()
    process.wait(20)


def test_a_model_server_judges_and_its_replies_are_kept(served: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    settings = JudgeSettings(timeout=120, seed=None, concurrency=1)
    judge = OpenAIJudge(str(WEIGHTS), url=served, ledger=ledger, settings=settings)
    image = image_of("test-judge/1")
    replies = judge.ask_many([("is there a red circle in the image?", image), ("describe the image in detail.", image)])
    assert all(isinstance(reply, str) and reply for reply in replies), judge.client.failures
    assert judge.client.asked == 2
    assert judge.ask_many([("is there a red circle in the image?", image)]) == replies[:1]
    assert judge.client.asked == 2
    (total,) = ledger.summary()
    assert (total.calls, total.price) == (2, None)
