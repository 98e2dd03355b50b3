"""What computes answers: our own engine in this process, or a server of vLLM or SGLang that is kept for a run.

host = EngineHost(run / "servers")
engine = host.choose(EngineConfig(engine="auto"), spec)         # "vllm" on a GPU where it can be, else "own"
lm = host.load(spec, engine, hints=hints)                       # as `harness.models.load.load`
host.drop()                                                     # lets go of the model, and ends the server
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from harness.engine.config import Engine, EngineConfig
from harness.engine.response_cache import ResponseCache
from harness.models.adapter_host import AdapterHost
from harness.models.chat_templates import chat_template_of, pads_pictures
from harness.models.fetch import fetch
from harness.models.file_digests import digest_of_folder
from harness.models.load import for_model, identity_when_asked, quiet, register
from harness.models.server_facts import DTYPE, SERVED_BY, VERSION
from harness.models.spec import ModelSpec
from harness.models.weight_files import read_json
from harness.serving.adapters import Adapters, needs_of
from harness.serving.elsewhere import reach_elsewhere, version_of
from harness.serving.engine_client import EngineClient, at_once_of
from harness.serving.installed import find_package
from harness.serving.server_host import ServerHost
from harness.serving.settings import ServerSettings
from support.errors import HarnessError, SettingError
from support.progress import doing

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine.jobs import TaskHints

log = logging.getLogger(__name__)

ENGINE: Final = "engine"
"""In provenance: what computed the answers, where that is not our own engine."""
_REGISTRY: Final = Path("model_executor") / "models" / "registry.py"
"""In vLLM's package: the architectures that it has."""


class EngineHost(AdapterHost):
    """See the module's docstring. `folder` is for the servers' logs; `adapters` says what a server is to be ready for
    beside the model that is asked."""

    def __init__(
        self, folder: Path = Path("runs") / "servers", adapters: "Callable[[], Adapters]" = Adapters, **given: Any
    ) -> None:
        super().__init__(**given)
        self.folder, self.adapters = folder, adapters
        self._servers: dict[str, ServerHost] = {}
        """By their settings."""
        self._told: set[str] = set()
        """What was said once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        super().drop()
        self._end_servers()

    def choose(self, engine: EngineConfig, spec: ModelSpec) -> EngineConfig:
        """The settings with the engine that `auto` stands for, which is said. SettingError for one that would not act
        on it."""
        if engine.engine != "auto" or spec.backend != "transformers":
            return engine
        why = why_not_vllm(engine, spec)
        chosen: Engine = "own" if why else "vllm"
        if (line := f"{spec.name}: engine auto: {f'own, for {why}' if why else 'vllm'}") not in self._told:
            self._told.add(line)
            log.info(line)
        return replace(engine, engine=chosen)

    def load(
        self,
        spec: ModelSpec,
        engine: EngineConfig | None = None,
        *,
        hints: "TaskHints | None" = None,
        ledger: Path | None = None,
    ) -> Any:
        """The LM of `spec`: on the base, or the server, that there is where that is the one."""
        engine = self.choose(engine or EngineConfig(), spec)
        if not engine.is_served or spec.backend != "transformers":
            self._end_servers()
            return super().load(spec, engine, hints=hints, ledger=ledger)
        super().drop()
        return self._load_served(fetch(spec), engine, hints)

    def drop(self) -> None:
        """Let go of the model in memory, and end the server."""
        super().drop()
        self._end_servers()

    def _end_servers(self) -> None:
        for server in self._servers.values():
            server.end()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Inside, a model is asked: an error then, of a server that has ended, says why it has."""
        try:
            yield
        except HarnessError:
            for server in self._servers.values():
                with server.asked():
                    raise
            raise

    def _load_served(self, spec: ModelSpec, engine: EngineConfig, hints: "TaskHints | None") -> Any:
        quiet()
        register()
        from harness.serving.engine_lm import EngineLM

        engine, template = for_model(engine, spec), chat_template_of(spec, engine)
        facts = facts_of_engine(spec, engine)
        with doing(f"reading the processor of {spec.name}"):
            lm = EngineLM(
                str(spec.local_folder),
                engine,
                client=self._reach(spec, engine),
                facts=facts,
                hints=hints,
                cache=None
                if engine.answers is None or spec.fresh
                else ResponseCache(engine.answers).of(identity_when_asked(spec, engine) | facts),
                stage=f"answers of {spec.name}",
                template=template,
                pad=pads_pictures(spec, template),
                trust_remote_code=spec.remote_code,
            )
        return lm

    def _reach(self, spec: ModelSpec, engine: EngineConfig) -> EngineClient:
        """The client of the server that has the model, which is started if it is not there. ServerError."""
        if engine.engine_url:
            return reach_elsewhere(spec, engine)
        settings = settings_of_engine(engine)
        host = self._servers.setdefault(repr(settings), ServerHost(settings=settings, folder=self.folder))
        own = needs_of([spec.adapter] if spec.adapter is not None else [])
        reached = host.reach(spec, own | self.adapters())
        url = str(reached.url).removesuffix("/v1")
        adapted = f"-{digest_of_folder(spec.adapter)}" if spec.adapter is not None and own.vision else ""
        return EngineClient(engine.engine, [url], reached.pretrained, at_once=at_once_of(engine), adapted=adapted)


def settings_of_engine(engine: EngineConfig) -> ServerSettings:
    """How the server of an engine is started. SettingError."""
    flags = {} if engine.dtype in (None, "auto") else {"dtype": str(engine.dtype)}
    if engine.gpus is not None:
        flags["data-parallel-size" if engine.engine == "vllm" else "dp-size"] = str(engine.gpus)
    pixels = {name: value for name in ("min_pixels", "max_pixels") if (value := getattr(engine, name)) is not None}
    if pixels and engine.engine != "vllm":
        name, value = next(iter(pixels.items()))
        raise SettingError(f"{name} = {value}: would not act with engine = {engine.engine}")
    flags |= {"mm-processor-kwargs": json.dumps(pixels)} if pixels else {}
    given = {name.lstrip("-").replace("_", "-"): value for name, value in engine.engine_set.items()}
    if twice := sorted(flags.keys() & given.keys()):
        raise SettingError(f"--engine-set {twice[0]}={given[twice[0]]}: is given twice, by an option too")
    return ServerSettings(command=engine.engine, flags=flags | given, rendered=True)


def check_alone(engine: EngineConfig, server: ServerSettings | None) -> None:
    """SettingError for an engine beside a server of the models, which computes their answers by itself."""
    if server is not None and engine.engine != "own":
        raise SettingError(f"engine = {engine.engine}: would not act beside --serve {server.command}")


def served_engine(engine: EngineConfig, specs: Sequence[ModelSpec] | None = None) -> ServerSettings | None:
    """How the server is started that is to compute the answers of these models, or of local ones; None where there is
    to be none."""
    is_here = specs is None or any(spec.backend == "transformers" for spec in specs)
    return settings_of_engine(engine) if engine.is_served and not engine.engine_url and is_here else None


def facts_of_engine(spec: ModelSpec, engine: EngineConfig) -> dict[str, str]:
    """What an entry records of the engine, and what tells its answers from others': which one, its version, what it
    computes in, its flags. Nothing for our own."""
    if not engine.is_served or spec.backend != "transformers":
        return {}
    settings = settings_of_engine(engine)
    found = settings.facts_of(spec)
    found[ENGINE] = found.pop(SERVED_BY)
    dtype = for_model(engine, spec).dtype
    found |= {DTYPE: dtype} if dtype not in (None, "auto") else {}
    return found | ({VERSION: version_of(engine)} if engine.engine_url else settings.version_installed())


def why_not_vllm(engine: EngineConfig, spec: ModelSpec) -> str:
    """Why `auto` takes our own engine; "" where it takes vLLM."""
    import torch

    if not torch.cuda.is_available():
        return "there is no GPU"
    if idle := next(iter(engine.idle_on_server()), ""):
        return f"{idle} is a setting of it"
    settings = ServerSettings(command="vllm")
    try:
        program = settings.find_program()
        needs_of([spec.adapter] if spec.adapter is not None else [])
    except HarnessError as error:
        return str(error)
    known = architectures_of(program)
    own = [str(each) for each in _architectures(spec)]
    if not own or not set(own) <= known:
        return f"this vLLM has no {', '.join(own) or 'such family'}"
    return ""


def _architectures(spec: ModelSpec) -> list[Any]:
    folder = spec.folder or Path(spec.pretrained)
    with suppress(HarnessError, OSError):
        return list(read_json(folder / "config.json").get("architectures") or [])
    return []


@cache
def architectures_of(program: str) -> frozenset[str]:
    """The architectures that the vLLM of a program has, by its registry's text: to import it takes half a minute."""
    folder = find_package(program, "vllm")
    if folder is None:
        return frozenset()
    with suppress(OSError):
        return frozenset(re.findall(r'^\s+"(\w+)":\s*\(', (folder / _REGISTRY).read_text(encoding="utf-8"), re.M))
    return frozenset()
