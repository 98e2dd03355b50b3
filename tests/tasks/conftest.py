"""Real answer files with the scores the authors' own scripts give them; they lie beside the repository and not
everybody has them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
