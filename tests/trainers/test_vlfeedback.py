"""Answers, ratings and pairs: what is drawn, read and kept."""

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.errors import JudgeError
from support.files import JsonLines
from tasks.answer import FailedAnswer
from tasks.scenes.judge import ExactJudge
from trainers.config.data import ASPECTS, Data, PoolModel
from trainers.data import pair_rules
from trainers.data.rows import Preference
from trainers.vlfeedback import answers, rating_prompt
from trainers.vlfeedback.build import build_dataset, rows_of
from trainers.vlfeedback.instructions import Instruction, scenes_instructions

POOL = tuple(PoolModel(model=name) for name in ("a", "b", "c", "d", "e"))


def data(**changes: Any) -> Data:
    return Data(**{"instructions": 40, "pool": POOL, **changes})


class Echo:
    """Answers by its name and the seed it finds, so that a repeated shard can be told from another."""

    def __init__(self, name: str, fail: bool = False) -> None:
        self.name, self.fail, self.calls = name, fail, 0

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return chat_history[0]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        import torch

        self.calls += 1
        if self.fail:
            return [FailedAnswer("out of order") for _ in requests]
        return [f"{self.name} {int(torch.randint(10**6, ()))} {request.doc['id']}" for request in requests]


def echo(member: PoolModel) -> Echo:
    return Echo(member.model)


def given(folder: Path) -> dict[str, bytes]:
    """The files of answers."""
    return {path.name: path.read_bytes() for path in sorted((folder / "answers").glob("*.jsonl"))}


def test_every_member_answers_equally_often_and_never_twice() -> None:
    many = [Instruction(id=str(i), prompt="p", image="i", kind="caption") for i in range(500)]
    drawn = answers.draw(many, data(), seed=0)
    counts = {member.name: sum(member in members for members in drawn.values()) for member in POOL}
    assert set(counts.values()) == {400}
    assert all(len({member.name for member in members}) == 4 for members in drawn.values())
    assert drawn == answers.draw(many, data(), seed=0) != answers.draw(many, data(), seed=1)


def test_yes_no_instructions_come_in_pairs_on_one_image(tmp_path: Path) -> None:
    made = scenes_instructions(data(instructions=200), 0, tmp_path)
    assert len(made) == 200
    asked = [i for i in made[:-1] if i.kind == "yes/no"]
    images = {i.image: sum(j.image == i.image for j in asked) for i in asked}
    assert len(asked) > 20
    assert set(images.values()) <= {2, 1}
    assert sum(count == 1 for count in images.values()) <= 1  # the last pair may be cut off


def test_a_run_cut_anywhere_ends_with_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SHARD", 7)
    settings = data()
    whole = build_dataset(tmp_path / "whole", settings, 0, ExactJudge(), echo)
    expected = given(tmp_path / "whole")
    lines = expected["c@1.jsonl"].splitlines(keepends=True)
    for kept in (0, 3, 7, 30):
        folder = tmp_path / f"cut-{kept}"
        (folder / "answers").mkdir(parents=True)
        (folder / "answers" / "c@1.jsonl").write_bytes(
            b"".join(lines[:kept]) + lines[kept][:15]
        )  # killed while writing the next line
        again = build_dataset(folder, settings, 0, ExactJudge(), echo)
        assert given(folder) == expected
        for name in ("ratings.jsonl", "vlfeedback.jsonl", "pairs.jsonl"):
            assert (folder / name).read_text().replace(str(folder), "") == (
                tmp_path / "whole" / name
            ).read_text().replace(str(tmp_path / "whole"), "")
        assert again.counts == whole.counts


def test_a_finished_dataset_loads_no_model(tmp_path: Path) -> None:
    build_dataset(tmp_path, data(), 0, ExactJudge(), echo)

    def refuse(member: PoolModel) -> Echo:
        raise AssertionError(f"{member.name} was loaded again")

    assert build_dataset(tmp_path, data(), 0, ExactJudge(), refuse).failed == 0


def test_failed_answers_are_counted_kept_out_and_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trainers")
    first = build_dataset(
        tmp_path, data(), 0, ExactJudge(), lambda member: Echo(member.model, fail=member.model == "b")
    )
    assert first.failed == first.members["b@1"].missing == 32
    assert caplog.messages == ["b@1: 32 of 32 answers failed (32 x out of order); the same command asks again"]
    rows = [json.loads(line) for line in given(tmp_path)["b@1.jsonl"].splitlines()]
    assert all(row["failed"] == "out of order" and row["attempts"] == 3 and "answer" not in row for row in rows)
    assert not any("b@1" in members for members in answers.read_answers(tmp_path).values())
    second = build_dataset(tmp_path, data(), 0, ExactJudge(), echo)
    assert second.failed == 0
    assert sum("b@1" in members for members in answers.read_answers(tmp_path).values()) == 32


def test_a_failed_judge_call_is_no_rating_and_is_made_again(tmp_path: Path) -> None:
    class Moody(ExactJudge):
        asked = 0

        def ask(self, prompt: str, image: Any = None, sampling: Any = None) -> str:
            Moody.asked += 1
            if Moody.asked % 3 == 0:
                raise JudgeError("busy")
            return super().ask(prompt, image)

    first = build_dataset(tmp_path, data(), 0, Moody(), echo)
    assert first.failed == 40 // 3
    assert first.counts.rows == 40 - first.failed
    second = build_dataset(tmp_path, data(), 0, ExactJudge(), echo)
    assert (second.failed, second.counts.rows) == (0, 40)


def test_the_public_schema_is_vlfeedbacks(tmp_path: Path) -> None:
    build_dataset(tmp_path, data(), 0, ExactJudge(), echo)
    row = json.loads((tmp_path / "vlfeedback.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"id", "prompt", "models", "completions", "img_path"}
    assert row["models"] == [completion["model"] for completion in row["completions"]]
    for completion in row["completions"]:
        assert completion.keys() == {"model", "response", "annotations"}
        assert set(completion["annotations"]) == set(ASPECTS)
        assert all(isinstance(annotation["Rating"], str) for annotation in completion["annotations"].values())


def test_a_torn_last_line_is_cut_off_and_a_foreign_one_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "x": 1}\n{"id": "b", "x"')
    rows = JsonLines(path)
    rows.append([{"id": "c", "x": 3}])
    assert list(JsonLines(path).by_id) == ["a", "c"]
    path.write_text('{"id": "a"}\nnot json\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
        JsonLines(path)


REPLY = """#### **Helpfulness Assessment**
##### Output for Text 1
Rating: 4
Rationale: Fine. It says "Rating: 1" of itself.
##### Output for Text 2
**Rating:** 2/5
**Rationale:** Short.
#### Ethical Considerations Assessment
##### Output for Text 1
Rating: N/A
Rationale: -
##### Output for Text 2
Rating: 3
Rating: 5
#### Visual Faithfulness Assessment
##### Output for Text 2
Rating: 7
"""


def test_ratings_are_read_where_they_stand_or_not_at_all() -> None:
    read = rating_prompt.parse(REPLY, 2)
    assert [rating and rating[0] for rating in read["Helpfulness"]] == [4, 2]
    assert read["Helpfulness"][0] == (4, 'Fine. It says "Rating: 1" of itself.')
    assert read["Ethical Considerations"] == [None, None]  # not a number; two different ones
    assert read["Visual Faithfulness"] == [None, None]  # missing; out of range
    assert all(rating is None for found in rating_prompt.parse("no headings at all", 3).values() for rating in found)


def brute_force(rated: Mapping[str, Mapping[str, int | None]]) -> set[tuple[str, str]]:
    """The authors' rule, written once more from its description."""
    found = set()
    for a, b in itertools.permutations(rated, 2):
        if None in rated[a].values() or None in rated[b].values():
            continue
        if sum(v or 0 for v in rated[a].values()) > sum(v or 0 for v in rated[b].values()):
            found.add((a, b))
    return found


def rated_rows(
    seed: int, count: int
) -> tuple[list[Instruction], dict[str, dict[str, str]], dict[str, dict[str, dict[str, int | None]]]]:
    rng = random.Random(seed)
    instructions = [Instruction(id=str(i), prompt="p", image="i.png", kind="caption") for i in range(count)]
    texts = {i.id: {m: f"{m} on {i.id}" for m in "abcd"} for i in instructions}
    rated = {
        i.id: {m: {aspect: rng.choice((1, 2, 3, 4, 5, None)) for aspect in ASPECTS} for m in "abcd"}
        for i in instructions
    }
    return instructions, texts, rated


def paired(
    instructions: list[Instruction],
    texts: Mapping[str, Mapping[str, str]],
    rated: Mapping[str, Mapping[str, Any]],
    settings: Data,
) -> tuple[list[Preference], pair_rules.PairCounts]:
    rows = list(
        rows_of(
            instructions,
            texts,
            {id: {"order": list(rating_prompt), "ratings": rating_prompt} for id, rating_prompt in rated.items()},
            Path(),
        )
    )
    counts = pair_rules.PairCounts()
    rule, _ = pair_rules.settle(pair_rules.rule_of(settings), rows)
    return list(pair_rules.pair_up(rows, rule, counts)), counts


def test_the_authors_rule_equals_brute_force() -> None:
    instructions, texts, rated = rated_rows(0, 200)
    made, counts = paired(instructions, texts, rated, data())
    assert {(p.row_id, p.chosen_model, p.rejected_model) for p in made} == {
        (id, *pair) for id, row in rated.items() for pair in brute_force(row)
    }
    assert counts.pairs == len(made)
    assert counts.unrated == sum(None in r.values() for row in rated.values() for r in row.values())
    assert all((p.margin or 0) > 0 for p in made)


def test_the_dominant_rule_trades_no_aspect_for_another() -> None:
    instructions, texts, rated = rated_rows(1, 200)
    made, counts = paired(instructions, texts, rated, data(rule="dominant", min_chosen=4.0, per_instruction=1))
    assert made
    assert counts.refused > 0
    for pair in made:
        chosen, rejected = pair.chosen_ratings, pair.rejected_ratings
        assert all(int(chosen[aspect]) >= int(rejected[aspect]) for aspect in ASPECTS)
        assert sum(int(rating) for rating in chosen.values()) >= 12
    assert len({pair.row_id for pair in made}) == len(made)


def test_yes_and_no_are_chosen_equally_often() -> None:
    instructions = [Instruction(id=str(i), prompt="?", image="i.png", kind="yes/no") for i in range(9)]
    good, bad = dict.fromkeys(ASPECTS, 5), dict.fromkeys(ASPECTS, 1)
    texts = {i.id: {"a": "yes" if int(i.id) < 3 else "no", "b": "no" if int(i.id) < 3 else "yes"} for i in instructions}
    rated = {i.id: {"a": good, "b": bad} for i in instructions}
    made, counts = paired(instructions, texts, rated, data(balance_yes_no=True))
    assert sorted(pair.chosen for pair in made) == ["no"] * 3 + ["yes"] * 3
    assert counts.balanced_away == 3
