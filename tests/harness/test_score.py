"""`harness score` on real answer files gives the numbers their authors published, and says in one line what is wrong
with a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import run
from leaderboards.board.board import Board
from leaderboards.board.entry import name_of_protocol
from leaderboards.board.schemas import lacking

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"

CASES = """
mme mme/LaVIN - perception=963.6114445778312 cognition=249.64285714285714 celebrity=47.35294117647059 OCR=107.5
mme mme/llava-v1.5-13b mme perception=1531.3187274909965 cognition=295.3571428571429 posters=160.54421768707482 \
    code_reasoning=47.5
pope_llava pope/answers/llava-v1.5-13b_random.jsonl pope random_f1=87.13601179506082 random_accuracy=88.00687285223368
pope pope/answers/llava-v1.5-13b_popular.jsonl pope popular_f1=86.24589565851879 popular_yes_rate=41.36666666666667
pope_llava pope/answers/llava-v1.5-13b pope f1=85.94688090539114 adversarial_precision=90.99307159353349
llava_bench llava_bench/wild/llava-v1.5-13b-eval1.jsonl llava_bench relative=72.8 reference=86.5 model=63.0
pope pope/answers/llava-1.5-verbose910_random.jsonl pope accuracy=89.89010989010988 f1=89.97821350762528 \
    random_accuracy=89.89010989010988 random_f1=89.97821350762528 random_yes_rate=50.87912087912088
chair chair/captions/pope-instructblip-short.jsonl chair chair_s=3.7 chair_i=2.631578947368421
chair chair/captions/pope-llava-brief.jsonl chair chair_s=62.7 chair_i=18.755897021161882 chair_s_lemma=63.1
chair chair/captions/opera-llava-1.5-greedy.jsonl chair chair_s=45.0 chair_i=12.784166889542659 chair_s_lemma=44.8
chair chair/captions/opera-minigpt4-greedy.jsonl chair chair_s=29.0 chair_s_lemma=31.6
amber amber/responses/llava-v1.5-7b_generative_166.json amber chair=7.5 cover=50.9 hal=37.3 cog=3.2
amber amber/responses/llava-v1.5-7b-cei_generative_1004.json amber chair=7.2 cover=48.7 hal=28.8 cog=3.3
amber amber/responses/llava-v1.5-7b-cei_discriminative_first12825.json amber accuracy=72.5 precision=94.4 recall=64.0 \
    f1=76.3 existence_f1=83.4 number_recall=67.7 relation_f1=73.9
amber amber/responses/synthetic_discriminative_A.json amber accuracy=76.0 precision=87.4 recall=76.0 f1=81.3
mmhal mmhal/judge_blip2_2.7b_gpt-4o-2024-08-06.json mmhal score=1.3125 hallucination_rate=64.58333333333333 \
    score_holistic=2.3333333333333335
hallusionbench hallusionbench/synthetic_verdicts_A.json hallusionbench aAcc=67.0505 qAcc=37.1429 fAcc=37.2832 \
    easy_aAcc=59.5604 hard_aAcc=62.5581 LH=20.9677
hallusionbench hallusionbench/synthetic_verdicts_always_yes.json hallusionbench aAcc=42.8698 qAcc=3.956 fAcc=7.2254 \
    fp_ratio=1.0
mmvet mmvet/llava-v1.5-13b_gpt-4-grade-1runs.json mmvet total=36.1 rec=40.6 ocr=28.0 know=23.5 gen=24.4 spat=34.7 \
    math=7.7 bard_total=36.9
mmvet mmvet/llava-v1.5-13b_gpt-4-grade-3runs.json mmvet total=36.3 std=0.2 run_1=36.1 run_2=36.5 run_3=36.3
llava_bench_wild llava_bench/wild/llava-v1.5-13b-eval1.jsonl llava_bench relative=72.8 relative_detail=52.6
llava_bench_wild llava_bench/wild/llava-v1.5-13b-eval2.jsonl llava_bench relative=72.7 relative_complex=83.7
llava_bench_wild llava_bench/wild/llava-v1.5-13b-eval3.jsonl llava_bench relative=72.1 relative_conv=72.5
llava_bench_wild llava_bench/vicuna80_text_reviews/review_bard_vicuna-13b.jsonl - relative=98.7
llava_bench_wild llava_bench/vicuna80_text_reviews/review_gpt35_vicuna-13b.jsonl - relative=92.1
mmbench mmbench/mmbench_dev_20230712_llava-v1.5-13b.jsonl mmbench accuracy=67.68707482993197 \
    vanilla_accuracy=75.42517006802721
scienceqa_img scienceqa/answers_llava-v1.5-13b.jsonl scienceqa accuracy=71.64105106593951 \
    accuracy_all=74.39283187927376
scienceqa_img scienceqa/answers_llava-13b-v0-sqa.jsonl scienceqa accuracy=88.0019831432821 \
    accuracy_all=90.8983730252299
object_halbench objhal/opera-llava-1.5-greedy_300_with_objs.jsonl objhal response_hallucination=45.33 \
    object_hallucination=20.59 object_recall=77.44
"""
"""Task, answers, references or -, what the benchmark's own script says."""


@pytest.mark.parametrize(
    "case", [case.split() for case in CASES.strip().splitlines()], ids=lambda case: " ".join(case[:2])
)
def test_golden_answers_score_as_officially(case: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("no folder shared/golden beside the repository")
    task, answers, references, *values = case
    expected = {name: float(value) for name, _, value in (text.partition("=") for text in values)}
    given = ["--references", str(GOLDEN / references)] if references != "-" else []
    code = run(["score", task, str(GOLDEN / answers), *given, "--json", "--max-failed", "1"])
    out, err = capsys.readouterr()
    assert code == 0, err
    result = json.loads(out)
    assert {"task", "version", "metrics", "samples", "unscored", "warnings"} <= result.keys()
    assert {name: result["metrics"].get(name) for name in expected} == pytest.approx(expected, abs=1e-9)


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("harness: ")
    assert err.count("\n") == 1
    return err


MME_LINE = (
    "1.jpg\tIs it a dog? Please answer yes or no.\tYes\tYes, a dog.\n"
    "1.jpg\tIs it a cat? Please answer yes or no.\tNo\tyes\n"
)


def test_a_table_shows_the_score_beside_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "existence.txt").write_text(MME_LINE, encoding="utf-8")
    assert run(["score", "mme", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "mme 1.0: 2 samples, 0 failed, 0 unscored, 0 unparsed" in out
    assert "| existence" in out
    assert " 50 |" in out
    assert "LLaVA-1.5-13B" in out
    assert "warning:" in err


def test_the_users_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "mne", str(tmp_path)]) == 2
    assert "unknown task 'mne' (did you mean 'mme'?)" in line_of(capsys)
    assert run(["score", "mme", str(tmp_path / "nothing")]) == 2
    assert "no such file or folder" in line_of(capsys)
    (tmp_path / "existence.txt").write_text("1.jpg\tIs it a dog?\tYes\n", encoding="utf-8")
    assert run(["score", "mme", str(tmp_path)]) == 2
    assert "existence.txt" in line_of(capsys)
    (tmp_path / "pope.jsonl").write_text('{"question_id": 1, "text": "yes"}\n', encoding="utf-8")
    assert run(["score", "pope", str(tmp_path / "pope.jsonl")]) == 2
    assert "--references" in line_of(capsys)
    assert run(["score", "scenes_pope", str(tmp_path / "pope.jsonl")]) == 2
    assert "sample log" in line_of(capsys)
    assert run(["score", "silkie", str(tmp_path)]) == 2
    assert "'silkie' is a suite: name one of its tasks: mme, mmhal, mmvet" in line_of(capsys)


def test_our_own_sample_log_scores_as_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answering: Callable[..., Any]
) -> None:
    from harness.evaluation.evaluate import evaluate
    from harness.models.spec import ModelSpec
    from leaderboards.board.board import Board
    from tasks.answer import FailedAnswer
    from tasks.registry import registry

    def answer(prompt: str, pictures: list[Any]) -> str:
        return FailedAnswer("no reply") if "red" in prompt else "no" if "circle" in prompt else "yes"

    spec = ModelSpec(name="echo", pretrained="nowhere")
    evaluation = evaluate(spec, registry().expand(["scenes_pope"]), None, load=lambda *_, **__: answering(answer))
    Board(tmp_path).add(evaluation.entries, evaluation.samples)
    entries, (log,) = evaluation.entries, list(tmp_path.glob("*.parquet"))
    capsys.readouterr()
    assert run(["score", "scenes_pope", str(log), "--json", "--max-failed", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"] == {entry.metric: entry.value for entry in entries}
    assert (result["samples"], result["failed"]) == (entries[0].samples, entries[0].failed)
    assert result["failed"] > 0
    assert run(["score", "scenes_mme", str(log)]) == 2
    assert "holds no samples of scenes_mme" in line_of(capsys)


def write_pope(folder: Path, random: int, article: str = "a") -> Path:
    """The authors' three files of questions, with so many random ones."""
    folder.mkdir()
    for split, count in (("random", random), ("popular", 3000), ("adversarial", 3000)):
        rows = (
            {
                "question_id": number,
                "image": f"{number // 6}.jpg",
                "text": f"Is there {article} thing {number} in the image?",
                "label": ("yes", "no")[number % 2],
            }
            for number in range(1, count + 1)
        )
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"coco_pope_{split}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("task", "count", "there", "advice"),
    (
        (
            "pope",
            2910,
            3000,
            "2910 answers, as many as pope_llava has random questions; the references have the 3000 of pope:",
        ),
        (
            "pope_llava",
            3000,
            2910,
            "3000 answers, as many as pope has random questions; the references have the 2910 of",
        ),
    ),
)
def test_answers_to_another_version_of_pope_are_refused(
    task: str, count: int, there: int, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_pope(tmp_path / "questions", there)
    answers = tmp_path / "answers_random.jsonl"
    ids = [
        {"question_id": 10_000_000 + number, "text": ("Yes", "No")[number % 3 > 0]} for number in range(1, count + 1)
    ]
    answers.write_text("\n".join(map(json.dumps, ids)), encoding="utf-8")
    command = ["score", task, str(answers), "--references", str(questions)]
    assert run(command) == 2
    said = line_of(capsys)
    assert advice in said
    assert "github" in said or "AoiDragon/POPE" in said
    write_pope(tmp_path / "both", there)
    write_pope(tmp_path / "both" / "other", count)
    assert run([*command[:-1], str(tmp_path / "both"), "--json"]) == 0  # with its questions it is scored
    assert json.loads(capsys.readouterr().out)["samples"] == count


def test_answers_that_name_the_questions_of_a_version_are_a_part_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_pope(tmp_path / "questions", 3000)
    rows = [{"question": f"Is there a thing {number} in the image?", "answer": "yes"} for number in range(1, 2911)]
    (tmp_path / "random.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = ["score", "pope", str(tmp_path / "random.jsonl"), "--references", str(questions), "--json"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["partial"]) == (2910, True)


def test_reviews_of_the_other_llava_bench_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question_id": number, "category": "conv", "tuple": [8, 6]} for number in range(90)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert run(["score", "llava_bench_wild", str(tmp_path / "reviews.jsonl")]) == 2
    advice = (
        "90 answers, as many as llava_bench_coco has questions (llava_bench_wild has 60): score it as llava_bench_coco"
    )
    assert advice in line_of(capsys)
    assert run(["score", "llava_bench_coco", str(tmp_path / "reviews.jsonl")]) == 0


def test_hallusionbench_without_its_questions_on_no_image_is_the_other_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            **{"category": "VD", "subcategory": "chart", "set_id": number, "figure_id": 1, "question_id": 0},
            **{"visual_input": 1, "gt_answer": 1, "model_prediction": "yes", "gpt4v_output_gpt_check": 1, "same": 1},
        }
        for number in range(951)
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run(["score", "hallusionbench", str(tmp_path / "results.json")]) == 2
    assert "score it as hallusionbench_image" in line_of(capsys)
    assert run(["score", "hallusionbench_image", str(tmp_path / "results.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["partial"], found["warnings"]) == (951, False, [])


def mme_folder(folder: Path, answer: str = "yes") -> Path:
    folder.mkdir()
    (folder / "existence.txt").write_text(MME_LINE.replace("No\tyes", f"No\t{answer}"), encoding="utf-8")
    return folder


def said(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert run(words) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_files_become_rows_of_a_board_that_no_model_run_is_taken_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, out = [mme_folder(tmp_path / "old"), mme_folder(tmp_path / "new", "no")], tmp_path / "run"
    command = ["score", "mme", *map(str, folders), "--out", str(out)]
    shown = said([*command, "--json"], capsys)
    found = json.loads(shown)["results"]
    assert [one["name"] for one in found] == ["old", "new"]
    assert found[0]["intervals"].keys() == found[0]["metrics"].keys()
    board = Board(out / "board")
    entries = board.entries()
    assert {entry.model for entry in entries} == {"old", "new"}
    assert all(lacking(entry) == [] and entry.weights is None and entry.partial for entry in entries)
    assert {name_of_protocol(entry.provenance) for entry in entries} == {"not known"}
    assert said(command, capsys)  # again: nothing new
    assert len(board.entries()) == len(entries)
    assert "answers from a file" in said(["leaderboard", str(out), "--partial"], capsys)
    compared = json.loads(said(["compare", "old", "new", "--board", str(out), "--partial", "--json"], capsys))
    assert compared["flips"]
    gate = ["check", "--baseline", str(out / "board"), "--baseline-model", "new", "--board", str(out), "--model", "old"]
    assert run([*gate, "--partial"]) in (0, 3)


def test_names_are_one_for_each_result_and_never_those_of_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answering: Callable[..., Any]
) -> None:
    folders = [str(mme_folder(tmp_path / name)) for name in ("one", "two")]
    err = said(["score", "mme", *folders, "--name", "a"], capsys, 2)
    assert "--name is given 1 times for 2 results (one, two)" in err
    shown = said(["score", "mme", *folders, "--name", "a", "--name", "b"], capsys)
    assert [head.strip() for head in shown.splitlines()[4].split("|")][3:5] == ["a", "b"]
    model = make_measured(tmp_path / "run", "scenes-base")
    err = said(["score", "mme", folders[0], "--name", model, "--out", str(tmp_path / "run")], capsys, 2)
    assert f"'{model}' is a model that was scored on this board" in err


def make_measured(out: Path, name: str) -> str:
    shutil.copytree(Path(__file__).resolve().parents[1] / "runs" / "demo" / "board", out / "board")
    return name


QUESTIONS = [
    {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a dog {n}?", "label": "yes"} for n in range(1, 4)
]


def test_the_files_of_popes_splits_are_one_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "questions").mkdir()
    for split in ("random", "popular", "adversarial"):
        lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
        (tmp_path / "questions" / f"coco_pope_{split}.json").write_text(lines)
        for model in ("a", "b"):
            rows = [{"question": row["text"], "answer": "yes" if model == "a" else "no"} for row in QUESTIONS]
            (tmp_path / f"{model}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pattern = str(tmp_path / "*_*.jsonl")
    references = ["--references", str(tmp_path / "questions"), "--json"]
    found = json.loads(said(["score", "pope", pattern, *references], capsys))["results"]
    assert [(one["name"], one["samples"], one["metrics"]["f1"]) for one in found] == [("a", 9, 100), ("b", 9, 0)]
    alone = json.loads(said(["score", "pope", str(tmp_path / "a_random.jsonl"), *references], capsys))
    assert (alone["name"], alone["samples"], alone["metrics"]["accuracy"]) == ("a_random", 3, 100)
    assert "no file is named so" in said(["score", "pope", str(tmp_path / "c*.jsonl"), *references], capsys, 2)


def write_parts(folder: Path, task: str) -> list[str]:
    """Answers of two models to the parts of a benchmark, with its references; what the two are called."""
    amber = {"model-a_generative": [(1, "A dog.")], "model-a_discriminative-existence": [(2, "Yes")]}
    amber |= {"model-a_discriminative_relation": [(3, "No")], "model-b_discriminative": [(2, "No"), (3, "No")]}
    kinds = {1: ("generative", ["dog"]), 2: ("discriminative-hallucination", "yes"), 3: ("relation", "no")}
    if task == "amber":
        for name, rows in amber.items():
            found = [{"id": number, "response": said} for number, said in rows]
            (folder / f"{name}.json").write_text(json.dumps(found))
        known = [{"id": n, "type": kind, "truth": truth, "hallu": []} for n, (kind, truth) in kinds.items()]
        (folder / "references").mkdir()
        (folder / "references" / "annotations.json").write_text(json.dumps(known))
        return ["model-a", "model-b_discriminative"]
    if task == "mme":
        for model in ("a", "b"):
            (folder / model).mkdir()
            for category in ("existence", "OCR"):
                (folder / model / f"{category}.txt").write_text(MME_LINE, encoding="utf-8")
        return ["a", "b"]
    for model in ("a", "b"):
        for part in ("VD", "vs"):
            row = {"category": part.upper(), "subcategory": "map", "set_id": 0, "figure_id": 1, "question_id": 0}
            row |= {"visual_input": 1, "gt_answer": 1, "model_prediction": "Yes.", "gpt4v_output_gpt_check": 1}
            (folder / f"{part}-{model}.json").write_text(json.dumps([row]))
    return ["a", "b"]


@pytest.mark.parametrize(
    ("task", "files", "samples", "lacking"),
    (
        ("amber", "*.json", [3, 2], ["no descriptions"]),
        ("mme", "*/*.txt", [4, 4], ["no file for count", "no file for count"]),
        ("hallusionbench", "*.json", [2, 2], ["1127 of 1129", "1127 of 1129"]),
    ),
)
def test_files_of_the_parts_of_a_benchmark_are_one_result(
    task: str, files: str, samples: list[int], lacking: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = write_parts(tmp_path, task)
    words = ["score", task, str(tmp_path / files), "--references", str(tmp_path / "references"), "--json"]
    found = json.loads(said(words, capsys))["results"]
    assert [(one["name"], one["samples"]) for one in found] == list(zip(names, samples, strict=True))
    told = [line for one in found for line in one["warnings"]]
    assert [line for line in told if "no descriptions" in line or "no file for" in line or " of 1129" in line] == [
        line for line in told if any(line.startswith(word) for word in lacking)
    ]
    assert sum(line.startswith(lacking[0]) for line in told) == len(lacking)


def test_a_question_in_two_parts_counts_once_or_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parts(tmp_path, "amber")
    words = ["score", "amber", str(tmp_path / "model-a_*"), "--references", str(tmp_path / "references"), "--json"]
    (tmp_path / "model-a_discriminative.json").write_text(json.dumps([{"id": n, "response": "No"} for n in (2, 3)]))
    assert "answer question 2 differently: leave one" in said(words, capsys, 2)
    (tmp_path / "model-a_discriminative-existence.json").unlink()
    found = json.loads(said(words, capsys))
    assert (found["name"], found["samples"]) == ("model-a", 3)
    assert "1 questions are answered in two files and count once: '3'" in found["warnings"][-1]
