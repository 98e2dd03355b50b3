"""Serves each model of a pool in a job of its own on a GPU node, during a run.

    with serve_pool(data.pool, run / "servers", wanted=resources(["partition=gpu"])) as served:
        served["llava-1.5-7b@1"].url               # "http://node17:41234/v1"; a ModelSpec for harness.models.load.load

A server uses a free port of its node and writes its address into the folder, which must be shared with the nodes.
Servers end with the run; when the run was killed, its lease is no longer renewed, and they end within
`ServerSettings.lease` seconds. Members of one model share a server.
"""

import contextlib
import json
import logging
import re
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.models.fetch import fetch
from harness.models.spec import ModelSpec, find
from harness.models.vision_names import with_full_names
from harness.serving.adapters import needs_of
from harness.serving.model_server import is_up, known_of
from harness.serving.settings import COMMANDS, ServerSettings, fill_places
from support.errors import ClusterError
from support.files import atomic_write_text
from support.parsing import parse_object
from support.processes import ChildProcess, ended_by_sigterm, free_port, last_lines
from trainers.cluster.slurm import ENDED, Cluster, Resources, SlurmJob, check_cluster, script, submit
from trainers.config.data import PoolModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server to start."""

    spec: ModelSpec
    command: tuple[str, ...]
    """{host} and {port} are filled in on the node."""
    known: Mapping[str, str]
    """What tells it from other models, also behind other servers."""

    @property
    def title(self) -> str:
        """A name for files and jobs."""
        return "serve-" + re.sub(r"[^A-Za-z0-9.]+", "-", self.spec.name).strip("-.")[:60]


def servers_of(
    members: Sequence[PoolModel], settings: ServerSettings, *, remote_code: bool = False, copies: Path | None = None
) -> list[Server]:
    """The servers of a pool, one for each model; members with a URL need none. `remote_code`: code of a checkpoint may
    run. `copies`: the folder for those of checkpoints whose names the servers don't read. ClusterError, UnknownName."""
    names = dict.fromkeys(member.model for member in members if member.url is None)
    return [_make_server(find(name, remote_code=remote_code), name, settings, copies) for name in names]


def _make_server(spec: ModelSpec, name: str, settings: ServerSettings, copies: Path | None) -> Server:
    if spec.backend == "openai":
        raise ClusterError(f"{name}: has no weights to serve; give the URL of its server as `url`")
    if Path(spec.pretrained).is_dir():  # a hub model is fetched on the node
        spec = fetch(spec)
    if spec.adapter is not None:
        spec = replace(spec, adapter=spec.adapter.resolve())
    base = f"{name}-base" if spec.adapter is not None else name
    needs = needs_of([spec.adapter] if spec.adapter is not None else [])
    shown = spec
    if copies is not None and settings.command in COMMANDS and spec.folder is not None:
        own = None if spec.adapter is None else with_full_names(spec.adapter, copies, base=spec.folder)
        shown = replace(spec, folder=with_full_names(spec.folder, copies).resolve(), adapter=own)
    command = settings.command_of(shown, name=base, adapter=name, adapters=needs)
    return Server(spec=replace(spec, name=name), command=tuple(command), known=known_of(spec, settings))


def plan_of(servers: Sequence[Server], folder: Path, wanted: Resources) -> str:
    """The commands and sbatch scripts that `serve_pool` would submit."""
    return "\n".join(
        f"# {server.spec.name}: {shlex.join(server.command)}\n{script(server.title, folder, wanted)}"
        for server in servers
    )


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A submitted server."""

    server: Server
    job: SlurmJob
    notes: Path
    """Path without suffix of the .log and .json files of `keep_server`."""

    def url(self) -> str | None:
        """Its address; None before it has started."""
        try:
            found = parse_object(self.notes.with_name(f"{self.notes.name}.json").read_text(encoding="utf-8"))
            return f"http://{found['host']}:{found['port']}"
        except (FileNotFoundError, ValueError, KeyError):  # not there yet, or in part
            return None

    def last_output(self) -> str:
        """The end of the server's log, or else of the job's."""
        for path in (self.notes.with_name(f"{self.notes.name}.log"), self.job.log):
            if lines := last_lines(path):
                return f"{lines} (log: {path})"
        return f"it printed nothing (log: {self.job.log})"


@contextlib.contextmanager
def serve_pool(
    members: Sequence[PoolModel],
    folder: Path,
    *,
    wanted: Resources,
    cluster: Cluster = "slurm",
    settings: ServerSettings | None = None,
    remote_code: bool = False,
) -> Iterator[dict[str, ModelSpec]]:
    """Member's name -> its model behind a server that answers. ClusterError.

    Waits for the queue without limit. Logs stay in `folder`.
    """
    settings = settings or ServerSettings()
    servers = servers_of(members, settings, remote_code=remote_code, copies=folder.absolute() / "weights")
    if not servers:
        yield {}
        return
    check_cluster(cluster)
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="run-", dir=folder.absolute()))
    lease = own / "lease"
    with ended_by_sigterm(), _renewed(lease, settings.lease / 10), contextlib.ExitStack() as stack:
        started = []
        for number, server in enumerate(servers):
            notes = own / f"{number}-{server.title}"
            arguments = (server.title, keep_server, list(server.command), notes, lease, settings.lease)
            where: dict[str, Any] = {"folder": own, "cluster": cluster, "first_gpu": number * wanted.gpus}
            job = submit(*arguments, cluster == "local", wanted=wanted, **where)
            stack.callback(job.cancel)
            started.append(_Started(server=server, job=job, notes=notes))
            log.info("%s: job %s: %s (log: %s.log)", server.spec.name, job.id, shlex.join(server.command), notes)
        specs = _wait_for_all(started, settings.patience)
        yield {member.name: specs[member.model] for member in members if member.url is None}


def _wait_for_all(started: Sequence[_Started], patience: float) -> dict[str, ModelSpec]:
    """The models by name, once every server answers; ClusterError if a job ends, or does not answer within `patience`
    seconds of its start."""
    states = dict.fromkeys((one.server.spec.name for one in started), "")
    running_since: dict[str, float] = {}
    up: dict[str, ModelSpec] = {}
    while True:
        for one in started:
            name = one.server.spec.name
            if name in up:
                continue
            state = one.job.state()
            if state == ENDED:
                raise ClusterError(f"{name}: job {one.job.id} ended before its server answered: {one.last_output()}")
            if state != states[name]:
                log.info("%s: job %s: %s", name, one.job.id, state)
                states[name] = state
            if state.startswith("RUNNING"):
                running_since.setdefault(name, time.monotonic())
            url = one.url()
            if url is not None and is_up(url):
                reached: dict[str, Any] = {"pretrained": name, "url": f"{url}/v1", "digests": one.server.known}
                up[name] = replace(one.server.spec, backend="openai", **reached)
                log.info("%s: up at %s/v1", name, url)
            elif time.monotonic() - running_since.get(name, time.monotonic()) > patience:
                late = f"no answer within {patience:g} s of its start"
                raise ClusterError(f"{name}: job {one.job.id}: {late}: {one.last_output()}")
        if len(up) == len(started):
            return up
        time.sleep(0.5 if started[0].job.cluster == "local" else 2.0)


@contextlib.contextmanager
def _renewed(lease: Path, every: float) -> Iterator[None]:
    """A file that changes as long as this process lives."""
    over = threading.Event()

    def renew() -> None:
        count = 0
        while not over.wait(every):
            count += 1
            # A full disk for a moment must not end servers.
            with contextlib.suppress(OSError):
                atomic_write_text(lease, str(count))

    atomic_write_text(lease, "0")
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def keep_server(command: Sequence[str], notes: Path, lease: Path, patience: float, local: bool) -> None:
    """The job on the node: run the server on a free port, until the lease is no longer renewed.

    Writes `notes`.log (output of the server) and `notes`.json (host and port). SystemExit(1) if the server fails.
    """
    output, port = Path(f"{notes}.log"), free_port()
    host, listens = ("127.0.0.1", "127.0.0.1") if local else (socket.gethostname(), "0.0.0.0")
    words = fill_places(command, {"{host}": listens, "{port}": str(port)})
    with ended_by_sigterm():
        try:
            server = ChildProcess(words, output, grace=20)
        except OSError as error:
            _append(output, f"{host}: {words[0]}: {error.strerror}")
            raise SystemExit(127) from None
        with server:
            atomic_write_text(Path(f"{notes}.json"), json.dumps({"host": host, "port": port}))
            _wait_while_renewed(server, lease, patience)
    if server.exit_code:
        _append(output, f"{host}: {words[0]} ended with code {server.exit_code}")
        raise SystemExit(1)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _wait_while_renewed(server: ChildProcess, lease: Path, patience: float) -> None:
    """Return once the server ends, or the lease's content has not changed for `patience` seconds."""
    # By its content, not its mtime: clocks of two machines differ.
    seen, since = "", time.monotonic()
    while server.exit_code is None:
        now = lease.read_text(encoding="utf-8") if lease.exists() else seen
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            return
        time.sleep(min(1.0, patience / 10))
