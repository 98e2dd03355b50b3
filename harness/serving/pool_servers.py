"""The pool of models behind servers of their own, each a job of one GPU node, for the length of a run.

    with serve_pool(data.pool, run / "servers", wanted=resources(["partition=gpu"]), tell=print) as served:
        served["llava-1.5-7b@1"].url               # "http://node17:41234/v1"; a ModelSpec for harness.models.load.load

A server picks a free port of its node and writes its address into the folder, which the nodes see too; it counts as up
once it answers. Servers are ended with the run, however that ends: a run that is killed stops renewing its lease, and
they go within `LEASE` seconds. Members of one model share a server.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from harness.models.fetch import fetch
from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec, find
from harness.serving.vllm_server import PATIENCE
from support.errors import ClusterError
from support.files import atomic_write_text
from trainers.cluster.slurm import ENDED, Cluster, Resources, SlurmJob, check_cluster, script, submit
from trainers.config.data import PoolModel

if TYPE_CHECKING:
    pass

LEASE: Final = 600.0
"""Seconds a server outlives a run that doesn't renew its lease."""
COMMANDS: Final = {
    "vllm": "vllm serve {model} --host {host} --port {port} --served-model-name {name}",
    "sglang": "python -m sglang.launch_server --model-path {model} --host {host} --port {port} --served-model-name {name}",
}
"""By engine; VLLM_BIN names another `vllm`."""
_TAIL: Final = 5


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


def servers_of(members: Sequence[PoolModel], *, command: str = "vllm", options: Sequence[str] = ()) -> list[Server]:
    """The servers a pool needs, one a model; members that have a URL need none. ClusterError, UnknownModel.

    `command` is a name of `COMMANDS` or a command line with {model} and {port} in it, and {host} and {name} where it
    takes them.
    """
    words = _template(command)
    names = dict.fromkeys(member.model for member in members if _needs_server(member))
    return [_server(name, words, command, options) for name in names]


def _needs_server(member: PoolModel) -> bool:
    return member.url is None


def _template(command: str) -> list[str]:
    text = COMMANDS.get(command, command)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ClusterError(f"serve command {command!r}: {error}") from None
    if missing := [place for place in ("{model}", "{port}") if not any(place in word for word in words)]:
        raise ClusterError(
            f"serve command {command!r}: neither {' nor '.join(COMMANDS)}, nor a command line with {missing[0]} in it"
        )
    if command == "vllm":
        words[0] = os.environ.get("VLLM_BIN") or words[0]
    return words


def _server(name: str, template: Sequence[str], command: str, options: Sequence[str]) -> Server:
    spec = find(name)
    if spec.backend == "openai":
        raise ClusterError(f"{name}: has no weights to serve; give the URL of its server as `url`")
    if Path(spec.pretrained).is_dir():  # what is on the hub the node fetches
        spec = fetch(spec)
    base = f"{name}-base" if spec.adapter is not None else name
    places = {"{model}": str(spec.folder or spec.pretrained), "{name}": base}
    words = [_filled(word, places) for word in template]
    if spec.adapter is not None:
        if command != "vllm":
            raise ClusterError(f"{name}: an adapter is served by vllm only; merge it into its base for {command!r}")
        words += ["--enable-lora", "--lora-modules", f"{name}={spec.adapter.resolve()}"]
    if spec.revision is not None and spec.folder is None and command in COMMANDS:
        words += ["--revision", spec.revision]
    return Server(spec=replace(spec, name=name), command=(*words, *options))


def _filled(word: str, places: dict[str, str]) -> str:
    # Not one after the other: a value may hold what looks like a place.
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], word)


def plan_of(servers: Sequence[Server], folder: Path, wanted: Resources) -> str:
    """What `serve_pool` would submit: each server's command, and its sbatch script to the letter."""
    parts = [
        f"# {server.spec.name}: {shlex.join(server.command)}\n{script(server.title, folder, wanted)}"
        for server in servers
    ]
    return "\n".join(parts)


@contextlib.contextmanager
def serve_pool(
    members: Sequence[PoolModel],
    folder: Path,
    *,
    wanted: Resources,
    cluster: Cluster = "slurm",
    command: str = "vllm",
    options: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
    patience: float = PATIENCE,
    lease: float = LEASE,
) -> Iterator[dict[str, ModelSpec]]:
    """A server for every model of the pool, up and healthy; member's name -> its model behind that server. ClusterError.

    However long the queue is, it is waited for; `patience` is what a server has from its start to its first answer, in
    seconds. Logs stay in `folder`.
    """
    servers = servers_of(members, command=command, options=options)
    if not servers:
        yield {}
        return
    check_cluster(cluster)
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="run-", dir=folder.absolute()))
    with _ended_by_sigterm(), _renewed(own / "lease", lease / 10), contextlib.ExitStack() as stack:
        jobs: list[tuple[Server, SlurmJob]] = []
        for number, server in enumerate(servers):
            notes = own / f"{number}-{server.title}"
            job = submit(
                server.title,
                keep_server,
                list(server.command),
                notes,
                own / "lease",
                lease,
                cluster == "local",
                folder=own,
                wanted=wanted,
                cluster=cluster,
                first_gpu=number * wanted.gpus,
            )
            stack.callback(job.cancel)
            jobs.append((server, job))
            tell(f"{server.spec.name}: job {job.id}: {shlex.join(server.command)} (log: {notes}.log)")
        specs = _all_up(
            jobs, [own / f"{number}-{server.title}" for number, server in enumerate(servers)], tell, patience
        )
        yield {member.name: specs[member.model] for member in members if _needs_server(member)}


def _all_up(
    jobs: Sequence[tuple[Server, SlurmJob]], notes: Sequence[Path], tell: Callable[[str], None], patience: float
) -> dict[str, ModelSpec]:
    waiting = dict.fromkeys(range(len(jobs)), "")
    running: dict[int, float] = {}
    up: dict[str, ModelSpec] = {}
    while waiting:
        for index, before in list(waiting.items()):
            server, job = jobs[index]
            name, note = server.spec.name, notes[index]
            state = job.state()
            if state == ENDED:
                raise ClusterError(f"{name}: job {job.id} ended before its server answered: {_last_words(note, job)}")
            if state != before:
                tell(f"{name}: job {job.id}: {state}")
                waiting[index] = state
            if state.startswith("RUNNING"):
                running.setdefault(index, time.monotonic())
            url = _address(note)
            if url is not None and _answers(url):
                known = digest_of_model(server.spec) | {"served by": Path(server.command[0]).name}
                up[name] = replace(server.spec, backend="openai", pretrained=name, url=f"{url}/v1", digests=known)
                del waiting[index]
                tell(f"{name}: up at {url}/v1")
            elif index in running and time.monotonic() - running[index] > patience:
                raise ClusterError(
                    f"{name}: job {job.id}: no answer within {patience:g} s of its start: {_last_words(note, job)}"
                )
        if waiting:
            time.sleep(0.5 if jobs[0][1].cluster == "local" else 2.0)
    return up


def _address(note: Path) -> str | None:
    try:
        found = json.loads(Path(f"{note}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return f"http://{found['host']}:{found['port']}"


def _answers(url: str) -> bool:
    # A cluster's web proxy knows no compute nodes.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in ("/health", "/v1/models"):
        try:
            with opener.open(url + path, timeout=5) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
    return False


def _last_words(note: Path, job: SlurmJob) -> str:
    """The end of the server's log, or of the job's where it got no further."""
    for log in (Path(f"{note}.log"), job.log):
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        if lines := [line.strip() for line in text.splitlines() if line.strip()]:
            return f"{' | '.join(lines[-_TAIL:])} (log: {log})"
    return f"it said nothing (log: {job.log})"


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """While servers run, SIGTERM ends this process the orderly way."""

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


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

    Writes `notes`.log (what the server says) and `notes`.json (host and port). SystemExit with the server's code where
    it ends by itself.
    """
    signal.signal(signal.SIGTERM, _leave)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    host, listens = ("127.0.0.1", "127.0.0.1") if local else (socket.gethostname(), "0.0.0.0")
    words = [_filled(word, {"{host}": listens, "{port}": str(port)}) for word in command]
    with Path(f"{notes}.log").open("ab") as log:
        try:
            server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        except OSError as error:
            log.write(f"{host}: {words[0]}: {error.strerror}\n".encode())
            raise SystemExit(127) from None
        try:
            atomic_write_text(Path(f"{notes}.json"), json.dumps({"host": host, "port": port}))
            _while_renewed(server, lease, patience)
        finally:
            _end(server)
        if server.returncode:
            log.write(f"{host}: {words[0]} ended with code {server.returncode}\n".encode())
            raise SystemExit(1)


def _while_renewed(server: "subprocess.Popen[bytes]", lease: Path, patience: float) -> None:
    # By what it says, not by its time: clocks of two machines differ.
    seen, since = "", time.monotonic()
    while server.poll() is None:
        now = lease.read_text(encoding="utf-8") if lease.exists() else seen
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            return
        time.sleep(min(1.0, patience / 10))


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
