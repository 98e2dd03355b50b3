"""People's labels of judged answers: the file to fill in, its reader and what is wrong with it, corrected boards."""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from tasks.benchmarks import llava_bench, mmhal, mmvet
from tasks.registry import registry

IMAGES, LABELLED = 240, 80
Process = Any


def truth_of(model: str, number: int) -> int:
    """What people say of an answer: `better` is half a point better."""
    rng = random.Random(f"truth {number}")
    rating = rng.choice((0, 1, 2, 3, 4, 5))
    return min(6, rating + (model == "better" and rng.random() < 0.5))


def judged_as(model: str, number: int) -> int:
    """The judge is a point kinder to `kind`, and now and then wrong."""
    rng = random.Random(f"judge {model} {number}")
    return max(0, min(6, truth_of(model, number) + (model == "kind") + rng.choice((0, 0, 0, 0, 1, -1))))


def put(
    board: Board,
    model: str,
    task: str = "mmhal",
    *,
    images: int = IMAGES,
    answer: str = "answer",
    facts: Mapping[str, str] | None = None,
) -> None:
    """A run of MMHal's questions, or of another task's, judged."""
    spec = registry().task(task)
    samples = []
    for number in range(images):
        doc: dict[str, Any] = {"id": str(number), "image": f"image-{number}", "question": f"what is in {number}?"}
        if task == "mmhal":
            doc |= {"question_type": mmhal.TYPES[number % 8], "image_content": ["a cat"], "gt_answer": "a cat"}
            records = mmhal.process_results(doc, [{"rating": judged_as(model, number), "text": "said"}])
        elif task == "mmvet":
            doc |= {"capability": "rec", "answer": "a cat", "grades": [0.5]}
            records = mmvet.process_results(doc, [{"rating": 0.5, "text": "said"}])
        else:
            reply: Any = {"rating": 5.0, "reference": 8.0, "text": "8 5"}
            records = llava_bench.process_results(doc, [reply])
        shared: dict[str, Any] = {"run": f"{model}-{task}", "task": task, "prompt": doc["question"], "reply": "said"}
        text = f"{answer} of {model} to {number}"
        document = json.dumps(doc)
        samples.append(
            Sample(id=str(number), image=doc["image"], answer=text, records=records, document=document, **shared)
        )
    entries = []
    for name, metric in spec.metrics.items():
        records_of = [sample.records[name] for sample in samples if name in sample.records]
        usual: dict[str, Any] = {"low": None, "high": None, "limit": None, "judge": "kind-judge", "seconds": 1.0}
        usual |= {
            "cost": 0.0,
            "created": "2026-01-31T12:00:00+00:00",
            "provenance": facts or {},
            "version": spec.version,
        }
        value = registry().metric(task, name)(records_of)
        if value == value:
            usual |= {"higher_is_better": metric.higher_is_better, "headline": name == spec.headline}
            usual |= {"unit": metric.unit, "samples": images, "model": model, "task": task, "run": f"{model}-{task}"}
            entries.append(Entry(**usual, metric=name, value=value))
    board.add(entries, samples)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    folder = tmp_path / "board"
    for model in ("kind", "better"):
        put(Board(folder), model)
    return folder


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fill_in(template: Path, only: str = "") -> Path:
    """As people would: by the answer alone."""
    rows = list(csv.DictReader(template.open(encoding="utf-8")))
    for row in rows:
        _, _, model, _, number = row["answer"].split()
        row["rating"] = str(truth_of(model, int(number))) if only in ("", model) else ""
    return write(template.with_name("filled.csv"), rows)


@pytest.fixture
def filled(board: Path, tmp_path: Path) -> Path:
    template = tmp_path / "labels.csv"
    assert run(["judge", "labels", str(template), "--board", str(board), "--images", str(LABELLED)]) == 0
    return fill_in(template)


def test_the_file_to_fill_in_shows_neither_ratings_nor_models(filled: Path) -> None:
    rows = list(csv.DictReader(filled.with_name("labels.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * LABELLED
    assert len({row["image"] for row in rows}) == LABELLED
    assert {row["rating"] for row in rows} == {""}
    assert not {"model", "reply", "records"} & set(rows[0])
    assert json.loads(rows[0]["known"]).keys() == {"question_type", "image_content", "gt_answer"}
    assert "from 0 to 6" in rows[0]["scale"]


def test_a_file_that_people_may_have_filled_in_stays(filled: Path, board: Path) -> None:
    before = filled.read_bytes()
    assert run(["judge", "labels", str(filled), "--board", str(board)]) == 2
    assert filled.read_bytes() == before


def test_what_a_judge_said_is_not_among_what_is_known(tmp_path: Path) -> None:
    put(Board(tmp_path / "board"), "one", "mmvet")
    assert run(["judge", "labels", str(tmp_path / "new.csv"), "--board", str(tmp_path / "board")]) == 0
    assert "grades" not in (tmp_path / "new.csv").read_text(encoding="utf-8")


def mean_truth(model: str) -> float:
    return sum(truth_of(model, number) for number in range(IMAGES)) / IMAGES


def test_the_board_shows_raw_and_corrected(board: Path, filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in board.iterdir()}
    assert run(["leaderboard", str(board), "--human-labels", str(filled), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    rows = {(row["model"], row["metric"]): row for row in out["entries"]}
    kind = rows["kind", "score"]
    assert kind["value"] > mean_truth("kind") + 0.6
    assert kind["corrected_low"] < mean_truth("kind") < kind["corrected_high"]
    assert abs(kind["corrected"] - mean_truth("kind")) < 0.2
    assert (kind["labels"], kind["labelled_images"]) == (LABELLED, LABELLED)
    assert kind["lambda"] > 0.5
    assert rows["kind", "hallucination_rate"]["corrected"] > rows["kind", "hallucination_rate"]["value"] + 5
    assert "corrected" not in rows["kind", "score_counting"] or rows["kind", "score_counting"]["corrected"] is None
    assert {path: path.read_bytes() for path in board.iterdir()} == before


@pytest.mark.parametrize("form", ("markdown", "csv", "html"))
def test_each_form_of_the_board_has_it(
    form: str, board: Path, filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    asked = {"markdown": (), "csv": ("--format", "csv"), "html": ("--html", str(page), "--no-pictures")}[form]
    assert run(["leaderboard", str(board), "--headline", "--human-labels", str(filled), *asked]) == 0
    out = page.read_text(encoding="utf-8") if form == "html" else capsys.readouterr().out
    if form == "csv":
        (row,) = [row for row in csv.DictReader(out.splitlines()) if row["model"] == "kind"]
        assert float(row["corrected_low"]) < mean_truth("kind") < float(row["corrected_high"])
    else:
        assert f"({LABELLED} labels on {LABELLED} images, lambda 0." in out
        assert ("raw 3." in out) == (form == "markdown")


def test_a_difference_that_was_the_judges_turns(board: Path, filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "kind", "better", "--headline", "--board", str(board), "--human-labels", str(filled)]
    assert run([*asked, "--json"]) == 0
    (score,) = [one for one in json.loads(capsys.readouterr().out)["changes"] if one["metric"] == "score"]
    assert score["verdict"]["outcome"] == "worse"  # by a judge who is a point kinder to the other
    assert score["corrected"]["outcome"] == "better"
    truth = mean_truth("better") - mean_truth("kind")
    assert score["corrected"]["low"] < truth < score["corrected"]["high"]
    assert run(asked) == 0
    out = capsys.readouterr().out
    assert "Corrected for the judge's errors by people's labels of both models' answers" in out


def test_labels_of_one_model_correct_its_score_alone(
    board: Path, filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = fill_in(filled.with_name("labels.csv"), only="kind")
    assert run(["leaderboard", str(board), "--human-labels", str(half)]) == 0
    assert capsys.readouterr().out.count("corrected ") == 3  # score, hallucination rate, informativeness
    assert run(["compare", "kind", "better", "--headline", "--board", str(board), "--human-labels", str(half)]) == 0
    assert "only answers of kind have labels" in capsys.readouterr().out


def test_an_answer_that_changed_has_no_label(
    board: Path, filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(Board(tmp_path / "other"), "kind", answer="another")
    assert run(["leaderboard", str(tmp_path / "other"), "--human-labels", str(filled)]) == 2
    assert "labels are left out, since the answers are others by now" in caplog.text


def test_several_raters_count_alike(board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def corrected(*raters: Sequence[int]) -> float:
        """Each rater says so much more than the truth; the first rates all, the second half of the answers."""
        rows = [
            {"id": number, "model": "kind", "rater": name, "rating": min(6, truth_of("kind", number) + more)}
            for name, (more, every) in enumerate(raters)
            for number in range(0, IMAGES, every)
        ]
        path = write(tmp_path / "several.csv", rows)
        assert run(["leaderboard", str(board), "--headline", "--human-labels", str(path), "--json"]) == 0
        entries = json.loads(capsys.readouterr().out)["entries"]
        return float(next(row["corrected"] for row in entries if row["model"] == "kind"))

    alone, second = corrected((0, 1)), corrected((1, 1))
    assert corrected((0, 1), (1, 1)) == pytest.approx((alone + second) / 2)
    assert corrected((0, 1), (0, 2)) == pytest.approx(alone)


GOOD = {"task": "mmhal", "id": "3", "model": "kind", "rating": "4"}


@pytest.mark.parametrize(
    ("rows", "message"),
    (
        ([GOOD | {"id": "x7"}], "row 1: no sample has the id 'x7'"),
        ([GOOD, GOOD | {"id": "4", "rating": "7"}], "row 2: rating 7 is not from 0 to 6"),
        ([GOOD | {"rating": "good"}], "row 1: rating 'good' is no number"),
        ([GOOD | {"rating": "nan"}], "row 1: rating 'nan' is no number"),
        ([GOOD, GOOD | {"rating": "5"}], "row 2: the answer '3' was rated in row 1 already"),
        ([GOOD | {"task": "mme"}], "row 1: no judged answers of task 'mme' here; known: mmhal"),
        ([GOOD | {"model": "kidn"}], "row 1: no judged answers of model 'kidn' here; known: kind, better"),
        ([GOOD | {"model": ""}], "row 1: answers of several models are here"),
        ([GOOD | {"rating": ""}], "no row has a rating"),
        ([{"id": "3", "grade": "4"}], "row 1 lacks id or rating; it has id, grade"),
        ([{"id": "", "rating": "4"}], "row 1 lacks id or rating"),
        ([GOOD], "no score can be corrected: kind mmhal: not corrected: score, hallucination_rate"),
    ),
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(
    rows: list[dict[str, str]], message: str, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.csv", rows)
    assert run(["leaderboard", str(board), "--human-labels", str(path)]) == 2
    assert message in (err := capsys.readouterr().err)
    assert len(err.splitlines()) == 1


def test_a_task_whose_judge_gives_no_rating_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(Board(tmp_path / "board"), "one", "llava_bench_wild", images=30)
    path = write(tmp_path / "labels.csv", [{"id": "3", "rating": "4"}])
    assert run(["leaderboard", str(tmp_path / "board"), "--human-labels", str(path)]) == 2
    assert "llava_bench_wild: no one rating of an answer stands for what its judge says" in capsys.readouterr().err


def test_several_judged_tasks_need_a_name(board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(Board(board), "kind", "mmvet")
    path = write(tmp_path / "labels.csv", [{"id": "3", "rating": "1"}])
    assert run(["leaderboard", str(board), "--human-labels", str(path)]) == 2
    assert "several tasks are judged here; name one in a column `task`: mmhal, mmvet" in capsys.readouterr().err
