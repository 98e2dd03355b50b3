"""The pictures of docs/statistics.md are what the product's own code draws."""

import pytest

from tests.leaderboards.statistics_pictures import FOLDER, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_checked_in_picture_is_the_one_that_is_drawn_now(name: str) -> None:
    kept = (FOLDER / name).read_text(encoding="utf-8")
    assert kept == PICTURES[name](), "python -m tests.leaderboards.statistics_pictures writes it anew"


def test_each_picture_is_shown_in_the_docs() -> None:
    text = (FOLDER.parent / "statistics.md").read_text(encoding="utf-8")
    assert {f"pictures/{name}" for name in PICTURES} <= {part.partition(")")[0] for part in text.split("](")}
