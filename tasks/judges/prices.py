"""What asking a judge costs, before it is asked.

    price("gpt-4o-2024-11-20", 1200, 80)                # US dollars; None for a judge whose price is not known, never 0
    image_tokens("gpt-4o-2024-11-20", 1024, 1024)       # 765
    retired("gpt-4-0314", date.today())                 # a sentence, or None

The table is `tasks/judges/judges.toml`; entries of the file named by HARNESS_PRICES go before it.
"""

import math
import os
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Final

from support.errors import SettingError
from support.parsing import parse_toml

TABLE: Final = Path(__file__).with_name("judges.toml")
OVERRIDE: Final = "HARNESS_PRICES"
CHARACTERS: Final = 4
"""Of English text in a token, about."""
NOTICE: Final = 90
"""Days before a model is shut down at which that is said."""


def price(model: str, prompt_tokens: int, completion_tokens: int, *, batch: bool = False) -> float | None:
    """US dollars for one call or for many; None where the model is in no table."""
    table = _price_table()
    entry = table["models"].get(model)
    if entry is None or "input" not in entry or "output" not in entry:
        return None
    share = float(table.get("batch", 0.5)) if batch else 1.0
    return share * (prompt_tokens * float(entry["input"]) + completion_tokens * float(entry["output"])) / 1e6


def text_tokens(text: str) -> int:
    """How many tokens a text is, about."""
    return math.ceil(len(text) / CHARACTERS)


def image_tokens(model: str, width: int, height: int, detail: str = "auto") -> int:
    """How many tokens an image is by the model's published rule (GPT-4o's where the model is not known)."""
    rule = _price_table()["models"].get(model, {}).get("images", {"base": 85, "tile": 170})
    if detail == "low":
        return int(rule["base"])
    fit = min(1.0, 2048 / max(width, height))
    width, height = int(width * fit), int(height * fit)
    fit = min(1.0, 768 / min(width, height))
    tiles = math.ceil(width * fit / 512) * math.ceil(height * fit / 512)
    return int(rule["base"]) + int(rule["tile"]) * tiles


def retired(model: str, today: date) -> str | None:
    """A sentence where the model is no longer served, or soon won't be."""
    day = _price_table()["models"].get(model, {}).get("retired")
    if not isinstance(day, date) or (day - today).days > NOTICE:
        return None
    if day < today:
        return f"{model} was shut down on {day}: its scores can't be re-run"
    return f"{model} is to be shut down on {day}: scores it gives can't be re-run after that"


def _price_table() -> Mapping[str, Any]:
    own = os.environ.get(OVERRIDE)
    return _merge_tables(TABLE, Path(own) if own else None)


@cache
def _merge_tables(path: Path, first: Path | None) -> Mapping[str, Any]:
    table = _read_table(path)
    if first is not None:
        own = _read_table(first)
        table = {**table, **own, "models": table["models"] | own["models"]}
    return table


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = parse_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: no price table: {error}") from None
    models = table.get("models")
    if not isinstance(models, dict) or not all(isinstance(entry, dict) for entry in models.values()):
        raise SettingError(f'{path}: no price table: must have entries [models."NAME"] with input and output')
    for name, entry in models.items():
        for field in ("input", "output"):
            value = entry.get(field, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise SettingError(f"{path}: models.{name}.{field}: must be a price, is {value!r}")
    share = table.get("batch", 0.5)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise SettingError(f"{path}: batch: must be a share of the price, from 0 to 1, is {share!r}")
    return table
