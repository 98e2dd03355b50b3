"""Answers, ratings and pairs: what is drawn, read and kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.errors import JudgeError
from tasks.scenes.judge import ScenesJudge
from tests.trainers import answer_makers
from tests.trainers.answer_makers import POOL, Echo
from trainers.config.data import ASPECTS, Data, PoolModel
from trainers.data.pair_formats import read_pairs
from trainers.data.rows import Preference
from trainers.vlfeedback import answers, build
from trainers.vlfeedback.build import build_dataset, rows_of
from trainers.vlfeedback.instructions import Instruction, scenes_instructions


def data(**changes: Any) -> Data:
    return answer_makers.data(**{"instructions": 40, **changes})


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
    whole = build_dataset(tmp_path / "whole", settings, 0, ScenesJudge(), echo)
    expected = given(tmp_path / "whole")
    lines = expected["c@1.jsonl"].splitlines(keepends=True)
    for kept in (0, 3, 7, 30):
        folder = tmp_path / f"cut-{kept}"
        (folder / "answers").mkdir(parents=True)
        cut = b"".join(lines[:kept]) + lines[kept][:15]  # killed while writing the next line
        (folder / "answers" / "c@1.jsonl").write_bytes(cut)
        again = build_dataset(folder, settings, 0, ScenesJudge(), echo)
        assert given(folder) == expected
        for name in ("ratings.jsonl", "vlfeedback.jsonl", "pairs.jsonl"):
            made, wanted = ((at / name).read_text().replace(str(at), "") for at in (folder, tmp_path / "whole"))
            assert made == wanted
        assert again.counts == whole.counts


def test_a_finished_dataset_loads_no_model(tmp_path: Path) -> None:
    build_dataset(tmp_path, data(), 0, ScenesJudge(), echo)

    def refuse(member: PoolModel) -> Echo:
        raise AssertionError(f"{member.name} was loaded again")

    assert build_dataset(tmp_path, data(), 0, ScenesJudge(), refuse).failed == 0


def test_failed_answers_are_counted_kept_out_and_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trainers")
    first = build_dataset(
        tmp_path, data(), 0, ScenesJudge(), lambda member: Echo(member.model, fails=lambda *asked: member.model == "b")
    )
    assert first.failed == first.members["b@1"].missing == 32
    assert caplog.messages == ["b@1: 32 of 32 answers failed (32 x out of order); the same command asks again"]
    rows = [json.loads(line) for line in given(tmp_path)["b@1.jsonl"].splitlines()]
    assert all(row["failed"] == "out of order" and row["attempts"] == 3 and "answer" not in row for row in rows)
    assert not any("b@1" in members for members in answers.read_answers(tmp_path).values())
    second = build_dataset(tmp_path, data(), 0, ScenesJudge(), echo)
    assert second.failed == 0
    assert sum("b@1" in members for members in answers.read_answers(tmp_path).values()) == 32


def test_a_failed_judge_call_is_no_rating_and_is_made_again(tmp_path: Path) -> None:
    class FailsEveryThird(ScenesJudge):
        asked = 0

        def ask(self, prompt: str, image: Any = None, sampling: Any = None) -> str:
            FailsEveryThird.asked += 1
            if FailsEveryThird.asked % 3 == 0:
                raise JudgeError("busy")
            return super().ask(prompt, image)

    first = build_dataset(tmp_path, data(), 0, FailsEveryThird(), echo)
    assert first.failed == 40 // 3
    assert first.counts.rows == 40 - first.failed
    second = build_dataset(tmp_path, data(), 0, ScenesJudge(), echo)
    assert (second.failed, second.counts.rows) == (0, 40)


@pytest.mark.parametrize(
    ("said", "why"),
    (
        ({"chosen": "a ring", "rejected": "a ring"}, "of two equal answers"),
        ({"chosen": "a ring", "rejected": " a ring\n"}, "of two equal answers"),
        ({"chosen": ""}, "with an empty answer"),
        ({"rejected": " \n"}, "with an empty answer"),
        ({"chosen": "", "rejected": ""}, "with an empty answer"),
    ),
)
def test_pairs_with_nothing_to_learn_from_are_left_out(
    said: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = Preference(id="0", prompt="What?", images=(), chosen="a ring", rejected="a cube", row=0)
    monkeypatch.setattr(build, "pair_up", lambda rows, rule, counts: [replace(good, id="1", **said), good])
    caplog.set_level("INFO")
    assert build_dataset(tmp_path, data(), 0, ScenesJudge(), echo).pairs == [good]
    assert [pair.id for pair in read_pairs(tmp_path / "pairs.jsonl")] == ["0"]
    assert f"of 2 pairs 1 left out {why} ('1')" in caplog.text


def test_the_public_schema_is_vlfeedbacks(tmp_path: Path) -> None:
    build_dataset(tmp_path, data(), 0, ScenesJudge(), echo)
    row = json.loads((tmp_path / "vlfeedback.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"id", "prompt", "models", "completions", "img_path"}
    assert row["models"] == [completion["model"] for completion in row["completions"]]
    for completion in row["completions"]:
        assert completion.keys() == {"model", "response", "annotations"}
        assert set(completion["annotations"]) == set(ASPECTS)
        assert all(isinstance(annotation["Rating"], str) for annotation in completion["annotations"].values())


def test_a_rating_that_could_not_be_read_is_written_as_no_number() -> None:
    instruction = Instruction(id="0", prompt="p", image="i.png", kind="caption")
    given = {"a": dict.fromkeys(ASPECTS, 5), "b": dict.fromkeys(ASPECTS)}
    (row,) = rows_of(
        [instruction], {"0": {"a": "yes", "b": "no"}}, {"0": {"order": ["b", "a"], "ratings": given}}, Path()
    )
    assert [(answer.model, set(answer.ratings.values())) for answer in row.completions] == [
        ("b", {"N/A"}),
        ("a", {"5"}),
    ]
