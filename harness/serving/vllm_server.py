"""A model served by vLLM for the length of a run: `vllm serve` from its own environment, asked over HTTP.

    with served(fetch(find("qwen2.5-vl-7b")), tell=print) as spec:      # spec.backend == "openai"
        evaluate(spec, ...)

vLLM pins other versions than ours, so it is never imported: the command is `vllm` on the PATH, or the one VLLM_BIN
names.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec
from support.errors import ModelError

PATIENCE = 1800.0
"""Seconds until a server must answer: large weights are read, kernels are compiled."""


@contextmanager
def served(
    spec: ModelSpec,
    *,
    options: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
    patience: float = PATIENCE,
) -> Iterator[ModelSpec]:
    """`spec` behind a server of its own, which is stopped at the end. ModelError where there is no vLLM, or it doesn't
    come up."""
    command = os.environ.get("VLLM_BIN") or shutil.which("vllm")
    if command is None:
        raise ModelError(
            "--serve vllm: no `vllm` on the PATH; install it in an environment of its own and name its command by VLLM_BIN"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [command, "serve", str(spec.folder or spec.pretrained), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--served-model-name", spec.name, *options]
    if spec.adapter is not None:
        words += ["--enable-lora", "--lora-modules", f"{spec.name}-adapter={spec.adapter}"]
    log = tempfile.NamedTemporaryFile("w+b", prefix="vllm-", suffix=".log", delete=False)  # noqa: SIM115  # outlives this block
    tell(f"starting {' '.join(words)} (log: {log.name})")
    server = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", Path(log.name), patience)
        asked = f"{spec.name}-adapter" if spec.adapter is not None else spec.name
        known = digest_of_model(spec) | {"served by": "vllm"}
        yield replace(spec, backend="openai", pretrained=asked, url=f"http://127.0.0.1:{port}/v1", digests=known)
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path, patience: float) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if server.poll() is not None:
            raise ModelError(f"vllm ended with code {server.returncode}: {_last_line(log)} (log: {log})")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise ModelError(f"vllm didn't answer within {patience:g} s (log: {log})")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
