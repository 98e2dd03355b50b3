"""Making a judge from what the user named."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from support.errors import SettingError, UnknownName
from tasks.judges import prices
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge

EXACT: Final = "exact"

SETTINGS: Final[Mapping[str, Callable[[str], Any]]] = {
    "detail": str,
    "image_side": int,
    "seed": int,
    "timeout": float,
    "attempts": int,
    "concurrency": int,
    "structured": lambda text: {"true": True, "false": False}[text.lower()],
    "requests_per_minute": float,
    "tokens_per_minute": float,
}
"""What `--judge-set NAME=VALUE` may set, and how its value is read."""


def settings_of(given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as arguments of `OpenAIJudge`; UnknownName for another name, SettingError for a value that is
    none."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in SETTINGS:
            raise UnknownName("judge setting", name, SETTINGS)
        try:
            found[name] = SETTINGS[name](value)
        except (ValueError, KeyError):
            kind = "true or false" if name == "structured" else SETTINGS[name].__name__
            raise SettingError(f"--judge-set {text!r}: {name} must be {kind}") from None
        if isinstance(found[name], (int, float)) and name not in ("seed", "structured") and found[name] <= 0:
            raise SettingError(f"--judge-set {text!r}: {name} must be more than 0")
    if found.get("detail", "auto") not in ("auto", "low", "high"):
        raise SettingError(f"--judge-set detail={found['detail']}: must be auto, low or high")
    return found


def make_judge(
    name: str,
    *,
    url: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    batch: bool = False,
    **settings: Any,
) -> Judge:
    """The exact rater of the scenes world, or a model behind an OpenAI-compatible server; `batch`: through the Batch
    API."""
    if name == EXACT:
        from tasks.scenes.judge import ExactJudge

        return ExactJudge()
    if url is None and not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        raise SettingError(
            f"judge {name!r}: set OPENAI_API_KEY, or name its server with --judge-url (known without: {EXACT})"
        )
    if budget is not None and prices.price(name, 1, 1) is None:
        raise SettingError(
            f"--judge-budget: no price of {name!r} is known; add it to a file of prices and name that in {prices.OVERRIDE}"
        )
    # A server of one's own wants no key, and the client wants one.
    key = None if os.environ.get("OPENAI_API_KEY") else "none"
    kind = BatchJudge if batch else OpenAIJudge
    return kind(name, url=url, key=key, ledger=Ledger(ledger or LEDGER), budget=budget, **settings)
