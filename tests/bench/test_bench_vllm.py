"""What our plan saves in front of vLLM: `--engine vllm` against the same server fed question by question, as a table
lists them.

The six yes/no questions of `test_bench_engine` about each of 20 images, on its LLaVA-shaped checkpoint in float32, by
the vLLM of `make vllm` (or VLLM_BIN) on one thread; without one it is skipped. CPU seconds of the server with all its
processes and of its client, 64 questions at once, in turns; every turn begins with empty caches.
"""

import json
import os
import statistics
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.test_bench_engine import NEW_TOKENS, QUESTIONS, llava, one_thread, requests

TURNS, IMAGES = 5, 20
AT_LEAST = 1.8
CPU = {
    **{"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
    "VLLM_SERVER_DEV_MODE": "1",  # its caches can be emptied
}
RESETS = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
TICKS = os.sysconf("SC_CLK_TCK")


def processes_below(parent: int) -> Iterator[str]:
    """The lines of /proc of all processes that one has started."""
    children: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            line = path.read_text()
        except OSError:  # it has ended
            continue
        fields = line.rpartition(")")[2].split()
        children.setdefault(int(fields[1]), []).append((int(path.parent.name), line))
    waiting = [parent]
    while waiting:
        for number, line in children.get(waiting.pop(), []):
            waiting.append(number)
            yield line


def cpu_seconds() -> dict[str, float]:
    """Of this process, and of all that it has started."""
    below = [line.rpartition(")")[2].split() for line in processes_below(os.getpid())]
    return {"client": time.process_time(), "server": sum(sum(map(int, each[11:15])) for each in below) / TICKS}


def test_bench_vllm(
    benchmark: Any,
    figures: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from harness.engine.config import EngineConfig
    from harness.engine.jobs import Hints
    from harness.models.load import register
    from harness.models.spec import find
    from harness.serving.engine_client import EngineClient, Turns
    from harness.serving.engine_host import EngineHost
    from harness.serving.settings import ServerSettings
    from support.errors import ServerError
    from tasks.early_exit import Reads

    try:
        ServerSettings().find_program()
    except ServerError as error:
        pytest.skip(f"no vLLM here: make vllm installs one ({error})")
    for name, value in CPU.items():
        monkeypatch.setenv(name, value)
    register()
    llava(tmp_path / "model", tmp_path / "tiny")
    early = Hints(decided=lambda text: len(text) >= 4, reads=Reads(characters=4), rule="mme")
    engine = EngineConfig(engine="vllm", dtype="float32", engine_set={"enforce-eager": "true", "block-size": "32"})
    host = EngineHost(tmp_path / "servers")

    class Listed(EngineClient):
        """Asks in the order that is given, and sends each picture with each question, as other clients do."""

        def turns_of(self, questions: Sequence[Any]) -> list[Turns]:
            turns = Turns(1)
            turns.ready.extend(range(len(questions)))
            return [turns]

    def planned(lm: Any, images: int) -> list[str]:
        lm.client, lm.hints = EngineClient("vllm", lm.client.servers, lm.client.model, at_once=64), {"mme": early}
        answers: list[str] = lm.generate_until(requests(lm, images), disable_tqdm=True)
        return answers

    def as_listed(lm: Any, images: int) -> list[str]:
        """The same requests, question after question over all images, in full."""
        lm.hints, client = {}, Listed("vllm", lm.client.servers, lm.client.model, at_once=64)
        client.protocol.misses = ""
        jobs = lm.jobs_of(requests(lm, images))
        order = [at for question in range(len(QUESTIONS)) for at in range(question, len(jobs), len(QUESTIONS))]
        asked = [lm._question(jobs[at]) for at in order]
        texts = {order[place]: lm._read(jobs[order[place]], reply, is_full=True) for place, reply in client.ask(asked)}
        return [str(texts[at]) for at in range(len(jobs))]

    def turn(side: Any, lm: Any, images: int) -> tuple[list[str], dict[str, float]]:
        for name in RESETS:
            urllib.request.urlopen(urllib.request.Request(f"{lm.client.servers[0]}/{name}", method="POST")).read()
        before = cpu_seconds()
        answers = side(lm, images)
        return answers, {name: value - before[name] for name, value in cpu_seconds().items()}

    def measure() -> tuple[list[str], list[str], dict[str, list[dict[str, float]]]]:
        lm = host.load(replace(find(str(tmp_path / "model")), dtype="float32"), engine)
        spent: dict[str, list[dict[str, float]]] = {"plan": [], "listed": []}
        turn(planned, lm, 2)  # a warm-up
        for _ in range(TURNS):
            ours, took = turn(planned, lm, IMAGES)
            theirs, took_listed = turn(as_listed, lm, IMAGES)
            spent["plan"].append(took)
            spent["listed"].append(took_listed)
        return ours, theirs, spent

    try:
        with one_thread():
            ours, theirs, spent = benchmark.pedantic(measure, rounds=1)
    finally:
        host.drop()
    totals = {side: [sum(each.values()) for each in turns] for side, turns in spent.items()}
    ratios = sorted(listed / plan for plan, listed in zip(totals["plan"], totals["listed"], strict=True))
    equal = [
        full.startswith(cut) and full[:4].lower() == cut[:4].lower() for cut, full in zip(ours, theirs, strict=True)
    ]
    found = {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}
    figures.update({f"engine.llava.vs_vllm.{name}": value for name, value in found.items()})
    figures["engine.llava.vs_vllm.equal_answers"] = sum(equal) / len(equal)
    with capsys.disabled():
        asked = f"{len(ours)} questions on {IMAGES} images, at most {NEW_TOKENS} tokens"
        print(f"\nvLLM, {asked}, CPU seconds of {TURNS} turns:")
        for side, turns in spent.items():
            parts = [f"{name} {json.dumps([round(each[name], 2) for each in turns])}" for name in ("server", "client")]
            print(f"  {side}: {', '.join(parts)}")
        met = "met" if found["median"] >= AT_LEAST else "missed"
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        print(f"  listed / plan: {told} (median at least {AT_LEAST}: {met})")
        print(f"  equal answers {sum(equal)}/{len(equal)}, {len(set(theirs))} distinct")
    assert len(set(theirs)) > 30  # else equality says little
    assert all(equal)
