"""Judges that are served for a run, and runs whose checkpoints share a server. The server is a small script."""

import json
import os
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.cli import main as cli
from tests.harness.fake_vllm import lines, program, starts


def test_a_judge_is_served_after_the_candidate_whose_server_has_ended(
    vllm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", "--limit", "3", "--json"]
    command += ["--judge", "scenes-early", "--judge-serve", "vllm", "--judge-serve-set", "max-model-len=512"]
    command += ["--ledger", str(tmp_path / "l.sqlite")]
    for more, out in ((["--serve", "vllm"], "served"), ([], "local")):
        assert cli.run([*command, *more, "--out", str(tmp_path / out)]) == 0
        entry = json.loads(capsys.readouterr().out)["entries"][0]
        assert (entry["judge"], entry["unscored"]) == ("scenes-early", 0)
        known = entry["provenance"]["judge known as"]
        assert "served by vllm" in known
        assert "server flags max-model-len=512" in known
        assert entry["provenance"].get("served by", "") == ("vllm" if out == "served" else "")
    models = [Path(words[1]).name.rpartition("-")[0] for words in starts(vllm)]
    assert models == ["scenes-base", "scenes-early", "scenes-early"]
    order = [line if isinstance(line, str) else "start" for line in lines(vllm)]
    assert order[:8] == ["start", *["asked scenes-base"] * 3, "start", *["asked scenes-early"] * 3]
    for words in starts(vllm):
        with pytest.raises(OSError, match=r"refused|reset"):
            urllib.request.urlopen(f"http://127.0.0.1:{words[words.index('--port') + 1]}/health", timeout=2)


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (["--judge-serve", "vllm"], "--judge-serve has no effect: the judge 'scenes'"),
        (["--judge", "scenes-early", "--judge-serve-set", "a=1"], "--judge-serve-set has no effect"),
        (["--judge", "scenes-early", "--judge-serve", "vllm", "--judge-url", "http://x"], "--judge-url has no effect"),
        (["--judge", "gpt-4v", "--judge-serve", "vllm"], "gpt-4v has no weights to serve"),
        (["--judge", "scenes-erly", "--judge-serve", "vllm"], "did you mean 'scenes-early'"),
        (["--serve-set", "a=1"], "--serve-set has no effect: --serve is not given"),
    ),
    ids=" ".join,
)
def test_options_of_a_server_that_would_not_act_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["eval", "--model", "scenes-base", "--tasks", "scenes_mmhal", *words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_server_that_ends_while_it_is_asked_is_said_with_its_cause(
    vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fatal = 'print("ValueError: out of blocks", flush=True); os._exit(4)'
    text = (
        Path(os.environ["VLLM_BIN"])
        .read_text()
        .replace("            note(f", f"            {fatal}\n            note(f")
    )
    monkeypatch.setenv("VLLM_BIN", str(program(tmp_path / "dies", text)))
    command = ["eval", "--model", "scenes-base", "--serve", "vllm", "--tasks", "scenes_pope", "--limit", "6"]
    assert (
        cli.run([*command, "--model-set", "attempts=1", "--model-set", "concurrency=1", "--out", str(tmp_path / "run")])
        == 1
    )
    assert "dies ended with code 4: ValueError: out of blocks (log: " in capsys.readouterr().err


@pytest.mark.parametrize("keep", (False, True), ids=("after", "beside"))
def test_a_run_scores_its_base_and_checkpoints_on_one_server(
    keep: bool, vllm: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    more = ["--serve-keep"] if keep else []
    command = ["train-then-eval", str(tiny_recipe), "--limit", "6", "--tasks", "scenes_pope", "--serve", "vllm", *more]
    assert cli.run([*command, "--out", str(tmp_path / "run"), "--ledger", str(tmp_path / "l.sqlite")]) in (0, 4)
    (words,) = starts(vllm)
    assert "--max-lora-rank=8" in words
    loaded = [line[1]["lora_name"] for line in lines(vllm) if line[0] == "/v1/load_lora_adapter"]
    assert len(loaded) == 2  # the last one, and the control's
    assert len(list((tmp_path / "run" / "board").glob("*.json"))) == 3
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    (log,) = (tmp_path / "run" / "servers").glob("*.log")
    began = datetime.strptime(log.name.split("-")[-2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
    assert (began < (checkpoint / "checkpoint.json").stat().st_mtime - 1) == keep


@pytest.mark.parametrize(
    "command",
    (
        ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--serve", "vllm", "--out", "run"),
        (
            "eval",
            "--model",
            "scenes-base",
            "--tasks",
            "scenes_mmhal",
            "--judge",
            "scenes-base",
            "--judge-serve",
            "vllm",
        ),
        ("train-then-eval", "scenes-demo", "--serve", "vllm", "--out", "run"),
    ),
    ids=("eval", "judge", "train-then-eval"),
)
def test_a_program_that_is_not_installed_is_told_before_anything_is_done(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_BIN", "/nowhere/vllm")
    assert cli.run([*command]) == 2
    said = capsys.readouterr().err
    assert "--serve vllm: no `/nowhere/vllm` on the PATH; install it" in said
    assert "scoring" not in said
    assert not list(tmp_path.rglob("answers*"))
