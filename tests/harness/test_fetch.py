"""Weights: where they are taken from, and what is said where they can't be had. The hub is a small local server."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.cli import main as cli
from harness.models.fetch import cached, fetch
from harness.models.provenance import digest_of_model
from harness.models.spec import MODELS, ModelSpec, at, find
from support.errors import InputError, MissingWeights, ModelError
from support.progress import show_on
from trainers.training.foreign_code import digest_of_code


class Hub(ThreadingHTTPServer):
    """The two calls of the Hugging Face hub that a download makes, over files in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Calls)
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.page: bytes | None = None
        """What it answers to all, if it is no hub."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


COMMIT = "a" * 40


class _Calls(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub: Hub = self.server  # type: ignore[assignment]
        parts = self.path.split("?")[0].strip("/").split("/")
        hub.asked.append("/".join(parts))
        if hub.page is not None:
            return self._send(hub.page)
        if parts[:2] == ["api", "models"] and (repo := "/".join(parts[2:4])) in hub.files:
            names = [{"rfilename": name, "size": len(data)} for name, data in hub.files[repo].items()]
            if parts[4:5] == ["tree"]:
                sizes = {name: len(data) for name, data in hub.files[repo].items()}
                listed = [{"type": "file", "path": name, "size": sizes[name], "oid": "b" * 40} for name in sizes]
                return self._send(json.dumps(listed).encode())
            info = {"id": repo, "sha": COMMIT, "siblings": names, "private": False, "tags": []}
            return self._send(json.dumps(info).encode())
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        if parts[2:3] == ["resolve"] and name in hub.files.get(repo, {}):
            return self._send(hub.files[repo][name], {"X-Repo-Commit": COMMIT, "ETag": f'"{hash(name) & 0xFFFF:040x}"'})
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound" if repo not in hub.files else "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        own = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        for key, value in (own | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.constants as constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint=server.url))
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *args, **kwargs: real(*args, endpoint=server.url, cache_dir=str(tmp_path / "hub"), **kwargs),
    )
    yield server
    server.shutdown()


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def bytes_of(path: Path, save: Any) -> bytes:
    save(path)
    return path.read_bytes()


def repository(tmp_path: Path) -> dict[str, bytes]:
    weights = bytes_of(tmp_path / "w.safetensors", lambda path: save_file(tensors(), path))
    beside = {"modeling_evil.py": b"raise SystemExit", "README.md": b"hello"}
    return {"config.json": b"{}", "model.safetensors": weights, **beside}


def test_a_hub_model_is_downloaded_once_without_its_code_and_its_commit_is_its_revision(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "harness")
    hub.files["org/model"] = repository(tmp_path) | {"pytorch_model.bin": b"twice the same"}
    spec = fetch(find("org/model"))
    assert spec.folder is not None
    assert sorted(path.name for path in spec.folder.iterdir()) == ["config.json", "model.safetensors"]
    assert spec.revision == COMMIT
    assert digest_of_model(spec) == {"weights": f"org/model@{COMMIT}"}
    assert caplog.messages == [f"org/model: downloading org/model into {tmp_path}"]
    hub.asked.clear()
    assert fetch(find("org/model")).folder == spec.folder
    assert not any("resolve" in call and call.endswith("safetensors") for call in hub.asked)
    assert len(caplog.messages) == 1


def test_parts_in_sub_folders_are_downloaded_and_other_sub_folders_are_not(hub: Hub, tmp_path: Path) -> None:
    part = {"qformer_tokenizer/tokenizer.json": b"{}", "qformer_tokenizer/vocab.txt": b"a"}
    weights = repository(tmp_path)["model.safetensors"]
    others = {
        "checkpoint-5/tokenizer.json": b"{}",
        "checkpoint-5/model.safetensors": weights,
        "onnx/config.json": b"{}",
    }
    deep = {"a/b/tokenizer.json": b"{}", "qformer_tokenizer/notes.md": b"x"}
    hub.files["org/model"] = repository(tmp_path) | part | others | deep
    folder = fetch(find("org/model")).local_folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", *part}


def test_what_is_in_the_cache_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    hub.files["org/model"] = repository(tmp_path)
    assert not cached(find("org/model"))
    folder = fetch(find("org/model")).folder
    hub.shutdown()
    hub.server_close()
    assert cached(find("org/model"))
    assert fetch(find("org/model")).folder == folder


def test_half_a_download_is_no_model(hub: Hub, tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    part = repository(tmp_path)["model.safetensors"]
    files = {"model.safetensors.index.json": index, "model-1.safetensors": part}
    hub.files["org/model"] = {"config.json": b"{}"} | files
    fetch(find("org/model"))
    assert not cached(find("org/model"))


@pytest.mark.parametrize(
    "page",
    (b"<html>log in</html>", b"", b"[1]", b"null", b"{}", b"[" * 10**5, b"9" * 9999, b"\xff", b'{"id": "org/m"}'),
)
def test_what_is_no_hub_is_told(page: bytes, hub: Hub) -> None:
    hub.page = page
    with pytest.raises(MissingWeights, match=r"and what answers at \S+ is no hub; get it where there is a network"):
        fetch(find("org/tiny"))


def test_what_the_hub_does_not_have_is_said(hub: Hub) -> None:
    with pytest.raises(
        MissingWeights, match=r"org/nothing on the Hugging Face hub is not there; or name a copy by --model"
    ):
        fetch(find("org/nothing"))


def test_an_adapter_on_the_hub_brings_its_base(hub: Hub, tmp_path: Path) -> None:
    hub.files["org/base"] = repository(tmp_path)
    lora = bytes_of(tmp_path / "l.safetensors", lambda path: save_file({"lora": torch.ones(2)}, path))
    hub.files["org/lora"] = {
        "adapter_config.json": json.dumps({"base_model_name_or_path": "org/base"}).encode(),
        "adapter_model.safetensors": lora,
    }
    spec = fetch(find("org/lora"))
    assert (spec.name, spec.pretrained) == ("org/lora", "org/base")
    assert spec.adapter is not None
    assert (spec.adapter / "adapter_model.safetensors").is_file()
    assert spec.folder is not None
    assert (spec.folder / "model.safetensors").is_file()


def test_code_is_downloaded_where_the_user_allows_it(hub: Hub, tmp_path: Path) -> None:
    hub.files["org/model"] = repository(tmp_path) | {"custom_generate/generate.py": b"pass"}
    spec = fetch(find("org/model", remote_code=True))
    assert {path.name for path in spec.local_folder.rglob("*.py")} == {"modeling_evil.py", "generate.py"}
    assert digest_of_model(spec)["code"] == digest_of_code(spec.local_folder)
    lora = {"adapter_config.json": b'{"base_model_name_or_path": "org/model"}', "adapter_model.safetensors": b""}
    hub.files["org/lora"] = lora | {"evil.py": b"raise SystemExit"}
    assert fetch(find("org/lora")).remote_code is False
    assert fetch(find("org/lora", remote_code=True)).remote_code is True


def test_an_adapter_on_the_hub_goes_on_no_adapter_and_on_no_folder_of_this_machine(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    bases = {"org/a": "org/b", "org/b": "org/a", "org/own": "org/own", "org/c": str(tmp_path / "mine")}
    for name, base in bases.items():
        config = json.dumps({"base_model_name_or_path": base}).encode()
        hub.files[name] = {"adapter_config.json": config, "adapter_model.safetensors": b""}
    for name in ("org/a", "org/b", "org/own"):
        with pytest.raises(InputError, match="is an adapter itself"):
            fetch(find(name))
    with pytest.raises(InputError, match="name it by --model-base"):
        fetch(find("org/c"))
    given = fetch(find("org/c", base=str(tmp_path / "mine")))
    assert (given.pretrained, given.name) == (str(tmp_path / "mine"), "org/c")


@pytest.mark.parametrize("shards", (1, 3))
def test_bins_become_safetensors_once(
    shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "harness")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "evil.py").write_text("raise SystemExit")
    state = tensors() | {"c": torch.zeros(1)}
    names = list(state)
    for n in range(shards):
        part = {name: state[name] for name in (names if shards == 1 else names[n : n + 1])}
        name = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{n + 1:05}-of-{shards:05}.bin"
        torch.save(part, folder / name)
    spec = fetch(ModelSpec(name="m", pretrained=str(folder)))
    assert spec.folder is not None
    assert spec.folder != folder
    found = {name: value for path in spec.folder.glob("*.safetensors") for name, value in load_file(path).items()}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)
    if shards > 1:
        index = json.loads((spec.folder / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == state.keys()
    assert not (spec.folder / "evil.py").exists()
    assert fetch(ModelSpec(name="m", pretrained=str(folder))).folder == spec.folder
    assert len(caplog.messages) == 1
    elsewhere = digest_of_model(ModelSpec(name="x", pretrained=str(tmp_path)))
    assert digest_of_model(find(str(folder)))["weights"] != elsewhere["weights"]


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_bin_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save({"a": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: refused, it is no file of tensors only"):
        fetch(ModelSpec(name="m", pretrained=str(folder)))
    assert not (tmp_path / "sprung").exists()
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_silkie_without_weights_or_network_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert cli.run(["eval", "--model", "silkie", "--tasks", "scenes_pope", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for part in ("MMInstruction/Silkie", "19.3 GB", "HF_HOME", "--model-path", "hf download"):
        assert part in line
    assert not (tmp_path / "run").exists()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen-VL-Chat"}))
    with pytest.raises(MissingWeights, match=r"needs Qwen/Qwen-VL-Chat .* name a copy by --model-base FOLDER"):
        fetch(find(str(tmp_path)))


def test_a_model_that_needs_conversion_says_so() -> None:
    with pytest.raises(MissingWeights, match="convert-llava"):
        fetch(MODELS["llava-rlhf-7b"])


def test_a_folder_stands_in_for_the_hub(random_model: Path, tmp_path: Path) -> None:
    spec = at(MODELS["silkie"], random_model)
    assert (spec.name, spec.pretrained, spec.adapter) == ("silkie", str(random_model), None)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen-VL-Chat"}))
    spec = at(MODELS["silkie"], tmp_path)
    assert (spec.name, spec.pretrained, spec.adapter) == ("silkie", "Qwen/Qwen-VL-Chat", tmp_path)
    with pytest.raises(InputError, match="no folder"):
        at(MODELS["silkie"], tmp_path / "nowhere")


def test_a_served_model_needs_no_weights() -> None:
    spec = find("openai:some-model")
    assert (spec.backend, spec.pretrained) == ("openai", "some-model")
    assert fetch(spec) == spec
    assert digest_of_model(replace(spec, url="http://here/v1")) == {"weights": "some-model@http://here/v1"}


def test_a_download_is_shown_in_bytes_and_what_is_cached_is_not(hub: Hub, random_model: Path) -> None:
    hub.files["x/y"] = {path.name: path.read_bytes() for path in random_model.iterdir()}
    told: list[tuple[Any, ...]] = []
    with show_on(lambda *what: told.append(what)):
        fetch(find("x/y"))
    size = sum(map(len, hub.files["x/y"].values()))
    last = [what for what in told if what[0] == "download x/y"][-1]
    assert last == ("download x/y", size, size, "B")
    told.clear()
    with show_on(lambda *what: told.append(what)):
        fetch(find("x/y"))
    assert told == []
