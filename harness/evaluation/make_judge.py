"""Making a judge from what the user named."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from support.errors import SettingError
from support.settings import made
from tasks.judges import prices
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from tasks.judges.settings import JudgeSettings

EXACT: Final = "exact"


def judge_settings(given: Sequence[str]) -> JudgeSettings:
    """The settings that `--judge-set NAME=VALUE` texts make; SettingError."""
    for text in given:
        if "=" not in text:
            raise SettingError(f"--judge-set {text!r}: must be NAME=VALUE")
    return made(JudgeSettings, dict(text.split("=", 1) for text in given), "--judge-set")


def make_judge(
    name: str,
    *,
    url: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    batch: bool = False,
    settings: JudgeSettings | None = None,
) -> Judge:
    """The exact rater of the scenes world, or a model behind an OpenAI-compatible server; `batch`: through the Batch
    API. SettingError for what would not act."""
    settings = settings or JudgeSettings()
    if name == EXACT:
        from tasks.scenes.judge import ExactJudge

        given = {"url": url, "budget": budget, "batch": batch, "set": settings != JudgeSettings()}
        if idle := [f"--judge-{option}" for option, value in given.items() if value]:
            raise SettingError(f"judge {EXACT!r}: {', '.join(idle)} would not act: no server is asked")
        return ExactJudge()
    if url is None and not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        raise SettingError(
            f"judge {name!r}: set OPENAI_API_KEY, or name its server with --judge-url (known without: {EXACT})"
        )
    if budget is not None and prices.price(name, 1, 1) is None:
        raise SettingError(
            f"--judge-budget: no price of {name!r} is known; add it to a file of prices and name that in"
            f" {prices.OVERRIDE}"
        )
    # A server of one's own wants no key, and the client wants one.
    key = None if os.environ.get("OPENAI_API_KEY") else "none"
    kind = BatchJudge if batch else OpenAIJudge
    return kind(name, url=url, key=key, ledger=Ledger(ledger or LEDGER), budget=budget, settings=settings)
