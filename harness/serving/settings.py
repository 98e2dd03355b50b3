"""Settings of model servers: the command with all that a model needs of it, and how long to wait for an answer."""

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from harness.models.server_facts import DTYPE, SERVED_BY, VERSION
from harness.models.spec import ModelSpec
from harness.models.stored_dtype import AS_STORED, default_dtype, stored_dtype
from harness.serving.adapters import Adapters
from harness.serving.installed import installed_version
from support.errors import ClusterError, ServerError, SettingError
from support.secrets import redact, remember
from trainers.training.foreign_code import OPTION

_COMMON: Final = "--host {host} --port {port} --served-model-name {name}"
COMMANDS: Final = {
    "vllm": f"vllm serve {{model}} {_COMMON}",
    "sglang": f"python -m sglang.launch_server --model-path {{model}} {_COMMON}",
}
"""By engine."""
PROGRAMS: Final = {"vllm": "VLLM_BIN", "sglang": "SGLANG_PYTHON"}
"""The variable that names each one's program: another `vllm`, and the Python of an environment that has SGLang."""
BESIDE: Final = Path(__file__).resolve().parents[2] / ".venv-vllm" / "bin" / "vllm"
"""Where `make vllm` puts it."""

FLAGS: Final = "server flags"
"""In provenance: the flags of a server that may change answers."""
_OURS: Final = ("host", "port", "model", "model-path", "served-model-name", "revision", "enable-lora", "lora-modules")
"""Flags that the harness sets itself."""
_OF_ENGINE: Final = ("chat-template", "chat-template-content-format", "tokenizer", "skip-tokenizer-init")
"""The same where the server gets whole prompts."""
_SPEED: Final = frozenset(
    """tensor-parallel-size tp tp-size pipeline-parallel-size pp-size data-parallel-size dp-size gpu-memory-utilization
    mem-fraction-static max-num-seqs max-num-batched-tokens max-running-requests swap-space cpu-offload-gb
    download-dir load-format mm-processor-cache-gb mm-processor-cache-type max-loras max-cpu-loras api-server-count
    uvicorn-log-level log-level disable-log-requests disable-log-stats no-enable-log-requests enable-log-requests
    distributed-executor-backend api-key disable-uvicorn-access-log""".split()
)
"""Flags of memory, speed and logs, which the identity of answers leaves out; any other may change answers."""
_SECRET: Final = re.compile(r"key|token|password|secret", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a model server is started."""

    command: str = "vllm"
    """vllm, sglang, or a command line with {model} and {port} in it, and {host} and {name} where it takes them."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """NAME=VALUE: any flag of the server, such as max-model-len=8192; enforce-eager=true is a flag alone."""
    options: tuple[str, ...] = ()
    """Arguments added to the command as they are."""
    patience: float = 1800.0
    """Seconds from a server's start to its first answer; large weights and compiled kernels take long."""
    keep: bool = False
    """Keep the server, and its memory, while training runs; without it, checkpoints are scored after the training."""
    lease: float = 600.0
    """Seconds after which servers of a pool end when their run was killed."""
    rendered: bool = False
    """Whether it gets whole prompts: it computes answers in place of our own engine (see `engine_host`)."""

    def __post_init__(self) -> None:
        self._template()
        option = "--engine-set" if self.rendered else "--serve-set"
        for name, value in self.flags.items():
            if not re.fullmatch(r"-{0,2}[A-Za-z][\w.-]*", name):
                raise SettingError(f"{option} '{name}={value}': {name!r} is no name of a flag")
            if _plain(name) in (*_OURS, *_OF_ENGINE * self.rendered):
                raise SettingError(f"{option} {name}={value}: the harness sets this flag itself")
            if self.command == "sglang" and value.lower() == "false":
                raise SettingError(f"{option} {name}={value}: would not act: SGLang's flags are set or left out")
        remember(*_find_secrets([word for pair in self._pairs() for word in pair], self.options))

    @property
    def engine(self) -> str:
        """The program: vllm, sglang, or the file name of another command."""
        return self.command if self.command in COMMANDS else Path(self._template()[0]).name

    def facts_of(self, spec: ModelSpec) -> dict[str, str]:
        """What decides the answers of a model that is served so, beside its files; for provenance and identity."""
        given = dict(self._pairs())
        found = {SERVED_BY: self.engine, DTYPE: given.get(DTYPE) or self._dtype_of(spec) or ""}
        flags = [f"{name}={value}" for name, value in sorted(given.items()) if name not in {*_SPEED, DTYPE}]
        found[FLAGS] = redact(", ".join([*flags, shlex.join(self.options)] if self.options else flags))
        return {name: value for name, value in found.items() if value}

    def command_of(
        self, spec: ModelSpec, *, name: str, adapter: str | None = None, adapters: Adapters | None = None
    ) -> list[str]:
        """The command that serves a model under `name`, ready for `adapters`, and with the spec's own one under
        `adapter`; {host} and {port} are not filled in yet. ClusterError, ServerError."""
        words = fill_places(self._template(), {"{model}": str(spec.folder or spec.pretrained), "{name}": name})
        adapters = adapters or Adapters()
        if adapters.rank and self.command != "vllm":
            hint = f"merge it into its base for {self.command!r}"
            raise ClusterError(f"{spec.name}: an adapter is served by vllm only; {hint}")
        words += [word for word in adapters.words() if _plain(word) not in dict(self._pairs())]
        if adapter is not None and spec.adapter is not None:
            words += ["--lora-modules", f"{adapter}={spec.adapter}"]
        if spec.revision is not None and spec.folder is None and self.command in COMMANDS:
            words += ["--revision", spec.revision]
        if spec.remote_code and self.command in COMMANDS:
            words.append(OPTION)  # both engines call it so
        if self.command in COMMANDS and DTYPE not in dict(self._pairs()) and (dtype := self._dtype_of(spec)):
            words += ["--dtype", dtype]
        return [*words, *self._flag_words(), *self.options]

    def flag(self, name: str) -> str | None:
        """The value given for a flag, under its plain name."""
        return dict(self._pairs()).get(name)

    def find_program(self) -> str:
        """The path of the program. ServerError where it is not installed."""
        word = self._template()[0]
        if (found := shutil.which(word)) is None:
            hint = f" and name its program by {PROGRAMS[self.command]}" if self.command in PROGRAMS else ""
            missing = f"no `{word}` on the PATH; install it in an environment of its own{hint}"
            raise ServerError(f"--{'engine' if self.rendered else 'serve'} {self.command}: {missing}")
        return found

    def version_installed(self) -> dict[str, str]:
        """The version that a server would have, for what entries record of one; empty where that can't be told."""
        if self.command not in COMMANDS or (program := shutil.which(self._template()[0])) is None:
            return {}
        found = installed_version(program, self.command)
        return {} if found is None else {VERSION: f"{self.command} {found}"}

    def _dtype_of(self, spec: ModelSpec) -> str | None:
        """What the model computes in here, so that the server does; None where that is not known."""
        if self.command not in COMMANDS:
            return None
        found = default_dtype(spec)
        return stored_dtype(spec) if found == AS_STORED else found

    def _pairs(self) -> list[tuple[str, str]]:
        """Flags by their plain names."""
        return [(_plain(name), value) for name, value in self.flags.items()]

    def _flag_words(self) -> Iterator[str]:
        for name, value in self._pairs():
            if value.lower() in ("true", "false"):
                yield f"--{name}" if value.lower() == "true" else f"--no-{name}"
            else:
                yield from (f"--{name}", value)

    def _template(self) -> list[str]:
        text = COMMANDS.get(self.command, self.command)
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise SettingError(f"serve command {self.command!r}: {error}") from None
        if missing := [place for place in ("{model}", "{port}") if not any(place in word for word in words)]:
            known = f"neither {' nor '.join(COMMANDS)}, nor a command line with {missing[0]} in it"
            raise SettingError(f"serve command {self.command!r}: {known}")
        if self.command == "vllm":
            beside = str(BESIDE) if shutil.which(BESIDE) and not shutil.which(words[0]) else words[0]
            words[0] = beside
        if self.command in PROGRAMS:
            words[0] = os.environ.get(PROGRAMS[self.command]) or words[0]
        return words


def fill_places(words: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """The words with each place replaced by its value, which itself may contain text such as "{port}"."""
    pattern = "|".join(map(re.escape, places))
    return [re.sub(pattern, lambda found: places[found[0]], word) for word in words]


def _plain(name: str) -> str:
    """A flag's name as the engines spell it, without its dashes in front."""
    return name.lstrip("-").replace("_", "-")


def _find_secrets(*lists: Iterable[str]) -> Iterator[str]:
    """What follows a word that names a key, in command lines."""
    for words in lists:
        parts = [part for word in words for part in re.split(r"[\s=]+", word)]
        yield from (after for word, after in pairwise(parts) if _SECRET.search(word))
