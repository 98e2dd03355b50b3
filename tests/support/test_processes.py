"""Ranks read in one place, and child processes that end with their block."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.errors import ServerError
from support.processes import (
    ChildProcess,
    as_single_process,
    device_of,
    end_of,
    ended_by_sigterm,
    is_launched,
    is_main_process,
    last_lines,
    rank,
    world_size,
)
from support.secrets import remember
from tests.slurm.cluster import is_running, soon

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "HARNESS_WORLD")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_is_the_first_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (rank(), world_size(), is_main_process(), is_launched(), device_of("cuda")) == (0, 1, True, False, "cuda")
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert (rank(), world_size(), is_main_process(), is_launched()) == (3, 4, False, True)
    assert (device_of("cuda"), device_of("cpu")) == ("cuda:1", "cpu")
    with as_single_process():
        assert (rank(), world_size(), is_launched()) == (0, 1, False)
    assert (rank(), world_size()) == (3, 4)


FAMILY = """
import signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(60)
"""


def pids_of(child: ChildProcess) -> list[int]:
    assert soon(lambda: bool(end_of(child.log).strip()))
    return [child._child.pid, int(end_of(child.log))]


def test_the_whole_group_ends_with_the_block(tmp_path: Path) -> None:
    with ChildProcess([sys.executable, "-c", FAMILY], tmp_path / "log") as child:
        pids = pids_of(child)
        assert all(map(is_running, pids))
    assert soon(lambda: not any(map(is_running, pids)))
    assert child.exit_code == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with ChildProcess([sys.executable, "-c", program], tmp_path / "log", grace=0.3) as child:
        assert soon(lambda: "up" in end_of(child.log))
    assert child.exit_code == -signal.SIGKILL


PARENT = """
import sys, time
from pathlib import Path
from support.processes import ChildProcess, ended_by_sigterm
with ended_by_sigterm(), ChildProcess(["sleep", "60"], Path(sys.argv[1])) as child:
    print(child._child.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("sent", "code"), ((signal.SIGTERM, 143), (signal.SIGKILL, -9)))
def test_a_child_does_not_outlive_a_parent_that_is_ended(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    words = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(sent)
        assert parent.wait(timeout=30) == code
    assert soon(lambda: not is_running(pid))


def test_a_process_can_end_with_the_one_that_started_it() -> None:
    steps = "import time; from support.processes import end_with_parent; end_with_parent(0.05)"
    process = f"{steps}; print('up', flush=True); time.sleep(600)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {process!r}], start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        started.kill()
        assert started.stdout.read() == ""  # no process has the pipe any more


def test_a_child_that_ends_before_it_is_ready_is_said_with_its_last_lines(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"sh ended with code 3: loading \| no GPU \(log: .*log\)") as error,
        ChildProcess(["sh", "-c", "echo loading; echo; echo no GPU >&2; exit 3"], tmp_path / "log") as child,
    ):
        child.wait_until(lambda: False, seconds=20)
    assert "\n" not in str(error.value)


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"sleep didn't answer within 0\.2 s"),
        ChildProcess(["sleep", "60"], tmp_path / "log") as child,
    ):
        child.wait_until(lambda: False, seconds=0.2, every=0.05)


def test_output_may_be_printed_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["sh", "-c", "echo to stdout; echo to stderr >&2"]
    with ChildProcess(words, tmp_path / "log", printed=True, own_group=False) as child:
        assert child.wait() == 0
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("to stdout\n", "to stderr\n")
    assert sorted(end_of(tmp_path / "log").split("\n")) == ["", "to stderr", "to stdout"]


def test_a_program_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ChildProcess(["/nowhere/program"], tmp_path / "log")


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none") == ""
    (tmp_path / "log").write_text("x" * 30_000 + "\n\n a \n\nb\n\n")
    assert last_lines(tmp_path / "log", 2) == "a | b"
    assert len(end_of(tmp_path / "log", 10)) == 10


def test_sigterm_leaves_blocks_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_by_sigterm(), pytest.raises(SystemExit) as error:
        os.kill(os.getpid(), signal.SIGTERM)
    assert error.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_log_of_a_program_has_no_secrets_whatever_pieces_they_come_in(tmp_path: Path) -> None:
    remember("PLANTED-0123456789")
    script = "printf 'key PLANTED-01'; sleep 0.2; printf '23456789 taken\\n\\377 no UTF-8\\rlast PLANTED-0123456789'"
    with ChildProcess(["sh", "-c", script], tmp_path / "log") as child:
        assert child.wait() == 0
    assert (tmp_path / "log").read_bytes() == b"key [secret] taken\n\xff no UTF-8\rlast [secret]"
