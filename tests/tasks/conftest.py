"""Real answer files with the scores the authors' own scripts give them; they lie beside the repository and not
everybody has them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.answer_files import OfficialAnswers
from tasks.registry import registry

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "golden"


@pytest.fixture
def golden() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        path = FOLDER / name
        if not path.exists():
            pytest.skip(f"no golden file shared/golden/{name} beside the repository")
        return path

    return find


@pytest.fixture
def golden_json(golden: Callable[[str], Path]) -> Callable[[str], Any]:
    """The content of a golden file; of a .jsonl file the list of its lines. Some .json files are .jsonl, too."""

    def read(name: str) -> Any:
        text = golden(name).read_text(encoding="utf-8")
        try:
            return json.loads(text) if not name.endswith(".jsonl") else [json.loads(line) for line in text.splitlines()]
        except json.JSONDecodeError:
            return [json.loads(line) for line in text.splitlines()]

    return read


def score(task: str, given: OfficialAnswers) -> dict[str, float]:
    """Every metric of a task and of the file, over the answers with a record for it; nan where there are none."""
    process = registry().process_results(task)
    records = [process(sample.doc, [sample.answer]) for sample in given.answered]
    found = {}
    for name in registry().task(task).metrics:
        own = [record[name] for record in records if name in record]
        found[name] = registry().metric(task, name)(own) if own else math.nan
    return found | {name: metric([next(iter(r.values())) for r in records]) for name, metric in given.more.items()}


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
