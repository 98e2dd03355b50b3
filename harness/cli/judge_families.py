"""`harness judge families`: what models take of a request."""

import json
import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Json
from harness.cli.shown import show
from support.errors import OK

if TYPE_CHECKING:
    from tasks.judges.capabilities import Capabilities


def families_command(
    model: Annotated[str, typer.Argument(help="A model's name, such as gpt-5-mini.")],
    url: Annotated[
        str | None, typer.Option("--judge-url", help="URL of its server, which is asked what it is.")
    ] = None,
    judge_key_env: Annotated[
        str | None, typer.Option("--judge-key-env", help="Environment variable with that server's key.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show which parameters a model takes: with others it is not asked, and settings of them are refused."""
    from support.markdown import cell
    from support.tables import Table
    from tasks.judges.addresses import BASE_URL, server_of
    from tasks.judges.capabilities import capabilities_of, host_of
    from tasks.judges.providers import has_prefix
    from tasks.judges.server_kind import kind_of

    host, kind = "", ""
    if has_prefix(model):
        prefix, _, model = model.partition(":")
        kind = f"{prefix}:"
    elif url is not None or judge_key_env is not None or os.environ.get(BASE_URL):
        server = server_of(url, name=model, role="judge", variable=judge_key_env)
        host, kind = host_of(server.url), kind_of(server, model)
    takes = capabilities_of(model, host, kind)
    shown = _in_words(takes)
    for effort, other in takes.efforts:
        changed = {name: value for name, value in _in_words(other).items() if value != shown[name]}
        shown |= {f"{name}, with reasoning_effort {effort}": value for name, value in changed.items()}
    if as_json:
        print(json.dumps({"model": model, "host": host, "server": kind, "family": takes.family, "takes": shown}))
        return OK
    where = f" at {host}" if host else ""
    words = cell(f"{model}{where}: family {takes.family}")
    show([words, Table(["parameter", "taken"], [[name, value] for name, value in shown.items()])])
    return OK


def _in_words(takes: "Capabilities") -> dict[str, str]:
    fields = (
        "temperature",
        "top_p",
        "stop",
        "seed",
        "limit",
        "needs_limit",
        "system",
        "structured",
        "reasoning_effort",
        "detail",
    )
    more = ("logprobs", "more", "batch", "thinks")
    return {name: _write_value(name, getattr(takes, name)) for name in (*fields, *more)}


def _write_value(name: str, value: Any) -> str:
    if name == "temperature":
        if value is None:
            return "the model's own alone"
        return "any" if math.isinf(value[1]) else f"{value[0]:g} to {value[1]:g}"
    if isinstance(value, tuple):
        return ", ".join(value)
    return {None: "not known: the server decides", True: "yes", False: "no"}.get(value, str(value))
