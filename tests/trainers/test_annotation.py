"""How ratings of folders and datasets come about, go on and are compared."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.evaluation.rater_agreement import read_ratings, report
from support.errors import DataError, JudgeError
from support.files import JsonLines, file_lock
from support.images import ImageRef
from support.progress import show_on
from tasks.judges.batch import BatchJudge
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import GREEDY, Judge, Sampling, ThreadedJudge
from tasks.judges.settings import JudgeSettings
from trainers.config.data import ASPECTS, RatingMode, TextOrder
from trainers.data.rows import Completion, Row
from trainers.vlfeedback import annotation
from trainers.vlfeedback.annotation import (
    RatingProtocol,
    annotate_folder,
    annotate_rows,
    name_completions,
    ratings_file,
    read_folder,
    select_part,
    with_ratings,
    write_published,
)
from trainers.vlfeedback.rating_counts import RatingCounts, count_unread

pytestmark = pytest.mark.usefixtures("no_keys")
HELP = ASPECTS[0]
JUDGE = "gpt-4o-2024-11-20"


def reply_of(rated: dict[str, list[int]]) -> str:
    """A judge's reply as the prompt asks for it."""
    return "\n".join(
        f"#### {aspect} Assessment\n"
        + "\n".join(
            f"##### Output for Text {number}\nRating: {rating}\nRationale: reason {number} for {aspect}."
            for number, rating in enumerate(points, start=1)
        )
        for aspect, points in rated.items()
    )


class Steady(ThreadedJudge):
    """Rates each text by its own words, so that ratings tell whether they went to the right text; counts what it is
    asked."""

    def __init__(self, model: str = "steady", fail_every: int = 0, die_after: int = 0, shift: int = 0) -> None:
        self.model, self.fail_every, self.die_after, self.shift = model, fail_every, die_after, shift
        self.prompts: list[str] = []

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        self.prompts.append(prompt)
        assert image is not None
        assert image.size == (8, 6)
        if len(self.prompts) == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail_every and len(self.prompts) % self.fail_every == 0:
            raise JudgeError("busy")
        texts = json.loads(prompt.rsplit("\n", 1)[1])["texts"]
        return reply_of({aspect: [self.rate(text, aspect) for text in texts] for aspect in ASPECTS})

    def rate(self, text: str, aspect: str) -> int:
        return (sum(map(ord, text)) + len(aspect) + self.shift) % 5 + 1


MEMBERS = ("zeta", "alpha", "mid", "beta")


def folder_of(path: Path, count: int = 30) -> Path:
    (path / "images").mkdir(parents=True)
    instructions, answers = [], []
    for n in range(count):
        Image.new("RGB", (8, 6), (n, 0, 0)).save(path / "images" / f"{n}.png")
        instructions.append({"id": f"i{n}", "prompt": f"What is there ({n})?", "image": f"{n}.png", "kind": "question"})
        answers += [{"id": f"i{n}|{member}", "answer": f"{member} says {n}"} for member in MEMBERS]
    for name, rows in (("instructions", instructions), ("answers", answers)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four answers to each of thirty instructions, by members whose names are not in the alphabet's order."""
    return folder_of(tmp_path / "data")


def annotated(folder: Path, judge: Judge, into: Path | None = None, **settings: Any) -> RatingCounts:
    return annotate_folder(folder, judge, RatingProtocol(**settings), into=into)


def test_ratings_belong_to_their_text_in_every_mode_and_order(folder: Path) -> None:
    judge, found = Steady(), {}
    for mode in get_args(RatingMode):
        for order in get_args(TextOrder):
            before = len(judge.prompts)
            assert annotated(folder, judge, seed=3, mode=mode, order=order).missing == 0
            assert len(judge.prompts) - before == 30 * (1 if mode == "joint" else 3)
            found[mode, order] = JsonLines(ratings_file(folder, "steady", mode, order)).by_id
    _, answers = read_folder(folder)
    for rows in found.values():
        for key, row in rows.items():
            for member, given_points in row["ratings"].items():
                assert given_points == {aspect: judge.rate(answers[key][member], aspect) for aspect in ASPECTS}
    for mode in get_args(RatingMode):
        assert {tuple(row["order"]) for row in found[mode, "authors"].values()} == {MEMBERS}
        orders = [tuple(row["order"]) for row in found[mode, "shuffled"].values()]
        assert len(set(orders)) > 10
        assert orders == [tuple(row["order"]) for row in found["joint", "shuffled"].values()]
        assert all(row["seed"] == 3 and row["mode"] == mode for row in found[mode, "shuffled"].values())


def test_four_files_of_the_four_ways_of_asking_are_kept_apart(folder: Path) -> None:
    both = itertools.product(get_args(RatingMode), get_args(TextOrder))
    names = {ratings_file(folder, "a/b", mode, order).stem for mode, order in both}
    start = "ratings-a-b"
    assert names == {start, f"{start}-per-aspect", f"{start}-authors", f"{start}-per-aspect-authors"}


def test_failed_calls_are_no_ratings_and_are_made_again(folder: Path) -> None:
    counts = annotated(folder, Steady(fail_every=4), mode="per-aspect")
    assert counts.missing == counts.failed == 22
    path = ratings_file(folder, "steady", "per-aspect")
    assert len(JsonLines(path).by_id) == counts.rated < 30
    assert annotated(folder, Steady(), mode="per-aspect").missing == 0
    assert annotated(folder, Steady(), folder / "whole.jsonl", mode="per-aspect").missing == 0
    assert sorted(path.read_text().splitlines()) == sorted((folder / "whole.jsonl").read_text().splitlines())


def test_of_three_calls_only_the_lost_one_is_paid_again(server: Any, folder: Path, tmp_path: Path) -> None:
    judge = OpenAIJudge(JUDGE, url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    server.reply = lambda prompt: reply_of({aspect: [3] * 4 for aspect in ASPECTS})
    server.faults = ["refusal"]
    assert annotated(folder, judge, part=5, mode="per-aspect").missing == 1
    assert len(JsonLines(ratings_file(folder, JUDGE, "per-aspect")).by_id) == 4
    assert annotated(folder, judge, part=5, mode="per-aspect").missing == 1
    assert len(server.log) == 5 * 3  # a refusal was paid for
    again = OpenAIJudge(JUDGE, url=server.url, ledger=judge.client.ledger, settings=JudgeSettings(retry_unread=True))
    assert annotated(folder, again, part=5, mode="per-aspect").missing == 0
    assert len(server.log) == 5 * 3 + 1


def test_the_batch_api_gets_one_file_and_not_one_for_each_write(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation, "BATCH", 4)
    judge = BatchJudge(JUDGE, url=server.url, ledger=Ledger(tmp_path / "l.sqlite"))
    judge.poll = 0.01
    server.reply = lambda prompt: reply_of({aspect: [3] * 4 for aspect in ASPECTS})
    assert annotated(folder_of(tmp_path / "many"), judge).missing == 0
    assert len(server.batches) == 1
    assert len(server.log) == 30


KILLED = """
import sys
from pathlib import Path
from tests.trainers import test_annotation as here
from trainers.vlfeedback import annotation
annotation.BATCH = 4
here.annotated(Path(sys.argv[1]), here.Steady(die_after=int(sys.argv[2])), mode=sys.argv[3])
"""


@pytest.mark.parametrize(("mode", "after"), (("joint", 11), ("per-aspect", 50)))
def test_killed_at_any_moment_the_same_command_gives_the_same_bytes(mode: Any, after: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", KILLED, str(folder), str(after), mode]
    died = subprocess.run(arguments, cwd=root, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    path = ratings_file(folder, "steady", mode)
    kept = JsonLines(path).by_id
    assert 0 < len(kept) < 30
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "i29", "ord')  # and another process died while it wrote
    again = Steady()
    assert annotated(folder, again, mode=mode).missing == 0
    assert len(again.prompts) == (30 - len(kept)) * (1 if mode == "joint" else 3)
    assert annotated(folder, Steady(), mode=mode, into=tmp_path / "whole.jsonl").missing == 0
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_part_is_drawn_by_the_seed_and_a_larger_one_asks_for_the_rest(folder: Path) -> None:
    judge = Steady()
    heard: list[tuple[int, int]] = []
    with show_on(lambda stage, *both: heard.append(both)):
        annotated(folder, judge, seed=1, part=0.2)
    few = set(JsonLines(ratings_file(folder, "steady")).by_id)
    assert (len(few), heard[-1]) == (6, (6, 6))
    annotated(folder, judge, seed=1, part=15)
    more = set(JsonLines(ratings_file(folder, "steady")).by_id)
    assert few < more
    assert len(more) == len(judge.prompts) == 15
    other = folder / "other.jsonl"
    annotated(folder, judge, seed=2, part=15, into=other)
    assert set(JsonLines(other).by_id) != more
    annotated(folder, judge, seed=1)
    assert len(JsonLines(ratings_file(folder, "steady")).by_id) == 30


@pytest.mark.parametrize("part", (0, -1, 0.0, 1.5, True))
def test_a_part_that_is_none_is_refused(part: Any, folder: Path) -> None:
    with pytest.raises(DataError, match=r"must be a number of instructions .* or a share above 0"):
        annotated(folder, Steady(), part=part)


@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 3))
@settings(max_examples=40)
def test_a_chosen_part_keeps_order_and_size_and_is_nested(count: int, part: int, seed: int) -> None:
    items = [str(n) for n in range(count)]
    picked = list(select_part(items, part, seed, str))
    assert len(picked) == min(part, count)
    assert picked == sorted(picked, key=int)
    assert set(picked) <= set(select_part(items, part + 1, seed, str))
    share = set(select_part(items, 0.3, seed, str))
    assert share <= set(select_part(items, 0.5, seed, str)) <= set(select_part(items, 1.0, seed, str)) == set(items)


def test_a_share_of_a_stream_is_about_that_share() -> None:
    assert 900 < sum(1 for _ in select_part(map(str, range(10_000)), 0.1, 0, str)) < 1100


def test_ratings_of_another_seed_or_other_answers_are_not_gone_on_with(folder: Path) -> None:
    annotated(folder, Steady(), part=3)
    with pytest.raises(DataError, match=r"ratings-steady\.jsonl: row 'i\d+' has seed 0, and 1 is asked for"):
        annotated(folder, Steady(), seed=1)
    with pytest.raises(DataError, match="has mode 'joint', and 'per-aspect' is asked for"):
        annotated(folder, Steady(), into=ratings_file(folder, "steady"), mode="per-aspect")
    answers = (folder / "answers.jsonl").read_text()
    (folder / "answers.jsonl").write_text(answers.replace("|mid", "|other"))
    with pytest.raises(DataError, match=r"rates answers that are not there \(mid\)"):
        annotated(folder, Steady())


def test_an_answer_that_comes_late_has_its_row_rated_anew(folder: Path) -> None:
    answers = (folder / "answers.jsonl").read_text()
    late = '{"id": "i7|mid", "answer": "mid says 7"}\n'
    (folder / "answers.jsonl").write_text(answers.replace(late, ""))
    annotated(folder, Steady())
    (folder / "answers.jsonl").write_text(answers)
    judge = Steady()
    assert annotated(folder, judge).missing == 0
    assert len(judge.prompts) == 1
    annotated(folder, Steady(), into=folder / "whole.jsonl")
    assert ratings_file(folder, "steady").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert len(read_ratings(folder / "whole.jsonl")) == 30 * 4 * 3


def test_two_processes_do_not_rate_into_one_file(folder: Path) -> None:
    other = file_lock(ratings_file(folder, "steady"), wait=True)
    with other, pytest.raises(DataError, match="another process is rating"):
        annotated(folder, Steady())


def test_pictures_that_cannot_be_read_are_counted_and_tried_again(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((folder / "images" / "0.png").read_bytes())
    text = (folder / "instructions.jsonl").read_text()
    hostile = text.replace('"0.png"', '"../../secret.png"').replace('"1.png"', json.dumps(str(tmp_path / "secret.png")))
    (folder / "images" / "2.png").write_bytes(b"no picture")
    (folder / "images" / "3.png").unlink()
    (folder / "images" / "4.png").unlink()
    (folder / "images" / "4.png").symlink_to(tmp_path / "secret.png")
    (folder / "instructions.jsonl").write_text(hostile)
    counts = annotated(folder, Steady())
    assert counts.missing == 5
    assert (counts.pictures, counts.failed, counts.rated) == (5, 0, 25)
    assert not {f"i{n}" for n in range(5)} & JsonLines(ratings_file(folder, "steady")).by_id.keys()


class LeavesOneOut(Steady):
    """Leaves Visual Faithfulness of the third text without a number."""

    def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
        head, mark, tail = super().ask(prompt, image).rpartition("##### Output for Text 3\nRating: ")
        return head + mark + "good" + tail[1:]


def test_places_without_a_rating_are_counted_by_aspect_and_the_reply_is_kept(folder: Path) -> None:
    counts = annotated(folder, LeavesOneOut(), part=7)
    rows = JsonLines(ratings_file(folder, "steady"))
    assert count_unread(rows) == {HELP: 0, "Ethical Considerations": 0, "Visual Faithfulness": 7}
    assert counts.unread == {"Visual Faithfulness": 7}
    for row in rows.by_id.values():
        assert row["ratings"][row["order"][2]]["Visual Faithfulness"] is None
        assert "Rating: good" in row["unread"][0]
    annotated(folder, Steady(), into=folder / "clear.jsonl")
    assert "unread" not in (folder / "clear.jsonl").read_text()


def test_two_judges_of_a_part_are_held_against_each_other(folder: Path) -> None:
    annotated(folder, Steady("first"))
    annotated(folder, Steady("second", shift=5), part=10)
    annotated(folder, Steady("third", shift=1), seed=5, part=12)
    first, second, third = (read_ratings(ratings_file(folder, name)) for name in ("first", "second", "third"))
    same = json.loads(report(first, second, ("first", "second"), as_json=True))
    assert (same["items"], same["exact"]["value"], same["groups"]) == (10 * 4 * 3, 100.0, 10)
    assert same["only_one"] == 20 * 4 * 3
    assert json.loads(report(first, third, ("first", "third"), as_json=True))["exact"]["value"] == 0.0
    assert "second minus first" in report(first, second, ("first", "second"))


def completion(model: str, text: str, ratings: dict[str, str]) -> Completion:
    return Completion(model=model, response=text, ratings=ratings)


def picture_of(n: int) -> ImageRef:
    buffer = BytesIO()
    Image.new("RGB", (8, 6), (n, 9, 0)).save(buffer, "PNG")
    return ImageRef(f"merged_images/{n}.png", data=buffer.getvalue())


def dataset(count: int = 20) -> Iterator[Row]:
    """Rows as the public data have them: ids repeat, one model answers twice, ratings are texts and some are none."""
    for n in range(count):
        models = ("zeta", "alpha", "alpha", "mid")
        texts = [f"{model} {place} says {n}" for place, model in enumerate(models)]
        ratings = [{aspect: str(Steady().rate(text, aspect)) for aspect in ASPECTS} for text in texts]
        completions = list(map(completion, models, texts, ratings))
        if n == 4:
            completions[0] = replace(completions[0], ratings=dict.fromkeys(ASPECTS, "N/A"))
        images = () if n == 7 else (picture_of(n),) * (2 if n == 8 else 1)
        if n == 9:
            images = (ImageRef("gone.jpg"),)
        answers = tuple(completions[: 1 if n == 10 else 4])
        yield Row(index=n, id=str(n % 6), prompt=f"What ({n})?", images=images, completions=answers)


def test_rows_of_the_public_data_are_rated_by_index(tmp_path: Path) -> None:
    out = tmp_path / "second.jsonl"
    counts = annotate_rows(dataset(), Steady(shift=1), out, RatingProtocol())
    assert counts.missing == 1
    assert (counts.rated, counts.left_out, counts.pictures) == (16, 3, 1)
    rows = JsonLines(out)
    assert rows.by_id.keys() == {str(n) for n in range(20)} - {"7", "8", "9", "10"}
    assert sorted(rows.by_id["3"]["order"]) == ["alpha", "alpha.2", "mid", "zeta"]
    for row in with_ratings(dataset(), rows):
        assert [completion.model for completion in row.completions] == ["zeta", "alpha", "alpha", "mid"]
        for completion in row.completions:
            expected = {aspect: str(Steady(shift=1).rate(completion.response, aspect)) for aspect in ASPECTS}
            assert completion.ratings == expected
            assert set(completion.rationales) == set(ASPECTS)
    again = Steady()
    assert annotate_rows(dataset(), again, out, RatingProtocol()).missing == 1
    assert again.prompts == []


def test_a_part_of_the_public_data_is_held_against_its_own_ratings(tmp_path: Path) -> None:
    out, own = tmp_path / "second.jsonl", tmp_path / "published.jsonl"
    annotate_rows(dataset(), Steady(), out, RatingProtocol(part=8, order="authors"))
    assert write_published(dataset(), JsonLines(out), own) == len(JsonLines(out).by_id) <= 8
    found = json.loads(report(read_ratings(own), read_ratings(out), ("published", "second"), as_json=True))
    without = 3 if "4" in JsonLines(out).by_id else 0
    items = len(JsonLines(out).by_id) * 12 - without
    assert (found["items"], found["left_out"], found["exact"]["value"]) == (items, without, 100.0)


def test_another_datasets_rows_are_not_taken_for_these(tmp_path: Path) -> None:
    out = tmp_path / "second.jsonl"
    annotate_rows(dataset(), Steady(), out, RatingProtocol())
    shifted = (replace(row, index=row.index - 1) for row in dataset())
    with pytest.raises(DataError, match=r"row '0' has row_id '0', and '1' is asked for"):
        annotate_rows((row for row in shifted if row.index >= 0), Steady(), out, RatingProtocol())


def test_a_dataset_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation, "BATCH", 4)
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        for row in dataset():
            taken += 1
            yield row

    ahead: list[int] = []

    class Watching(Steady):
        def ask(self, prompt: str, image: Any = None, sampling: Sampling = GREEDY) -> str:
            ahead.append(taken - len(self.prompts))
            return super().ask(prompt, image)

    annotate_rows(rows(), Watching(), tmp_path / "out.jsonl", RatingProtocol())
    assert max(ahead) <= 4 + 4  # a batch, and those that were left out


def test_models_that_answer_twice_are_told_apart() -> None:
    assert [name for name, _ in name_completions(next(dataset()))] == ["zeta", "alpha", "alpha.2", "mid"]


def test_the_exact_judge_rates_alike_in_both_modes(tmp_path: Path) -> None:
    from tasks.scenes.judge import ScenesJudge
    from tasks.scenes.language import caption
    from tasks.scenes.world import make_scene
    from trainers.vlfeedback.annotation import annotate, items_of
    from trainers.vlfeedback.instructions import Instruction, write_image

    rng = random.Random(0)
    asked, texts = [], {}
    for n in range(12):
        scene = make_scene(f"train/{n}")
        image = write_image(scene, tmp_path)
        asked.append(Instruction(id=str(n), prompt="describe the image in detail.", image=image, kind="caption"))
        true = caption(scene)
        short = caption(scene, detailed=False)
        texts[str(n)] = {"true": true, "short": short, "wrong": true.replace("red", "blue"), "rude": f"{true} mess."}
    rng.shuffle(asked)
    found = []
    for mode in get_args(RatingMode):
        rows = JsonLines(tmp_path / f"{mode}.jsonl")
        items = items_of(asked, texts, tmp_path)
        assert annotate(items, rows, ScenesJudge(), RatingProtocol(mode=mode)).missing == 0
        found.append(rows.by_id)
    assert found[0] == found[1]
    assert all(row["ratings"]["true"]["Visual Faithfulness"] == 5 for row in found[0].values())


def test_ratings_of_a_judge_asked_otherwise_are_not_mixed(server: Any, folder: Path, tmp_path: Path) -> None:
    server.reply = lambda prompt: reply_of({aspect: [3] * 4 for aspect in ASPECTS})
    ledger = Ledger(tmp_path / "l.sqlite")
    assert annotated(folder, OpenAIJudge("m", url=server.url, ledger=ledger), part=2).missing == 0
    low = OpenAIJudge("m", url=server.url, ledger=ledger, settings=JudgeSettings(reasoning_effort="low"))
    with pytest.raises(DataError, match="has judge_settings '', and 'reasoning_effort = low' is asked for"):
        annotated(folder, low, part=2)
    path = ratings_file(folder, "m")
    rows = [{**row} for row in JsonLines(path).by_id.values()]
    for row in rows:
        del row["judge_settings"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # of earlier versions, which did not say
    assert annotated(folder, low, part=2).missing == 0
    assert len(server.log) == 2
