"""How long prompts are with their pictures: those that fill `max_length` are found before training.

Most families' processors can say how many tokens a picture of a size becomes, without a picture. That is believed once
prompts with pictures of the most extreme sizes, the most pictures and the longest text were processed and had as many;
prompts near the limit are processed in any case.
"""

from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from support.errors import TrainingError, one_line
from support.progress import report
from trainers.data.chat import Chat
from trainers.data.image_hashes import size_of
from trainers.data.image_places import user_message
from trainers.data.rows import Preference
from trainers.packed.collator import CutError
from trainers.training.picture_check import find_extremes

NEAR: Final = 0.8
"""Share of the limit from which on a prompt is processed, whatever the processor says of it."""


def check_lengths(pairs: Sequence[Preference], processor: Any, max_length: int | None) -> None:
    """CutError for pairs whose prompt alone fills `max_length`."""
    if max_length is None:
        return
    firsts: dict[int, Preference] = {}
    for pair in pairs:
        firsts.setdefault(pair.row, pair)
    lengths = dict(zip(firsts, _measure_all(list(firsts.values()), processor, max_length), strict=True))
    places = [place for place, pair in enumerate(pairs) if lengths[pair.row] >= max_length]
    if places:
        raise CutError([pairs[place].id for place in places], places, max_length)


def _measure_all(pairs: Sequence[Preference], processor: Any, limit: int) -> list[int]:
    """Tokens of each pair's prompt; TrainingError."""
    tried = {place: measure_prompt(pairs[place], processor) for place in _choose_tried(pairs)}
    believed = all(_foretell(pairs[place], processor) == length for place, length in tried.items())
    lengths = []
    for place, pair in enumerate(pairs):
        length = tried.get(place)
        if length is None and believed:
            length = _foretell(pair, processor)
            length = None if length is None or length > NEAR * limit else length
        lengths.append(measure_prompt(pair, processor) if length is None else length)
        report("check lengths", len(lengths), len(pairs))
    return lengths


def _choose_tried(pairs: Sequence[Preference]) -> list[int]:
    """Places of the pairs that are most unlike others."""
    if not pairs:
        return []
    shown = {size_of(picture): place for place, pair in enumerate(pairs) for picture in pair.images}
    longest = max(range(len(pairs)), key=lambda place: len(pairs[place].prompt))
    most = max(range(len(pairs)), key=lambda place: len(pairs[place].images))
    return sorted({longest, most, *(shown[size] for size in find_extremes(list(shown)))})


def _foretell(pair: Preference, processor: Any) -> int | None:
    """Tokens of a pair's prompt by what the processor says of its pictures' sizes; None where it says nothing."""
    # This is what vLLM asks processors of transformers, too; there is no public way.
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    mark = getattr(processor, "image_token", None)
    text = Chat(processor).prompt([user_message(pair)], [Image.new("RGB", (8, 8))] * len(pair.images))
    if count is None or not isinstance(mark, str) or text.count(mark) != len(pair.images):
        return None
    try:
        told = count(image_sizes=[size_of(picture)[::-1] for picture in pair.images])["num_image_tokens"]
    except Exception:  # each processor has its own
        return None
    words = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(words) - len(pair.images) + int(sum(told))


def measure_prompt(pair: Preference, processor: Any) -> int:
    """Tokens of a pair's prompt with its images, which is processed; TrainingError."""
    # Of an image only its size counts.
    images = [Image.new("RGB", size_of(picture)) for picture in pair.images]
    text = Chat(processor).prompt([user_message(pair)], images)
    given: dict[str, Any] = {"images": [images]} if images else {}
    try:
        read = processor(text=[text], **given, add_special_tokens=False, return_tensors="pt")
    except ValueError as error:
        raise TrainingError(
            f"pair {pair.id!r}: {type(processor).__name__} can't read it: {one_line(error)}; leave it out"
        ) from error
    return int(read["input_ids"].shape[1])
