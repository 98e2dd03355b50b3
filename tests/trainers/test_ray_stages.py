"""Ray Data pipelines against the plain path, on a local cluster of two workers whose processes are killed."""

import functools
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.datasets.pool import load_served
from support.errors import ClusterError, JudgeDown, RunError
from support.images import ImageRef
from support.progress import show_on
from tasks.answer import FailedAnswer
from trainers.config.data import ASPECTS, Data, PoolModel
from trainers.data.image_hashes import HashCache
from trainers.data.pair_rules import PairCounts, find_rule, pair_up
from trainers.data.rows import Completion, Preference, Row
from trainers.vlfeedback import answers, ray_stages
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.ray_stages import Branch, cluster, decode_by_ray, hash_by_ray, in_order, pairs_by_ray

# Without a cluster.


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(ClusterError, match=r"--ray needs the extra: pip install 'vlm-harness\[ray\]'"), cluster():
        pass


def test_no_cpus_are_no_cluster() -> None:
    with pytest.raises(ClusterError, match="0 CPUs"), cluster(cpus=0):
        pass


class Down:
    """An LM whose server stays down after the first shard."""

    def __init__(self) -> None:
        self.calls = 0

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return chat_history[0]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.calls += 1
        if self.calls > 1:
            raise JudgeDown("no answer\nin 8 tries")
        return ["yes"] * len(requests)


def shifts(count: int) -> list[ray_stages._ShardWork]:
    shown = [(Instruction(id=f"i{number}", prompt="p", image="0.png", kind="caption"),) for number in range(count)]
    return [
        ray_stages._ShardWork(
            shard=answers.Shard(member="a@1", number=number, instructions=one, key=str(number)), known={}
        )
        for number, one in enumerate(shown)
    ]


def test_a_shard_that_could_not_be_asked_has_no_rows_and_a_dead_server_is_asked_no_more(tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    lm = Down()
    work = ray_stages._Answerer(lambda member: lm, PoolModel(model="a"), DATA, tmp_path)
    (first, none), *others = [work(shift) for shift in shifts(4)]
    assert (first, none) == ([{"id": "i0", "model": "a@1", "answer": "yes"}], None)
    assert others == [([], "JudgeDown: no answer")] * 3
    assert lm.calls == 2


def test_a_model_that_cannot_be_had_is_told_for_every_shard(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(member: PoolModel) -> answers.AnswersLM:
        asked.append(member.name)
        raise OSError("no such server")

    work = ray_stages._Answerer(load, PoolModel(model="a"), DATA, tmp_path)
    assert [work(shift) for shift in shifts(3)] == [([], "OSError: no such server")] * 3
    assert asked == ["a@1"]


# What the tests below work on.

POOL = tuple(PoolModel(model=name) for name in ("a", "b", "c"))
DATA = Data(instructions=60, pool=POOL, answers=2)


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.frombytes("RGB", (24, 24), rng.randbytes(24 * 24 * 3)).resize((96, 96)).save(path)
    return paths


def run_folder(folder: Path, count: int = 60) -> list[Instruction]:
    pictures(folder / "images", 5)
    return [Instruction(id=f"i{n}", prompt=f"What is {n}?", image=f"{n % 5}.png", kind="caption") for n in range(count)]


def once(marker: Path) -> bool:
    """True the first time, in whatever process."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Seeded:
    """Answers by its name and torch's generator; the first to come to `kills` dies of it, and `fails` never get an
    answer."""

    def __init__(
        self, member: PoolModel, marker: Path | None = None, kills: str = "", fails: tuple[str, ...] = ()
    ) -> None:
        self.name, self.marker, self.kills, self.fails = member.name, marker, kills, fails

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return chat_history[0]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        import torch

        ids = [request.doc["id"] for request in requests]
        drawn = {id: int(torch.randint(10**6, ())) for id in ids}
        if self.kills in ids and self.marker is not None and once(self.marker):
            os.kill(os.getpid(), signal.SIGKILL)
        return [FailedAnswer("out of order") if id in self.fails else f"{self.name} {drawn[id]} {id}" for id in ids]


def rated_rows(count: int) -> list[Row]:
    rng = random.Random(1)
    ratings = ("1", "2", "3", "4", "5", "N/A")

    def answer(model: str) -> Completion:
        drawn = dict(zip(ASPECTS, rng.choices(ratings, weights=(3, 3, 3, 3, 3, 1), k=3), strict=True))
        return Completion(model=model, response=rng.choice(("Yes, it is.", "No.", "a cat")), ratings=drawn)

    rows = []
    for index in range(count):
        answers, images = tuple(answer(f"m{n}") for n in range(4)), (ImageRef(f"{index}.png", data=b"x" * index),)
        rows.append(Row(index=index, id=str(index % 7), prompt=f"{index}?", images=images, completions=answers))
    return rows


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    with cluster(cpus=2):
        from ray import cloudpickle

        # Workers can't import a test file: its classes go to them by value.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield


def rows_of(folder: Path) -> dict[str, list[str]]:
    return {path.name: sorted(path.read_text().splitlines()) for path in sorted((folder / "answers").glob("*.jsonl"))}


# On a cluster.


def on_cluster(test: Any) -> Any:
    """Marks a test that runs on the module's cluster."""
    return pytest.mark.slow(pytest.mark.usefixtures("two_workers")(test))


@on_cluster
def test_a_killed_actor_loses_no_answer_and_changes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answers, "SHARD", 7)
    for folder in ("plain", "ray"):
        asked = run_folder(tmp_path / folder)
    plain = answers.decode(asked, DATA, 0, tmp_path / "plain", Seeded)
    marker = tmp_path / "killed"
    caplog.set_level("INFO", "trainers")
    reported: list[tuple[str, int, int]] = []
    load = functools.partial(Seeded, marker=marker, kills="i30")
    with show_on(lambda *report: reported.append(report)):
        found = decode_by_ray(asked, DATA, 0, tmp_path / "ray", load=load, workers=2)
    assert marker.exists()
    assert caplog.messages == []
    assert found == plain
    assert sum(count.missing for count in found.values()) == 0
    assert reported[-1] == ("answers", 120, 120)
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "plain")
    assert json.dumps(answers.read_answers(tmp_path / "ray")) == json.dumps(answers.read_answers(tmp_path / "plain"))


@on_cluster
def test_what_failed_is_recorded_and_the_same_command_asks_for_the_rest_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SHARD", 7)
    asked = run_folder(tmp_path)
    first = decode_by_ray(asked, DATA, 0, tmp_path, load=functools.partial(Seeded, fails=("i3", "i4")))
    assert sum(count.failed for count in first.values()) == 4
    assert {reason for count in first.values() for reason in count.reasons} == {"out of order"}
    before = rows_of(tmp_path)
    second = decode_by_ray(asked, DATA, 0, tmp_path, load=Seeded)
    assert sum(count.missing for count in second.values()) == 0
    after = rows_of(tmp_path)
    assert {name: len(rows) - len(before[name]) for name, rows in after.items() if len(rows) > len(before[name])}
    assert sum(len(rows) for rows in after.values()) == sum(len(rows) for rows in before.values()) + 4


@on_cluster
def test_a_shard_that_kills_every_actor_is_missing_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SHARD", 7)
    monkeypatch.setattr(ray_stages, "RETRIES", 1)
    asked = run_folder(tmp_path, 21)

    class Poisoned(Seeded):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            if self.name == "b@1" and any(request.doc["id"] == "i0" for request in requests):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().generate_until(requests)

    drawn = answers.draw(asked, DATA, 0)
    found = decode_by_ray(asked, DATA, 0, tmp_path, load=Poisoned)
    mine = [i.id for i in asked if any(member.name == "b@1" for member in drawn[i.id])]
    expected = 7 if "i0" in mine[:7] else 0
    assert {name: count.missing for name, count in found.items()} == {"a@1": 0, "b@1": expected, "c@1": 0}
    again = decode_by_ray(asked, DATA, 0, tmp_path, load=Seeded)
    assert sum(count.missing for count in again.values()) == 0


@on_cluster
def test_answers_come_over_http_in_actors(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SHARD", 7)
    monkeypatch.chdir(tmp_path)
    pool = tuple(PoolModel(model=name, url=server.url) for name in ("a", "b", "c"))
    data = Data(instructions=20, pool=pool, answers=2)
    for folder in ("plain", "ray"):
        asked = run_folder(tmp_path / folder, 20)
    load = functools.partial(load_served, {}, ledger=tmp_path / "plain.sqlite")
    answers.decode(asked, data, 0, tmp_path / "plain", load)
    plain = [(entry["model"], entry["seed"]) for entry in server.log]
    server.log.clear()
    load = functools.partial(load_served, {}, ledger=tmp_path / "ray.sqlite")
    found = decode_by_ray(asked, data, 0, tmp_path / "ray", load=load)
    assert sum(count.missing for count in found.values()) == 0
    assert sorted((entry["model"], entry["seed"]) for entry in server.log) == sorted(plain)
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "plain")


@on_cluster
def test_image_hashes_are_those_of_the_plain_path_and_made_once(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "images", 150)
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:100])
    shown = [ImageRef(f"COCO_val2014_{n + 1:012d}.jpg", path) for n, path in enumerate(paths)]
    shown += [ImageRef("gone.png"), ImageRef("broken.png", tmp_path / "broken.png")]
    shown.append(ImageRef("bytes.png", data=paths[3].read_bytes()))
    plain = list(HashCache().facts_of_all(shown, workers=1))
    assert list(hash_by_ray(shown, tmp_path / "cache.sqlite", workers=2)) == plain
    with HashCache(tmp_path / "cache.sqlite") as kept:
        assert list(kept.facts_of_all(shown, workers=1)) == plain
        assert kept.made == 0
    assert list(hash_by_ray(shown, tmp_path / "cache.sqlite", workers=2)) == plain


@on_cluster
@pytest.mark.parametrize(
    ("name", "options"),
    (("authors", {}), ("dominant", {"per_instruction": 2, "balance_yes_no": True}), ("longest", {})),
    ids=str,
)
def test_pairs_are_those_of_the_plain_path_in_its_order(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_stages, "ROWS", 9)
    rule, rows = find_rule(name, **options), rated_rows(200)
    expected, plain_counts = list(pair_up(rows, rule, plain := PairCounts())), plain
    counts = PairCounts()
    found: list[Preference] = list(pairs_by_ray(iter(rows), rule, counts, workers=2))
    assert found == expected
    assert counts == plain_counts
    assert len(found) > 50


def killing(marker: Path | None, number: int) -> Callable[[], Callable[[int], int]]:
    """Work that squares items, and dies at one of them: the first time, or without `marker` always."""

    def make() -> Callable[[int], int]:
        def work(item: int) -> int:
            if item == number and (marker is None or once(marker)):
                os.kill(os.getpid(), signal.SIGKILL)
            return item * item

        return work

    return make


@on_cluster
def test_a_killed_worker_leaves_no_gap_no_part_twice_and_no_word_on_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    branch = Branch(name="squares", make=killing(tmp_path / "killed", 11), items=range(40), workers=2)
    assert list(in_order(branch)) == [n * n for n in range(40)]
    assert (tmp_path / "killed").exists()
    assert capfd.readouterr().out == ""


@on_cluster
def test_a_lost_part_is_an_error_and_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_stages, "RETRIES", 0)
    branch = Branch(name="squares", make=killing(None, 4), items=range(5), workers=1)
    with pytest.raises(RunError, match="part 4 was lost"):
        list(in_order(branch))


ELSEWHERE = """
import sys
from trainers.vlfeedback.ray_stages import Branch, cluster, in_order

with cluster(sys.argv[1]):
    print(list(in_order(Branch(name="squares", make=lambda: lambda item: item * item, items=range(5), workers=1))))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
def test_a_cluster_that_runs_already_is_used_and_left_running(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    ray = Path(sys.executable).with_name("ray")
    words = ["start", "--head", "--block", "--num-cpus=1", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", f"--port={port}"]
    with subprocess.Popen([ray, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        try:
            until = time.monotonic() + 90
            while time.monotonic() < until and not listens(port):
                time.sleep(0.5)
            for _ in range(2):
                driver = [sys.executable, "-c", ELSEWHERE, address]
                ended = subprocess.run(driver, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
                assert ended.stdout.strip() == "[0, 1, 4, 9, 16]", ended.stderr
        finally:
            head.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
def test_a_cluster_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ClusterError, match=r"--ray 127.0.0.1:1: .*refused"), cluster("127.0.0.1:1"):
        pass
