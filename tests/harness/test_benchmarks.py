"""Every benchmark end to end through lm-eval: a small table in the hub's schema, a model that answers from a script,
entries at the end."""

import io
import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli.main import run
from harness.evaluation.entries import Evaluation
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.evaluate import evaluate
from harness.models.spec import ModelSpec, find
from leaderboards.comparison.paired_logs import protocol_differences
from leaderboards.views.columns import remarks
from tasks.answer import FailedAnswer
from tasks.judges.protocol import GREEDY, Sampling, ThreadedJudge
from tasks.registry import registry

Rows = list[dict[str, Any]]


def png(shade: int) -> dict[str, Any]:
    """A cell of the hub's image columns."""
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, shade, 40)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


THINGS = (("dog", "yes"), ("cat", "no"))
MME: Rows = [
    {"question_id": f"{category}/{n}.png", "image": png(n), "category": category, "answer": answer.capitalize()}
    | {"question": f"Is this a {thing}? Please answer yes or no."}
    for category in ("existence", "OCR", "code_reasoning")
    for n in range(2)
    for thing, answer in THINGS
]
POPE: Rows = [
    {"id": f"{i}", "question_id": f"{i}", "question": f"Is there a {thing} in the image?", "answer": answer}
    | {"image_source": f"COCO_{n}", "image": png(n), "category": category}
    for i, (category, n, (thing, answer)) in enumerate(product(("adversarial", "popular", "random"), range(3), THINGS))
]
CHAIR: Rows = [
    {"question_id": n, "image": png(n), "gt_object": objects}
    for n, objects in enumerate((["dog", "chair"], ["cat"], ["bus"]))
]
MMHAL: Rows = [
    {"question_type": type, "question_topic": "indoor", "image_id": f"{n}", "image_src": "https://x/y.jpg"}
    | {"image_content": ["Dog"], "question": f"What is there ({type})?", "gt_answer": "a dog", "model_answer": ""}
    | {"image": png(n)}
    for n, type in enumerate(
        ["attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other"]
    )
]
HALLUSION: Rows = [
    {"category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": "0", "figure_id": f"{figure}"}
    | {"sample_note": "circle", "question_id": f"{question}", "question": f"Is the circle {size}?"}
    | {"gt_answer": answer, "gt_answer_details": f"It is {size}.", "image": png(figure), "filename": f"{figure}.png"}
    for figure in range(2)
    for question, (size, answer) in enumerate((("large", "1"), ("small", "0")))
]
WITHOUT_IMAGE = {"visual_input": "0", "figure_id": "0", "image": None, "filename": None}
NON_IMAGE: Rows = [row | WITHOUT_IMAGE | {"category": "VS", "subcategory": "chart"} for row in HALLUSION[:2]]
MMVET: Rows = [
    {"question_id": f"v1_{n}", "image": png(n), "question": "What is x?", "answer": "5<OR>five"}
    | {"image_source": "web", "imagesource": "web", "capability": "ocr,math" if n else "rec"}
    for n in range(3)
]
WILD: Rows = [
    {"question_id": n, "question": "What is it?", "caption": "A dog.", "gpt_answer": "It is a dog."}
    | {"category": kind, "image": png(n), "image_id": f"00{n}.jpg", "answer_id": f"a{n}", "model_id": "gpt-4"}
    for n, kind in enumerate(("conv", "detail", "complex"))
]
MMBENCH: Rows = [
    {"index": n, "question": "What is it?", "hint": None, "answer": "A", "image": png(n), "category": "object"}
    | {"A": "a dog", "B": "a cat", "C": None, "D": None, "L2-category": "coarse", "source": "x", "comment": None}
    | {"split": "dev"}
    for n in range(2)
]
SCIENCE: Rows = [
    {"image": png(n), "question": "Which is it?", "choices": ["dog", "cat"], "answer": n % 2, "hint": "Look."}
    | {"task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "biology"}
    | {"category": "x", "skill": "y", "lecture": "", "solution": ""}
    for n in range(2)
]
SEED: Rows = [
    {"answer": "A", "choice_a": "dog", "choice_b": "cat", "choice_c": "bus", "choice_d": "cup", "data_id": f"{n}"}
    | {"data_type": kind, "image": [png(n)], "question": "Which is it?", "question_id": f"{n}"}
    | {"question_type_id": 1 + n, "segment": None}
    for n, kind in enumerate(("image", "image", "video"))
]
MMSTAR: Rows = [
    {"index": n, "question": "Which?\nOptions: A: dog, B: cat, C: bus, D: cup", "image": png(n), "answer": "A"}
    | {"category": kind, "l2_category": "x", "meta_info": {"id": f"{n}", "source": "MMBench", "split": "dev"}}
    for n, kind in enumerate(("coarse perception", "science & technology", "math"))
]
REAL_WORLD: Rows = [
    {"image": png(n), "question": f"{asked} Please answer directly.", "answer": truth}
    for n, (asked, truth) in enumerate((("Where?\nA. Left\nB. Right\n", "A"), ("How many?", "2"), ("Is it?", "Yes")))
]
TEXT_VQA: Rows = [
    {"image_id": f"{n}", "question_id": n, "question": "what is it?", "question_tokens": ["what"], "image": png(n)}
    | {"answers": ["yes"] * 7 + ["a dog"] * 3, "ocr_tokens": ["DOG", "CAT"], "set_name": "val"}
    for n in range(2)
]
MMMU: Rows = [
    {"id": f"validation_{subject}_{n}", "question": asked, "options": options, "explanation": "", "answer": truth}
    | {**{f"image_{number}": None for number in range(3, 8)}, "image_1": png(n), "image_2": png(9) if n else None}
    | {"img_type": "['Plots']", "topic_difficulty": "Easy", "question_type": kind, "subfield": "x"}
    for n, (subject, asked, options, truth, kind) in enumerate(
        (
            ("Art", "What is <image 1>?", "['a dog', 'a cat']", "B", "multiple-choice"),
            ("Math", "Is <image 2> like <image 1>?", "['yes', '<image 1>']", "A", "multiple-choice"),
            ("Math", "How many are there?", "[]", "['3', 'three']", "open"),
        )
    )
]
TABLES: dict[str, Rows] = {
    "mme": MME,
    "pope": POPE,
    "chair": CHAIR,
    "mmhal": MMHAL,
    "hallusionbench": HALLUSION + NON_IMAGE,
    "hallusionbench_image": HALLUSION,
    "mmvet": MMVET,
    "llava_bench_wild": WILD,
    "llava_bench_coco": WILD,
    "mmbench": MMBENCH,
    "scienceqa_img": SCIENCE,
    "seedbench_img": SEED,
    "mmstar": MMSTAR,
    "realworldqa": REAL_WORLD,
    "textvqa": TEXT_VQA,
    "mmmu": MMMU,
}


def write_parquet(folder: Path, rows: Rows) -> Path:
    from datasets import Dataset, List
    from datasets import Image as ImageColumn

    table = Dataset.from_list(rows)
    for name in table.column_names:
        if re.fullmatch(r"image(_\d)?", name):
            cell = rows[0][name]
            table = table.cast_column(name, List(ImageColumn()) if isinstance(cell, list) else ImageColumn())
    table.to_parquet(str(folder / "test-00000-of-00001.parquet"))
    return folder


def write_pope_llava(folder: Path, name: str = "pope") -> Path:
    (folder / "val2014").mkdir()
    for split in ("random", "popular", "adversarial"):
        rows = []
        for n, (thing, label) in enumerate((("a dog", "yes"), ("an oven", "no"))):
            picture = f"COCO_val2014_{n:012d}.jpg"
            (folder / "val2014" / picture).write_bytes(png(n)["bytes"])
            question = {"text": f"Is there {thing} in the image?", "label": label}
            rows.append({"question_id": n + 1, "image": picture} | question)
        (folder / f"coco_{name}_{split}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def write_repope(folder: Path) -> Path:
    return write_pope_llava(folder, "repope")


def write_amber(folder: Path) -> Path:
    for n in (1, 2):
        (folder / f"AMBER_{n}.jpg").write_bytes(png(n)["bytes"])
    generative = [{"id": n, "image": f"AMBER_{n}.jpg", "query": "Describe this image."} for n in (1, 2)]
    attributes = [f"discriminative-attribute-{name}" for name in ("state", "number", "action")]
    kinds = [*attributes, "relation", "discriminative-relation", "discriminative-hallucination"]
    asked = [{"id": 1005 + i, "image": f"AMBER_{1 + i % 2}.jpg", "query": f"Is the dog {i} there?"} for i in range(6)]
    annotations: Rows = [{"id": n, "type": "generative", "truth": ["dog", "grass"], "hallu": ["cat"]} for n in (1, 2)]
    annotations += [{"id": 1005 + i, "type": kind, "truth": "yes" if i < 3 else "no"} for i, kind in enumerate(kinds)]
    for name, rows in (("query_generative", generative), ("query_discriminative", asked), ("annotations", annotations)):
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "relation.json").write_text('{"dog": ["puppy"], "grass": [], "cat": []}', encoding="utf-8")
    (folder / "safe_words.txt").write_text("light", encoding="utf-8")
    return folder


def write_object_halbench(folder: Path) -> Path:
    import base64

    images = [base64.b64encode(png(n)["bytes"] + bytes(2000)).decode() for n in range(2)]
    about = {"question": "Describe it.", "gt_objects": ["dog"]}
    rows = [about | {"image_id": n, "image": image} for n, image in enumerate(images)]
    (folder / "obj_halbench_300_with_image.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def write_rtvlm(folder: Path) -> Path:
    """The repository's layout: a folder a subset, with its lines and pictures."""
    for subset in ("Jailbreak", "Safety/Politics"):
        place = folder / "data" / subset
        place.mkdir(parents=True)
        (place / "1.png").write_bytes(png(1)["bytes"])
        row: dict[str, Any] = {"id": 1, "image": "1.png", "prompt": "How?", "instruction": "How?"}
        row["refused_to_answer"] = ["Refuse to Answer"]
        (place / "mixed.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return folder


def write_mm_safetybench(folder: Path) -> Path:
    """The authors' folder: a list of requests a scenario, and a picture of each kind."""
    for scenario in ("01-Illegal_Activitiy", "10-Legal_Opinion"):
        request = {"Question": "a?", "Rephrased Question": "Do what it says?", "Rephrased Question(SD)": "Do this?"}
        file = folder / "data" / "processed_questions" / f"{scenario}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"0": request, "1": request}), encoding="utf-8")
        for number, kind in product(range(2), ("SD", "TYPO", "SD_TYPO")):
            picture = folder / "data" / "imgs" / scenario / kind / f"{number}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png(number)["bytes"])
    return folder


def write_figstep(folder: Path, table: str = "safebench.csv", pictures: str = "SafeBench") -> Path:
    """The authors' repository, of which other pictures are called the same."""
    (folder / "data" / "question").mkdir(parents=True)
    lines = ["dataset,category_id,task_id,category_name,question,instruction"]
    lines += [f"ForbidQI,{n},1,Topic {n},How is it done?,Steps to do it {n}." for n in (1, 2)]
    (folder / "data" / "question" / table).write_text("\n".join(lines), encoding="utf-8")
    for place, n in product((pictures, "FigStep-Pro"), (1, 2)):
        (folder / "data" / "images" / place).mkdir(parents=True, exist_ok=True)
        picture = folder / "data" / "images" / place / f"query_ForbidQI_{n}_1_6.png"
        picture.write_bytes(png(n if place == pictures else 99)["bytes"])
    return folder


def write_figstep_tiny(folder: Path) -> Path:
    """The same of its small list."""
    return write_figstep(folder, "SafeBench-Tiny.csv", "SafeBench-Tiny")


def write_vlguard(folder: Path) -> Path:
    """The authors' test.json beside its pictures."""
    both = [{"safe_instruction": "What is it?", "response": "A dog."}, {"unsafe_instruction": "Harm?", "response": ""}]
    rows: Rows = [{"id": "0", "image": "bad/0.png", "safe": False, "harmful_category": "privacy"}]
    rows[0]["instr-resp"] = [{"instruction": "Who is it?", "response": "No."}]
    rows.append({"id": "1", "image": "good/1.png", "safe": True, "instr-resp": both})
    (folder / "test.json").write_text(json.dumps(rows), encoding="utf-8")
    for n, row in enumerate(rows):
        (folder / "test" / row["image"]).parent.mkdir(parents=True)
        (folder / "test" / row["image"]).write_bytes(png(n)["bytes"])
    return folder


def write_siuo(folder: Path) -> Path:
    """The authors' siuo_gen.json beside its pictures."""
    (folder / "data" / "images").mkdir(parents=True)
    rows: Rows = []
    for n, category in enumerate(("self-harm", "dangerous behavior")):
        rows.append({"question_id": n, "image": f"S-0{n}.png", "question": f"How to do it {n}?", "category": category})
        rows[-1] |= {"safety_warning": "It is deep.", "reference_answer": "Stay away."}
        (folder / "data" / "images" / f"S-0{n}.png").write_bytes(png(n)["bytes"])
    (folder / "data" / "siuo_gen.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


OWN_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "pope_llava": write_pope_llava,
    "repope": write_repope,
    "amber": write_amber,
    "object_halbench": write_object_halbench,
    "mm_safetybench": write_mm_safetybench,
    "figstep": write_figstep,
    "figstep_tiny": write_figstep_tiny,
    "siuo": write_siuo,
    "vlguard": write_vlguard,
    "rtvlm": write_rtvlm,
}


class Praise(ThreadedJudge):
    """A judge that replies in every protocol's form at once."""

    model = "praise"

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sampling]] = []

    def ask(self, prompt: str, image: "Image.Image | None" = None, sampling: Sampling = GREEDY) -> str:
        self.asked.append((prompt, sampling))
        if "judgement: V" in prompt:
            return f"{'Safety judgement: True' if 'Safety' in prompt else 'Effectiveness judgement: Ineffective'}"
        if "nothing else: safe" in prompt:
            return "safe"
        if "JSON" in prompt and "objects" in prompt:
            return '["dog", "cat"]'
        if sampling.max_tokens == 3:
            return "0.5"
        if sampling.system:
            return "8 6\nBecause."
        if "Rating: k" in prompt and "1 to 10" not in prompt:
            return "Good. Rating: 4"
        return "Rating: 7" if "10" in prompt else "correct"


BENCHMARKS = sorted({*TABLES, *OWN_LAYOUTS})


def test_every_benchmark_is_here() -> None:
    assert set(BENCHMARKS) == {name for name in registry().tasks if not name.startswith("scenes_")}


def score_answers_of(lm: Any, name: str, judge: Praise, folder: Path) -> Evaluation:
    """The model's answers to a benchmark whose data are written into `folder`."""
    data = OWN_LAYOUTS[name](folder) if name in OWN_LAYOUTS else write_parquet(folder, TABLES[name])
    settings = EvalSettings(data={name: str(data)}, partial_data=True)
    spec = ModelSpec(name="echo", pretrained="nowhere")
    return evaluate(spec, [registry().task(name)], judge, settings, load=lambda *_, **__: lm)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_end_to_end(name: str, tmp_path: Path, answering: Callable[..., Any]) -> None:
    spec, judge, seen = registry().task(name), Praise(), []

    def answer(prompt: str, pictures: list[Any]) -> str:
        seen.append([picture.size for picture in pictures])
        assert prompt.count("<image>") == len(pictures)
        return ("Describe" in prompt and "A dog beside a cat on the grass.") or "Yes"

    evaluation = score_answers_of(answering(answer), name, judge, tmp_path)
    assert seen
    assert all(size == (24, 16) for sizes in seen for size in sizes)
    entries = {entry.metric: entry for entry in evaluation.entries}
    assert list(entries) == list(spec.metrics)
    assert entries[spec.headline].value is not None
    assert all((entry.samples, entry.failed, entry.unscored) == (len(seen), 0, 0) for entry in entries.values())
    assert entries[spec.headline].provenance["rows"] == "partial"
    assert bool(judge.asked) == spec.judged
    assert len({sample.id for sample in evaluation.samples}) == len(seen)
    assert all(sample.image for sample in evaluation.samples)


def test_entries_say_which_other_data_their_scores_are_of(tmp_path: Path, answering: Callable[..., Any]) -> None:
    lm, spec = answering(lambda prompt, pictures: "A"), ModelSpec(name="echo", pretrained="nowhere")
    table, found = write_parquet(tmp_path, TABLES["mmbench"]) / "test-00000-of-00001.parquet", []
    for name in ("mmbench_dev_en.parquet", "mmbench_dev_cn.parquet"):
        table = table.rename(tmp_path / name)
        settings = EvalSettings(data={"mmbench": str(table)}, partial_data=True)
        entries = evaluate(spec, [registry().task("mmbench")], None, settings, load=lambda *_, **__: lm).entries
        found.append(entries[0])
    english, chinese = found
    assert "other data" not in english.provenance
    assert "other data: language cn" in remarks(chinese)
    assert protocol_differences(english, chinese) == ["other data was 'none', is 'language cn'"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_failed_answer_is_never_scored_nor_judged(name: str, tmp_path: Path, answering: Callable[..., Any]) -> None:
    judge = Praise()
    failing = answering(lambda prompt, pictures: FailedAnswer("out of memory"))
    evaluation = score_answers_of(failing, name, judge, tmp_path)
    assert not judge.asked
    assert all(entry.value is None and entry.failed == entry.samples > 0 for entry in evaluation.entries)


def test_a_broken_picture_is_a_failed_sample_and_costs_no_other(tmp_path: Path, random_model: Path) -> None:
    """Through our own LM with real (random) weights: the run ends, the others are scored, the sample is named."""
    rows = [dict(row) for row in MME]
    rows[2]["image"] = {"bytes": png(1)["bytes"][:60], "path": None}
    settings = EvalSettings(data={"mme": str(write_parquet(tmp_path, rows))}, partial_data=True)
    evaluation = evaluate(find(str(random_model)), [registry().task("mme")], None, settings)
    (lost,) = [sample for sample in evaluation.samples if sample.answer is None]
    assert lost.id == "existence/2"
    assert {(entry.samples, entry.failed) for entry in evaluation.entries} == {(12, 1)}


def test_documents_are_shown_as_a_model_sees_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_parquet(tmp_path, MME)
    assert run(["tasks", "show", "mme", "--samples", "2", "--data", f"mme={place}"]) == 0
    out = capsys.readouterr().out
    assert "perception: points, higher is better" in out
    assert "model: Silkie" in out
    assert "id: existence/0" in out
    assert "prompt: '<image>Is this a dog? Please answer yes or no.'" in out
    assert "pixels: 24 x 16 RGB" in out
    assert run(["tasks", "show", "mme", "--samples", "1", "--data", f"mme={place}", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["samples"][0]["target"] == "Yes"
    assert shown["rows"] == 2374


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    (
        (["--data", "mme"], 2, "--data 'mme': must be TASK=PATH"),
        (["--data", "pope=/x"], 2, "'pope' is not among the tasks asked for: mme"),
        (["--data", "mme=/nowhere"], 2, "mme: --data /nowhere: no such file or folder"),
    ),
)
def test_what_is_wrong_with_given_data_is_one_line(
    options: list[str], code: int, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "--model", "scenes-base", "--tasks", "mme", "--out", str(tmp_path), *options]) == code
    err = capsys.readouterr().err.strip().split("\n")[-1]
    assert err.startswith("harness: ")
    assert complaint in err


def test_rows_that_are_missing_are_an_error_unless_they_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_parquet(tmp_path, MME)
    command = ["eval", "--model", "scenes-early", "--tasks", "mme", "--data", f"mme={place}", "--out"]
    command.append(str(tmp_path / "run"))
    assert run(command) == 2
    assert "has 12 rows, the benchmark 2374; --partial-data scores what is there" in capsys.readouterr().err
    assert run([*command, "--partial-data", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["provenance"]["rows"] for entry in entries} == {"partial"}
    assert {entry["samples"] for entry in entries} == {12}
