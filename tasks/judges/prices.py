"""What asking a judge costs, before it is asked and after.

    price("gpt-4o", 1200, 80)                           # US dollars; None where the price is not known, never 0
    Tariff(model="gpt-4o", url=server.url).cost(1200, 80, cached=1000, served="gpt-4o-2024-11-20")
    image_tokens("gpt-4o-2024-11-20", 1024, 1024)       # 765
    retired("gpt-4-0314", date.today())                 # a sentence, or None

The first that knows a price: what the user told (`--judge-price IN,OUT`), the file named by HARNESS_PRICES, the package
genai-prices with the data it comes with. The model that the server says has answered counts, and the one asked for
where no price of that is known. A host that the package knows is asked for its own price; at any other, such as a
gateway, models of OpenAI, Anthropic and Google have their makers' list prices, and no other model has one.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from support.errors import SettingError
from support.parsing import parse_toml
from tasks.judges.image_tokens import ImageRule, read_rule

TABLE: Final = Path(__file__).with_name("judges.toml")
OVERRIDE: Final = "HARNESS_PRICES"
CHARACTERS: Final = 4
"""Of English text in a token, about."""
NOTICE: Final = 90
"""Days before a model is shut down at which that is said."""
BATCH_SHARE: Final = 0.5
"""Of a price in a user's table, in a batch."""
MAKERS: Final = {
    "openai": re.compile(r"(ft:)?(gpt-\d|chatgpt-|o\d)"),
    "anthropic": re.compile(r"claude"),
    "google": re.compile(r"gemini"),
}
"""What names of models begin with that their makers alone serve, by the package's names of these."""
PREFIXES: Final = frozenset(
    "openai azure azure_ai anthropic google gemini vertex_ai vertex models openrouter github_copilot".split()
)
"""What routers and lists of models put before such names."""
_PAIR: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*,\s*(\d+(?:\.\d*)?|\.\d+)\s*")


@dataclass(frozen=True, kw_only=True)
class Tariff:
    """What calls to one model behind one server cost."""

    model: str
    """The one asked for."""
    url: str | None = None
    """The server's address; None: any."""
    told: tuple[float, float] | None = None
    """US dollars for a million tokens in and out, as the user says; of a batch, too."""

    def cost(
        self,
        prompt: float,
        completion: float,
        *,
        cached: float = 0,
        served: str = "",
        calls: int = 1,
        batch: bool = False,
    ) -> float | None:
        """US dollars for tokens of prompts and replies; None where the price is not known.

        `cached`: of the prompts' tokens, those that the server had read before; `calls`: over so many calls the tokens
        are spread, since large ones may cost more a token.
        """
        if self.told is not None:
            return (prompt * self.told[0] + completion * self.told[1]) / 1e6
        cached, names = min(cached, prompt), dict.fromkeys(filter(None, (served, self.model)))
        for name in names:
            if (rates := _rates_of_table(name)) is not None:
                sums = ((prompt - cached) * rates[0] + completion * rates[1] + cached * rates[2]) / 1e6
                return sums * (_share_in_batch() if batch else 1.0)
        count = max(1, calls)
        tokens = (prompt / count, completion / count, cached / count)
        found = (_find_list_price(name, self.url, tokens, batch) for name in names)
        one = next((price for price in found if price is not None), None)
        return None if one is None else one * count


def price(
    model: str, prompt_tokens: int, completion_tokens: int, *, calls: int = 1, batch: bool = False
) -> float | None:
    """US dollars for one call or for many, wherever the model is; None where its price is not known."""
    return Tariff(model=model).cost(prompt_tokens, completion_tokens, calls=calls, batch=batch)


def read_price(text: str, what: str) -> tuple[float, float]:
    """The two numbers of "IN,OUT", US dollars for a million tokens; SettingError names `what`."""
    if (found := _PAIR.fullmatch(text)) is None:
        dollars = "US dollars for a million tokens of prompts and of replies"
        raise SettingError(f"{what} {text!r}: must be IN,OUT ({dollars}), such as 2.5,10")
    return float(found[1]), float(found[2])


def text_tokens(text: str) -> int:
    """How many tokens a text is, about."""
    return math.ceil(len(text) / CHARACTERS)


def image_tokens(model: str, width: int, height: int, detail: str = "auto") -> int:
    """How many tokens an image is by the model's published rule (GPT-4o's where the model is not known)."""
    table = _price_table()
    own = table["models"].get(model, {}).get("images")
    rule = read_rule(own, f"models.{model}.images") if own is not None else _rule_of_family(model)
    return rule.tokens(width, height, detail)


def retired(model: str, today: date) -> str | None:
    """A sentence where the model is no longer served, or soon won't be."""
    day = _price_table()["models"].get(model, {}).get("retired")
    if not isinstance(day, date) or (day - today).days > NOTICE:
        return None
    if day < today:
        return f"{model} was shut down on {day}: its scores can't be re-run"
    return f"{model} is to be shut down on {day}: scores it gives can't be re-run after that"


def _find_list_price(name: str, url: str | None, tokens: tuple[float, float, float], batch: bool) -> float | None:
    """What one call costs by the package's data; None where it has no price of this model."""
    from genai_prices import Usage, calc_price

    context = {"processing": "batch"} if batch else None
    usage = Usage(input_tokens=tokens[0], output_tokens=tokens[1], cache_read_tokens=tokens[2])
    for provider, known_as in _places_of(name.strip().lower(), url, batch):
        try:
            found = calc_price(usage, known_as, provider_id=provider, price_context=context)
        except (LookupError, ValueError):
            continue
        if found.model_price.input_mtok is not None and found.model_price.output_mtok is not None:
            return float(found.total_price)
    return None


def _places_of(name: str, url: str | None, batch: bool) -> Iterator[tuple[str, str]]:
    """Who sells a model and what it is called there, by the package's names, best first."""
    provider = _provider_at(url) if url is not None else None
    if provider == "azure":  # sells OpenAI's models at OpenAI's prices, whose batches the package knows there alone
        provider = None if batch and MAKERS["openai"].match(name) else provider
    *before, rest = name.split("/")
    if provider is not None:
        yield provider, name
        if before == ["models"]:
            yield provider, rest
    elif PREFIXES.issuperset(before):
        for maker, begin in MAKERS.items():
            if begin.match(rest):
                yield maker, rest


@lru_cache(maxsize=256)
def _provider_at(url: str) -> str | None:
    """The package's name for who is at an address; None: it knows nobody there."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        return str(get_snapshot().find_provider(None, None, url).id)
    except LookupError:
        return None


def _rates_of_table(name: str) -> tuple[float, float, float] | None:
    """US dollars for a million tokens of prompts, of replies and of what the server had read before, of a user's
    table."""
    entry = _price_table()["models"].get(name, {})
    if "input" not in entry or "output" not in entry:
        return None
    return float(entry["input"]), float(entry["output"]), float(entry.get("cached", entry["input"]))


def _share_in_batch() -> float:
    return float(_price_table().get("batch", BATCH_SHARE))


def _rule_of_family(model: str) -> ImageRule:
    name = re.sub(r"(?<=\d)\.(?=\d)", "-", model) if "claude" in model.lower() else model
    name = name.lower().rpartition("/")[2]
    rules: Mapping[str, ImageRule] = _image_rules()
    return rules[max((begin for begin in rules if name.startswith(begin)), key=len, default="gpt-4")]


@cache
def _image_rules() -> Mapping[str, ImageRule]:
    given = _read_table(TABLE)["images"]
    return {name: read_rule(rule, f"{TABLE.name}: images.{name}") for name, rule in given.items()}


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
        for field in ("input", "output", "cached"):
            value = entry.get(field, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise SettingError(f"{path}: models.{name}.{field}: must be a price, is {value!r}")
        if "images" in entry:
            read_rule(entry["images"], f"{path}: models.{name}.images")
    share = table.get("batch", BATCH_SHARE)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise SettingError(f"{path}: batch: must be a share of the price, from 0 to 1, is {share!r}")
    return table
