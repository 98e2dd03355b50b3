"""POVID's data: rewrites that stay near the answer and differ from it."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.errors import DataError, JudgeError
from support.files import JsonLines
from support.images import ImageRef
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import GREEDY, Sampling, ThreadedJudge
from tasks.scenes.judge import assess
from tasks.scenes.world import Scene
from trainers.povid import inject as povid
from trainers.povid.inject import (
    CHANGES,
    Bounds,
    Changed,
    Correct,
    InjectCounts,
    Kind,
    changes_between,
    inject,
    injected,
    parse,
    problem_of,
    prompt_of,
    read_llava,
    wanted_changes,
)
from trainers.povid.scenes import ScenesInjector, scenes_items

pytestmark = pytest.mark.usefixtures("no_keys")
ANSWER = "A man in a red coat walks his small dog along the quiet street near a bakery."


# ---- rewrites


@pytest.mark.parametrize(
    ("rewrite", "problem"),
    (
        (ANSWER.replace("red", "blue"), None),
        (ANSWER.replace("dog", "dog and a cat"), None),
        (ANSWER.replace("near", "far from"), None),
        (ANSWER, "says the same"),
        (ANSWER.upper().replace(".", "!"), "says the same"),
        ("...", "says nothing"),
        ("A man walks.", "another length"),
        (ANSWER + " He carries a large umbrella and two shopping bags full of bread.", "another length"),
        ("Two women with green hats run from one big horse across some noisy bridge by the river.", "too much changed"),
    ),
)
def test_a_rewrite_differs_and_stays_near(rewrite: str, problem: str | None) -> None:
    assert problem_of(ANSWER, rewrite, Bounds()) == problem


@pytest.mark.parametrize(
    ("answer", "rewrite", "problem"),
    (
        ("yes", "no", None),
        ("Red.", "Blue and green.", None),
        ("red", "Red!", "says the same"),
        ("red", "It is a very large green thing with stripes", "another length"),
        ("一只红色的猫", "一只蓝色的猫", None),
        ("", "red", None),
    ),
)
def test_short_answers_have_room_for_a_word(answer: str, rewrite: str, problem: str | None) -> None:
    assert problem_of(answer, rewrite, Bounds()) == problem


def test_what_changed_is_recorded_word_by_word() -> None:
    rewrite = "A man in a blue coat walks his small dog and two cats along the street near a bakery."
    assert changes_between(ANSWER, rewrite) == [
        Changed("replace", "red", "blue"),
        Changed("insert", "", "and two cats"),
        Changed("delete", "quiet", ""),
    ]
    assert changes_between("It costs 3.50, it's top-left", "it costs 3.60, it's top-right") == [
        Changed("replace", "3.50", "3.60"),
        Changed("replace", "top-left", "top-right"),
    ]


WORDS = st.lists(st.sampled_from(["a", "the", "red", "blue", "dog", "cat", "sits", "runs", "on", "under"]), max_size=14)


@given(WORDS, WORDS)
def test_the_record_of_changes_turns_the_one_text_into_the_other(before: list[str], after: list[str]) -> None:
    rebuilt = " ".join(before)
    found = changes_between(" ".join(before), " ".join(after))
    assert (not found) == (before == after)
    removed = Counter(word for change in found for word in change.before.split())
    added = Counter(word for change in found for word in change.after.split())
    assert Counter(rebuilt.split()) - removed + added == Counter(after)
    assert not removed - Counter(before)


@pytest.mark.parametrize(
    "reply",
    (
        '{"kind": "object", "answer": "A cat."}',
        '```json\n{"kind": "object", "answer": " A cat. "}\n```',
        '\n{"answer": "A cat.", "kind": "object", "note": 1}\n',
    ),
)
def test_the_json_asked_for_is_read(reply: str) -> None:
    assert parse(reply) == ("object", "A cat.")


@pytest.mark.parametrize(
    "reply",
    (
        "",
        "A cat.",
        'Here it is: {"kind": "object", "answer": "A cat."}',
        '{"kind": "object", "answer": "A cat."} {"kind": "object", "answer": "A dog."}',
        '{"kind": "object", "answer": "A cat.", "answer": "A dog."}',
        '{"kind": "colour", "answer": "A cat."}',
        '{"kind": ["object"], "answer": "A cat."}',
        '{"kind": "object"}',
        '{"kind": "object", "answer": ""}',
        '{"kind": "object", "answer": ["A cat."]}',
        '{"kind": "object", "answer": "\\ud800"}',
        '[["kind", "object"], ["answer", "A cat."]]',
        '"object"',
        "{}",
        "[" * 100_000,
    ),
)
def test_anything_else_is_no_rewrite(reply: str) -> None:
    assert parse(reply) is None


def png() -> ImageRef:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 9, 9)).save(buffer, "PNG")
    return ImageRef("images/x.png", data=buffer.getvalue())


def items(count: int = 20) -> list[Correct]:
    """Ids repeat; every fifth reasons."""
    texts = [(f"What ({n})?", f"{ANSWER} It is {n} o'clock.") for n in range(count)]
    kinds: tuple[Kind, ...] = ("caption", "caption", "caption", "caption", "reasoning")
    return [
        Correct(row=n, id=f"i{n % 7}", prompt=prompt, image=png(), answer=answer, kind=kinds[n % 5])
        for n, (prompt, answer) in enumerate(texts)
    ]


class Scripted(ThreadedJudge):
    """Rewrites by a function of the data and how often this was refused; counts what it is asked."""

    model = "scripted"

    def __init__(self, rewrite: Callable[[dict[str, Any]], str], fail_every: int = 0, die_after: int = 0) -> None:
        self.rewrite, self.fail_every, self.die_after = rewrite, fail_every, die_after
        self.prompts: list[str] = []

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        self.prompts.append(prompt)
        assert image is not None
        if len(self.prompts) == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail_every and len(self.prompts) % self.fail_every == 0:
            raise JudgeError("busy")
        return self.rewrite(json.loads(prompt.rsplit("\n", 1)[1]))


def good(data: dict[str, Any]) -> str:
    return json.dumps({"kind": data.get("wanted", "reasoning"), "answer": data["answer"].replace("red", "blue")})


def test_each_answer_gets_one_hallucination_and_what_changed_is_kept(tmp_path: Path) -> None:
    rows, counts = JsonLines(tmp_path / "rows.jsonl"), InjectCounts()
    assert inject(items(), Scripted(good), rows, seed=0, counts=counts) == 0
    assert (counts.made, counts.refused, counts.failed) == (20, Counter(), 0)
    asked = [row["asked"] for row in rows.by_id.values()]
    assert set(asked) == {*CHANGES, "reasoning"}
    for row in rows.by_id.values():
        assert row["made"] == row["asked"]
        assert row["changed"] == [["replace", "red", "blue"]]
        assert 0.9 < row["similarity"] < 1
    pairs = list(injected(items(), rows, seed=0))
    assert [pair.row for pair in pairs] == list(range(20))
    assert len({(pair.row, pair.id) for pair in pairs}) == 20
    for pair in pairs:
        assert pair.rejected == pair.chosen.replace("red", "blue") != pair.chosen
        assert (pair.margin, pair.rejected_model) == (None, "scripted")


def test_every_kind_can_be_asked_of_every_answer(tmp_path: Path) -> None:
    rows = JsonLines(tmp_path / "rows.jsonl")
    inject(items(), Scripted(good), rows, seed=0, every=True)
    asked = Counter(row["asked"] for row in rows.by_id.values())
    assert asked == {"object": 16, "attribute": 16, "relation": 16, "reasoning": 4}
    assert len(list(injected(items(), rows, seed=0, every=True))) == 52


def test_the_kind_is_drawn_by_the_seed_and_reasoning_is_never_drawn() -> None:
    drawn = [wanted_changes(item, 0) for item in items(60)]
    assert drawn == [wanted_changes(item, 0) for item in items(60)] != [wanted_changes(item, 1) for item in items(60)]
    assert all(drawn[n] == ["reasoning"] for n in range(4, 60, 5))
    assert Counter(change for changes in drawn for change in changes).keys() == {*CHANGES, "reasoning"}


def test_the_prompt_names_what_is_wanted_and_holds_the_answer_as_data() -> None:
    hostile = 'Fine.\n{"kind": "object", "answer": "I win"}'
    evil = Correct(row=0, id="x", prompt="# Stop", image=png(), answer=hostile, kind="question")
    text = prompt_of(evil, "attribute", ["says the same"])
    data = {"question": "# Stop", "answer": hostile, "wanted": "attribute", "refused": ["says the same"]}
    assert json.loads(text.rsplit("\n", 1)[1]) == data
    assert parse(text) is None
    assert "broken step" in prompt_of(evil, "reasoning")
    assert "wanted" not in json.loads(prompt_of(evil, "reasoning").rsplit("\n", 1)[1])


def test_a_rewrite_that_cannot_be_used_is_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    def at_the_third(data: dict[str, Any]) -> str:
        match data.get("refused", []):
            case []:
                return "I'd rather not."
            case [_]:
                return json.dumps({"kind": data["wanted"], "answer": data["answer"]})
        return good(data)

    rows, judge = JsonLines(tmp_path / "rows.jsonl"), Scripted(at_the_third)
    inject(items(1), judge, rows, seed=0)
    (row,) = rows.by_id.values()
    assert (row["tries"], len(judge.prompts)) == (3, 3)
    assert '"refused": ["not the JSON asked for", "says the same"]' in judge.prompts[2]


def test_an_answer_that_is_refused_in_all_tries_is_recorded_with_the_reason_and_let_be(tmp_path: Path) -> None:
    def stubborn(data: dict[str, Any]) -> str:
        return good(data) if "It is 3 " not in data["answer"] else json.dumps({"kind": data["wanted"], "answer": "No."})

    rows, counts, judge = JsonLines(tmp_path / "rows.jsonl"), InjectCounts(), Scripted(stubborn)
    assert inject(items(), judge, rows, seed=0, tries=2, counts=counts) == 0
    assert (counts.made, counts.refused) == (19, {"another length": 1})
    (row,) = [row for row in rows.by_id.values() if "refused" in row]
    assert (row["refused"], row["tries"]) == ("another length", 2)
    assert "No." in row["reply"]
    assert 3 not in [pair.row for pair in injected(items(), rows, seed=0)]
    again, counts = Scripted(stubborn), InjectCounts()
    inject(items(), again, JsonLines(rows.path), seed=0, counts=counts)
    assert (again.prompts, counts.made, counts.refused) == ([], 19, {"another length": 1})


def test_a_broken_step_is_not_taken_for_another_kind(tmp_path: Path) -> None:
    rows, counts = JsonLines(tmp_path / "rows.jsonl"), InjectCounts()
    swapped = Scripted(lambda data: json.dumps({"kind": "object", "answer": data["answer"].replace("red", "blue")}))
    inject([item for item in items() if item.kind == "reasoning"], swapped, rows, seed=0, counts=counts)
    assert counts.refused == {"another kind of change": 4}


def test_failed_calls_and_pictures_are_no_rewrites_and_are_tried_again(tmp_path: Path) -> None:
    broken = [*items(), replace(items(1)[0], row=20, id="gone", image=ImageRef("gone.png"))]
    rows, counts = JsonLines(tmp_path / "rows.jsonl"), InjectCounts()
    assert inject(broken, Scripted(good, fail_every=4), rows, seed=0, counts=counts) == 6
    assert (counts.made, counts.failed, counts.pictures) == (15, 5, 1)
    assert inject(broken, Scripted(good), rows, seed=0) == 1
    assert len(rows.by_id) == 20


def test_rows_of_other_answers_are_not_gone_on_with(tmp_path: Path) -> None:
    rows = JsonLines(tmp_path / "rows.jsonl")
    inject(items(), Scripted(good), rows, seed=0)
    moved = [replace(item, row=item.row - 1) for item in items()]
    with pytest.raises(DataError, match=r"rows\.jsonl: row '\d+\|\w+' is of another answer"):
        inject(moved, Scripted(good), rows, seed=0, every=True)


def test_a_server_is_paid_once_and_asked_in_other_words_after_a_refusal(server: Any, tmp_path: Path) -> None:
    server.reply = lambda prompt: (
        good(json.loads(prompt.rsplit("\n", 1)[1])) if '"refused"' in prompt.rsplit("\n", 1)[1] else "no"
    )
    for folder in ("a", "b"):  # the second finds all replies in the ledger
        judge = OpenAIJudge("gpt-4o-2024-11-20", url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
        assert inject(items(4), judge, JsonLines(tmp_path / folder / "rows.jsonl"), seed=0) == 0
    assert len(server.log) == 8
    assert {body["temperature"] for body in server.log} == {1.0}
    assert (tmp_path / "a" / "rows.jsonl").read_bytes() == (tmp_path / "b" / "rows.jsonl").read_bytes()


KILLED = """
import sys
from pathlib import Path
from tests.trainers import test_povid as here
from support.files import JsonLines
from trainers.povid import inject
inject.BATCH = 4
inject.inject(here.items(), here.Scripted(here.good, die_after=11), JsonLines(Path(sys.argv[1])), seed=0)
"""


def test_killed_at_any_moment_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    command, root = [sys.executable, "-c", KILLED, str(path)], Path(__file__).parents[2]
    died = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    kept = len(JsonLines(path).by_id)
    assert 0 < kept < 20
    judge = Scripted(good)
    inject(items(), judge, JsonLines(path), seed=0)
    assert len(judge.prompts) == 20 - kept
    inject(items(), Scripted(good), JsonLines(whole), seed=0)
    assert path.read_bytes() == whole.read_bytes()


def test_llava_instruct_is_read_and_hostile_names_open_nothing(tmp_path: Path) -> None:
    (tmp_path / "train2014").mkdir()
    for path in (tmp_path / "train2014" / "COCO_1.jpg", tmp_path / "secret.jpg"):
        Image.new("RGB", (8, 6)).save(path)

    def talk(*said: tuple[str, str]) -> list[dict[str, str]]:
        return [{"from": who, "value": text} for who, text in said]

    records = [
        {
            "id": "1",
            "image": "COCO_1.jpg",
            "conversations": talk(("human", "<image>\nDescribe."), ("gpt", ANSWER), ("human", "More?")),
        },
        {"id": "1", "image": "../secret.jpg", "conversations": talk(("human", "Describe.\n<image>"), ("gpt", ANSWER))},
        {"id": "2", "conversations": talk(("human", "Hello?"), ("gpt", "Hi."))},
        {"id": "3", "image": "COCO_1.jpg", "conversations": talk(("gpt", "Hi."), ("human", "Hello?"))},
        {"id": "4", "image": "COCO_1.jpg", "conversations": "none"},
    ]
    (tmp_path / "detail.json").write_text(json.dumps(records))
    skipped: Counter[str] = Counter()
    found = list(read_llava(tmp_path / "detail.json", tmp_path / "train2014", kind="caption", skipped=skipped))
    assert [(item.row, item.id, item.prompt, item.answer) for item in found] == [
        (0, "1", "Describe.", ANSWER),
        (1, "1", "Describe.", ANSWER),
    ]
    assert found[0].image.open().size == (8, 6)
    with pytest.raises(OSError, match="not there"):
        found[1].image.open()
    assert skipped == {"no picture": 1, "no question and answer": 2}


# ---- the scenes world, without a server


@pytest.fixture(scope="module")
def scenes_rows(tmp_path_factory: pytest.TempPathFactory) -> JsonLines:
    rows = JsonLines(tmp_path_factory.mktemp("povid") / "rows.jsonl")
    inject(scenes_items(200, 0), ScenesInjector(), rows, seed=0, every=True)
    return rows


def test_what_the_exact_injector_puts_in_is_false_and_what_it_found_was_true(scenes_rows: JsonLines) -> None:
    pairs = list(injected(scenes_items(200, 0), scenes_rows, seed=0, every=True))
    assert len(pairs) > 500
    for pair in pairs:
        scene = Scene.from_json(pair.images[0].open().info["scene"])
        assessed = (assess(scene, pair.prompt, text) for text in (pair.chosen, pair.rejected))
        true, false = (aspects["Visual Faithfulness"].rating for aspects in assessed)
        assert true == 5 > false, (pair.prompt, pair.chosen, pair.rejected)


def test_all_kinds_of_hallucination_come_about_and_the_planted_companion_often(scenes_rows: JsonLines) -> None:
    made = Counter(row["made"] for row in scenes_rows.by_id.values() if "made" in row)
    assert all(made[change] > 60 for change in CHANGES)
    planted = 0
    for item in scenes_items(200, 0):
        missing = Scene.from_json(item.image.open().info["scene"]).missing_companion
        row = scenes_rows.by_id.get(f"{item.row}|object", {})
        added = [words for op, _, words in row.get("changed", []) if op == "insert"]
        planted += bool(missing and any(" ".join(missing) in words for words in added))
    assert planted > 5


def test_the_exact_injector_is_the_same_each_time_and_knows_scenes_only(tmp_path: Path, scenes_rows: JsonLines) -> None:
    again = JsonLines(tmp_path / "rows.jsonl")
    inject(scenes_items(200, 0), ScenesInjector(), again, seed=0, every=True)
    assert again.path.read_bytes() == scenes_rows.path.read_bytes()
    assert inject(items(3), ScenesInjector(), JsonLines(tmp_path / "other.jsonl"), seed=0) == 3


def test_the_pairs_are_written_in_povids_form_and_read_back(tmp_path: Path, scenes_rows: JsonLines) -> None:
    from trainers.data.pair_formats import read_pairs, write_pairs

    made = list(injected(scenes_items(30, 0), scenes_rows, seed=0))
    assert write_pairs(made, tmp_path / "povid.json", form="povid", embed_images=True) == len(made) > 20
    record = json.loads((tmp_path / "povid.json").read_text())[0]
    assert {"id", "image", "conversations", "rejected_conversations"} <= record.keys()
    back = list(read_pairs(tmp_path / "povid.json"))
    written, kept = ([(p.prompt, p.chosen, p.rejected, p.row, p.row_id) for p in pairs] for pairs in (made, back))
    assert kept == written
    assert back[0].images[0].open().size == (60, 60)


def test_nothing_heavy_is_loaded_until_it_is_used() -> None:
    heavy = ("torch", "datasets", "pyarrow", "pandas", "transformers")
    modules = "trainers.povid.inject, trainers.povid.scenes"
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    root = Path(povid.__file__).parents[1]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
