"""Which checkpoint to take: by paired tests against the highest score, never the highest score itself.

    scores = Scores(board)
    select_checkpoint(scores, ["runs/x/checkpoint-20", "runs/x/checkpoint-40"], [("pope", "f1")]).model

The highest of several scores is high partly by luck, and the more checkpoints, the more luck (the winner's curse). So
every other checkpoint is compared with the highest, metric by metric, on the same images; p-values are Holm-adjusted
over all these comparisons. A checkpoint that is significantly worse nowhere is as good as the best, and of these the
earliest is taken: it differs least from the base.

A checkpoint that wins by saying less is not taken: one whose guards (see `GuardTest`) are worse than the base's, by any
of the metrics, or most of whose answers are empty. Without a base, checkpoints are held against each other.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from harness.evaluation.guards import counted_from_logs, guards_of
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import match_guards, same_questions, verdict_of
from leaderboards.statistics.looks import Best, best_of
from leaderboards.statistics.resampling import Counted, Record, common
from leaderboards.statistics.verdict import PairedTest, adjusted, guard_test
from support.errors import CompareError, InputError, RecordsError
from tasks.registry import TaskSpec, registry
from trainers.config.recipe import PreferenceRecipe

Metric = tuple[str, str]
"""Task and metric."""


class Scores:
    """What a board has of some models, with the records that paired tests need."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._logs: dict[str, list[Sample]] = {}

    @cached_property
    def entries(self) -> list[Entry]:
        """The current entries of the board, partial runs too."""
        return counted_from_logs(self.board, self.board.current(partial=True))

    @cached_property
    def _of(self) -> dict[tuple[str, str, str], Entry]:
        return {(entry.model, entry.task, entry.metric): entry for entry in self.entries}

    def entry(self, model: str, metric: Metric) -> Entry | None:
        """A model's number, if there is one."""
        return self._of.get((model, *metric))

    def has_value(self, model: str, metric: Metric) -> bool:
        """Whether a model was scored, and its answers gave the metric a value: F1 has none where nothing was found."""
        entry = self.entry(model, metric)
        return entry is not None and entry.value is not None

    def records(self, model: str, metric: Metric) -> list[Record]:
        """What was counted for each answer of a model; none where it was not scored."""
        return [
            sample.records[metric[1]] for sample in self._log(model, metric).values() if metric[1] in sample.records
        ]

    def _log(self, model: str, metric: Metric) -> dict[str, Sample]:
        """A model's samples by id; none where it was not scored."""
        entry = self.entry(model, metric)
        if entry is None:
            return {}
        if entry.run not in self._logs:
            self._logs[entry.run] = self.board.samples(entry.run)
        return {sample.id: sample for sample in self._logs[entry.run] if sample.task == metric[0]}

    def verdict(self, base: str, other: str, metric: Metric) -> PairedTest | None:
        """The paired test of `other`, over all repeats of a judge; None if one has no records. RecordsError: no image
        in common."""
        task, name = metric
        if not self.records(base, metric) or not self.records(other, metric):
            return None
        higher_is_better = registry().task(task).all_metrics[name].higher_is_better
        ours, theirs = self._log(base, metric), self._log(other, metric)
        return verdict_of(
            ours,
            theirs,
            name,
            registry().metric(task, name),
            higher_is_better=higher_is_better,
            guards=guards_of(task, name),
        )

    def fallen(self, base: str, other: str, metric: Metric) -> list[str]:
        """The guards of a metric that `other` has worse than `base`, in words; none where one has no records."""
        if not self.records(base, metric) or not self.records(other, metric):
            return []
        matched = match_guards([self._log(base, metric)], [self._log(other, metric)], guards_of(*metric))
        return [guard.words for guard in map(guard_test, matched) if guard.worse]

    def best(self, models: Sequence[str], metric: Metric) -> Best | None:
        """The best of some models, with its score on images that did not choose it; None where that can't be told."""
        task, name = metric
        spec, counted = registry().task(task).all_metrics[name], registry().metric(task, name)
        try:
            records = same_questions([self._log(model, metric) for model in models], name)
            sides = [Counted(own, counted) for own in records]
            images = common(sides)
            counts = [side.counts(images) for side in sides]
        except (RecordsError, CompareError):  # of each image one model lacks an answer
            return None
        return best_of(counted, counts, sides[0].strata(images), higher_is_better=spec.higher_is_better)

    def panel(self, base: str, other: str, metrics: Sequence[Metric]) -> dict[str, PairedTest]:
        """ "task.metric" -> verdict on `other`, Holm-adjusted over those that both have answers of about one image."""
        verdicts: dict[str, PairedTest] = {}
        for metric in metrics:
            with suppress(RecordsError):  # of each image one side lacks an answer
                verdict = self.verdict(base, other, metric)
                verdicts |= {} if verdict is None else {".".join(metric): verdict}
        return adjusted(verdicts)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The checkpoint to take, and why."""

    model: str | None
    """The earliest that is as good as the best everywhere; None: each is significantly worse than another somewhere, or
    lacks a value."""
    highest: Mapping[str, str]
    """ "task.metric" -> the model of the highest score (the lowest, where lower is better)."""
    worse: Mapping[str, tuple[str, ...]]
    """Model -> metrics by which it is significantly worse than the highest."""
    comparisons: int
    """Tests that Holm's method adjusted for."""
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> metrics of which it has no value; such a model is not ranked."""
    fallen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> guards that are worse; such a model is not ranked."""
    best: Mapping[str, tuple[str, Best]] = field(default_factory=dict)
    """ "task.metric" -> the model of the highest score on the images that all answered, and what the score is worth on
    images that did not choose it."""


def select_checkpoint(
    scores: Scores, models: Sequence[str], metrics: Sequence[Metric], base: str | None = None
) -> Selection:
    """The one of `models` to take, given from the earliest to the latest; one that lacks a score, or whose guards are
    worse than those of `base`, is never taken."""
    verdicts: dict[tuple[str, str], PairedTest] = {}
    highest: dict[str, str] = {}
    without = {
        model: tuple(".".join(metric) for metric in metrics if not scores.has_value(model, metric)) for model in models
    }
    lacking = {model: names for model, names in without.items() if names}
    fallen = _find_fallen(scores, [model for model in models if model not in lacking], metrics, base)
    scored = [model for model in models if model not in lacking and model not in fallen]
    for metric in metrics if scored else ():
        name = ".".join(metric)
        top = highest[name] = _highest(scores, scored, metric)
        for model in scored:
            verdict = None if model == top else scores.verdict(top, model, metric)
            if verdict is not None:
                verdicts[model, name] = verdict
    judged = adjusted(verdicts)
    worse = {
        model: tuple(name for (of, name), verdict in judged.items() if of == model and verdict.outcome == "worse")
        for model in scored
    }
    taken = next((model for model in scored if not worse[model]), None)
    best = {
        ".".join(metric): (scored[found.index], found)
        for metric in (metrics if len(scored) > 1 else ())
        if (found := scores.best(scored, metric)) is not None
    }
    return Selection(
        model=taken, highest=highest, worse=worse, comparisons=len(verdicts), lacking=lacking, fallen=fallen, best=best
    )


def _find_fallen(
    scores: Scores, models: Sequence[str], metrics: Sequence[Metric], base: str | None
) -> dict[str, tuple[str, ...]]:
    """Model -> its guards that are worse than the base's, or without a base, than another model's; and where most of
    its answers are empty."""
    mute = {model: [m[0] for m in metrics if (entry := scores.entry(model, m)) and entry.mute] for model in models}
    found = {
        model: dict.fromkeys(f"{task}: most answers are empty" for task in mute[model])
        | dict.fromkeys(
            f"{metric[0]}: {words}"
            for metric in metrics
            for other in ([base] if base is not None and scores.has_value(base, metric) else models)
            if other != model
            for words in scores.fallen(other, model, metric)
        )
        for model in models
    }
    return {model: tuple(words) for model, words in found.items() if words}


def _highest(scores: Scores, models: Sequence[str], metric: Metric) -> str:
    """Of equal scores the earliest."""
    task, name = metric
    sign = 1.0 if registry().task(task).all_metrics[name].higher_is_better else -1.0
    entries = {model: scores.entry(model, metric) for model in models}
    values = {model: entry.value for model, entry in entries.items() if entry is not None and entry.value is not None}
    return max(values, key=lambda model: sign * values[model])


def headlines(tasks: Sequence[TaskSpec]) -> list[Metric]:
    """The headline metric of each task."""
    return [(task.name, task.headline) for task in tasks]


def tasks_of(recipe: PreferenceRecipe) -> list[TaskSpec]:
    """What a recipe's checkpoints are scored on; InputError where that is nothing."""
    tasks = registry().expand(recipe.tasks)
    if not tasks:
        raise InputError(
            f"recipe {recipe.name!r}: tasks is empty: name what is scored, such as tasks = ['scenes'], or by --tasks"
        )
    return tasks


def panel_of(recipe: PreferenceRecipe, tasks: Sequence[TaskSpec]) -> list[Metric]:
    """The metrics that are tested: the tasks' headline metrics, and the recipe's panel."""
    dotted = ((task, metric) for task, _, metric in (name.partition(".") for name in recipe.panel))
    return list(dict.fromkeys([*headlines(tasks), *dotted]))


def probe(name: str, tasks: Sequence[TaskSpec]) -> Metric:
    """The metric that "task" or "task.metric" names among those that are scored; InputError."""
    task, _, metric = name.partition(".")
    known = {task.name: task for task in tasks}
    if task not in known:
        raise InputError(f"early stop by {name!r}: the recipe scores no such task; known: {', '.join(known)}")
    if metric and metric not in known[task].metrics:
        metrics = ", ".join(f"{task}.{one}" for one in known[task].metrics)
        raise InputError(f"early stop by {name!r}: no such metric; known: {metrics}")
    return task, metric or known[task].headline


def find_tested(name: str, known: Sequence[str]) -> str:
    """Which of `known`, each "task.metric", is meant by "task.metric", or by "task", for its headline; InputError."""
    found = name if name in known else next((one for one in known if one.partition(".")[0] == name), None)
    if found is None:
        raise InputError(f"no verdict on {name!r}; known: {', '.join(known)}")
    return found


def check_names(recipe: PreferenceRecipe, early_stop: Sequence[str] = (), require_better: Sequence[str] = ()) -> None:
    """InputError, before anything is run, for a metric that a run of `recipe` will not have, or where it scores
    nothing."""
    tasks = tasks_of(recipe)
    for name in early_stop:
        probe(name, tasks)
    for name in require_better:
        find_tested(name, [".".join(metric) for metric in panel_of(recipe, tasks)])
