"""What a run needs, looked at before it starts: all that is missing, in one list, with what brings it.

    found = look_at_run(tasks, judge, settings, models=specs)    # data, pictures, judge, models, keys, room on disks
    found.require()                                              # NotReady names all that is missing

Nothing is downloaded, generated or paid for here. Local data that are read on the way are not read again.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from harness.evaluation.benchmark_data import DataStatus, data_of, look_at
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.make_judge import check_judge
from harness.models.disk_use import DiskUse
from harness.models.readiness import FoundModels, look_at_models
from harness.models.spec import ModelSpec
from harness.serving.served_judge import ServedJudge
from harness.serving.settings import ServerSettings
from support.errors import USAGE, Need, NoJudgeError, NotReady, ServerError, SettingError
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

LOST: Final = 0.05
"""Share of documents without their picture, from which on a run would end as failed anyway."""


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What a run lacks, and what it takes of the disks."""

    needs: tuple[Need, ...]
    disk: DiskUse
    """Bytes that are to be downloaded and converted."""
    unsized: tuple[str, ...] = ()
    """What is to be downloaded, of a size that is not known."""

    def require(self) -> None:
        """NotReady where anything is missing."""
        if self.needs:
            raise NotReady(self.needs)


def look_at_run(
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings,
    *,
    models: Sequence[ModelSpec] = (),
    more: Iterable[Need] = (),
    server: ServerSettings | None = None,
    most_lost: float = LOST,
    judged: bool = True,
) -> Readiness:
    """What is missing for scoring these models on these tasks, and room for it. `more` is what else is missing,
    `server` what serves the models, `most_lost` the share of a task's documents that may lack their picture; not
    `judged`: answers are not rated."""
    keep = settings.split is None
    asked: Any = {"partial": settings.partial_data, "limit": settings.limit, "seed": settings.seed, "keep": keep}
    data = [look_at(task, settings.data, **asked) for task in tasks]
    needs = [need for status in data for need in (*status.needs, *_lost_pictures(status, most_lost))]
    judges = [judge.spec] if isinstance(judge, ServedJudge) else []
    found = with_data(look_at_models([*models, *judges]), data)
    needs += [*found.needs, *needs_of_servers(server, judge), *more]
    needs += needs_of_judge(judge, tasks, settings) if judged else []
    needs += found.room()
    return Readiness(needs=tuple(dict.fromkeys(needs)), disk=found.disk, unsized=found.unsized)


def with_data(found: FoundModels, data: Iterable[DataStatus]) -> FoundModels:
    """The same with what is to be downloaded of the tasks' data."""
    uses, unsized = dict(found.uses), list(found.unsized)
    for status in data:
        if status.download is None:
            unsized.append(data_of(status.task))
        elif status.download:
            uses[data_of(status.task)] = DiskUse(download=status.download, convert=0, kept=status.download)
    return replace(found, uses=uses, unsized=tuple(unsized))


def needs_of_judge(judge: Judge | None, tasks: Sequence[TaskSpec], settings: EvalSettings) -> list[Need]:
    """A judge, where this one can't rate all tasks that need one."""
    try:
        check_judge(judge, tasks, official_prompts=settings.official_prompts)
    except (SettingError, NoJudgeError) as error:
        found = Need.of(error)
        return [found if found.command else replace(found, command="name one by --judge")]
    return []


def needs_of_servers(server: ServerSettings | None, judge: Judge | None = None) -> list[Need]:
    """The programs that are to serve the models and the judge, where they are not installed."""
    asked = [server, judge.host.settings if isinstance(judge, ServedJudge) else None]
    needs = []
    for settings in filter(None, asked):
        try:
            settings.find_program()
        except ServerError as error:
            needs.append(replace(Need.of(error), code=USAGE))
    return list(dict.fromkeys(needs))


def _lost_pictures(status: DataStatus, most_lost: float) -> Iterator[Need]:
    if status.documents and status.lost > most_lost * status.documents:
        why = f"{status.lost:,} of {status.documents:,} documents lack their picture in {status.where}"
        command = f"harness data check {status.task} says where they are from"
        yield Need(what=f"pictures of {status.task}", why=why, command=command)
