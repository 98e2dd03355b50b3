"""Settings of model servers: the command, and how long to wait for an answer."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness.models.spec import ModelSpec
from support.errors import ClusterError, SettingError
from trainers.training.foreign_code import OPTION

_COMMON: Final = "--host {host} --port {port} --served-model-name {name}"
COMMANDS: Final = {
    "vllm": f"vllm serve {{model}} {_COMMON}",
    "sglang": f"python -m sglang.launch_server --model-path {{model}} {_COMMON}",
}
"""By engine; VLLM_BIN names another `vllm`."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a model server is started."""

    command: str = "vllm"
    """vllm, sglang, or a command line with {model} and {port} in it, and {host} and {name} where it takes them."""
    options: tuple[str, ...] = ()
    """Arguments added to the command."""
    patience: float = 1800.0
    """Seconds from a server's start to its first answer; large weights and compiled kernels take long."""
    lease: float = 600.0
    """Seconds after which servers of a pool end when their run was killed."""

    def __post_init__(self) -> None:
        self._template()

    def command_of(self, spec: ModelSpec, *, name: str, adapter: str) -> list[str]:
        """The command that serves a model under `name`, and its adapter, if any, under `adapter`; {host} and {port} are
        not filled in yet. ClusterError."""
        words = fill_places(self._template(), {"{model}": str(spec.folder or spec.pretrained), "{name}": name})
        if spec.adapter is not None:
            if self.command != "vllm":
                hint = f"merge it into its base for {self.command!r}"
                raise ClusterError(f"{spec.name}: an adapter is served by vllm only; {hint}")
            words += ["--enable-lora", "--lora-modules", f"{adapter}={spec.adapter}"]
        if spec.revision is not None and spec.folder is None and self.command in COMMANDS:
            words += ["--revision", spec.revision]
        if spec.remote_code and self.command in COMMANDS:
            words.append(OPTION)  # both engines call it so
        return [*words, *self.options]

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
            words[0] = os.environ.get("VLLM_BIN") or words[0]
        return words


def fill_places(words: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """The words with each place replaced by its value, which itself may contain text such as "{port}"."""
    pattern = "|".join(map(re.escape, places))
    return [re.sub(pattern, lambda found: places[found[0]], word) for word in words]
