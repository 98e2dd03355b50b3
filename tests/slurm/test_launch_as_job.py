"""A launch as a job of a real Slurm: submitted, told to go, queued again, gone on with. `one_node.sh` brings such a
Slurm up."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import slurm_missing, soon
from trainers.cluster.launch import Layout, job_name, plan_of, send
from trainers.cluster.slurm import ENDED, SlurmJob, resources

pytestmark = pytest.mark.slow

SCRIPT = [sys.executable, str(Path(__file__).parents[1] / "trainers" / "two_processes.py")]
TWO = Layout(processes=2, cpu=True)
SMALL = resources(["time=10"])
STEPS = 30


@pytest.fixture(autouse=True)
def cluster() -> None:
    if reason := slurm_missing():
        pytest.skip(f"{reason}; see tests/slurm/one_node.sh")


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[SlurmJob]:
    job = send([*SCRIPT, "count", str(tmp_path), str(STEPS), "0.3"], tmp_path, TWO, wanted=SMALL)
    yield job
    job.cancel()


def counted(folder: Path, rank: int = 0) -> list[dict[str, int]]:
    path = folder / f"count-{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def shown(job: SlurmJob) -> dict[str, str]:
    text = subprocess.run(["scontrol", "show", "job", job.id], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\w+)=(\S*)", text))


def start_again(job: SlurmJob) -> None:
    """Slurm lets a job that was queued again wait for two minutes."""
    assert soon(lambda: shown(job)["JobState"] == "PENDING", within=120)
    subprocess.run(["scontrol", "update", f"JobId={job.id}", "StartTime=now"], check=True)


def went_on(job: SlurmJob, folder: Path) -> None:
    """It ended well, no step was done twice or left out, and both processes were started again."""
    assert soon(lambda: job.state() == ENDED and shown(job)["JobState"] != "COMPLETING", within=120)
    assert (shown(job)["JobState"], shown(job)["ExitCode"]) == ("COMPLETED", "0:0")
    for rank in (0, 1):
        assert [line["step"] for line in counted(folder, rank)] == list(range(STEPS))
        assert {line["restart"] for line in counted(folder, rank)} == {0, 1}
        assert len({line["pid"] for line in counted(folder, rank)}) == 2
    attempts = sorted(path.name for path in (folder / "launch").iterdir() if path.name.startswith("job-"))
    assert attempts == [f"job-{job.id}", f"job-{job.id}-restart-1"]


def test_a_preempted_job_is_gone_on_with(counting: SlurmJob, tmp_path: Path) -> None:
    assert soon(lambda: len(counted(tmp_path, 1)) > 3, within=120)
    subprocess.run(["scontrol", "requeue", counting.id], check=True)
    start_again(counting)
    went_on(counting, tmp_path)


def test_a_job_near_its_time_limit_queues_itself_again(counting: SlurmJob, tmp_path: Path) -> None:
    assert soon(lambda: len(counted(tmp_path, 1)) > 3, within=120)
    subprocess.run(["scancel", "--signal=USR2", counting.id], check=True)  # what Slurm sends 90 seconds before
    start_again(counting)
    went_on(counting, tmp_path)


def test_a_job_that_is_warned_waits_to_be_preempted(counting: SlurmJob, tmp_path: Path) -> None:
    """Where it ended by itself meanwhile, Slurm would take it for failed, and not queue it again."""
    assert soon(lambda: len(counted(tmp_path, 1)) > 3, within=120)
    subprocess.run(["scancel", "--signal=TERM", counting.id], check=True)
    before = -1
    while before != len(counted(tmp_path)):
        before = len(counted(tmp_path))
        time.sleep(2)
    assert before < STEPS
    assert shown(counting)["JobState"] == "RUNNING"
    subprocess.run(["scontrol", "requeue", counting.id], check=True)
    start_again(counting)
    went_on(counting, tmp_path)


def test_a_job_that_is_there_already_is_not_submitted_again(counting: SlurmJob, tmp_path: Path) -> None:
    again = send([*SCRIPT, "count", str(tmp_path), str(STEPS), "0.3"], tmp_path, TWO, wanted=SMALL)
    assert (again.id, again.log) == (counting.id, counting.log)
    listed = subprocess.run(
        ["squeue", "--noheader", "--name", job_name(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert len(listed.splitlines()) == 1


def test_a_job_tells_the_exit_code_of_the_process_that_failed(tmp_path: Path) -> None:
    job = send([*SCRIPT, "exit", "3", "1"], tmp_path, TWO, wanted=SMALL)
    assert soon(lambda: job.state() == ENDED and shown(job)["JobState"] != "COMPLETING", within=120)
    assert (shown(job)["JobState"], shown(job)["ExitCode"]) == ("FAILED", "3:0")


def test_a_job_whose_processes_never_checked_has_failed(tmp_path: Path) -> None:
    job = send([*SCRIPT, "forgets"], tmp_path, TWO, wanted=SMALL)
    assert soon(lambda: job.state() == ENDED and shown(job)["JobState"] != "COMPLETING", within=120)
    assert (shown(job)["JobState"], shown(job)["ExitCode"]) == ("FAILED", "1:0")
    assert "never came to train" in job.log.read_text()


def test_what_was_planned_is_what_is_submitted(counting: SlurmJob, tmp_path: Path) -> None:
    command = [*SCRIPT, "count", str(tmp_path), str(STEPS), "0.3"]
    planned = plan_of(command, tmp_path, TWO, wanted=SMALL, cluster="slurm")
    submitted = counting.handle.paths.submission_file.read_text()
    assert planned.startswith(submitted)
    assert soon(lambda: counted(tmp_path), within=120)
    (log,) = (tmp_path / "launch").glob("job-*/node-0.log")
    said = log.read_text().splitlines()[0]
    assert f"# {said}" in planned.replace("ATTEMPT", log.parent.name)
