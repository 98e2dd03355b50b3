"""`make bench` collects flat figures here and writes them to bench.json."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench.json"


@pytest.fixture(scope="session")
def figures() -> Iterator[dict[str, float]]:
    """Name -> figure; merged into bench.json at the end, so that a part can be measured again by itself."""
    found: dict[str, float] = {}
    yield found
    kept = json.loads(BENCH.read_text(encoding="utf-8")) if BENCH.exists() else {}
    kept |= {name: float(f"{value:.4g}") for name, value in found.items()}
    BENCH.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
