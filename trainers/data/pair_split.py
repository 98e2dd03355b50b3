"""Which side of the split a prompt is on: everything that asks the same about the same picture is on one."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from trainers.data.pair_rules import BestAnswer
from trainers.data.rows import Preference, Row

Side = Literal["train", "test"]


def prompt_key(item: Row | Preference | BestAnswer) -> str:
    """What rows of the same question about the same picture share: words of the prompt in any case, and the picture's
    name or bytes."""
    words = " ".join(re.findall(r"\w+", item.prompt.replace("<image>", " ").casefold()))
    names = (picture.name.replace("\\", "/").rpartition("/")[2] for picture in item.images)
    pictures = (
        name or hashlib.sha256(picture.data or b"").hexdigest()
        for name, picture in zip(names, item.images, strict=True)
    )
    return "\n".join([words or item.prompt, *pictures])


def split(key: str, share: float, seed: int = 0) -> Side:
    """On which side everything of this prompt_key is: "test" for `share` of all keys, whatever the order and number of
    rows."""
    place = int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "test" if place < share * 2**64 else "train"


def on_side(pairs: Iterable[Preference], side: Side, share: float, seed: int = 0) -> Iterator[Preference]:
    """The pairs on one side of the split by prompt."""
    return (pair for pair in pairs if split(prompt_key(pair), share, seed) == side)


def set_aside(pairs: Iterable[Preference], share: float, seed: int, held_out: list[Preference]) -> Iterator[Preference]:
    """The pairs of the train side; those of the test side go into `held_out`."""
    for pair in pairs:
        if split(prompt_key(pair), share, seed) == "train":
            yield pair
        else:
            held_out.append(pair)
