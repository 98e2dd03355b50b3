"""Where in a prompt its pictures stand.

    read_places("Before: <image> After: <image>", 2)        # ("Before:  After: ", (8, 16))
    read_places("<image>\\nWhat is it?", 1)                   # ("What is it?", ()): in front
    user_message(pair)                                       # text, or its parts with the pictures between them

Marks of every family are read alike: `<image>`, Qwen-VL's `<img>...</img>`, Qwen2-VL's
`<|vision_start|><|image_pad|><|vision_end|>`, `<image_1>`, `<|image_1|>`, ... Pictures in front of all text have no
places of their own: that is where every chat template puts them.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, TypeVar

from support.image_marks import MARK
from trainers.data.conversations import NoPair
from trainers.data.rows import Preference

Picture = TypeVar("Picture")

_NUMBER: Final = re.compile(r"(?:picture |<\|?(?:image|img|picture)[ _-]?)(\d+)", re.IGNORECASE)
_NAME: Final = re.compile(r"<img>([^<>\n]+)</img>", re.IGNORECASE)


def count_marks(text: str) -> int:
    """How many pictures a text has marks for."""
    return sum(1 for _ in MARK.finditer(text))


def read_places(text: str, pictures: int, *, as_llava: bool = False) -> tuple[str, tuple[int, ...]]:
    """The text without its marks, and where each picture stands in it; () for all in front.

    `as_llava`: a picture at the end is in front, too, where LLaVA's own code puts it. NoPair for marks that are not as
    many as the pictures.
    """
    marks = list(MARK.finditer(text))
    if not marks:
        return text, ()
    if len(marks) != pictures:
        raise NoPair(f"{len(marks)} places for {pictures} pictures in the prompt")
    first, last = marks[0].start(), marks[-1].end()
    together = all(not text[one.end() : two.start()].strip() for one, two in pairwise(marks))
    if together and not text[:first].strip():
        rest = text[last:]
        return rest[1:] if rest.startswith("\n") else rest.lstrip(" "), ()
    if together and as_llava and not text[last:].strip():
        return text[:first].rstrip(" ").removesuffix("\n"), ()
    kept, places, at = "", [], 0
    for mark in marks:
        kept += text[at : mark.start()]
        places.append(len(kept))
        at = mark.end()
    return kept + text[at:], tuple(places)


def in_order(text: str, pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """The pictures in the order in which a text shows them: its marks may number them (`<image_2>`, Picture 2: ...).

    NoPair for numbers that are not one for each picture.
    """
    marks = [match[0] for match in MARK.finditer(text)]
    numbers = [int(found[1]) for mark in marks if (found := _NUMBER.match(mark))]
    if not numbers or len(marks) != len(pictures):
        return tuple(pictures)
    first = min(numbers)
    if sorted(numbers) != list(range(first, first + len(pictures))):
        raise NoPair(f"places {', '.join(map(str, numbers))} for {len(pictures)} pictures in the prompt")
    return tuple(pictures[number - first] for number in numbers)


def names_in(text: str) -> tuple[str, ...]:
    """The names in a text's marks, as Qwen-VL writes them (`<img>7.jpg</img>`); none unless all marks have one."""
    marks = [match[0] for match in MARK.finditer(text)]
    names = [found[1] for mark in marks if (found := _NAME.search(mark))]
    return tuple(names) if len(names) == len(marks) else ()


def user_message(pair: Preference) -> dict[str, Any]:
    """The user's turn as chat templates take it: a text, or its parts with the places of the pictures."""
    return {"role": "user", "content": parts_of(pair.prompt, pair.places) if pair.places else pair.prompt}


def parts_of(prompt: str, places: Sequence[int]) -> list[dict[str, Any]]:
    """The parts of a prompt with a picture at each of these places."""
    parts: list[dict[str, Any]] = []
    at = 0
    for place in (*places, len(prompt)):
        if prompt[at:place]:
            parts.append({"type": "text", "text": prompt[at:place]})
        parts.append({"type": "image"})
        at = place
    return parts[:-1]


def with_marks(prompt: str, places: Sequence[int], mark: str) -> str:
    """The prompt as a text with a mark at each of these places."""
    told, at = "", 0
    for place in places:
        told, at = told + prompt[at:place] + mark, place
    return told + prompt[at:]
