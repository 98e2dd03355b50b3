"""Jobs: what is asked of a cluster, and jobs that really run, as processes here or on a real Slurm of one node."""

import time
from pathlib import Path

import pytest

from support.errors import ClusterError
from tests.slurm.cluster import CLUSTERS, soon
from trainers.cluster.launch import Layout, send
from trainers.cluster.slurm import ENDED, Cluster, Resources, SlurmJob, minutes, resources, script, submit

SMALL = Resources(gpus=0, minutes=5)


def ended(job: SlurmJob) -> bool:
    return soon(lambda: job.state() == ENDED)


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        *(("90", 90), ("90:00", 90), ("90:01", 91), ("8:00:00", 480), ("8:30:59", 511)),
        *(("2-0", 2880), ("2-12", 3600), ("1-12:30", 2190), ("1-12:30:01", 2191)),
    ),
)
def test_times_are_read_as_slurm_writes_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ("", "0", "8h", "-1", "1:2:3:4", "1-", "1.5", "١٢"))
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="time"):
        minutes(text)


def test_options_become_what_a_job_asks_for() -> None:
    options = ["partition=gpu", "--account=vlm", "time=12:00:00", "gpus=2", "cpus=16", "mem=64G"]
    setup = ("module load cuda", "export A=b")
    assert resources([*options, *(f"setup={line}" for line in setup)]) == Resources(
        partition="gpu", account="vlm", minutes=720, gpus=2, cpus=16, mem="64G", setup=setup
    )


@pytest.mark.parametrize(
    ("option", "said"),
    (
        ("partion=gpu", r"did you mean 'partition'"),
        ("partition", "partition=VALUE"),
        ("partition=", "partition=VALUE"),
        ("account=x\nrm -rf /", "in one line"),
        ("gpus=many", "a number"),
        ("time=soon", "MINUTES"),
    ),
)
def test_a_wrong_option_is_one_line(option: str, said: str) -> None:
    with pytest.raises(ClusterError, match=said) as error:
        resources([option])
    assert "\n" not in str(error.value)


def test_the_script_asks_for_what_was_wanted(tmp_path: Path) -> None:
    given = ["partition=gpu", "account=a b", "time=12:00:00", "cpus=8", "mem=64G", "reservation=mine"]
    lines = script("serve-x", tmp_path, resources([*given, "setup=module load cuda"])).splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    plain = {"partition=gpu", "account='a b'", "time=720", "mem=64G", "reservation=mine", "nodes=1"}
    assert plain | {"cpus-per-task=8", "gpus-per-node=1", "job-name=serve-x"} <= asked
    (run,) = (index for index, line in enumerate(lines) if "submitit.core._submit" in line)
    assert lines.index("module load cuda") < run


def test_a_named_kind_of_gpu_replaces_the_number(tmp_path: Path) -> None:
    text = script("x", tmp_path, resources(["gres=gpu:a100:1"]))
    assert "--gres=gpu:a100:1" in text
    assert "gpus-per-node" not in text


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no 'sbatch' on the PATH"):
        submit("x", print, folder=tmp_path, wanted=SMALL)
    with pytest.raises(ClusterError, match="no 'sbatch' on the PATH"):
        send(["x"], tmp_path, Layout(cpu=True))


@pytest.mark.parametrize("cluster", CLUSTERS, indirect=True)
def test_a_job_runs_and_is_over(cluster: Cluster, tmp_path: Path) -> None:
    job = submit("touch", Path.touch, tmp_path / "was here", folder=tmp_path / "jobs", wanted=SMALL, cluster=cluster)
    assert ended(job)
    assert (tmp_path / "was here").exists()
    assert "completed" in job.log.read_text()


@pytest.mark.parametrize("cluster", CLUSTERS, indirect=True)
def test_a_cancelled_job_ends(cluster: Cluster, tmp_path: Path) -> None:
    job = submit("sleep", time.sleep, 600, folder=tmp_path, wanted=SMALL, cluster=cluster)
    assert soon(lambda: job.state() == "RUNNING")
    job.cancel()
    assert ended(job)
    job.cancel()  # once more does no harm


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ("slurm",), indirect=True)
def test_the_planned_script_is_the_submitted_one(cluster: Cluster, tmp_path: Path) -> None:
    wanted = resources(["gpus=0", "time=5", "cpus=1", "mem=100M", "setup=export A=b"])
    job = submit("plan", Path.touch, tmp_path / "x", folder=tmp_path, wanted=wanted, cluster=cluster)
    assert job.handle.paths.submission_file.read_text() == script("plan", tmp_path, wanted)
    assert ended(job)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ("slurm",), indirect=True)
def test_a_job_the_cluster_refuses_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"takes no job: .*partition") as error:
        submit("x", print, folder=tmp_path, wanted=Resources(partition="nowhere", gpus=0), cluster=cluster)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ("slurm",), indirect=True)
def test_a_job_that_waits_says_why(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [
        submit("x", time.sleep, 60, folder=tmp_path, wanted=resources(["gpus=0", "time=5", "cpus=2"]), cluster=cluster)
        for _ in range(2)
    ]
    try:
        assert soon(lambda: any(job.state().startswith("PENDING (") for job in jobs))
    finally:
        for job in jobs:
            job.cancel()
