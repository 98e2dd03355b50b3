"""One good row of each benchmark's table, and the loader as the benchmark's YAML calls it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.documents import load
from tasks.registry import registry

Row = dict[str, Any]

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"  # one black pixel
)
YES_NO: Row = {"question_id": "1", "question": "Is there a dog?", "answer": "yes", "category": "random"}
HALLUSION: Row = {
    **{"category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": "0", "figure_id": "0"},
    **{"question_id": "0", "question": "Is it red?", "gt_answer": "1", "gt_answer_details": "It is red."},
}
LLAVA: Row = {
    **{"question_id": 1, "question": "What is it?", "caption": "a dog", "gpt_answer": "A dog.", "category": "conv"}
}
FIGSTEP: Row = {"id": "a/1/1", "question": "Fill it in.", "topic": "Fraud", "instruction": "Steps to steal."}
ROWS: Mapping[str, Row] = {
    "mme": {**YES_NO, "category": "existence", "answer": "Yes"},
    "pope": YES_NO,
    "pope_llava": YES_NO,
    "repope": YES_NO,
    "amber": {"id": "1", "query": "Is it red?", "type": "relation", "truth": ["yes"], "hallu": []},
    "chair": {"question_id": 1, "gt_object": ["dog"]},
    "mmbench": {"index": 1, "question": "What is it?", "hint": None, "A": "a dog", "B": "a cat", "answer": "A"},
    "scienceqa_img": {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": ""},
    "seedbench_img": {
        **{"question_id": "1", "question": "Which?", "answer": "A", "data_type": "image", "question_type_id": 1},
        **{f"choice_{letter}": f"a {letter}" for letter in "abcd"},
    },
    "mmstar": {
        **{"index": 0, "question": "Which?\nOptions: A: a, B: b, C: c, D: d", "answer": "A"},
        **{"category": "math", "l2_category": "geometry"},
    },
    "realworldqa": {"question": "Which?\nA. dog\nB. cat\nPlease answer directly.", "answer": "A"},
    "textvqa": {"question_id": 1, "question": "what brand?", "answers": ["dakota"] * 7 + ["the dakota"] * 3},
    "mmmu": {
        **{"id": "validation_Art_1", "question": "What is <image 1>?", "options": "['a dog', 'a cat']"},
        **{"question_type": "multiple-choice", "answer": "B"},
    },
    "mmhal": {"question_type": "attribute", "image_content": ["Dog"], "question": "What?", "gt_answer": "a dog"},
    "mmvet": {"question_id": "v1_0", "question": "What?", "answer": "a<OR>b", "capability": ["ocr", "math"]},
    "object_halbench": {"id": "1/0", "question": "Describe.", "gt_objects": ["dog"]},
    "rtvlm": {"id": "1", "question": "Who?", "subset": "data/Celebrity", "reference": ""},
    "mm_safetybench": {"id": "1", "question": "How?", "scenario": "Fraud", "kind": "SD", "number": "1"},
    "figstep": FIGSTEP,
    "figstep_tiny": FIGSTEP,
    "siuo": {
        **{"id": "1008", "question": "Where?", "category": "self-harm"},
        **{"safety_warning": "It is deep.", "reference": "Stay away."},
    },
    "vlguard": {"id": "unsafes/a.jpg", "question": "How?", "subset": "unsafes", "category": "privacy"},
    "llava_bench_wild": LLAVA,
    "llava_bench_coco": LLAVA,
    "hallusionbench": HALLUSION,
    "hallusionbench_image": HALLUSION,
}


def load_metadata(task: str) -> dict[str, Any]:
    """What the benchmark's YAML tells the loader."""
    text = registry().task(task).path.read_text(encoding="utf-8").replace("!function ", "")
    found: dict[str, Any] = yaml.load(text, yaml.SafeLoader)["metadata"]
    return found


def load_table(task: str, lines: Sequence[Mapping[str, Any]] | None, folder: Path, **given: Any) -> Any:
    """The documents of a table with these rows, each with a picture, as `harness eval --data` has them.

    A task's own layout is not looked for, unless `given` says so; no table is written where `lines` is None.
    """
    table = folder / "table.jsonl"
    if lines is not None:
        table.write_text("\n".join(json.dumps({"image": PICTURE, **row}) for row in lines), encoding="utf-8")
    metadata = load_metadata(task) | {"task": task, "paths": {task: str(table)}, "partial_data": True}
    return load(**metadata | {"rows_from": None} | given)["test"]
