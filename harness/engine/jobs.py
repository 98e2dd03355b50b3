"""The unit of work of the engine: one distinct request, with all questions that share its answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from PIL.Image import Image

from harness.engine.image_encoder import Encoded

IMAGE_WEIGHT: Final = 4
"""What an image costs beside its questions, in questions, when work is shared out."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a task lets the engine do with its answers."""

    decided: Callable[[str], bool] | None = None
    """Whether nothing that could follow a text changes what is read from it."""
    choices: tuple[str, ...] = ()
    """Answers whose log-probability is wanted beside the text, such as yes and no."""
    rule: str = ""
    """What names `decided` over runs, its version included: answers it cut are kept under that name."""


@dataclass(eq=False)
class Job:
    """One question that has to be answered, for all requests that ask it."""

    context: str
    images: list[Image]
    digests: tuple[str, ...]
    settings: Mapping[str, Any]
    hints: Hints
    task: str
    requests: list[int]
    ids: list[int] = field(default_factory=list)
    types: list[int] | None = None
    encoded: list[Encoded] = field(default_factory=list)
    beginning: int = 0
    """How many of `ids` are computed once for all jobs that begin alike."""


def is_kept(job: Job) -> bool:
    """Whether an answer is the same each time, and what cut it has a name."""
    return not job.settings.get("do_sample") and (job.hints.decided is None or bool(job.hints.rule))


def image_areas(images: Sequence[Image]) -> tuple[int, ...]:
    """Pixels of each image."""
    return tuple(image.width * image.height for image in images)


def unreadable_size(images: Sequence[Image]) -> str | None:
    """Why an image doesn't even have a size, or None."""
    try:
        image_areas(images)
    except (OSError, SyntaxError, ValueError) as error:
        return f"image can't be read: {error}"
    return None
