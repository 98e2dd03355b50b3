"""Makes a judge from its name and settings."""

import os
from pathlib import Path
from typing import Final

from support.errors import SettingError
from tasks.judges import prices
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from tasks.judges.settings import JudgeSettings

EXACT: Final = "exact"


def make_judge(
    name: str,
    *,
    url: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    batch: bool = False,
    settings: JudgeSettings | None = None,
) -> Judge:
    """The judge "exact" of the scenes tasks, or a model of an OpenAI-compatible server, with `batch` through the Batch
    API. SettingError for a setting that would have no effect."""
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
    # A local server needs no key, but the client requires one.
    key = None if os.environ.get("OPENAI_API_KEY") else "none"
    kind = BatchJudge if batch else OpenAIJudge
    return kind(name, url=url, key=key, ledger=Ledger(ledger or LEDGER), budget=budget, settings=settings)
