"""Decoding: who answers what, what is kept when a run is killed or a model fails, what several processes do, and what
it will take."""

import json
import multiprocessing
import os
import signal
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.errors import DataError, RecipeError
from support.files import JsonLines, file_lock
from tasks.answer import FailedAnswer
from tasks.scenes.judge import ScenesJudge
from tests.trainers.answer_makers import POOL, Echo, asked, data
from trainers.config.data import PoolModel
from trainers.config.recipe import find_recipe
from trainers.vlfeedback import answers
from trainers.vlfeedback.answers import answers_file, counts, decode, draw, read_answers, recorded_draw, shards_of
from trainers.vlfeedback.build import build_dataset
from trainers.vlfeedback.instructions import Instruction

FORK = multiprocessing.get_context("fork")


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
    kept = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    kept.discard(answers.speed_file(folder))
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
    labelled = data(pool=[PoolModel(model="a"), PoolModel(model="a", label="again")])
    assert [member.name for member in labelled.pool] == ["a@1", "again"]


def test_each_member_is_asked_with_its_own_settings(tmp_path: Path) -> None:
    instructions = asked(tmp_path, 2)
    brief = PoolModel(model="b", temperature=0.7, top_p=0.9, max_new_tokens=5, prompt_suffix=" Be brief.")
    members = (PoolModel(model="a", temperature=0), brief)
    lms = {member.name: Echo(member.name) for member in members}
    decode(instructions, data(pool=members), 0, tmp_path, lambda member: lms[member.name])
    assert lms["a@0"].settings[0] == {"max_gen_toks": 96, "until": [], "do_sample": False}
    sampled = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9}
    assert lms["b@0.7"].settings[0] == {"max_gen_toks": 5, "until": [], **sampled}
    found = read_answers(tmp_path)
    assert found["i/0"]["b@0.7"].endswith("<image>What is 0? Be brief.")
    assert found["i/0"]["a@0"].endswith("<image>What is 0?")


def test_names_that_are_paths_make_files_of_their_own_within_the_folder(tmp_path: Path) -> None:
    names = ("../../etc/x", "..-..-etc-x", "a b", "a-b", "x" * 300, "é", "è", ".hidden")
    paths = {answers_file(tmp_path, name) for name in names}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {tmp_path / "answers"}
    assert all(len(path.name) < 120 and not path.name.startswith(".") for path in paths)
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
    without_draw = {id: sorted(found) for id, found in read_answers(tmp_path).items()}
    assert without_draw == {id: sorted(names) for id, names in expected.items()}


# Killed.


def build(folder: Path) -> None:
    build_dataset(folder, data(), 0, ScenesJudge(), echo)


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

PAIR = (PoolModel(model="a"), PoolModel(model="b"))


def rows_of(folder: Path, member: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answers_file(folder, member).read_text().splitlines()]


def one(folder: Path, lm: Echo, count: int = 6) -> dict[str, answers.MemberCounts]:
    """Decode with `lm` as member a, which is asked everything, beside one that works."""
    members = {"a": lm, "b": Echo("b")}
    return decode(asked(folder, count), data(pool=PAIR), 0, folder, lambda member: members[member.model])


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
    found = decode([*mixed, *whole], data(pool=PAIR), 0, tmp_path, echo)
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

    decode(instructions, data(pool=PAIR), 0, tmp_path, lambda member: Looks(member.name))
    assert kinds[:2] == ["Image", "PromptImage"]


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
    drawn = draw(asked(tmp_path, 6), data(pool=PAIR), 0)
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
    loaded = sorted(id.split()[0] for id in JsonLines(tmp_path / "log.jsonl").by_id)
    assert loaded == sorted(member.name for member in POOL)
