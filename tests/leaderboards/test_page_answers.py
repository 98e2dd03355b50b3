"""What a page holds of the answers: bounded, chosen by how models differ, read one run at a time."""

import base64
import gc
import gzip
import io
import json
import weakref
from collections.abc import Callable
from typing import Any

from PIL import Image

from leaderboards.board.sample import Sample
from leaderboards.views.page_answers import LONGEST, Asked, Packed, pack
from tests.leaderboards.makers import MakeSample

RUNS = {"run-1": "base", "run-2": "tuned", "run-3": "other"}
POPE = Asked(label="pope", task="pope", metric="f1", runs=RUNS)
MMHAL = Asked(label="mmhal", task="mmhal", metric="score", runs=RUNS)


def opened(packed: Packed, id: str) -> Any:
    text = next(block.text for block in packed.blocks if block.id == id)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def questions(packed: Packed, place: int = 0) -> list[str]:
    return [row[0] for row in opened(packed, packed.index[place]["block"])]


def png(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (32, 32), shade).save(data, "PNG")
    return data.getvalue()


def log_of(make_sample: MakeSample, counts: dict[str, int], flips: set[int]) -> Callable[[str], list[Sample]]:
    """Runs of which the second is better on `flips`."""

    def load(run: str) -> list[Sample]:
        return [
            make_sample(
                run=run,
                task=task,
                id=str(id),
                image=f"{task}-{id}",
                answer="yes",
                records={"f1": {"image": f"{task}-{id}", "correct": id in flips and run == "run-2"}},
            )
            for task, count in counts.items()
            for id in range(count)
        ]

    return load


def test_only_one_runs_samples_are_held_at_a_time(make_sample: MakeSample) -> None:
    alive: list[weakref.ref[list[Sample]]] = []
    most = 0

    class Log(list[Sample]):
        """A list that can be watched."""

    load = log_of(make_sample, {"pope": 20}, {3})

    def watched(run: str) -> list[Sample]:
        nonlocal most
        gc.collect()
        log = Log(load(run))
        alive.append(weakref.ref(log))
        most = max(most, sum(reference() is not None for reference in alive))
        return log

    packed = pack([POPE], watched)
    assert packed.answers == 60
    assert len(alive) == 6  # each log twice
    assert most == 1


def test_each_task_gets_its_part_of_the_room(make_sample: MakeSample) -> None:
    load = log_of(make_sample, {"pope": 40, "mmhal": 10}, {7, 9})
    packed = pack([POPE, MMHAL], load, answers=75)
    assert [(log["asked"], log["kept"]) for log in packed.index] == [(40, 20), (10, 5)]
    assert {"7", "9"} <= set(questions(packed)) & set(questions(packed, 1))
    assert (packed.answers, packed.questions) == (75, 25)
    assert packed.left_out[0].startswith("Of 50 questions, 25 are in this page")
    assert pack([POPE, MMHAL], load).left_out == []


def test_long_answers_take_more_of_the_room_and_very_long_texts_are_cut(make_sample: MakeSample) -> None:
    long = "word " * LONGEST

    def load(run: str) -> list[Sample]:
        return [
            make_sample(run=run, task="pope", id=str(id), answer=long if id == 1 else "yes", reply="no")
            for id in range(6)
        ]

    packed = pack([POPE], load, characters=3 * 5 * 5)
    assert "1" not in questions(packed)
    assert 0 < packed.questions < 6
    whole = pack([POPE], load)
    answers = [row[1] for row in opened(whole, whole.index[0]["logs"][0]["block"])]
    assert len(answers[1]) < LONGEST + 60
    assert answers[1].startswith(long[:LONGEST])
    assert f"[cut here; {len(long):,} characters]" in answers[1]
    assert whole.left_out == [f"3 texts of more than {LONGEST:,} characters are cut."]


def test_pictures_go_first_to_the_questions_on_which_models_differ(make_sample: MakeSample) -> None:
    load = log_of(make_sample, {"pope": 30}, {17, 23})
    packed = pack(
        [POPE], load, thumbnails=lambda task, image: png(int(image[5:])), pictures=len(png(17)) + len(png(23))
    )
    with_picture = [row[0] for row in opened(packed, packed.index[0]["block"]) if row[2]]
    assert with_picture == ["17", "23"]
    assert len(packed.pictures) == 2
    assert packed.left_out[0].startswith("Pictures of 28 images are left out")


def test_a_log_is_read_for_the_tasks_that_are_shown_only(make_sample: MakeSample) -> None:
    asked: list[str] = []

    def load(run: str) -> list[Sample]:
        asked.append(run)
        return log_of(make_sample, {"pope": 2, "gone": 5}, set())(run)

    packed = pack([Asked(label="pope", task="pope", metric="f1", runs={"run-2": "tuned"})], load)
    assert set(asked) == {"run-2"}
    assert packed.logged == {("pope", "tuned")}
    assert packed.answers == 2
