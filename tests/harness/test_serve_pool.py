"""Servers of a pool as jobs: local processes, or a real Slurm of one node. The server is a small script, not vLLM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import save_file

from harness.models.spec import find
from harness.serving.pool_servers import plan_of, serve_pool, servers_of
from harness.serving.settings import ServerSettings
from support.errors import ClusterError, InputError, ServerError, SettingError
from tests.slurm.cluster import CLUSTERS, is_running, soon
from trainers.cluster.slurm import Cluster, Resources, resources
from trainers.config.data import PoolModel

SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
folder = os.path.dirname(os.path.abspath(__file__))
open(os.path.join(folder, f"{value('--served-model-name')}.{os.getpid()}.words"), "w").write(json.dumps(words))
print("loading", words[0], flush=True)


class Calls(BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({"data": [{"id": value("--served-model-name")}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


ThreadingHTTPServer((value("--host"), int(value("--port"))), Calls).serve_forever()
"""
NO_GPU = Resources(gpus=0, minutes=5)
NAMES = ("scenes-base", "scenes-base", "scenes-early")
POOL = [PoolModel(model=name, temperature=at) for name, at in zip(NAMES, (1.0, 0.5, 1.0), strict=True)]


@pytest.fixture
def command(tmp_path: Path) -> str:
    """A serve command; what each server was called with lies beside it, under its process id."""
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return f"{sys.executable} {path} {{model}} --host {{host}} --port {{port}} --served-model-name {{name}}"


def pids(folder: Path) -> list[int]:
    return sorted(int(path.suffixes[-2][1:]) for path in folder.glob("*.words"))


@pytest.mark.parametrize("cluster", CLUSTERS, indirect=True)
def test_each_model_is_served_once_until_the_end(
    cluster: Cluster, command: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with serve_pool(
        POOL, tmp_path / "servers", wanted=NO_GPU, cluster=cluster, settings=ServerSettings(command=command)
    ) as served:
        assert set(served) == {"scenes-base@1", "scenes-base@0.5", "scenes-early@1"}
        assert served["scenes-base@1"] == served["scenes-base@0.5"]
        for name, model in (("scenes-base@1", "scenes-base"), ("scenes-early@1", "scenes-early")):
            spec = served[name]
            assert (spec.backend, spec.pretrained) == ("openai", model)
            assert spec.url is not None
            assert urlsplit(spec.url).hostname == ("127.0.0.1" if cluster == "local" else socket.gethostname())
            with urllib.request.urlopen(f"{spec.url}/models", timeout=5) as answer:
                assert json.load(answer)["data"][0]["id"] == model
            # What names its answers in the ledger is the weights, not a port that is another one next time.
            assert len(spec.digests["weights"]) == 16
        running = pids(tmp_path)
        assert len(running) == 2
        assert all(is_running(pid) for pid in running)
    assert soon(lambda: not any(is_running(pid) for pid in running))
    assert "up at http://" in caplog.text
    logs = list((tmp_path / "servers").rglob("*-serve-scenes-*.log"))
    assert len(logs) == 2
    assert all("loading" in log.read_text() for log in logs)


@pytest.mark.parametrize("cluster", CLUSTERS, indirect=True)
def test_a_server_that_dies_early_ends_all_with_its_last_words(cluster: Cluster, command: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sh"
    server = " ".join(command.split()[:2])
    broken.write_text(f'case "$*" in *early*) echo no GPU >&2; exit 3;; esac\nexec {server} "$@"\n')
    asked = f"sh {broken} {{model}} --host {{host}} --port {{port}} --served-model-name {{name}}"
    said = r"scenes-early: job \d+ ended before its server answered: no GPU .*code 3.*\(log: .*log\)"
    with (
        pytest.raises(ClusterError, match=said) as error,
        serve_pool(POOL, tmp_path / "servers", wanted=NO_GPU, cluster=cluster, settings=ServerSettings(command=asked)),
    ):
        pytest.fail("a dead server counts as up")
    assert "\n" not in str(error.value)
    assert soon(lambda: not any(is_running(pid) for pid in pids(tmp_path)))


@pytest.mark.parametrize(
    ("command", "said"),
    (
        ("sh -c 'sleep 60' {model} {port}", "scenes-early: .*no answer within 1 s of its start"),
        ("no-such-engine {model} {port}", "no-such-engine: No such file"),
    ),
)
def test_a_server_that_never_answers_and_a_missing_command_are_errors(command: str, said: str, tmp_path: Path) -> None:
    # A missing command ends its job at once; loaded machines may take longer than a second to notice it.
    settings = ServerSettings(command=command, patience=1 if "sleep" in command else 60)
    with (
        pytest.raises(ClusterError, match=said),
        serve_pool(POOL[2:], tmp_path, wanted=NO_GPU, cluster="local", settings=settings),
    ):
        pytest.fail("the server counts as up")


DRIVER = """
import sys
from pathlib import Path
from harness.serving.pool_servers import serve_pool
from harness.serving.settings import ServerSettings
from trainers.config.data import PoolModel
from trainers.cluster.slurm import Resources

folder, command, cluster = sys.argv[1:]
pool = [PoolModel(model="scenes-early")]
settings = ServerSettings(command=command, lease=2)
with serve_pool(pool, Path(folder), wanted=Resources(gpus=0, minutes=5), cluster=cluster, settings=settings):
    print("up", flush=True)
    while True:
        __import__("time").sleep(1)
"""


@pytest.mark.parametrize("cluster", CLUSTERS, indirect=True)
@pytest.mark.parametrize("sent", (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
def test_servers_end_with_a_run_that_is_stopped_or_killed(
    sent: signal.Signals, cluster: Cluster, command: str, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", DRIVER, str(tmp_path / "servers"), command, cluster]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        (pid,) = pids(tmp_path)
        if sent == signal.SIGKILL:
            time.sleep(3)  # longer than the lease, which is renewed
        assert is_running(pid)
        os.kill(driver.pid, sent)
        driver.wait(timeout=60)
    assert soon(lambda: not is_running(pid))


def test_members_with_a_server_of_their_own_need_none(tmp_path: Path) -> None:
    pool = [PoolModel(model="scenes-base", url="http://127.0.0.1:1/v1")]
    assert servers_of(pool, ServerSettings()) == []
    with serve_pool(pool, tmp_path, wanted=NO_GPU) as served:
        assert served == {}


def test_the_plan_shows_command_and_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BIN", "/opt/vllm/bin/vllm")
    pool = [PoolModel(model="llava-1.5-7b"), PoolModel(model="llava-hf/llava-1.5-13b-hf")]
    text = plan_of(
        servers_of(pool, ServerSettings(options=("--max-model-len", "4096"))), tmp_path, resources(["partition=gpu"])
    )
    first, second = "llava-1.5-7b", "llava-hf/llava-1.5-13b-hf"
    for model, name in (("llava-hf/llava-1.5-7b-hf", first), (second, second)):
        served = f"/opt/vllm/bin/vllm serve {model} --host '{{host}}' --port '{{port}}' --served-model-name {name}"
        assert f"# {name}: {served} --max-model-len 4096" in text
    assert text.count("#SBATCH --partition=gpu") == 2
    assert "job-name=serve-llava-hf-llava-1.5-13b-hf" in text


def test_sglang_is_started_by_its_module() -> None:
    (server,) = servers_of([PoolModel(model="llava-1.5-7b")], ServerSettings(command="sglang"))
    assert server.command[:5] == ("python", "-m", "sglang.launch_server", "--model-path", "llava-hf/llava-1.5-7b-hf")


def test_an_environment_variable_names_the_python_that_has_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_PYTHON", "/opt/sglang/bin/python")
    settings = ServerSettings(command="sglang", flags={"disable-radix-cache": "true", "tp": "2"})
    words = settings.command_of(find("scenes-base"), name="x")
    assert words[:4] == ["/opt/sglang/bin/python", "-m", "sglang.launch_server", "--model-path"]
    assert words[-3:] == ["--disable-radix-cache", "--tp", "2"]
    with pytest.raises(ServerError, match="SGLANG_PYTHON"):
        settings.find_program()
    with pytest.raises(SettingError, match="would not act"):  # it has no --no-disable-radix-cache
        ServerSettings(command="sglang", flags={"disable-radix-cache": "false"})


def test_an_adapter_is_served_under_the_members_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "scenes-base", "r": 20}))
    save_file({"base_model.model.lm_head.lora_A.weight": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    member = PoolModel(model=str(tmp_path))
    (server,) = servers_of([member], ServerSettings())
    assert " ".join(server.command[-6:]) == (
        f"--enable-lora --max-lora-rank=32 --lora-modules {tmp_path}={tmp_path} --dtype float32"
    )
    assert f"{tmp_path}-base" in server.command
    with pytest.raises(ClusterError, match="an adapter is served by vllm only"):
        servers_of([member], ServerSettings(command="sglang"))


@pytest.mark.parametrize(
    ("model", "command", "error", "said"),
    (
        ("gpt-4v", "vllm", ClusterError, "no weights to serve"),
        ("scenes-bse", "vllm", InputError, "did you mean 'scenes-base'"),
        ("scenes-base", "vlm", SettingError, "neither vllm nor sglang"),
        ("scenes-base", "serve {model}", SettingError, "{port}"),
        ("scenes-base", "serve '{model} {port}", SettingError, "No closing quotation"),
    ),
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    model: str, command: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        servers_of([PoolModel(model=model)], ServerSettings(command=command))
