"""A server started for a run. The server is a small script that speaks vLLM's protocol; tests/vllm has the real one."""

import json
import os
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import harness.serving.settings as serving_settings
from harness.cli import main as cli
from harness.models.base_names import name_of_folder
from harness.models.configuration import identity_of
from harness.models.fetch import fetch
from harness.models.spec import WEIGHTS, ModelSpec, find
from harness.serving.model_server import served
from harness.serving.server_host import ServerHost, end_servers
from harness.serving.settings import ServerSettings
from support.errors import HarnessError, ServerError, SettingError
from tests.harness.fake_vllm import adapter, lines, program, starts

EVAL = ("eval", "--serve", "vllm", "--tasks", "scenes_pope", "--limit", "6", "--json")


def test_a_model_is_scored_through_its_server_which_is_stopped(
    vllm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*EVAL, "--model", "scenes-base", "--serve-set", "max_model_len=512", "--serve-set", "enforce-eager=true"]
    assert cli.run([*command, "--out", str(tmp_path / "run")]) == 0
    entry = json.loads(capsys.readouterr().out)["entries"][0]
    assert (entry["model"], entry["samples"], entry["failed"]) == ("scenes-base", 6, 0)
    known = entry["provenance"]
    assert (known["served by"], known["dtype"]) == ("vllm", "float32")
    assert known["server flags"] == "enforce-eager=true, max-model-len=512"
    assert len(known["weights"]) == 16
    first, *asked = lines(vllm)
    assert Path(first[1]).name.startswith("scenes-base")
    assert " ".join(first[-5:]) == "--dtype float32 --max-model-len 512 --enforce-eager"
    assert asked == ["asked scenes-base"] * 6
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"http://127.0.0.1:{first[first.index('--port') + 1]}/health", timeout=2)
    assert len(list((tmp_path / "run" / "servers").glob("vllm-scenes-base-*.log"))) == 1
    # Another run, another port: the answers are there already, as long as the same flags decide them.
    assert cli.run([*command, "--out", str(tmp_path / "again")]) == 0
    assert lines(vllm).count("asked scenes-base") == 6
    assert cli.run([*command, "--serve-set", "dtype=bfloat16", "--out", str(tmp_path / "run")]) == 0
    assert lines(vllm).count("asked scenes-base") == 12


def test_what_the_board_has_of_the_local_model_is_not_taken_for_a_served_one(vllm: Path, tmp_path: Path) -> None:
    command = ["--model", "scenes-base", "--out", str(tmp_path / "run")]
    assert cli.run(["eval", "--tasks", "scenes_pope", "--limit", "6", *command]) == 0
    for _ in range(2):
        assert cli.run([*EVAL, *command]) == 0
        assert len(starts(vllm)) == 1


def test_one_server_serves_a_base_and_its_adapters_one_after_the_other(vllm: Path, tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "run" / f"checkpoint-{rank}", rank) for rank in (8, 48)]
    models = [word for name in ("scenes-base", *folders) for word in ("--model", str(name))]
    assert cli.run([*EVAL, *models, "--out", str(tmp_path / "scores")]) == 0
    (words,) = starts(vllm)
    assert {"--enable-lora", "--max-lora-rank=64"} <= set(words)
    assert "--enable-tower-connector-lora" not in words
    calls = [line for line in lines(vllm) if isinstance(line, list)][1:]
    names = [f"{name_of_folder(folder)}-adapter" for folder in folders]
    assert [(path.split("/")[-1], call["lora_name"]) for path, call in calls] == [
        ("load_lora_adapter", names[0]), ("unload_lora_adapter", names[0]), ("load_lora_adapter", names[1])
    ]  # fmt: skip
    assert lines(vllm).count(f"asked {names[1]}") == 6
    assert lines(vllm).count("asked scenes-base") == 6


def test_a_server_that_is_not_ready_for_an_adapter_is_started_anew(vllm: Path, tmp_path: Path) -> None:
    vision = adapter(tmp_path / "vision", modules=("vision_tower.encoder.layers.0.mlp.fc1", "lm_head"))
    with ServerHost(settings=ServerSettings(), folder=tmp_path / "servers") as host:
        plain = host.reach(fetch(find("scenes-base")))
        tuned = host.reach(fetch(find(str(vision))))
        assert host.starts == 2
        assert (plain.pretrained, tuned.pretrained) == ("scenes-base", f"{name_of_folder(vision)}-adapter")
        assert host.seconds > 0
    assert "--enable-tower-connector-lora" in starts(vllm)[1]
    loaded = Path(lines(vllm)[-1][1]["lora_path"])
    assert "base_model.model.model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight" in load_file(
        loaded / "adapter_model.safetensors"
    )


def test_a_host_that_starts_a_server_ends_that_of_another(vllm: Path, tmp_path: Path) -> None:
    spec = fetch(find("scenes-base"))
    with ServerHost(settings=ServerSettings(), folder=tmp_path) as one:
        urls = [one.reach(spec).url]
        with ServerHost(settings=ServerSettings(), folder=tmp_path) as other:
            urls.append(other.reach(spec).url)
            with pytest.raises(OSError, match=r"refused|reset"):
                urllib.request.urlopen(f"{urls[0]}/models", timeout=2)
        urls.append(one.reach(spec).url)
        end_servers()
    assert len(set(urls)) == 3


def test_an_adapter_that_the_server_refuses_is_said_in_its_words(vllm: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "refused")
    with (
        pytest.raises(ServerError, match=r"did not load the adapter: 400: .*rank is too large"),
        served(fetch(find(str(folder)))),
    ):
        pytest.fail("it counts as served")


@pytest.mark.parametrize(
    "more",
    (
        {"use_dora": True},
        {"rank_pattern": {"a": 4}},
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["lm_head"]},
        {"r": 1024},
    ),
    ids=str,
)
def test_an_adapter_that_would_be_applied_in_part_is_refused(more: dict[str, Any], vllm: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", **more)
    with pytest.raises(HarnessError, match="merge it into its base"), served(fetch(find(str(folder)))):
        pytest.fail("it counts as served")
    assert not vllm.exists()


DIES = """#!/bin/sh
echo "(APIServer pid=1) WARNING 12-01 07:04:24 [system_utils.py:255] errors like OSError: [Errno 24] Too many files"
echo "(Worker pid=7) ERROR 12-01 07:04:44 [executor.py:953]     raise ValueError(msg)" >&2
echo "(Worker pid=7) ERROR 12-01 07:04:44 [executor.py:953] ValueError: no parameter named 'x'" >&2
echo "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}" >&2
echo "  warnings.warn('leaked')"
exit 3
"""


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("#!/bin/sh\necho no GPU >&2\nexit 3\n", "no GPU"),
        (DIES, "ValueError: no parameter named 'x'"),
        ("#!/bin/sh\necho 'vllm serve: error: no --flg' >&2\necho done\nexit 3\n", "vllm serve: error: no --flg"),
        ("#!/bin/sh\nexit 3\n", "it printed nothing"),
    ),
    ids=("last words", "first cause", "usage", "silent"),
)
def test_a_server_that_dies_is_said_with_its_cause(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BIN", str(program(tmp_path / "vllm", text)))
    folder = tmp_path / "servers"
    expected = rf"vllm ended with code 3: {re.escape(said)} \(log: {folder}/vllm-scenes-base.*\.log\)"
    with pytest.raises(ServerError, match=expected), served(fetch(find("scenes-base")), folder=folder):
        pytest.fail("a dead server counts as up")


def test_a_server_whose_port_was_taken_is_started_on_another(
    vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'#!/bin/sh\nif mkdir {tmp_path}/once; then echo "OSError: [Errno 98] Address already in use"; exit 1; fi\n'
    first = program(tmp_path / "first", f'{text}exec {os.environ["VLLM_BIN"]} "$@"\n')
    monkeypatch.setenv("VLLM_BIN", str(first))
    with served(fetch(find("scenes-base")), folder=tmp_path / "servers") as spec:
        assert spec.backend == "openai"
    assert len(list((tmp_path / "servers").glob("*.log"))) == 2
    assert len(starts(vllm)) == 1


def test_without_vllm_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VLLM_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(serving_settings, "BESIDE", tmp_path / "vllm")
    with pytest.raises(ServerError, match="VLLM_BIN"), served(fetch(find("scenes-base"))):
        pass
    # What `make vllm` has installed is found.
    beside = program(tmp_path / "beside", "#!/bin/sh\n")
    monkeypatch.setattr(serving_settings, "BESIDE", beside)
    assert ServerSettings().find_program() == str(beside)


@pytest.mark.parametrize(
    "flags", ({"port": "1"}, {"--served_model_name": "x"}, {"enable_lora": "true"}, {"a b": "1"}), ids=str
)
def test_flags_that_are_the_runs_own_or_none_are_refused(flags: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="--serve-set"):
        ServerSettings(flags=flags)


def test_flags_of_speed_are_no_part_of_the_identity() -> None:
    flags = {"tensor-parallel-size": "2", "quantization": "fp8", "prefix_caching": "false", "dtype": "bfloat16"}
    settings = ServerSettings(flags=flags, options=("--api-key", "not-to-be-seen"))
    spec = find("scenes-base")
    words = " ".join(settings.command_of(spec, name="x"))
    assert "--tensor-parallel-size 2 --quantization fp8 --no-prefix-caching --dtype bfloat16 --api-key" in words
    assert words.count("--dtype") == 1
    facts = settings.facts_of(spec)
    assert facts["dtype"] == "bfloat16"
    assert facts["server flags"].startswith("prefix-caching=false, quantization=fp8, --api-key")
    assert "not-to-be-seen" not in str(facts)


def test_a_checkpoint_is_served_in_what_it_is_stored_in(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
        save_file({"a": torch.ones(2, dtype=dtype)}, folder / "model.safetensors")
        words = ServerSettings().command_of(ModelSpec(name="m", pretrained=str(folder)), name="m")
        assert words[-2:] == ["--dtype", str(dtype).removeprefix("torch.")]


def test_the_renamed_copy_holds_the_same_weights(vllm: Path, tmp_path: Path) -> None:
    spec = fetch(find("scenes-base"))
    with served(spec, folder=tmp_path / "servers") as asked:
        # The model is known by its own files, not by the copy's.
        assert identity_of(spec).items() <= asked.digests.items()
    copy = load_file(Path(starts(vllm)[0][1]) / "model.safetensors")
    own = load_file(WEIGHTS / "scenes-base" / "model.safetensors")
    assert len(copy) == len(own)
    for name, tensor in own.items():
        assert torch.equal(copy[name.replace("vision_tower.", "vision_tower.vision_model.")], tensor)
