"""A judge behind a real vLLM that is asked for JSON: the server writes that alone, whatever the model would say."""

from pathlib import Path

import pytest
from PIL import Image

from harness.serving.served_judge import ServedJudge
from harness.serving.server_host import ServerHost
from harness.serving.settings import ServerSettings
from tasks.judges.ledger import Ledger
from tasks.judges.settings import JudgeSettings
from tests.vllm.conftest import FLAGS
from tests.vllm.test_served_settings import make

pytestmark = pytest.mark.slow


def test_a_structured_judge_is_answered_in_json(tmp_path: Path) -> None:
    host = ServerHost(settings=ServerSettings(flags=FLAGS), folder=tmp_path / "servers")
    ledger = Ledger(tmp_path / "l.sqlite")
    judge = ServedJudge(make(tmp_path / "m"), host, ledger=ledger, settings=JudgeSettings(structured=True, attempts=1))
    questions = [("Rate the answer from 0 to 6.", Image.new("RGB", (48, 48), colour)) for colour in ("red", "blue")]
    with host:
        replies = judge.ask_many(questions)
    # Its weights are random: that its replies are read at all is the server's doing.
    assert None not in replies, [why.error for why in replies.lost.values()]
    (asked,) = {call.asked for call in ledger.calls()}
    assert "response_format" not in asked, "it was sent as asked"
