"""Launches: the processes that were asked for are really there, train as one would, and what becomes of them is
known."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.errors import ClusterError, RunError
from tests.slurm.cluster import soon
from trainers.cluster import launch as launching
from trainers.cluster.launch import (
    CONFIGS,
    Layout,
    Place,
    check_world,
    command_of,
    exit_code,
    job_name,
    launch,
    plan_of,
)
from trainers.cluster.slurm import Resources, resources

SCRIPT = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
TWO = Layout(processes=2, cpu=True)


def options(command: list[str]) -> dict[str, str]:
    return dict(zip(command[2:-1:2], command[3::2], strict=False))


# -- what is run


@pytest.mark.parametrize("mode", ("ddp", "fsdp2"))
def test_a_node_runs_accelerate_with_the_modes_settings(mode: Any) -> None:
    place = Place(rank=1, head="node7", port=12345)
    command = command_of(["harness", "train", "x"], Layout(processes=4, nodes=2, mode=mode), place)
    assert Path(command[0]).name == "accelerate"
    given = options([*command[: command.index("--no_python")], "--no_python"])
    assert given == {
        "--config_file": str(CONFIGS[mode]),
        "--num_processes": "8",
        "--num_machines": "2",
        "--machine_rank": "1",
        "--main_process_ip": "node7",
        "--main_process_port": "12345",
    }
    assert command[command.index("--no_python") + 1 :] == ["harness", "train", "x"]


def test_accelerates_own_way_to_cpus_is_never_taken() -> None:
    assert "--cpu" not in command_of(["x"], TWO)
    assert launching.environment_of(TWO, Path("/n"))["ACCELERATE_USE_CPU"] == "true"
    assert "ACCELERATE_USE_CPU" not in launching.environment_of(Layout(processes=2), Path("/n"))


def test_one_process_needs_no_launcher() -> None:
    assert command_of(["harness", "train", "x"], Layout()) == ["harness", "train", "x"]
    assert Path(command_of(["harness", "train", "x"], Layout(mode="fsdp2"))[0]).name == "accelerate"


@pytest.mark.parametrize(
    ("mode", "kind"), (("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED"))
)
def test_settings_are_what_accelerate_reads(mode: str, kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(CONFIGS[mode]))
    assert found.distributed_type == kind
    assert not found.use_cpu
    part = {"fsdp2": found.fsdp_config.get("fsdp_version"), "zero2": found.deepspeed_config.get("zero_stage")}
    assert part.get(mode, 2) == 2
    if mode == "zero3":
        assert found.deepspeed_config["zero_stage"] == 3
    assert set(yaml.safe_load(CONFIGS[mode].read_text())) <= set(vars(found)) | {"compute_environment"}


@pytest.mark.parametrize(
    ("settings", "said"),
    (
        ({"mode": "fsdp"}, r"mode 'fsdp': unknown \(did you mean 'fsdp2'\?\); known: ddp, fsdp2, zero2, zero3"),
        ({"processes": 0}, "processes 0: must be at least 1"),
        ({"nodes": -1}, "nodes -1"),
        ({"mode": "zero3", "cpu": True}, "needs GPUs .*known for CPUs: ddp"),
    ),
)
def test_a_wrong_layout_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ClusterError, match=said) as error:
        Layout(**settings)
    assert "\n" not in str(error.value)


def test_deepspeed_is_asked_for_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(ClusterError, match="pip install deepspeed"):
        command_of(["x"], Layout(processes=2, mode="zero2"))


def test_several_nodes_are_a_job(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="nodes 2"):
        launch(["x"], tmp_path, Layout(nodes=2))


def test_a_command_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"/nowhere/harness: No such file"):
        launch(["/nowhere/harness"], tmp_path)


def test_the_plan_is_the_script_and_the_command(tmp_path: Path) -> None:
    wanted = resources(["partition=gpu", "time=2:00:00", "cpus=32", "mem=100G"])
    text = plan_of(["harness", "train", "a b"], tmp_path, Layout(processes=8, nodes=2), wanted=wanted, cluster="slurm")
    asked = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    size = {"nodes=2", "gpus-per-node=8", "ntasks-per-node=1", "cpus-per-task=32", "mem=100G"}
    assert size | {"requeue", "open-mode=append", "signal=USR2@90", f"job-name={job_name(tmp_path)}"} <= asked
    run = next(line for line in text.splitlines() if line.startswith("srun"))
    assert "--cpus-per-task=32" in run
    assert "--kill-on-bad-exit=1" in run
    assert "HARNESS_WORLD=16" in text
    assert "'a b'" in text
    assert not list(tmp_path.iterdir())
    here = plan_of(["harness", "train", "x"], tmp_path, TWO)
    assert "SBATCH" not in here
    assert here.count("\n") == 1
    assert "--num_processes 2" in here


def test_gpus_are_as_many_as_processes(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="gpus=3: a node runs 8 processes"):
        plan_of(["x"], tmp_path, Layout(processes=8), wanted=Resources(gpus=3), cluster="slurm")
    assert "--gpus-per-node=8" in plan_of(["x"], tmp_path, Layout(processes=8), cluster="slurm")
    named = plan_of(["x"], tmp_path, Layout(processes=8), wanted=resources(["gres=gpu:a100:8"]), cluster="slurm")
    assert "--gres=gpu:a100:8" in named
    assert "gpus-per-node" not in named
    assert "gpus-per" not in plan_of(["x"], tmp_path, TWO, cluster="slurm")


def test_job_names_tell_folders_apart(tmp_path: Path) -> None:
    one, other = (job_name(tmp_path / part / "run 1") for part in ("a", "b"))
    assert one != other
    assert re.fullmatch(r"run-1-[0-9a-f]{8}", one)
    assert one == job_name(tmp_path / "a" / "run 1")


# -- who is there


def test_a_process_alone_that_was_to_be_one_of_two_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_WORLD", "2")
    monkeypatch.setenv("HARNESS_LAUNCH_NOTES", str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RunError, match="2 processes were asked for, and this is one of 1: nothing was trained"):
        check_world()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert check_world() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rank-1"]


def test_whoever_was_not_launched_is_as_many_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_WORLD", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert check_world() == 3


def test_the_first_that_failed_gives_the_exit_code() -> None:
    report = "Failures:\n[1]:\n  exitcode  : -15 (pid: 7)  (SIGTERM)\n"
    report += "Root Cause (first observed failure):\n[0]:\n  exitcode  : 4 (pid: 8) \n"
    assert exit_code(1, report) == 4
    assert exit_code(1, report.replace(": 4 ", ": -9 ")) == 137
    assert exit_code(2, "no such option") == 2
    assert exit_code(-11, "") == 139


def test_one_process_tells_its_own_exit_code(tmp_path: Path) -> None:
    assert launch([*SCRIPT, "exit", "4", "0"], tmp_path) == 4
    assert launch([*SCRIPT, "exit", "0", "0"], tmp_path) == 0
    attempts = [path for path in (tmp_path / "launch").iterdir() if path.is_dir()]
    assert len(attempts) == 2
    assert all((attempt / "node-0.log").stat().st_size for attempt in attempts)


def test_a_command_that_does_not_check_has_failed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="1 processes were asked for, and 1 of this node's 1 never came to train"):
        launch([*SCRIPT, "forgets"], tmp_path)


def test_two_launches_in_one_folder_are_not_begun(tmp_path: Path) -> None:
    ended: list[int] = []
    command = [*SCRIPT, "count", str(tmp_path), "20", "0.1"]
    first = threading.Thread(target=lambda: ended.append(launch(command, tmp_path)))
    first.start()
    assert soon((tmp_path / "count-0.jsonl").exists)
    with pytest.raises(RunError, match="at work in this folder"):
        launch(command, tmp_path)
    first.join()
    assert ended == [0]
    assert launch([*SCRIPT, "count", str(tmp_path), "21", "0"], tmp_path) == 0


def ended_well(command: list[str], folder: Path) -> bool:
    """False while the folder is another launch's."""
    try:
        return launch(command, folder) == 0
    except RunError:
        return False


LAUNCHER = """
import sys
from pathlib import Path
from trainers.cluster.launch import launch
sys.exit(launch(sys.argv[2:], Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("sent", "code"), ((signal.SIGTERM, 143), (signal.SIGKILL, -9)))
def test_a_launcher_that_is_ended_leaves_no_second_one_beside_its_processes(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    command = [*SCRIPT, "count", str(tmp_path), "25", "0.1"]
    first = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path), *command])
    assert soon((tmp_path / "count-0.jsonl").exists)
    first.send_signal(sent)
    assert first.wait(timeout=30) == code
    if sent is signal.SIGKILL:
        # Its process lives on, and holds the folder.
        with pytest.raises(RunError, match="at work in this folder"):
            launch(command, tmp_path)
    assert soon(lambda: ended_well(command, tmp_path))
    steps = [json.loads(line)["step"] for line in (tmp_path / "count-0.jsonl").read_text().splitlines()]
    assert steps == list(range(25))


# -- several processes that are really several


def test_two_processes_add_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch([*SCRIPT, "sum", str(tmp_path)], tmp_path, TWO) == 0
    assert [(tmp_path / f"sum-{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert capfd.readouterr().out.count("total 3") == 2
    (log,) = (tmp_path / "launch").glob("*/node-0.log")
    assert log.read_text().count("total 3") == 2
    assert "HARNESS_WORLD=2" in log.read_text().splitlines()[0]


def test_processes_meet_where_their_launcher_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was looked for and let go may be another's when it is wanted."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The launcher is a process of its own.
        finds = f"it.get_free_port, it.is_port_in_use = lambda: {taken.getsockname()[1]}, lambda *_: False"
        (tmp_path / "sitecustomize.py").write_text(f"import accelerate.utils.launch as it; {finds}")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
        assert launch([*SCRIPT, "sum", str(tmp_path)], tmp_path, TWO) == 0
    assert [(tmp_path / f"sum-{rank}").read_text() for rank in (0, 1)] == ["3", "3"]


def test_one_of_two_that_fails_ends_both_with_its_exit_code(tmp_path: Path) -> None:
    assert launch([*SCRIPT, "exit", "3", "1"], tmp_path, TWO) == 3


def test_accelerate_that_starts_one_of_two_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `accelerate launch --cpu --num_processes 2` does: a single process, and no word."""

    def silently_one(command: Any, layout: Layout, place: Place | None = None) -> list[str]:
        options = ["--cpu", "--num_processes", "2", "--no_python"]
        return [str(launching.beside_python("accelerate")), "launch", *options, *command]

    monkeypatch.setattr(launching, "command_of", silently_one)
    assert launch([*SCRIPT, "exit", "0", "5"], tmp_path, TWO) != 0
    (log,) = (tmp_path / "launch").glob("*/node-0.log")
    assert "2 processes were asked for, and this is one of 1" in log.read_text()


@pytest.mark.slow
def test_processes_are_told_to_shard_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    told = subprocess.run(command_of(["env"], Layout(mode="fsdp2")), capture_output=True, text=True, check=True).stdout
    given = dict(line.partition("=")[::2] for line in told.splitlines())
    assert (given["ACCELERATE_USE_FSDP"], given["WORLD_SIZE"]) == ("true", "1")
    assert given["ACCELERATE_MIXED_PRECISION"] == "no"
    for name, value in given.items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert type(plugin.cpu_offload).__name__ == "OffloadPolicy"  # none: the one that offloads is CPUOffloadPolicy
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.activation_checkpointing is False
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert plugin.auto_wrap_policy is not None
    assert plugin.transformer_cls_names_to_wrap is None


@pytest.mark.slow
def test_two_machines_of_one_process_each_add_up(tmp_path: Path) -> None:
    layout = Layout(processes=1, nodes=2, cpu=True)
    codes: dict[int, int] = {}

    def node(rank: int) -> None:
        place = Place(rank=rank, head="127.0.0.1", port=24_681)
        codes[rank] = launching._run_node([*SCRIPT, "sum", str(tmp_path)], tmp_path, layout, place, "test")

    nodes = [threading.Thread(target=node, args=(rank,)) for rank in (0, 1)]
    for thread in nodes:
        thread.start()
    for thread in nodes:
        thread.join()
    assert codes == {0: 0, 1: 0}
    assert [(tmp_path / f"sum-{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
