"""The pool of models behind servers of their own, each a job of one GPU node, for the length of a run.

    with serve_pool(data.pool, run / "servers", wanted=resources(["partition=gpu"])) as served:
        served["llava-1.5-7b@1"].url               # "http://node17:41234/v1"; a ModelSpec for harness.models.load.load

A server picks a free port of its node and writes its address into the folder, which the nodes see too; it counts as up
once it answers. Servers are ended with the run, however that ends: a run that is killed stops renewing its lease, and
they end within `ServerSettings.lease` seconds. Members of one model share a server.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.models.fetch import fetch
from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec, find
from harness.serving.model_server import is_up
from harness.serving.settings import ServerSettings, fill_places
from support.errors import ClusterError
from support.files import atomic_write_text
from support.processes import ChildProcess, ended_by_sigterm, free_port, last_lines
from trainers.cluster.slurm import ENDED, Cluster, Resources, SlurmJob, check_cluster, script, submit
from trainers.config.data import PoolModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server to start."""

    spec: ModelSpec
    command: tuple[str, ...]
    """With {host} and {port} still open: its node fills them in."""

    @property
    def title(self) -> str:
        """Its name as a file and a job may have it."""
        return "serve-" + re.sub(r"[^A-Za-z0-9.]+", "-", self.spec.name).strip("-.")[:60]


def servers_of(members: Sequence[PoolModel], settings: ServerSettings) -> list[Server]:
    """The servers a pool needs, one a model; members that have a URL need none. ClusterError, UnknownName."""
    names = dict.fromkeys(member.model for member in members if member.url is None)
    return [_server_of(name, settings) for name in names]


def _server_of(name: str, settings: ServerSettings) -> Server:
    spec = find(name)
    if spec.backend == "openai":
        raise ClusterError(f"{name}: has no weights to serve; give the URL of its server as `url`")
    if Path(spec.pretrained).is_dir():  # what is on the hub the node fetches
        spec = fetch(spec)
    if spec.adapter is not None:
        spec = replace(spec, adapter=spec.adapter.resolve())
    base = f"{name}-base" if spec.adapter is not None else name
    command = settings.command_of(spec, name=base, adapter=name)
    return Server(spec=replace(spec, name=name), command=tuple(command))


def plan_of(servers: Sequence[Server], folder: Path, wanted: Resources) -> str:
    """What `serve_pool` would submit: each server's command, and its sbatch script to the letter."""
    return "\n".join(
        f"# {server.spec.name}: {shlex.join(server.command)}\n{script(server.title, folder, wanted)}"
        for server in servers
    )


@dataclass(frozen=True, kw_only=True)
class _Started:
    """A server that was submitted."""

    server: Server
    job: SlurmJob
    notes: Path
    """Without a suffix; `keep_server` adds .log and .json."""

    def url(self) -> str | None:
        """Where it says it is; None before it has started."""
        try:
            found = json.loads(self.notes.with_name(f"{self.notes.name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return f"http://{found['host']}:{found['port']}"

    def last_words(self) -> str:
        """The end of the server's log, or of the job's where it got no further."""
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
) -> Iterator[dict[str, ModelSpec]]:
    """A server for every model of the pool, up and healthy: member's name -> its model behind that server.
    ClusterError.

    However long the queue is, it is waited for. Logs stay in `folder`.
    """
    settings = settings or ServerSettings()
    servers = servers_of(members, settings)
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
            arguments = (list(server.command), notes, lease, settings.lease, cluster == "local")
            first_gpu = number * wanted.gpus
            job = submit(
                server.title, keep_server, *arguments, folder=own, wanted=wanted, cluster=cluster, first_gpu=first_gpu
            )
            stack.callback(job.cancel)
            started.append(_Started(server=server, job=job, notes=notes))
            log.info("%s: job %s: %s (log: %s.log)", server.spec.name, job.id, shlex.join(server.command), notes)
        specs = _wait_for_all(started, settings.patience)
        yield {member.name: specs[member.model] for member in members if member.url is None}


def _wait_for_all(started: Sequence[_Started], patience: float) -> dict[str, ModelSpec]:
    """The models by name, once every server answers; ClusterError if a job ends, or runs `patience` seconds without
    an answer."""
    states = dict.fromkeys((one.server.spec.name for one in started), "")
    running_since: dict[str, float] = {}
    up: dict[str, ModelSpec] = {}
    while True:
        for one in started:
            name, state = one.server.spec.name, ""
            if name in up:
                continue
            state = one.job.state()
            if state == ENDED:
                raise ClusterError(f"{name}: job {one.job.id} ended before its server answered: {one.last_words()}")
            if state != states[name]:
                log.info("%s: job %s: %s", name, one.job.id, state)
                states[name] = state
            if state.startswith("RUNNING"):
                running_since.setdefault(name, time.monotonic())
            url = one.url()
            if url is not None and is_up(url):
                known = digest_of_model(one.server.spec) | {"served by": Path(one.server.command[0]).name}
                up[name] = replace(one.server.spec, backend="openai", pretrained=name, url=f"{url}/v1", digests=known)
                log.info("%s: up at %s/v1", name, url)
            elif time.monotonic() - running_since.get(name, time.monotonic()) > patience:
                raise ClusterError(
                    f"{name}: job {one.job.id}: no answer within {patience:g} s of its start: {one.last_words()}"
                )
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
            # A full disk for a moment is no reason to let go of servers; a lasting one is.
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
    """The job on the node: run the server on a free port, tell where, end it when the lease is no longer renewed.

    Writes `notes`.log (what the server says) and `notes`.json (host and port). SystemExit(1) if the server fails.
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
    # By what it says, not by its time: clocks of two machines differ.
    seen, since = "", time.monotonic()
    while server.exit_code is None:
        now = lease.read_text(encoding="utf-8") if lease.exists() else seen
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            return
        time.sleep(min(1.0, patience / 10))
