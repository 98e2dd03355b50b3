"""What a run needs, looked at before it starts: all that is missing, in one list, with what brings it.

    require_ready(tasks, judge, settings, models=specs)      # NotReady names data, pictures, judge, weights, disk

Nothing is downloaded, generated or paid for here. Local data that are read on the way are not read again.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from harness.evaluation.benchmark_data import DataStatus, look_at
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.make_judge import check_judge
from harness.models.disk_use import DiskUse, needs_of_room, use_of
from harness.models.fetch import cached
from harness.models.hub import SECONDS, ask_hub
from harness.models.spec import ModelSpec, copy_option
from harness.serving.served_judge import ServedJudge
from harness.serving.settings import ServerSettings
from support.errors import Need, NoJudgeError, NotReady, ServerError, SettingError
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

LOST: Final = 0.05
"""Share of documents without their picture, from which on a run would end as failed anyway."""


def require_ready(
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings,
    *,
    models: Sequence[ModelSpec] = (),
    more: Iterable[Need] = (),
) -> None:
    """NotReady where anything is missing for scoring these models on these tasks; `more` is what else is."""
    needs = [*find_needs(tasks, settings), *needs_of_models(models), *more, *needs_of_judge(judge, tasks, settings)]
    if needs:
        raise NotReady(list(dict.fromkeys(needs)))


def find_needs(tasks: Sequence[TaskSpec], settings: EvalSettings, *, most_lost: float = LOST) -> list[Need]:
    """What is missing of the tasks' data."""
    keep = settings.split is None
    asked: Any = {"partial": settings.partial_data, "limit": settings.limit, "seed": settings.seed, "keep": keep}
    found = [look_at(task, settings.data, **asked) for task in tasks]
    return [need for status in found for need in (*status.needs, *_lost_pictures(status, most_lost))]


def needs_of_judge(judge: Judge | None, tasks: Sequence[TaskSpec], settings: EvalSettings) -> list[Need]:
    """A judge, where this one can't rate all tasks that need one."""
    try:
        check_judge(judge, tasks, official_prompts=settings.official_prompts)
    except (SettingError, NoJudgeError) as error:
        what, _, words = str(error).partition(": ")
        why, _, command = words.partition("; ")
        return [Need(what=what, why=why, command=command or "name one by --judge")]
    return []


def needs_of_servers(server: ServerSettings | None, judge: Judge | None = None) -> list[Need]:
    """The programs that are to serve the models and the judge, where they are not installed."""
    asked = [server, judge.host.settings if isinstance(judge, ServedJudge) else None]
    needs = []
    for settings in filter(None, asked):
        try:
            settings.find_program()
        except ServerError as error:
            what, _, words = str(error).partition(": ")
            why, _, command = words.partition("; ")
            needs.append(Need(what=what, why=why, command=command))
    return list(dict.fromkeys(needs))


def _lost_pictures(status: DataStatus, most_lost: float) -> Iterator[Need]:
    if status.documents and status.lost > most_lost * status.documents:
        why = f"{status.lost:,} of {status.documents:,} documents lack their picture in {status.where}"
        command = f"harness data check {status.task} says where they are from"
        yield Need(what=f"pictures of {status.task}", why=why, command=command)


def look_at_disk(spec: ModelSpec) -> DiskUse | None:
    """What getting a model will take of the disks; None where its files' sizes are not known. NotReady without room."""
    if spec.backend != "transformers":
        return None
    info = None
    if not Path(spec.pretrained).is_dir() and not cached(spec):
        info = _ask_about(spec)[1]
    use = use_of(spec, info)
    if use is not None and (needs := list(needs_of_room(spec, use))):
        raise NotReady(needs)
    return use


def _ask_about(spec: ModelSpec) -> tuple[str, Any]:
    return ask_hub(
        lambda hub: hub.model_info(spec.pretrained, revision=spec.revision, timeout=SECONDS, files_metadata=True)
    )


def needs_of_models(models: Sequence[ModelSpec]) -> list[Need]:
    """What is missing of the weights, and of room for them; nothing is asked about those that are here."""
    needs: list[Need] = []
    for spec in {(spec.pretrained, spec.revision): spec for spec in models}.values():
        if spec.backend != "transformers":
            continue
        if not Path(spec.pretrained).is_dir() and not cached(spec):
            needs += _needs_of_weights(spec)
        elif (use := use_of(spec)) is not None:
            needs += needs_of_room(spec, use)
    return needs


def _needs_of_weights(spec: ModelSpec) -> Iterator[Need]:
    option = f"{copy_option(spec)} FOLDER"
    if spec.needs:
        yield Need(what=f"weights of {spec.name}", why=f"it needs {spec.needs}", command=option)
        return
    why, info = _ask_about(spec)
    if why:
        size = f" (about {spec.gigabytes:g} GB)" if spec.gigabytes else ""
        command = f"hf download {spec.pretrained} where there is a network, or {option}"
        yield Need(what=f"weights of {spec.name}", why=f"{spec.pretrained}{size}: {why}", command=command)
        return
    about = int((spec.gigabytes or 0) * 1e9)
    yield from needs_of_room(spec, use_of(spec, info) or DiskUse(download=about, convert=0, kept=about))
