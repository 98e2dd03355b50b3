"""A judge from its name and settings; settings without effect are refused."""

from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.make_judge import make_judge
from support.errors import SettingError
from tasks.judges.batch import BatchJudge
from tasks.judges.openai import OpenAIJudge
from tasks.judges.settings import JudgeSettings
from tasks.scenes.judge import ScenesJudge

pytestmark = pytest.mark.usefixtures("no_keys")


def test_a_name_is_the_exact_rater_or_a_model_behind_a_server(tmp_path: Path) -> None:
    assert isinstance(make_judge("scenes"), ScenesJudge)
    settings = JudgeSettings(seed=3)
    for batch, kind in ((False, OpenAIJudge), (True, BatchJudge)):
        judge = make_judge("m", url="http://127.0.0.1:1/v1", ledger=tmp_path / "l", batch=batch, settings=settings)
        assert type(judge) is kind
        assert (judge.model, judge.settings) == ("m", settings)
    with pytest.raises(SettingError, match="judge 'm': set OPENAI_API_KEY"):
        make_judge("m", ledger=tmp_path / "l")
    with pytest.raises(SettingError, match="--judge-budget: no price of 'm' is known"):
        make_judge("m", url="http://127.0.0.1:1/v1", ledger=tmp_path / "l", budget=1.0)


@pytest.mark.parametrize(
    ("given", "option"),
    (
        ({"url": "http://x/v1"}, "--judge-url"),
        ({"budget": 5.0}, "--judge-budget"),
        ({"batch": True}, "--judge-batch"),
        ({"settings": JudgeSettings(seed=1)}, "--judge-set"),
    ),
)
def test_the_exact_rater_refuses_what_would_not_act(given: dict[str, Any], option: str) -> None:
    with pytest.raises(SettingError, match=f"judge 'scenes': {option} would not act: no server is asked"):
        make_judge("scenes", **given)
