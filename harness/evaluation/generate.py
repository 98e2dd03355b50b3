"""From a model and tasks to documents and answers."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.engine.image_encoder import image_digest
from harness.models.load import quiet
from harness.models.provenance import digest_of_files
from tasks.registry import FOLDER, TaskSpec, registry

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def revision_of(task: TaskSpec) -> str | None:
    """The commit of the hub data that was just loaded, where the task's YAML names a branch; None where there is
    nothing to tell."""
    if task.data == "embedded" or re.fullmatch("[0-9a-f]{40}", task.revision):
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(task.data, revision=task.revision, timeout=10).sha
    except (OSError, ValueError):  # no hub: the data came from its cache, and which commit that was is not known
        return None


def load_tasks(
    tasks: Sequence[TaskSpec],
    *,
    split: str | None = None,
    data: Mapping[str, str] | None = None,
    partial_data: bool = False,
) -> "tuple[dict[str, Any], TaskManager]":
    """lm-eval's tasks by name, with their documents; `DataError` where these can't be had."""
    from lm_eval.tasks import TaskManager

    quiet()
    metadata = {"paths": dict(data or {}), "partial_data": partial_data} | ({"split": split} if split else {})
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
    return manager.load([task.name for task in tasks])["tasks"], manager


def documents(task: TaskSpec, count: int, data: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The first documents of a task as a model will see them: id, prompt, image, what is asked for."""
    loaded = load_tasks([task], data=data, partial_data=True)[0][task.name]
    shown = []
    for doc in list(loaded.eval_docs)[:count]:
        pictures = loaded.doc_to_image(doc)
        sizes = [f"{picture.width} x {picture.height} {picture.mode}" for picture in pictures]
        asked = {
            "id": str(doc.get("id", "")),
            "image": str(doc.get("image", doc.get("scene", ""))),
            "pixels": ", ".join(sizes),
        }
        shown.append(asked | {"prompt": str(loaded.doc_to_text(doc)), "target": str(loaded.doc_to_target(doc))})
    return shown


def early_exit_hints(request: Any, names: set[str], full_answers: bool) -> Any:
    """What a task lets the engine do with its answer to one document."""
    from harness.engine.jobs import Hints

    name, doc = request.task_name, request.doc
    if name not in names:
        return Hints()
    wanted = registry().next_token(name, doc)
    decided = None if full_answers else registry().decided(name, doc)
    return Hints(decided=decided, choices=wanted[0] if wanted else (), rule=_rule(name) if decided is not None else "")


@cache
def _rule(task: str) -> str:
    return f"{task} {digest_of_files(registry().task(task).sources)}"


def docs_and_answers(logged: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """The documents of lm-eval's sample log, and the first answer to each."""
    return [line["doc"] for line in logged], [line["resps"][0][0] for line in logged]


def image_digests(task: Any, logged: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Of the picture each document shows, as it was shown; None where there is none or it can't be read."""

    def of(doc: Mapping[str, Any]) -> str | None:
        try:
            pictures = task.doc_to_image(doc) or []
            return "+".join(image_digest(picture) for picture in pictures)[:200] or None
        except OSError:
            return None

    return [of(line["doc"]) for line in logged]
