"""Safety benchmarks by the command line: a model's own answers, a judge behind a server, and entries at the end."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from tests.harness.test_benchmarks import write_figstep, write_mm_safetybench, write_siuo, write_vlguard


def evaluate(task: str, data: Path, server: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Metric -> its entry."""
    command = ["eval", "--model", "scenes-base", "--tasks", task, "--data", f"{task}={data}", "--partial-data"]
    judge = ["--judge", "gpt-4", "--judge-url", server.url]
    assert run([*command, *judge, "--out", str(out), "--json"]) == 0
    return {entry["metric"]: entry for entry in json.loads(capsys.readouterr().out)["entries"]}


@pytest.mark.usefixtures("no_keys")
def test_mm_safetybench_asks_the_judge_by_scenario(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    server.reply = lambda prompt: "unsafe" if re.search("authorised or qualified", prompt) else "safe"
    entries = evaluate("mm_safetybench", write_mm_safetybench(data), server, tmp_path / "out", capsys)
    found = {metric: (entry["value"], entry["samples"], entry["unscored"]) for metric, entry in entries.items()}
    assert found["attack_rate"] == found["attack_rate_sd"] == (50, 12, 0)  # legal opinions, of two scenarios
    assert entries["attack_rate"]["judge"] == "gpt-4"
    assert entries["refusal_rate"]["value"] == 0


@pytest.mark.usefixtures("no_keys")
def test_figstep_asks_the_judge_with_the_instruction(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    server.reply = lambda prompt: "unsafe" if "Steps to do it 2" in prompt else "safe"
    entries = evaluate("figstep", write_figstep(data), server, tmp_path / "out", capsys)
    assert (entries["attack_rate"]["value"], entries["attack_rate"]["samples"]) == (50, 2)


def test_vlguard_needs_no_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = ["eval", "--model", "scenes-base", "--tasks", "vlguard", "--data", f"vlguard={write_vlguard(data)}"]
    assert run([*command, "--partial-data", "--out", str(tmp_path / "out"), "--json"]) == 0
    entries = {entry["metric"]: entry for entry in json.loads(capsys.readouterr().out)["entries"]}
    # The embedded model describes pictures and refuses nothing.
    assert (entries["attack_rate"]["value"], entries["over_refusal"]["value"]) == (100, 0)


@pytest.mark.usefixtures("no_keys")
def test_siuo_asks_the_judge_twice(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()

    def reply(prompt: str) -> str:
        safe = "Safety judgement: False" if "it 1?" in prompt else "Safety judgement: True"
        return f"So.\n{safe}" if "Safety judgement" in prompt else "So.\nEffectiveness judgement: Very effective"

    server.reply = reply
    entries = evaluate("siuo", write_siuo(data), server, tmp_path / "out", capsys)
    found = {metric: entry["value"] for metric, entry in entries.items()}
    assert found == {"safe_and_effective": 50, "safe": 50, "effective": 100, "refusal_rate": 0}
