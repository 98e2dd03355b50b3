"""The unit of work of the engine: one distinct question, with all requests that share its answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from PIL.Image import Image

from harness.engine.feature_files import Encoded
from support.images import image_digest
from tasks.early_exit import Reads

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

IMAGE_WEIGHT: Final = 4
"""What an image costs beside its questions, in questions, when work is divided between processes."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a task lets the engine do with its answers."""

    decided: Callable[[str], bool] | None = None
    """True for a text if nothing that could follow it changes what the task's parser reads from it."""
    choices: tuple[str, ...] = ()
    """Answers whose log-probability is wanted beside the text, such as yes and no."""
    reads: Reads | None = None
    """The part of a text by which it is decided, for a server, which follows no rule."""
    rule: str = ""
    """Name and version of `decided`: answers that it cut short are kept under this name."""


TaskHints: TypeAlias = Mapping[str, Hints] | Callable[[Any], Hints]
"""Hints by task's name or by lm-eval's request."""


@dataclass(eq=False, kw_only=True)
class Job:
    """One question that has to be answered, for all requests that ask it."""

    context: str
    images: list[Image]
    digests: tuple[str, ...]
    settings: Mapping[str, Any]
    hints: Hints
    task: str
    templated: bool
    """True if a chat template wrote the context."""
    requests: list[int] = field(default_factory=list)
    """Their places in the list of requests."""
    ids: list[int] = field(default_factory=list)
    types: list[int] | None = None
    """1 for each token that is an image's, in families that are told so."""
    encoded: list[Encoded] = field(default_factory=list)
    shared_length: int = 0
    """How many of `ids` are computed once for all jobs that begin alike."""

    def release(self) -> None:
        """Drop ids and features: jobs live as long as the run, their features must not."""
        self.encoded, self.ids, self.types = [], [], None


def distinct_jobs(
    requests: "Sequence[Instance]", hints: TaskHints, *, max_images: int, templated: bool, merge: bool
) -> list[Job]:
    """One job for each distinct question; one for each request if not `merge`."""
    jobs: dict[object, Job] = {}
    known: dict[int, str] = {}  # by the image object's id: many requests may hold one object

    def digest_of(image: Image) -> str:
        if id(image) not in known:
            known[id(image)] = image_digest(image)
        return known[id(image)]

    for index, request in enumerate(requests):
        context, settings, visual = request.args[0], request.args[1], request.args[2]["visual"]
        images, task = list(visual)[:max_images], request.task_name or ""
        hint = hints(request) if callable(hints) else hints.get(task, Hints())
        try:
            digests = tuple(digest_of(image) for image in images)
        except (OSError, SyntaxError, ValueError):  # an image that can't be read: no other question is about it
            digests = tuple(f"unreadable {index}.{at}" for at in range(len(images)))
        sampled = index if settings.get("do_sample") else None
        key = (context, digests, repr(sorted(settings.items())), hint, sampled) if merge else index
        if key not in jobs:
            jobs[key] = Job(
                context=context,
                images=images,
                digests=digests,
                settings=settings,
                hints=hint,
                task=task,
                templated=templated,
            )
        jobs[key].requests.append(index)
    return list(jobs.values())


def may_be_kept(job: Job) -> bool:
    """True if the answer is the same each time, and the rule that cuts it has a name."""
    return not job.settings.get("do_sample") and (job.hints.decided is None or bool(job.hints.rule))


def image_areas(images: Sequence[Image]) -> tuple[int, ...]:
    """Pixels of each image."""
    return tuple(image.width * image.height for image in images)


def size_problem(images: Sequence[Image]) -> str | None:
    """Why the size of an image can't be read, or None."""
    try:
        image_areas(images)
    except (OSError, SyntaxError, ValueError) as error:
        return f"image can't be read: {error}"
    return None
