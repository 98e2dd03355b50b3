"""Decoding: who answers what, what is kept when a run is killed or a model fails, what several processes do, and what
it will take."""

import json
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import DataError, RecipeError
from support.files import JsonLines, file_lock
from tasks.answer import FailedAnswer
from tasks.scenes.judge import ExactJudge
from trainers.config.data import Data, PoolModel
from trainers.config.recipe import find_recipe
from trainers.vlfeedback import answers
from trainers.vlfeedback.answers import answers_file, counts, decode, draw, read_answers, recorded_draw, shards_of
from trainers.vlfeedback.build import build_dataset
from trainers.vlfeedback.decode_plan import ModelFacts, plan
from trainers.vlfeedback.instructions import Instruction

POOL = tuple(PoolModel(model=name) for name in ("a", "b", "c", "d", "e"))
FORK = multiprocessing.get_context("fork")


def data(**changes: Any) -> Data:
    return Data(**{"instructions": 10, "pool": POOL, **changes})


def asked(folder: Path, count: int = 10) -> list[Instruction]:
    """Instructions, each about a picture of its own."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number * 7 % 256, number // 36, 9)).save(folder / "images" / f"{number}.png")
    return [
        Instruction(id=f"i/{number}", prompt=f"What is {number}?", image=f"{number}.png", kind="caption")
        for number in range(count)
    ]


class Echo:
    """Answers by its name and torch's seed; `fails` says which instructions it has no answer to, by id and how often it
    was asked."""

    def __init__(self, name: str, fails: Callable[[str, int], bool] = lambda id, times: False) -> None:
        self.name, self.fails = name, fails
        self.calls: list[list[str]] = []
        self.settings: list[dict[str, Any]] = []

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return chat_history[0]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        import torch

        self.calls.append([request.doc["id"] for request in requests])
        self.settings += [request.args[1] for request in requests]
        times = [sum(request.doc["id"] in call for call in self.calls) for request in requests]
        return [
            FailedAnswer("out of order")
            if self.fails(request.doc["id"], asked)
            else f"{self.name} {int(torch.randint(10**6, ()))} {request.args[0]}"
            for request, asked in zip(requests, times, strict=True)
        ]


class Server(Echo):
    """One that answers each request by itself."""

    takes_seed = True

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        said = super().generate_until(requests)
        return [
            answer if isinstance(answer, FailedAnswer) else f"{request.args[0]} {request.args[1]['seed']}"
            for answer, request in zip(said, requests, strict=True)
        ]


def echo(member: PoolModel) -> Echo:
    return Echo(member.name)


def files(folder: Path) -> dict[str, bytes]:
    """All of a dataset that is made of instructions, settings and answers alone."""
    kept = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")} - {
        answers.speed_file(folder)
    }
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(kept)}


# The draw.


def test_the_draw_is_on_disk_before_the_first_answer_and_read_from_there(tmp_path: Path) -> None:
    instructions = asked(tmp_path)

    def load(member: PoolModel) -> Echo:
        assert (tmp_path / "draw.jsonl").exists()
        return Echo(member.name)

    decode(instructions, data(), 0, tmp_path, load)
    head, *lines = map(json.loads, (tmp_path / "draw.jsonl").read_text().splitlines())
    assert (head["seed"], head["answers"], list(head["pool"])) == (0, 4, [member.name for member in POOL])
    assert {line["id"]: line["members"] for line in lines} == {
        id: [member.name for member in members] for id, members in draw(instructions, data(), 0).items()
    }
    first = lines[0]["members"]
    lines[0]["members"] = first[::-1]  # what is recorded holds, whatever would be drawn today
    (tmp_path / "draw.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))
    assert [member.name for member in recorded_draw(tmp_path, instructions, data(), 0)["i/0"]] == first[::-1]


@pytest.mark.parametrize(
    ("changes", "seed", "said"),
    (
        ({}, 1, "seed was 0, now 1"),
        ({"answers": 3}, 0, "answers was 4, now 3"),
        ({"max_new_tokens": 7}, 0, "pool.a@1.max_new_tokens was 96, now 7"),
        ({"pool": (*POOL[:4], PoolModel(model="f"))}, 0, "pool.e@1 was"),
        ({"pool": (*POOL[:4], PoolModel(model="e", top_p=0.5, label="e@1"))}, 0, "pool.e@1.top_p was null, now 0.5"),
        ({"pool": POOL[::-1]}, 0, "pool was in another order: a@1, b@1"),
    ),
)
def test_other_settings_are_refused_not_mixed(changes: dict[str, Any], seed: int, said: str, tmp_path: Path) -> None:
    instructions = asked(tmp_path)
    recorded_draw(tmp_path, instructions, data(), 0)
    with pytest.raises(DataError, match=r"draw\.jsonl: answers here are of other settings") as error:
        recorded_draw(tmp_path, instructions, data(**changes), seed)
    assert said in str(error.value)


def test_a_server_may_move(tmp_path: Path) -> None:
    instructions = asked(tmp_path)
    recorded_draw(tmp_path, instructions, data(), 0)
    moved = tuple(member.model_copy(update={"url": "http://node7:8000/v1"}) for member in POOL)
    drawn = recorded_draw(tmp_path, instructions, data(pool=moved), 0)
    assert drawn["i/0"][0].url == "http://node7:8000/v1"


def test_other_instructions_and_foreign_draws_are_refused(tmp_path: Path) -> None:
    instructions = asked(tmp_path)
    recorded_draw(tmp_path, instructions, data(), 0)
    with pytest.raises(DataError, match="other instructions than these 9"):
        recorded_draw(tmp_path, instructions[1:], data(), 0)
    with pytest.raises(DataError, match="ids of instructions repeat, such as 'i/0'"):
        recorded_draw(tmp_path, [instructions[0], *instructions], data(), 0)
    (tmp_path / "draw.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match="no draw of ours"):
        recorded_draw(tmp_path, instructions, data(), 0)


def test_every_member_gets_its_shards_and_nothing_else() -> None:
    instructions = [Instruction(id=str(number), prompt="p", image="i", kind="caption") for number in range(1000)]
    drawn = draw(instructions, data(), 0)
    for member in POOL:
        shards = shards_of(instructions, drawn, member, 0)
        ids = [instruction.id for shard in shards for instruction in shard.instructions]
        assert ids == [id for id, members in drawn.items() if member in members]
        assert [len(shard.instructions) for shard in shards] == [256, 256, 256, 32]
        assert len({shard.key for shard in shards}) == 4


# Members.


def test_members_of_one_name_are_refused_and_a_label_tells_them_apart(tmp_path: Path) -> None:
    def recipe(pool: str) -> Path:
        path = tmp_path / "r.toml"
        head = 'name = "r"\ntrainer = "dpo"\nbase = "scenes-base"\n[training]\n'
        path.write_text(f"{head}[data]\ninstructions = 1\npool = {pool}\n")
        return path

    with pytest.raises(RecipeError, match=r"two members are called 'a@1'"):
        find_recipe(str(recipe('[{ model = "a" }, { model = "a" }]')))
    with pytest.raises(RecipeError, match="no pool of that name; known: paper"):
        find_recipe(str(recipe('"papr"')))
    with pytest.raises(RecipeError, match=r"data\.pool\.1\.url"):
        find_recipe(str(recipe('[{ model = "a" }, { model = "b", url = "node:80" }]')))
    assert [member.name for member in data(pool=[PoolModel(model="a"), PoolModel(model="a", label="again")]).pool] == [
        "a@1",
        "again",
    ]


def test_each_member_is_asked_with_its_own_settings(tmp_path: Path) -> None:
    instructions = asked(tmp_path, 2)
    members = (
        PoolModel(model="a", temperature=0),
        PoolModel(model="b", temperature=0.7, top_p=0.9, max_new_tokens=5, prompt_suffix=" Be brief."),
    )
    lms = {member.name: Echo(member.name) for member in members}
    decode(instructions, data(pool=members), 0, tmp_path, lambda member: lms[member.name])
    assert lms["a@0"].settings[0] == {"max_gen_toks": 96, "until": [], "do_sample": False}
    assert lms["b@0.7"].settings[0] == {
        "max_gen_toks": 5,
        "until": [],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 0.9,
    }
    found = read_answers(tmp_path)
    assert found["i/0"]["b@0.7"].endswith("<image>What is 0? Be brief.")
    assert found["i/0"]["a@0"].endswith("<image>What is 0?")


def test_names_that_are_paths_make_files_of_their_own_within_the_folder(tmp_path: Path) -> None:
    names = ("../../etc/x", "..-..-etc-x", "a b", "a-b", "x" * 300, "é", "è", ".hidden")
    paths = {answers_file(tmp_path, name) for name in names}
    assert len(paths) == len(names)
    assert all(
        path.parent == tmp_path / "answers" and len(path.name) < 120 and not path.name.startswith(".") for path in paths
    )
    instructions = asked(tmp_path, 3)
    pool = [PoolModel(model="../../x"), PoolModel(model="hub/y", label="y")]
    decode(instructions, data(pool=pool), 0, tmp_path, echo)
    assert all(set(found) == {"../../x@1", "y"} for found in read_answers(tmp_path).values())


def test_answers_are_read_in_the_order_members_were_drawn_in(tmp_path: Path) -> None:
    instructions = asked(tmp_path)
    decode(instructions, data(), 3, tmp_path, echo)
    expected = {id: [member.name for member in members] for id, members in draw(instructions, data(), 3).items()}
    assert {id: list(found) for id, found in read_answers(tmp_path).items()} == expected
    (tmp_path / "draw.jsonl").unlink()  # answers from elsewhere
    assert {id: set(found) for id, found in read_answers(tmp_path).items()} == {
        id: set(names) for id, names in expected.items()
    }


# Killed.


def build(folder: Path) -> None:
    build_dataset(folder, data(), 0, ExactJudge(), echo)


def build_and_die(folder: Path, write: int) -> None:
    """Killed while the bytes of this write are on their way to the disk; not all of them got there."""
    written, real = 0, os.fsync

    def fsync(file: int) -> None:
        nonlocal written
        written += 1
        if written == write:
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.truncate(f"/proc/self/fd/{file}", max(0, os.fstat(file).st_size - 9))
            os.kill(os.getpid(), signal.SIGKILL)
        real(file)

    os.fsync = fsync  # type: ignore[assignment]
    build(folder)


def test_killed_at_any_write_the_same_call_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SHARD", 4)
    build(tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert {"draw.jsonl", "vlfeedback.jsonl", "answers/a@1.jsonl"} <= expected.keys()
    killed = 0
    while True:
        folder = tmp_path / f"killed-{killed + 1}"
        child = FORK.Process(target=build_and_die, args=(folder, killed + 1))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        build(folder)
        assert files(folder) == expected
    assert killed >= 15  # instructions, draw, ten shards, ratings, pairs, the dataset


# Failed.


def rows_of(folder: Path, member: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answers_file(folder, member).read_text().splitlines()]


def one(folder: Path, lm: Echo, count: int = 6) -> dict[str, answers.MemberCounts]:
    """Decode with `lm` as member a, which is asked everything, beside one that works."""
    pool = (PoolModel(model="a"), PoolModel(model="b"))
    return decode(
        asked(folder, count), data(pool=pool), 0, folder, lambda member: lm if member.model == "a" else Echo("b")
    )


@pytest.mark.parametrize("kind", (Echo, Server))
def test_what_fails_is_asked_again_by_itself_then_recorded_as_failed(kind: type[Echo], tmp_path: Path) -> None:
    lm = kind("a", fails=lambda id, times: id == "i/2" or (id == "i/4" and times < 3))
    found = one(tmp_path, lm)
    assert lm.calls == [[f"i/{n}" for n in range(6)], ["i/2", "i/4"], ["i/2", "i/4"]]
    assert rows_of(tmp_path, "a@1")[2] == {"id": "i/2", "model": "a@1", "failed": "out of order", "attempts": 3}
    assert found["a@1"] == answers.MemberCounts(wanted=6, answered=5, failed=1, reasons={"out of order": 1})
    assert found["a@1"].missing == 1
    assert "a@1" not in read_answers(tmp_path)["i/2"]
    kept = rows_of(tmp_path, "a@1")
    again = kind("a", fails=lambda id, times: times < 2)
    assert one(tmp_path, again)["a@1"].missing == 0
    assert again.calls == [["i/2"], ["i/2"]]
    assert rows_of(tmp_path, "a@1")[:-1] == kept
    assert rows_of(tmp_path, "a@1")[-1].keys() == {"id", "model", "answer"}


def test_attempts_add_up_over_runs_and_each_has_other_chances(tmp_path: Path) -> None:
    for _ in range(2):
        lm = Server("a", fails=lambda id, times: True)
        one(tmp_path, lm, 1)
    assert [row["attempts"] for row in rows_of(tmp_path, "a@1")] == [3, 6]
    seeds = [settings["seed"] for settings in lm.settings]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    class Silent(Echo):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [""] * len(requests)

    found = one(tmp_path, Silent("a"))
    assert (found["a@1"].answered, found["a@1"].failed) == (6, 0)
    assert read_answers(tmp_path)["i/0"]["a@1"] == ""


def test_pictures_that_cannot_or_must_not_be_shown_fail_alone(tmp_path: Path) -> None:
    instructions = asked(tmp_path, 6)
    (tmp_path / "secret.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    bad = ["../secret.png", "link.png", "broken.png", "missing.png", str(tmp_path / "secret.png"), "nul\0.png"]
    mixed = [replace(old, image=image) for old, image in zip(instructions, bad, strict=True)]
    whole = [replace(old, id=f"good/{old.id}") for old in instructions]
    pool = (PoolModel(model="a"), PoolModel(model="b"))
    found = decode([*mixed, *whole], data(pool=pool), 0, tmp_path, echo)
    assert found["a@1"].failed == 6
    assert found["a@1"].answered == 6
    assert sum("leads out of the run's images" in reason for reason in found["a@1"].reasons) == 3


def test_a_large_picture_is_not_held_decoded(tmp_path: Path) -> None:
    instructions = asked(tmp_path, 2)
    Image.new("L", (2000, 1500), 77).save(tmp_path / "images" / "1.png")
    kinds: list[str] = []

    class Looks(Echo):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            shown = [request.args[2]["visual"][0] for request in requests]
            kinds.extend(type(image).__name__ for image in shown)
            assert shown[1].getpixel((1999, 1499)) == 77
            return super().generate_until(requests)

    pool = (PoolModel(model="a"), PoolModel(model="b"))
    decode(instructions, data(pool=pool), 0, tmp_path, lambda member: Looks(member.name))
    assert kinds[:2] == ["PngImageFile", "PromptImage"]


def test_a_model_that_answers_too_little_is_named(tmp_path: Path) -> None:
    class Short(Echo):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return super().generate_until(requests)[1:]

    with pytest.raises(DataError, match="a@1: gave 5 answers to 6 instructions"):
        one(tmp_path, Short("a"))


def test_done_is_what_is_on_disk_not_what_was_said(tmp_path: Path) -> None:
    found = one(tmp_path, Echo("a"))
    assert found["a@1"].missing == 0
    path = answers_file(tmp_path, "a@1")
    path.write_bytes(path.read_bytes()[:-60])
    drawn = draw(asked(tmp_path, 6), data(pool=(PoolModel(model="a"), PoolModel(model="b"))), 0)
    assert counts(tmp_path, drawn)["a@1"].missing == 1
    before = one(tmp_path / "whole", Echo("a"))
    assert one(tmp_path, Echo("a")) == before
    assert files(tmp_path)["answers/a@1.jsonl"] == files(tmp_path / "whole")["answers/a@1.jsonl"]


# Several processes.


def hold(path: Path, held: Any, free: Any) -> None:
    with file_lock(path, wait=True):
        held.set()
        free.wait(30)


def test_a_second_process_takes_the_members_that_are_free_and_waits_for_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    instructions = asked(tmp_path)
    held, free = FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=(answers_file(tmp_path, "a@1"), held, free))
    other.start()
    assert held.wait(30)
    loaded: list[str] = []

    def load(member: PoolModel) -> Echo:
        loaded.append(member.name)
        if len(loaded) == 4:  # nothing else is left to do
            free.set()
        return Echo(member.name)

    caplog.set_level("INFO", "trainers")
    found = decode(instructions, data(), 0, tmp_path, load)
    other.join()
    assert caplog.messages == ["a@1: another process is at its answers; waiting for it"]
    assert loaded == ["b@1", "c@1", "d@1", "e@1", "a@1"]
    assert all(member.missing == 0 for member in found.values())


def decode_in(folder: Path, instructions: Sequence[Instruction], log: Path) -> None:
    def load(member: PoolModel) -> Echo:
        JsonLines(log).append([{"id": f"{member.name} {os.getpid()}"}])
        return Echo(member.name)

    decode(instructions, data(), 0, folder, load)


def test_two_processes_in_one_folder_end_with_the_same_bytes_and_load_nothing_twice(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    decode_in(alone, asked(alone, 40), tmp_path / "log-alone.jsonl")
    instructions = asked(shared, 40)
    both = [FORK.Process(target=decode_in, args=(shared, instructions, tmp_path / "log.jsonl")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert files(shared) == files(alone)
    assert sorted(id.split()[0] for id in JsonLines(tmp_path / "log.jsonl").by_id) == sorted(
        member.name for member in POOL
    )


def append_many(path: Path, name: str) -> None:
    rows = JsonLines(path)
    for number in range(60):
        rows.append([{"id": f"{name}/{number}/{part}", "text": "x" * 500} for part in range(3)])


def test_rows_added_by_several_processes_at_once_are_all_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "first"}\n{"id": "torn by a dead pro')
    writers = [FORK.Process(target=append_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(JsonLines(path).by_id) == {"first"} | {
        f"{name}/{number}/{part}" for name in "abc" for number in range(60) for part in range(3)
    }


def test_reading_leaves_a_line_that_is_being_written_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"')
    assert list(JsonLines(path).by_id) == ["a"]
    with path.open("ab") as writer:
        writer.write(b', "x": 1}\n')
    assert list(JsonLines(path).by_id) == ["a", "b"]


@pytest.mark.parametrize("length", (0, 5, 65536, 65537, 200_000))
def test_a_torn_line_of_any_length_is_cut_off(length: int, tmp_path: Path) -> None:
    for head in (b"", b'{"id": "a"}\n'):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(head + b"x" * length)
        JsonLines(path).append([{"id": "b"}])
        assert path.read_bytes() == head + b'{"id": "b"}\n'


# The plan.


def facts(*, served: Sequence[str] = (), **parameters: int) -> dict[str, ModelFacts]:
    known = {
        name: ModelFacts(
            model=name,
            where="loaded here",
            parameters=count,
            weights=2 * count,
            kept_per_position=100_000,
            image_positions=500,
            rows_at_once=8,
            source="its files",
        )
        for name, count in parameters.items()
    }
    return {f"{name}@1": fact for name, fact in known.items()} | {
        f"{name}@1": ModelFacts(model="gpt-4o-2024-11-20", where="asked at x", served=True) for name in served
    }


def test_the_plan_counts_rows_memory_time_and_money() -> None:
    pool = [PoolModel(model=name) for name in "abcd"]
    found = plan(
        1000,
        data(pool=pool, answers=2, max_new_tokens=440),
        0,
        facts(a=7 * 10**9, b=10**9, served=("c",)) | facts(d=10**9),
    )
    a, b, c, _ = found.members
    assert [member.rows for member in found.members] == [500] * 4
    assert (found.rows, found.left, found.images) == (2000, 2000, None)
    assert a.memory == round((14e9 + 8 * (500 + 60 + 440) * 100_000) * 1.15)
    assert a.seconds == pytest.approx(500 / 8 * 220 * (0.015 + 0.002 * 7))
    assert b.seconds == pytest.approx(500 / 8 * 220 * (0.015 + 0.002 * 1))
    assert c.memory is None
    assert c.seconds == pytest.approx(500 * 5 / 16)
    assert c.dollars == pytest.approx((500 * (60 + 85 + 170 * 4) * 2.5 + 500 * 220 * 10) / 1e6)
    text = " ".join(found.to_markdown().split())
    assert "| a@1 | 500 | 0 | 0 | 17.0 GB | 7 min |" in text
    assert "assumed 16 calls at once" in text
    assert json.loads(json.dumps(found.to_json()))["members"][0]["left"] == 500


def test_the_plan_knows_what_is_done_and_how_long_it_took(tmp_path: Path) -> None:
    instructions = asked(tmp_path, 10)
    pool = [PoolModel(model=name) for name in "ab"]
    settings = data(pool=pool, answers=2)
    decode(
        instructions,
        settings,
        0,
        tmp_path,
        lambda member: Echo(member.name, fails=lambda id, times: id == "i/3"),
    )
    known = facts(a=2 * 10**9, b=10**9)
    done = plan(instructions, settings, 0, known, tmp_path)
    assert [(member.rows, member.answered, member.failed, member.left, member.images) for member in done.members] == [
        (10, 9, 1, 1, 10)
    ] * 2
    assert "as its shards in this folder took" in done.members[0].rate
    answers_file(tmp_path, "b@1").unlink()
    JsonLines(answers.speed_file(tmp_path)).by_id.clear()
    answers.speed_file(tmp_path).write_text('{"id": "a@1|0", "model": "a@1", "rows": 10, "seconds": 30.0}\n')
    left = plan(instructions, settings, 0, known, tmp_path).members[1]
    assert left.left == 10
    assert left.seconds == pytest.approx(10 * 3.0 / 2)  # half the parameters
    assert left.rate == "b@1: as a@1 took in this folder, by parameters"


def test_what_is_not_known_is_said_and_no_cell_breaks_the_table() -> None:
    pool = [PoolModel(model="a"), PoolModel(model="b\\<script>")]
    known = {member.name: ModelFacts(model=member.model, where="a | b") for member in pool}
    text = " ".join(plan(10, data(pool=pool, answers=2), 0, known).to_markdown().split())
    assert "Not in it: a@1, b" in text
    assert "not known" in text
    assert "a \\| b" in text
    assert r"| b\\\<script\>@1 |" in text
