"""Pictures that a processor refuses are named all at once, and what a run leaves out is bounded by its recipe."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from support.errors import DataError, RecipeError, TrainingError
from support.images import ImageRef
from tests.trainers.image_makers import encoded, png
from tests.trainers.pair_makers import pair
from trainers.config.data import PreferenceFile
from trainers.config.recipe import find_recipe, preference_recipe
from trainers.data.read_preferences import is_local, read_preferences, settle_for
from trainers.packed.collator import CutError
from trainers.training.job import Job
from trainers.training.left_out import LEFT_OUT, leave_out, read_left_out
from trainers.training.picture_check import MarkedTexts, RefusedPictures, check_pictures


class Processor:
    """Refuses pictures by a rule."""

    def __init__(self, refuses: Callable[[int, int], bool], error: Exception) -> None:
        self.refuses, self.error, self.tried = refuses, error, 0
        self.image_processor = self._process

    def _process(self, images: Sequence[Image.Image], return_tensors: str) -> None:
        self.tried += 1
        if self.refuses(*images[0].size):
            raise self.error


SIZES = [(8, 8), (300, 1), (16, 9), (1, 400), (2, 2), (40, 40), (3, 500), (8, 8)]


@pytest.mark.parametrize(
    ("refuses", "lost"),
    (
        (lambda width, height: False, []),
        (lambda width, height: max(width, height) >= 200 * min(width, height), [1, 3]),
        (lambda width, height: min(width, height) < 2, [1, 3]),
        (lambda width, height: width < 3, [3, 4]),
        (lambda width, height: height < 3, [1, 4]),
        (lambda width, height: width * height > 1400, [5, 6]),
        (lambda width, height: width * height < 10, [4]),
        (lambda width, height: max(width, height) > 350, [3, 6]),
        (lambda width, height: width > 250, [1]),
        (lambda width, height: True, list(range(8))),
    ),
)
@pytest.mark.parametrize("error", (ValueError("too narrow\nby far"), ZeroDivisionError("division by zero")))
def test_all_refused_pictures_are_named(refuses: Callable[[int, int], bool], lost: list[int], error: Exception) -> None:
    pictures = [ImageRef(f"{n}.png", data=encoded(Image.new("RGB", size))) for n, size in enumerate(SIZES)]
    pairs = [pair(picture, id=str(number), row=number) for number, picture in enumerate(pictures)]
    processor = Processor(refuses, error)
    if not lost:
        check_pictures(pairs, processor)
        assert processor.tried <= 8
        return
    with pytest.raises(
        RefusedPictures, match=rf"{len(lost)} of 8 pairs have a picture that Processor refuses"
    ) as raised:
        check_pictures(pairs, processor)
    assert raised.value.ids == tuple(map(str, lost))
    assert "\n" not in str(raised.value)
    assert "missing_images = 'drop' or max_bad_rows" in str(raised.value)


def test_pairs_without_pictures_are_not_tried() -> None:
    check_pictures([pair(ImageRef("x"), images=())], SimpleNamespace())


REFUSED = RefusedPictures(["3", "4"], 9, "P", "first")
MARKED = MarkedTexts(["3", "4"], 9, ["<image>"])
CUT = CutError(["3", "4"], [3, 4], 100)


@pytest.mark.parametrize(
    ("error", "dataset", "training", "said"),
    (
        (REFUSED, {}, {}, "2 of 9 pairs have a picture that P refuses"),
        (REFUSED, {"missing_images": "drop"}, {}, ""),
        (REFUSED, {"max_bad_rows": 4}, {}, ""),
        (REFUSED, {"max_bad_rows": 3}, {}, r"4 rows can't be used, 2 of them pairs whose picture .*max_bad_rows = 3"),
        (REFUSED, {"missing_images": "drop", "max_bad_rows": 3}, {}, "max_bad_rows = 3 allows no more"),
        (REFUSED, {}, {"too_long": "drop"}, "2 of 9 pairs"),
        (MARKED, {"max_bad_rows": 4}, {}, ""),
        (MARKED, {}, {}, "2 of 9 pairs have '<image>' written in prompt or answer"),
        (CUT, {}, {}, "too_long = 'drop'"),
        (CUT, {"missing_images": "drop"}, {}, "too_long = 'drop'"),
        (CUT, {}, {"too_long": "drop"}, ""),
        (CUT, {"max_bad_rows": 4}, {}, ""),
        (CUT, {"max_bad_rows": 3}, {"too_long": "drop"}, r"whose prompt and images fill max_length = 100 \('3', '4'\)"),
    ),
)
def test_what_training_leaves_out_is_what_the_recipe_allows(
    error: CutError | RefusedPictures | MarkedTexts,
    dataset: dict[str, Any],
    training: dict[str, Any],
    said: str,
    tmp_path: Path,
) -> None:
    values = {"learning_rate": 1e-3, "batch_size": 4, "max_length": 100, **training}
    recipe = preference_recipe("silkie", dataset={"read": "x", **dataset}, training=values)
    job = Job(recipe=recipe, out=tmp_path, bad_rows=1)
    if said:
        with pytest.raises(TrainingError, match=said):
            leave_out(job, frozenset({"1"}), error)
        assert not (tmp_path / LEFT_OUT).exists()
        return
    assert leave_out(job, frozenset({"1"}), error) == {"3", "4"}
    assert read_left_out(tmp_path) == {"1", "3", "4"}


def put(path: Path, numbers: Sequence[int]) -> Path:
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for row, number in enumerate(numbers):
        (path.parent / "images" / f"{number}.png").write_bytes(png(number))
        texts = {"prompt": f"What is {number}?", "chosen": "a cat", "rejected": "a dog"}
        records.append({"row": row, "id": str(row), "images": [f"{number}.png"], **texts})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("recipe", "gone"),
    (
        ("silkie", ["rule"]),
        ("mdpo", ["per_instruction"]),
        ("povid-stage1", ["format"]),
        ("povid-stage2", ["format"]),
        ("sft-best", ["take", "rule"]),
        ("dpo-longest", ["rule"]),
        ("dpo-strongest", ["rule"]),
        ("silkie-llava", ["rule"]),
    ),
)
def test_a_recipe_takes_pairs_in_place_of_its_own_data(recipe: str, gone: list[str], tmp_path: Path) -> None:
    own = find_recipe(recipe).dataset
    assert own is not None
    given = own.model_dump(exclude_unset=True) | {"read": str(put(tmp_path / "pairs.jsonl", range(5)))}
    settled, left = settle_for(PreferenceFile.model_validate(given))
    assert set(gone) <= set(left)
    assert sum(map(len, (read_preferences(settled).train, read_preferences(settled).held_out))) == 5


def test_rated_answers_keep_the_rule_of_a_recipe() -> None:
    own = find_recipe("silkie").dataset
    assert own is not None
    assert settle_for(own) == (own, [])
    elsewhere = PreferenceFile.model_validate(own.model_dump(exclude_unset=True) | {"read": "hub:some/data"})
    assert settle_for(elsewhere, fetch=False) == (elsewhere, [])
    assert [is_local(read) for read in ("public", "hub:some/data", "x.jsonl")] == [False, False, True]


def test_the_held_out_side_can_be_named(tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("test", range(6, 8))):
        (tmp_path / "data").mkdir(exist_ok=True)
        put(tmp_path / "data" / f"{split}-00000-of-00001.jsonl", numbers)
    values = {"read": str(tmp_path), "held_out": str(tmp_path / "data" / "test-*.jsonl")}
    found = read_preferences(PreferenceFile.model_validate(values))
    assert (len(found.train), [one.prompt for one in found.held_out]) == (6, ["What is 6?", "What is 7?"])
    both = [*found.train, *found.held_out]
    assert len({one.id for one in both}) == len({one.row for one in both}) == 8
    assert len(read_preferences(PreferenceFile(read=str(tmp_path), test_share=0)).train) == 6
    with pytest.raises(DataError, match="no such file"):
        read_preferences(PreferenceFile.model_validate(values | {"held_out": "nowhere"}))
    with pytest.raises(RecipeError, match="both held_out and test_share"):
        preference_recipe("silkie", dataset=values | {"test_share": 0.1})
