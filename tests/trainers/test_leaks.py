"""The leak check: planted leaks are found, clean data stay clean, and what is dropped is what was found."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support import images as pictures
from support.errors import DataError
from support.images import ImageRef, keep
from support.progress import show_on
from tasks.scenes.world import render, scenes
from tests.trainers.image_makers import encoded, photo
from trainers.data.contamination import ALL, SIMILAR, Benchmark, Document, Leak, Leaks, benchmark_of, drop, find_leaks
from trainers.data.image_hashes import HashCache
from trainers.data.questions import COMMON
from trainers.data.rows import Preference, Row

SPECIFIC = "Which of the two cyclists on the wet bridge is holding the torn umbrella?"


def shown(image: Image.Image | int, name: str = "", kind: str = "PNG", **options: object) -> ImageRef:
    return ImageRef(name, data=encoded(photo(image) if isinstance(image, int) else image, kind, **options))


def row(index: int, prompt: str, *images: ImageRef, id: str = "") -> Row:
    return Row(index=index, id=id or f"id-{index}", prompt=prompt, images=images)


def asked(number: int) -> str:
    """A question that no other number's is near to."""
    words = enumerate(("alpha", "beta", "gamma", "delta", "omega", "sigma"))
    return " ".join(f"{word}{number * 31 + place}" for place, word in words)


def clean_rows(start: int = 0, count: int = 8) -> list[Row]:
    return [row(start + number, asked(number), shown(100 + number, f"VG_100K/{number}.jpg")) for number in range(count)]


@pytest.fixture
def held() -> Benchmark:
    documents = []
    for number in range(1, 7):
        question, name = f"Question {asked(500 + number)}?", f"COCO_val2014_{number:012}.jpg"
        documents.append(Document(id=f"q{number}", question=question, images=(shown(number),), name=name))
    return Benchmark(task="bench", documents=documents)


def evidence(leaks: Leaks) -> dict[int, set[tuple[str, tuple[str, ...]]]]:
    found: dict[int, set[tuple[str, tuple[str, ...]]]] = {}
    for leak in leaks.leaks:
        found.setdefault(leak.row, set()).add((leak.document, leak.evidence))
    return found


def test_clean_data_have_no_leaks(held: Benchmark) -> None:
    leaks = find_leaks(clean_rows(), [held])
    assert leaks.leaks == ()
    assert leaks.summary() == {"bench": 0}
    assert leaks.rows == 8
    assert leaks.tasks["bench"].documents == leaks.tasks["bench"].images == 6


def test_each_kind_of_leak_is_found_as_what_it_is(held: Benchmark) -> None:
    planted = [
        *clean_rows(),
        row(8, "What?", shown(1, "any.webp", "WEBP", lossless=True)),
        row(9, "What?", shown(2, "any.jpg", "JPEG", quality=60)),
        row(10, "What?", shown(photo(3).resize((80, 60)), "half.png")),
        row(11, "What?", shown(200, "coco/train2017/000000000004.jpg")),
        row(12, f"<image>\nquestion {asked(505)}", shown(5)),
        row(13, f"question {asked(506)}", shown(300)),
        row(14, f"The question {asked(506)}", shown(301)),
    ]
    assert evidence(find_leaks(planted, [held])) == {
        8: {("q1", ("same image",))},
        9: {("q2", ("looks alike",))},
        10: {("q3", ("looks alike",))},
        11: {("q4", ("same COCO id",))},
        12: {("q5", ("same image", "same question on same image"))},
        13: {("q6", ("same question",))},
        14: {("q6", ("near-duplicate question",))},
    }


def test_a_picture_that_is_not_there_is_known_by_its_name(held: Benchmark) -> None:
    leaks = find_leaks([row(0, "What?", ImageRef("COCO_train2014_000000000002.jpg"))], [held])
    assert evidence(leaks) == {0: {("q2", ("same COCO id",))}}
    assert leaks.unreadable == 1
    assert "1 pictures of the data can't be read" in leaks.to_markdown()


def test_the_id_of_a_row_tells_of_its_picture(held: Benchmark) -> None:
    leaks = find_leaks([row(0, "What?", shown(400, "17.jpg"), id="000000000003")], [held])
    assert evidence(leaks) == {0: {("q3", ("same COCO id",))}}


def test_any_of_several_pictures_may_be_the_benchmarks(held: Benchmark) -> None:
    leaks = find_leaks([row(0, "Compare.", shown(400), shown(6), ImageRef("gone"))], [held])
    assert evidence(leaks) == {0: {("q6", ("same image",))}}


def test_all_documents_about_a_picture_are_listed() -> None:
    documents = [Document(id=str(number), question="Is there a dog?", images=(shown(1),)) for number in range(3)]
    leaks = find_leaks([row(0, "Count the stripes.", shown(1))], [Benchmark(task="pope", documents=documents)])
    assert [leak.document for leak in leaks.leaks] == ["0", "1", "2"]
    assert leaks.summary() == {"pope": 1}


def test_a_question_asked_of_many_pictures_is_nobodys() -> None:
    stock = "Describe this image in as much detail as you possibly can, please."
    rows = [row(number, stock, shown(number + 50)) for number in range(COMMON + 1)]
    benchmark = Benchmark(task="chair", documents=[Document(id="0", question=stock, images=(shown(1),))])
    assert find_leaks(rows, [benchmark]).leaks == ()
    few = find_leaks(rows[:COMMON], [benchmark])
    assert few.counts["chair"]["same question"] == COMMON


REFRIGERATOR = "Is there a refrigerator to be seen anywhere in this photograph?"
ENDING = "Please answer the question with nothing but the word yes or the word no."


@pytest.mark.parametrize(
    ("questions", "asked_in_data"),
    (
        pytest.param([REFRIGERATOR] * (COMMON + 1), REFRIGERATOR, id="asked of many pictures of the benchmark"),
        pytest.param(
            [f"Is it {chr(97 + n) * 3}? {ENDING}" for n in range(COMMON + 1)], f"Is it zzz? {ENDING}", id="same ending"
        ),
        pytest.param(["What is this?"], "What is this?", id="short"),
    ),
)
def test_a_question_that_is_not_specific_makes_no_leak(questions: list[str], asked_in_data: str) -> None:
    documents = [Document(id=str(n), question=text, images=(shown(n),)) for n, text in enumerate(questions)]
    assert find_leaks([row(0, asked_in_data, shown(90))], [Benchmark(task="t", documents=documents)]).leaks == ()


def test_a_template_filled_in_many_ways_makes_no_leak() -> None:
    template = "Please tell me whether you are able to see any {} that is standing or lying around in the picture above"
    rows = [row(n, template.format(chr(97 + n) * 3), shown(50 + n)) for n in range(COMMON + 1)]
    benchmark = Benchmark(task="t", documents=[Document(id="0", question=template.format("zzz"), images=(shown(1),))])
    assert find_leaks(rows, [benchmark]).leaks == ()
    assert len(find_leaks(rows[:2], [benchmark]).leaks) == 2


def test_a_generic_question_about_the_very_picture_is_the_benchmarks() -> None:
    documents = [Document(id=str(n), question="Describe this image.", images=(shown(n),)) for n in range(COMMON + 2)]
    leaks = find_leaks([row(0, "<image>Describe this image", shown(3))], [Benchmark(task="t", documents=documents)])
    assert evidence(leaks) == {0: {("3", ("same image", "same question on same image"))}}


def test_questions_without_pictures_are_held_against_each_other() -> None:
    benchmark = Benchmark(task="t", documents=[Document(id="0", question=SPECIFIC)])
    assert evidence(find_leaks([row(0, SPECIFIC.upper())], [benchmark])) == {0: {("0", ("same question",))}}


def test_drop_removes_what_shows_a_benchmarks_picture_and_nothing_else(held: Benchmark) -> None:
    planted = [
        *clean_rows(),
        row(8, "What?", shown(1)),
        row(9, f"question {asked(506)}", shown(300)),
        row(10, "What?", shown(2, kind="JPEG")),
    ]
    leaks = find_leaks(planted, [held])
    kept = list(drop(planted, leaks))
    assert [kept_row.index for kept_row in kept] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    again = find_leaks(kept, [Benchmark(task="bench", documents=held.documents)])
    assert again.summary() == {"bench": 0}
    assert again.counts["bench"]["same question"] == 1


def test_all_pairs_of_a_row_are_checked_as_one_and_dropped_together(held: Benchmark) -> None:
    def pair(id: str, row: int, image: ImageRef) -> Preference:
        return Preference(id=id, prompt="What?", images=(image,), chosen="a", rejected="b", row=row, row_id=f"r{row}")

    pairs = [pair("a", 3, shown(1)), pair("b", 3, shown(1)), pair("c", 7, shown(99))]
    leaks = find_leaks(pairs, [held])
    assert [(leak.row, leak.row_id, leak.document) for leak in leaks.leaks] == [(3, "r3", "q1")]
    assert leaks.rows == 2
    assert [kept.id for kept in drop(pairs, leaks)] == ["c"]


def test_counts_are_rows_by_task_and_evidence() -> None:
    def benchmark(task: str) -> Benchmark:
        documents = [Document(id=str(n), question="Is it?", images=(shown(1),)) for n in range(4)]
        return Benchmark(task=task, documents=documents)

    rows = [row(n, "What?", shown(1)) for n in range(3)] + [row(3, "What?", shown(1, kind="JPEG"))]
    leaks = find_leaks(rows, [benchmark("a"), benchmark("b")])
    assert leaks.summary() == {"a": 4, "b": 4}
    assert leaks.counts["a"] == dict.fromkeys(ALL, 0) | {"same image": 3, "looks alike": 1}


def test_no_training_scene_is_taken_for_a_test_scene() -> None:
    rows = [row(number, "What?", shown(render(scene))) for number, scene in enumerate(islice(scenes("train/0"), 300))]
    documents = [
        Document(id=scene.id, question="What?", images=(render(scene),)) for scene in islice(scenes("test/pope"), 300)
    ]
    leaks = find_leaks(rows, [Benchmark(task="scenes", documents=documents)])
    assert leaks.leaks == ()
    assert leaks.rows == leaks.tasks["scenes"].images == 300


def test_planted_scenes_are_found_among_others() -> None:
    trained = [render(scene) for scene in islice(scenes("train/0"), 60)]
    tested = [render(scene) for scene in islice(scenes("test/pope"), 20)]
    rows = [row(number, "What?", shown(image)) for number, image in enumerate([*trained, *tested])]
    documents = [Document(id=str(number), question="?", images=(image,)) for number, image in enumerate(tested)]
    leaks = find_leaks(rows, [Benchmark(task="s", documents=documents)])
    assert {leak.row: leak.document for leak in leaks.leaks} == {60 + number: str(number) for number in range(20)}


def test_plain_pictures_leak_by_content_only() -> None:
    white = Image.new("RGB", (40, 40), "white")
    benchmark = Benchmark(task="t", documents=[Document(id="0", question="?", images=(white,))])
    other = Image.new("RGB", (41, 40), "white")
    assert find_leaks([row(0, "What?", shown(other))], [benchmark]).leaks == ()
    assert evidence(find_leaks([row(0, "What?", shown(white))], [benchmark])) == {0: {("0", ("same image",))}}


def test_broken_pictures_of_a_benchmark_are_counted_and_said(tmp_path: Path) -> None:
    documents = [
        Document(id="0", question="?", images=(ImageRef("000000000005.jpg"),)),
        Document(id="1", question="?", images=(shown(1),)),
    ]
    leaks = find_leaks([row(0, "What?", shown(200, "000000000005.jpg"))], [Benchmark(task="t", documents=documents)])
    assert leaks.tasks["t"].unreadable == 1
    assert evidence(leaks) == {0: {("0", ("same COCO id",))}}
    assert "leaks may be missed: t 1" in leaks.to_markdown()


def test_cells_of_the_report_are_escaped_and_the_rest_is_counted(held: Benchmark) -> None:
    rows = [row(number, "What?", shown(1), id=f"|<b>{number}\n") for number in range(4)]
    text = find_leaks(rows, [held]).to_markdown(shown=3)
    assert "<b>" not in text
    assert "and 1 more." in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {11, 6}


def test_the_json_holds_every_leak(held: Benchmark) -> None:
    leaks = find_leaks([row(0, "What?", shown(2, kind="JPEG")), row(1, "What?", shown(1))], [held])
    read = json.loads(json.dumps(leaks.to_json()))
    assert read["rows_with_image"] == {"bench": 2}
    assert [Leak(**{**leak, "evidence": tuple(leak["evidence"])}) for leak in read["leaks"]] == list(leaks.leaks)


def test_pictures_are_hashed_once_over_two_checks(held: Benchmark, tmp_path: Path) -> None:
    with HashCache(tmp_path / "prints.sqlite") as prints:
        first = find_leaks(clean_rows(), [held], cache=prints)
        assert prints.made == 8 + 6
    with HashCache(tmp_path / "prints.sqlite") as prints:
        assert find_leaks(clean_rows(), [held], cache=prints) == first
        assert prints.made == 0


def test_progress_is_reported(held: Benchmark) -> None:
    told: list[tuple[str, int, int]] = []
    with show_on(lambda *report: told.append(report)):
        find_leaks((row(number, "What?") for number in range(1100)), [held], total=1100)
    assert told == [("look for leaks", done, 1100) for done in (512, 1024, 1100)]


@pytest.mark.parametrize(
    ("changes", "message"),
    (({"distance": 99}, "distance 99: must be 0 to 32"), ({"similar": 0.0}, "similarity 0.0: must be above 0")),
)
def test_settings_out_of_range_are_refused(held: Benchmark, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_leaks([], [held], **changes)


def test_benchmarks_without_documents_and_given_twice_are_refused(held: Benchmark) -> None:
    with pytest.raises(DataError, match="pope: has no documents"):
        find_leaks([], [Benchmark(task="pope", documents=[])])
    with pytest.raises(DataError, match="bench: given twice"):
        find_leaks([], [held, held])


class Loaded:
    """A task as lm-eval loads it."""

    def __init__(self, docs: list[dict[str, Any]]) -> None:
        self.docs = docs

    @property
    def eval_docs(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.docs)

    def doc_to_text(self, doc: Any) -> str:
        return f"<image>{doc['question']}"

    def doc_to_image(self, doc: Any) -> list[pictures.PromptImage]:
        return [pictures.picture(doc["image"])] if doc["image"] else []


def test_the_documents_of_a_task_are_read_with_their_pictures_and_coco_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo(1)))
    keys = [keep(ImageRef.at(tmp_path / name)) for name in ("a.png", "gone.png")]
    docs = [
        {"id": "x/1", "question": SPECIFIC, "image": keys[0], "image_source": "COCO_val2014_000000000011"},
        {"question": "Who?", "image": keys[1], "image_source": "COCO_val2014_000000000012"},
        {"question": "Why?", "image": ""},
    ]
    leaks = find_leaks(
        [row(0, SPECIFIC, shown(1, kind="JPEG")), row(1, "What?", ImageRef("000000000012.jpg"))],
        [benchmark_of("pope", Loaded(docs))],
    )
    assert evidence(leaks) == {
        0: {("x/1", ("looks alike", "same question on same image"))},
        1: {("1", ("same COCO id",))},
    }
    assert leaks.tasks["pope"].documents == 3
    assert leaks.tasks["pope"].unreadable == 1


@pytest.mark.parametrize(("task", "doc"), (("chair", {"question_id": "42"}), ("object_halbench", {"id": "42/7"})))
def test_benchmarks_numbered_as_coco_are_known_by_their_numbers(task: str, doc: dict[str, Any]) -> None:
    loaded = Loaded([{**doc, "question": "?", "image": ""}])
    leaks = find_leaks(
        [row(0, "What?", ImageRef("coco/train2014/COCO_train2014_000000000042.jpg"))], [benchmark_of(task, loaded)]
    )
    assert leaks.counts[task]["same COCO id"] == 1


def test_a_number_is_no_coco_id_in_other_benchmarks() -> None:
    loaded = Loaded([{"question_id": "42", "question": "?", "image": ""}])
    leaks = find_leaks([row(0, "What?", ImageRef("COCO_train2014_000000000042.jpg"))], [benchmark_of("mmvet", loaded)])
    assert leaks.leaks == ()


@pytest.mark.slow
def test_the_embedded_tasks_are_clean_of_the_scenes_that_are_trained_on(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    from tasks.registry import FOLDER, registry
    from trainers.config.data import Data, PoolModel
    from trainers.vlfeedback.instructions import scenes_instructions

    names = [task.name for task in registry().expand(["scenes"])]
    loaded = TaskManager(include_path=str(FOLDER), include_defaults=False).load(names)["tasks"]
    made = scenes_instructions(Data(instructions=300, pool=(PoolModel(model="a"), PoolModel(model="b"))), 0, tmp_path)
    rows = [row(number, one.prompt, ImageRef(one.image, tmp_path / one.image)) for number, one in enumerate(made)]
    leaks = find_leaks(rows, [benchmark_of(name, loaded[name]) for name in names], similar=SIMILAR)
    assert leaks.summary() == dict.fromkeys(names, 0)
    assert all(checked.images > 0 for checked in leaks.tasks.values())
