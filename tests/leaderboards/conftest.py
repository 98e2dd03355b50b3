from typing import Any

import pytest

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from tests.leaderboards.makers import MakeEntry, MakeSample


@pytest.fixture(scope="session")
def make_entry() -> MakeEntry:
    """An entry that is like any other but for what is given."""

    def make(**changes: Any) -> Entry:
        usual: dict[str, Any] = {
            "run": "run-1",
            "model": "base",
            "task": "scenes_chair",
            "version": "1",
            "metric": "CHAIR_s",
            "value": 19.3,
            "unit": "%",
            "higher_is_better": False,
            "headline": True,
            "samples": 300,
            "empty": 0,
            "low": 15.3,
            "high": 23.0,
            "limit": None,
            "judge": None,
            "seconds": 12.5,
            "cost": 0.0,
            "created": "2026-01-31T12:00:00+00:00",
            "provenance": {"weights": "sha256:12ab", "seed": "0"},
        }
        return Entry(**usual | changes)

    return make


@pytest.fixture(scope="session")
def make_sample() -> MakeSample:
    def make(**changes: Any) -> Sample:
        usual: dict[str, Any] = {
            "run": "run-1",
            "task": "scenes_chair",
            "id": "0",
            "image": "scene-0",
            "prompt": "Describe the image.",
            "answer": "A red circle.",
            "records": {"CHAIR_s": {"image": "scene-0", "hallucinated": 0}},
            "reply": None,
        }
        return Sample(**usual | changes)

    return make


@pytest.fixture
def old(make_entry: MakeEntry) -> Entry:
    return make_entry(run="old", value=20.0, samples=60)


@pytest.fixture
def new(make_entry: MakeEntry) -> Entry:
    return make_entry(run="new", value=50.0, samples=60)
