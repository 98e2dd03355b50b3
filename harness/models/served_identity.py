"""Tells which model a server has now, so that a kept answer is never used for another model.

    spec = identified(spec, ledger, run="runs/eval mme")    # spec.digests name who answers
    end_run(ledger, "runs/eval mme")                        # its answers are used no more

A name and a URL don't tell: the next checkpoint may be served under both. What tells models apart is, in this order:
the name itself, where it is that of a dated snapshot; what the user says by --model-version; what the server says of
the model in its list (a `root` that is a hub id, a `created` that stays, a digest), and of itself in its replies
(`system_fingerprint`). A `root` that is a folder tells models apart only where its weights can be read here: a training
writes new ones to the same place. Where nothing does, answers are kept for one run only: until it ends, the same
command goes on with them, so that a killed run, or one with failures, is not paid for twice.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from harness.models.chat_templates import chat_template_of
from harness.models.configuration import identity_of_folder
from harness.models.file_digests import WEIGHTS
from harness.models.first_token import lacks_first_token
from harness.models.server_facts import SERVED_BY, ServerFacts, ask_facts
from harness.models.spec import ModelSpec
from support.errors import ModelError, ServerError, first_line, one_line
from support.progress import doing
from support.secrets import redact
from tasks.judges.addresses import Server, proxy_of, server_of
from tasks.judges.bodies import read_json
from tasks.judges.chat_client import ChatClient, run_in_thread
from tasks.judges.failures import TransientError
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.replies import NOT_SAID, Reply, clean, usage_of
from tasks.judges.requests import Request, key_of, limit_of, messages_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SNAPSHOT: Final = re.compile(
    r"(?:[\w.-]+/)?(?:(?:gpt|chatgpt|o\d)[\w.-]*-20\d\d-\d\d-\d\d|gpt-(?:3\.5|4)[\w.-]*-\d{4}(?:-[a-z]+)*"
    r"|claude-[\w.-]+-20\d{6})|ft:.+"
)
"""Names that stand for the same weights for ever: OpenAI's and Anthropic's dated snapshots, and models that were
fine-tuned there."""
RUN: Final = "answers of"
"""In provenance: the one run that these answers were given in."""
FINGERPRINT: Final = "fingerprint"
"""In provenance: the `system_fingerprint` of a server that had another one before."""
PATIENCE: Final = 20.0
"""Seconds to wait for a server's list of models."""
TELLING: Final = ("revision", "weight_version", "digest", "sha", "sha256", "hash", "modified_at")
"""Fields of a listed model that differ where the weights differ."""
MORE: Final = ("version", "max_model_len", "context_length", "max_context_length", "quantization", "meta")
"""Fields that change answers, and are the same for many models."""
HUB_ID: Final = re.compile(
    r"(?!(?:runs?|check_?points?|ckpts?|outputs?|models?|saves?|results?|weights|work_dirs|exps?|experiments?|data|logs?)/)"
    r"[A-Za-z0-9_-][\w.-]*/[A-Za-z0-9_-][\w.-]*"
)
"""A repository of the hub, rather than a folder of trainings."""
SNAPSHOT_FOLDER: Final = re.compile(r"[/\\]models--[^/\\]+[/\\]snapshots[/\\][0-9a-f]{40}[/\\]?")
"""Where the hub's cache keeps one revision of a model, and no other."""
SAME_FOR_ALL: Final = 1677610602
"""LiteLLM says that every model was created then."""
EARLIEST: Final = 1420070400
"""Nobody served a model before 2015: smaller numbers are no times."""
WITH: Final = " with "
"""Stands between the place of weights and their digest."""
JUST_NOW: Final = 30.0
"""Seconds; a model that was created so recently may be one that is always created "now", as vLLM's are."""


def identified(spec: ModelSpec, ledger: Path | None = None, *, run: str = "", fresh: bool = False) -> ModelSpec:
    """`spec` with digests that tell which model its server has now, and with what that says of itself; ServerError if
    the server is not there.

    `run` names what is done, for a server that tells no models apart: its answers are kept until `end_run`; without a
    name, or with `fresh`, none of before are used. Any other spec is returned as it is.
    """
    if spec.backend != "openai" or spec.server is not None:
        return spec
    dated = SNAPSHOT.fullmatch(spec.pretrained) is not None
    if dated and not (spec.version or spec.digests):
        return spec
    server = server_of(spec.url, name=spec.pretrained, variable=spec.key)
    with doing(f"connecting to {server.shown}, to learn which model it has"):
        listed, facts = ([], ServerFacts()) if dated else run_in_thread(_ask_server(server, spec))
    spec = _read_files(replace(spec, server=facts, folder=spec.folder or _find_folder(listed, spec.pretrained)))
    if spec.digests:  # of weights that it was started with
        return replace(spec, digests={**facts.facts(), **spec.digests})
    told, more = ({"version": spec.version}, {}) if spec.version else _find_facts(listed, spec.pretrained)
    own = ", ".join(f"{name} {value}" for name, value in sorted(told.items()))
    digests = {"weights": f"{spec.pretrained}@{server.shown}" + (f" ({own})" if own else ""), **facts.facts()}
    if more:
        digests["server says"] = json.dumps(more, sort_keys=True)
    if told and not spec.version and (mark := _find_fingerprint(server, spec.pretrained, digests, ledger)):
        digests[FINGERPRINT] = mark
    if not told:
        digests[RUN] = _open_run(_name_scope(run, digests), ledger, fresh) if run else uuid4().hex
    return replace(spec, digests=digests)


def _read_files(spec: ModelSpec) -> ModelSpec:
    """`spec` with what its files, if they are here, say of its prompts."""
    if spec.server is None or spec.folder is None:
        return spec
    try:
        template = chat_template_of(spec)
    except ModelError:  # the server has one of its own
        return spec
    if template.asks_only:
        return spec
    lacks = spec.server.program.adds_tokens and lacks_first_token(spec, template)
    return replace(spec, server=replace(spec.server, template=template.text, lacks_first_token=lacks))


def _open_run(scope: str, ledger: Path | None, fresh: bool) -> str:
    with closing(Ledger(ledger or LEDGER)) as kept:
        return kept.open_run(scope, anew=fresh)


def _find_fingerprint(server: Server, model: str, digests: Mapping[str, str], ledger: Path | None) -> str:
    """What sets answers of the server as it is now apart from those of before; empty where nothing does.

    A fingerprint comes with a reply alone: a server whose replies had one is asked one short question, which the ledger
    books as "fingerprint". What answered side by side in one run has one mark.
    """
    with closing(Ledger(ledger or LEDGER)) as kept:
        name = name_in_ledger(digests)
        if not (known := kept.fingerprints(name)):
            return ""
        found: list[str] = []

        def read(body: Any, _: Request) -> Reply:
            if not isinstance(body, Mapping) or not body.get("choices"):
                raise TransientError("no choices")
            found.append(fingerprint_in(body))
            return Reply(text="", limited=False, usage=usage_of(body), served=NOT_SAID)

        client = ChatClient(model, server, ledger=kept)
        client.fresh = client.told_of_key = True
        body = {"model": model, "messages": messages_of(None, "Hello"), **limit_of(model, 1)}
        key = key_of({"fingerprint": 1, "server": name})
        client.ask_many([Request(body=body, key=key, tokens=1, label=FINGERPRINT, max_tokens=1)], read)
    if not found:  # it may be any
        return f"not told {uuid4().hex[:8]}"
    return known.get(found[0], found[0] or "none")


def fingerprint_in(body: object) -> str:
    """What a reply says of the server that gave it, and of the snapshot that a name stands for today; empty where it
    says nothing."""
    said = [body.get(name) for name in ("system_fingerprint", "model")] if isinstance(body, Mapping) else ["", ""]
    mark, name = (one_line(clean(text))[:200] if isinstance(text, str) else "" for text in said)
    return f"{mark} {name if SNAPSHOT.fullmatch(name) else ''}".strip()


def name_in_ledger(digests: Mapping[str, str]) -> str:
    """What names a model's fingerprints in the ledger."""
    return json.dumps({name: value for name, value in digests.items() if name != FINGERPRINT}, sort_keys=True)


def is_of_one_run(spec: ModelSpec) -> bool:
    """True where nothing tells the model behind a server from others, so that its answers are kept for one run only."""
    return RUN in spec.digests


def end_run(ledger: Path | None, run: str) -> None:
    """What was answered under this name is not used again."""
    with closing(Ledger(ledger or LEDGER)) as kept:
        kept.close_runs(_name_scope(run))


def _name_scope(run: str, digests: Mapping[str, str] | None = None) -> str:
    return f"{run}\n" + (json.dumps(digests, sort_keys=True) if digests is not None else "")


async def _ask_server(server: Server, spec: ModelSpec) -> tuple[list[dict[str, Any]], ServerFacts]:
    """The models that the server lists, `created` only where it stays, and what it says of itself; empty where it says
    nothing. ServerError."""
    import openai

    from tasks.judges.http_client import RedirectRefused, UnreadableAnswer

    async with server.connect(PATIENCE) as connection:
        try:
            listed, clock = await _ask_for_list(connection)
            if not (spec.digests or spec.version):
                await _drop_changing_times(connection, listed, clock)
            return listed, await ask_facts(connection, server, listed, spec.digests.get(SERVED_BY, ""))
        except openai.APITimeoutError:
            return [], ServerFacts()
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, RedirectRefused | UnreadableAnswer):
                return [], ServerFacts()  # no list; what the calls meet is told by them
            why = first_line(error.__cause__ or error)
            by = f" (by the proxy {proxy})" if (proxy := proxy_of(server.url)) else ""
            raise ServerError(f"{spec.name}: {server.shown}: no connection{by}: {redact(why)}") from None


async def _drop_changing_times(connection: "AsyncOpenAI", listed: list[dict[str, Any]], clock: float) -> None:
    """Take `created` out of models that are created anew each time they are listed."""
    recent = [model for model in listed if _is_recent(model.get("created"), clock)]
    if not recent:
        return
    await asyncio.sleep(1.2)  # times have whole seconds
    again, _ = await _ask_for_list(connection)
    times = {str(model.get("id")): model.get("created") for model in again}
    for model in recent:
        if times.get(str(model.get("id"))) != model["created"]:
            del model["created"]


async def _ask_for_list(connection: "AsyncOpenAI") -> tuple[list[dict[str, Any]], float]:
    """The listed models, and the server's time; none where the answer is anything else."""
    import openai

    try:
        answer = await connection.models.with_raw_response.list()
        found = read_json(answer.content)
    except (openai.APIStatusError, ValueError):
        return [], time.time()
    models = found.get("data") if isinstance(found, dict) else found
    clock = time.time()
    with suppress(KeyError, ValueError, TypeError):
        clock = parsedate_to_datetime(answer.headers["date"]).timestamp()
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else [], clock


def _is_recent(created: object, clock: float) -> bool:
    seconds = _read_seconds(created)
    return seconds is not None and (abs(seconds - clock) < JUST_NOW or abs(seconds - time.time()) < JUST_NOW)


def _read_seconds(created: object) -> float | None:
    """A time in seconds; None for what is no time, or is every model's."""
    if isinstance(created, bool) or not isinstance(created, (int, float)) or created > 1e14:
        return None
    seconds = created / 1000 if created > 1e11 else created
    return seconds if EARLIEST < seconds < 1e11 and seconds != SAME_FOR_ALL else None


def _find_facts(listed: list[dict[str, Any]], asked: str) -> tuple[dict[str, str], dict[str, str]]:
    """What is said of the model that is asked for: what tells it from others, and what else changes its answers."""
    own = next((model for model in listed if model.get("id") == asked), listed[0] if len(listed) == 1 else None)
    if own is None:
        return {}, {}
    names = ("", asked, own.get("id"))
    values = {field: _write_value(own[field]) for field in TELLING if isinstance(own.get(field), (str, int))}
    told = {field: value for field, value in values.items() if value not in (*names, "true", "false")}
    more = {field: _write_value(own[field]) for field in MORE if own.get(field) is not None}
    if (root := _find_root(own)) not in names:
        (told if _tells(root) else more)["root"] = root
    if (created := _read_seconds(own.get("created"))) is not None:
        told["created"] = datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds")
    base = next((model for model in listed if model.get("id") == own.get("parent") and model is not own), None)
    if base is not None and (on := _find_root(base)) not in ("", base.get("id")):
        told["on"] = on  # an adapter is named by its own folder alone
        if len(told) == 1 or not _tells(on):
            return {}, more | told
    return told, more


def _find_folder(listed: list[dict[str, Any]], asked: str) -> Path | None:
    """Where the files of a listed model, or of its base, lie on this machine; None where they do not."""
    by_name = {name: model for model in listed if isinstance(name := model.get("id"), str)}
    own = by_name.get(asked, listed[0] if len(listed) == 1 else {})
    parent = own.get("parent")
    for model in (by_name.get(parent, {}) if isinstance(parent, str) else {}, own):
        if isinstance(root := model.get("root"), str) and root:
            with suppress(OSError, ValueError, RuntimeError):
                if (Path(root).expanduser() / "tokenizer_config.json").is_file():
                    return Path(root).expanduser()
    return None


def _find_root(model: Mapping[str, Any]) -> str:
    """Where a listed model's weights are from, with their digest where they can be read here; empty: not said."""
    root = _write_value(model["root"]) if isinstance(model.get("root"), str) else ""
    if root:
        with suppress(OSError, ValueError, RuntimeError):
            path = Path(root).expanduser()
            if path.is_file():
                return f"{root}{WITH}{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"
            if any(True for kind in WEIGHTS for _ in path.glob(kind)):
                return f"{root}{WITH}{identity_of_folder(path)}"
    return root


def _tells(root: str) -> bool:
    """Whether a root is of one model, and of no other that takes its place later."""
    return WITH in root or bool(HUB_ID.fullmatch(root) or SNAPSHOT_FOLDER.search(root))


def _write_value(value: object) -> str:
    return one_line(clean(value) if isinstance(value, str) else json.dumps(value, sort_keys=True))[:500]
