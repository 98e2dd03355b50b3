"""Jobs on a Slurm cluster, through submitit: requested, submitted, watched, cancelled.

    wanted = resources(["partition=gpu", "time=12:00:00", "gres=gpu:a100:1"])
    job = submit("llava-1.5-7b", keep_server, command, folder=run / "servers", wanted=wanted)
    job.state()                                     # "PENDING", "RUNNING", ..., ENDED
    job.cancel()

`cluster="local"` runs the same jobs as processes of this machine. Nodes must see the folder too. The state comes from
squeue, as sacct needs an accounting database.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from support.errors import ClusterError, did_you_mean, one_line

Cluster = Literal["slurm", "local"]

ENDED: Final = "ENDED"
UNKNOWN: Final = "UNKNOWN"
"""The controller didn't answer."""

RESTARTS: Final = 1000
"""How often a job is requeued at its time limit; a week of training in four-hour jobs needs 42."""

_OVER: Final = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "DEADLINE"),
    *("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"),
)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of a job, as sbatch's options of the same names."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    gres: str | None = None
    """Such as "gpu:a100:1", in place of `gpus`."""
    gpus: int = 1
    cpus: int | None = None
    mem: str | None = None
    """With its unit, "64G"."""
    minutes: int = 24 * 60
    setup: tuple[str, ...] = field(default=())
    """Shell lines before the job's command, such as "module load cuda"."""
    nodes: int = 1
    """Each runs the work once."""
    restart: bool = False
    """Requeued after preemption, a node's failure and, if the work can continue, at its time limit."""

    def parameters(self) -> dict[str, Any]:
        """Parameters of submitit's Slurm executor."""
        found: dict[str, Any] = {"time": self.minutes, "nodes": self.nodes, "stderr_to_stdout": True}
        # Only steps of srun get signals before preemption and run on other nodes, but they get one CPU by default.
        found["use_srun"] = self.restart or self.nodes > 1
        if found["use_srun"]:
            cpus = [f"--cpus-per-task={self.cpus}"] if self.cpus else []
            found |= {"ntasks_per_node": 1, "srun_args": ["--kill-on-bad-exit=1", *cpus]}
        found |= {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        if self.gpus and self.gres is None:
            found["gpus_per_node"] = self.gpus
        if self.cpus:
            found["cpus_per_task"] = self.cpus
        # submitit's own `mem` is a number, and it has no reservation.
        more: dict[str, Any] = {name: value for name in ("mem", "reservation") if (value := getattr(self, name))}
        if more := more | ({"requeue": True} if self.restart else {}):
            found["additional_parameters"] = more
        if self.setup:
            found["setup"] = list(self.setup)
        return found


_PLAIN: Final = ("partition", "account", "qos", "constraint", "nodelist", "exclude", "gres")
"""Options that submitit passes on as they are."""
KNOWN: Final = (*_PLAIN[:-1], "reservation", "gres", "gpus", "cpus", "mem", "time", "setup")


def resources(options: Sequence[str]) -> Resources:
    """Resources from "name=value" options with names of `KNOWN`; "setup" may be repeated. ClusterError."""
    found: dict[str, Any] = {}
    setup: list[str] = []
    for option in options:
        name, equals, value = option.partition("=")
        name = name.strip().removeprefix("--")
        if name not in KNOWN:
            raise ClusterError(f"--slurm {option!r}: no option {name!r}{did_you_mean(name, KNOWN)}")
        # A line break would end sbatch's comment and begin a shell command.
        if not equals or not value.strip() or any(ord(character) < 32 for character in value):
            raise ClusterError(f"--slurm {option!r}: give it as {name}=VALUE, in one line")
        if name == "setup":
            setup.append(value)
        elif name == "time":
            found["minutes"] = minutes(value)
        elif name in ("gpus", "cpus"):
            if not value.isascii() or not value.isdigit():
                raise ClusterError(f"--slurm {option!r}: {name} is a number")
            found[name] = int(value)
        else:
            found[name] = value
    return Resources(**found, setup=tuple(setup))


_TIME: Final = re.compile(r"(?:(?P<days>\d+)-(?P<of_day>\d+(?::\d+){0,2})|(?P<rest>\d+(?::\d+){0,2}))", re.ASCII)


def minutes(text: str) -> int:
    """Minutes of a time as Slurm writes it ("90", "90:00", "8:00:00", "2-12", "2-12:30"), rounded up. ClusterError."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ClusterError(f"time {text!r}: write it as Slurm does: MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    if match["days"] is not None:
        hours, mins, seconds = [*map(int, match["of_day"].split(":")), 0, 0][:3]
        hours += 24 * int(match["days"])
    else:
        parts = [int(part) for part in match["rest"].split(":")]
        # One or two parts begin with minutes, three with hours.
        hours, mins, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    whole = hours * 60 + mins + (seconds + 59) // 60
    if not whole:
        raise ClusterError(f"time {text!r}: no time at all")
    return whole


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """One submitted job."""

    name: str
    id: str
    log: Path
    """Its output."""
    cluster: Cluster
    handle: Any = field(repr=False)
    """submitit's own job."""

    def state(self) -> str:
        """squeue's state and reason ("PENDING (Resources)"); ENDED once it is over, UNKNOWN without an answer."""
        if self.cluster == "local":
            return ENDED if self.handle.done() else "RUNNING"
        try:
            asked = run_squeue("%T|%r", "--jobs", self.id)
        except subprocess.TimeoutExpired:
            return UNKNOWN
        if asked.returncode:
            return ENDED if "Invalid job id" in asked.stderr else UNKNOWN
        state, _, reason = asked.stdout.strip().partition("|")
        if not state or state in _OVER:
            return ENDED
        return f"{state} ({reason})" if reason not in ("", "None") else state

    def cancel(self) -> None:
        """End it; nothing happens if it is over."""
        if self.cluster == "local":
            self.handle.cancel(check=False)
            return

        subprocess.run(["scancel", self.id], capture_output=True, timeout=60, check=False)


def run_squeue(columns: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Columns of jobs in the queue; TimeoutExpired after a minute."""
    command = ["squeue", "--noheader", "--format", columns, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def check_cluster(cluster: Cluster) -> None:
    """ClusterError if this machine has no Slurm."""
    for name in ("sbatch", "squeue", "scancel", "srun"):
        if cluster == "slurm" and shutil.which(name) is None:
            raise ClusterError(f"--slurm: no {name!r} on the PATH; run this on a node that submits jobs")


def submit(
    name: str,
    work: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    wanted: Resources,
    cluster: Cluster = "slurm",
    first_gpu: int = 0,
) -> SlurmJob:
    """Run `work(*arguments)`, importable on the node, as a job; `first_gpu`: for local jobs. ClusterError."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    check_cluster(cluster)
    folder.mkdir(parents=True, exist_ok=True)
    if cluster == "local":
        executor = submitit.LocalExecutor(folder=folder)
        gpus = list(range(first_gpu, first_gpu + wanted.gpus))
        here = {"timeout_min": wanted.minutes, "gpus_per_node": wanted.gpus, "visible_gpus": gpus}
        executor.update_parameters(**here, stderr_to_stdout=True, setup=list(wanted.setup))
    else:
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=RESTARTS)
        executor.update_parameters(job_name=name, **wanted.parameters())
    try:
        handle = executor.submit(work, *arguments)
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
        raise ClusterError(f"{name}: the cluster takes no job: {_find_sbatch_error(error)}") from None
    return SlurmJob(name=name, id=str(handle.job_id), log=Path(handle.paths.stdout), cluster=cluster, handle=handle)


def script(name: str, folder: Path, wanted: Resources) -> str:
    """The exact script for sbatch of a job of this name; needs no Slurm."""
    # submitit's public functions write it only where there is Slurm.
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder.absolute()))}"
    return str(_make_sbatch_string(command=command, folder=folder.absolute(), job_name=name, **wanted.parameters()))


def _find_sbatch_error(error: Exception) -> str:
    """sbatch's message within submitit's long one."""
    said = re.findall(r"sbatch: error: (.*)", str(error))
    return "; ".join(said) if said else one_line(error)[:300]
