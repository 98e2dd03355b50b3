"""A training command on several GPUs, on several machines, or as a Slurm job that comes back after preemption.

    layout = Layout(processes=8, nodes=2, mode="zero2")
    command = [str(beside_python("harness")), "train", "povid", "--out", "runs/povid"]
    print(plan_of(command, Path("runs/povid"), layout, wanted=resources(["partition=gpu"])))      # to the letter
    launch(command, Path("runs/povid"), Layout(processes=2))                                      # here and now: its exit code
    send(command, Path("runs/povid"), layout, wanted=resources(["partition=gpu"])).id             # as a job

Processes are started by `accelerate launch` from the files in `trainers/launch`. It falls back to a single process
without a word where it finds no reason for several, so every process calls `check_world()` before it trains: it ends
the run where there are not as many processes as were asked for, and leaves a note without which the launch has failed.
The command must be one that finishes what a killed run left in its folder; logs, notes and job files are in the
folder's `launch/`.
"""

import codecs
import contextlib
import fcntl
import getpass
import hashlib
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, Literal
from uuid import uuid4

from support.errors import ClusterError, InputError, RunError, did_you_mean
from support.files import atomic_write_text
from trainers.cluster.slurm import Cluster, Resources, SlurmJob, check_cluster, script, submit

Mode = Literal["ddp", "fsdp2", "zero2", "zero3"]

CONFIGS: Final[Mapping[str, Path]] = {
    name: Path(__file__).parent / "accelerate_configs" / f"{name}.yaml" for name in ("ddp", "fsdp2", "zero2", "zero3")
}
"""Mode -> accelerate's settings for it."""

WORLD, NOTES = "HARNESS_WORLD", "HARNESS_LAUNCH_NOTES"
"""Variables by which a process knows what was asked for, and where it says that it is there."""

GRACE: Final = 600.0
"""Seconds a job that was told to end waits to be ended: until then a preempted one is queued again, and one that ends
by itself is not."""

_STOPPING: Final = 40.0  # seconds; torchrun gives its processes 30
_TAIL: Final = 20_000  # characters
_SETTLING: Final = 60  # seconds


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many processes, where, and what each of them holds."""

    processes: int = 1
    """On each node: one a GPU."""
    nodes: int = 1
    mode: Mode = "ddp"
    """ddp: the whole model each; zero2: gradients and optimizer state are cut; fsdp2, zero3: weights, too."""
    cpu: bool = False
    """Without GPUs."""

    def __post_init__(self) -> None:
        if self.mode not in CONFIGS:
            raise ClusterError(f"mode {self.mode!r}: unknown{did_you_mean(self.mode, CONFIGS)}")
        for name in ("processes", "nodes"):
            if getattr(self, name) < 1:
                raise ClusterError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.cpu and self.mode != "ddp":
            raise ClusterError(
                f"mode {self.mode!r}: needs GPUs (accelerate runs it as ddp on CPUs); known for CPUs: ddp"
            )

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.processes * self.nodes


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node among those of a job."""

    rank: int = 0
    head: str = "127.0.0.1"
    """The first node's name."""
    port: int = 0
    """Of the first node; 0: any that is free, where there is one node only."""


def beside_python(name: str) -> Path:
    """A program of this Python's own environment. ClusterError where it isn't there."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise ClusterError(f"no {name!r} beside {sys.executable}: install it into this environment")
    return path


def command_of(command: Sequence[str], layout: Layout, place: Place | None = None) -> list[str]:
    """What a node runs. ClusterError where the mode's library is missing."""
    if layout.mode.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise ClusterError(f"mode {layout.mode!r}: needs DeepSpeed: pip install deepspeed")
    if layout.world == 1 and layout.mode == "ddp":
        return list(command)
    place = place or Place()
    settings = {
        "config_file": CONFIGS[layout.mode],
        "num_processes": layout.world,
        "num_machines": layout.nodes,
        "machine_rank": place.rank,
        "main_process_ip": place.head,
        "main_process_port": place.port,
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [str(beside_python("accelerate")), "launch", *options, "--no_python", *command]


def environment_of(layout: Layout, notes: Path) -> dict[str, str]:
    """Variables a node's command has beside those of the shell."""
    # accelerate's own option for CPUs starts a single process.
    cpu = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if layout.cpu else {}
    # torchrun's: the processes meet at a port that it holds. accelerate looks for a free one and lets it go: another
    # may have it then.
    meeting = {"PET_STANDALONE": "1"} if layout.nodes == 1 and layout.processes > 1 else {}
    return {WORLD: str(layout.world), NOTES: str(notes), **meeting, **cpu}


# -- in the processes
# --------------------------------------------------------------------------------------------------------------------


def check_world() -> int:
    """Called by each process before it trains: how many there are. RunError where the launcher asked for another
    number."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        size, rank = dist.get_world_size(), dist.get_rank()
    asked = os.environ.get(WORLD)
    if asked is None:
        return size
    if size != int(asked):
        raise RunError(f"{asked} processes were asked for, and this is one of {size}: nothing was trained")
    atomic_write_text(Path(os.environ[NOTES]) / f"rank-{rank}", f"{os.getpid()}\n")
    return size


# -- here and now
# ------------------------------------------------------------------------------------------------------------------------


def launch(command: Sequence[str], folder: Path, layout: Layout | None = None) -> int:
    """Run the command as `layout` wants it, on this machine, and wait: the exit code of the process that failed first,
    else 0.

    What it prints is printed, and kept in a log of `folder`/launch. ClusterError; RunError where a launch is at work
    in the folder, or processes did not come.
    """
    layout = layout or Layout()
    if layout.nodes > 1:
        raise ClusterError(f"nodes {layout.nodes}: several nodes are a job of a cluster: --slurm")
    before = signal.signal(signal.SIGTERM, _leave) if threading.current_thread() is threading.main_thread() else None
    try:
        return _run_node(
            command, folder, layout, Place(), attempt=f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:6]}"
        )
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _run_node(command: Sequence[str], folder: Path, layout: Layout, place: Place, attempt: str) -> int:
    notes = folder.absolute() / "launch" / attempt
    whole = command_of(command, layout, place)
    with _sole(folder, place) as lock, _log(notes, place) as log:
        environment = environment_of(layout, notes)
        log.write(f"{_assigned(environment)} {shlex.join(whole)}\n".encode())
        log.flush()
        code, tail = _watched(whole, os.environ | environment, log, lock)
    if code:
        return exit_code(code, tail)
    mine = range(place.rank * layout.processes, (place.rank + 1) * layout.processes)
    if absent := [rank for rank in mine if not (notes / f"rank-{rank}").exists()]:
        raise RunError(
            f"{layout.world} processes were asked for, and {len(absent)} of this node's {len(mine)} never came to train "
            f"(log: {notes / f'node-{place.rank}.log'})"
        )
    return 0


def exit_code(code: int, said: str) -> int:
    """The exit code of the process that failed first, from torchrun's own and its report of failures, which ends with
    that one."""
    reported = re.findall(r"^\s*exitcode\s*:\s*(-?\d+)", said, re.MULTILINE)
    own = int(reported[-1]) if reported else code
    return own if own > 0 else 128 - own if own < 0 else 1


@contextlib.contextmanager
def _sole(folder: Path, place: Place) -> Iterator[int | None]:
    """A lock that the started processes hold too: they may outlive a launcher that was killed."""
    if place.rank:
        yield None
        return
    (folder / "launch").mkdir(parents=True, exist_ok=True)
    with (folder / "launch" / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: processes of a launch are at work in this folder") from None
        yield file.fileno()


@contextlib.contextmanager
def _log(notes: Path, place: Place) -> Iterator[IO[bytes]]:
    notes.mkdir(parents=True, exist_ok=True)
    with (notes / f"node-{place.rank}.log").open("ab") as log:
        yield log


def _assigned(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())


def _watched(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes], lock: int | None
) -> tuple[int, str]:
    """Run it, printing what it prints and logging it: return code, and the end of what it said."""
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if lock is None else (lock,),
            # Slurm sends it to all processes of a job, but it is for the launcher, which queues the job again.
            preexec_fn=_deaf,
        )
    except OSError as error:
        raise ClusterError(f"{command[0]}: {error.strerror}") from None
    tail = bytearray()
    guard = threading.Lock()

    def pump(source: IO[bytes], shown: Any) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for piece in iter(lambda: os.read(source.fileno(), 65536), b""):
            with guard:
                log.write(piece)
                log.flush()
                tail.extend(piece)
                del tail[:-_TAIL]
            with contextlib.suppress(OSError, ValueError):  # a terminal that is gone ends no training
                shown.write(decoder.decode(piece))
                shown.flush()

    pumps = [
        threading.Thread(target=pump, args=pair, daemon=True)
        for pair in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
    ]
    for thread in pumps:
        thread.start()
    try:
        child.wait()
    finally:
        _end(child)
        for thread in pumps:
            thread.join(timeout=5)
    with guard:
        return child.returncode, tail.decode(errors="replace")


def _deaf() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(timeout=_STOPPING)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


# -- as a job
# ----------------------------------------------------------------------------------------------------------------------------


def send(
    command: Sequence[str], folder: Path, layout: Layout, *, wanted: Resources | None = None, cluster: Cluster = "slurm"
) -> SlurmJob:
    """Submit the command as a job, which is queued again when it is preempted or reaches its time limit. ClusterError,
    SlurmError.

    Where a job of this folder waits or runs already, that is the one. `cluster="local"` runs it in the background of
    this machine.
    """
    check_cluster(cluster)
    wanted = _wanted(layout, wanted)
    command_of(command, layout)  # what is missing is said now, not hours later on a node
    name, jobs = job_name(folder), folder.absolute() / "launch" / "jobs"
    if cluster == "slurm":
        if (queued := _queued(name, jobs)) is not None:
            return queued
    elif layout.nodes > 1:
        raise ClusterError(f"nodes {layout.nodes}: this machine is one")
    return submit(
        name,
        NodeJob(command=tuple(command), folder=folder.absolute(), layout=layout),
        folder=jobs,
        wanted=wanted,
        cluster=cluster,
    )


def job_name(folder: Path) -> str:
    """A folder's jobs in the queue: the folder's name, and what tells it from others of that name."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", folder.absolute().name).strip("-.")[:40]
    return f"{readable}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"


def _queued(name: str, jobs: Path) -> SlurmJob | None:
    # Asked of the queue, not read from a file: who was killed between submitting and writing has a job nonetheless.
    command = ["squeue", "--noheader", "--format", "%i %T", "--name", name, "--user", getpass.getuser()]
    id = ""
    for _ in range(_SETTLING):
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if asked.returncode:
            raise RunError(
                f"{name}: the queue can't be asked whether the job is there already: {' '.join(asked.stderr.split())[:200]}"
            )
        if not asked.stdout.strip():
            return None
        id, state = asked.stdout.split()[:2]
        if state != "COMPLETING":
            break
        time.sleep(1)  # it is over, or about to be queued again
    return SlurmJob(name=name, id=id, log=jobs / f"{id}_0_log.out", cluster="slurm", handle=None)


def _wanted(layout: Layout, wanted: Resources | None) -> Resources:
    given = wanted or Resources()
    if given.gres is None and not layout.cpu and given.gpus not in (1, layout.processes):
        raise ClusterError(
            f"--slurm gpus={given.gpus}: a node runs {layout.processes} processes, one a GPU; leave it out"
        )
    return replace(given, gpus=0 if layout.cpu else layout.processes, nodes=layout.nodes, restart=True)


@dataclass(frozen=True, kw_only=True)
class NodeJob:
    """What a job does on each of its nodes."""

    command: tuple[str, ...]
    folder: Path
    layout: Layout

    def __call__(self) -> None:
        """Run this node's processes. SystemExit with the code of the one that failed."""
        told: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        try:
            code = _run_node(self.command, self.folder, self.layout, *_here(self.layout))
        except (RunError, InputError) as error:
            print(f"harness: {error}", file=sys.stderr)
            code = 2 if isinstance(error, InputError) else 1
        if code and told:
            # Slurm warned all processes: it preempts or cancels the job, and knows which.
            time.sleep(GRACE)
        signal.signal(signal.SIGTERM, before)
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What the job does once it is queued again: the same, from where the folder stands."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _here(layout: Layout) -> tuple[Place, str]:
    """This node, and this start of the job."""
    import submitit

    job = submitit.JobEnvironment()
    attempt = f"job-{job.job_id}" + (
        f"-restart-{count}" if (count := os.environ.get("SLURM_RESTART_COUNT", "0")) != "0" else ""
    )
    if layout.nodes == 1:
        return Place(), attempt
    if job.num_nodes != layout.nodes:
        raise RunError(f"{layout.nodes} nodes were asked for, and the job has {job.num_nodes}")
    # Below the ports that systems give out by themselves; the same on all nodes, another for another job.
    return Place(rank=job.global_rank, head=job.hostnames[0], port=10_000 + int(job.raw_job_id) % 20_000), attempt


def plan_of(
    command: Sequence[str],
    folder: Path,
    layout: Layout,
    *,
    wanted: Resources | None = None,
    cluster: Cluster | None = None,
) -> str:
    """What would be run, to the letter: the command of a node, after the script given to sbatch where it is a job of
    Slurm."""
    notes = folder.absolute() / "launch" / "ATTEMPT"
    place = Place() if layout.nodes == 1 else Place(head="FIRST_NODE", port=10_000)
    node = f"{_assigned(environment_of(layout, notes))} {shlex.join(command_of(command, layout, place))}\n"
    if cluster != "slurm":
        return node
    other = "" if layout.nodes == 1 else "# Others: --machine_rank 1, 2, ...; the port depends on the job.\n"
    return f"{script(job_name(folder), folder.absolute() / 'launch' / 'jobs', _wanted(layout, wanted))}\n# On a node:\n# {node}{other}"
