"""A small file of answers of each benchmark with its references, for tests of all readers alike."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.answer_files import OfficialAnswers
from tasks.benchmarks import mmhal
from tasks.registry import registry

Row = dict[str, Any]
Make = Callable[[Sequence[Mapping[str, Any]]], Any]


def as_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "\n".join(map(json.dumps, rows))


def by_id(rows: Sequence[Mapping[str, Any]]) -> str:
    """MM-Vet's object: the member of each row's id is its value."""
    return json.dumps({str(row["id"]): row["value"] for row in rows})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One benchmark's answer file."""

    task: str
    rows: Sequence[Row]
    """Two answers or more, to different questions."""
    field: str
    """Where the answer is."""
    references: Mapping[str, Any]
    name: str = "answers.jsonl"
    make: Callable[[Sequence[Mapping[str, Any]]], str] = as_lines
    missing_is_wrong: bool = False
    """Whether the official rule counts a question without an answer as wrong."""
    row_key: str | None = "id"
    """The field that tells questions apart; None where lines do."""

    def read(self, folder: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> OfficialAnswers:
        """What the benchmark's reader makes of the rows."""
        references = folder / "references"
        references.mkdir(exist_ok=True)
        for name, content in self.references.items():
            (references / name).write_text(json.dumps(content), encoding="utf-8")
        path = folder / self.name
        path.write_text(self.make(self.rows if rows is None else rows), encoding="utf-8")
        return registry().official_answers(self.task)(path, references)


def _pope_questions() -> dict[str, Any]:
    rows = [
        {"question_id": number, "image": f"{number}.jpg", "text": f"Is there a thing {number}?", "label": label}
        for number, label in ((1, "yes"), (2, "no"), (3, "Yes"))
    ]
    return {f"coco_pope_{split}.json": rows for split in ("random", "popular", "adversarial")}


HALLUSION = {"category": "VD", "subcategory": "map", "set_id": "0", "figure_id": "0", "visual_input": "1"}
_TRUTH = {"question": "Is it?", "gt_answer": "1", "gt_answer_details": "It is."}
_OPTIONS = {"A": "a dog", "B": "a cat", "answer": "A"}
_MMVET = {"imagename": "1.jpg", "question": "What?", "answer": "x", "capability": ["ocr"]}

LAYOUTS: Sequence[Layout] = (
    Layout(
        task="pope",
        rows=[{"question_id": 1, "answer": "Yes"}, {"question_id": 2, "answer": "No"}],
        field="answer",
        references=_pope_questions(),
        name="m_random.jsonl",
        row_key="question_id",
    ),
    Layout(
        task="chair",
        rows=[{"image_id": 1, "caption": "A dog."}, {"image_id": 2, "caption": "A cat."}],
        field="caption",
        references={"gt_objects.jsonl": [{"image_id": n, "official": ["dog"], "nltk": ["dog"]} for n in (1, 2, 3)]},
        row_key="image_id",
    ),
    Layout(
        task="object_halbench",
        rows=[
            {"image_id": n, "caption": f"A dog {n}.", "gt_objects": ["dog"], "question": "Describe."} for n in (1, 2)
        ],
        field="caption",
        references={},
        row_key="image_id",
    ),
    Layout(
        task="amber",
        rows=[{"id": 1, "response": "Yes"}, {"id": 2, "response": "No"}],
        field="response",
        references={
            "annotations.json": [{"id": n, "type": "relation", "truth": "yes"} for n in (1, 2, 3)],
            "query_discriminative.json": [{"id": n, "image": "a.jpg", "query": "Is it?"} for n in (1, 2, 3)],
        },
    ),
    Layout(
        task="hallusionbench",
        rows=[{**HALLUSION, **_TRUTH, "question_id": str(n), "model_prediction": "Yes."} for n in (1, 2)],
        field="model_prediction",
        references={},
        row_key="question_id",
    ),
    Layout(
        task="mmbench",
        rows=[{**_OPTIONS, "index": 1, "prediction": "A"}, {**_OPTIONS, "index": 2, "prediction": "B"}],
        field="prediction",
        references={},
        missing_is_wrong=True,
        row_key="index",
    ),
    Layout(
        task="mmstar",
        rows=[
            {"index": n, "answer": "A", "category": "math", "l2_category": "geometry", "prediction": said}
            for n, said in ((1, "A"), (2, "B"))
        ],
        field="prediction",
        references={},
        missing_is_wrong=True,
        row_key="index",
    ),
    Layout(
        task="realworldqa",
        rows=[
            {"index": n, "question": "How many?", "answer": "2", "prediction": said} for n, said in ((1, "2"), (2, "3"))
        ],
        field="prediction",
        references={},
        missing_is_wrong=True,
        row_key="index",
    ),
    Layout(
        task="textvqa",
        rows=[
            {"question_id": str(n), "prompt": "What?\nAnswer.", "text": said} for n, said in ((1, "a"), (2, "dakota"))
        ],
        field="text",
        references={
            "TextVQA_0.5.1_val.json": {
                "data": [{"image_id": str(n), "question": "what?", "answers": ["dakota"] * 10} for n in (1, 2, 3)]
            }
        },
        row_key="question_id",
    ),
    Layout(
        task="mmmu",
        rows=[
            {"id": f"validation_Art_{n}", "question_type": "open", "answer": "30", "response": said}
            for n, said in ((1, "30"), (2, "36 watts"))
        ],
        field="response",
        references={},
    ),
    Layout(
        task="mmvet",
        rows=[{"id": "v1_0", "value": "It is x."}, {"id": "v1_1", "value": "It is y."}],
        field="value",
        references={"mm-vet.json": {f"v1_{n}": _MMVET for n in range(3)}},
        name="answers.json",
        make=by_id,
        row_key=None,
    ),
    Layout(
        task="mmhal",
        rows=[
            {"question_type": mmhal.TYPES[n % 8], "image_content": ["Dog"], "question": "What?", "gt_answer": "a dog"}
            | {"model_answer": "A dog."}
            for n in range(96)
        ],
        field="model_answer",
        references={},
        row_key=None,
    ),
    Layout(
        task="scienceqa_img",
        rows=[{"question_id": "1", "text": "A"}, {"question_id": "2", "text": "B"}],
        field="text",
        references={
            "test_questions.jsonl": [
                {"question_id": n, "choices": ["a", "b"], "answer": 0, "has_image": True} for n in (1, 2, 3)
            ]
        },
        missing_is_wrong=True,
        row_key="question_id",
    ),
    Layout(
        task="seedbench_img",
        rows=[{"question_id": 1, "prediction": "A"}, {"question_id": 2, "prediction": "B"}],
        field="prediction",
        references={
            "SEED-Bench.json": {
                "questions": [
                    {"question_id": n, "data_type": "image", "answer": "A", "question_type_id": 1, "data_id": n}
                    for n in (1, 2, 3)
                ]
            }
        },
        missing_is_wrong=True,
        row_key="question_id",
    ),
)
REVIEWS: Sequence[Layout] = (
    Layout(
        task="llava_bench_wild",
        rows=[{"question_id": n, "category": "conv", "content": "8 6", "tuple": [8, 6]} for n in (1, 2)],
        field="tuple",
        references={},
        row_key="question_id",
    ),
    Layout(
        task="rtvlm",
        rows=[{"id": str(n), "subset": "Face", "rating": 4 + n} for n in (1, 2)],
        field="rating",
        references={},
    ),
)
"""Files that hold a judge's ratings alone."""
