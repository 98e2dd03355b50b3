"""Runs a training command on several GPUs, on several machines, or as a Slurm job that is requeued after preemption.

    layout = Layout(processes=8, nodes=2, mode="zero2")
    command = [str(beside_python("harness")), "train", "povid", "--out", "runs/povid"]
    print(plan_of(command, Path("runs/povid"), layout, wanted=resources(["partition=gpu"])))
    launch(command, Path("runs/povid"), Layout(processes=2))      # here and now: its exit code
    send(command, Path("runs/povid"), layout, wanted=resources(["partition=gpu"])).id     # as a job

`accelerate launch` starts the processes, with the files in `accelerate_configs`. It may silently start a single one, so
every process calls `check_world()` before it trains: this fails unless the number of processes is right, and writes a
note without which the launch has failed. The command must continue what a killed run left in its folder; logs, notes
and job files are in the folder's `launch/`.
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
"""Environment variable: the folder in which each process writes its note."""

GRACE: Final = 600.0
"""Seconds that a job waits after SIGTERM: Slurm requeues preempted jobs only if they don't end by themselves."""

_STOPPING: Final = 40.0  # seconds; torchrun gives its processes 30
_SETTLING: Final = 60  # seconds


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Number of processes and nodes, and what each process holds."""

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
    """A node of a job."""

    rank: int = 0
    head: str = "127.0.0.1"
    """The first node's name."""
    port: int = 0
    """Of the first node; 0: any free port, for jobs of one node."""


def beside_python(name: str) -> Path:
    """A program of this Python's environment; ClusterError if there is none."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise ClusterError(f"no {name!r} beside {sys.executable}: install it into this environment")
    return path


def command_of(command: Sequence[str], layout: Layout, place: Place | None = None) -> list[str]:
    """The command of a node; ClusterError if the mode's library is missing."""
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
    """Environment variables of a node's command besides those of the shell."""
    # accelerate's own option for CPUs starts a single process.
    cpu = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if layout.cpu else {}
    # torchrun keeps the port open that the processes meet at; one that accelerate finds may be taken meanwhile.
    meeting = {"PET_STANDALONE": "1"} if layout.nodes == 1 and layout.processes > 1 else {}
    return {WORLD: str(layout.world), NOTES: str(notes), **meeting, **cpu}


def check_world() -> int:
    """The number of processes; each calls this before training. RunError if the launcher asked for another number."""
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


def launch(command: Sequence[str], folder: Path, layout: Layout | None = None) -> int:
    """Run the command on this machine to its end; returns the exit code of the process that failed first, else 0.

    Its output is printed, and logged in `folder`/launch. ClusterError; RunError if another launch is running in the
    folder, or some processes did not call `check_world`.
    """
    layout = layout or Layout()
    if layout.nodes > 1:
        raise ClusterError(f"nodes {layout.nodes}: several nodes are a job of a cluster: --slurm")
    with ended_by_sigterm():
        attempt = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:6]}"
        return _run_node(command, folder, layout, Place(), attempt)


def _run_node(command: Sequence[str], folder: Path, layout: Layout, place: Place, attempt: str) -> int:
    """Run this node's processes, printing and logging their output; the exit code."""
    notes = folder.absolute() / "launch" / attempt
    log = notes / f"node-{place.rank}.log"
    words, environment = command_of(command, layout, place), environment_of(layout, notes)
    with _sole_launch(folder, place) as lock:
        notes.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{_assignments(environment)} {shlex.join(words)}\n")
        try:
            # Not a group of their own: Ctrl-C and a closed terminal reach the processes, and torchrun ends its own.
            groups: dict[str, Any] = {"own_group": False, "keep_open": () if lock is None else (lock,)}
            child = ChildProcess(
                words, log, environment=os.environ | environment, printed=True, grace=_STOPPING, **groups
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
    """The exit code of the process that failed first, which torchrun's report names last; else `code`, the launcher's.

    128 + the signal for a process that a signal ended.
    """
    reported = re.findall(r"^\s*exitcode\s*:\s*(-?\d+)", output, re.MULTILINE)
    first = int(reported[-1]) if reported else code
    return first if first > 0 else 128 - first if first < 0 else 1


@contextlib.contextmanager
def _sole_launch(folder: Path, place: Place) -> Iterator[int | None]:
    """The first node's lock on the folder; its processes hold it too, as they may outlive a killed launcher."""
    if place.rank:
        yield None
        return
    with file_lock(folder / "launch" / "processes", wait=False) as lock:
        if lock is None:
            raise RunError(f"{folder}: processes of a launch are at work in this folder")
        yield lock


def _assignments(environment: Mapping[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())


def send(
    command: Sequence[str], folder: Path, layout: Layout, *, wanted: Resources | None = None, cluster: Cluster = "slurm"
) -> SlurmJob:
    """Submit the command as a job, which is requeued after preemption and at its time limit. ClusterError.

    Returns a waiting or running job of this folder if there is one. `cluster="local"`: in this machine's background.
    """
    check_cluster(cluster)
    wanted = _resources_for(layout, wanted)
    command_of(command, layout)  # a missing library is an error now, not hours later on a node
    name, jobs = job_name(folder), folder.absolute() / "launch" / "jobs"
    if cluster == "slurm":
        if (queued := _find_queued_job(name, jobs)) is not None:
            return queued
    elif layout.nodes > 1:
        raise ClusterError(f"nodes {layout.nodes}: this machine is one")
    work = NodeJob(command=tuple(command), folder=folder.absolute(), layout=layout)
    return submit(name, work, folder=jobs, wanted=wanted, cluster=cluster)


def job_name(folder: Path) -> str:
    """The name of a folder's jobs: the folder's name and a hash of its path."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", folder.absolute().name).strip("-.")[:40]
    return f"{readable}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"


def _find_queued_job(name: str, jobs: Path) -> SlurmJob | None:
    # Asked of the queue, not read from a file: a launcher may have been killed between submitting and writing.
    id = ""
    for _ in range(_SETTLING):
        asked = run_squeue("%i %T", "--name", name, "--user", getpass.getuser())
        if asked.returncode:
            problem = one_line(asked.stderr)[:200]
            raise RunError(f"{name}: the queue can't be asked whether the job is there already: {problem}")
        if not asked.stdout.strip():
            return None
        id, state = asked.stdout.split()[:2]
        if state != "COMPLETING":
            break
        time.sleep(1)  # it is ending, or about to be requeued
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
    """The work of a job on each of its nodes."""

    command: tuple[str, ...]
    folder: Path
    layout: Layout

    def __call__(self) -> None:
        """Run this node's processes; SystemExit with the code of the one that failed first."""
        signals: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
        try:
            code = _run_node(self.command, self.folder, self.layout, *_find_place(self.layout))
        except HarnessError as error:
            print(f"harness: {error}", file=sys.stderr)
            code = error.exit_code
        if code and signals:
            # Slurm preempts or cancels the job: all processes have got SIGTERM, and will be killed.
            time.sleep(GRACE)
        signal.signal(signal.SIGTERM, before)
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """The work of the requeued job: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _find_place(layout: Layout) -> tuple[Place, str]:
    """This node, and a name of this start of the job."""
    import submitit

    job = submitit.JobEnvironment()
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    attempt = f"job-{job.job_id}" if restarts == "0" else f"job-{job.job_id}-restart-{restarts}"
    if layout.nodes == 1:
        return Place(), attempt
    if job.num_nodes != layout.nodes:
        raise RunError(f"{layout.nodes} nodes were asked for, and the job has {job.num_nodes}")
    # Below the range of ephemeral ports; the same on all nodes of a job, different for other jobs.
    return Place(rank=job.global_rank, head=job.hostnames[0], port=10_000 + int(job.raw_job_id) % 20_000), attempt


def plan_of(
    command: Sequence[str],
    folder: Path,
    layout: Layout,
    *,
    wanted: Resources | None = None,
    cluster: Cluster | None = None,
) -> str:
    """The exact command of a node, after the script for sbatch if it is a job of Slurm."""
    notes = folder.absolute() / "launch" / "ATTEMPT"
    place = Place() if layout.nodes == 1 else Place(head="FIRST_NODE", port=10_000)
    node = f"{_assignments(environment_of(layout, notes))} {shlex.join(command_of(command, layout, place))}\n"
    if cluster != "slurm":
        return node
    other = "" if layout.nodes == 1 else "# Others: --machine_rank 1, 2, ...; the port depends on the job.\n"
    sbatch = script(job_name(folder), folder.absolute() / "launch" / "jobs", _resources_for(layout, wanted))
    return f"{sbatch}\n# On a node:\n# {node}{other}"
