"""Providers whose models are named with their own prefix, and whose keys go to their servers alone.

    find_place("gemini:gemini-3.5-flash")   # Place(model="gemini-3.5-flash", url="https://generativelanguage...", ...)
    find_place("azure:my-deployment")       # at AZURE_OPENAI_ENDPOINT
    find_place("openai/gpt-4o")             # None: a name as routers have it
    keys_at("generativelanguage.googleapis.com")    # ("GEMINI_API_KEY", "GOOGLE_API_KEY")

The variables are those that the providers' own packages read.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from support.errors import NoKeyError, SettingError
from support.secrets import HARMLESS

VERSION: Final = "OPENAI_API_VERSION"
"""Of Azure's interface; where it is a date, deployments are asked by their own addresses."""
AZURE_KEY: Final = "AZURE_OPENAI_API_KEY"
AZURE_TOKEN: Final = "AZURE_OPENAI_AD_TOKEN"
"""Holds a token of Azure's directory in place of a key."""
LATEST: Final = ("", "v1", "latest", "preview")
"""Versions without a date: the models of a resource are asked at one address."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Who serves models under a prefix."""

    keys: tuple[str, ...]
    """Variables with its key; the first that is set counts."""
    hosts: tuple[str, ...]
    """Its servers, which end so; its key goes there, and where `address` says."""
    address: str
    """Variable with the address of its server."""
    usual: str = ""
    """The address where that is not set; empty: it must be."""
    path: str = ""
    """What stands before /chat/completions behind that address."""


PROVIDERS: Final[Mapping[str, Provider]] = {
    "azure": Provider(
        keys=(AZURE_KEY, AZURE_TOKEN),
        hosts=(
            *(".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
            *(".openai.azure.us", ".openai.azure.cn"),
        ),
        address="AZURE_OPENAI_ENDPOINT",
    ),
    "gemini": Provider(
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        hosts=("generativelanguage.googleapis.com",),
        address="GOOGLE_GEMINI_BASE_URL",
        usual="https://generativelanguage.googleapis.com",
        path="/v1beta/openai",
    ),
    "anthropic": Provider(
        keys=("ANTHROPIC_API_KEY",),
        hosts=("api.anthropic.com",),
        address="ANTHROPIC_BASE_URL",
        usual="https://api.anthropic.com",
        path="/v1",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model with a provider's prefix is."""

    model: str
    """What its server is asked for."""
    url: str
    what: str
    """The variable that the address is from."""
    variable: str
    """The one with its key."""


def find_place(name: str) -> Place | None:
    """Where `PROVIDER:MODEL` is, by the environment; None for any other name. SettingError where a variable is
    missing."""
    prefix, colon, model = name.partition(":")
    provider = PROVIDERS.get(prefix)
    if provider is None or not colon:
        return None
    if not model.strip():
        raise SettingError(f"{name!r}: names no model: {prefix}:{'DEPLOYMENT' if prefix == 'azure' else 'MODEL'}")
    variable = next((key for key in provider.keys if os.environ.get(key, "").strip()), None)
    address = os.environ.get(provider.address, "").strip().strip("'\"") or provider.usual
    if variable is None or not address:
        missing = [provider.address] * (not address) + [provider.keys[0]] * (variable is None)
        raise NoKeyError(f"{name!r}: set {' and '.join(missing)}, or name its server without {prefix + ':'!r}")
    url = _url_at_azure(address, model) if prefix == "azure" else _url_behind(address, provider.path)
    return Place(model=model, url=url, what=provider.address, variable=variable)


def has_prefix(name: str) -> bool:
    """Whether a name has a provider's prefix."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in PROVIDERS


def usual_address(name: str) -> str:
    """Where a provider's models are where no variable says it; empty where only that does."""
    provider = PROVIDERS.get(name)
    return provider.usual + provider.path if provider is not None and provider.usual else ""


def suggest(name: str) -> str:
    """The same model with its provider's prefix, in words; empty for names that tell no provider."""
    begins = {"gemini-": "gemini", "claude-": "anthropic"}
    found = next((provider for begin, provider in begins.items() if name.startswith(begin)), None)
    return f"; {found}:{name} is {found.capitalize()}'s, by {PROVIDERS[found].keys[0]}" if found else ""


def keys_at(host: str) -> tuple[str, ...]:
    """The variables whose keys go to a host; empty where it is no provider's."""
    found = (each.keys for each in PROVIDERS.values() if host.endswith(each.hosts))
    return next(found, ())


def host_of_key(variable: str) -> str:
    """A host of the provider whose key a variable holds: what it takes holds at gateways to it, too; empty for any
    other variable."""
    found = (each.hosts[0] for each in PROVIDERS.values() if variable in each.keys)
    host = next(found, "")
    return f"resource{host}" if host.startswith(".") else host


def _url_behind(address: str, path: str) -> str:
    """An address with a path at its end, where it has none of the kind yet."""
    begin, mark, query = address.partition("?")
    begin = begin.rstrip("/")
    whole = begin if re.search(r"/v\d[^/]*(/openai)?$|/chat/completions$", begin) else begin + path
    return f"{whole}{mark}{query}"


def _url_at_azure(address: str, deployment: str) -> str:
    """The address of a deployment: by a dated version its own, else that of all models of the resource."""
    begin, _, text = address.partition("?")
    begin = begin.rstrip("/")
    query = dict(parse_qsl(text, keep_blank_values=True))
    if begin.endswith("/models"):  # Foundry's
        return address
    resource, _, interface = begin.partition("/openai")
    is_of_all = interface.startswith("/v1")
    version = "" if is_of_all else os.environ.get(VERSION, "").strip() or query.get("api-version", "")
    rest = {name: value for name, value in query.items() if name not in HARMLESS}
    if version in LATEST:
        more = {"api-version": version} if version in LATEST[2:] else {}
        return f"{resource}/openai/v1{_write_query(more | rest)}"
    mine = f"{resource}/openai/deployments/{quote(deployment, safe='')}"
    return f"{mine}{_write_query({'api-version': version} | rest)}"


def _write_query(query: Mapping[str, str]) -> str:
    return f"?{urlencode(query)}" if query else ""
