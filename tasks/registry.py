"""What can be scored: every `tasks/**/*.yaml` as a `TaskSpec`, every suite of tasks as a `GroupSpec`.

    registry().expand(["scenes"])                       # the suite's TaskSpecs
    registry().metric("scenes_chair", "chair_s")        # the Metric its YAML names as aggregation

The YAMLs are lm-eval's. lm-eval skips in silence what it can't read and keeps the first of two tasks of one name; here
both raise `TaskError`, which names file and field. Nothing a YAML names is imported before `metric` asks for it, so
listing needs neither torch nor lm_eval. A YAML with neither `task` nor `group` is there for others to `include`, and
says so by a name that starts with "_".
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from support.errors import AnswerFileError, TaskError, UnknownName
from support.extras import extra_of
from tasks.answer_files import OfficialAnswers
from tasks.early_exit import Reads
from tasks.guards import BUILT_IN, DEFAULT, read_guards, read_shortest
from tasks.hub_data import is_pinned
from tasks.metric import Metric
from tasks.outside import Place, add_file, module_of, named_modules, places
from tasks.task_yaml import Fields, load_yaml, read_checked, read_columns_field, read_part

log = logging.getLogger(__name__)

FOLDER: Final = Path(__file__).resolve().parent

NEXT_TOKEN: Final = "next_token_accuracy"
"""The metric of tasks that compare likelihoods of next tokens; it never replaces the official score."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What a metric's number means, without the code that computes it."""

    unit: str
    higher_is_better: bool
    aggregation: str
    """Where its `Metric` is: a dotted name, "tasks.benchmarks.chair.chair_s"."""


_NEXT_TOKEN: Final = MetricSpec(unit="%", higher_is_better=True, aggregation="tasks.early_exit.next_token_accuracy")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model's scores as somebody else reported them, in the units of the task."""

    model: str
    source: str
    scores: Mapping[str, float]
    """By metric."""
    protocol: str = ""
    """Whose wording its questions had; "" where that is not known."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A benchmark as its YAML describes it."""

    name: str
    version: str
    description: str
    headline: str
    """The metric shown where only one is; among `metrics`."""
    metrics: Mapping[str, MetricSpec]
    """In the YAML's order."""
    judged: bool
    official_judge: str | None
    """The judge model the authors' numbers come from; None where there is none."""
    cluster: str
    """Which field of a record says what was drawn by chance: answers about one image are not independent."""
    data: str
    """Dataset id on the hub, or "embedded", or where else it is published."""
    revision: str
    """A commit, where one is known; else a branch."""
    table: Path | None = None
    """The file with its data, of a task from outside that names one."""
    moved_to: str | None = None
    """The dataset's second id on the hub, which is used where the first one can't be read."""
    rows: int | None
    """How many documents the benchmark has."""
    columns: tuple[str, ...]
    """Which columns its data must have."""
    dataset: str | None = None
    """The function that gives its documents: a dotted name."""
    answers: str | None
    """The function that reads answers in the benchmark's own layout, a dotted name; None: there is none."""
    answer_parts: tuple[str, ...] = ()
    """What the name of a file says that has answers to one part of the benchmark (see `answer_files.find_part`)."""
    process_results: str
    """The function that turns an answer into records: a dotted name."""
    judge: str | None
    """The function that has a judge rate all answers: a dotted name; None where the task is not judged."""
    reads_reply: str | None = None
    """The function that reads a judge's reply, which gives None where it holds no rating: a dotted name."""
    decided: str | None = None
    """The function from a document to its early-exit rule (see `tasks.early_exit`): a dotted name."""
    reads: Reads | None = None
    """The part of an answer that decides, where `decided` gives a rule."""
    next_token: str | None = None
    """The function from a document to the next tokens that are compared, and the true one: a dotted name."""
    categories: tuple[str, ...] = ()
    """Fields of a document that say of which category it is, from which a limit draws evenly."""
    together: tuple[str, ...] = ()
    """Fields that documents which are scored together share; empty: each stands for itself."""
    guards: Mapping[str, Mapping[str, float]]
    """Metric -> what must not become worse while it improves, and how far it may (see `tasks.guards`)."""
    shortest: Mapping[str, int]
    """Metric -> the least words of an answer that it counts; an answer of fewer is nearly empty."""
    published: tuple[Published, ...]
    licence: str
    citation: str
    path: Path

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """The dataset's ids on the hub, in the order in which they are tried."""
        return (self.data, *([self.moved_to] if self.moved_to is not None else []))

    @property
    def pinned(self) -> bool:
        """Whether its data can't change under its revision."""
        return self.data == "embedded" or self.table is not None or is_pinned(self.revision)

    @property
    def all_metrics(self) -> Mapping[str, MetricSpec]:
        """Its own, and the second look at likelihoods where it has one."""
        return {**self.metrics, NEXT_TOKEN: _NEXT_TOKEN} if self.next_token is not None else self.metrics


@dataclass(frozen=True, kw_only=True)
class GroupSpec:
    """A suite of tasks."""

    name: str
    tasks: tuple[str, ...]
    """Names of tasks or of other suites, in the YAML's order."""
    path: Path


@dataclass(frozen=True, kw_only=True)
class Registry:
    """All tasks and suites of a folder, by name."""

    tasks: Mapping[str, TaskSpec]
    groups: Mapping[str, GroupSpec]

    def expand(self, names: Sequence[str]) -> list[TaskSpec]:
        """The tasks `names` stand for, in that order, suites taken apart, each task once."""
        return list({task.name: task for name in names for task in self._expand_name(name)}.values())

    def task(self, name: str) -> TaskSpec:
        """The task of this name."""
        try:
            return self.tasks[name]
        except KeyError:
            raise UnknownName("task", name, self.tasks) from None

    def metric(self, task: str, metric: str) -> Metric:
        """The `Metric` that a task names as the aggregation of `metric`; imports it."""
        spec = self.task(task)
        if metric not in spec.all_metrics:
            raise UnknownName(f"metric of {task}", metric, spec.all_metrics)
        dotted = spec.all_metrics[metric].aggregation
        found = self._import_named(spec, f"metric_list: {metric}: aggregation", dotted)
        if not isinstance(found, Metric):
            where = f"{spec.path}: metric_list: {metric}: aggregation {dotted}"
            raise TaskError(f"{where}: is no Metric but {type(found).__name__}")
        return found

    def process_results(self, task: str) -> Callable[[Mapping[str, Any], list[Any]], dict[str, dict[str, Any]]]:
        """The function from (document, [answer]) to a record for each metric; empty if nothing is scored."""
        spec = self.task(task)
        found: Callable[..., Any] = self._import_named(spec, "process_results", spec.process_results)
        return found

    def reads_reply(self, task: str) -> Callable[[str], object] | None:
        """The function from a judge's reply to its rating, None for none; None where the task has no such rule."""
        spec = self.task(task)
        if spec.reads_reply is None:
            return None
        found: Callable[[str], object] = self._import_named(spec, "metadata: reads_reply", spec.reads_reply)
        return found

    def decided(self, task: str, doc: Mapping[str, Any]) -> Callable[[str], bool] | None:
        """The early-exit rule of this document (see `tasks.early_exit`); None: read every answer to its end."""
        spec = self.task(task)
        rule: Callable[[str], bool] | None = (
            None if spec.decided is None else self._import_named(spec, "metadata.decided", spec.decided)(doc)
        )
        return rule

    def next_token(self, task: str, doc: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
        """Which answers to this document are compared as next tokens, and the true one; None where none are."""
        spec = self.task(task)
        if spec.next_token is None:
            return None
        found: tuple[tuple[str, ...], str] | None = self._import_named(spec, "metadata.next_token", spec.next_token)(
            doc
        )
        return found

    def judge(self, task: str) -> Callable[[Sequence[str], Sequence[Mapping[str, Any]], Any], Sequence[Any]]:
        """The function from (answers, documents, `JudgeSession`) to a `JudgeReply` for each answer."""
        spec = self.task(task)
        if spec.judge is None:
            raise TaskError(f"{spec.path}: metadata.judge: missing, and its answers are to be judged")
        found: Callable[..., Any] = self._import_named(spec, "metadata.judge", spec.judge)
        return found

    def guards(self, task: str, metric: str) -> dict[str, tuple[Metric, float]]:
        """Guard -> its `Metric`, and how far it may move the wrong way; those of every metric, too."""
        spec = self.task(task)
        if metric not in spec.all_metrics:
            raise UnknownName(f"metric of {task}", metric, spec.all_metrics)
        own = spec.guards.get(metric, {})
        found: dict[str, tuple[Metric, float]] = {}
        for name, allowed in {**own, **{name: DEFAULT[name] for name in DEFAULT if name not in own}}.items():
            if name in BUILT_IN:
                found[name] = BUILT_IN[name], allowed
            elif name in spec.metrics:
                found[name] = self.metric(task, name), allowed
            else:
                found[name] = self._import_named(spec, f"metadata.guards.{metric}", name), allowed
        return found

    def official_answers(self, task: str) -> Callable[[Path, Path | None], OfficialAnswers]:
        """The function that reads answers to the task in the benchmark's own layout."""
        spec = self.task(task)
        if spec.answers is None:
            raise AnswerFileError(f"{task}: answers to it come in no layout but our own sample log (.parquet)")
        found: Callable[..., Any] = self._import_named(spec, "metadata.answers", spec.answers)
        return found

    @staticmethod
    def _import_named(spec: TaskSpec, field: str, dotted: str) -> Any:
        module, _, attribute = dotted.rpartition(".")
        try:
            return getattr(module_of(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            if isinstance(error, ModuleNotFoundError) and extra_of(error.name) is not None:
                raise  # a package of an extra, not a mistake in the task
            raise TaskError(f"{spec.path}: {field} {dotted}: {error}") from error

    def _expand_name(self, name: str) -> Iterator[TaskSpec]:
        if name in self.tasks:
            yield self.tasks[name]
        elif name in self.groups:
            for member in self.groups[name].tasks:
                yield from self._expand_name(member)
        else:
            raise UnknownName("task", name, {**self.tasks, **self.groups})


def registry(folder: Path = FOLDER) -> Registry:
    """The registry of `folder`, read once a process; ours with the tasks from outside (see `tasks.outside`)."""
    found, others = _read_folder(folder.resolve()), places() if folder == FOLDER else ()
    return _read_outside(others) if others else found


def add_task(path: Path) -> TaskSpec:
    """The task of a YAML file that is not among ours, from now on known by its name; TaskError."""
    own = path.resolve()
    spec = _read_spec(own, load_yaml(own))
    if not isinstance(spec, TaskSpec):
        raise TaskError(f"{path}: task: must be the name of one task")
    if not own.is_relative_to(FOLDER):
        add_file(own)
    return registry().task(spec.name)


@cache
def _read_outside(others: tuple[Place, ...]) -> Registry:
    """Our registry with all that is in other places; TaskError for a name that is taken."""
    ours = _read_folder(FOLDER)
    tasks, groups = dict(ours.tasks), dict(ours.groups)
    for path in dict.fromkeys(path for place in others for path in place.files):
        config = load_yaml(path)
        if not config.keys() & {"task", "group", "metric_list", "include"} and not path.name.startswith("_"):
            log.warning("%s: has neither task nor group: passed over", path)
            continue
        list(named_modules(config))  # raises where one has a name that is taken
        _add_spec(_read_spec(path, config), tasks, groups)
    for group in groups.values():
        _check_members(group, tasks, groups)
    return Registry(tasks=tasks, groups=groups)


def _add_spec(spec: TaskSpec | GroupSpec | None, tasks: dict[str, TaskSpec], groups: dict[str, GroupSpec]) -> None:
    if spec is None:
        return
    if (other := tasks.get(spec.name) or groups.get(spec.name)) is not None:
        raise TaskError(f"{spec.path}: the name {spec.name!r} is taken by {other.path}")
    if isinstance(spec, TaskSpec):
        tasks[spec.name] = spec
    else:
        groups[spec.name] = spec


@cache
def _read_folder(folder: Path) -> Registry:
    tasks: dict[str, TaskSpec] = {}
    groups: dict[str, GroupSpec] = {}
    for path in sorted(folder.rglob("*.yaml")):
        _add_spec(_read_spec(path, load_yaml(path)), tasks, groups)
    for group in groups.values():
        _check_members(group, tasks, groups)
    return Registry(tasks=tasks, groups=groups)


def _read_spec(path: Path, config: Mapping[str, Any]) -> TaskSpec | GroupSpec | None:
    fields = Fields(path=path, where="", values=config)
    if "group" in config:
        members = fields.get("task")
        if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
            raise fields.error("task", f"must be a list of names in a group, is {members!r}")
        return GroupSpec(name=fields.text("group"), tasks=tuple(members), path=path)
    if "task" in config:
        return _read_task(fields)
    if path.name.startswith("_"):
        return None
    raise fields.error("task", "missing (a YAML that is only included has a name that starts with '_')")


def _read_task(fields: Fields) -> TaskSpec:
    metadata, name = Fields.of(fields.path, "metadata", fields.get("metadata")), fields.get("task")
    uses_loader = fields.values.get("custom_dataset") == "tasks.documents.load"
    if uses_loader and fields.values.get("dataset_kwargs") != {"task": name}:
        raise fields.error("dataset_kwargs", f"must be {{task: {name}}}: the loader knows the task by it")
    metrics = _read_metrics(fields, Fields.of(fields.path, "metadata.units", metadata.get("units")))
    headline = metadata.text("headline")
    if headline not in metrics:
        raise metadata.error("headline", f"{headline!r} is not among the metrics {', '.join(metrics)}")
    return TaskSpec(
        name=fields.text("task"),
        version=metadata.text("version"),
        description=metadata.text("description"),
        headline=headline,
        metrics=metrics,
        judged=metadata.flag("judged"),
        official_judge=metadata.text_or_null("official_judge"),
        cluster=metadata.text("cluster"),
        data=metadata.text("data"),
        revision=metadata.text("revision"),
        table=fields.path.parent / metadata.text("table") if "table" in metadata.values else None,
        moved_to=metadata.text("moved_to") if "moved_to" in metadata.values else None,
        rows=metadata.count_or_null("rows"),
        columns=read_columns_field(metadata),
        dataset=fields.text("custom_dataset") if "custom_dataset" in fields.values else None,
        answers=metadata.text_or_null("answers"),
        answer_parts=metadata.texts("answer_parts") if "answer_parts" in metadata.values else (),
        process_results=fields.text("process_results"),
        judge=_read_judge_function(fields, metadata),
        reads_reply=metadata.text("reads_reply") if "reads_reply" in metadata.values else None,
        decided=metadata.text("decided") if "decided" in metadata.values else None,
        reads=read_part(metadata) if "reads" in metadata.values else None,
        next_token=metadata.text("next_token") if "next_token" in metadata.values else None,
        categories=metadata.texts("categories") if "categories" in metadata.values else (),
        together=metadata.texts("together") if "together" in metadata.values else (),
        guards=read_checked(read_guards, metadata, metrics),
        shortest=read_checked(read_shortest, metadata, metrics),
        published=_read_published(metadata, metrics),
        licence=metadata.text("licence"),
        citation=metadata.text("citation"),
        path=fields.path,
    )


def _read_judge_function(fields: Fields, metadata: Fields) -> str | None:
    if fields.values.get("filter_list"):
        raise fields.error("filter_list", "answers are scored as they are: read them in process_results")
    if not metadata.flag("judged"):
        return None
    return metadata.text("judge")


def _read_published(metadata: Fields, metrics: Collection[str]) -> tuple[Published, ...]:
    rows = metadata.get("published")
    if not isinstance(rows, list):
        raise metadata.error("published", f"must be a list, is {rows!r}")
    found = []
    for position, value in enumerate(rows):
        row = Fields.of(metadata.path, f"metadata.published[{position}]", value)
        scores = Fields.of(metadata.path, f"metadata.published[{position}].scores", row.get("scores"))
        for metric, score in scores.values.items():
            if metric not in metrics:
                raise scores.error(metric, f"no such metric; there are {', '.join(metrics)}")
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                raise scores.error(metric, f"must be a number, is {score!r}")
        protocol = row.text("protocol") if "protocol" in row.values else ""
        found.append(
            Published(model=row.text("model"), source=row.text("source"), scores=scores.values, protocol=protocol)
        )
    return tuple(found)


def _read_metrics(fields: Fields, units: Fields) -> dict[str, MetricSpec]:
    entries = fields.get("metric_list")
    if not isinstance(entries, list) or not entries:
        raise fields.error("metric_list", f"must be a list, is {entries!r}")
    metrics: dict[str, MetricSpec] = {}
    for position, value in enumerate(entries):
        entry = Fields.of(fields.path, f"metric_list[{position}]", value)
        name = entry.text("metric")
        if name in metrics:
            raise entry.error("metric", f"{name!r} is there twice")
        aggregation = entry.text("aggregation")
        if "." not in aggregation:
            raise entry.error("aggregation", f"must name a Metric in full (!function tasks.x.y), is {aggregation!r}")
        higher = entry.flag("higher_is_better")
        metrics[name] = MetricSpec(unit=units.text(name), higher_is_better=higher, aggregation=aggregation)
    for name in units.values:
        if name not in metrics:
            raise units.error(name, f"no such metric; there are {', '.join(metrics)}")
    return metrics


def _check_members(
    group: GroupSpec, tasks: Mapping[str, TaskSpec], groups: Mapping[str, GroupSpec], above: tuple[str, ...] = ()
) -> None:
    """Every member exists, and no group is inside itself."""
    for name in group.tasks:
        if name in groups:
            if name in (*above, group.name):
                raise TaskError(f"{group.path}: task: {name!r} contains itself")
            _check_members(groups[name], tasks, groups, (*above, group.name))
        elif name not in tasks:
            raise TaskError(f"{group.path}: task: {UnknownName('task', name, {**tasks, **groups})}")
