"""What decoding will take, before anything is loaded."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.files import JsonLines
from tests.trainers.answer_makers import Echo, asked, data
from trainers.config.data import PoolModel
from trainers.vlfeedback import answers
from trainers.vlfeedback.answers import answers_file, decode
from trainers.vlfeedback.decode_plan import ModelFacts, plan


def facts(*, served: Sequence[str] = (), **parameters: int) -> dict[str, ModelFacts]:
    known = {
        name: ModelFacts(
            model=name, where="loaded here", parameters=count, weights=2 * count, kept_per_position=100_000,
            image_positions=500, rows_at_once=8, source="its files",
        )
        for name, count in parameters.items()
    }  # fmt: skip
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
    decode(instructions, settings, 0, tmp_path, lambda member: Echo(member.name, fails=lambda id, times: id == "i/3"))
    known = facts(a=2 * 10**9, b=10**9)
    done = plan(instructions, settings, 0, known, tmp_path)
    for member in done.members:
        assert (member.rows, member.answered, member.failed, member.left, member.images) == (10, 9, 1, 1, 10)
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
