"""The split into training and test side, by prompt: all pairs of one question about one picture are on one side."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from support.images import ImageRef
from trainers.data.embedded import EmbeddedPicture
from trainers.data.pair_rules import BestAnswer
from trainers.data.rows import Preference, Row

Side = Literal["train", "test"]


def prompt_key(item: Row | Preference | BestAnswer) -> str:
    """A key that rows of the same question about the same picture share: the prompt's words, the picture's name or
    digest."""
    words = " ".join(re.findall(r"\w+", item.prompt.replace("<image>", " ").casefold()))
    names = (picture.name.replace("\\", "/").rpartition("/")[2] for picture in item.images)
    pictures = (name or _digest_of(picture) for name, picture in zip(names, item.images, strict=True))
    return "\n".join([words or item.prompt, *pictures])


def _digest_of(picture: ImageRef) -> str:
    if isinstance(picture.reader, EmbeddedPicture):
        return picture.reader.digest
    return hashlib.sha256(picture.data or b"").hexdigest()


def split(key: str, share: float, seed: int = 0) -> Side:
    """The side of a `prompt_key`: "test" for about `share` of all keys, independent of the other rows."""
    place = int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "test" if place < share * 2**64 else "train"


def set_aside(pairs: Iterable[Preference], share: float, seed: int, held_out: list[Preference]) -> Iterator[Preference]:
    """The pairs of the train side; those of the test side go into `held_out`."""
    for pair in pairs:
        if split(prompt_key(pair), share, seed) == "train":
            yield pair
        else:
            held_out.append(pair)
