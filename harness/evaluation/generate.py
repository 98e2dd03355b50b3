"""From a model and tasks to documents and answers; lm-eval makes prompts and requests.

generate(lm, load_tasks(tasks), limit=None, seed=0)["pope"][0].answer
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from harness.models.load import quiet
from leaderboards.board.earlier_digests import earliest_digest
from support.errors import ModelError, SettingError, TaskError, one_line
from support.images import image_digest
from support.progress import doing
from tasks.data_folder import stored
from tasks.draw import draw
from tasks.hub_data import facts_of
from tasks.registry import FOLDER, TaskSpec, registry
from tasks.score_digest import score_digest

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A model's answer to one document."""

    doc: Mapping[str, Any]
    prompt: str
    """With the chat template applied."""
    answer: str
    """A `FailedAnswer` if the model gave none."""
    image_digest: str | None
    """Of the images shown; None if there are none or one can't be read."""


def load_tasks(
    tasks: Sequence[TaskSpec],
    *,
    split: str | None = None,
    data: Mapping[str, str] | None = None,
    partial_data: bool = False,
) -> dict[str, Any]:
    """lm-eval's tasks by name, with their documents; `DataError` if these can't be read."""
    kept = {task.name: _KEPT.pop(_key_of(task, split, data, partial_data), None) for task in tasks}
    new = [task for task in tasks if kept[task.name] is None]
    found = _load_anew(new, split, data, partial_data) if new else {}
    return {name: found[name] if loaded is None else loaded for name, loaded in kept.items()}


_KEPT: dict[tuple[Any, ...], Any] = {}
"""Tasks that were loaded to be looked at, for the next one who loads them."""


def keep_loaded(task: TaskSpec, loaded: Any, *, data: Mapping[str, str] | None, partial_data: bool) -> None:
    """Let the next `load_tasks` with the same arguments have this task, which nobody has used: its pictures are read
    once."""
    _KEPT[_key_of(task, None, data, partial_data)] = loaded


def _key_of(task: TaskSpec, split: str | None, data: Mapping[str, str] | None, partial_data: bool) -> tuple[Any, ...]:
    return task.path, split, (data or {}).get(task.name) or stored(task.name), partial_data


def _load_anew(
    tasks: Sequence[TaskSpec], split: str | None, data: Mapping[str, str] | None, partial_data: bool
) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    quiet()
    metadata = {"paths": dict(data or {}), "partial_data": partial_data} | ({"split": split} if split else {})
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
    # A task outside of tasks/ is loaded from its file.
    names = [task.name if task.path.is_relative_to(FOLDER) else str(task.path) for task in tasks]
    with doing(f"reading the data of {', '.join(task.name for task in tasks)}"):
        return dict(manager.load(names)["tasks"])


def drawn_from(loaded: Any, limit: int | None, seed: int) -> list[int] | None:
    """Which documents of one of lm-eval's tasks a limit asks; None: all. A task that is none of ours: the first."""
    if limit is None:
        return None
    docs, known = loaded.eval_docs, registry().tasks.get(loaded.config.task)
    return list(range(min(limit, len(docs)))) if known is None else draw(known, docs, limit, seed)


def documents_drawn(loaded: Any, limit: int | None, seed: int) -> list[Any]:
    """The documents that a limit asks, in their order."""
    places, docs = drawn_from(loaded, limit, seed), loaded.eval_docs
    return list(docs) if places is None else [docs[place] for place in places]


def requests_of(loaded: Any, lm: "LM", limit: int | None, system: str = "", *, seed: int = 0) -> "list[Instance]":
    """A task's requests to `lm`, one a document, as lm-eval builds them; `system` is a message before each, and
    `seed` decides which documents a limit asks."""
    if loaded.get_config("num_fewshot") is None:
        loaded.set_config(key="num_fewshot", value=0)
    loaded.set_fewshot_seed(seed=0)
    try:
        if system and _drops(lm, system):
            raise SettingError(
                f"system message {system[:60]!r}: would not act: the model's chat template leaves it out"
            )
        loaded.build_all_requests(
            samples=drawn_from(loaded, limit, seed),
            rank=0,
            world_size=1,
            system_instruction=system or None,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lm.apply_chat_template,
            tokenizer_name=lm.tokenizer_name,
        )
    except TemplateError as error:  # of a template that takes no system message
        why = one_line(error)
        raise ModelError(f"{loaded.config.task}: the chat template can't write its prompts: {why}") from None
    requests: list[Instance] = loaded.instances
    if any(request.request_type != "generate_until" for request in requests):
        raise TaskError(f"{loaded.config.task}: output_type: must be generate_until")
    return requests


def _drops(lm: "LM", system: str) -> bool:
    """Whether a model reads the same whatever a system message says."""

    def ask(text: str) -> str:
        turns = [{"role": "system", "content": text}, {"role": "user", "content": "Is there a dog?"}]
        return str(lm.apply_chat_template(turns))

    return ask(system) == ask(f"{system} {system}")


def generate(
    lm: "LM", loaded: Mapping[str, Any], *, limit: int | None, seed: int, system: str = ""
) -> dict[str, list[Generated]]:
    """The LM's answers to `limit` documents of each task, drawn by `seed`, from one call with all requests; `system`
    is a message before each question."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    requests = {name: requests_of(task, lm, limit, system, seed=seed) for name, task in loaded.items()}
    answers = iter(lm.generate_until([request for found in requests.values() for request in found]))
    return {
        name: [
            Generated(
                doc=request.doc,
                prompt=str(request.args[0]),
                answer=next(answers),
                image_digest=_digest_images(request),
            )
            for request in found
        ]
        for name, found in requests.items()
    }


def _digest_images(request: "Instance") -> str | None:
    images = request.args[2].get("visual") or [] if len(request.args) > 2 else []
    try:
        return "+".join(image_digest(image) for image in images)[:200] or None
    except OSError:
        return None


def facts_of_data(task: TaskSpec) -> dict[str, str]:
    """What an entry records of the hub data that were just loaded: their commit, where it is known, and the dataset's
    second id where that was read."""
    return facts_of(task.name, task.data, task.revision, _ask_commit)


def _ask_commit(data: str, revision: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(data, revision=revision, timeout=10).sha
    except (OSError, ValueError):  # offline: the data came from the cache
        return None


def documents(
    task: TaskSpec,
    count: int,
    data: Mapping[str, str] | None = None,
    *,
    put: Callable[[Mapping[str, Any], str], str] | None = None,
) -> list[dict[str, str]]:
    """The first documents of a task: id, image, size in pixels, prompt and target. The prompt is the task's own text,
    or what `put` makes of a document and that text."""
    loaded = load_tasks([task], data=data, partial_data=True)[task.name]
    return [
        {
            "id": str(doc.get("id", "")),
            "image": str(doc.get("image", doc.get("scene", ""))),
            "pixels": ", ".join(f"{image.width} x {image.height} {image.mode}" for image in loaded.doc_to_image(doc)),
            "prompt": (put or (lambda _, own: own))(doc, str(loaded.doc_to_text(doc))),
            "target": str(loaded.doc_to_target(doc)),
        }
        for doc in list(loaded.eval_docs)[:count]
    ]


def early_exit_hints(request: Any, names: set[str], full_answers: bool) -> Any:
    """Where an answer may be stopped early, and for which first tokens likelihoods are wanted."""
    from harness.engine.jobs import Hints

    name, doc = request.task_name, request.doc
    if name not in names:
        return Hints()
    wanted = registry().next_token(name, doc)
    decided = None if full_answers else registry().decided(name, doc)
    # The response cache keeps answers that may have been stopped early by the task's rule under the rule's digest.
    rule = f"{name} {earliest_digest(name, score_digest(registry().task(name).path))}" if decided is not None else ""
    reads = registry().task(name).reads if decided is not None else None
    return Hints(decided=decided, choices=wanted[0] if wanted else (), reads=reads, rule=rule)
