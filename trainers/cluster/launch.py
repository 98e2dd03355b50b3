"""A training command on several GPUs, on several machines, or as a Slurm job that comes back after preemption.

    layout = Layout(processes=8, nodes=2, mode="zero2")
    command = [str(beside_python("harness")), "train", "povid", "--out", "runs/povid"]
    print(plan_of(command, Path("runs/povid"), layout, wanted=resources(["partition=gpu"])))
    launch(command, Path("runs/povid"), Layout(processes=2))      # here and now: its exit code
    send(command, Path("runs/povid"), layout, wanted=resources(["partition=gpu"])).id     # as a job

Processes are started by `accelerate launch` from the files in `accelerate_configs`. It falls back to a single process
without a word where it finds no reason for several, so every process calls `check_world()` before it trains: it ends
the run where there are not as many processes as were asked for, and leaves a note without which the launch has failed.
The command must be one that finishes what a killed run left in its folder; logs, notes and job files are in the
folder's `launch/`.
"""

import contextlib
import getpass
import hashlib
import importlib.util
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from support.errors import ClusterError, HarnessError, RunError, did_you_mean, one_line
from support.files import atomic_write_text, file_lock
from support.processes import WORLD, ChildProcess, end_of, ended_by_sigterm, rank, world_size
from trainers.cluster.slurm import Cluster, Resources, SlurmJob, check_cluster, run_squeue, script, submit

Mode = Literal["ddp", "fsdp2", "zero2", "zero3"]

CONFIGS: Final[Mapping[str, Path]] = {
    name: Path(__file__).parent / "accelerate_configs" / f"{name}.yaml" for name in ("ddp", "fsdp2", "zero2", "zero3")
}
"""Mode -> accelerate's settings for it."""

NOTES: Final = "HARNESS_LAUNCH_NOTES"
"""The variable by which a process knows in which folder to say that it is there."""

GRACE: Final = 600.0
"""Seconds a job that was told to end waits to be ended: until then a preempted one is queued again, and one that ends
by itself is not."""

_STOPPING: Final = 40.0  # seconds; torchrun gives its processes 30
_SETTLING: Final = 60  # seconds


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many processes, where, and what each of them holds."""

    processes: int = 1
    """On each node: one a GPU."""
    nodes: int = 1
    mode: Mode = "ddp"
    """ddp: every process holds the model; zero2 shards gradients and optimizer state, fsdp2 and zero3 weights too."""
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

    @property
    def needs_launch(self) -> bool:
        """True if a launcher has to start the processes."""
        return self.world > 1 or self.mode != "ddp"


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


def check_world() -> int:
    """How many processes train: each calls this first. RunError where the launcher asked for another number."""
    count, own = world_size(), rank()
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        count, own = dist.get_world_size(), dist.get_rank()
    asked = os.environ.get(WORLD)
    if asked is None:
        return count
    if count != int(asked):
        raise RunError(f"{asked} processes were asked for, and this is one of {count}: nothing was trained")
    atomic_write_text(Path(os.environ[NOTES]) / f"rank-{own}", f"{os.getpid()}\n")
    return count


# -- on this machine


def launch(command: Sequence[str], folder: Path, layout: Layout | None = None) -> int:
    """Run the command as `layout` wants it, on this machine, and wait: the exit code of the process that failed first,
    else 0.

    What it prints is printed, and kept in a log of `folder`/launch. ClusterError; RunError where a launch is at work
    in the folder, or processes did not come.
    """
    layout = layout or Layout()
    if layout.nodes > 1:
        raise ClusterError(f"nodes {layout.nodes}: several nodes are a job of a cluster: --slurm")
    with ended_by_sigterm():
        attempt = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:6]}"
        return _run_node(command, folder, layout, Place(), attempt)


def _run_node(command: Sequence[str], folder: Path, layout: Layout, place: Place, attempt: str) -> int:
    """Run this node's processes, printing and logging what they print; the exit code."""
    notes = folder.absolute() / "launch" / attempt
    log = notes / f"node-{place.rank}.log"
    words, environment = command_of(command, layout, place), environment_of(layout, notes)
    with _sole_launch(folder, place) as lock:
        notes.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{_assignments(environment)} {shlex.join(words)}\n")
        try:
            child = ChildProcess(
                words,
                log,
                environment=os.environ | environment,
                printed=True,
                own_group=False,  # Ctrl-C and a closed terminal reach the processes, and torchrun ends its own
                grace=_STOPPING,
                keep_open=() if lock is None else (lock,),
            )
        except OSError as error:
            raise ClusterError(f"{words[0]}: {error.strerror}") from None
        with child:
            code = child.wait()
    if code:
        return exit_code(code, end_of(log))
    mine = range(place.rank * layout.processes, (place.rank + 1) * layout.processes)
    if absent := [number for number in mine if not (notes / f"rank-{number}").exists()]:
        raise RunError(
            f"{layout.world} processes were asked for, and {len(absent)} of this node's {len(mine)} never came to"
            f" train (log: {log})"
        )
    return 0


def exit_code(code: int, output: str) -> int:
    """The exit code of the process that failed first, which torchrun's report of failures names last; else `code`,
    the launcher's. 128 and the signal where one ended it."""
    reported = re.findall(r"^\s*exitcode\s*:\s*(-?\d+)", output, re.MULTILINE)
    first = int(reported[-1]) if reported else code
    return first if first > 0 else 128 - first if first < 0 else 1


@contextlib.contextmanager
def _sole_launch(folder: Path, place: Place) -> Iterator[int | None]:
    """The first node's lock on the folder. The started processes hold it too: they may outlive a launcher that was
    killed."""
    if place.rank:
        yield None
        return
    with file_lock(folder / "launch" / "processes", wait=False) as lock:
        if lock is None:
            raise RunError(f"{folder}: processes of a launch are at work in this folder")
        yield lock


def _assignments(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())


# -- as a job of a cluster


def send(
    command: Sequence[str], folder: Path, layout: Layout, *, wanted: Resources | None = None, cluster: Cluster = "slurm"
) -> SlurmJob:
    """Submit the command as a job, which is queued again when it is preempted or reaches its time limit. ClusterError.

    Where a job of this folder waits or runs already, that is the one. `cluster="local"` runs it in the background of
    this machine.
    """
    check_cluster(cluster)
    wanted = _resources_for(layout, wanted)
    command_of(command, layout)  # what is missing is said now, not hours later on a node
    name, jobs = job_name(folder), folder.absolute() / "launch" / "jobs"
    if cluster == "slurm":
        if (queued := _find_queued_job(name, jobs)) is not None:
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


def _find_queued_job(name: str, jobs: Path) -> SlurmJob | None:
    # Asked of the queue, not read from a file: who was killed between submitting and writing has a job nonetheless.
    id = ""
    for _ in range(_SETTLING):
        asked = run_squeue("%i %T", "--name", name, "--user", getpass.getuser())
        if asked.returncode:
            raise RunError(
                f"{name}: the queue can't be asked whether the job is there already: {one_line(asked.stderr)[:200]}"
            )
        if not asked.stdout.strip():
            return None
        id, state = asked.stdout.split()[:2]
        if state != "COMPLETING":
            break
        time.sleep(1)  # it is over, or about to be queued again
    return SlurmJob(name=name, id=id, log=jobs / f"{id}_0_log.out", cluster="slurm", handle=None)


def _resources_for(layout: Layout, wanted: Resources | None) -> Resources:
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
        signals: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
        try:
            code = _run_node(self.command, self.folder, self.layout, *_find_place(self.layout))
        except HarnessError as error:
            print(f"harness: {error}", file=sys.stderr)
            code = error.exit_code
        if code and signals:
            # Slurm preempts or cancels the job: it has warned all processes, and ends them soon.
            time.sleep(GRACE)
        signal.signal(signal.SIGTERM, before)
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What the job does once it is queued again: the same, from where the folder stands."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _find_place(layout: Layout) -> tuple[Place, str]:
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
    node = f"{_assignments(environment_of(layout, notes))} {shlex.join(command_of(command, layout, place))}\n"
    if cluster != "slurm":
        return node
    other = "" if layout.nodes == 1 else "# Others: --machine_rank 1, 2, ...; the port depends on the job.\n"
    sbatch = script(job_name(folder), folder.absolute() / "launch" / "jobs", _resources_for(layout, wanted))
    return f"{sbatch}\n# On a node:\n# {node}{other}"
