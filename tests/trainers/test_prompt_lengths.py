"""Lengths of prompts with pictures are those that the processor gives, though few prompts are processed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.images import ImageRef
from tests.trainers.image_makers import encoded
from trainers.data.rows import Preference
from trainers.packed.collator import CutError
from trainers.training import prompt_lengths
from trainers.training.prompt_lengths import check_lengths, measure_prompt

SIZES = [(40 + 9 * number, 60 + 7 * (number * 5 % 12)) for number in range(14)]


def shown(size: tuple[int, int]) -> ImageRef:
    return ImageRef(f"{size[0]}.png", data=encoded(Image.new("RGB", size)))


def pairs_of_all_sizes() -> list[Preference]:
    images: list[tuple[ImageRef, ...]] = [(shown(size),) for size in SIZES]
    images += [(), (shown(SIZES[3]), shown(SIZES[4]))]
    return [
        Preference(
            id=str(row), prompt="What is in it?" * (row % 3 + 1), images=pictures, chosen="A cat.", rejected="A dog.",
            row=row,
        )
        for row, pictures in enumerate(images)
    ]  # fmt: skip


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the pairs whose prompts are processed."""
    ids: list[str] = []

    def counting(pair: Preference, processor: Any) -> int:
        ids.append(pair.id)
        return measure_prompt(pair, processor)

    monkeypatch.setattr(prompt_lengths, "measure_prompt", counting)
    return ids


def load(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("family", ("llava", "llava_next"))
def test_few_prompts_are_processed_and_all_lengths_are_right(
    family: str, checkpoint: Callable[[str], Path], processed: list[str]
) -> None:
    processor, pairs = load(checkpoint(family)), pairs_of_all_sizes()
    exact = [measure_prompt(pair, processor) for pair in pairs]
    assert prompt_lengths._measure_all(pairs, processor, 10**6) == exact
    assert len(processed) < len(pairs)
    longest = max(exact)
    check_lengths(pairs, processor, longest + 1)
    with pytest.raises(CutError) as raised:
        check_lengths([*pairs, *pairs], processor, longest)
    cut = [place for place, length in enumerate([*exact, *exact]) if length >= longest]
    assert list(raised.value.places) == cut


def test_a_processor_that_is_wrong_about_its_pictures_is_not_believed(
    checkpoint: Callable[[str], Path], processed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, pairs = load(checkpoint("llava")), pairs_of_all_sizes()
    exact = [measure_prompt(pair, processor) for pair in pairs]
    monkeypatch.setattr(
        type(processor), "_get_num_multimodal_tokens",
        lambda self, image_sizes: {"num_image_tokens": [1] * len(image_sizes)},
    )  # fmt: skip
    assert prompt_lengths._measure_all(pairs, processor, 10**6) == exact
    assert set(processed) == {pair.id for pair in pairs}


def test_prompts_near_the_limit_are_processed(checkpoint: Callable[[str], Path], processed: list[str]) -> None:
    processor, pairs = load(checkpoint("llava")), pairs_of_all_sizes()
    check_lengths(pairs, processor, 1 + max(measure_prompt(pair, processor) for pair in pairs))
    near = set(processed)
    processed.clear()
    check_lengths(pairs, processor, 10**6)
    assert set(processed) < near
