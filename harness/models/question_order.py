"""In which order a server is asked: all questions about an image one after the other, whatever task they come from.

    for index in by_image(requests): ...

A server keeps the beginnings of the latest prompts, and the features of a few images: asked task by task, it reads each
image anew for each task. Nothing waits for the first question of an image: vLLM shares the beginning of prompts that
it reads in one step, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.images import image_digest

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from PIL.Image import Image

    from harness.engine.jobs import Hints
    from harness.models.served_sampling import Decoding


@dataclass(kw_only=True)
class Asked:
    """One request of lm-eval's on its way."""

    request: "Instance"
    full: "Decoding"
    """How it is asked for in full."""
    hint: "Hints | None"
    repeat: int = 0
    early: "Decoding | None" = None
    """How it was asked to end early."""
    is_undecided: bool = False
    """Whether it came cut, and must be asked in full."""
    answer: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers whose likelihoods are wanted."""
        return self.hint.choices if self.hint is not None else ()


def by_image(requests: "Sequence[Instance]") -> list[int]:
    """The places of all requests: images in the order in which they first come, and each one's questions together."""
    first: dict[object, int] = {}
    known: dict[int, object] = {}  # by the image object's id: many requests hold one object

    def name(image: "Image", index: int) -> object:
        if id(image) not in known:
            try:
                known[id(image)] = image_digest(image)
            except (OSError, SyntaxError, ValueError):  # it can't be read, and no other is like it
                known[id(image)] = index
        return known[id(image)]

    def first_like(index: int) -> int:
        images = requests[index].args[2]["visual"] if len(requests[index].args) > 2 else []
        return first.setdefault(tuple(name(image, index) for image in images), index)

    return sorted(range(len(requests)), key=first_like)
